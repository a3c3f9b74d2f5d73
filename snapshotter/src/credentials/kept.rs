//! Logins in memory that outlives a worker ([`Memory`], which the supervisor holds).
//!
//! ```text
//! two slots of SLOT bytes, written in turn:   generation u64 | length u64 | SHA-256 of the rest, 32 bytes | JSON
//! ```
//!
//! Integers are little endian. A worker that dies while it writes leaves the other slot as it was; of two that are whole the
//! one with the later generation counts.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jaunt_distribution::{Credential, GivenLogin, GivenLogins, Secret};
use jaunt_formats::Digest;
use serde::{Deserialize, Serialize};

use crate::supervisor::Memory;

/// Bytes of a slot. Logins that do not fit, the oldest, are not kept.
const SLOT: u64 = Memory::BYTES / 2;
const HEADER: usize = 48;

/// Logins, and the memory that the supervisor holds for them.
#[derive(Debug)]
pub struct KeptLogins {
    logins: GivenLogins,
    memory: Option<Mutex<Slots>>,
}

/// A login that nobody knows to be good yet.
#[must_use]
#[derive(Debug)]
pub struct Trial<'k> {
    kept: &'k KeptLogins,
    login: GivenLogin,
}

impl Trial<'_> {
    /// It is: it is remembered from now on.
    pub fn succeeded(self) {
        self.kept.remember(self.login.clone());
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.kept.logins.end_trial(&self.login);
    }
}

/// The memory, open.
#[derive(Debug)]
struct Slots {
    file: File,
    generation: u64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    repository: String,
    kind: Kind,
    #[serde(default)]
    username: String,
    secret: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Password,
    IdentityToken,
    RegistryToken,
}

impl KeptLogins {
    /// Takes up what the worker before had, if there is memory to find it in.
    pub fn open(memory: Option<&Path>) -> Self {
        let opened = memory.map(|path| (path, OpenOptions::new().read(true).write(true).open(path)));
        let file = match opened {
            None => None,
            Some((_, Ok(file))) => Some(file),
            Some((path, Err(error))) => {
                tracing::warn!(memory = %path.display(), %error, "logins are not kept for the next worker");
                None
            }
        };
        Self::in_file(file)
    }

    fn in_file(file: Option<File>) -> Self {
        let logins = GivenLogins::default();
        let memory = file.map(|file| {
            let (generation, records) = latest(&file).unwrap_or_default();
            let known = records.into_iter().filter_map(Record::login).collect::<Vec<_>>();
            known.into_iter().rev().for_each(|login| _ = logins.remember(login));
            Mutex::new(Slots { file, generation })
        });
        Self { logins, memory }
    }

    /// The logins, for who asks registries.
    pub fn logins(&self) -> &GivenLogins {
        &self.logins
    }

    /// Has a login tried for as long as the trial lives. The next worker does not know of it.
    pub fn try_out(&self, login: GivenLogin) -> Trial<'_> {
        self.logins.begin_trial(login.clone());
        Trial { kept: self, login }
    }

    /// Remembers a login that was good.
    pub fn remember(&self, login: GivenLogin) {
        self.logins.remember(login);
        self.keep();
    }

    fn keep(&self) {
        let Some(memory) = &self.memory else { return };
        let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = memory.write(self.logins.all()) {
            tracing::warn!(%error, "logins are not kept for the next worker");
        }
    }
}

impl Slots {
    fn write(&mut self, logins: Vec<GivenLogin>) -> io::Result<()> {
        let mut records: Vec<Record> = logins.into_iter().map(Record::of).collect();
        let mut json = serde_json::to_vec(&records)?;
        while json.len() + HEADER > usize::try_from(SLOT).unwrap_or(usize::MAX) {
            records.truncate(records.len() / 2);
            json = serde_json::to_vec(&records)?;
        }
        let generation = self.generation + 1;
        let mut slot = Vec::with_capacity(HEADER + json.len());
        slot.extend_from_slice(&generation.to_le_bytes());
        slot.extend_from_slice(&(json.len() as u64).to_le_bytes());
        slot.extend_from_slice(Digest::of(&json).as_bytes());
        slot.extend_from_slice(&json);
        self.file.write_all_at(&slot, (generation % 2) * SLOT)?;
        self.generation = generation;
        Ok(())
    }
}

/// What was written last, and whole.
fn latest(file: &File) -> Option<(u64, Vec<Record>)> {
    let slots = [0, 1].into_iter().filter_map(|slot| read(file, slot * SLOT));
    slots.max_by_key(|(generation, _)| *generation)
}

