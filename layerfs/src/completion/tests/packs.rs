//! Boot packs that say something else than the layers.

use jaunt_formats::boot::{Extent, PACK_LEVEL, Pack, PackWriter};
use jaunt_formats::launch::{Blob, Compression};
use jaunt_formats::{DiffId, Digest, TarOffset};

use super::*;
use crate::boot::{Boot, Expected, Loaded, NamedPack};
use crate::fs::{Condemned, Ino};
use crate::layers::Layers;
use crate::source::MemorySource;
use crate::store::LargeFiles;

/// Where the pack has something of the first layer: some of the content of `/large`.
const PACKED: std::ops::Range<usize> = 400_000..600_000;

/// An image mounted with a pack that has these bytes of its first layer.
struct Packed {
    image: Image,
    store: Arc<Store>,
    fs: Arc<LayerFs>,
    boot: Arc<Boot>,
}

impl Packed {
    async fn new(image: Image, packed: &[u8], others: &[Arc<dyn Source>]) -> Self {
        let store = image.store();
        let mut pack = PackWriter::new(image.index, PACK_LEVEL).unwrap();
        let len = u32::try_from(packed.len()).unwrap();
        pack.push(Extent { layer: 0, tar_offset: TarOffset(PACKED.start as u64), len }, packed).unwrap();
        let Pack { bytes, table } = pack.finish().unwrap();
        let named = NamedPack { digest: Digest::of(&bytes), len: bytes.len() as u64, table, learnt: true };
        let source = Arc::new(MemorySource::new([(named.digest, bytes.into())]));
        let expected = std::future::ready(Some(image.expected()));
        let (boot, layers) = (Arc::new(Boot::default()), Layers::new(store.clone(), NOT_AHEAD()));
        let loaded = boot.load(named, source, &layers, &image.shelf(), expected).await;
        assert_eq!(loaded.unwrap(), Loaded::Whole);
        let sources = [&[image.source()], others].concat();
        let fs = image.mount_booted(&store, &sources, boot.clone());
        Self { image, store, fs, boot }
    }

    fn large(&self) -> Ino {
        *self.fs.paths().iter().find(|(_, path)| path.ends_with("/large")).unwrap().0
    }

    /// What a reader gets of the range of `/large` that the pack has, and the first layer's tar there.
    async fn read(fs: &LayerFs, large: Ino, tar: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let content = tar.windows(16).rposition(|bytes| bytes.starts_with(b"large\0\0")).unwrap() + 512;
        let (offset, len) = ((PACKED.start - content) as u64, PACKED.len() as u32);
        let read = match fs.read_local(large, offset, len).unwrap() {
            Some(bytes) => bytes,
            None => fs.read(large, offset, len).await.unwrap(),
        };
        (read, tar[PACKED].to_vec())
    }

    fn forgets_the_pack(&self) -> bool {
        let condemned = self.fs.condemned();
        condemned.contains(&Condemned::Pack) && self.fs.files_of(&condemned).any(|ino| ino == self.large())
    }
}

impl Image {
    fn shelf(&self) -> std::path::PathBuf {
        self.directory.path().join("shelf")
    }

    fn expected(&self) -> Expected {
        let index = crate::index_file::open_index(&self.directory.path().join("index")).unwrap();
        let large = LargeFiles::of_layers(&index);
        Expected { index: self.index, layers: self.layers.iter().cloned().zip(large).collect() }
    }

    fn mount_booted(&self, store: &Arc<Store>, sources: &[Arc<dyn Source>], boot: Arc<Boot>) -> Arc<LayerFs> {
        let fs = Arc::into_inner(self.mount(store, sources)).unwrap();
        Arc::new(fs.with_boot(Some(boot)))
    }
}

