//! The Debian package's scripts, called as dpkg calls them (Debian Policy 6.5 to 6.8), in a systemd of the test's own.

use std::path::Path;

use jaunt_tests::process::run;
use jaunt_tests::{Result, Systemd};

/// One of the package's scripts, with the words that dpkg gives it.
pub fn script(systemd: &Systemd<'_>, name: &str, words: &[&str]) -> Result<String> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("snapshotter/dist/deb");
    run(systemd.command(scripts.join(name))?.args(words))
}

/// The package becomes installed; `before` is the version that was there, also if it was removed meanwhile.
pub fn install(systemd: &Systemd<'_>, before: &str, unpack: impl FnOnce()) {
    let before_or_none = Some(before).filter(|before| !before.is_empty());
    let words: Vec<&str> = std::iter::once("install").chain(before_or_none).collect();
    script(systemd, "preinst", &words).unwrap();
    unpack();
    script(systemd, "postinst", &["configure", before]).unwrap();
}

/// Version 2 takes the place of version 1.
pub fn upgrade(systemd: &Systemd<'_>, unpack: impl FnOnce()) {
    script(systemd, "prerm", &["upgrade", "2"]).unwrap();
    script(systemd, "preinst", &["upgrade", "1"]).unwrap();
    unpack();
    script(systemd, "postrm", &["upgrade", "2"]).unwrap();
    script(systemd, "postinst", &["configure", "1"]).unwrap();
}

/// The package goes, and what `take_away` takes; its configuration files stay.
pub fn remove(systemd: &Systemd<'_>, take_away: impl FnOnce()) {
    script(systemd, "prerm", &["remove"]).unwrap();
    take_away();
    script(systemd, "postrm", &["remove"]).unwrap();
}
