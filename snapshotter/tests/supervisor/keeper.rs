//! A service manager as far as a supervisor sees one: takes messages, keeps descriptors, hands them to the next process.

#![allow(unsafe_code)]

use std::io::IoSliceMut;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// Numbers that no descriptor of a program that starts has.
const HIGH: i32 = 500;

/// What was said and kept so far.
#[derive(Default)]
struct Book {
    said: Vec<String>,
    kept: Vec<(String, OwnedFd)>,
}

/// A service manager; listens until the test ends.
pub struct Keeper {
    address: PathBuf,
    book: Arc<Mutex<Book>>,
}

impl Keeper {
    pub fn start(directory: &Path) -> Self {
        let address = directory.join("notify");
        let socket = UnixDatagram::bind(&address).unwrap();
        let book: Arc<Mutex<Book>> = Arc::default();
        let writer = book.clone();
        thread::spawn(move || {
            loop {
                let (message, descriptors) = receive(&socket);
                writer.lock().unwrap().note(message, descriptors);
            }
        });
        Self { address, book }
    }

    /// Whether a message with that line has come.
    pub fn heard(&self, line: &str) -> bool {
        self.book.lock().unwrap().said.iter().any(|message| message.lines().any(|said| said == line))
    }

    /// What was said that begins with `start`, in order.
    pub fn all(&self, start: &str) -> Vec<String> {
        let book = self.book.lock().unwrap();
        book.said.iter().filter(|message| message.starts_with(start)).cloned().collect()
    }

    /// The names of what is kept.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.book.lock().unwrap().kept.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Waits until it has read that nothing is to be kept any more, which who said so may have died since.
    pub fn until_empty(&self) {
        let begun = Instant::now();
        while !self.names().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "still kept: {:?}", self.names());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Keeps something that the daemon has not asked for.
    pub fn slip_in(&self, name: &str, descriptor: OwnedFd) {
        self.book.lock().unwrap().kept.push((name.to_owned(), descriptor));
    }

    /// A copy of what is kept under a name that begins so.
    pub fn copy(&self, start: &str) -> (String, OwnedFd) {
        let book = self.book.lock().unwrap();
        let (name, descriptor) = book.kept.iter().find(|(name, _)| name.starts_with(start)).unwrap();
        (name.clone(), descriptor.try_clone().unwrap())
    }

    /// Loses what is kept under names that begin so.
    pub fn lose(&self, start: &str) {
        self.book.lock().unwrap().kept.retain(|(name, _)| !name.starts_with(start));
    }

    /// Has `command` started as a service of this manager, with what is kept.
    pub fn adopt(&self, command: &Command) -> Command {
        let book = self.book.lock().unwrap();
        let names: Vec<&str> = book.kept.iter().map(|(name, _)| name.as_str()).collect();
        let mut child = Command::new("sh");
        child
            .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""])
            .arg(command.get_program())
            .args(command.get_args());
        child.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        child.env("NOTIFY_SOCKET", &self.address).env("WATCHDOG_USEC", "300000");
        child.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, HIGH).unwrap();
        let descriptors: Vec<OwnedFd> = book.kept.iter().map(|(_, fd)| copy(fd)).collect();
        let hand_over = move || {
            for (number, descriptor) in (3..).zip(&descriptors) {
                // SAFETY: whatever has this number in the new process is replaced, and belongs to nobody there.
                let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
                rustix::io::dup2(descriptor, &mut place)?;
                assert_eq!(place.as_raw_fd(), number);
            }
            Ok(())
        };
        // SAFETY: it makes system calls alone.
        unsafe { child.pre_exec(hand_over) };
        child
    }
}

impl Book {
    fn note(&mut self, message: String, descriptors: Vec<OwnedFd>) {
        let line = |key: &str| message.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        let name = line("FDNAME=").unwrap_or_default();
        if line("FDSTOREREMOVE=").is_some() {
            self.kept.retain(|(kept, _)| *kept != name);
        } else if line("FDSTORE=").is_some() {
            assert_eq!(
                line("FDPOLL=").as_deref(),
                Some("0"),
                "whoever polls a /dev/fuse is woken by each request"
            );
            for descriptor in descriptors {
                if !self.kept.iter().any(|(kept, _)| *kept == name) {
                    self.kept.push((name.clone(), descriptor));
                }
            }
        }
        self.said.push(message);
    }
}

fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let received =
        rustix::net::recvmsg(socket.as_fd(), &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let rights = |message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    };
    let descriptors = control.drain().flat_map(rights).collect();
    (String::from_utf8(bytes[..received.bytes].to_vec()).unwrap(), descriptors)
}
