//! Where Kubernetes' image pull secrets lie: files of the kind `.dockerconfigjson`, looked for anew each time.
//!
//! A path is such a file, or a directory: a secret as a volume shows it (`.dockerconfigjson` in it), or one with a
//! directory for each secret. Of several files the one that was written last is asked first.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the file is called in a volume.
const NAME: &str = ".dockerconfigjson";
/// Secrets looked at below one directory.
const MOST: usize = 256;

/// The files there are, the newest first.
pub(super) async fn files(paths: &[PathBuf]) -> Vec<PathBuf> {
    if paths.is_empty() {
        return Vec::new();
    }
    let paths = paths.to_vec();
    tokio::task::spawn_blocking(move || newest_first(&paths)).await.unwrap_or_default()
}

fn newest_first(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for path in paths {
        if path.is_dir() {
            found.extend(below(path));
        } else {
            found.extend(written(path.clone()));
        }
    }
    found.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| a.cmp(b)));
    found.into_iter().map(|(_, path)| path).collect()
}

/// Names with two dots are the kubelet's own, behind which it swaps a volume's content.
fn below(directory: &Path) -> Vec<(SystemTime, PathBuf)> {
    let own = written(directory.join(NAME));
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MOST);
    let secrets = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".."));
    own.into_iter().chain(secrets.filter_map(|entry| written(entry.path().join(NAME)))).collect()
}

/// A file that is there, with the time of what is in it.
fn written(path: PathBuf) -> Option<(SystemTime, PathBuf)> {
    let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    Some((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn secrets_are_found_as_volumes_show_them_the_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, seconds: u64| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "{}").unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            path
        };
        let single = write("single.json", 20);
        write("volume/..2026/.dockerconfigjson", 30);
        std::os::unix::fs::symlink("..2026", dir.path().join("volume/..data")).unwrap();
        let volume = dir.path().join("volume/.dockerconfigjson");
        std::os::unix::fs::symlink("..data/.dockerconfigjson", &volume).unwrap();
        let many = [write("many/a/.dockerconfigjson", 10), write("many/b/.dockerconfigjson", 40)];
        write("many/c/other", 99);
        let paths = ["single.json", "volume", "many", "absent"].map(|name| dir.path().join(name));
        assert_eq!(newest_first(&paths), [many[1].clone(), volume, single, many[0].clone()]);
    }
}