#[tokio::test]
async fn a_pack_that_differs_from_its_layers_is_dropped_and_forgotten() {
    let tars = tars();
    let mut forged = tars[0][PACKED].to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let packed = Packed::new(Image::new(&tars), &forged, &[]).await;
    let large = packed.large();
    let (read, right) = Packed::read(&packed.fs, large, &tars[0]).await;
    assert!(read == forged && read != right, "nobody knows yet");
    assert!(packed.fs.condemned().is_empty());
    let mut spoilt = packed.store.spoilt();
    spoilt.mark_unchanged();
    let completion = Completion::new(packed.store.clone(), AT_ONCE);
    completion.add(&packed.fs, packed.image.index);
    eventually("complete", || checked(&completion)).await;
    assert!(packed.forgets_the_pack() && spoilt.has_changed().unwrap());
    assert!(!packed.image.shelf().exists(), "also for the next process");
    // The layers are what they are. Were they not, nothing of the pack would be read all the same.
    assert!(packed.store.quarantined().is_empty());
    let (read, right) = Packed::read(&packed.fs, large, &tars[0]).await;
    assert!(read == right);
    assert!(packed.boot.read(0, &packed.fs.layers()[0], &(500_000..500_001)).is_none());
}

#[tokio::test]
async fn a_pack_that_is_right_stays() {
    let tars = tars();
    let packed = Packed::new(Image::new(&tars), &tars[0][PACKED], &[]).await;
    let completion = Completion::new(packed.store.clone(), AT_ONCE);
    completion.add(&packed.fs, packed.image.index);
    eventually("complete", || checked(&completion)).await;
    assert!(packed.fs.condemned().is_empty() && packed.fs.boot_to_compare().is_none());
    assert_eq!(packed.boot.figures().used_bytes, 0, "a comparison is no use of it");
    let again = Boot::open(&packed.image.shelf(), packed.image.index, &packed.image.layers).unwrap();
    assert!(again.read(0, &packed.fs.layers()[0], &(500_000..500_001)).is_some());
}

/// doc/SEMANTICS.md K3: a pack brings nothing of a layer in quarantine, whether the process found that out or the one before it.
#[tokio::test]
async fn a_pack_brings_nothing_of_a_layer_in_quarantine() {
    let tars = vec![tars().remove(0)];
    let mut forged = tars.clone();
    forged[0][PACKED][7] ^= 1;
    let image = Image::lying(&forged, |layer, _| {
        let (digest, len) = (Digest::of(&tars[0]), tars[0].len() as u64);
        layer.diff_id = DiffId(digest);
        layer.original = Blob { digest, len, compression: Compression::None };
    });
    let original = [(image.layers[0].original.digest, tars[0].clone().into())];
    let original: Arc<dyn Source> = Arc::new(MemorySource::named("original", original));
    let packed = Packed::new(image, &forged[0][PACKED], std::slice::from_ref(&original)).await;
    let large = packed.large();
    let (read, right) = Packed::read(&packed.fs, large, &tars[0]).await;
    assert!(read != right, "nobody knows yet");
    let shelf = std::fs::read(packed.image.shelf()).unwrap();

    // Before anything has dropped the shelf, and with one that came back.
    packed.fs.layers()[0].file().quarantine("its tar is another").unwrap();
    assert!(!packed.boot.is_distrusted());
    let (read, right) = Packed::read(&packed.fs, large, &tars[0]).await;
    assert!(read == right);
    let completion = Completion::new(packed.store.clone(), AT_ONCE);
    completion.add(&packed.fs, packed.image.index);
    eventually("complete", || checked(&completion)).await;
    assert!(packed.forgets_the_pack() && !packed.image.shelf().exists());
    let Packed { image, store, fs, .. } = packed;
    drop((completion, store, fs));

    std::fs::write(image.shelf(), shelf).unwrap();
    let boot = Boot::open(&image.shelf(), image.index, &image.layers).unwrap();
    std::fs::remove_dir_all(image.directory.path().join("layers").join(image.layers[0].diff_id.0.hex()))
        .unwrap();
    let fs = image.mount_booted(&image.store(), &[image.source(), original], Arc::new(boot));
    let (read, right) = Packed::read(&fs, large, &tars[0]).await;
    assert!(read == right);
}

#[tokio::test]
async fn the_pack_of_an_index_in_quarantine_is_dropped() {
    let tars = tars();
    let image = Image::lying(&tars, |_, entries| entries[0].mode = 0o4755);
    let packed = Packed::new(image, &tars[0][PACKED], &[]).await;
    let completion = Completion::new(packed.store.clone(), AT_ONCE);
    completion.add(&packed.fs, packed.image.index);
    eventually("noted", || packed.store.quarantined_index(&packed.image.index).is_some()).await;
    assert!(packed.forgets_the_pack() && !packed.image.shelf().exists());
}
