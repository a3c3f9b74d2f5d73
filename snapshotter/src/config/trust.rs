//! Who is trusted with launch artifacts, as it is written down.
//!
//! Key files are read once, by `serve`, and handed to the workers with the rest of the settings: a file that is
//! replaced or lost later changes nothing under containers that run.

use std::path::PathBuf;

use jaunt_distribution::Repository;
use jaunt_distribution::signatures::{KeyFileError, read_key};
use jaunt_formats::cosign::VerifyingKey;
use serde::{Deserialize, Serialize};

use super::Config;
use crate::trust::{Trust, Trusted};

/// Whose word is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustMode {
    /// Whoever may push to the repository.
    #[default]
    Registry,
    /// Who has signed with one of the keys.
    Keys,
}

/// A public key: the PEM file that holds it, or its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TrustedKey {
    /// A file.
    File(PathBuf),
    /// A key.
    Key(VerifyingKey),
}

/// What holds for some repositories instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRule {
    /// `host[:port][/name...]`: the repository of that name, and all below it.
    pub prefix: String,
    /// Whose word is enough there.
    pub trust: TrustMode,
    /// The keys, if it is theirs.
    #[serde(default)]
    pub keys: Vec<TrustedKey>,
}

/// Why the policy makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A key cannot be had.
    #[error("trust: key file {0}")]
    Key(#[from] KeyFileError),
    /// Keys are asked for, and there are none.
    #[error("trust: {of} is to be trusted by keys, and no key is given")]
    NoKeys {
        /// What for.
        of: String,
    },
    /// Keys are given, and not asked for.
    #[error("trust: keys are given for {of}, whose trust is \"registry\": did you mean \"keys\"?")]
    UnusedKeys {
        /// What for.
        of: String,
    },
    /// A prefix that no repository can have, or that another rule has.
    #[error("trust: {prefix:?} is {what}")]
    Prefix {
        /// The prefix.
        prefix: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

const BEGIN: &str = "-----BEGIN";

impl TryFrom<String> for TrustedKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.trim_start().starts_with(BEGIN) {
            let key = VerifyingKey::from_pem(text.as_bytes());
            return key.map(Self::Key).map_err(|error| error.to_string());
        }
        Ok(Self::File(text.into()))
    }
}

impl From<TrustedKey> for String {
    fn from(key: TrustedKey) -> Self {
        match key {
            TrustedKey::File(path) => path.to_string_lossy().into_owned(),
            TrustedKey::Key(key) => key.to_pem(),
        }
    }
}

impl TrustedKey {
    fn read(&self) -> Result<VerifyingKey, KeyFileError> {
        match self {
            Self::File(path) => read_key(path),
            Self::Key(key) => Ok(key.clone()),
        }
    }
}

impl Config {
    /// The policy. Reads the key files, where they have not been read.
    ///
    /// # Errors
    /// A file cannot be read or holds no key, or what is written contradicts itself.
    pub fn trust(&self) -> Result<Trust, TrustError> {
        let otherwise = trusted(self.trust, &self.trust_keys, "every repository")?;
        let mut rules = Vec::with_capacity(self.trust_rules.len());
        for TrustRule { prefix, trust, keys } in &self.trust_rules {
            let wrong = |what| Err(TrustError::Prefix { prefix: prefix.clone(), what });
            if !begins_a_name(prefix) {
                return wrong("no beginning of a repository's name, such as \"registry.example/team\"");
            }
            if rules.iter().any(|(known, _)| known == prefix) {
                return wrong("the prefix of two rules");
            }
            rules.push((prefix.clone(), trusted(*trust, keys, prefix)?));
        }
        Ok(Trust::new(otherwise, rules))
    }

    /// The same settings, holding the keys themselves in place of the names of their files.
    ///
    /// # Errors
    /// As [`Config::trust`].
    pub fn with_keys_read(mut self) -> Result<Self, TrustError> {
        self.trust()?;
        let rules = self.trust_rules.iter_mut().flat_map(|rule| &mut rule.keys);
        for key in self.trust_keys.iter_mut().chain(rules) {
            *key = TrustedKey::Key(key.read()?);
        }
        Ok(self)
    }
}

