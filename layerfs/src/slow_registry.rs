//! A registry on real sockets, behind a line of so many bytes a second, for tests. It answers with ranges of blobs, and
//! writes down what was asked of it and how much of each answer it could get rid of.
//!
//! It lives on a thread and a clock of its own: whoever asks may have stopped his. What is sent takes its turn on the line
//! only once the connection has room for it, so that who does not read costs the others nothing.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use jaunt_distribution::{ApiRoot, Client, ClientConfig, Host, HostSettings, RegistryHosts};
use jaunt_formats::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::fetch::Bucket;
use crate::source::{RegistrySource, Source};

/// Bytes that take their turn on the line at once.
const PIECE: usize = 16 << 10;
/// What the system keeps for the server of what a client does not take (Linux doubles it), so that a client that does
/// not read is soon noticed.
const KEPT: usize = 32 << 10;
/// A connection that has had no room for so long is one from which nobody reads. A client that only had no processor for
/// so long makes a test prove less, and no test fail.
const STALLED: Duration = Duration::from_millis(150);

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It came.
    Asked,
    /// So many bytes more of its answer went out.
    Sent(u64),
    /// All of its answer has gone out.
    Ended,
}

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    entries: Vec<(Digest, Seen)>,
    /// Answers that somebody reads.
    flowing: usize,
}

impl Journal {
    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How often something happened to requests for a blob, within a part of the journal.
    pub(crate) fn count(&self, blob: Digest, what: Seen, part: Range<usize>) -> usize {
        self.entries[part].iter().filter(|entry| **entry == (blob, what)).count()
    }

    /// The first entry of its kind.
    pub(crate) fn first(&self, blob: Digest, what: Seen) -> Option<usize> {
        self.entries.iter().position(|entry| *entry == (blob, what))
    }

    /// The last entry of its kind.
    pub(crate) fn last(&self, blob: Digest, what: Seen) -> Option<usize> {
        self.entries.iter().rposition(|entry| *entry == (blob, what))
    }

    /// Bytes of a blob that went out, within a part of the journal.
    pub(crate) fn sent(&self, blob: Digest, part: Range<usize>) -> u64 {
        let of_blob = self.entries[part].iter().filter(|(of, _)| *of == blob);
        of_blob.map(|(_, seen)| if let Seen::Sent(bytes) = seen { *bytes } else { 0 }).sum()
    }
}

/// The registry; gone when dropped.
pub(crate) struct SlowRegistry {
    /// Two, that share blobs, line and journal.
    hosts: [SocketAddr; 2],
    journal: watch::Sender<Journal>,
    _running: oneshot::Sender<()>,
}

/// What its connections share.
struct Shared {
    blobs: HashMap<Digest, Bytes>,
    line: Bucket,
    /// Answered only once nobody reads any other answer.
    last: Digest,
    journal: watch::Sender<Journal>,
}

impl SlowRegistry {
    /// Has `blobs`, and sends `rate` bytes of them a second. Requests for `last` are answered once all other answers have
    /// ended, or nobody reads them.
    pub(crate) fn new(blobs: impl IntoIterator<Item = (Digest, Bytes)>, rate: u64, last: Digest) -> Self {
        let (listeners, journal) = ([listener(), listener()], watch::Sender::default());
        let hosts = [0, 1].map(|at: usize| listeners[at].local_addr().unwrap());
        let (running, dropped) = oneshot::channel::<()>();
        let (blobs, noted) = (blobs.into_iter().collect(), journal.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let line = Bucket::new(NonZeroU64::new(rate));
                let shared = Arc::new(Shared { blobs, line, last, journal: noted });
                for listener in listeners {
                    tokio::spawn(shared.clone().serve(TcpListener::from_std(listener).unwrap()));
                }
                let _ = dropped.await;
            });
        });
        Self { hosts, journal, _running: running }
    }

    /// One of its hosts, through the real client.
    pub(crate) fn source(&self, host: usize) -> Arc<dyn Source> {
        self.source_with(host, HostSettings::default())
    }

    /// The first of its hosts behind a mirror, through the real client.
    pub(crate) fn source_behind(&self, mirror: SocketAddr) -> Arc<dyn Source> {
        let api = ApiRoot::parse(&format!("http://{mirror}"), false).unwrap();
        let mirrors = vec![Host { api: Some(api), ..Host::default() }];
        let hosts = RegistryHosts { mirrors, server: Host::default() };
        let registries = [(self.hosts[0].to_string(), hosts)].into();
        self.source_with(0, HostSettings { registries, ..HostSettings::default() })
    }

    fn source_with(&self, host: usize, hosts: HostSettings) -> Arc<dyn Source> {
        let config = ClientConfig { auth_files: Vec::new(), hosts, ..ClientConfig::default() };
        let repository = format!("{}/a/b", self.hosts[host]).parse().unwrap();
        Arc::new(RegistrySource::new(Client::new(config).unwrap(), repository))
    }

    /// What has happened so far.
    pub(crate) fn journal(&self) -> Journal {
        self.journal.borrow().clone()
    }

    /// Waits until something has happened.
    pub(crate) async fn until(&self, has_happened: impl Fn(&Journal) -> bool) {
        self.journal.subscribe().wait_for(has_happened).await.unwrap();
    }

    /// Asks one host for a blob and reads nothing: how much of the answer goes out all the same.
    pub(crate) async fn sent_unread(&self, blob: Digest, len: usize) -> u64 {
        let mut client = TcpStream::connect(self.hosts[0]).await.unwrap();
        let request = format!("GET /v2/a/b/blobs/{blob} HTTP/1.1\r\nrange: bytes=0-{}\r\n\r\n", len - 1);
        client.write_all(request.as_bytes()).await.unwrap();
        self.until(|journal| journal.first(blob, Seen::Asked).is_some()).await;
        self.until(|journal| journal.flowing == 0).await;
        let journal = self.journal();
        journal.sent(blob, 0..journal.len())
    }
}

