//! The encoding of records that a spool holds for a while: numbers of seven bits a byte, low bits first, and bytes
//! behind their length. Nobody but the program that wrote them ever reads them.

use std::io::{self, BufRead};

/// Bytes that one string of a record may have: an extended attribute's value has at most as much as its PAX header.
const MAX_LEN: u64 = 16 << 20;

pub fn put_number(record: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return record.push(low);
        }
        record.push(low | 0x80);
    }
}

/// Small negative numbers are short, too.
pub fn put_signed(record: &mut Vec<u8>, number: i64) {
    put_number(record, (number << 1 ^ number >> 63).cast_unsigned());
}

pub fn put_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    put_number(record, bytes.len() as u64);
    record.extend_from_slice(bytes);
}

/// What a record cannot hold: the spool gives other bytes than were put there.
pub fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what was set aside came back changed")
}

pub fn byte(from: &mut impl BufRead) -> io::Result<u8> {
    let byte = *from.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
    from.consume(1);
    Ok(byte)
}

pub fn number(from: &mut impl BufRead) -> io::Result<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = byte(from)?;
        number |= u64::from(byte & 0x7f).checked_shl(shift).ok_or_else(damaged)?;
        if byte < 0x80 {
            return Ok(number);
        }
        shift += 7;
    }
}

pub fn signed(from: &mut impl BufRead) -> io::Result<i64> {
    let number = number(from)?;
    Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
}

/// A number of a smaller type.
pub fn small<T: TryFrom<u64>>(from: &mut impl BufRead) -> io::Result<T> {
    T::try_from(number(from)?).map_err(|_| damaged())
}

/// Appends bytes to `to`.
pub fn bytes(from: &mut impl BufRead, to: &mut Vec<u8>) -> io::Result<()> {
    let len = number(from)?;
    let start = to.len();
    let len = usize::try_from(len).ok().filter(|_| len <= MAX_LEN).ok_or_else(damaged)?;
    to.resize(start + len, 0);
    from.read_exact(&mut to[start..])
}

/// Bytes of their own.
pub fn boxed(from: &mut impl BufRead) -> io::Result<Box<[u8]>> {
    let mut boxed = Vec::new();
    bytes(from, &mut boxed)?;
    Ok(boxed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        let signed_numbers = [0, -1, 1, i64::MIN, i64::MAX, -64, 63];
        let mut record = Vec::new();
        numbers.iter().for_each(|&n| put_number(&mut record, n));
        signed_numbers.iter().for_each(|&n| put_signed(&mut record, n));
        let from = &mut &record[..];
        numbers.iter().for_each(|&n| assert_eq!(number(from).unwrap(), n));
        signed_numbers.iter().for_each(|&n| assert_eq!(signed(from).unwrap(), n));
        assert!(number(from).is_err());
        assert!(number(&mut &[0xff; 20][..]).is_err());
        assert!(boxed(&mut &[0xff, 0xff, 0xff, 0xff, 0x7f][..]).is_err());
    }
}