/// Docker's short names do not count: nobody should have to guess which ones would.
pub(super) fn begins_a_name(prefix: &str) -> bool {
    let below = format!("{prefix}/x");
    let same = |repository: Repository| repository.to_string() == below || prefix == "docker.io";
    below.parse::<Repository>().is_ok_and(same)
}

fn trusted(mode: TrustMode, keys: &[TrustedKey], of: &str) -> Result<Trusted, TrustError> {
    let of = || of.to_owned();
    match mode {
        TrustMode::Registry if keys.is_empty() => Ok(Trusted::Registry),
        TrustMode::Registry => Err(TrustError::UnusedKeys { of: of() }),
        TrustMode::Keys if keys.is_empty() => Err(TrustError::NoKeys { of: of() }),
        TrustMode::Keys => Ok(Trusted::Keys(keys.iter().map(TrustedKey::read).collect::<Result<_, _>>()?)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Settings;
    use super::*;

    fn testdata(name: &str) -> String {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/src/cosign/testdata");
        dir.join(name).display().to_string()
    }

    fn config(text: &str) -> Config {
        toml::from_str::<Settings>(text).unwrap().complete()
    }

    #[test]
    fn keys_are_read_once_and_handed_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("team.pub");
        std::fs::copy(testdata("cosign.pub"), &file).unwrap();
        let config = config(&format!(
            "trust = \"keys\"\ntrust_keys = [{:?}]\n[[trust_rules]]\nprefix = \"r.example/team\"\ntrust = \"keys\"\n\
             keys = [{:?}]\n[[trust_rules]]\nprefix = \"r.example:5000\"\ntrust = \"registry\"",
            testdata("public.pem"),
            file.display().to_string(),
        ));
        let trust = config.trust().unwrap();
        let read = config.with_keys_read().unwrap();
        std::fs::remove_file(&file).unwrap();
        let handed_on: Config = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(handed_on.trust().unwrap(), trust);
        assert_eq!(trust.of(&"r.example:5000/a".parse().unwrap()), &Trusted::Registry);
        let of_team = trust.of(&"r.example/team/a".parse().unwrap()).clone();
        assert!(matches!(&of_team, Trusted::Keys(keys) if keys.len() == 1));
        assert_ne!(&of_team, trust.of(&"r.example/a".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        let (public, private) = (testdata("public.pem"), testdata("pkcs8.pem"));
        let rule = |prefix: &str| format!("trust_rules = [{{ prefix = {prefix:?}, trust = \"registry\" }}]");
        for (text, words) in [
            ("trust = \"keys\"".to_owned(), ["every repository", "no key"]),
            (format!("trust_keys = [{public:?}]"), ["every repository", "did you mean"]),
            (
                "trust = \"keys\"\ntrust_keys = [\"/no/such.pub\"]".to_owned(),
                ["/no/such.pub", "No such file"],
            ),
            (format!("trust = \"keys\"\ntrust_keys = [{private:?}]"), ["pkcs8.pem", "no public key"]),
            (
                "trust_rules = [{ prefix = \"r.example\", trust = \"keys\" }]".to_owned(),
                ["r.example", "no key"],
            ),
            (rule(""), ["\"\"", "no beginning"]),
            (rule("r.example/"), ["\"r.example/\"", "no beginning"]),
            (rule("https://r.example"), ["https", "no beginning"]),
            (rule("team"), ["team", "no beginning"]),
            (
                "trust_rules = [{ prefix = \"r.example\", trust = \"registry\" }, \
                 { prefix = \"r.example\", trust = \"registry\" }]"
                    .to_owned(),
                ["r.example", "two rules"],
            ),
        ] {
            let error = crate::fallback::error_chain(&config(&text).with_keys_read().unwrap_err());
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
        for text in
            ["trust = \"nobody\"", "trust_rules = [{ prefix = \"a\" }]", "trust_keys = [\"-----BEGIN x\"]"]
        {
            assert!(toml::from_str::<Settings>(text).is_err(), "{text}");
        }
    }
}
