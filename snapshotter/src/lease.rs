//! Leases of containerd's: they keep what nothing else refers to yet from being collected. Each ends by itself,
//! for the case that nobody ends it.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::proto::containerd::services::leases::v1::leases_client::LeasesClient;
use crate::proto::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use crate::unix_channel::in_namespace;

/// Longer than any pull takes, and than what an interrupted one has written is worth keeping.
pub(crate) const LEASE_TIME: Duration = Duration::from_secs(24 * 3600);

/// A lease in one of containerd's namespaces.
pub(crate) struct Lease(String);

impl Lease {
    /// A new one; the one of that name that is there already, as long as it lasts.
    pub async fn take(channel: &Channel, namespace: &str, id: String) -> Result<Self, Status> {
        let expires = Timestamp::from(SystemTime::now() + LEASE_TIME).to_string();
        let labels = [("containerd.io/gc.expire".to_owned(), expires)].into();
        let create = in_namespace(CreateRequest { id: id.clone(), labels }, namespace);
        match LeasesClient::new(channel.clone()).create(create).await {
            Err(status) if status.code() != Code::AlreadyExists => Err(status),
            _ => Ok(Self(id)),
        }
    }

    /// Gives it back.
    pub async fn end(self, channel: &Channel, namespace: &str) -> Result<(), Status> {
        let delete = in_namespace(DeleteRequest { id: self.0, sync: false }, namespace);
        LeasesClient::new(channel.clone()).delete(delete).await.map(drop)
    }

    /// Has the lease keep what a call makes.
    pub fn cover<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Ok(id) = self.0.parse() {
            request.metadata_mut().insert("containerd-lease", id);
        }
        request
    }
}
