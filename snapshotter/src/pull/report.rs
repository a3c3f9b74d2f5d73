//! How much of an image is lazy, from the daemon's status.

use crate::proto::jaunt::status::v1::GetResponse;
use crate::status::image_of_chain;

/// "7 of 7 layers lazy", with the reasons for those that are not; `None` when the daemon has no snapshot of
/// that chain.
pub(super) fn layers(status: &GetResponse, image: &str, chain: &str) -> Option<String> {
    let image = image_of_chain(status, image, chain)?;
    let mut text = format!("{} of {} layers lazy", image.lazy, image.layers);
    if !image.reasons.is_empty() {
        text.push_str(&format!(" ({})", image.reasons.into_iter().collect::<Vec<_>>().join(", ")));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::jaunt::status::v1::{Fallback, Snapshot};

    fn layer(name: &str, parent: &str, image: &str, backing: &str) -> Snapshot {
        Snapshot {
            name: name.to_owned(),
            parent: parent.to_owned(),
            chain_id: format!("chain-{name}"),
            image: image.to_owned(),
            kind: "committed".to_owned(),
            backing: backing.to_owned(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn counts_shared_layers_and_gives_reasons() {
        let mut status = GetResponse {
            snapshots: vec![
                layer("1", "", "base", "lazy"),
                layer("2", "1", "app", "lazy"),
                layer("3", "2", "app", "lazy"),
                layer("4", "", "other", "eager"),
            ],
            ..GetResponse::default()
        };
        assert_eq!(layers(&status, "app", "chain-3").as_deref(), Some("3 of 3 layers lazy"));
        assert_eq!(layers(&status, "another-tag", "chain-2").as_deref(), Some("2 of 2 layers lazy"));
        assert_eq!(layers(&status, "app", "chain-9"), None);
        status.fallbacks.push(Fallback {
            image: "other".to_owned(),
            code: "timeout".to_owned(),
            ..Fallback::default()
        });
        assert_eq!(layers(&status, "other", "chain-4").as_deref(), Some("0 of 1 layers lazy (timeout)"));
    }
}
