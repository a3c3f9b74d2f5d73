//! Registry credentials from where logins are kept, for containerd to use.

use std::fmt;

use jaunt_distribution::{ClientConfig, Credential, Credentials};
use jaunt_formats::Reference;

use crate::proto::runtime::v1::AuthConfig;

/// Another name of Docker Hub's: the host that answers for it.
const DOCKER_API: &str = "registry-1.docker.io";

/// The login for `host`, which is the image's registry or a mirror of it. Having none is no error; a
/// broken helper is worth a warning, since the image may be public.
pub(super) async fn find(host: &str, image: &Reference) -> Option<AuthConfig> {
    let host = if host == DOCKER_API { "docker.io" } else { host };
    let files = ClientConfig::default().auth_files;
    let found = match Credentials::new(files).find(host, image.repository()).await {
        Ok(found) => found?,
        Err(error) => {
            tracing::warn!(%error, "no credentials");
            return None;
        }
    };
    Some(match found {
        Credential::Password { username, password } => {
            AuthConfig { username, password: password.reveal().to_owned(), ..AuthConfig::default() }
        }
        Credential::IdentityToken(token) => {
            AuthConfig { identity_token: token.reveal().to_owned(), ..AuthConfig::default() }
        }
        Credential::RegistryToken(token) => {
            AuthConfig { registry_token: token.reveal().to_owned(), ..AuthConfig::default() }
        }
    })
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
