//! The files that logins write: Docker's `config.json` and podman's `auth.json`, which are alike.
//!
//! ```text
//! {"auths": {"<host>" or "<host>/<namespace>" or "https://<host>/v1/":
//!            {"auth": base64 of "user:password", "identitytoken": …, "registrytoken": …}},
//!  "credHelpers": {"<host>": "<helper>"}, "credsStore": "<helper>"}
//! ```
//!
//! The longest namespace that a repository is in counts. Specs: Docker's `config.json`;
//! containers-auth.json(5).

use std::collections::HashMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::credentials::{Credential, Secret};

/// Logins differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The name under which Docker files the credentials for its own registry.
const DOCKER_SERVER: &str = "https://index.docker.io/v1/";

/// A file with credentials.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthFile {
    auths: Option<HashMap<String, Entry>>,
    cred_helpers: Option<HashMap<String, String>>,
    pub(super) creds_store: Option<String>,
}

/// One login. No `Debug`: it is a secret.
#[derive(serde::Deserialize)]
pub(super) struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl AuthFile {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        // The parser's own words could repeat a secret.
        serde_json::from_slice(text).map_err(|error| {
            format!("line {}, column {} is not what it should be", error.line(), error.column())
        })
    }

    /// The entry of the longest namespace that a repository is in.
    pub(super) fn namespace(&self, host: &str, repository: &str) -> Option<&Entry> {
        let auths = self.auths.as_ref()?;
        let mut name = repository;
        loop {
            for host in hosts(host) {
                if let Some(entry) = auths.get(&format!("{host}/{name}")) {
                    return Some(entry);
                }
            }
            name = name.rsplit_once('/')?.0;
        }
    }

    /// The entry of a host, however the login wrote its name.
    pub(super) fn host(&self, host: &str) -> Option<&Entry> {
        let auths = self.auths.as_ref()?;
        let named = hosts(host).into_iter().find_map(|host| auths.get(host));
        named.or_else(|| {
            let is_it = |key: &str| hosts(host).contains(&host_of_key(key));
            // In no random order, should there be several.
            let found = auths.iter().filter(|(key, _)| key.contains("://") && is_it(key));
            found.min_by_key(|(key, _)| key.as_str()).map(|(_, entry)| entry)
        })
    }

    /// The helper for a host, and the name to ask it for.
    pub(super) fn helper(&self, host: &str) -> Option<(&str, &str)> {
        let helpers = self.cred_helpers.as_ref()?;
        let mut names = hosts(host).into_iter().chain(servers(host));
        let (server, helper) = names.find_map(|name| helpers.get_key_value(name))?;
        (!helper.is_empty()).then_some((server, helper))
    }
}

impl Entry {
    /// The credential, `None` where a login is only noted and kept elsewhere.
    pub(super) fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let stated = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = stated(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(Secret::new(token))));
        }
        if let Some(token) = stated(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = stated(&self.auth) {
            return decode(&auth).map(Some);
        }
        Ok(stated(&self.username)
            .zip(stated(&self.password))
            .map(|(username, password)| Credential::Password { username, password: Secret::new(password) }))
    }
}

pub(super) fn decode(auth: &str) -> Result<Credential, &'static str> {
    let pair = BASE64.decode(auth).map_err(|_| "its \"auth\" is not base64")?;
    let pair = String::from_utf8(pair).map_err(|_| "its \"auth\" is not text")?;
    let (username, password) = pair.split_once(':').ok_or("its \"auth\" holds no user:password")?;
    // Old logins padded with zero bytes.
    let password = Secret::new(password.trim_end_matches('\0').to_owned());
    Ok(Credential::Password { username: username.to_owned(), password })
}

/// The names a host goes by, the one in references first.
pub(super) fn hosts(host: &str) -> Vec<&str> {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            vec!["docker.io", "index.docker.io", "registry-1.docker.io"]
        }
        other => vec![other],
    }
}

