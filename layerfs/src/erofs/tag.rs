//! What a device's record in an image says of the file that it stands for: `LAYER packed LEN` or `LAYER large START LEN`.
//!
//! The kernel is handed open files and does not look at it; a kept image tells by it which files it needs.

use super::ImageError;
use super::devices::DeviceFile;

/// The longest: two numbers of 20 digits, one of 5, and a word.
const LEN: usize = 64;

pub(super) fn of(file: &DeviceFile) -> [u8; LEN] {
    let text = match &file.large {
        None => format!("{} packed {}", file.layer, file.len),
        Some(range) => format!("{} large {} {}", file.layer, range.start, file.len),
    };
    let mut tag = [0; LEN];
    tag.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    tag
}

pub(super) fn parse(tag: &[u8; LEN]) -> Result<DeviceFile, ImageError> {
    let end = tag.iter().position(|byte| *byte == 0).unwrap_or(LEN);
    let parsed = str::from_utf8(&tag[..end]).ok().and_then(|text| {
        let mut words = text.split(' ');
        let layer = words.next()?.parse().ok()?;
        let is_large = match words.next()? {
            "packed" => false,
            "large" => true,
            _ => return None,
        };
        let start: u64 = if is_large { words.next()?.parse().ok()? } else { 0 };
        let len: u64 = words.next()?.parse().ok()?;
        let large = if is_large { Some(start..start.checked_add(len)?) } else { None };
        words.next().is_none().then_some(DeviceFile { layer, large, len })
    });
    parsed.ok_or(ImageError::Malformed("a device of no file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_leads_back_to_its_file() {
        let files = [
            DeviceFile { layer: 0, large: None, len: 10_240 },
            DeviceFile { layer: u16::MAX, large: Some(u64::MAX - 7..u64::MAX), len: 7 },
        ];
        for file in files {
            assert_eq!(parse(&of(&file)).unwrap(), file);
        }
        for bad in
            ["", "1", "1 packed", "x packed 1", "1 large 2", "1 large 18446744073709551615 1", "1 packed 1 1"]
        {
            let mut tag = [0; LEN];
            tag[..bad.len()].copy_from_slice(bad.as_bytes());
            assert!(parse(&tag).is_err(), "{bad}");
        }
    }
}
