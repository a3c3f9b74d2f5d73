//! index.json: which manifests a layout has, and what they are called.
//!
//! The document is changed, not made anew: what is not understood stays. A name is the annotation
//! `org.opencontainers.image.ref.name`. A manifest without one is listed when it is an image that is alone
//! in its layout, or when it names a subject: its referrers are found by looking through the list.

use jaunt_formats::Digest;
use jaunt_formats::media_type::OCI_INDEX;
use serde_json::{Map, Value, json};

use crate::manifest::Descriptor;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What an image is called when nobody said how.
pub const DEFAULT_NAME: &str = "latest";

/// The document, of which `manifests` is known to be an array.
#[derive(Clone, Debug)]
pub struct Index {
    document: Map<String, Value>,
    manifests: Vec<Value>,
}

/// Which entry is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector<'n> {
    Name(&'n str),
    /// The one called `latest`, else the only image that there is.
    Default,
}

/// Why no entry is meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Unselected {
    None,
    /// The names of those that could be.
    Several(Vec<String>),
}

impl Index {
    pub fn empty() -> Self {
        let document = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX });
        let Value::Object(document) = document else { unreachable!("an object is written just above") };
        Self { document, manifests: Vec::new() }
    }

    /// Reads a document, or says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let Value::Object(mut document) = document else { return Err("it is no object".to_owned()) };
        let manifests = match document.remove("manifests") {
            Some(Value::Array(manifests)) => manifests,
            None | Some(Value::Null) => Vec::new(),
            Some(_) => return Err("its manifests are no list".to_owned()),
        };
        Ok(Self { document, manifests })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut document = self.document.clone();
        document.insert("manifests".to_owned(), self.manifests.clone().into());
        Value::from(document).to_string().into_bytes()
    }

    /// What can be read of the entries: one under another digest than SHA-256 says nothing to us.
    pub fn descriptors(&self) -> impl Iterator<Item = Descriptor> + '_ {
        self.manifests.iter().filter_map(descriptor)
    }

    /// Every name, in the document's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.manifests.iter().filter_map(name)
    }

    pub fn find(&self, selector: Selector<'_>) -> Result<Descriptor, Unselected> {
        let at = self.position(selector)?;
        descriptor(&self.manifests[at]).ok_or(Unselected::None)
    }

    fn position(&self, selector: Selector<'_>) -> Result<usize, Unselected> {
        let wanted = match selector {
            Selector::Name(name) => name,
            Selector::Default => DEFAULT_NAME,
        };
        let named = self.manifests.iter().position(|entry| name(entry) == Some(wanted));
        match (named, selector) {
            (Some(at), _) => Ok(at),
            (None, Selector::Name(_)) => Err(Unselected::None),
            (None, Selector::Default) => self.only_image(),
        }
    }

    fn only_image(&self) -> Result<usize, Unselected> {
        let images = self.manifests.iter().enumerate().filter(|(_, entry)| is_image(entry));
        match images.collect::<Vec<_>>()[..] {
            [] => Err(Unselected::None),
            [(at, _)] => Ok(at),
            ref several => {
                let called = |entry: &Value| name(entry).unwrap_or("one without a name").to_owned();
                Err(Unselected::Several(several.iter().map(|(_, entry)| called(entry)).collect()))
            }
        }
    }

    /// Lists a manifest under a name, which it takes from whatever had it.
    pub fn set(&mut self, selector: Selector<'_>, new: &Descriptor) {
        if let Ok(at) = self.position(selector) {
            let name = name(&self.manifests[at]).map(str::to_owned);
            if descriptor(&self.manifests[at]).is_none_or(|old| old.digest != new.digest) {
                let annotations = self.manifests[at].get("annotations").cloned();
                self.manifests[at] = entry(new, annotations);
            }
            let mut number = 0;
            self.manifests.retain(|entry| {
                number += 1;
                number - 1 == at || name.is_none() || self::name(entry) != name.as_deref()
            });
        } else {
            self.name_the_only_image();
            let name = if let Selector::Name(name) = selector { name } else { DEFAULT_NAME };
            self.manifests.push(entry(new, Some(json!({ REF_NAME: name }))));
        }
        let digest = Value::from(new.digest.to_string());
        let listed = |entry: &Value| entry.get("digest") == Some(&digest);
        if self.manifests.iter().any(|entry| listed(entry) && name(entry).is_some()) {
            self.manifests.retain(|entry| name(entry).is_some() || !listed(entry));
        }
    }

    /// Lists a manifest without a name, unless it is listed already.
    pub fn list(&mut self, new: &Descriptor) {
        if !self.descriptors().any(|listed| listed.digest == new.digest) {
            self.name_the_only_image();
            self.manifests.push(entry(new, None));
        }
    }

    /// Takes a manifest off the list; whether it was there.
    pub fn remove(&mut self, digest: &Digest) -> bool {
        let (digest, before) = (Value::from(digest.to_string()), self.manifests.len());
        self.manifests.retain(|entry| entry.get("digest") != Some(&digest));
        self.manifests.len() < before
    }

    /// Takes a name from what has it; whether anything had. The manifest stays listed.
    pub fn remove_name(&mut self, name: &str) -> bool {
        let Ok(at) = self.position(Selector::Name(name)) else { return false };
        if let Some(annotations) = self.manifests[at].get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(REF_NAME);
        }
        let digest = self.manifests[at].get("digest").cloned();
        let twins = self.manifests.iter().filter(|entry| entry.get("digest") == digest.as_ref());
        if twins.count() > 1 {
            self.manifests.remove(at);
        }
        true
    }

    /// An image that is alone needs no name. Others find it no longer once something is beside it.
    fn name_the_only_image(&mut self) {
        if self.names().any(|name| name == DEFAULT_NAME) {
            return;
        }
        let Ok(at) = self.only_image() else { return };
        if name(&self.manifests[at]).is_some() {
            return;
        }
        let Some(entry) = self.manifests[at].as_object_mut() else { return };
        let annotations = entry.entry("annotations").or_insert(Value::Null);
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations[REF_NAME] = DEFAULT_NAME.into();
    }
}

