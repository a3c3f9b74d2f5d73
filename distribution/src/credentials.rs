//! Credentials from Docker's configuration file and the helpers it names.
//!
//! The file is read anew for each token, so a renewed login counts at once. Invariant: a [`Secret`]
//! prints as `<secret>`; helpers' output is never repeated.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use tokio::sync::oneshot;

/// How long a helper may take: some ask another machine.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);

/// A password, token or identity token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one place that sends it.
    pub(crate) fn reveal(&self) -> &str {
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
pub(crate) enum Credential {
    /// For Basic authentication, at the registry or at its token service.
    Password { username: String, password: Secret },
    /// An OAuth2 refresh token for the token service.
    IdentityToken(Secret),
}

/// Why credentials could not be read. That there are none is not an error.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file exists but cannot be read.
    #[error("cannot read credentials from {}: {source}", path.display())]
    Unreadable {
        /// The configuration file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file, or its entry for the registry, makes no sense.
    #[error("credentials for {registry} in {} are malformed: {reason}", path.display())]
    Malformed {
        /// The configuration file.
        path: PathBuf,
        /// The registry looked for.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// A credential helper failed.
    #[error("{} names a credential helper for {registry} that {reason}", path.display())]
    Helper {
        /// The configuration file.
        path: PathBuf,
        /// The registry looked for.
        registry: String,
        /// What it did.
        reason: String,
    },
}

/// Where credentials are looked up.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    docker_config: Option<PathBuf>,
}

impl Credentials {
    pub(crate) fn new(docker_config: Option<PathBuf>) -> Self {
        Self { docker_config }
    }

    /// The credential for a registry as references name it, if there is one.
    pub(crate) async fn find(&self, registry: &str) -> Result<Option<Credential>, CredentialsError> {
        let Some(path) = self.docker_config.clone() else { return Ok(None) };
        let (for_thread, asked) = (path.clone(), registry.to_owned());
        let (sender, found) = oneshot::channel();
        // Reads a file and may run a helper. A thread of its own: one that a helper blocks for ever must
        // not keep the runtime from shutting down.
        let started = std::thread::Builder::new()
            .name("credentials".to_owned())
            .spawn(move || sender.send(look_up(&for_thread, &asked)));
        if let Err(source) = started {
            return Err(CredentialsError::Unreadable { path, source });
        }
        match tokio::time::timeout(HELPER_PATIENCE, found).await {
            Ok(Ok(found)) => found,
            unanswered => {
                let reason = if unanswered.is_err() { "does not answer" } else { "made the reader panic" };
                let (registry, reason) = (registry.to_owned(), reason.to_owned());
                Err(CredentialsError::Helper { path, registry, reason })
            }
        }
    }
}

fn look_up(path: &Path, registry: &str) -> Result<Option<Credential>, CredentialsError> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    for name in names(registry) {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CredentialsError::Unreadable { path, source }),
        };
        match docker_credential::get_credential_from_reader(BufReader::new(file), name) {
            Ok(credential) => return Ok(Some(credential.into())),
            Err(error) if means_none(&error) => {}
            Err(error) => return Err(failure(path, registry, &error)),
        }
    }
    Ok(None)
}

/// The keys under which a registry's credentials may be filed: Docker Hub's own is a URL.
fn names(registry: &str) -> Vec<&str> {
    match registry {
        "docker.io" => vec!["https://index.docker.io/v1/", "docker.io"],
        other => vec![other],
    }
}

/// Helpers have no other way to say "none" than this text, which Docker matches as well.
fn means_none(error: &CredentialRetrievalError) -> bool {
    match error {
        CredentialRetrievalError::NoCredentialConfigured => true,
        CredentialRetrievalError::HelperFailure { stdout, .. } => stdout.contains("credentials not found"),
        _ => false,
    }
}

fn failure(path: PathBuf, registry: &str, error: &CredentialRetrievalError) -> CredentialsError {
    let registry = registry.to_owned();
    match error {
        // Its own text repeats the helper's output, which may hold anything.
        CredentialRetrievalError::HelperFailure { helper, .. } => {
            CredentialsError::Helper { path, registry, reason: format!("failed: {helper}") }
        }
        CredentialRetrievalError::HelperCommunicationError => {
            CredentialsError::Helper { path, registry, reason: "could not be run".to_owned() }
        }
        CredentialRetrievalError::MalformedHelperResponse => {
            CredentialsError::Helper { path, registry, reason: "answered in no known form".to_owned() }
        }
        other => CredentialsError::Malformed { path, registry, reason: other.to_string() },
    }
}

impl From<DockerCredential> for Credential {
    fn from(credential: DockerCredential) -> Self {
        match credential {
            DockerCredential::IdentityToken(token) => Self::IdentityToken(Secret::new(token)),
            DockerCredential::UsernamePassword(username, password) => {
                Self::Password { username, password: Secret::new(password) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up_in(config: &str, registry: &str) -> Result<Option<Credential>, CredentialsError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        look_up(directory.path(), registry)
    }

    fn password(username: &str, password: &str) -> Credential {
        Credential::Password { username: username.to_owned(), password: Secret::new(password.to_owned()) }
    }

    #[test]
    fn finds_what_logins_write() {
        let config = r#"{"auths": {
            "10.0.0.1:5000": {"auth": "dTpw"},
            "https://tls.example": {"username": "a", "password": "b"},
            "https://index.docker.io/v1/": {"auth": "aHViOnB3OjI="},
            "oauth.example": {"auth": "PHRva2VuPjo=", "identitytoken": "refresh"},
            "empty.example": {}}}"#;
        for (registry, want) in [
            ("10.0.0.1:5000", Some(password("u", "p"))),
            ("tls.example", Some(password("a", "b"))),
            ("docker.io", Some(password("hub", "pw:2"))),
            ("oauth.example", Some(Credential::IdentityToken(Secret::new("refresh".to_owned())))),
            ("empty.example", None),
            ("other.example", None),
        ] {
            assert_eq!(look_up_in(config, registry).unwrap(), want, "{registry}");
        }
    }

    #[test]
    fn a_missing_file_is_no_credential_and_a_broken_one_an_error() {
        assert!(look_up(Path::new("/nonexistent/config.json"), "r.example").unwrap().is_none());
        for broken in ["{", r#"{"auths": {"r.example": {"auth": "!"}}}"#, r#"{"credsStore": "jaunt-absent"}"#]
        {
            assert!(look_up_in(broken, "r.example").is_err(), "{broken}");
        }
    }

    #[test]
    fn prints_no_secret() {
        assert!(!format!("{:?}", password("user", "hunter2")).contains("hunter2"));
        let error = CredentialRetrievalError::HelperFailure {
            helper: "docker-credential-x".to_owned(),
            stdout: "hunter2".to_owned(),
            stderr: "hunter2".to_owned(),
        };
        let error = failure(PathBuf::from("c"), "r.example", &error);
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
