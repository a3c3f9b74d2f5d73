//! Who is believed about launch artifacts: a policy by repository.
//!
//! A launch artifact says what an image's layers look like, and whoever may push to the repository can attach one.
//! Either that is enough, as it is for tags, or the artifact must be signed by a key that is configured. The policy is
//! fixed for the life of the daemon: it was read, keys and all, before the first worker began.

use jaunt_distribution::Repository;
use jaunt_formats::cosign::VerifyingKey;

use crate::metastore::Voucher;

/// Whom to believe, for one part of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trusted {
    /// Whoever may push.
    #[default]
    Registry,
    /// Who has one of these keys.
    Keys(Vec<VerifyingKey>),
}

/// The policy: what holds for everything, and what for repositories below a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    otherwise: Trusted,
    /// The longest first.
    rules: Vec<(String, Trusted)>,
}

impl Trust {
    /// A policy. Of several rules that a repository falls under, the one with the longest prefix counts.
    pub fn new(otherwise: Trusted, mut rules: Vec<(String, Trusted)>) -> Self {
        rules.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { otherwise, rules }
    }

    /// Whom to believe about artifacts in a repository.
    pub fn of(&self, repository: &Repository) -> &Trusted {
        let name = repository.to_string();
        let rule = self.rules.iter().find(|(prefix, _)| lies_below(&name, prefix));
        rule.map_or(&self.otherwise, |(_, trusted)| trusted)
    }

    /// Whether what was learnt of a repository on somebody's word would be believed now.
    pub fn still_believes(&self, repository: &Repository, by: Voucher) -> bool {
        match (self.of(repository), by) {
            // The image's own manifest is what was asked for: nobody else can have a say in it.
            (Trusted::Registry, _) | (Trusted::Keys(_), Voucher::Image) => true,
            (Trusted::Keys(_), Voucher::Registry) => false,
            (Trusted::Keys(keys), Voucher::Key(signer)) => keys.iter().any(|key| key.fingerprint() == signer),
        }
    }
}

/// A prefix ends where a part of the name does: `team` is not the beginning of `teams`.
pub(crate) fn lies_below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jaunt_formats::Digest;

    fn key(pem: &[u8]) -> VerifyingKey {
        VerifyingKey::from_pem(pem).unwrap()
    }

    fn keys() -> [VerifyingKey; 2] {
        let one = include_bytes!("../../formats/src/cosign/testdata/public.pem");
        let other = include_bytes!("../../formats/src/cosign/testdata/cosign.pub");
        [key(one), key(other)]
    }

    #[test]
    fn the_longest_prefix_counts_and_ends_with_a_part_of_the_name() {
        let [one, other] = keys().map(|key| Trusted::Keys(vec![key]));
        let rules =
            [("r.example", &Trusted::Registry), ("r.example/team", &one), ("r.example/team/app", &other)];
        let rules = rules.map(|(prefix, trusted)| (prefix.to_owned(), trusted.clone())).into();
        let everything = Trusted::Keys(keys().into());
        let trust = Trust::new(everything.clone(), rules);
        for (repository, expected) in [
            ("r.example/a", &Trusted::Registry),
            ("r.example/team", &one),
            ("r.example/team/b", &one),
            ("r.example/teams", &Trusted::Registry),
            ("r.example/team/app/debug", &other),
            ("r.example:5000/team", &everything),
            ("other.example/r.example/team", &everything),
        ] {
            assert_eq!(trust.of(&repository.parse().unwrap()), expected, "{repository}");
        }
        assert_eq!(Trust::default().of(&"r.example/a".parse().unwrap()), &Trusted::Registry);
    }

    #[test]
    fn what_was_learnt_before_counts_only_on_the_word_of_who_is_trusted_now() {
        let repository = "r.example/a".parse().unwrap();
        let [one, other] = keys();
        let strict = Trust::new(Trusted::Keys(vec![one.clone()]), Vec::new());
        for (by, expected) in [
            (Voucher::Registry, false),
            (Voucher::Key(other.fingerprint()), false),
            (Voucher::Key(Digest::of(b"unknown")), false),
            (Voucher::Key(one.fingerprint()), true),
            (Voucher::Image, true),
        ] {
            assert_eq!(strict.still_believes(&repository, by), expected, "{by:?}");
            assert!(Trust::default().still_believes(&repository, by));
        }
    }
}
