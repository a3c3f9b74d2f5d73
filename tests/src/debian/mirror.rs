//! Where this machine's apt gets Debian from: images are built from the same mirror, through the same proxy.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::error::{Error, Result};
use crate::process::run;

/// The mirror of a suite, in either of apt's two formats.
pub fn of(suite: &str) -> Result<String> {
    find(&read_sources(), suite)
}

/// The proxy this machine's apt uses, if it uses one.
pub fn proxy() -> Option<String> {
    let line = run(Command::new("apt-config").args(["shell", "PROXY", "Acquire::http::Proxy"])).ok()?;
    let value = line.trim().strip_prefix("PROXY='")?.strip_suffix('\'')?;
    (value != "DIRECT").then(|| value.to_owned())
}

/// All of apt's source lists, one after the other.
fn read_sources() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).map(|text| text + "\n\n").collect()
}

fn find(sources: &str, suite: &str) -> Result<String> {
    let stanzas = sources.split("\n\n").filter_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let suites = field("Suites:")?;
        Some((
            field("URIs:")?.split_whitespace().next()?,
            suites.split_whitespace().any(|word| word == suite),
        ))
    });
    let lines = sources.lines().filter_map(|line| {
        let mut words = line
            .strip_prefix("deb ")?
            .split_whitespace()
            .skip_while(|word| word.starts_with('[') || word.ends_with(']') || word.contains('='));
        Some((words.next()?, words.next()? == suite))
    });
    stanzas
        .chain(lines)
        .find(|(uri, offered)| *offered && uri.starts_with("http"))
        .map(|(uri, _)| uri.trim_end_matches('/').to_owned())
        .ok_or_else(|| {
            Error::unexpected("/etc/apt", format!("no http source for {suite}: building an image needs one"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let lines = "# deb http://a.example/debian bookworm main\ndeb http://s.example bookworm-security main\n\
            deb [arch=amd64 signed-by=/k] http://b.example/debian/ bookworm main\n";
        assert_eq!(find(lines, "bookworm").unwrap(), "http://b.example/debian");
        let stanzas = "Types: deb\nURIs: http://s.example\nSuites: bookworm-security\n\n\
            Types: deb\n# note\nURIs: http://c.example/debian\nSuites: bookworm bookworm-updates\n";
        assert_eq!(find(stanzas, "bookworm").unwrap(), "http://c.example/debian");
        assert!(find("deb http://u.example/ubuntu jammy main", "bookworm").is_err());
    }
}
