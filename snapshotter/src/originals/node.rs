//! One namespace of a containerd: its images, and the blobs they consist of.

use std::collections::HashMap;
use std::path::Path;

use jaunt_formats::Digest;
use prost_types::FieldMask;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::error::{OriginalsError, refused};
use crate::lease::Lease;
use crate::proto::containerd::services::content::v1::content_client::ContentClient;
use crate::proto::containerd::services::content::v1::{Info, InfoRequest, ReadContentRequest, UpdateRequest};
use crate::proto::containerd::services::images::v1::images_client::ImagesClient;
use crate::proto::containerd::services::images::v1::{GetImageRequest, Image, ListImagesRequest};
use crate::proto::containerd::services::namespaces::v1::ListNamespacesRequest;
use crate::proto::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use crate::unix_channel::{self, in_namespace};

/// Manifests, and indexes of many platforms.
const MANIFEST_MAX: usize = 8 << 20;

/// A namespace of a containerd.
#[derive(Clone)]
pub(super) struct Node {
    channel: Channel,
    namespace: String,
}

impl Node {
    /// Connects to the containerd that listens on `socket`.
    pub async fn connect(socket: &Path, namespace: &str) -> Result<Self, OriginalsError> {
        let channel = unix_channel::connect(socket).await.map_err(OriginalsError::Unreachable)?;
        Ok(Self { channel, namespace: namespace.to_owned() })
    }

    /// The same containerd's namespaces.
    pub async fn namespaces(&self) -> Result<Vec<Self>, OriginalsError> {
        let list = self.request(ListNamespacesRequest::default());
        let listed = NamespacesClient::new(self.channel.clone()).list(list).await;
        let namespaces = listed.map_err(refused("list its namespaces"))?.into_inner().namespaces;
        let of = |name| Self { channel: self.channel.clone(), namespace: name };
        Ok(namespaces.into_iter().map(|namespace| of(namespace.name)).collect())
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The digests of all images, by name; those that are no digests of ours to read are left out.
    pub async fn images(&self) -> Result<Vec<(String, Digest)>, OriginalsError> {
        let list = self.request(ListImagesRequest::default());
        let listed = ImagesClient::new(self.channel.clone()).list(list).await;
        let images = listed.map_err(refused("list its images"))?.into_inner().images;
        Ok(images.into_iter().filter_map(|image| Some((image.name.clone(), target(&image)?))).collect())
    }

    /// The digest that an image's name stands for.
    pub async fn image(&self, name: &str) -> Result<Digest, OriginalsError> {
        let none = || OriginalsError::NoImage { image: name.to_owned(), namespace: self.namespace.clone() };
        let get = self.request(GetImageRequest { name: name.to_owned() });
        match ImagesClient::new(self.channel.clone()).get(get).await {
            Ok(found) => found.into_inner().image.as_ref().and_then(target).ok_or_else(none),
            Err(status) if status.code() == Code::NotFound => Err(none()),
            Err(status) => Err(refused("find an image")(status)),
        }
    }

    /// The labels of a blob that is there.
    pub async fn labels(&self, digest: &Digest) -> Result<Option<HashMap<String, String>>, OriginalsError> {
        let info = self.request(InfoRequest { digest: digest.to_string() });
        match self.content().info(info).await {
            Ok(info) => Ok(Some(info.into_inner().info.unwrap_or_default().labels)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(refused("look for a blob")(status)),
        }
    }

    /// Adds a label to a blob.
    pub async fn label(&self, digest: &Digest, key: String, value: String) -> Result<(), OriginalsError> {
        let paths = vec![format!("labels.{key}")];
        let info = Info { digest: digest.to_string(), labels: [(key, value)].into(), ..Info::default() };
        let update = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
        let updated = self.content().update(self.request(update)).await;
        updated.map(drop).map_err(refused("label a blob"))
    }

    /// A manifest, an index or a config, checked against its digest.
    pub async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, OriginalsError> {
        let read = ReadContentRequest { digest: digest.to_string(), ..ReadContentRequest::default() };
        let mut stream = match self.content().read(self.request(read)).await {
            Ok(stream) => stream.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Err(OriginalsError::NotHere(*digest)),
            Err(status) => return Err(refused("read a manifest")(status)),
        };
        let mut bytes = Vec::new();
        while let Some(piece) = stream.message().await.map_err(refused("read a manifest"))? {
            bytes.extend_from_slice(&piece.data);
            if bytes.len() > MANIFEST_MAX {
                return Err(OriginalsError::TooLarge(*digest));
            }
        }
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(OriginalsError::Damaged(*digest)) }
    }

    /// A lease that ends by itself after a day; the one of that name that is there already, as long as it lasts.
    pub async fn lease(&self, name: &str) -> Result<Lease, OriginalsError> {
        let taken = Lease::take(&self.channel, &self.namespace, format!("jaunt-originals-{name}")).await;
        taken.map_err(refused("give a lease"))
    }

    /// Gives a lease back.
    pub async fn end(&self, lease: Lease) -> Result<(), OriginalsError> {
        lease.end(&self.channel, &self.namespace).await.map_err(refused("take a lease back"))
    }

    /// The content service.
    pub fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    /// A call in this namespace.
    pub fn request<T>(&self, message: T) -> Request<T> {
        in_namespace(message, &self.namespace)
    }
}

fn target(image: &Image) -> Option<Digest> {
    image.target.as_ref()?.digest.parse().ok()
}
