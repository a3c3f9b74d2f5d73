//! Device nodes, FIFOs and sockets do what they are there for.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::fixture::{Image, char_device, dir, fifo};
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

/// No image has one, but programs make them in its directories.
#[test]
fn sockets_are_made_and_found_in_directories_of_the_image() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new(Image::new(vec![vec![dir("run")]]));
    let path = mounted.merged().join("run/socket");
    for round in 0..2 {
        let listener = UnixListener::bind(&path).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"through the socket").unwrap();
        drop(client);
        let mut heard = String::new();
        listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "through the socket");
        // Whoever has it open has the mount in use.
        drop(listener);
        if round == 0 {
            mounted.again();
        }
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert!(UnixStream::connect(&path).is_err(), "nobody listens, but it is there");
        fs::remove_file(&path).unwrap();
    }
}
