//! What is measured: who is below containerd, and what is there already.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The snapshotter of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Below {
    /// containerd's own, which unpacks.
    Overlayfs,
    /// One that does nothing.
    Null,
    /// Ours.
    Jaunt,
    /// Ours, and an image with the boot pack that its conversion made.
    JauntConverted,
    /// Ours, and an image with a boot pack of starts.
    JauntPacked,
}

/// One column. Names are those in the JSON, and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// From nothing, page cache dropped.
    OverlayfsCold,
    /// The same commands again, with everything in the page cache: what everybody is measured against.
    OverlayfsWarm,
    /// From nothing but layers that are unpacked and in the page cache.
    Null,
    /// From nothing, page cache dropped, without a boot pack.
    JauntCold,
    /// From nothing, page cache dropped, the image as it is converted.
    JauntConverted,
    /// From nothing, page cache dropped, with a boot pack that was learnt.
    JauntPacked,
    /// The same commands again, page cache dropped: whatever a start touches is on the disk.
    JauntLocal,
    /// And again, with everything in the page cache.
    JauntWarm,
}

impl Below {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Overlayfs, Self::Null, Self::Jaunt, Self::JauntConverted, Self::JauntPacked];

    /// What is measured on one node, in this order.
    pub fn systems(self) -> &'static [System] {
        match self {
            Self::Overlayfs => &[System::OverlayfsCold, System::OverlayfsWarm],
            Self::Null => &[System::Null],
            Self::Jaunt => &[System::JauntCold, System::JauntLocal, System::JauntWarm],
            Self::JauntConverted => &[System::JauntConverted],
            Self::JauntPacked => &[System::JauntPacked],
        }
    }
}

impl System {
    /// All of them, in the order of columns.
    pub const ALL: [Self; 8] = [
        Self::OverlayfsCold,
        Self::OverlayfsWarm,
        Self::Null,
        Self::JauntCold,
        Self::JauntConverted,
        Self::JauntPacked,
        Self::JauntLocal,
        Self::JauntWarm,
    ];

    /// As a person calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::OverlayfsCold => "overlayfs cold",
            Self::OverlayfsWarm => "overlayfs warm",
            Self::Null => "null",
            Self::JauntCold => "Jaunt, no pack",
            Self::JauntConverted => "Jaunt, as converted",
            Self::JauntPacked => "Jaunt, learnt pack",
            Self::JauntLocal => "Jaunt, spans local",
            Self::JauntWarm => "Jaunt warm",
        }
    }

    /// Whether the page cache is dropped before.
    pub fn is_cold(self) -> bool {
        !matches!(self, Self::OverlayfsWarm | Self::JauntWarm)
    }

    /// Whether it is our daemon that serves.
    pub fn is_ours(self) -> bool {
        !matches!(self, Self::OverlayfsCold | Self::OverlayfsWarm | Self::Null)
    }

    /// The colour of its bars.
    pub fn colour(self) -> &'static str {
        match self {
            Self::OverlayfsCold => "#8d99ae",
            Self::OverlayfsWarm => "#c3cad6",
            Self::Null => "#e5e5e5",
            Self::JauntCold => "#d1495b",
            Self::JauntConverted => "#b03a8c",
            Self::JauntPacked => "#7a2e8e",
            Self::JauntLocal => "#e59866",
            Self::JauntWarm => "#f3d19c",
        }
    }
}
