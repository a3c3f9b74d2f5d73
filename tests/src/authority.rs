//! Certificate authorities of one's own, and what they issue, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::process::run;
use crate::scratch::Scratch;

/// An authority, in a directory of its own.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    name: String,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, in the directory `name` of the scratch.
    pub fn new(scratch: &Scratch, name: &str) -> Result<Self> {
        let authority = Self { dir: scratch.dir(name)?, name: name.to_owned() };
        run(&mut authority.request(scratch, "ca", name))?;
        Ok(authority)
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate for whoever answers at an address.
    pub fn server(&self, scratch: &Scratch, address: std::net::IpAddr) -> Result<Issued> {
        self.issue(scratch, "server", &format!("subjectAltName=IP:{address}"))
    }

    /// A certificate for a client.
    pub fn client(&self, scratch: &Scratch) -> Result<Issued> {
        self.issue(scratch, "client", "extendedKeyUsage=clientAuth")
    }

    fn issue(&self, scratch: &Scratch, name: &str, extension: &str) -> Result<Issued> {
        let mut command = self.request(scratch, name, &format!("{name}.{}", self.name));
        command.args(["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]);
        run(command.args(["-addext", extension]))?;
        let [certificate, key] = ["pem", "key"].map(|kind| self.dir.join(name).with_extension(kind));
        Ok(Issued { certificate, key })
    }

    /// What makes a key and a certificate of that subject.
    fn request(&self, scratch: &Scratch, name: &str, subject: &str) -> Command {
        let mut command = scratch.command("openssl");
        command.current_dir(&self.dir);
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-days", "2", "-subj", &format!("/CN={subject}")]);
        command.arg("-keyout").arg(Path::new(name).with_extension("key"));
        command.arg("-out").arg(Path::new(name).with_extension("pem"));
        command
    }
}
