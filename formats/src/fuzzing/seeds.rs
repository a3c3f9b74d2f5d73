//! The inputs that corpora grow from: small ones of every kind, good and odd.

use std::fs;
use std::path::Path;

use crate::boot::{Extent, PACK_LEVEL, Pack, PackWriter};
use crate::compression::FrameDecoder;
use crate::elf::sample::{KINDS, Kind};
use crate::fuzzing::layer::{convert, launch_layer};
use crate::launch;
use crate::media_type::{CHUNKED_MANIFEST_CHECKSUM, CHUNKED_MANIFEST_POSITION, CHUNKED_TARSPLIT_POSITION};
use crate::tar::odd::odd_tars;
use crate::tree::TreeBuilder;
use crate::zstd_chunked::{Annotations, ConvertedLayer, FOOTER_LEN, Footer, Position};
use crate::{Digest, TarOffset};

/// A tar beyond this teaches a fuzzer nothing that a shorter one does not.
const LONGEST: usize = 16 << 10;

#[test]
#[ignore = "writes formats/fuzz/corpus: see CONTRIBUTING.md"]
fn write_the_seeds() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, name, bytes) in seeds() {
        fs::create_dir_all(corpora.join(target)).unwrap();
        fs::write(corpora.join(target).join(format!("seed-{name}")), bytes).unwrap();
    }
}

fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut converted = Vec::new();
    for (name, tar) in odd_tars().into_iter().filter(|(_, tar)| tar.len() <= LONGEST) {
        let name = name.replace(' ', "-").to_lowercase();
        let (blob, layer) = convert(&tar, 3).unwrap();
        if let Some(annotations) = Annotations::parse(&layer.annotations).unwrap() {
            seeds.extend(of_documents(&name, &blob, &layer, &annotations));
        }
        seeds.push(("seek_table", name.clone(), blob[blob.len().saturating_sub(200)..].to_vec()));
        seeds.push(("tar", name.clone(), tar.clone()));
        seeds.push(("layer", name, tar));
        converted.push(layer);
    }
    for (number, layers) in converted.chunks(5).enumerate() {
        seeds.extend(of_index(number, layers));
    }
    seeds.extend(words());
    seeds.extend(signatures());
    seeds.extend(packs());
    seeds.extend(programs());
    seeds
}

fn programs() -> Vec<(&'static str, String, Vec<u8>)> {
    let name = |kind: &Kind| {
        let (class, order) = (if kind.is_64 { 64 } else { 32 }, if kind.is_big { "big" } else { "little" });
        format!("{class}-{order}-endian")
    };
    KINDS.iter().map(|kind| ("elf", name(kind), kind.program())).collect()
}

fn of_documents(
    name: &str,
    blob: &[u8],
    layer: &ConvertedLayer,
    annotations: &Annotations,
) -> Vec<(&'static str, String, Vec<u8>)> {
    let tar_split = annotations.tar_split.unwrap();
    let document = |at: &Position| {
        let start = usize::try_from(at.offset.0).unwrap();
        let compressed = &blob[start..start + usize::try_from(at.len).unwrap()];
        FrameDecoder::new().decode_to_vec(compressed, usize::try_from(at.raw_len).unwrap()).unwrap()
    };
    let (toc, split) = (document(&annotations.toc), document(&tar_split));
    let text = String::from_utf8(toc.clone()).unwrap();
    let start = text.find('[').unwrap();
    let entries = &text[start..=text.rfind(']').unwrap()];
    let len = u16::try_from(entries.len()).unwrap();
    let foreign = [&len.to_le_bytes()[..], entries.as_bytes(), &split].concat();
    let keys = [CHUNKED_MANIFEST_CHECKSUM, CHUNKED_MANIFEST_POSITION, CHUNKED_TARSPLIT_POSITION];
    let lines = keys.map(|key| layer.annotations[key].clone()).join("\n");
    let footer: [u8; FOOTER_LEN] = Footer { toc: annotations.toc, tar_split }.to_bytes();
    [("toc", toc), ("foreign", foreign), ("annotations", lines.into_bytes()), ("footer", footer.to_vec())]
        .map(|(target, bytes)| (target, name.to_owned(), bytes))
        .into()
}

fn of_index(number: usize, layers: &[ConvertedLayer]) -> Vec<(&'static str, String, Vec<u8>)> {
    let mut laid = Vec::new();
    for layer in layers {
        if TreeBuilder::new().push_log(&layer.entries).is_ok() {
            laid.push(layer);
        }
    }
    let mut tree = TreeBuilder::new();
    laid.iter().for_each(|layer| tree.push_log(&layer.entries).unwrap());
    let records: Vec<_> = laid.iter().map(|layer| launch_layer(layer)).collect();
    let index = launch::write(&records, tree.finish()).unwrap();
    vec![
        ("launch_index_packed", format!("image-{number}"), launch::pack(&index).unwrap()),
        ("launch_index", format!("image-{number}"), index),
    ]
}

fn words() -> Vec<(&'static str, String, Vec<u8>)> {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let pinned = format!("registry.example:5000/a/b__c:v1.0-x@{digest}");
    let words = ["alpine", "localhost/a:t", "[::1]:5000/a", "linux/arm64/v8", &digest, &pinned];
    words.iter().enumerate().map(|(n, word)| ("reference", n.to_string(), word.as_bytes().to_vec())).collect()
}

fn signatures() -> Vec<(&'static str, String, Vec<u8>)> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cosign/testdata");
    let files = fs::read_dir(testdata).unwrap().map(|entry| entry.unwrap().path());
    let seed = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let target = if name.ends_with(".json") { "cosign_manifest" } else { "cosign_key" };
        (target, name, fs::read(path).unwrap())
    };
    files.map(seed).collect()
}

fn packs() -> Vec<(&'static str, String, Vec<u8>)> {
    let seed = |number: u32| {
        let mut pack = PackWriter::new(Digest::of(b"index"), PACK_LEVEL).unwrap();
        for at in 0..number {
            let content = vec![u8::try_from(at).unwrap(); 500 * (at as usize + 1)];
            let len = u32::try_from(content.len()).unwrap();
            let offset = TarOffset(u64::from(number - at) << 20);
            pack.push(Extent { layer: 0, tar_offset: offset, len }, &content).unwrap();
        }
        let Pack { bytes, table } = pack.finish().unwrap();
        let len = u16::try_from(table.len()).unwrap().to_le_bytes();
        ("boot_pack", format!("extents-{number}"), [&len[..], &bytes].concat())
    };
    [0, 1, 2, 20].map(seed).into()
}
