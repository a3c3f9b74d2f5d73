//! Fetching a bearer token from a registry's token service.
//!
//! Anonymous and password logins use GET with Basic authentication, identity tokens the OAuth2 POST.
//! Spec: the distribution project's "Token Authentication" and "OAuth2" documents. Invariant: what
//! answers over HTTPS never makes us send credentials over plain HTTP.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};

use crate::auth::Peer;
use crate::auth::challenge::Challenge;
use crate::auth::error::AuthError;
use crate::credentials::{Credential, Secret};
use crate::hosts::{Dial, host_of};
use crate::http::{Answer, Http, Request, passes, read_whole, retry_after};
use crate::limits;

/// How long a token lives whose service does not say, by the specification.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const CLIENT_ID: &str = "jaunt";

/// A token service, as a challenge describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenService {
    realm: Url,
    service: Option<String>,
    /// The scope of the challenge.
    pub(crate) scope: Option<String>,
}

/// A token and how long it may be used.
pub(crate) struct Token {
    pub(crate) secret: Secret,
    pub(crate) life: Duration,
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl TokenService {
    /// Reads a Bearer challenge; `secure` says whether the registry sent it over HTTPS.
    pub(crate) fn from_challenge(challenge: &Challenge, secure: bool) -> Result<Self, AuthError> {
        let realm = challenge.parameter("realm").unwrap_or_default();
        let realm: Url = realm
            .parse()
            .map_err(|_| AuthError::Challenge { reason: "its realm is not a URL".to_owned() })?;
        match realm.scheme() {
            "https" => {}
            "http" if !secure => {}
            "http" => return Err(AuthError::InsecureRealm { host: host_of(&realm) }),
            _ => return Err(AuthError::Challenge { reason: "its realm is not an HTTP URL".to_owned() }),
        }
        let parameter = |name| challenge.parameter(name).map(str::to_owned);
        Ok(Self { realm, service: parameter("service"), scope: parameter("scope") })
    }

    /// Fetches a token for `scopes`.
    pub(crate) async fn fetch(
        &self,
        http: &Http,
        peer: Peer<'_>,
        credential: Option<&Credential>,
        scopes: &[String],
    ) -> Result<Token, AuthError> {
        let host = host_of(&self.realm);
        let dial = http.dial(&self.realm, peer.url, peer.dial).await;
        let dial = dial.map_err(|failure| AuthError::from_failure(&host, failure))?;
        let request = match credential {
            // A registry token is for the registry alone.
            None | Some(Credential::RegistryToken(_)) => self.get(scopes, None, http, dial),
            Some(Credential::Password { username, password }) => {
                self.get(scopes, Some(basic(username, password)?), http, dial)
            }
            Some(Credential::IdentityToken(token)) => self.post(scopes, token, http, dial),
        };
        let answer = http.send(&request).await.map_err(|failure| AuthError::from_failure(&host, failure))?;
        read_token(&host, answer, http.patience).await
    }

    fn get(&self, scopes: &[String], authorization: Option<HeaderValue>, http: &Http, dial: Dial) -> Request {
        let mut url = self.realm.clone();
        if self.service.is_some() || !scopes.is_empty() {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(self.service.iter().map(|service| ("service", service)));
            query.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
        }
        Request { authorization, ..Request::new(http, Method::GET, url, dial) }
    }

    fn post(&self, scopes: &[String], identity: &Secret, http: &Http, dial: Dial) -> Request {
        // A URL's query and a form are encoded alike.
        let mut form = self.realm.clone();
        form.set_query(None);
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", CLIENT_ID)
            .append_pair("service", self.service.as_deref().unwrap_or_default())
            .append_pair("scope", &scopes.join(" "))
            .append_pair("refresh_token", identity.reveal());
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        Request {
            headers: HeaderMap::from_iter([(CONTENT_TYPE, form_type)]),
            body: Bytes::from(form.query().unwrap_or_default().to_owned()),
            ..Request::new(http, Method::POST, self.realm.clone(), dial)
        }
    }
}

/// The value of a Basic `Authorization` header.
pub(crate) fn basic(username: &str, password: &Secret) -> Result<HeaderValue, AuthError> {
    let pair = STANDARD.encode(format!("{username}:{}", password.reveal()));
    sensitive(format!("Basic {pair}"))
}

/// The value of a Bearer `Authorization` header.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue, AuthError> {
    sensitive(format!("Bearer {}", token.reveal()))
}

