//! Registry credentials from Docker's configuration, for containerd to use.

use std::fmt;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use crate::proto::runtime::v1::AuthConfig;

/// Docker Hub's entry in Docker's configuration is neither the host in references nor the one that answers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
const DOCKER_HUB_HOSTS: [&str; 2] = ["docker.io", "registry-1.docker.io"];

/// What Docker has for `host`. Having none is no error; a broken helper is worth a warning, since the
/// image may be public.
pub(super) async fn find(host: &str) -> Option<AuthConfig> {
    let server = if DOCKER_HUB_HOSTS.contains(&host) { DOCKER_HUB } else { host }.to_owned();
    let found = tokio::task::spawn_blocking(move || docker_credential::get_credential(&server)).await.ok()?;
    match found {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Some(AuthConfig { username, password, ..AuthConfig::default() })
        }
        Ok(DockerCredential::IdentityToken(identity_token)) => {
            Some(AuthConfig { identity_token, ..AuthConfig::default() })
        }
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => None,
        Err(error) => {
            tracing::warn!(%error, "no credentials from Docker's configuration");
            None
        }
    }
}

/// Secrets are not printed.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let auth = AuthConfig { password: "hunter2".to_owned(), ..AuthConfig::default() };
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}
