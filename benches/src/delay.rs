//! A line to a server far away: a proxy that hands on every byte, later.
//!
//! What it imitates: the round trip of opening a connection and of each exchange, and a rate that all connections
//! share from the server to its clients. What it does not: loss, and TCP's slow start; both would make lazy reading of
//! many ranges look worse for reasons that are the line's and not the reader's.
//!
//! Bytes are stamped when they are read and written when their time has come, by two threads a direction, so that any
//! number of them is on its way at once. Threads wake somewhat late, on a busy machine above all, so a comparison measures the round
//! trip *through* the proxy ([`round_trip`]) instead of believing its setting.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Bytes handed on at a time: what the line is shared by, short beside a span.
const PIECE: usize = 16 << 10;
/// Pieces on their way in one direction of one connection: with 4 MiB, 10 ms of round trip leave room for 400 MB/s.
const PIECES: usize = 256;

/// How long the line is, and how wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// There and back, on top of what the server is away already.
    pub round_trip: Duration,
    /// Bytes a second towards the clients; `None` is as fast as it goes.
    pub rate: Option<u64>,
}

/// A running proxy. Dropping it ends its connections.
#[derive(Debug)]
pub struct DelayProxy {
    address: SocketAddr,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    server: SocketAddr,
    length: Length,
    /// When the last byte that was let through will have passed.
    free: Mutex<Instant>,
    carried: AtomicU64,
    /// CPU time of its threads, in nanoseconds.
    cpu: AtomicU64,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// Bytes, and when they arrive at the other end.
type Piece = (Instant, Vec<u8>);

impl DelayProxy {
    /// Listens on loopback for `server`.
    ///
    /// # Errors
    /// No address is free.
    pub fn start(server: SocketAddr, length: Length) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line {
            server,
            length,
            free: Mutex::new(Instant::now()),
            carried: AtomicU64::new(0),
            cpu: AtomicU64::new(0),
            over: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let accepting = line.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.over.load(Ordering::SeqCst) {
                    break;
                }
                // A connection that cannot be passed on is closed, as a line that is cut would be.
                let _ = client.and_then(|client| accepting.connect(client));
            }
        });
        Ok(Self { address, line })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes handed on to clients so far.
    pub fn carried(&self) -> u64 {
        self.line.carried.load(Ordering::Relaxed)
    }

    /// CPU time it has used so far for what it handed on: it has the processors of what is measured.
    pub fn cpu_seconds(&self) -> f64 {
        Duration::from_nanos(self.line.cpu.load(Ordering::Relaxed)).as_secs_f64()
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.line.over.store(true, Ordering::SeqCst);
        // Wakes the listener, so that its port is free again.
        let _ = TcpStream::connect(self.address);
        for stream in self.line.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Line {
    fn connect(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            self.open.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
        }
        // The handshake is a round trip of its own, before which nothing leaves.
        let opened = Instant::now() + self.length.round_trip;
        let (to_server, to_client) = (server.try_clone()?, client.try_clone()?);
        self.clone().carry(client, to_server, opened, None);
        self.clone().carry(server, to_client, opened, self.length.rate);
        Ok(())
    }

    /// One direction, until its end.
    fn carry(self: Arc<Self>, mut from: TcpStream, to: TcpStream, opened: Instant, rate: Option<u64>) {
        let counted = from.peer_addr().is_ok_and(|peer| peer == self.server);
        let (sender, receiver) = sync_channel(PIECES);
        let line = self.clone();
        thread::spawn(move || line.deliver(&receiver, to, counted));
        thread::spawn(move || {
            let _ = self.take_in(&mut from, &sender, opened, rate);
        });
    }

    fn take_in(
        &self,
        from: &mut TcpStream,
        sender: &SyncSender<Piece>,
        opened: Instant,
        rate: Option<u64>,
    ) -> io::Result<()> {
        let (mut buffer, mut meter) = (vec![0; PIECE], Meter::new(&self.cpu));
        loop {
            meter.look();
            let len = from.read(&mut buffer)?;
            let left = Instant::now().max(opened);
            let passed = rate.map_or(left, |rate| self.pass(len, left, rate));
            let piece = (passed + self.length.round_trip / 2, buffer[..len].to_vec());
            if sender.send(piece).is_err() || len == 0 {
                return Ok(());
            }
        }
    }

    /// Writes each piece when its time has come; an empty one is the end.
    fn deliver(&self, pieces: &Receiver<Piece>, mut to: TcpStream, counted: bool) {
        let mut meter = Meter::new(&self.cpu);
        // Without it, sleeps would end 50 µs late.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        for (due, bytes) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if counted {
                self.carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                break;
            }
            meter.look();
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    /// When `len` bytes that are ready at `ready` are through the narrow part of the line, which is theirs meanwhile.
    fn pass(&self, len: usize, ready: Instant, rate: u64) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(ready) + Duration::from_secs_f64(len as f64 / rate as f64);
        *free
    }
}

