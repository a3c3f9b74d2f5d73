//! What the codes mean, for people.

/// A fallback's code in words; empty for one that is not known.
pub(super) fn meaning(code: &str) -> &'static str {
    match code {
        "no-image-labels" => "containerd did not say which image it is",
        "bad-labels" => "what containerd said of the image cannot be trusted",
        "no-launch-artifact" => "the repository has no launch artifact for this image: convert it",
        "registry-unreachable" => "the registry does not answer",
        "registry-refused" => "the registry wants other credentials",
        "registry-error" => "the registry's answer is of no use",
        "timeout" => "the registry took too long",
        "bad-artifact" => "the launch artifact is not what it should be: convert the image anew",
        "untrusted-artifact" => "the launch artifact has no signature by a trusted key",
        "bad-index" => "the launch index is damaged: convert the image anew",
        "chain-mismatch" => "the launch artifact describes other layers: convert the image anew",
        "converted-layer-missing" => "a converted layer is gone: convert the image anew",
        "unusable-layer" => {
            "there is no launch artifact, and a layer in zstd:chunked cannot be used as it is"
        }
        "quarantined" => "the launch index was found to lie about its layers",
        "snapshot-conflict" => "the layers exist already in another way: remove the image and pull it again",
        "local-storage" => "this node's disk does not keep it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fallback::FallbackCode;

    #[test]
    fn every_code_has_a_meaning() {
        for code in FallbackCode::ALL {
            assert!(!meaning(code.as_str()).is_empty(), "{}", code.as_str());
        }
        assert_eq!(meaning("no-such-code"), "");
    }
}
