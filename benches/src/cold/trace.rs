//! What happened in one start: the daemon's own trace, containerd's events, and the two commands, on one clock.

use std::time::{Duration, SystemTime};

use jaunt_tests::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Machine;

/// Something that took its time, in seconds since the pull command.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// When it began.
    pub at: f64,
    /// How long it took.
    pub took: f64,
    /// What it was.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// One of the two commands.
    Command(&'static str),
    /// containerd told of it, and took no time.
    Event(String),
    /// A step of the daemon's, by its name, and to what.
    Step(String, String),
    /// A read that was answered at once.
    Touch(String),
    /// A read that waited, of a path and so many bytes.
    Stall(String, u64),
    /// So many bytes arrived, of that class.
    Fetch(String, u64),
}

/// Where the time of a start went, in seconds. Field names are the keys of the JSON, and stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// The image's name.
    pub image: String,
    /// The line's name.
    pub network: String,
    /// The sources that it was measured of.
    #[serde(default)]
    pub commit: String,
    /// The machine that it was measured on.
    #[serde(default)]
    pub machine: Machine,
    /// The pull command.
    pub pull_s: f64,
    /// The daemon's search for what the image needs, within that.
    pub resolve_s: f64,
    /// The daemon's answers to containerd, one after the other or not, within pull and run.
    pub answers_s: f64,
    /// From the run command until containerd has started the container's process, while no read waited.
    pub create_s: f64,
    /// From the run command on, while at least one read waited.
    pub stalled_s: f64,
    /// From the process's start on, while none did.
    pub running_s: f64,
    /// The boot pack's stream, from its request to its end, beside all else.
    #[serde(default)]
    pub pack_s: f64,
    /// Storing the pack's pages in the kernel, beside all else.
    #[serde(default)]
    pub push_s: f64,
    /// Reads that reached the daemon, waiting or not.
    #[serde(default)]
    pub reads: usize,
    /// All of it.
    pub ready_s: f64,
    /// Reads that waited.
    pub stalls: usize,
    /// Requests for ranges that were answered until ready.
    pub fetches: usize,
    /// The most memory that the process which pushes pages had resident, where there was one.
    #[serde(default)]
    pub pusher_peak_bytes: u64,
}

/// One start.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Until the pull command ended.
    pub pull_s: f64,
    /// Until the container was ready.
    pub ready_s: f64,
    /// What happened until then, in the order in which it began.
    pub spans: Vec<Span>,
    /// The most memory that the process which pushes pages had resident.
    pub pusher_peak_bytes: u64,
}

impl Story {
    /// A start that began at `begun`, of the daemon's lines and containerd's.
    pub fn read(begun: SystemTime, pull_s: f64, ready_s: f64, trace: &str, events: &str) -> Result<Self> {
        let odd = |line: &str| Error::unexpected("a trace", line.to_owned());
        let mut spans = vec![
            Span { at: 0.0, took: pull_s, what: What::Command("pull") },
            Span { at: pull_s, took: ready_s - pull_s, what: What::Command("run") },
        ];
        for text in trace.lines() {
            spans.push(line(begun, text).ok_or_else(|| odd(text))?);
        }
        spans.extend(events.lines().filter_map(|text| event(begun, text)));
        spans.retain(|span| span.at >= 0.0 && span.at < ready_s);
        spans.sort_by(|a, b| a.at.total_cmp(&b.at));
        Ok(Self { pull_s, ready_s, spans, pusher_peak_bytes: 0 })
    }

    /// When containerd had started the container's process; where it did not tell, the first read stands for that.
    fn started(&self) -> f64 {
        let started = |what: &What| matches!(what, What::Event(topic) if topic == "/tasks/start");
        let event = self.spans.iter().find(|span| started(&span.what)).map(|span| span.at);
        event.or_else(|| self.first_read()).unwrap_or(self.ready_s)
    }

    /// When the container's first read reached the daemon; none does where all that a start reads is in the page cache.
    pub fn first_read(&self) -> Option<f64> {
        let reads = self.spans.iter().filter(|span| matches!(span.what, What::Touch(_) | What::Stall(..)));
        reads.map(|span| span.at).next()
    }

    /// Where the time went.
    pub fn account(&self, image: &str, network: &str) -> Account {
        let Self { pull_s, ready_s, spans, pusher_peak_bytes } = self;
        let started = self.started();
        let of = |wanted: fn(&What) -> bool| spans.iter().filter(move |span| wanted(&span.what));
        let stalled = |from, to| covered(of(|what| matches!(what, What::Stall(..))), from, to);
        let (before, after) = (stalled(*pull_s, started), stalled(started, *ready_s));
        let resolve = |what: &What| matches!(what, What::Step(name, _) if name == "resolve");
        let pack = |what: &What| matches!(what, What::Step(name, _) if name == "pack");
        let push = |what: &What| matches!(what, What::Step(name, _) if name == "push");
        let answer = |what: &What| matches!(what, What::Step(name, _) if ["prepare", "view", "mounts", "commit"].contains(&name.as_str()));
        Account {
            image: image.to_owned(),
            network: network.to_owned(),
            commit: String::new(),
            machine: Machine::default(),
            pull_s: *pull_s,
            resolve_s: covered(of(resolve), 0.0, *ready_s),
            answers_s: covered(of(answer), 0.0, *ready_s),
            create_s: started - pull_s - before,
            stalled_s: before + after,
            running_s: ready_s - started - after,
            pack_s: covered(of(pack), 0.0, *ready_s),
            push_s: covered(of(push), 0.0, *ready_s),
            reads: of(|what| matches!(what, What::Touch(_) | What::Stall(..))).count(),
            ready_s: *ready_s,
            stalls: of(|what| matches!(what, What::Stall(..))).count(),
            fetches: of(|what| matches!(what, What::Fetch(..))).count(),
            pusher_peak_bytes: *pusher_peak_bytes,
        }
    }
}

