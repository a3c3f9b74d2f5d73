//! Logins besides those in Docker's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The table `[credentials]`; what it leaves out has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialsConfig {
    /// The socket that the kubelet's image calls come to, on their way to containerd; empty for none.
    pub cri_socket: PathBuf,
    /// Files of the kind `.dockerconfigjson`, and directories of such.
    pub pull_secrets: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default_and_nonsense_is_refused() {
        let config: CredentialsConfig =
            toml::from_str("cri_socket = \"/run/jaunt/cri.sock\"\npull_secrets = [\"/s\"]").unwrap();
        assert_eq!(config.cri_socket, PathBuf::from("/run/jaunt/cri.sock"));
        assert_eq!(CredentialsConfig::default().cri_socket, PathBuf::new());
        assert_eq!(config.pull_secrets, [PathBuf::from("/s")]);
        for bad in ["cri_socket = 1", "pull_secrets = \"/s\"", "password = \"x\""] {
            assert!(toml::from_str::<CredentialsConfig>(bad).is_err(), "{bad}");
        }
    }
}
