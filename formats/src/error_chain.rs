//! An error with all its causes, for messages.

use std::error::Error;

/// An error and its causes on one line. One that repeats what was said before it, as errors do that are transparent to
/// their cause or quote it, is left out.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layered(&'static str, Option<Box<Layered>>);

    impl fmt::Display for Layered {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layered {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn every_cause_is_said_once() {
        let cause = |text, cause| Layered(text, Some(Box::new(cause)));
        let error =
            cause("cannot read", cause("cannot read", cause("the line: broken", Layered("broken", None))));
        assert_eq!(error_chain(&error), "cannot read: the line: broken");
    }
}
