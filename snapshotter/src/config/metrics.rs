//! Where the daemon tells its figures.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The table `[metrics]`; what it leaves out has its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Where they are served over HTTP, if anywhere.
    pub address: MetricsAddress,
}

/// An address with a port; empty for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MetricsAddress(pub Option<SocketAddr>);

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "" => Ok(Self(None)),
            address => address
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| format!("{address:?} is no IP address with a port, such as 127.0.0.1:9464")),
        }
    }
}

impl From<MetricsAddress> for String {
    fn from(address: MetricsAddress) -> Self {
        address.0.map(|address| address.to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_whole_or_there_is_none() {
        let address = |text: &str| toml::from_str::<MetricsConfig>(text).map(|config| config.address.0);
        assert_eq!(address(""), Ok(None));
        assert_eq!(address("address = \"\""), Ok(None));
        assert_eq!(address("address = \"[::1]:9464\""), Ok(Some("[::1]:9464".parse().unwrap())));
        for bad in ["localhost:9464", "127.0.0.1", ":9464", "9464"] {
            let error = address(&format!("address = \"{bad}\"")).unwrap_err().to_string();
            assert!(error.contains("no IP address with a port"), "{error}");
        }
    }
}