fn sensitive(text: String) -> Result<HeaderValue, AuthError> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| AuthError::Answer { reason: "holds a token no header can carry".to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

async fn read_token(host: &str, answer: Answer, patience: Duration) -> Result<Token, AuthError> {
    let status = answer.status();
    if !status.is_success() {
        let retry_after = retry_after(answer.response.headers());
        crate::http::drain(answer.response).await;
        let (host, passes) = (host.to_owned(), passes(status));
        return Err(AuthError::Refused { host, status, passes, retry_after });
    }
    let body = read_whole(answer.response, limits::TOKEN_ANSWER_BYTES, patience)
        .await
        .map_err(|error| AuthError::from_body(host, error))?;
    let bad = |reason: &str| AuthError::Answer { reason: format!("from {host} {reason}") };
    // The parser's own words could repeat the token.
    let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| bad("is not the JSON of a token"))?;
    let secret = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty())
        .ok_or_else(|| bad("holds no token"))?;
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).min(limits::TOKEN_LIFE);
    Ok(Token { secret: Secret::new(secret), life })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::challenge::challenges;
    use crate::hosts::Router;
    use reqwest::header::WWW_AUTHENTICATE;

    fn service(challenge: &'static str, secure: bool) -> Result<TokenService, AuthError> {
        let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))]);
        TokenService::from_challenge(&challenges(&headers)[0], secure)
    }

    #[test]
    fn asks_for_every_scope_and_keeps_the_realms_own_query() {
        let service = service(r#"Bearer realm="https://a.example/t?x=1",service="s e""#, true).unwrap();
        let scopes = ["repository:a:pull,push".to_owned(), "aws".to_owned()];
        let config = crate::ClientConfig::default();
        let none = Default::default();
        let dial = Dial::load(&none, &none, config.connect_timeout, None).unwrap();
        let router = Router::new(config.hosts.clone(), config.plain_http.clone(), config.connect_timeout);
        let http = Http::new(&config, router).unwrap();
        let request = service.get(&scopes, None, &http, dial.clone());
        let want = "https://a.example/t?x=1&service=s+e&scope=repository%3Aa%3Apull%2Cpush&scope=aws";
        assert_eq!(request.url.as_str(), want);
        let request = service.post(&scopes, &Secret::new("a&b".to_owned()), &http, dial);
        assert_eq!(request.url.as_str(), "https://a.example/t?x=1");
        assert!(request.body.ends_with(b"&scope=repository%3Aa%3Apull%2Cpush+aws&refresh_token=a%26b"));
    }

    #[test]
    fn sends_no_credentials_from_https_to_http() {
        let plain = r#"Bearer realm="http://a.example/t""#;
        assert!(matches!(service(plain, true), Err(AuthError::InsecureRealm { .. })));
        assert!(service(plain, false).is_ok());
        for bad in [r#"Bearer realm="/relative""#, "Bearer", r#"Bearer realm="file:///etc/passwd""#] {
            assert!(matches!(service(bad, false), Err(AuthError::Challenge { .. })), "{bad}");
        }
    }

    #[test]
    fn headers_are_marked_sensitive() {
        let value = basic("user", &Secret::new("hunter2".to_owned())).unwrap();
        assert_eq!(value, "Basic dXNlcjpodW50ZXIy");
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert!(bearer(&Secret::new("a\nb".to_owned())).is_err());
    }
}