/// Counts the CPU time of the thread that has it, from one look to the next.
struct Meter<'c> {
    counter: &'c AtomicU64,
    seen: Duration,
}

impl<'c> Meter<'c> {
    fn new(counter: &'c AtomicU64) -> Self {
        Self { counter, seen: Duration::ZERO }
    }

    fn look(&mut self) {
        let now = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or(self.seen);
        let used = now.saturating_sub(self.seen).as_nanos();
        self.counter.fetch_add(u64::try_from(used).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.seen = now;
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.look();
    }
}

/// How long one exchange of a few bytes takes on an open connection to an HTTP server at `address`: the time until the
/// answer to `HEAD path` begins.
///
/// # Errors
/// The server does not answer.
pub fn round_trip(address: SocketAddr, path: &str) -> io::Result<Duration> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!("HEAD {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut buffer = [0; 4096];
    let mut exchange = || -> io::Result<Duration> {
        let begun = Instant::now();
        stream.write_all(request.as_bytes())?;
        match stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(begun.elapsed()),
        }
    };
    // The first one also opens the connection to the server.
    exchange()?;
    exchange()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that gives back what it is sent, connection after connection.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = stream.unwrap();
                let mut writer = reader.try_clone().unwrap();
                thread::spawn(move || io::copy(&mut reader, &mut writer));
            }
        });
        address
    }

    fn exchange(stream: &mut TcpStream, len: usize) -> Duration {
        let sent: Vec<u8> = (0..=250).cycle().take(len).collect();
        let begun = Instant::now();
        let mut writer = stream.try_clone().unwrap();
        let writing = sent.clone();
        let writer = thread::spawn(move || writer.write_all(&writing));
        let mut received = vec![0; len];
        stream.read_exact(&mut received).unwrap();
        writer.join().unwrap().unwrap();
        assert!(sent == received, "bytes were changed on their way");
        begun.elapsed()
    }

    #[test]
    fn no_answer_comes_before_its_round_trip_and_the_first_waits_for_the_handshake() {
        let round_trip = Duration::from_millis(20);
        let proxy = DelayProxy::start(echo(), Length { round_trip, rate: None }).unwrap();
        let begun = Instant::now();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        exchange(&mut stream, 3);
        assert!(begun.elapsed() >= round_trip * 2);
        assert!(exchange(&mut stream, 3) >= round_trip);
        assert_eq!(proxy.carried(), 6);
    }

    #[test]
    fn connections_share_the_rate() {
        let length = Length { round_trip: Duration::ZERO, rate: Some(10_000_000) };
        let proxy = DelayProxy::start(echo(), length).unwrap();
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| exchange(&mut TcpStream::connect(proxy.address()).unwrap(), 500_000));
            }
        });
        assert!(begun.elapsed() >= Duration::from_millis(100));
        assert_eq!(proxy.carried(), 1_000_000);
        // Two million bytes were read and written; threads that wait for their time use none.
        let used = proxy.cpu_seconds();
        assert!(used > 0.0 && used < begun.elapsed().as_secs_f64() * 8.0, "{used}");
    }

    #[test]
    fn a_dropped_proxy_ends_its_connections() {
        let length = Length { round_trip: Duration::ZERO, rate: None };
        let proxy = DelayProxy::start(echo(), length).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        exchange(&mut stream, 10);
        drop(proxy);
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }
}
