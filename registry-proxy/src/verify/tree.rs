//! The tree of a launch index against the one that the layers' tars give, entry by entry.

use jaunt_formats::launch::{self, Difference, LaunchError, LaunchIndex, What};

use super::tail::{mode, time, xattrs};
use crate::finding::{Check, Finding, Findings};

type Index = LaunchIndex<Vec<u8>>;

/// Tells where two indexes whose bytes differ do. Both were checked.
pub fn compare(rebuilt: &Index, given: &Index, findings: &mut Findings) -> Result<(), LaunchError> {
    let before = findings.count();
    let layers = u16::try_from(given.layers().len()).unwrap_or(u16::MAX);
    // The whole image first: what is wrong there mostly is wrong in the prefixes, too.
    for prefix in (1..=layers).rev() {
        let of = if prefix == layers { String::new() } else { format!("of the first {prefix} layers: ") };
        launch::compare(rebuilt, given, prefix, &mut |difference| findings.push(finding(&of, difference)))?;
        if findings.count() > before {
            return Ok(());
        }
    }
    findings.push(Finding::new(
        Check::Tree,
        "the launch index is not the one that the layers' tars give, though each path in it is",
    ));
    Ok(())
}

fn finding(of: &str, Difference { path, what }: Difference) -> Finding {
    let tell = |what: &str| Finding::new(Check::Tree, format!("{of}{what}")).of_path(&path);
    let differs = |field, wanted: String, found: String| {
        tell("the launch index has").of_field(field).values(wanted, found)
    };
    match what {
        What::OnlyInFirst => tell("it is missing in the launch index"),
        What::OnlyInSecond => tell("it is in the launch index, and in no tar"),
        What::File => tell("in the launch index, it is a link to another file"),
        What::Type(wanted, found) => differs("type", format!("{wanted:?}"), format!("{found:?}")),
        What::Mode(wanted, found) => differs("mode", mode(wanted), mode(found)),
        What::Owner(wanted, found) => {
            differs("owner", format!("{}:{}", wanted.0, wanted.1), format!("{}:{}", found.0, found.1))
        }
        What::Size(wanted, found) => differs("size", wanted.to_string(), found.to_string()),
        What::Mtime(wanted, found) => differs("mtime", time(wanted), time(found)),
        What::Links(wanted, found) => differs("links", wanted.to_string(), found.to_string()),
        What::Xattrs(wanted, found) => differs("xattrs", xattrs(&wanted), xattrs(&found)),
        What::Target(wanted, found) => {
            differs("target", wanted.escape_ascii().to_string(), found.escape_ascii().to_string())
        }
        What::Content(contents) => {
            let place =
                |content: &launch::FileContent| format!("layer {}, {:?}", content.layer, content.extents);
            differs("content", place(&contents.0), place(&contents.1))
        }
    }
}