fn descriptor(entry: &Value) -> Option<Descriptor> {
    serde_json::from_value(entry.clone()).ok()
}

fn name(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

/// Whether an entry looks like an image: artifacts have a type, or a name made of another's digest.
fn is_image(entry: &Value) -> bool {
    let is_artifact = entry.get("artifactType").is_some_and(|kind| !kind.is_null());
    !is_artifact && !name(entry).is_some_and(is_derived)
}

/// `sha256-<hex>` and what may follow it: our tags, cosign's and the referrers' fallback.
fn is_derived(name: &str) -> bool {
    let hex = name.strip_prefix("sha256-").and_then(|rest| rest.get(..64));
    hex.is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok())
}

/// An entry for `new`, with annotations that it had before.
fn entry(new: &Descriptor, annotations: Option<Value>) -> Value {
    let mut entry = json!({ "mediaType": new.media_type, "digest": new.digest, "size": new.size });
    if let Some(kind) = &new.artifact_type {
        entry["artifactType"] = kind.as_str().into();
    }
    if let Some(annotations) = annotations.filter(Value::is_object) {
        entry["annotations"] = annotations;
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(content: &str) -> Descriptor {
        Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::of(content.as_bytes()), 1)
    }

    fn names(index: &Index) -> Vec<(Option<&str>, Digest)> {
        index.manifests.iter().map(|entry| (name(entry), descriptor(entry).unwrap().digest)).collect()
    }

    #[test]
    fn a_name_moves_and_what_is_not_understood_stays() {
        let [one, two, other] = ["1", "2", "3"].map(image);
        let mut document = json!({ "schemaVersion": 2, "own": [1], "manifests": [
            { "digest": "sha512:ab", "size": 3, "annotations": { REF_NAME: "strange" } },
            { "digest": one.digest, "size": 1, "annotations": { REF_NAME: "v1", "k": "v" } },
            { "digest": other.digest, "size": 1, "annotations": { REF_NAME: "v1" } } ] });
        let mut index = Index::parse(document.to_string().as_bytes()).unwrap();
        index.set(Selector::Name("v1"), &two);
        let after: Value = serde_json::from_slice(&index.to_bytes()).unwrap();
        let moved = entry(&two, Some(json!({ REF_NAME: "v1", "k": "v" })));
        document["manifests"] = json!([document["manifests"][0], moved]);
        assert_eq!(after, document);
    }

    #[test]
    fn what_is_said_of_an_entry_stays_as_long_as_it_is_the_same() {
        let one = image("1");
        let document = json!({ "manifests": [{ "digest": one.digest, "size": 1, "platform": { "os": "linux" },
            "annotations": { REF_NAME: "v1" } }] });
        let mut index = Index::parse(document.to_string().as_bytes()).unwrap();
        index.set(Selector::Name("v1"), &one);
        assert_eq!(serde_json::from_slice::<Value>(&index.to_bytes()).unwrap(), document);
    }

    #[test]
    fn an_image_alone_needs_no_name_until_something_is_beside_it() {
        let [old, new, artifact] = ["old", "new", "artifact"].map(image);
        let artifact = Descriptor { artifact_type: Some("application/x".to_owned()), ..artifact };
        let document = json!({ "manifests": [{ "digest": old.digest, "size": 1 }] });
        let alone = Index::parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(alone.find(Selector::Default).unwrap().digest, old.digest);

        let mut replaced = alone.clone();
        replaced.set(Selector::Default, &new);
        assert_eq!(names(&replaced), [(None, new.digest)]);

        let mut joined = alone.clone();
        joined.list(&artifact);
        assert_eq!(names(&joined), [(Some("latest"), old.digest), (None, artifact.digest)]);
        joined.set(Selector::Name(&format!("sha256-{}.jaunt", old.digest.hex())), &artifact);
        assert_eq!(joined.manifests.len(), 2, "what has a name is not listed without one, too");
        joined.set(Selector::Default, &new);
        assert_eq!(joined.find(Selector::Name("latest")).unwrap().digest, new.digest);
    }

    #[test]
    fn without_a_name_only_one_image_can_be_meant() {
        let mut index = Index::empty();
        assert_eq!(index.find(Selector::Default), Err(Unselected::None));
        index.set(Selector::Name("v1"), &image("1"));
        index.set(Selector::Name(&format!("sha256-{}.sig", image("1").digest.hex())), &image("sig"));
        assert_eq!(index.find(Selector::Default).unwrap().digest, image("1").digest);
        index.set(Selector::Name("v2"), &image("2"));
        let both = ["v1", "v2"].map(str::to_owned).to_vec();
        assert_eq!(index.find(Selector::Default), Err(Unselected::Several(both)));
        index.set(Selector::Name("latest"), &image("3"));
        assert_eq!(index.find(Selector::Default).unwrap().digest, image("3").digest);
    }

    #[test]
    fn documents_that_are_no_index_are_refused() {
        for bad in ["", "[]", "{\"manifests\": 1}", "{\"manifests\": [}"] {
            assert!(Index::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let junk = br#"{"manifests": [null, 7, [], {}, {"annotations": 3}, {"digest": "sha256:../../x"}]}"#;
        let mut junk = Index::parse(junk).unwrap();
        assert_eq!((junk.descriptors().count(), junk.names().count()), (0, 0));
        junk.set(Selector::Name("v1"), &image("1"));
        assert_eq!(junk.find(Selector::Name("v1")).unwrap().digest, image("1").digest);
        assert_eq!(junk.manifests.len(), 7, "nothing is dropped");
    }
}
