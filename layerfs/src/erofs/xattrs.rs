//! Extended attributes behind an inode: a header, then each as lengths, name without its namespace, and value.

use jaunt_formats::Xattr;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::U16;

use super::ImageError;
use super::layout::{XATTR_HEADER_LEN, XattrRecord};

/// Namespaces by number. The two of access lists are whole names.
const NAMESPACES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];
/// The last two namespaces that end the name.
const WHOLE: [u8; 2] = [2, 3];
/// What an inode's record can say of their length: 1 and 65,534 times 4 bytes beyond the header.
const MAX_LEN: usize = XATTR_HEADER_LEN + 4 * 65_534;

/// The attributes as they follow an inode; empty for none.
pub(super) fn encode(xattrs: &[Xattr]) -> Result<Vec<u8>, ImageError> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; XATTR_HEADER_LEN];
    for Xattr { name, value } in xattrs {
        let (index, rest) =
            split(name).ok_or(ImageError::Unfit("an extended attribute of another namespace"))?;
        let name_len = u8::try_from(rest.len());
        let value_len = u16::try_from(value.len());
        let (Ok(name_len), Ok(value_len)) = (name_len, value_len) else {
            return Err(ImageError::Unfit("an extended attribute of 64 KiB"));
        };
        let record = XattrRecord { name_len, name_index: index, value_len: U16::new(value_len) };
        bytes.extend_from_slice(record.as_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if bytes.len() > MAX_LEN {
            return Err(ImageError::Unfit("more than 256 KiB of extended attributes on a file"));
        }
    }
    Ok(bytes)
}

/// What an inode's record says of them.
pub(super) fn units(len: u64) -> u16 {
    let header = XATTR_HEADER_LEN as u64;
    if len == 0 { 0 } else { u16::try_from(1 + len.saturating_sub(header) / 4).unwrap_or(u16::MAX) }
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    NAMESPACES.iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(*prefix)?;
        (rest.is_empty() == WHOLE.contains(index) && !rest.contains(&0)).then_some((*index, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &str, len: usize) -> Xattr {
        Xattr { name: name.as_bytes().into(), value: vec![7; len].into() }
    }

    #[test]
    fn names_lose_their_namespace_and_records_are_aligned() {
        let bytes = encode(&[xattr("security.capability", 20), xattr("user.x", 1)]).unwrap();
        assert_eq!(bytes.len(), 12 + 4 + 10 + 20 + 2 + 4 + 1 + 1 + 2);
        assert_eq!(&bytes[12..26], b"\x0a\x06\x14\x00capability");
        assert_eq!((units(0), units(12), units(bytes.len() as u64)), (0, 1, 1 + 44 / 4));
        assert!(encode(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_said_is_told() {
        for (name, len) in
            [("user.", 1), ("system.other", 1), ("system.posix_acl_access.x", 1), ("user.x", 65_536)]
        {
            assert!(matches!(encode(&[xattr(name, len)]), Err(ImageError::Unfit(_))), "{name}");
        }
        let many: Vec<_> = (0..5).map(|n| xattr(&format!("user.{n}"), 65_535)).collect();
        assert!(encode(&many).is_err());
        assert!(encode(&[xattr("system.posix_acl_access", 28)]).is_ok());
    }
}
