//! Platforms of images: `os/architecture[/variant]`, in the image spec's (that is, Go's) words.

use std::fmt;
use std::str::FromStr;

/// A platform as asked for, or as an image states it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why a text names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("platform {0:?} is not of the form os/arch or os/arch/variant")]
pub struct PlatformError(String);

impl Platform {
    /// A platform from its parts; an empty variant is none.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_owned);
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// Linux on the architecture that this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "x86" => "386",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// The operating system.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The processor architecture.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Whether `other` will do where this is asked for: without a variant, any variant will.
    pub fn includes(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<_> = text.split('/').collect();
        let has_gap = parts.iter().any(|part| part.is_empty());
        match parts[..] {
            [os, architecture] if !has_gap => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] if !has_gap => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_match_with_and_without_variant() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("linux/arm").includes(&platform("linux/arm/v7")));
        assert!(!platform("linux/arm/v6").includes(&platform("linux/arm/v7")));
        assert!(!platform("linux/amd64").includes(&platform("linux/arm64")));
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "a/b/"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?} was accepted");
        }
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(platform(text).to_string(), text);
        }
    }
}
