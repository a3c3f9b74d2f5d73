//! One start as a waterfall: commands, containerd's events, the daemon's steps, what was fetched, and every read that waited.

use super::svg::{Anchor, Drawing, step};
use super::trace::{Span, Story, What};

const WIDTH: f64 = 1100.0;
/// Where time begins, right of the rows' names.
const LEFT: f64 = 90.0;
/// Where the start ends, left of the names of what was waited for.
const RIGHT: f64 = 720.0;
const HEAD: f64 = 50.0;
const ROW: f64 = 16.0;
/// Rows that a person still looks at; of more, the longest are shown.
const STALLS: usize = 300;
/// Between two reads that are nearer to each other nothing would show.
const PIXEL: f64 = 1.0;
/// The end of a path says more than its beginning.
const PATH: usize = 48;
/// Steps in the order of their rows, by their names in the trace and here. Others follow, by their own names.
const STEPS: [(&str, &str); 13] = [
    ("prepare", "prepare"),
    ("resolve", "resolve"),
    ("artifact", "artifact"),
    ("index", "index"),
    ("probe", "probe"),
    ("pack", "boot pack"),
    ("frame", "its frames"),
    ("push", "pushing it"),
    ("record", "record"),
    ("view", "view"),
    ("mounts", "mounts"),
    ("commit", "commit"),
    ("mount", "mount"),
];
const CLASSES: [&str; 5] = ["demand", "ahead", "boot", "nearby", "background"];

/// Draws a start under a title.
pub fn draw(title: &str, story: &Story) -> String {
    let rows = rows(story);
    let stalls = stalls(story);
    let height = HEAD + (rows.len() + stalls.len() + 2) as f64 * ROW;
    let mut drawing = Drawing::new(WIDTH, height);
    let scale = (RIGHT - LEFT) / story.ready_s.max(0.001);
    axis(&mut drawing, title, story, scale, height);
    let mut y = HEAD;
    for (name, colour, spans) in &rows {
        drawing.text([LEFT - 6.0, y + ROW - 4.0], Anchor::End, name);
        for block in blocks(spans, scale) {
            bar(&mut drawing, y, scale, story, block, colour);
        }
        let events: Vec<_> = spans.iter().filter(|span| matches!(span.what, What::Event(_))).collect();
        if let [event] = events[..] {
            let label = format!("{:.0} ms", event.at * 1000.0);
            drawing.text([LEFT + event.at * scale + 5.0, y + ROW - 4.0], Anchor::Start, &label);
        }
        y += ROW;
    }
    y += ROW;
    for (number, span) in stalls.iter().enumerate() {
        let What::Stall(path, _) = &span.what else { continue };
        drawing.text([LEFT - 6.0, y + ROW - 4.0], Anchor::End, &format!("wait {}", number + 1));
        bar(&mut drawing, y, scale, story, &[*span], "#d1495b");
        let label = format!("{:.1} ms {}", span.took * 1000.0, ending(path));
        drawing.text([RIGHT + 6.0, y + ROW - 4.0], Anchor::Start, &label);
        y += ROW;
    }
    drawing.finish()
}

fn axis(drawing: &mut Drawing, title: &str, story: &Story, scale: f64, height: f64) {
    drawing.title([10.0, 18.0], title);
    let mut mark = 0.0;
    while mark <= story.ready_s {
        let x = LEFT + mark * scale;
        drawing.line([x, HEAD - 4.0], [x, height - ROW], "#dddddd");
        drawing.text([x, HEAD - 8.0], Anchor::Middle, &format!("{:.0}", mark * 1000.0));
        mark += step(story.ready_s);
    }
    drawing.line([RIGHT, HEAD - 4.0], [RIGHT, height - ROW], "#222222");
    let ready = format!("ready, {:.0} ms", story.ready_s * 1000.0);
    drawing.text([RIGHT + 6.0, HEAD - 8.0], Anchor::Start, &ready);
    match story.first_read() {
        Some(first) => {
            let x = LEFT + first * scale;
            drawing.line([x, HEAD - 4.0], [x, height - ROW], "#66a182");
            drawing.text([x + 3.0, height - 4.0], Anchor::Start, "first read");
        }
        None => drawing.text([LEFT, height - 4.0], Anchor::Start, "no read reached the daemon"),
    }
}

type Row<'s> = (String, &'static str, Vec<&'s Span>);

/// Everything but waits, a row a kind; kinds of which nothing happened have none.
fn rows(story: &Story) -> Vec<Row<'_>> {
    let of = |wanted: &dyn Fn(&What) -> bool| -> Vec<&Span> {
        story.spans.iter().filter(|span| wanted(&span.what)).collect()
    };
    let mut rows = vec![("commands".to_owned(), "#8d99ae", of(&|what| matches!(what, What::Command(_))))];
    let mut topics: Vec<&String> = Vec::new();
    for span in &story.spans {
        if let What::Event(topic) = &span.what
            && !topics.contains(&topic)
        {
            topics.push(topic);
        }
    }
    for topic in topics {
        let name = topic.trim_start_matches('/').replace("containers", "container").replace("snapshot/", "");
        rows.push((name, "#222222", of(&|what| matches!(what, What::Event(own) if own == topic))));
    }
    for (step, title) in steps(story) {
        let spans = of(&|what| matches!(what, What::Step(name, _) if name == step));
        rows.push((title.to_owned(), "#2e86ab", spans));
    }
    for class in CLASSES {
        let fetches = of(&|what| matches!(what, What::Fetch(name, _) if name == class));
        rows.push((format!("fetch: {class}"), "#edae49", fetches));
    }
    rows.push(("read".to_owned(), "#66a182", of(&|what| matches!(what, What::Touch(_)))));
    rows.retain(|(_, _, spans)| !spans.is_empty());
    rows
}

