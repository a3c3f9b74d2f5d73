//! Boot packs: the table read, compared with an index, and the frames decoded to what it says.

use crate::boot::BootPack;
use crate::compression::FrameDecoder;

/// Frames that are decoded.
const FRAMES: usize = 8;

/// A pack: `u16` length of its table, the table, the frames.
pub fn boot_pack(data: &[u8]) {
    let Some((len, blob)) = data.split_first_chunk::<2>() else { return };
    let table = &blob[..usize::from(u16::from_le_bytes(*len)).min(blob.len())];
    let Ok(pack) = BootPack::read(table) else { return };
    assert_eq!(pack.table_len(), table.len() as u64);
    assert!(
        pack.check(pack.index, &[]).is_ok() == pack.extents.is_empty(),
        "an index without layers has no extents"
    );
    let (mut held, mut end) = (0, pack.table_len());
    for frame in &pack.frames {
        assert!(frame.extents.start == held && frame.blob.start == end, "a gap");
        let extents = &pack.extents[frame.extents.clone()];
        assert_eq!(
            extents.iter().map(|extent| u64::from(extent.len)).sum::<u64>(),
            u64::from(frame.content_len)
        );
        (held, end) = (frame.extents.end, frame.blob.end);
    }
    assert!(held == pack.extents.len() && end == pack.blob_len());
    let mut decoder = FrameDecoder::new();
    for frame in pack.frames.iter().take(FRAMES) {
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(bytes) = blob.get(at(frame.blob.start)..at(frame.blob.end)) else { return };
        if let Ok(content) = decoder.decode_to_vec(bytes, frame.content_len as usize) {
            assert_eq!(content.len(), frame.content_len as usize);
        }
    }
}
