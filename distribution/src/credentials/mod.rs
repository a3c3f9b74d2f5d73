//! Credentials: those that were handed over, and those from the files that logins write, with the helpers that these
//! name.
//!
//! The files are read anew for each token, so a renewed login counts at once. Sources are tried in order, and the
//! first that has a credential for a repository or its registry wins; the next one is for when that is refused.
//! Invariant: a [`Secret`] prints as `<secret>`; nothing of a file or of a helper's output is ever repeated.

mod file;
mod given;
mod helper;
mod secrets;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::files::{is_absent, read_small};
use file::{AuthFile, Entry};
pub use given::{GivenLogin, GivenLogins};

/// A password, token or identity token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret into its wrapper.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// What a registry's login left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// For Basic authentication, at the registry or at its token service.
    Password {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token for the token service.
    IdentityToken(Secret),
    /// A bearer token for the registry itself.
    RegistryToken(Secret),
}

/// Why credentials could not be read. That there are none is not an error.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file exists but cannot be read.
    #[error("cannot read credentials from {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file, or its entry for the registry, makes no sense.
    #[error("credentials for {registry} in {} are malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The registry looked for.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// A credential helper failed.
    #[error("{} names a credential helper for {registry} that {reason}", path.display())]
    Helper {
        /// The file.
        path: PathBuf,
        /// The registry looked for.
        registry: String,
        /// What it did.
        reason: String,
    },
}

impl Credential {
    /// The login in the field `auth` of many a file and message: `user:password` in base64.
    ///
    /// # Errors
    /// What is wrong with it, without any of it.
    pub fn from_auth(auth: &str) -> Result<Self, &'static str> {
        file::decode(auth)
    }
}

/// Where credentials are looked up.
#[derive(Clone, Debug)]
pub struct Credentials {
    given: GivenLogins,
    secrets: Arc<[PathBuf]>,
    files: Arc<[PathBuf]>,
}

/// Credentials as they are found, in the order of their sources. The files of logins are one source: of them the first
/// that has something counts, and no other.
struct Walk<'a> {
    given: std::vec::IntoIter<Credential>,
    secrets: std::vec::IntoIter<PathBuf>,
    files: std::vec::IntoIter<PathBuf>,
    host: &'a str,
    repository: &'a str,
    failure: Option<CredentialsError>,
}

impl Credentials {
    /// Looks them up in these files, in this order.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { given: GivenLogins::default(), secrets: Arc::default(), files: files.into() }
    }

    /// The same, after those that were handed over, and those in Kubernetes' secrets: files, or directories of them.
    pub(crate) fn after(self, given: GivenLogins, secrets: Vec<PathBuf>) -> Self {
        Self { given, secrets: secrets.into(), ..self }
    }

    /// The credential for a repository of a host as references name it, if there is one.
    pub async fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>, CredentialsError> {
        let mut walk = self.walk(host, repository).await;
        let found = walk.next().await;
        walk.outcome(found)
    }

    /// The one to try when `refused` was of no use: what follows it, else what comes before it, else itself, which may
    /// mean something else at the token service by now.
    pub(crate) async fn next(
        &self,
        host: &str,
        repository: &str,
        refused: &Credential,
    ) -> Result<Option<Credential>, CredentialsError> {
        let (mut before, mut seen) = (None, false);
        let mut walk = self.walk(host, repository).await;
        while let Some(found) = walk.next().await {
            if found == *refused {
                seen = true;
            } else if seen {
                return Ok(Some(found));
            } else {
                before.get_or_insert(found);
            }
        }
        let last = before.or_else(|| seen.then(|| refused.clone()));
        walk.outcome(last)
    }

    async fn walk<'a>(&self, host: &'a str, repository: &'a str) -> Walk<'a> {
        let (given, secrets) = (self.given.of(host, repository), secrets::files(&self.secrets).await);
        let files: Vec<PathBuf> = self.files.iter().cloned().collect();
        let (given, secrets, files) = (given.into_iter(), secrets.into_iter(), files.into_iter());
        Walk { given, secrets, files, host, repository, failure: None }
    }
}

impl Walk<'_> {
    async fn next(&mut self) -> Option<Credential> {
        if let Some(given) = self.given.next() {
            return Some(given);
        }
        while let Some(path) = self.secrets.next() {
            if let Some(found) = self.look_into(&path).await {
                return Some(found);
            }
        }
        while let Some(path) = self.files.next() {
            if let Some(found) = self.look_into(&path).await {
                self.files = Vec::new().into_iter();
                return Some(found);
            }
        }
        None
    }

    async fn look_into(&mut self, path: &PathBuf) -> Option<Credential> {
        let lookup = Lookup { path, host: self.host, repository: self.repository };
        match lookup.run().await {
            Ok(found) => found,
            // A helper that is not installed here must not hide what another file has.
            Err(error) => {
                self.failure.get_or_insert(error);
                None
            }
        }
    }

    fn outcome(self, found: Option<Credential>) -> Result<Option<Credential>, CredentialsError> {
        match (found, self.failure) {
            (None, Some(failure)) => Err(failure),
            (found, _) => Ok(found),
        }
    }
}

/// One look into one file.
struct Lookup<'a> {
    path: &'a PathBuf,
    host: &'a str,
    repository: &'a str,
}

impl Lookup<'_> {
    async fn run(&self) -> Result<Option<Credential>, CredentialsError> {
        let Some(file) = self.read().await? else { return Ok(None) };
        if let Some(entry) = file.namespace(self.host, self.repository)
            && let Some(credential) = self.entry(entry)?
        {
            return Ok(Some(credential));
        }
        if let Some((server, helper)) = file.helper(self.host) {
            return self.ask(helper, server).await;
        }
        let entry = file.host(self.host).map(|entry| self.entry(entry)).transpose()?.flatten();
        match (entry, &file.creds_store) {
            (None, Some(store)) if !store.is_empty() => {
                for server in file::servers(self.host) {
                    if let Some(credential) = self.ask(store, server).await? {
                        return Ok(Some(credential));
                    }
                }
                Ok(None)
            }
            (entry, _) => Ok(entry),
        }
    }

    /// The file's content; `None` when there is no such file.
    async fn read(&self) -> Result<Option<AuthFile>, CredentialsError> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let path = if path.is_dir() { path.join("config.json") } else { path };
            read_small(&path)
        });
        let unreadable = |source| CredentialsError::Unreadable { path: self.path.clone(), source };
        match read.await.unwrap_or_else(|stopped| Err(io::Error::other(stopped))) {
            Ok(text) => AuthFile::parse(&text).map(Some).map_err(|reason| self.malformed(reason)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(unreadable(source)),
        }
    }

    fn entry(&self, entry: &Entry) -> Result<Option<Credential>, CredentialsError> {
        entry.credential().map_err(|reason| self.malformed(reason.to_owned()))
    }

    async fn ask(&self, helper: &str, server: &str) -> Result<Option<Credential>, CredentialsError> {
        helper::ask(helper, server).await.map_err(|reason| CredentialsError::Helper {
            path: self.path.clone(),
            registry: self.host.to_owned(),
            reason,
        })
    }

    fn malformed(&self, reason: String) -> CredentialsError {
        CredentialsError::Malformed { path: self.path.clone(), registry: self.host.to_owned(), reason }
    }
}
