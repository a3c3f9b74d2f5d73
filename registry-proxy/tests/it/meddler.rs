//! A proxy before a registry that looks at each request first, and may do something about it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What becomes of a request.
pub enum Then {
    Pass,
    /// It is answered with this status, and the registry does not see it.
    Refuse(u16),
    /// Its connection breaks in the middle of the body.
    Break,
}

/// The proxy; it ends when dropped.
pub struct Meddler {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Meddler {
    /// Starts one. `hook` gets each request's method and path.
    pub fn start(registry: SocketAddr, hook: impl FnMut(&str, &str) -> Then + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ended, hook) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(hook)));
        let over = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for client in listener.incoming().flatten() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let hook = Arc::clone(&hook);
                    // A connection that breaks is for its client to tell.
                    scope.spawn(move || {
                        drop(serve(client, registry, |method, path| hook.lock().unwrap()(method, path)))
                    });
                }
            });
        });
        Self { address, ended, thread: Some(thread) }
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request on one connection: the registry is told that there will be no other.
fn serve(client: TcpStream, registry: SocketAddr, hook: impl FnOnce(&str, &str) -> Then) -> io::Result<()> {
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while from_client.read_line(&mut head)? > 0 && !head.ends_with("\r\n\r\n") {}
    let (request, headers) = head.split_once("\r\n").unwrap_or_default();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if path.is_empty() {
        return Ok(());
    }
    let mut client = client;
    let then = hook(method, path);
    if let Then::Break = then {
        io::copy(&mut from_client.take(10), &mut io::sink())?;
        return client.shutdown(Shutdown::Both);
    }
    if let Then::Refuse(status) = then {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client.write_all(answer.as_bytes())?;
        client.shutdown(Shutdown::Write)?;
        return io::copy(&mut from_client, &mut io::sink()).map(drop);
    }
    let upstream = TcpStream::connect(registry)?;
    (&upstream).write_all(format!("{request}\r\nConnection: close\r\n{headers}").as_bytes())?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut from_client, &mut &upstream);
        });
        let answered = io::copy(&mut (&upstream).take(u64::MAX), &mut client);
        let _ = client.shutdown(Shutdown::Both);
        answered.map(drop)
    })
}