/// What a helper is asked for.
pub(super) fn servers(host: &str) -> Vec<&str> {
    match host {
        "docker.io" | "index.docker.io" => vec![DOCKER_SERVER, "docker.io"],
        other => vec![other],
    }
}

/// The host of a key that is a URL.
fn host_of_key(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password {
            username: username.to_owned(),
            password: Secret::new(password.to_owned()),
        })
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn finds_what_logins_write() {
        let file = AuthFile::parse(
            br#"{"auths": {
            "10.0.0.1:5000": {"auth": "dTpw"},
            "https://tls.example": {"username": "a", "password": "b"},
            "http://old.example/v1/": {"auth": "dTpwAAA="},
            "https://index.docker.io/v1/": {"auth": "aHViOnB3OjI"},
            "oauth.example": {"auth": "PHRva2VuPjo=", "identitytoken": "refresh"},
            "bearer.example": {"auth": "dTpw", "identitytoken": "refresh", "registrytoken": "bearer"},
            "empty.example": {}}, "HttpHeaders": {"x": 1}}"#,
        )
        .unwrap();
        for (host, want) in [
            ("10.0.0.1:5000", password("u", "p")),
            ("tls.example", password("a", "b")),
            ("old.example", password("u", "p")),
            ("docker.io", password("hub", "pw:2")),
            ("oauth.example", Some(Credential::IdentityToken(secret("refresh")))),
            ("bearer.example", Some(Credential::RegistryToken(secret("bearer")))),
            ("empty.example", None),
            ("other.example", None),
            ("10.0.0.1", None),
        ] {
            let found = file.host(host).and_then(|entry| entry.credential().unwrap());
            assert_eq!(found, want, "{host}");
        }
    }

    #[test]
    fn the_longest_namespace_counts() {
        let file = AuthFile::parse(
            br#"{"auths": {
            "r.example": {"auth": "aG9zdDpw"},
            "r.example/team": {"auth": "dGVhbTpw"},
            "r.example/team/app": {"auth": "YXBwOnA="},
            "docker.io/library": {"auth": "bGliOnA="}}}"#,
        )
        .unwrap();
        for (host, repository, want) in [
            ("r.example", "team/app", Some("app")),
            ("r.example", "team/app/debug", Some("app")),
            ("r.example", "team/application", Some("team")),
            ("r.example", "teams", None),
            ("docker.io", "library/alpine", Some("lib")),
            ("other.example", "team/app", None),
        ] {
            let found = file.namespace(host, repository).and_then(|entry| entry.credential().unwrap());
            let want = want.and_then(|user| password(user, "p"));
            assert_eq!(found, want, "{host}/{repository}");
        }
    }

    #[test]
    fn helpers_are_named_by_host() {
        let file = AuthFile::parse(
            br#"{"credHelpers": {"r.example": "gcr", "https://index.docker.io/v1/": "hub", "none.example": ""}}"#,
        )
        .unwrap();
        assert_eq!(file.helper("r.example"), Some(("r.example", "gcr")));
        assert_eq!(file.helper("docker.io"), Some((DOCKER_SERVER, "hub")));
        assert_eq!(file.helper("none.example"), None);
        assert_eq!(file.helper("r.example:443"), None);
    }

    #[test]
    fn what_is_malformed_is_named_without_its_text() {
        let error = AuthFile::parse(b"{\"auths\":\n {\"x\": \"hunter2\"}}").err().unwrap();
        assert!(error.starts_with("line 2, column") && !error.contains("hunter2"), "{error}");
        for (auth, want) in [("!", "base64"), ("aHVudGVyMg==", "user:password"), ("//8=", "text")] {
            let file =
                AuthFile::parse(format!(r#"{{"auths":{{"r":{{"auth":"{auth}"}}}}}}"#).as_bytes()).unwrap();
            let error = file.host("r").unwrap().credential().unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