/// The time between `begin` and `end` that at least one of the spans takes. They come in the order in which they began.
fn covered<'s>(spans: impl Iterator<Item = &'s Span>, begin: f64, end: f64) -> f64 {
    let (mut sum, mut until) = (0.0, begin);
    for span in spans {
        let over = (span.at + span.took).min(end);
        sum += (over - span.at.max(until)).max(0.0);
        until = until.max(over);
    }
    sum
}

/// A line of the daemon's.
fn line(begun: SystemTime, text: &str) -> Option<Span> {
    let value: Value = serde_json::from_str(text).ok()?;
    let micros = |key: &str| value[key].as_u64().map(Duration::from_micros);
    let word = |key: &str| value[key].as_str().map(str::to_owned);
    let path = || word("path").unwrap_or_else(|| format!("inode {}", value["inode"]));
    let what = match value["event"].as_str()? {
        "step" => What::Step(word("name")?, word("subject")?),
        "touch" if value["missed"].as_bool()? => What::Stall(path(), value["len"].as_u64()?),
        "touch" => What::Touch(path()),
        "fetch" => What::Fetch(word("class")?, value["len"].as_u64()?),
        _ => return None,
    };
    let at = SystemTime::UNIX_EPOCH + micros("at_us")?;
    Some(Span { at: since(begun, at), took: micros("took_us")?.as_secs_f64(), what })
}

/// A line of `ctr events`: `2026-01-31 12:34:56.123456789 +0000 UTC NAMESPACE /TOPIC {...}`. Of the day, only the time is read: a
/// start that is under way at midnight shows no events.
fn event(begun: SystemTime, text: &str) -> Option<Span> {
    /// Seconds of a day.
    const DAY: f64 = 86_400.0;
    let mut words = text.split(' ');
    let time = words.nth(1)?;
    let topic = words.find(|word| word.starts_with('/'))?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let began = begun.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64() % DAY;
    let at = hours * 3600.0 + minutes * 60.0 + seconds - began;
    Some(Span { at, took: 0.0, what: What::Event(topic.to_owned()) })
}

/// Seconds, also backwards.
fn since(begun: SystemTime, at: SystemTime) -> f64 {
    match at.duration_since(begun) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn story() -> Story {
        let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + 3600);
        let at = |millis: u64| (86_400 + 3600) * 1_000_000 + millis * 1000;
        let touch = |millis: u64, took: u64, missed: bool| {
            let (at, took) = (at(millis), took * 1000);
            format!(
                r#"{{"event":"touch","path":"/bin/<x>","len":4096,"missed":{missed},"at_us":{at},"took_us":{took}}}"#
            )
        };
        let step = |name: &str, millis: u64, took: u64| {
            let (at, took) = (at(millis), took * 1000);
            format!(r#"{{"event":"step","name":"{name}","subject":"r","at_us":{at},"took_us":{took}}}"#)
        };
        let trace = [
            step("resolve", 10, 20),
            touch(120, 10, true),
            step("pack", 30, 200),
            step("push", 120, 5000),
            touch(200, 0, false),
            touch(300, 100, true),
            touch(350, 100, true),
            touch(990, 100, true),
            touch(1200, 1, false),
            format!(r#"{{"event":"fetch","class":"demand","len":7,"at_us":{},"took_us":50000}}"#, at(310)),
        ];
        let events = "1970-01-02 01:00:00.15 +0000 UTC k8s.io /tasks/start {}\nnonsense\n";
        Story::read(begun, 0.1, 1.0, &trace.join("\n"), events).unwrap()
    }

    #[test]
    fn the_time_of_a_start_is_accounted_for_once() {
        let account = story().account("an-image", "1g");
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} instead of {b}: {account:?}");
        close(account.resolve_s, 0.02);
        close(account.create_s, 0.05 - 0.01);
        close(account.stalled_s, 0.01 + 0.15 + 0.01);
        close(account.pack_s, 0.2);
        close(account.push_s, 0.88);
        close(account.pull_s + account.create_s + account.stalled_s + account.running_s, 1.0);
        assert_eq!((account.reads, account.stalls, account.fetches), (5, 4, 1));
    }

    #[test]
    fn what_containerd_tells_is_put_on_the_same_clock() {
        let story = story();
        let event = story.spans.iter().find(|span| matches!(span.what, What::Event(_))).unwrap();
        assert!((event.at - 0.15).abs() < 1e-6 && event.what == What::Event("/tasks/start".to_owned()));
        assert!(Story::read(SystemTime::UNIX_EPOCH, 0.0, 0.0, "{}", "").is_err());
    }
}
