//! A full disk fails requests while it lasts, and nothing after that.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tonic::Code;

use crate::Labels;
use crate::fakes::Daemon;

/// A small file system of its own, gone with its guard.
struct SmallDisk(PathBuf);

/// Room for a new database and little else.
const SIZE: &CStr = c"size=6m,mode=755";

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        mount("jaunt-test", at, "tmpfs", MountFlags::empty(), SIZE).ok().map(|()| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[tokio::test]
async fn a_full_disk_is_survived() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let root = dir.path().join("root");
    let Some(_disk) = SmallDisk::mount(&root) else {
        println!("skipped: mounting needs root");
        return;
    };
    let mut daemon = Daemon::start_in(dir.clone()).await;
    daemon.prepare("before", "", Labels::new()).await.unwrap();

    fill(&root.join("fill"));
    let mut refused = 0;
    for attempt in 0..100 {
        // Pages that the database has room for already may still take a few.
        refused += usize::from(daemon.prepare(&format!("full{attempt}"), "", Labels::new()).await.is_err());
    }
    assert!(refused > 1, "{refused} were refused");
    let recorded = daemon.list(&[]).await.unwrap().len();
    assert_eq!(recorded, 101 - refused);
    assert!(daemon.mounts("before").await.is_ok());

    std::fs::remove_file(root.join("fill")).unwrap();
    daemon.prepare("after", "", Labels::new()).await.unwrap();
    assert_eq!(daemon.prepare("before", "", Labels::new()).await, Err(Code::AlreadyExists));

    let mut daemon = daemon.restart().await;
    assert_eq!(daemon.list(&[]).await.unwrap().len(), recorded + 1);
    drop(daemon);
}
