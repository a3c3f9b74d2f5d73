//! What the images of demo and benchmarks consist of: one small file each in `tests/images`.
//!
//! ```toml
//! from = "python-pandas"            # another recipe; without it, Debian's base system
//! layers = [["nodejs"], ["yarnpkg"]] # packages, a layer for each list
//! command = ["node", "/app/main.js"]
//! ready = "listening"               # part of a line that says the program can work
//! probe = { http = 8080 }           # what answers by then: an HTTP server, or `ping` for Redis's PING
//! [files]                           # one layer more, if there are any
//! "/app/main.js" = "…"
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::container::Readiness;
use crate::error::{At as _, Error, Result};

/// A real image, to be built from Debian's packages.
#[derive(Clone, Debug, Deserialize, Hash, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The name of its file.
    #[serde(skip)]
    pub name: String,
    /// The recipe whose image lies below; the base system if there is none.
    pub from: Option<String>,
    /// Packages to install, a layer for each list, bottom to top.
    pub layers: Vec<Vec<String>>,
    /// What a container runs.
    pub command: Vec<String>,
    /// Part of a line that the program writes when it can work.
    pub ready: String,
    /// What answers by then, of a program that serves.
    pub probe: Option<Probe>,
    /// Texts by the absolute paths they get, all in one layer above the packages'.
    #[serde(default)]
    pub files: BTreeMap<PathBuf, String>,
}

/// A port of the container's own loopback interface, and what is asked there.
#[derive(Clone, Copy, Debug, Deserialize, Hash, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// `GET /`, which is answered 200.
    Http(u16),
    /// `PING`, which is answered `PONG`.
    Ping(u16),
}

impl Recipe {
    /// The demo's image, when no other is asked for.
    pub const DEMO: &str = "python-pandas";

    /// Reads the recipe of that name.
    pub fn named(name: &str) -> Result<Self> {
        let file = dir().join(name).with_extension("toml");
        let text = fs::read_to_string(&file).at(&file)?;
        Self::parse(name, &text).map_err(|why| Error::unexpected(file.display().to_string(), why))
    }

    /// All that there are, in the order of their names.
    pub fn all() -> Result<Vec<Self>> {
        let dir = dir();
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).at(&dir)? {
            let file = entry.at(&dir)?.file_name().to_string_lossy().into_owned();
            names.extend(file.strip_suffix(".toml").map(str::to_owned));
        }
        names.sort();
        names.iter().map(|name| Self::named(name)).collect()
    }

    /// When a container of the image counts as ready.
    pub fn readiness(&self) -> Readiness {
        Readiness::LineWith(self.ready.clone())
    }

    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let recipe: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if let Some(file) = recipe.files.keys().find(|file| !file.is_absolute()) {
            return Err(format!("{} is no absolute path", file.display()));
        }
        Ok(Self { name: name.to_owned(), ..recipe })
    }
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_can_be_read_and_stands_on_one_that_exists() {
        let all = Recipe::all().unwrap();
        assert!(all.iter().any(|recipe| recipe.name == Recipe::DEMO));
        for recipe in &all {
            assert!(!recipe.ready.is_empty() && !recipe.command.is_empty(), "{}", recipe.name);
            assert!(recipe.from.as_ref().is_none_or(|from| all.iter().any(|other| other.name == *from)));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let whole = "layers = []\ncommand = [\"a\"]\nready = \"b\"\n";
        assert!(Recipe::parse("whole", whole).is_ok());
        for wrong in [
            "[files]\n\"relative\" = \"\"\n",
            "packages = []\n",
            "layers = 3\n",
            "probe = { telnet = 23 }\n",
            "probe = { http = 70000 }\n",
        ] {
            assert!(Recipe::parse("wrong", &format!("{whole}{wrong}")).is_err(), "{wrong}");
        }
    }
}
