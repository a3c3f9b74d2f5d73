//! Files that nobody touches: what an image has that a start does not need.

use jaunt_formats::{DiffId, Digest};
use jaunt_tests::Dice;
use jaunt_tests::error::{At as _, Result};
use jaunt_tests::image::BuiltLayer;

/// Sizes lie between these, as many in each octave: 600 KB on average.
const SMALLEST: u32 = 4 << 10;
const OCTAVES: u32 = 10;
/// Content that compresses to half: so much by chance, then as much of nothing.
const BLOCK: usize = 2 << 10;

/// A layer with files of so many gigabytes in all, below one directory.
pub fn layer(gigabytes: f64) -> Result<BuiltLayer> {
    let mut dice = Dice::new(1);
    let mut tar = tar::Builder::new(Vec::new());
    let (mut left, mut number) = (gigabytes * 1e9, 0_u32);
    while left > 0.0 {
        let octave = SMALLEST << (dice.below(OCTAVES.into()));
        let size = octave + u32::try_from(dice.below(octave.into())).unwrap_or_default();
        let mut header = tar::Header::new_ustar();
        header.set_size(size.into());
        header.set_mode(0o644);
        let name = format!("padding/{}/{number}", number / 100);
        tar.append_data(&mut header, &name, &*content(&mut dice, size)).at(&name)?;
        left -= f64::from(size);
        number += 1;
    }
    let bytes = tar.into_inner().at("the padding")?;
    let diff_id = DiffId(Digest::of(&bytes));
    Ok(BuiltLayer { media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(), bytes, diff_id })
}

fn content(dice: &mut Dice, size: u32) -> Vec<u8> {
    let size = usize::try_from(size).unwrap_or_default();
    let mut bytes = vec![0; size];
    for block in bytes.chunks_mut(2 * BLOCK) {
        let half = block.len().min(BLOCK);
        for word in block[..half].chunks_mut(8) {
            word.copy_from_slice(&dice.roll().to_le_bytes()[..word.len()]);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_as_large_as_asked_for_and_always_the_same() {
        let (one, other) = (layer(0.02).unwrap(), layer(0.02).unwrap());
        assert_eq!(one.diff_id, other.diff_id);
        assert!((20_000_000..26_000_000).contains(&one.bytes.len()), "{}", one.bytes.len());
        let compressed = zstd::encode_all(&one.bytes[..], 1).unwrap().len() as f64;
        assert!((0.45..0.6).contains(&(compressed / one.bytes.len() as f64)));
    }
}
