//! Until when a signed URL is good, where the URL says so.
//!
//! Object stores state it in the query: `X-Amz-Date` with `X-Amz-Expires` (S3, and with other prefixes
//! Google and Alibaba), `Expires` in seconds of the epoch (CloudFront and older signatures), `se`
//! (Azure). The clock is the redirecting server's own where it sends a `Date`, so that a wrong one here
//! does no harm; a URL kept too long is refused and resolved again.

use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use reqwest::header::{DATE, HeaderMap};

/// Taken off a URL's life for the way of a request.
const MARGIN: SignedDuration = SignedDuration::from_secs(10);

/// When a URL stops being good: `None` where it does not say, which is "until refused".
pub(crate) fn expiry(url: &Url, redirect: &HeaderMap) -> Option<Instant> {
    let expires = stated(url)?;
    let now = clock(redirect).unwrap_or_else(Timestamp::now);
    let life = expires.duration_since(now).saturating_sub(MARGIN);
    // Negative: it is spent already.
    let life = Duration::try_from(life).unwrap_or_default();
    Instant::now().checked_add(life)
}

/// What the sender of an answer takes the time to be.
fn clock(headers: &HeaderMap) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(headers.get(DATE)?.to_str().ok()?).ok()
}

fn stated(url: &Url) -> Option<Timestamp> {
    let parameter = |wanted: &str| {
        let mut pairs = url.query_pairs();
        pairs.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let issued = ["x-amz-", "x-goog-", "x-oss-"].into_iter().find_map(|prefix| {
        let date = parameter(&format!("{prefix}date"))?.parse::<Timestamp>().ok()?;
        let seconds = parameter(&format!("{prefix}expires"))?.parse().ok()?;
        date.checked_add(SignedDuration::from_secs(seconds)).ok()
    });
    issued
        .or_else(|| Timestamp::from_second(parameter("expires")?.parse().ok()?).ok())
        .or_else(|| azure(&parameter("se")?))
}

/// Azure leaves out seconds, or the time of day, as it likes.
fn azure(text: &str) -> Option<Timestamp> {
    let midnight = || TimeZone::UTC.to_timestamp(text.parse::<Date>().ok()?.at(0, 0, 0, 0)).ok();
    text.parse().ok().or_else(midnight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_object_stores_write() {
        for (query, want) in [
            ("X-Amz-Date=20260102T030405Z&X-Amz-Expires=600&X-Amz-Signature=x", "2026-01-02T03:14:05Z"),
            ("x-goog-expires=60&x-goog-date=20260102T030405Z", "2026-01-02T03:05:05Z"),
            ("Expires=1767323045&Signature=x&Key-Pair-Id=y", "2026-01-02T03:04:05Z"),
            ("sv=2025-01-05&se=2026-01-02T03%3A04%3A05Z&sig=x", "2026-01-02T03:04:05Z"),
            ("se=2026-01-02T03%3A04Z", "2026-01-02T03:04:00Z"),
            ("se=2026-01-02", "2026-01-02T00:00:00Z"),
        ] {
            let url = format!("https://s.example/x?{query}").parse().unwrap();
            assert_eq!(stated(&url).map(|time| time.to_string()).as_deref(), Some(want), "{query}");
        }
    }

    #[test]
    fn makes_nothing_of_anything_else() {
        for query in [
            "",
            "sig=x",
            "X-Amz-Expires=600",
            "X-Amz-Date=today&X-Amz-Expires=600",
            "X-Amz-Date=20260102T030405Z&X-Amz-Expires=9223372036854775807",
            "Expires=soon",
            "Expires=9223372036854775807",
            "se=never",
        ] {
            let url = format!("https://s.example/x?{query}").parse().unwrap();
            assert_eq!(stated(&url), None, "{query}");
        }
    }

    #[test]
    fn goes_by_the_servers_clock() {
        let url = "https://s.example/x?X-Amz-Date=20200101T000000Z&X-Amz-Expires=600".parse().unwrap();
        let at = |date: &'static str| {
            let headers = HeaderMap::from_iter([(DATE, date.parse().unwrap())]);
            expiry(&url, &headers).unwrap().saturating_duration_since(Instant::now()).as_secs()
        };
        assert!((588..=590).contains(&at("Wed, 01 Jan 2020 00:00:00 GMT")));
        assert_eq!(at("Wed, 01 Jan 2020 00:09:55 GMT"), 0);
        assert!(expiry(&url, &HeaderMap::new()).unwrap() <= Instant::now());
    }
}
