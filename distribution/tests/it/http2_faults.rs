//! HTTP/2 servers that break off in the middle of a body: a stream is reset, or the server says that it goes (GOAWAY). The rest is
//! asked for again, and nothing twice.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use h2::Reason;
use h2::server::SendResponse;
use jaunt_distribution::{Client, ClientConfig, HostSettings};
use jaunt_formats::Digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, Issued, certs_dir};
use crate::support::{RawServer, config, content, repository_at};

const LEN: usize = 300_000;
/// Less than any client's window: a server can send it without hearing of it.
const SENT: usize = 40_000;

/// What becomes of the first body, once the client has [`SENT`] bytes of it.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// RST_STREAM: the connection goes on.
    Reset(Reason),
    /// GOAWAY, and the connection ends.
    Gone(Reason),
    /// GOAWAY, with the stream still answered.
    Going,
}

/// What all connections to a server have in common.
struct Script {
    bytes: Bytes,
    fate: Fate,
    /// The client has what was sent.
    arrived: Notify,
    /// For each request, the number of its connection and what it asked for.
    asked: Mutex<Vec<(usize, Range<usize>)>>,
}

impl Script {
    async fn serve(self: Arc<Self>, tls: TlsAcceptor, number: usize, stream: TcpStream) {
        let Ok(stream) = tls.accept(stream).await else { return };
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        loop {
            let next = tokio::select! {
                next = connection.accept() => next,
                reason = self.is_gone(), if number == 0 => {
                    connection.abrupt_shutdown(reason);
                    connection.accept().await
                }
            };
            let Some(Ok((request, respond))) = next else { return };
            let range = range_of(request.headers()["range"].to_str().unwrap());
            let is_first = {
                let mut asked = self.asked.lock().unwrap();
                asked.push((number, range.clone()));
                asked.len() == 1
            };
            if is_first && matches!(self.fate, Fate::Going) {
                connection.graceful_shutdown();
            }
            tokio::spawn(self.clone().answer(respond, range, is_first));
        }
    }

    /// When the server ends the connection, and why.
    async fn is_gone(&self) -> Reason {
        let Fate::Gone(reason) = self.fate else { return std::future::pending().await };
        self.arrived.notified().await;
        reason
    }

    async fn answer(self: Arc<Self>, mut respond: SendResponse<Bytes>, range: Range<usize>, is_first: bool) {
        let says = format!("bytes {}-{}/{}", range.start, range.end - 1, self.bytes.len());
        let head = http::Response::builder().status(206).header("content-range", says);
        let head = head.header("content-length", range.len()).body(()).unwrap();
        let Ok(mut body) = respond.send_response(head, false) else { return };
        let cut = if is_first { range.start + SENT } else { range.start };
        let _ = body.send_data(self.bytes.slice(range.start..cut), false);
        match (is_first, self.fate) {
            (true, Fate::Reset(reason)) => {
                self.arrived.notified().await;
                return body.send_reset(reason);
            }
            // Until the connection's end.
            (true, Fate::Gone(_)) => std::future::pending().await,
            (true, Fate::Going) => self.arrived.notified().await,
            (false, _) => {}
        }
        let _ = body.send_data(self.bytes.slice(cut..range.end), true);
    }
}

fn range_of(header: &str) -> Range<usize> {
    let (first, last) = header.trim_start_matches("bytes=").split_once('-').unwrap();
    first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
}

fn acceptor(issued: &Issued) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(&issued.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&issued.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut tls = versions.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(tls))
}

/// Reads a blob's middle, and then its first bytes, from a server that does that to the first answer. What it was asked for.
async fn read_both(fate: Fate) -> Option<Vec<(usize, Range<usize>)>> {
    let authority = Authority::new()?;
    let tls = acceptor(&authority.server("127.0.0.1"));
    let bytes = content(LEN);
    let script = Arc::new(Script {
        bytes: bytes.clone().into(),
        fate,
        arrived: Notify::new(),
        asked: Mutex::default(),
    });
    let serving = script.clone();
    let server =
        RawServer::start(move |number, stream| serving.clone().serve(tls.clone(), number, stream)).await;
    let settings = certs_dir(&server.address, &[("ca.crt", &authority.certificate())]);
    let hosts = HostSettings { directories: vec![settings.path().to_owned()], ..HostSettings::default() };
    let client = Client::new(ClientConfig { hosts, ..config() }).unwrap();
    let (repository, digest) = (repository_at(&server.address), Digest::of(&bytes));
    for range in [1000..LEN - 1000, 0..1000] {
        let wanted = range.start as u64..range.end as u64;
        let mut stream = client.blob_range_stream(&repository, &digest, wanted);
        let mut got = Vec::new();
        while let Some(piece) = stream.next().await {
            got.extend_from_slice(&piece.unwrap());
            if got.len() == SENT {
                script.arrived.notify_one();
            }
        }
        assert!(got == bytes[range], "{fate:?}");
    }
    Some(script.asked.lock().unwrap().clone())
}

const FIRST: Range<usize> = 1000..LEN - 1000;
const REST: Range<usize> = 1000 + SENT..LEN - 1000;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reset_stream_did_not_bring_is_asked_for_on_the_same_connection() {
    for reason in [Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM, Reason::CANCEL, Reason::NO_ERROR] {
        let Some(asked) = read_both(Fate::Reset(reason)).await else { return };
        assert_eq!(asked, [(0, FIRST), (0, REST), (0, 0..1000)], "{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_that_is_gone_did_not_bring_is_asked_for_on_another_connection() {
    for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR] {
        let Some(asked) = read_both(Fate::Gone(reason)).await else { return };
        assert_eq!(asked, [(0, FIRST), (1, REST), (1, 0..1000)], "{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_going_ends_its_answer_and_is_asked_for_more_on_another_connection() {
    let Some(asked) = read_both(Fate::Going).await else { return };
    assert_eq!(asked, [(0, FIRST), (1, 0..1000)]);
}
