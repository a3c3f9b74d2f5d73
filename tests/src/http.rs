//! As much HTTP as it takes to put things into a test's own registry and look at them.
//!
//! HTTP/1.0 without keep-alive: the answer ends where the connection does, so there is nothing to get
//! wrong, and nothing of our own client, which is under test, is used.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{At as _, Error, Result};

/// A registry that does not answer for this long is broken.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case.
    pub headers: Vec<(String, String)>,
    /// Everything after the headers.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    request_within(TIMEOUT, address, method, target, headers, body)
}

/// The same, of a server that may not keep silent for longer than `limit`.
pub fn request_within(
    limit: Duration,
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let what = format!("{method} http://{address}{target}");
    let mut head = format!("{method} {target} HTTP/1.0\r\nHost: {address}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect_timeout(&address, limit).at(&what)?;
    stream.set_read_timeout(Some(limit)).at(&what)?;
    stream.write_all(head.as_bytes()).at(&what)?;
    // A server may answer and close before it has read a body it refuses: its answer says more.
    let sent = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).at(&what)?;
    sent.at(&what)?;
    parse(&answer).ok_or_else(|| Error::unexpected(what, "no HTTP answer"))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Response { status, headers, body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let response = parse(b"HTTP/1.0 202 Accepted\r\nLocation: /a\r\nX: y: z\r\n\r\nbody").unwrap();
        assert_eq!((response.status, response.header("location")), (202, Some("/a")));
        assert_eq!((response.header("x"), &response.body[..]), (Some("y: z"), &b"body"[..]));
        assert!(parse(b"").is_none() && parse(b"nonsense\r\n\r\n").is_none());
    }
}
