//! Docker's `daemon.json`: its containerd image store, with our snapshotter. No I/O.

use serde::de::Error as _;
use serde_json::{Map, Value, json};

use super::containerd::NAME;

/// What is to be done after it was changed.
pub const CHANGED: &str = "next, for Docker: systemctl restart docker. Its containerd image store does not show what its own store has: \
     pull again";
/// What becomes of Docker's own when the storage driver is another one again.
pub const LEFT: &str = "next, for Docker: remove its containers and images, then systemctl restart docker. Until then it pulls with \
     Jaunt; from then on it does not show what it has there (containers that run go on without it, as containerd's tasks in the \
     namespace moby), and what it does not show keeps its disk and its snapshots";

const FEATURES: &str = "features";
const STORE: &str = "containerd-snapshotter";
const DRIVER: &str = "storage-driver";

/// The file with our settings; the same text, if it has them.
pub fn add(text: &str) -> Result<String, serde_json::Error> {
    let mut settings = parse(text)?;
    let features = settings.entry(FEATURES).or_insert_with(|| json!({}));
    let before = (features.get(STORE).cloned(), settings.get(DRIVER).cloned());
    if before == (Some(json!(true)), Some(json!(NAME))) {
        return Ok(text.to_owned());
    }
    let features = settings.get_mut(FEATURES).and_then(Value::as_object_mut);
    let features = features.ok_or_else(|| serde_json::Error::custom("\"features\" is no object"))?;
    features.insert(STORE.to_owned(), json!(true));
    settings.insert(DRIVER.to_owned(), json!(NAME));
    print(&settings)
}

/// The file without them, and with what was in their place in `original`.
pub fn remove(text: &str, original: &str) -> Result<String, serde_json::Error> {
    let (mut settings, original) = (parse(text)?, parse(original)?);
    if settings.get(DRIVER) == Some(&json!(NAME)) {
        put_back(&mut settings, DRIVER, original.get(DRIVER));
        let store = original.get(FEATURES).and_then(|features| features.get(STORE));
        let features = settings.get_mut(FEATURES).and_then(Value::as_object_mut);
        let is_empty = features.is_some_and(|features| {
            put_back(features, STORE, store);
            features.is_empty()
        });
        if is_empty && !original.contains_key(FEATURES) {
            settings.remove(FEATURES);
        }
    }
    print(&settings)
}

fn put_back(settings: &mut Map<String, Value>, key: &str, before: Option<&Value>) {
    match before {
        Some(before) => drop(settings.insert(key.to_owned(), before.clone())),
        None => drop(settings.remove(key)),
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    if text.trim().is_empty() { Ok(Map::new()) } else { serde_json::from_str(text) }
}

fn print(settings: &Map<String, Value>) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(settings)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_others_stay_and_ours_come_and_go() {
        for text in
            ["", "{}", r#"{"log-driver": "local", "features": {"x": true}, "storage-driver": "overlay2"}"#]
        {
            let added = add(text).unwrap();
            assert!(
                added.contains("\"storage-driver\": \"jaunt\"") && added.contains("containerd-snapshotter")
            );
            assert_eq!(add(&added).unwrap(), added);
            assert_eq!(parse(&remove(&added, text).unwrap()).unwrap(), parse(text).unwrap());
        }
        for bad in ["[]", "{,}", r#"{"features": []}"#, r#"{"features": null}"#] {
            assert!(add(bad).is_err(), "{bad}");
        }
    }
}
