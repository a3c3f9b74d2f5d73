//! Offsets that cannot be mistaken for one another.
//!
//! A layer has two address spaces: the *blob* as the registry stores it, and the *tar* it decodes to.
//! Lengths are plain `u64` bytes in whichever space their neighbour offset names.

use std::fmt;

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The offset `len` bytes further on, or `None` past `u64::MAX`.
            pub fn checked_add(self, len: u64) -> Option<Self> {
                self.0.checked_add(len).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

offset! {
    /// Byte offset into a blob as stored by a registry (compressed).
    BlobOffset
}
offset! {
    /// Byte offset into a layer's uncompressed tar, whose SHA-256 is the diffID.
    TarOffset
}
