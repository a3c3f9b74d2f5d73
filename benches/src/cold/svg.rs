//! Scalable vector graphics, as much of them as a chart needs: rectangles, lines and text.
//!
//! No font is measured: text stands where its anchor puts it, in whatever font the reader has.

use std::fmt::Write as _;

/// The height of text, in the units of a drawing.
pub const TEXT: f64 = 12.0;

/// Which part of a text stands at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// A drawing on white.
#[derive(Clone, Debug)]
pub struct Drawing {
    width: f64,
    height: f64,
    body: String,
}

impl Drawing {
    /// An empty one.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A filled rectangle, with a text that shows when it is pointed at.
    pub fn rectangle(&mut self, [x, y, width, height]: [f64; 4], colour: &str, tip: &str) {
        let (tip, width) = (escaped(tip), width.max(0.5));
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\">\
             <title>{tip}</title></rect>"
        );
    }

    /// A thin line.
    pub fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], colour: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
        );
    }

    /// A text, whose base line is at `y`.
    pub fn text(&mut self, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        self.write(x, y, anchor, "", text);
    }

    /// The same, heavier.
    pub fn title(&mut self, [x, y]: [f64; 2], text: &str) {
        self.write(x, y, Anchor::Start, " font-weight=\"bold\"", text);
    }

    fn write(&mut self, x: f64, y: f64, anchor: Anchor, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{style}>{text}</text>"
        );
    }

    /// The whole of it, as a file.
    pub fn finish(self) -> String {
        let Self { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"{TEXT}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }
}

/// A round number of seconds between two marks of an axis, of which a width of `span` seconds gets ten at most.
pub fn step(span: f64) -> f64 {
    let least = span.max(1e-6) / 10.0;
    let decade = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * decade).into_iter().find(|step| *step >= least).unwrap_or(least)
}

/// As text within XML; what XML cannot hold becomes a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_break_out_of_its_drawing() {
        let mut drawing = Drawing::new(100.0, 50.0);
        drawing.text([1.0, 2.0], Anchor::End, "</text><script>\u{1}&");
        drawing.rectangle([0.0, 0.0, 0.0, 5.0], "#fff", "\"a\"");
        let text = drawing.finish();
        assert!(
            text.contains("&lt;/text&gt;&lt;script&gt;?&amp;</text>") && text.contains("&quot;a&quot;"),
            "{text}"
        );
        assert!(
            text.starts_with("<svg ")
                && text.ends_with("</svg>\n")
                && text.contains("viewBox=\"0 0 100 50\"")
        );
    }

    #[test]
    fn axes_have_round_marks() {
        for (span, expected) in [(1.0, 0.1), (0.9, 0.1), (3.0, 0.5), (12.0, 2.0), (0.042, 0.005)] {
            assert!((step(span) - expected).abs() < 1e-9, "{span}: {}", step(span));
        }
    }
}