fn read(file: &File, at: u64) -> Option<(u64, Vec<Record>)> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, at).ok()?;
    let number = |from: usize| Some(u64::from_le_bytes(header[from..from + 8].try_into().ok()?));
    let (generation, len) = (number(0)?, number(8)?);
    if len > SLOT - HEADER as u64 {
        return None;
    }
    let mut json = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut json, at + HEADER as u64).ok()?;
    let whole = Digest::of(&json).as_bytes()[..] == header[16..];
    Some((generation, serde_json::from_slice(&json).ok().filter(|_| whole)?))
}

impl Record {
    fn of(login: GivenLogin) -> Self {
        let (kind, username, secret) = match login.credential {
            Credential::Password { username, password } => (Kind::Password, username, password),
            Credential::IdentityToken(token) => (Kind::IdentityToken, String::new(), token),
            Credential::RegistryToken(token) => (Kind::RegistryToken, String::new(), token),
        };
        let (repository, secret) = (login.repository.to_string(), secret.reveal().to_owned());
        Self { repository, kind, username, secret }
    }

    fn login(self) -> Option<GivenLogin> {
        let secret = Secret::new(self.secret);
        let credential = match self.kind {
            Kind::Password => Credential::Password { username: self.username, password: secret },
            Kind::IdentityToken => Credential::IdentityToken(secret),
            Kind::RegistryToken => Credential::RegistryToken(secret),
        };
        Some(GivenLogin { repository: self.repository.parse().ok()?, credential })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins() -> [GivenLogin; 3] {
        let secret = |text: &str| Secret::new(text.to_owned());
        let password = Credential::Password { username: "u".to_owned(), password: secret("p") };
        [password, Credential::IdentityToken(secret("i")), Credential::RegistryToken(secret("r"))]
            .map(|credential| GivenLogin { repository: "r.example/a".parse().unwrap(), credential })
    }

    #[test]
    fn the_next_worker_finds_what_the_last_one_knew() {
        let memory = Memory::new().unwrap();
        let path = memory.path();
        let first = KeptLogins::open(Some(&path));
        assert!(first.logins().all().is_empty());
        logins().into_iter().for_each(|login| first.remember(login));
        first.remember(logins()[0].clone());
        drop(first);
        let second = KeptLogins::open(Some(&path));
        let [password, identity, registry] = logins();
        assert_eq!(second.logins().all(), [password.clone(), registry, identity.clone()]);
    }

    #[test]
    fn only_what_was_good_outlives_its_trial() {
        let memory = Memory::new().unwrap();
        let (path, [good, wrong, _]) = (memory.path(), logins());
        let kept = KeptLogins::open(Some(&path));
        let trials = [kept.try_out(good.clone()), kept.try_out(wrong), kept.try_out(good.clone())];
        assert!(kept.logins().all().is_empty());
        let [first, wrong, second] = trials;
        first.succeeded();
        drop((wrong, second));
        assert_eq!(
            kept.logins().all(),
            std::slice::from_ref(&good),
            "the second pull with it may fail for a reason of its own"
        );
        assert_eq!(KeptLogins::open(Some(&path)).logins().all(), [good]);
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_what_was_before_it() {
        let memory = Memory::new().unwrap();
        let path = memory.path();
        let kept = KeptLogins::open(Some(&path));
        logins().into_iter().for_each(|login| kept.remember(login));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // The third write went to the second slot.
        file.write_all_at(b"torn", SLOT + HEADER as u64 + 3).unwrap();
        assert_eq!(KeptLogins::open(Some(&path)).logins().all(), [logins()[1].clone(), logins()[0].clone()]);
        file.write_all_at(&u64::MAX.to_le_bytes(), 8).unwrap();
        assert!(KeptLogins::open(Some(&path)).logins().all().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_not_kept_but_known() {
        let memory = Memory::new().unwrap();
        let kept = KeptLogins::open(Some(&memory.path()));
        for number in 0..40 {
            let credential = Credential::RegistryToken(Secret::new("x".repeat(64 << 10)));
            let repository = format!("r.example/a{number}").parse().unwrap();
            kept.remember(GivenLogin { repository, credential });
        }
        assert_eq!(kept.logins().all().len(), 40);
        let next = KeptLogins::open(Some(&memory.path())).logins().all();
        assert!((8..16).contains(&next.len()), "{}", next.len());
        assert_eq!(next[0].repository.name(), "a39");
    }

    #[test]
    fn without_memory_they_are_known_to_this_process() {
        for memory in [None, Some(Path::new("/proc/self/fd/no"))] {
            let kept = KeptLogins::open(memory);
            kept.remember(logins()[0].clone());
            assert_eq!(kept.logins().all().len(), 1);
        }
        assert!(!format!("{:?}", KeptLogins::open(None)).contains("secret"));
    }
}
