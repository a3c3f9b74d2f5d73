//! What plugins a containerd has.

use tonic::transport::Channel;

use crate::proto::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use crate::proto::containerd::services::introspection::v1::{Plugin, PluginsRequest};
use crate::unix_channel::in_namespace;

const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// All of them.
pub(crate) async fn plugins(channel: Channel, namespace: &str) -> Result<Vec<Plugin>, tonic::Status> {
    let everything = in_namespace(PluginsRequest { filters: Vec::new() }, namespace);
    Ok(IntrospectionClient::new(channel).plugins(everything).await?.into_inner().plugins)
}

/// The plugin of that type and name.
pub(crate) fn find<'p>(plugins: &'p [Plugin], kind: &str, id: &str) -> Option<&'p Plugin> {
    plugins.iter().find(|plugin| plugin.r#type == kind && plugin.id == id)
}

/// The snapshotter of that name.
pub(crate) fn snapshotter<'p>(plugins: &'p [Plugin], name: &str) -> Option<&'p Plugin> {
    find(plugins, SNAPSHOTTER, name)
}

/// Why a plugin does not work, if it does not.
pub(crate) fn failure(plugin: &Plugin) -> Option<String> {
    plugin.init_err.as_ref().map(|status| status.message.clone())
}
