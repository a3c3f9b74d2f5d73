//! When a container is ready: it has printed its line, or what it serves is answered.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::{Container, Pod, Probe, Readiness};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A start that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a server may take for an answer before it is asked anew.
const ANSWER: Duration = Duration::from_secs(60);
/// Between two connections that are refused: short beside any start, long beside what an attempt costs.
const PAUSE: Duration = Duration::from_millis(1);
/// How often it is looked whether the container still runs.
const LOOK: Duration = Duration::from_millis(100);

/// Waits for a container that is to be started.
#[derive(Debug)]
pub struct Waiting {
    readiness: Readiness,
    answer: Option<Receiver<Result<Instant>>>,
    over: Arc<AtomicBool>,
}

impl Waiting {
    /// Begins to ask, if it is to be asked. The container is to have the pod's network.
    pub fn begin(pod: &Pod, probe: Option<Probe>, readiness: &Readiness) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let answer = probe.map(|probe| {
            let space = File::open(pod.path()).at(pod.path())?;
            let ((sender, answer), over) = (channel(), over.clone());
            thread::spawn(move || {
                let entered = move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network));
                let asked = entered.at("the pod's network").map(|()| ask(probe, &over));
                // Nobody waits any more for a container that has failed.
                let _ = sender.send(asked);
            });
            Ok(answer)
        });
        Ok(Self { readiness: readiness.clone(), answer: answer.transpose()?, over })
    }

    /// When it was ready.
    pub fn ready(self, container: &mut Container) -> Result<Instant> {
        let Some(answer) = &self.answer else { return container.wait_ready(&self.readiness, LIMIT) };
        let begun = Instant::now();
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(answered) => return answered,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::unexpected(container.id(), "nobody asks whether it is ready"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Ok(None) = container.next_line(Duration::ZERO) {
                container.finish(LIMIT)?;
                return Err(Error::unexpected(container.id(), "ended well without being ready"));
            }
            if begun.elapsed() > LIMIT {
                let detail = format!("\n{}", container.said());
                return Err(Error::Timeout { what: container.id().to_owned(), waited: LIMIT, detail });
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Asks until there is the right answer, or nobody wants it any more; when that was.
fn ask(probe: Probe, over: &AtomicBool) -> Instant {
    while !over.load(Ordering::Relaxed) && !is_answered(probe).unwrap_or(false) {
        thread::sleep(PAUSE);
    }
    Instant::now()
}

fn is_answered(probe: Probe) -> io::Result<bool> {
    let (port, question, right) = match probe {
        Probe::Http(port) => (port, &b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"[..], " 200 "),
        Probe::Ping(port) => (port, &b"PING\r\n"[..], "+PONG"),
    };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(question)?;
    let mut answer = [0; 64];
    let len = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..len]).contains(right))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that gives these answers, one a connection.
    fn server(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 256]);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    #[test]
    fn only_the_right_answer_counts() {
        let http = server(&["HTTP/1.0 503 No\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]);
        assert!(!is_answered(Probe::Http(http)).unwrap());
        assert!(is_answered(Probe::Http(http)).unwrap());
        let redis = server(&["-LOADING\r\n", "+PONG\r\n"]);
        assert!(!is_answered(Probe::Ping(redis)).unwrap());
        assert!(is_answered(Probe::Ping(redis)).unwrap());
        assert!(is_answered(Probe::Ping(redis)).is_err());
    }
}
