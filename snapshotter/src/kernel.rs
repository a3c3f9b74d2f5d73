//! Which Linux this is.

/// The kernel that brought overlayfs's option `userxattr`.
pub(crate) const USERXATTR: (u32, u32) = (5, 11);
/// The one that brought id-mapped mounts of FUSE. Those of EROFS are older.
pub(crate) const MAPPED_FUSE: (u32, u32) = (6, 12);

/// Its release, as it calls itself; empty where it does not say.
pub(crate) fn release() -> String {
    let said = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    said.trim().to_owned()
}

/// Whether a release is that one or a later one.
pub(crate) fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        let has = |release| is_at_least(release, USERXATTR);
        assert!(has("6.1.0-18-amd64") && has("5.11") && !has("5.10.1") && !has(""));
        assert!(is_at_least(&release(), (3, 0)));
    }
}
