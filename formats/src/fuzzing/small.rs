//! Readers of a few bytes or words.

use std::collections::HashMap;

use crate::media_type::{CHUNKED_MANIFEST_CHECKSUM, CHUNKED_MANIFEST_POSITION, CHUNKED_TARSPLIT_POSITION};
use crate::platform::Platform;
use crate::seekable::{self, SeekTable};
use crate::zstd_chunked::{Annotations, FOOTER_LEN, Footer, foreign};
use crate::{Digest, Reference};

/// Image references, digests and platforms: what is accepted is printed so that it is accepted again.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
        assert!(reference.with_tag("t").to_string().parse::<Reference>().is_ok());
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse().as_ref(), Ok(&platform));
    }
}

/// The annotations of a zstd:chunked blob: a line each.
pub fn annotations(data: &[u8]) {
    let keys = [CHUNKED_MANIFEST_CHECKSUM, CHUNKED_MANIFEST_POSITION, CHUNKED_TARSPLIT_POSITION];
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().map(str::to_owned);
    let map: HashMap<String, String> = keys.map(str::to_owned).into_iter().zip(lines).collect();
    if let Ok(Some(annotations)) = Annotations::parse(&map) {
        assert_eq!(Annotations::parse(&annotations.to_map()), Ok(Some(annotations.clone())));
        for blob_len in [0, 1 << 20, u64::MAX] {
            if let Ok(tail) = foreign::tail(&annotations, blob_len) {
                assert!(tail.start <= tail.end && tail.end <= blob_len);
            }
        }
    }
}

/// The footer of zstd:chunked.
pub fn footer(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<FOOTER_LEN>()
        && let Some(footer) = Footer::parse(bytes)
    {
        assert_eq!(footer.to_bytes(), *bytes);
    }
}

/// A seek table at the end of a blob.
pub fn seek_table(data: &[u8]) {
    let Ok(frames) = seekable::parse(data) else { return };
    let mut table = SeekTable::default();
    frames.iter().for_each(|frame| table.push(*frame));
    let mut written = Vec::new();
    assert!(table.write(&mut written).is_ok());
    assert_eq!(seekable::parse(&written).as_ref(), Ok(&frames));
}
