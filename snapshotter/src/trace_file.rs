//! What happens, as lines of JSON in a file: for whoever wants to know where the time of a start went.
//!
//! Lines are written by a thread of their own, some time after the events that they tell: nothing waits for it. Times are
//! microseconds, of the Unix epoch where something began, and of how long it took.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use jaunt_layerfs::fs::Ino;
use jaunt_layerfs::observed::Observed;
use jaunt_layerfs::trace::{Event, Trace, What};
use serde_json::{Value, json};

/// Between two looks at what has happened.
const EVERY: Duration = Duration::from_millis(250);
/// Who may look.
const OWNERS: u32 = 0o600;

/// Appends to `path` what `trace` is told, as long as the process lives. Paths of files come from `observed`.
pub fn follow(trace: Trace, observed: Arc<Observed>, path: &Path) -> io::Result<()> {
    let mut file = open(path)?;
    let mut names = Names { observed, of: HashMap::new() };
    let write = move || {
        loop {
            thread::sleep(EVERY);
            if let Err(error) = write(&trace, &mut names, &mut file) {
                tracing::warn!(%error, "the trace cannot be written, and ends");
                return;
            }
        }
    };
    thread::Builder::new().name("trace".to_owned()).spawn(write).map(drop)
}

/// It names what containers read, also where an earlier version let everybody see it.
fn open(path: &Path) -> io::Result<File> {
    let file = File::options().append(true).create(true).mode(OWNERS).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(OWNERS))?;
    }
    Ok(file)
}

fn write(trace: &Trace, names: &mut Names, file: &mut impl io::Write) -> io::Result<()> {
    let (events, lost) = trace.take();
    let mut lines = Vec::new();
    for event in &events {
        writeln!(lines, "{}", line(event, names))?;
    }
    if lost > 0 {
        writeln!(lines, "{}", json!({"event": "lost", "events": lost}))?;
    }
    file.write_all(&lines)
}

fn line(event: &Event, names: &mut Names) -> Value {
    let mut line = match &event.what {
        What::Step { name, subject } => json!({"event": "step", "name": name, "subject": subject}),
        What::Touch { mount, inode, extent, missed } => json!({
            "event": "touch", "mount": &**mount, "path": names.path(mount, Ino(*inode)), "inode": inode,
            "offset": extent.start, "len": extent.end - extent.start, "missed": missed,
        }),
        What::Fetch { blob, range, class } => json!({
            "event": "fetch", "blob": blob.to_string(), "offset": range.start, "len": range.end - range.start,
            "class": class.name(),
        }),
    };
    line["at_us"] = micros(event.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()).into();
    line["took_us"] = micros(event.took).into();
    line
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Paths by mount and inode, looked up when a mount is first heard of.
struct Names {
    observed: Arc<Observed>,
    of: HashMap<Arc<str>, HashMap<Ino, String>>,
}

impl Names {
    fn path(&mut self, mount: &Arc<str>, inode: Ino) -> Option<&str> {
        if !self.of.contains_key(mount) {
            self.of.insert(mount.clone(), self.observed.paths(mount)?);
        }
        self.of.get(mount)?.get(&inode).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use jaunt_formats::Digest;
    use jaunt_layerfs::class::Class;
    use jaunt_layerfs::layers::{Layers, Settings};
    use jaunt_layerfs::store::Store;

    use super::*;

    #[test]
    fn only_its_owner_sees_what_containers_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        std::fs::write(&path, "earlier\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        writeln!(open(&path).unwrap(), "later").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "earlier\nlater\n");
    }

    #[test]
    fn every_event_is_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let trace = Trace::on();
        let layers = Layers::new(store, Settings { trace: trace.clone(), ..Settings::default() });
        let mut names = Names { observed: Observed::new(layers), of: HashMap::new() };
        drop(trace.step("prepare", || "a \"b\"\n".to_owned()));
        let touch = || What::Touch { mount: "m".into(), inode: 5, extent: 4096..8192, missed: true };
        trace.end(trace.begin(), touch);
        let fetch = || What::Fetch { blob: Digest::of(b"x"), range: 1..3, class: Class::Demand };
        trace.end(trace.begin(), fetch);
        let mut file = Vec::new();
        write(&trace, &mut names, &mut file).unwrap();
        let lines: Vec<Value> = String::from_utf8(file)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["name"], &lines[0]["subject"]), (&json!("prepare"), &json!("a \"b\"\n")));
        assert_eq!((&lines[1]["offset"], &lines[1]["len"]), (&json!(4096), &json!(4096)));
        assert_eq!((&lines[1]["path"], &lines[1]["inode"]), (&json!(null), &json!(5)));
        assert_eq!((&lines[2]["class"], &lines[2]["len"]), (&json!("demand"), &json!(2)));
        assert!(lines.iter().all(|line| line["at_us"].as_u64() > Some(1_600_000_000_000_000)));
    }
}
