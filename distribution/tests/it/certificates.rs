//! Authorities and the certificates they issue, made by openssl.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An authority, in a directory of its own.
pub struct Authority {
    directory: tempfile::TempDir,
}

/// A certificate and its key.
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new one; `None`, and said so, where there is no openssl.
    pub fn new() -> Option<Self> {
        let authority = Self { directory: tempfile::tempdir().unwrap() };
        let made = authority.openssl(&["-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"]);
        if !made {
            eprintln!("skipped: openssl is not installed");
        }
        made.then_some(authority)
    }

    pub fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate for a server at an address.
    pub fn server(&self, address: &str) -> Issued {
        self.issue("server", &format!("subjectAltName=IP:{address}"))
    }

    /// A certificate for a client.
    pub fn client(&self) -> Issued {
        self.issue("client", "extendedKeyUsage=clientAuth")
    }

    fn issue(&self, name: &str, extension: &str) -> Issued {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        let mut arguments = vec!["-subj", &subject, "-keyout", &key, "-out", &certificate, "-CA", "ca.pem"];
        arguments.extend([
            "-CAkey",
            "ca.key",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-addext",
            extension,
        ]);
        assert!(self.openssl(&arguments), "openssl cannot issue a certificate");
        Issued { certificate: self.path(&certificate), key: self.path(&key) }
    }

    fn openssl(&self, arguments: &[&str]) -> bool {
        let request = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ];
        let made = Command::new("openssl")
            .args(request)
            .args(arguments)
            .current_dir(self.directory.path())
            .stderr(Stdio::null())
            .status();
        made.is_ok_and(|status| status.success())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A directory of settings for one host, with these files in it.
pub fn certs_dir(host: &str, files: &[(&str, &Path)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(host);
    std::fs::create_dir(&own).unwrap();
    for (name, from) in files {
        std::fs::copy(from, own.join(name)).unwrap();
    }
    directory
}
