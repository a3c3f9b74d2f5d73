//! What the containerd at hand can do.

use std::path::PathBuf;

use tonic::transport::Channel;

use super::{PullError, Request, in_namespace, refused};
use crate::introspection::{self, failure, find};
use crate::proto::containerd::services::introspection::v1::Plugin;
use crate::proto::containerd::services::version::v1::version_client::VersionClient;

const GRPC: &str = "io.containerd.grpc.v1";
/// The one namespace of containerd's CRI plugin.
const CRI_NAMESPACE: &str = "k8s.io";
/// The first version whose transfer service heeds `enable_remote_snapshot_annotations`. Earlier ones show
/// the export as well, for those who configure all their nodes alike.
const TRANSFER_PASSES_LABELS: (u32, u32) = (2, 1);

/// How an image can be pulled lazily.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// containerd's transfer service.
    Transfer,
    /// CRI's PullImage, as the kubelet does it.
    Cri,
}

/// A containerd, inspected.
pub(super) struct Containerd {
    pub channel: Channel,
    /// The snapshotter's socket as containerd has it configured.
    pub snapshotter_socket: Option<PathBuf>,
    version: String,
    passes_labels: bool,
    transfer: bool,
    cri: bool,
}

impl Way {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transfer => "transfer service",
            Self::Cri => "CRI",
        }
    }

    /// What to configure when the pull went past the snapshotter.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Transfer => {
                "name it in [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]] of containerd's \
                 configuration"
            }
            Self::Cri => {
                "make it the CRI plugin's snapshotter in containerd's configuration \
                 (1.x: [plugins.\"io.containerd.grpc.v1.cri\".containerd], 2.x: [plugins.\"io.containerd.cri.v1.images\"])"
            }
        }
    }
}

impl Containerd {
    /// Asks for version and plugins.
    pub async fn inspect(channel: Channel, request: &Request) -> Result<Self, PullError> {
        let plugins = introspection::plugins(channel.clone(), &request.namespace).await;
        let plugins = plugins.map_err(refused(&request.address, "list plugins"))?;
        let works = |plugin: Option<&Plugin>| plugin.is_some_and(|plugin| failure(plugin).is_none());

        let Some(snapshotter) = introspection::snapshotter(&plugins, &request.snapshotter) else {
            return Err(PullError::NotConfigured {
                address: request.address.clone(),
                snapshotter: request.snapshotter.clone(),
                socket: request.socket.clone(),
            });
        };
        if let Some(message) = failure(snapshotter) {
            return Err(PullError::Plugin { plugin: request.snapshotter.clone(), message });
        }
        let exported = |key| snapshotter.exports.get(key);
        let version = VersionClient::new(channel.clone()).version(in_namespace((), &request.namespace)).await;
        let version = version.map_err(refused(&request.address, "tell its version"))?.into_inner().version;
        Ok(Self {
            channel,
            snapshotter_socket: exported("address").map(PathBuf::from),
            passes_labels: transfer_heeds_exports(&version)
                && exported("enable_remote_snapshot_annotations").is_some_and(|value| value == "true"),
            transfer: works(find(&plugins, GRPC, "transfer")) && works(find(&plugins, GRPC, "streaming")),
            cri: works(find(&plugins, GRPC, "cri")),
            version,
        })
    }

    /// The way to pull lazily here.
    pub fn way(&self, request: &Request) -> Result<Way, PullError> {
        let transfer = self.transfer && self.passes_labels;
        let cri = self.cri && request.namespace == CRI_NAMESPACE;
        match request.through {
            None | Some(Way::Transfer) if transfer => Ok(Way::Transfer),
            None | Some(Way::Cri) if cri => Ok(Way::Cri),
            _ => Err(PullError::NoWay {
                version: self.version.clone(),
                namespace: request.namespace.clone(),
                snapshotter: request.snapshotter.clone(),
            }),
        }
    }
}

/// A version that cannot be read is someone's own build, and new.
fn transfer_heeds_exports(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= TRANSFER_PASSES_LABELS,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn containerd(transfer: bool, passes_labels: bool, cri: bool) -> Containerd {
        // Nothing is sent: the way is chosen from what is known.
        let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_lazy();
        let version = "1.7".to_owned();
        Containerd { channel, snapshotter_socket: None, version, passes_labels, transfer, cri }
    }

    fn request(namespace: &str, through: Option<Way>) -> Request {
        Request {
            address: "/c.sock".into(),
            namespace: namespace.to_owned(),
            snapshotter: "jaunt".to_owned(),
            image: "a".parse().unwrap(),
            socket: "/j.sock".into(),
            cri_address: None,
            through,
            hosts_dir: "/h".into(),
            progress: |_| (),
        }
    }

    #[tokio::test]
    async fn takes_the_way_that_passes_labels_on() {
        let any = |namespace| request(namespace, None);
        assert_eq!(containerd(true, true, true).way(&any("k8s.io")).unwrap(), Way::Transfer);
        assert_eq!(containerd(true, false, true).way(&any("k8s.io")).unwrap(), Way::Cri);
        assert_eq!(containerd(false, false, true).way(&any("k8s.io")).unwrap(), Way::Cri);
        assert_eq!(containerd(true, true, false).way(&any("other")).unwrap(), Way::Transfer);
        let error = containerd(true, false, true).way(&any("other")).unwrap_err().to_string();
        assert!(error.contains("k8s.io only"), "{error}");
    }

    #[tokio::test]
    async fn takes_the_way_it_is_told_or_none() {
        let both = containerd(true, true, true);
        for way in [Way::Transfer, Way::Cri] {
            assert_eq!(both.way(&request("k8s.io", Some(way))).unwrap(), way);
        }
        assert!(containerd(true, false, true).way(&request("k8s.io", Some(Way::Transfer))).is_err());
        assert!(containerd(true, true, false).way(&request("k8s.io", Some(Way::Cri))).is_err());
        assert!(both.way(&request("other", Some(Way::Cri))).is_err());
    }

    #[test]
    fn exports_mean_nothing_to_transfer_services_before_2_1() {
        for old in ["1.7.24~ds1", "v1.7.29", "2.0.7", "1.10.0"] {
            assert!(!transfer_heeds_exports(old), "{old}");
        }
        for new in ["2.1.9+unknown", "v2.1.0", "2.10.0", "3.0.0-beta.1", "<unknown>", ""] {
            assert!(transfer_heeds_exports(new), "{new}");
        }
    }
}
