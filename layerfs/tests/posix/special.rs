//! Device nodes and FIFOs do what they are there for.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};

use crate::fixture::{Image, char_device, fifo};
use crate::mounted::{Mounted, can_mount};

/// S21: Device nodes and FIFOs work.
#[test]
fn devices_and_pipes_work() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![
        char_device("zero", 1, 5),
        char_device("null", 1, 3),
        fifo("pipe"),
    ]]));
    for root in mounted.roots() {
        let mut zeros = [1; 64];
        File::open(root.join("zero")).unwrap().read_exact(&mut zeros).unwrap();
        assert_eq!(zeros, [0; 64]);
        // A device is written to on a read-only file system as well.
        OpenOptions::new().write(true).open(root.join("null")).unwrap().write_all(b"gone").unwrap();
        let pipe = root.join("pipe");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        OpenOptions::new().write(true).open(&pipe).unwrap().write_all(b"through the pipe").unwrap();
        assert_eq!(reader.join().unwrap(), "through the pipe");
    }
}
