//! How urgent a fetch is. Strict: a class starts nothing while a more urgent one waits to start.

/// Classes of fetches, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A reader waits.
    Demand,
    /// The rest of what a reader takes in one after the other.
    Ahead,
    /// What a start is known to touch.
    Boot,
    /// What lies around several misses.
    Nearby,
    /// The rest of the layer.
    Background,
}

impl Class {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 5] = [Self::Demand, Self::Ahead, Self::Boot, Self::Nearby, Self::Background];

    /// Whether it leaves the line to readers that wait: starts nothing meanwhile, and pauses what it has begun.
    pub fn stands_back(self) -> bool {
        self > Self::Ahead
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Ahead => "ahead",
            Self::Boot => "boot",
            Self::Nearby => "nearby",
            Self::Background => "background",
        }
    }
}
