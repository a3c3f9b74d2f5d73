//! OCI content digests (`sha256:<64 hex>`), the only names by which bytes are trusted.
//!
//! Spec: OCI image-spec, descriptor.md, "Digests". Only SHA-256 is accepted: no registry in use
//! serves images under another algorithm, and an unknown one must never verify.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, ordered by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a string is not a digest we can verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The algorithm is well-formed but not `sha256`.
    #[error("digest {0:?} uses an algorithm other than sha256")]
    UnsupportedAlgorithm(String),
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("{0:?} is not a digest of the form sha256:<64 hexadecimal digits>")]
    Malformed(String),
}

impl Digest {
    /// Length of the raw digest in bytes.
    pub const LEN: usize = 32;

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps a finished SHA-256 state's output.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lower-case hexadecimal digits, without the algorithm: safe as a file or tag name.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.to_owned());
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        if algorithm != "sha256" {
            let named = !algorithm.is_empty() && algorithm.bytes().all(|b| b.is_ascii_alphanumeric());
            return Err(if named { DigestError::UnsupportedAlgorithm(text.to_owned()) } else { malformed() });
        }
        let digits = hex.as_bytes();
        if digits.len() != 2 * Self::LEN {
            return Err(malformed());
        }
        let mut bytes = [0; Self::LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) =
                (nibble(pair[0]).ok_or_else(malformed)?, nibble(pair[1]).ok_or_else(malformed)?);
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

/// Lower case only: the image spec's grammar for sha256 is `[a-f0-9]{64}`.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_the_digest_of_nothing() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(text.parse(), Ok(Digest::of(b"")));
    }

    #[test]
    fn refuses_what_it_cannot_verify() {
        let upper = format!("sha256:{}", "A".repeat(64));
        for bad in ["", "sha256", "sha256:", "sha256:12", ":", &upper] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError::Malformed(bad.to_owned())));
        }
        let sha512 = format!("sha512:{}", "0".repeat(128));
        assert_eq!(sha512.parse::<Digest>(), Err(DigestError::UnsupportedAlgorithm(sha512)));
    }
}
