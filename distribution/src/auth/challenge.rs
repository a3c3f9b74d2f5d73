//! `WWW-Authenticate`: which way of authentication a registry wants.
//!
//! Grammar: RFC 9110, 11.6.1. One header may hold several challenges, separated by the same comma
//! that separates the parameters of one; a quoted value may hold commas and escapes.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

use crate::limits;

/// One challenge: a scheme and its parameters, names in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of that name.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Every challenge of a response. What follows the first syntax error of a header is ignored.
pub(crate) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter(|value| value.len() <= limits::CHALLENGE_BYTES)
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse)
        .collect()
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = take_token(rest);
        if word.is_empty() {
            return challenges;
        }
        let word = word.to_ascii_lowercase();
        match (parameter_value(after), challenges.last_mut()) {
            (Some((value, after)), Some(challenge)) => {
                challenge.parameters.push((word, value));
                rest = after;
            }
            // A value before any scheme, or one whose quotes never close.
            (Some(_), None) => return challenges,
            (None, _) if after.trim_start().starts_with('=') => return challenges,
            (None, _) => {
                challenges.push(Challenge { scheme: word, parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// After a parameter's name: `= value`, with optional blanks.
fn parameter_value(after_name: &str) -> Option<(String, &str)> {
    let text = after_name.trim_start().strip_prefix('=')?.trim_start();
    match text.strip_prefix('"') {
        Some(quoted) => take_quoted(quoted),
        None => {
            let (value, rest) = take_token(text);
            (!value.is_empty()).then(|| (value.to_owned(), rest))
        }
    }
}

/// Up to the closing quote, escapes undone.
fn take_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// A token of RFC 9110; also what unquoted URLs and scopes use, as registries send them.
fn take_token(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let one = |c: Challenge| {
            let parameters: Vec<_> = c.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("{}[{}]", c.scheme, parameters.join("|"))
        };
        parse(text).into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn parses_what_registries_send() {
        for (text, want) in [
            ("Basic", "basic[]"),
            (r#"Basic realm="Registry""#, "basic[realm=Registry]"),
            (
                r#"Bearer realm="https://a.example/t",service="s",scope="repository:x:pull,push""#,
                "bearer[realm=https://a.example/t|service=s|scope=repository:x:pull,push]",
            ),
            (
                r#"Bearer realm=https://a.example/t , Service = s"#,
                "bearer[realm=https://a.example/t|service=s]",
            ),
            (r#"Basic realm="a, b", Bearer realm="c""#, "basic[realm=a, b] bearer[realm=c]"),
            (r#"Negotiate, Basic realm=x"#, "negotiate[] basic[realm=x]"),
            (r#"Bearer realm="say \"hi\\\"",scope="""#, r#"bearer[realm=say "hi\"|scope=]"#),
            (r#",, Bearer ,realm=x,,"#, "bearer[realm=x]"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn survives_what_nobody_should_send() {
        for (text, want) in [
            ("", ""),
            ("realm=x", ""),
            ("=", ""),
            (r#"Bearer realm="never closed"#, "bearer[]"),
            (r#"Bearer realm="ends in escape\"#, "bearer[]"),
            ("Bearer realm=", "bearer[]"),
            ("Bearer realm=\u{e9}\u{e9}", "bearer[realm=éé]"),
            (r#"Bearer "realm""#, "bearer[]"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }
}
