//! A registry's answer to a range, without a registry: one blob in memory, over HTTP/1.1 on loopback.
//!
//! A real registry takes milliseconds for a range and shares the processors that are measured; this one takes
//! microseconds, so what is left is the line's and the reader's.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;

/// A running server; it stops listening when it is dropped.
#[derive(Debug)]
pub struct BlobServer {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl BlobServer {
    /// Serves `blob`, whatever path is asked for.
    ///
    /// # Errors
    /// No address is free.
    pub fn start(blob: Bytes) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (address, over) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let stop = over.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let blob = blob.clone();
                // A client that goes away has seen enough.
                thread::spawn(move || serve(&client, &blob));
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

fn serve(client: &TcpStream, blob: &Bytes) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(client), client);
    loop {
        let Some((method, range)) = request(&mut reader)? else { return Ok(()) };
        let len = blob.len() as u64;
        let (status, range, extra) = match range {
            Some(range) if range.start < range.end && range.end <= len => {
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
        if method != "HEAD" {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
            writer.write_all(&blob[at(range.start)..at(range.end)])?;
        }
    }
}

/// The method and the range of the next request; `None` at the end.
fn request(reader: &mut impl io::BufRead) -> io::Result<Option<(String, Option<Range<u64>>)>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(method) = line.split(' ').next().filter(|method| !method.is_empty()).map(str::to_owned) else {
        return Ok(None);
    };
    let mut range = None;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(Some((method, range)));
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

    /// The bytes of a range.
    ///
    /// # Errors
    /// They do not come.
    pub fn get(&mut self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let (host, start, last) = (self.host, range.start, range.end.saturating_sub(1));
        let request = format!("GET /blob HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{last}\r\n\r\n");
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
    fn ranges_come_one_after_the_other_on_one_connection() {
        let blob: Bytes = (0..=255).cycle().take(100_000).collect();
        let server = BlobServer::start(blob.clone()).unwrap();
        let mut asker = Asker::connect(server.address()).unwrap();
        for (start, end) in [(0, 1), (99_999, 100_000), (5, 70_000)] {
            let range = start as u64..end as u64;
            assert_eq!(asker.get(&range).unwrap(), &blob[start..end]);
        }
    }
}
