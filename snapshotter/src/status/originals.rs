//! What a person or a program is told of images' original blobs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::proto::jaunt::status::v1::{Originals, OriginalsOfImage};

/// How far each image is, and what to do before one is saved or pushed; nothing where no layer is lazy.
pub(super) fn text(told: &Originals, lazy: bool) -> String {
    let mut out = String::new();
    if !lazy {
        return out;
    }
    let rest = match told.policy.as_str() {
        "background" => "are brought in the background".to_owned(),
        _ => "stay in their registries; `jaunt-snapshotter materialise REF` before an image is saved or pushed elsewhere"
            .to_owned(),
    };
    let _ = writeln!(out, "\nOriginal layers of lazy images {rest}");
    for image in &told.images {
        let _ = writeln!(out, "  {} {}  {}", image.namespace, image.image, state(image));
    }
    out
}

/// The same, as one JSON object.
pub(super) fn json(told: &Originals) -> Value {
    let image = |image: &OriginalsOfImage| {
        json!({
            "namespace": image.namespace, "image": image.image, "missing_bytes": image.missing_bytes,
            "brought_bytes": image.brought_bytes, "trouble": image.trouble,
        })
    };
    json!({ "policy": told.policy, "images": told.images.iter().map(image).collect::<Vec<_>>() })
}

fn state(image: &OriginalsOfImage) -> String {
    let tenths = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10);
    let (missing, brought) = (image.missing_bytes, image.brought_bytes);
    match (brought < missing, image.trouble.is_empty()) {
        (_, false) => image.trouble.clone(),
        (false, true) => "all in containerd's content store".to_owned(),
        (true, true) => format!("{} of {} MB", tenths(brought), tenths(missing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_do_and_how_far_it_is() {
        let image = |missing_bytes, brought_bytes, trouble: &str| OriginalsOfImage {
            namespace: "moby".to_owned(),
            image: "r/a:1".to_owned(),
            missing_bytes,
            brought_bytes,
            trouble: trouble.to_owned(),
        };
        let mut told = Originals { policy: "never".to_owned(), images: Vec::new() };
        assert_eq!(text(&told, false), "");
        assert!(text(&told, true).contains("jaunt-snapshotter materialise"), "{}", text(&told, true));
        told.policy = "background".to_owned();
        told.images = vec![image(0, 0, ""), image(12_340_000, 1_000_000, ""), image(1, 0, "gone")];
        let text = text(&told, true);
        assert!(text.contains("background") && text.contains("moby r/a:1  all in"), "{text}");
        assert!(text.contains("  1.0 of 12.3 MB\n") && text.ends_with("  gone\n"), "{text}");
        assert_eq!(json(&told)["images"][1]["missing_bytes"], 12_340_000);
    }
}