/// On a port of its own, for connections that keep little.
fn listener() -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    // Connections inherit it.
    rustix::net::sockopt::set_socket_send_buffer_size(&listener, KEPT).unwrap();
    listener
}

impl Shared {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((socket, _)) = listener.accept().await {
            let this = self.clone();
            tokio::spawn(async move { this.answer(socket).await });
        }
    }

    /// Answers one request after the other.
    async fn answer(&self, mut socket: TcpStream) -> io::Result<()> {
        loop {
            let Some((blob, range)) = request(&mut socket).await? else { return Ok(()) };
            let mut flow = Flow { journal: &self.journal, stands: true };
            flow.stands(blob == self.last);
            self.note(blob, Seen::Asked);
            let (whole, start, last) = (self.blobs[&blob].clone(), range.start, range.end - 1);
            let (len, of) = (range.end - range.start, whole.len());
            if blob == self.last {
                let _ = self.journal.subscribe().wait_for(|journal| journal.flowing == 0).await;
            }
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-length: {len}\r\ncontent-range: bytes {start}-{last}/{of}\r\n\r\n"
            );
            socket.write_all(head.as_bytes()).await?;
            self.send(&socket, blob, whole.slice(range), &mut flow).await?;
            self.note(blob, Seen::Ended);
        }
    }

    async fn send(
        &self,
        socket: &TcpStream,
        blob: Digest,
        mut rest: Bytes,
        flow: &mut Flow<'_>,
    ) -> io::Result<()> {
        while !rest.is_empty() {
            while timeout(STALLED, socket.writable()).await.is_err() {
                flow.stands(true);
            }
            flow.stands(false);
            let piece = rest.len().min(PIECE);
            self.line.take(piece as u64).await;
            match socket.try_write(&rest[..piece]) {
                Ok(sent) => {
                    rest.advance(sent);
                    self.note(blob, Seen::Sent(sent as u64));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn note(&self, blob: Digest, seen: Seen) {
        self.journal.send_modify(|journal| journal.entries.push((blob, seen)));
    }
}

/// The blob and the range that the next request is for; `None` once the client has gone.
pub(crate) async fn request(socket: &mut TcpStream) -> io::Result<Option<(Digest, Range<usize>)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let path = head.split(' ').nth(1).unwrap().split('?').next().unwrap();
    let blob = path.rsplit('/').next().unwrap().parse().unwrap();
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap();
    let (start, last) = range.split_once('-').unwrap();
    Ok(Some((blob, start.parse().unwrap()..last.parse::<usize>().unwrap() + 1)))
}

/// An answer that somebody reads, or not, until it is dropped.
struct Flow<'j> {
    journal: &'j watch::Sender<Journal>,
    stands: bool,
}

impl Flow<'_> {
    fn stands(&mut self, stands: bool) {
        if stands != self.stands {
            self.stands = stands;
            self.journal.send_modify(|journal| match stands {
                true => journal.flowing -= 1,
                false => journal.flowing += 1,
            });
        }
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        self.stands(true);
    }
}
