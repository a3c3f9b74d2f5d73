//! ELF files for tests, of both classes and byte orders.

/// A class and a byte order.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub is_64: bool,
    pub is_big: bool,
}

pub const KINDS: [Kind; 4] = [
    Kind { is_64: true, is_big: false },
    Kind { is_64: true, is_big: true },
    Kind { is_64: false, is_big: false },
    Kind { is_64: false, is_big: true },
];

/// Where things are in a sample, and how much higher they are in memory.
pub const NAME: u64 = 0x180;
pub const STRINGS: u64 = 0x1a0;
pub const DYNAMIC: u64 = 0x200;
pub const ADDRESS: u64 = 0x10000;

impl Kind {
    fn half(self, value: u16) -> Vec<u8> {
        if self.is_big { value.to_be_bytes().into() } else { value.to_le_bytes().into() }
    }

    fn word(self, value: u32) -> Vec<u8> {
        if self.is_big { value.to_be_bytes().into() } else { value.to_le_bytes().into() }
    }

    /// Of the length of an address.
    fn long(self, value: u64) -> Vec<u8> {
        match (self.is_64, self.is_big) {
            (true, true) => value.to_be_bytes().into(),
            (true, false) => value.to_le_bytes().into(),
            (false, _) => self.word(u32::try_from(value).unwrap()),
        }
    }

    /// A file header with program headers behind it: type, flags, offset, length.
    pub fn head(self, segments: &[(u32, u32, u64, u64)]) -> Vec<u8> {
        let (len, entry) = if self.is_64 { (64, 56) } else { (52, 32) };
        let ident = [0x7f, b'E', b'L', b'F', 1 + u8::from(self.is_64), 1 + u8::from(self.is_big), 1, 0];
        let mut head = [&ident[..], &[0; 8]].concat();
        head.extend([self.half(3), self.half(62), self.word(1)].concat());
        head.extend([self.long(0), self.long(u64::from(len)), self.long(0), self.word(0)].concat());
        let count = u16::try_from(segments.len()).unwrap();
        head.extend([len, entry, count, 64, 0, 0].map(|value| self.half(value)).concat());
        for &(kind, flags, at, size) in segments {
            let (kind, flags) = (self.word(kind), self.word(flags));
            let place = [at, at + ADDRESS, at + ADDRESS, size, size].map(|value| self.long(value)).concat();
            head.extend(match self.is_64 {
                true => [kind, flags, place, self.long(1)].concat(),
                false => [kind, place, flags, self.long(1)].concat(),
            });
        }
        head
    }

    /// A program that is linked with two libraries.
    pub fn program(self) -> Vec<u8> {
        let strings = b"\0libone.so\0libtwo.so\0$ORIGIN\0";
        let dynamic = [(1, 1), (1, 11), (29, 21), (5, ADDRESS + STRINGS), (10, strings.len() as u64), (0, 0)];
        let dynamic: Vec<u8> =
            dynamic.iter().flat_map(|(tag, value)| [self.long(*tag), self.long(*value)].concat()).collect();
        let len = dynamic.len() as u64;
        let mut file =
            self.head(&[(3, 4, NAME, 7), (1, 5, 0, DYNAMIC), (1, 6, DYNAMIC, len), (2, 6, DYNAMIC, len)]);
        for (at, bytes) in [(NAME, &b"/ld.so\0"[..]), (STRINGS, strings), (DYNAMIC, &dynamic)] {
            file.resize(usize::try_from(at).unwrap(), 0);
            file.extend(bytes);
        }
        file
    }
}
