//! A registry's answer to a range, without a registry: blobs in memory, over HTTP/1.1 on loopback.
//!
//! A real registry takes milliseconds for a range and shares the processors that are measured; this one takes
//! microseconds, so what is left is the line's and the reader's.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use jaunt_formats::Digest;

/// By their digests as text.
type Blobs = HashMap<String, Bytes>;

/// What is asked for, as far as it matters here.
struct Request {
    method: String,
    /// What the path ends with.
    name: String,
    range: Option<Range<u64>>,
}

/// A running server; it stops listening when it is dropped.
#[derive(Debug)]
pub struct BlobServer {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl BlobServer {
    /// Serves `blobs`, each under any path that ends with its digest.
    ///
    /// # Errors
    /// No address is free.
    pub fn start(blobs: impl IntoIterator<Item = (Digest, Bytes)>) -> io::Result<Self> {
        let blobs: Arc<Blobs> =
            Arc::new(blobs.into_iter().map(|(digest, blob)| (digest.to_string(), blob)).collect());
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (address, over) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let stop = over.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let blobs = blobs.clone();
                // A client that goes away has seen enough.
                thread::spawn(move || serve(&client, &blobs));
            }
        });
        Ok(Self { address, over })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for BlobServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(client: &TcpStream, blobs: &Blobs) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(client), client);
    while let Some(Request { method, name, range }) = request(&mut reader)? {
        let blob = blobs.get(&name);
        let len = blob.map_or(0, |blob| blob.len() as u64);
        let (status, range, extra) = match (blob, range) {
            (None, _) => ("404 Not Found", 0..0, String::new()),
            (Some(_), Some(range)) if range.start < range.end && range.end <= len => {
                let extra = format!("Content-Range: bytes {}-{}/{len}\r\n", range.start, range.end - 1);
                ("206 Partial Content", range, extra)
            }
            _ => ("200 OK", 0..len, String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n{extra}\r\n",
            range.end - range.start
        );
        writer.write_all(head.as_bytes())?;
        if let Some(blob) = blob.filter(|_| method != "HEAD") {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
            writer.write_all(&blob[at(range.start)..at(range.end)])?;
        }
    }
    Ok(())
}

/// The next request; `None` at the end.
fn request(reader: &mut impl io::BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let Some(method) = words.next() else { return Ok(None) };
    let path = words.next().unwrap_or_default();
    let name = path.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
    let mut range = None;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(Some(Request { method, name, range }));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = value.trim().strip_prefix("bytes=").and_then(|range| {
                let (start, last) = range.split_once('-')?;
                Some(start.parse().ok()?..last.parse::<u64>().ok()? + 1)
            });
        }
    }
}

/// A client that keeps its connection, and does nothing but wait for what it asks for.
#[derive(Debug)]
pub struct Asker {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Asker {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(host: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(64 << 10, stream), host })
    }

    /// The bytes of a range of a blob.
    ///
    /// # Errors
    /// They do not come.
    pub fn get(&mut self, blob: &Digest, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let (host, start, last) = (self.host, range.start, range.end.saturating_sub(1));
        let request = format!("GET /{blob} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{last}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
        io::Read::read_exact(&mut self.stream, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_blobs_come_one_after_the_other_on_one_connection() {
        let one: Bytes = (0..=255).cycle().take(100_000).collect();
        let other: Bytes = one.iter().rev().copied().collect();
        let blobs = [one, other].map(|blob| (Digest::of(&blob), blob));
        let server = BlobServer::start(blobs.clone()).unwrap();
        let mut asker = Asker::connect(server.address()).unwrap();
        for (start, end) in [(0, 1), (99_999, 100_000), (5, 70_000)] {
            let range = start as u64..end as u64;
            for (digest, blob) in &blobs {
                assert_eq!(asker.get(digest, &range).unwrap(), &blob[start..end]);
            }
        }
    }

    #[test]
    fn a_blob_that_is_not_there_is_not_found() {
        let server = BlobServer::start([]).unwrap();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"GET /v2/r/blobs/sha256:00 HTTP/1.1\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 404 Not Found\r\n");
    }
}
