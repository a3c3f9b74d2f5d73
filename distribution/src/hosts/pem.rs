//! Certificates and keys from PEM files, checked as far as they can be before a connection is made.
//!
//! Invariant: nothing of a key is ever part of an error or of `Debug`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::files::read_small;
use crate::hosts::error::HostsError;
use crate::hosts::settings::ClientCertificate;

/// The certificates of authorities in a file, at least one.
pub(crate) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, HostsError> {
    let text = read_file(path)?;
    let mut found = Vec::new();
    for block in blocks(&text).filter(|block| block.is_certificate()) {
        let certificate = block.certificate(path)?;
        let mut store = RootCertStore::empty();
        store.add(certificate.clone()).map_err(|error| block.wrong(path, error.to_string()))?;
        found.push(certificate);
    }
    if found.is_empty() {
        return Err(HostsError::Pem {
            path: path.to_owned(),
            line: 1,
            reason: "no certificate in it".to_owned(),
        });
    }
    Ok(found)
}

/// A client certificate, its chain and its key as one PEM text. They belong together.
pub(crate) fn identity(client: &ClientCertificate) -> Result<Vec<u8>, HostsError> {
    let path = client.certificate.as_path();
    let key_path = client.key.as_deref().unwrap_or(path);
    let chain = blocks(&read_file(path)?)
        .filter(|block| block.is_certificate())
        .map(|block| block.certificate(path))
        .collect::<Result<Vec<_>, _>>()?;
    let missing =
        |path: &Path, what: &str| HostsError::Pem { path: path.to_owned(), line: 1, reason: what.to_owned() };
    if chain.is_empty() {
        return Err(missing(path, "no certificate in it"));
    }
    let key_text = read_file(key_path)?;
    let Some(block) = blocks(&key_text).find(Block::is_key) else {
        return Err(missing(key_path, "no private key in it that is not encrypted"));
    };
    let key = PrivateKeyDer::from_pem_slice(block.text)
        .map_err(|_| block.wrong(key_path, "the private key is not valid PEM".to_owned()))?;
    let pem = joined(&chain, &key);
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(
        |error| match error {
            rustls::Error::InconsistentKeys(_) => HostsError::Unpaired {
                path: path.to_owned(),
                reason: format!("the key in {} is another certificate's", key_path.display()),
            },
            // Its text could repeat what it was given.
            _ => block.wrong(key_path, "the private key or its certificate cannot be used".to_owned()),
        },
    )?;
    Ok(pem)
}

/// One `-----BEGIN …` to `-----END …` of a PEM file.
struct Block<'a> {
    /// The line it begins on, from 1.
    line: usize,
    label: &'a [u8],
    text: &'a [u8],
}

impl Block<'_> {
    fn is_certificate(&self) -> bool {
        self.label == b"CERTIFICATE"
    }

    fn is_key(&self) -> bool {
        matches!(self.label, b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY")
    }

    fn certificate(&self, path: &Path) -> Result<CertificateDer<'static>, HostsError> {
        let read = CertificateDer::from_pem_slice(self.text);
        read.map_err(|error| self.wrong(path, format!("the certificate is not valid PEM: {error}")))
    }

    fn wrong(&self, path: &Path, reason: String) -> HostsError {
        HostsError::Pem { path: path.to_owned(), line: self.line, reason }
    }
}

/// Every block of a PEM text. One that does not end reaches to the next, or to the end of the text.
fn blocks(text: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let mut starts = Vec::new();
    let mut offset = 0;
    for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if let Some(label) =
            line.trim_ascii().strip_prefix(b"-----BEGIN ").and_then(|rest| rest.strip_suffix(b"-----"))
        {
            starts.push((offset, number + 1, label));
        }
        offset += line.len();
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|start| start.0).chain([text.len()]).collect();
    let whole = starts.into_iter().zip(ends);
    whole.map(|((start, line, label), end)| Block {
        line,
        label,
        text: text.get(start..end).unwrap_or_default(),
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, HostsError> {
    read_small(path).map_err(|source| HostsError::Unreadable { path: path.to_owned(), source })
}

/// Writes chain and key as the HTTP client wants them: in one text, and nothing else in it.
fn joined(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> Vec<u8> {
    let block = |label: &str, der: &[u8]| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    };
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    let chain = chain.iter().map(|certificate| block("CERTIFICATE", certificate));
    chain.chain([block(label, key.secret_der())]).collect::<String>().into_bytes()
}
