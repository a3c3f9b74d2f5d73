//! What starts were measured on: figures of two machines are two figures.

use std::fmt;
use std::thread;

use jaunt_tests::Scratch;
use jaunt_tests::error::{At as _, Result};
use jaunt_tests::process::run;
use serde::{Deserialize, Serialize};

/// A machine, and what it runs. Field names are keys of the JSON, and stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its processors.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// containerd's version.
    pub containerd: String,
}

impl Machine {
    /// The one that this program runs on.
    pub fn this(scratch: &Scratch) -> Result<Self> {
        let said = run(scratch.command("containerd").arg("--version"))?;
        Ok(Self {
            cores: thread::available_parallelism().at("the number of processors")?.get(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            containerd: containerd(&said),
        })
    }

    /// Whether nothing was noted.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// As a person reads it.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, kernel, containerd } = self;
        write!(f, "{cores} cores, Linux {kernel}, {containerd}")
    }
}

/// `containerd 1.6.20`, of what `containerd --version` says.
fn containerd(said: &str) -> String {
    format!("containerd {}", said.split_whitespace().nth(2).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_what_it_has_and_runs() {
        let containerd = containerd("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1\n");
        let machine = Machine { cores: 2, kernel: "6.18".to_owned(), containerd };
        assert_eq!(machine.to_string(), "2 cores, Linux 6.18, containerd 1.6.20~ds1");
        assert!(!machine.is_unknown() && Machine::default().is_unknown());
    }
}
