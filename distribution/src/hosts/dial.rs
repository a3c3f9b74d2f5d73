//! How a host is connected to: trust, identity, proxy and patience, loaded and checked.
//!
//! Hosts that are dialled alike share their connections, so a [`Dial`] knows its fingerprint: a digest of
//! all that is in it. A renewed certificate makes another one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jaunt_formats::Digest;
use reqwest::Url;
use rustls::pki_types::CertificateDer;

use crate::hosts::error::HostsError;
use crate::hosts::pem;
use crate::hosts::settings::TlsSettings;

/// How a host is connected to. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dial {
    parts: Arc<Parts>,
    fingerprint: Digest,
}

#[derive(Clone)]
pub(crate) struct Parts {
    /// Trusted besides the system's.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    /// Chain and key, as PEM.
    pub(crate) identity: Option<Vec<u8>>,
    pub(crate) skip_verify: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) proxy: Option<Url>,
}

impl Dial {
    /// Loads a host's own settings and, behind them, those that count for all.
    pub(crate) fn load(
        own: &TlsSettings,
        all: &TlsSettings,
        connect_timeout: Duration,
        proxy: Option<Url>,
    ) -> Result<Self, HostsError> {
        let files = own.authorities.iter().chain(&all.authorities);
        let mut authorities = Vec::new();
        for file in files {
            authorities.extend(pem::authorities(file)?);
        }
        let clients = if own.client.is_empty() { &all.client } else { &own.client };
        if let [used, _, ..] = clients.as_slice() {
            tracing::warn!(used = %used.certificate.display(), "of several client certificates the first is used");
        }
        let identity = clients.first().map(pem::identity).transpose()?;
        let skip_verify = own.skip_verify || all.skip_verify;
        Ok(Self::new(Parts { authorities, identity, skip_verify, connect_timeout, proxy }))
    }

    fn new(parts: Parts) -> Self {
        let fingerprint = parts.fingerprint();
        Self { parts: Arc::new(parts), fingerprint }
    }

    /// For another origin that this host leads to: its object storage or token service. That is trusted
    /// as the host is, but neither blindly nor with our identity.
    pub(crate) fn elsewhere(&self) -> Self {
        if self.parts.identity.is_none() && !self.parts.skip_verify {
            return self.clone();
        }
        Self::new(Parts { identity: None, skip_verify: false, ..self.parts().clone() })
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(crate) fn fingerprint(&self) -> Digest {
        self.fingerprint
    }
}

impl Parts {
    fn fingerprint(&self) -> Digest {
        let mut all = Vec::new();
        let mut add = |part: &[u8]| {
            all.extend_from_slice(&(part.len() as u64).to_le_bytes());
            all.extend_from_slice(part);
        };
        add(&[u8::from(self.skip_verify), u8::from(self.identity.is_some())]);
        add(&self.connect_timeout.as_nanos().to_le_bytes());
        add(self.proxy.as_ref().map_or("", Url::as_str).as_bytes());
        add(self.identity.as_deref().unwrap_or_default());
        self.authorities.iter().for_each(|authority| add(authority));
        Digest::of(&all)
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dial").field(&self.fingerprint).finish()
    }
}
