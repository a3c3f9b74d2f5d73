//! Which containerd there is.

use std::fmt;
use std::str::FromStr;

/// What its configuration depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 or 2.
    pub major: u32,
    /// What comes next.
    pub minor: u32,
}

impl Version {
    /// The first that asks a proxy plugin where its snapshots are, for the kubelet, which keeps an eye on that disk.
    pub const EXPORTS: Self = Self { major: 1, minor: 7 };
    /// The first whose CRI plugin has a section of its own for images.
    pub const TWO: Self = Self { major: 2, minor: 0 };
    /// The first whose CRI plugin pulls through the transfer service.
    pub const TRANSFER: Self = Self { major: 2, minor: 1 };

    /// Of what `containerd --version` prints: program, package, version, commit.
    pub fn of_output(said: &str) -> Option<Self> {
        said.split_whitespace().nth(2)?.parse().ok()
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not a version, such as 1.7.24 or 2.1";
        let mut numbers = text.trim_start_matches('v').split(['.', '-', '~', '+']).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { major, minor }),
            _ => Err(wrong),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let version = |major, minor| Some(Version { major, minor });
        for (said, parsed) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", version(1, 6)),
            ("containerd github.com/containerd/containerd/v2 v2.3.0-beta.1 abc", version(2, 3)),
            ("containerd containerd.io 1.7.27 05044ec0", version(1, 7)),
            ("containerd", None),
        ] {
            assert_eq!(Version::of_output(said), parsed, "{said}");
        }
        assert!("1".parse::<Version>().is_err() && "x.y".parse::<Version>().is_err());
    }
}
