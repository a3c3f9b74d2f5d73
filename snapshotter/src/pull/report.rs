//! What a pull came to.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Way;
use crate::status::Image;

/// An image that is there.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// As it was asked for.
    pub name: String,
    /// What it was pulled through.
    pub way: Way,
    /// How long that took.
    pub took: Duration,
    /// What it is to the daemon; or why that cannot be told.
    pub became: Result<Image, String>,
}

impl Pulled {
    /// For scripts.
    pub fn json(&self) -> Value {
        let image = self.became.as_ref().ok();
        json!({
            "image": self.name,
            "through": match self.way { Way::Transfer => "transfer", Way::Cri => "cri" },
            "seconds": self.took.as_secs_f64(),
            "layers": image.map(|image| image.layers),
            "lazy": image.map(|image| image.lazy),
            "reasons": image.map(|image| &image.reasons),
            "trouble": self.became.as_ref().err(),
        })
    }
}

/// "7 of 7 layers lazy", with the reasons for those that are not.
impl fmt::Display for Pulled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pulled {} in {:.2} s", self.name, self.took.as_secs_f64())?;
        match &self.became {
            Err(why) => write!(f, " ({why})"),
            Ok(image) => {
                write!(f, ": {} of {} layers lazy", image.lazy, image.layers)?;
                match image.reasons.iter().map(String::as_str).collect::<Vec<_>>() {
                    reasons if reasons.is_empty() => Ok(()),
                    reasons => write!(f, " ({})", reasons.join(", ")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_an_object_tell_the_same() {
        let image = |lazy, reasons: &[&str]| Image {
            layers: 3,
            lazy,
            reasons: reasons.iter().map(|code| (*code).to_owned()).collect(),
            ..Image::default()
        };
        let pulled = |became| Pulled {
            name: "r.example/a:1".to_owned(),
            way: Way::Cri,
            took: Duration::from_millis(1500),
            became,
        };
        let all = pulled(Ok(image(3, &[])));
        assert_eq!(all.to_string(), "pulled r.example/a:1 in 1.50 s: 3 of 3 layers lazy");
        let some = pulled(Ok(image(1, &["no-launch-artifact", "timeout"])));
        assert!(some.to_string().ends_with("1 of 3 layers lazy (no-launch-artifact, timeout)"), "{some}");
        let json = some.json();
        assert_eq!((&json["lazy"], &json["layers"], &json["through"]), (&1.into(), &3.into(), &"cri".into()));
        assert_eq!((&json["reasons"][1], &json["trouble"]), (&"timeout".into(), &Value::Null));
        let unknown = pulled(Err("the daemon is away".to_owned()));
        assert!(unknown.to_string().ends_with("1.50 s (the daemon is away)"), "{unknown}");
        assert_eq!(
            (&unknown.json()["lazy"], &unknown.json()["trouble"]),
            (&Value::Null, &"the daemon is away".into())
        );
    }
}
