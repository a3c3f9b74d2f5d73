//! Listings that come in pages: which URL has the next one.
//!
//! Spec: OCI distribution-spec 1.1, "Listing Tags" and "Listing Referrers"; RFC 8288.

use reqwest::Url;
use reqwest::header::LINK;

use crate::error::Error;
use crate::hosts::Route;
use crate::http::Answer;
use crate::target::Target;

/// The `Link` to the next page, which must be the same host's: it will see our token.
pub(crate) fn next_page(answer: &Answer, route: &Route, target: &Target) -> Result<Option<Url>, Error> {
    let links = answer.response.headers().get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let Some(link) = links.flat_map(next_links).next() else { return Ok(None) };
    match answer.response.url().join(link) {
        Ok(next) if next.origin() == route.api().origin() => Ok(Some(route.named(next))),
        _ => Err(Error::malformed(target, "the link to the next page leads to another host")),
    }
}

/// The targets in one `Link` header whose relation is `next`. Grammar: RFC 8288.
fn next_links(header: &str) -> impl Iterator<Item = &str> {
    header.split('<').filter_map(|link| {
        let (url, parameters) = link.split_once('>')?;
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let relation = parameter.trim().strip_prefix("rel=").unwrap_or_default();
            relation.trim_matches('"').split_ascii_whitespace().any(|name| name.eq_ignore_ascii_case("next"))
        });
        is_next.then_some(url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_next_page() {
        for (header, want) in [
            (r#"</v2/a/referrers/d?last=1>; rel="next""#, Some("/v2/a/referrers/d?last=1")),
            (r#"</p>; rel=next"#, Some("/p")),
            (r#"</first>; rel="first", </n>; title="x"; rel="prev next""#, Some("/n")),
            (r#"</p>; rel="prev""#, None),
            ("<unclosed", None),
            ("", None),
        ] {
            assert_eq!(next_links(header).next(), want, "{header}");
        }
    }
}