/// Those that are known, and then whatever else the daemon told of.
fn steps(story: &Story) -> Vec<(&str, &str)> {
    let mut steps = STEPS.to_vec();
    for span in &story.spans {
        if let What::Step(name, _) = &span.what
            && !steps.iter().any(|(known, _)| known == name)
        {
            steps.push((name, name));
        }
    }
    steps
}

/// The longest of the reads that waited, in the order in which they began.
fn stalls(story: &Story) -> Vec<&Span> {
    let mut stalls: Vec<&Span> =
        story.spans.iter().filter(|span| matches!(span.what, What::Stall(..))).collect();
    stalls.sort_by(|a, b| b.took.total_cmp(&a.took));
    stalls.truncate(STALLS);
    stalls.sort_by(|a, b| a.at.total_cmp(&b.at));
    stalls
}

/// What is drawn as one: a span alone, or reads one after the other between which nothing would show. Spans come in the
/// order in which they began.
fn blocks<'a, 's>(spans: &'a [&'s Span], scale: f64) -> Vec<&'a [&'s Span]> {
    let (mut blocks, mut first, mut until) = (Vec::new(), 0, f64::NEG_INFINITY);
    for (number, span) in spans.iter().enumerate() {
        let joins = matches!(span.what, What::Touch(_)) && (span.at - until) * scale < PIXEL;
        if !joins {
            blocks.push(&spans[first..number]);
            (first, until) = (number, f64::NEG_INFINITY);
        }
        until = until.max(span.at + span.took);
    }
    blocks.push(&spans[first..]);
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// A block, as long as its spans are together.
fn bar(drawing: &mut Drawing, y: f64, scale: f64, story: &Story, block: &[&Span], colour: &str) {
    let Some(first) = block.first() else { return };
    let until = block.iter().map(|span| span.at + span.took).fold(first.at, f64::max);
    let took = until - first.at;
    let tip = format!("{}: {:.1} ms from {:.1} ms on", about(block), took * 1000.0, first.at * 1000.0);
    let least = if took == 0.0 { 2.0 } else { 0.5 };
    let width = ((until.min(story.ready_s) - first.at) * scale).max(least);
    drawing.rectangle([LEFT + first.at * scale, y + 2.0, width, ROW - 5.0], colour, &tip);
}

/// What it was, each file once.
fn about(block: &[&Span]) -> String {
    let mut all = Vec::new();
    for span in block {
        let one = match &span.what {
            What::Command(name) => (*name).to_owned(),
            What::Event(topic) => topic.clone(),
            What::Step(name, subject) => format!("{name} {subject}"),
            What::Touch(path) => path.clone(),
            What::Stall(path, len) => format!("{path}, {len} bytes"),
            What::Fetch(class, len) => format!("{class}, {len} bytes"),
        };
        if !all.contains(&one) {
            all.push(one);
        }
    }
    match block.len() {
        1 => all.concat(),
        reads => format!("{reads} reads of {}", all.join(", ")),
    }
}

fn ending(path: &str) -> String {
    match path.char_indices().rev().nth(PATH) {
        Some((at, _)) => format!("…{}", path.get(at..).unwrap_or_default()),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::tests::story;
    use super::*;

    #[test]
    fn every_wait_has_a_row_with_its_path_and_time() {
        let drawn = draw("an-image over 1g", &story());
        assert_eq!(drawn.matches(">wait ").count(), 4);
        assert!(drawn.contains("100.0 ms /bin/&lt;x&gt;</text>"), "{drawn}");
        for name in [
            "commands",
            "tasks/start",
            "resolve",
            "boot pack",
            "pushing it",
            "fetch: demand",
            "first read",
            "ready, 1000 ms",
        ] {
            assert!(drawn.contains(name), "no {name} in\n{drawn}");
        }
        assert!(!drawn.contains(">index<"));
    }

    #[test]
    fn reads_between_which_nothing_would_show_are_one_that_names_their_files() {
        let read = |at: f64, took: f64, path: &str| Span { at, took, what: What::Touch(path.to_owned()) };
        let mut spans = vec![
            read(0.1, 0.01, "/a"),
            read(0.105, 0.0, "/b"),
            read(0.1101, 0.001, "/a"),
            read(0.5, 0.001, "/c"),
        ];
        let story = |spans| Story { pull_s: 0.1, ready_s: 1.0, spans, pusher_peak_bytes: 0 };
        let drawn = draw("", &story(spans.clone()));
        assert_eq!(drawn.matches("#66a182\"><title>").count(), 2, "{drawn}");
        assert!(drawn.contains("<title>3 reads of /a, /b: 11.1 ms from 100.0 ms on</title>"), "{drawn}");
        assert!(drawn.contains("<title>/c: 1.0 ms from 500.0 ms on</title>"), "{drawn}");
        // What waits, and what is fetched, stays apart.
        spans.iter_mut().for_each(|span| span.what = What::Fetch("ahead".to_owned(), 1));
        assert_eq!(draw("", &story(spans)).matches("<title>ahead, 1 bytes").count(), 4);
    }

    #[test]
    fn a_start_whose_reads_are_all_in_the_page_cache_says_so() {
        let says = |story: &Story| draw("", story).contains("no read reached the daemon");
        assert!(!says(&story()));
        assert!(says(&Story { ready_s: 1.0, ..Story::default() }));
    }

    #[test]
    fn long_paths_keep_their_end() {
        assert_eq!(ending("/usr/bin/python3"), "/usr/bin/python3");
        let long = format!("/é{}/end.py", "x".repeat(100));
        assert!(ending(&long).starts_with('…') && ending(&long).ends_with("/end.py"));
    }
}
