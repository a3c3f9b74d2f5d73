//! The `Content-Range` of a 206 or 416. Spec: RFC 9110, 14.4.

use std::ops::Range;

use reqwest::header::{CONTENT_RANGE, HeaderMap};

/// Which bytes an answer holds, and of how many, where it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) range: Range<u64>,
    pub(crate) total: Option<u64>,
}

impl ContentRange {
    /// Parses `bytes first-last/total`, where total may be `*`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = number(first)?..number(last)?.checked_add(1)?;
        let total = match total {
            "*" => None,
            total => Some(number(total)?),
        };
        let sound = range.start < range.end && total.is_none_or(|total| range.end <= total);
        sound.then_some(Self { range, total })
    }
}

/// The header's text, for parsing and for errors.
pub(crate) fn header(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_ranges_that_make_sense() {
        let some = |range, total| Some(ContentRange { range, total });
        for (text, want) in [
            ("bytes 0-0/1", some(0..1, Some(1))),
            ("bytes 5-9/*", some(5..10, None)),
            ("bytes 9-5/10", None),
            ("bytes 0-10/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes +1-2/3", None),
            ("bytes */10", None),
            ("items 0-1/2", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(text), want, "{text}");
        }
    }
}
