//! Logins that somebody else had at hand and handed over, such as the kubelet with a pull.
//!
//! They are for the repository that they came with, and for no other. The newest that was good is tried first; a few older
//! ones stay behind it. Those that nobody knows to be good yet come last, and take the place of none that was:
//! whoever may pull can hand over as many wrong ones as he likes. In memory only: what outlives the process is for whoever
//! holds this.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::credentials::Credential;
use crate::repository::Repository;

/// Logins of one repository that were good: the newest, and those that it replaced. As many may be on trial.
const OF_A_REPOSITORY: usize = 3;
/// Logins of all repositories. The oldest go.
const MOST: usize = 1024;

/// Logins that were handed over; clones share them.
#[derive(Clone, Default)]
pub struct GivenLogins(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// They were good; the newest first.
    good: Vec<GivenLogin>,
    /// One for each trial, the newest first; of them as many are tried as of the good ones.
    on_trial: Vec<GivenLogin>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenLogin {
    /// What it is for.
    pub repository: Repository,
    /// The login.
    pub credential: Credential,
}

impl GivenLogins {
    /// Makes a login that was good the newest of its repository; whether it was unknown before.
    pub fn remember(&self, login: GivenLogin) -> bool {
        let all = &mut self.lock().good;
        let known = all.len();
        all.retain(|other| *other != login);
        let is_new = all.len() == known;
        let repository = login.repository.clone();
        all.insert(0, login);
        let mut of_it = 0;
        all.retain(|other| {
            of_it += usize::from(other.repository == repository);
            other.repository != repository || of_it <= OF_A_REPOSITORY
        });
        all.truncate(MOST);
        is_new
    }

    /// Has a login tried after those that were good, until the trial ends.
    pub fn begin_trial(&self, login: GivenLogin) {
        let on_trial = &mut self.lock().on_trial;
        on_trial.insert(0, login);
        on_trial.truncate(MOST);
    }

    /// Ends one trial of a login. Another one of the same goes on, and a login that was good stays.
    pub fn end_trial(&self, login: &GivenLogin) {
        let on_trial = &mut self.lock().on_trial;
        if let Some(at) = on_trial.iter().rposition(|other| other == login) {
            on_trial.remove(at);
        }
    }

    /// Every login that was good, the newest first.
    pub fn all(&self) -> Vec<GivenLogin> {
        self.lock().good.clone()
    }

    /// The logins for a repository at a registry's host, in the order in which they are tried.
    pub fn of(&self, host: &str, repository: &str) -> Vec<Credential> {
        let is_it = |login: &&GivenLogin| {
            super::file::hosts(host).contains(&login.repository.host())
                && login.repository.name() == repository
        };
        let known = self.lock();
        let good: Vec<_> = known.good.iter().filter(is_it).map(|login| login.credential.clone()).collect();
        let mut found = good.clone();
        for login in known.on_trial.iter().filter(is_it) {
            if found.len() < good.len() + OF_A_REPOSITORY && !found.contains(&login.credential) {
                found.push(login.credential.clone());
            }
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two are the same if what is remembered in one is known in the other.
impl PartialEq for GivenLogins {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for GivenLogins {}

impl fmt::Debug for GivenLogins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} logins", self.lock().good.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Secret;

    fn login(repository: &str, password: &str) -> GivenLogin {
        let password = Secret::new(password.to_owned());
        let credential = Credential::Password { username: "u".to_owned(), password };
        GivenLogin { repository: repository.parse().unwrap(), credential }
    }

    #[test]
    fn the_newest_comes_first_and_only_its_repository_gets_it() {
        let logins = GivenLogins::default();
        assert!(logins.remember(login("r.example/a", "1")));
        assert!(logins.remember(login("r.example/a", "2")));
        assert!(logins.remember(login("r.example/b", "3")));
        let of = |host, name| {
            let found = logins.of(host, name).into_iter();
            let password = |credential| match credential {
                Credential::Password { password, .. } => password.reveal().to_owned(),
                other => panic!("{other:?}"),
            };
            found.map(password).collect::<Vec<_>>()
        };
        assert_eq!(of("r.example", "a"), ["2", "1"]);
        assert!(!logins.remember(login("r.example/a", "1")));
        assert_eq!(of("r.example", "a"), ["1", "2"]);
        for (host, name) in
            [("r.example", "c"), ("r.example", "a/b"), ("s.example", "a"), ("r.example:1", "a")]
        {
            assert_eq!(of(host, name), [""; 0], "{host}/{name}");
        }
        for newer in ["4", "5", "6"] {
            logins.remember(login("r.example/a", newer));
        }
        assert_eq!(of("r.example", "a"), ["6", "5", "4"]);
        assert_eq!(of("r.example", "b"), ["3"]);
        logins.remember(login("docker.io/library/a", "7"));
        assert_eq!(of("registry-1.docker.io", "library/a"), of("docker.io", "library/a"));
    }

    #[test]
    fn wrong_logins_take_nothing_from_good_ones() {
        let (logins, at) = (GivenLogins::default(), "r.example/a");
        let tried = || logins.of("r.example", "a");
        let credential = |password| login(at, password).credential;
        logins.remember(login(at, "good"));
        for wrong in ["1", "2", "3", "4", "5"] {
            logins.begin_trial(login(at, wrong));
        }
        assert_eq!(tried(), ["good", "5", "4", "3"].map(credential));
        assert_eq!(logins.all(), [login(at, "good")]);
        for wrong in ["1", "2", "3", "4", "5"] {
            logins.end_trial(&login(at, wrong));
        }
        assert_eq!(tried(), ["good"].map(credential));
        assert!(logins.of("r.example", "b").is_empty());
    }

    #[test]
    fn a_trial_that_fails_leaves_another_of_the_same_login_and_what_that_showed() {
        let (logins, new) = (GivenLogins::default(), login("r.example/a", "new"));
        let tried = || logins.of("r.example", "a");
        logins.begin_trial(new.clone());
        logins.begin_trial(new.clone());
        assert_eq!(tried().len(), 1);
        logins.end_trial(&new);
        assert_eq!(tried().len(), 1, "the other one goes on");
        logins.remember(new.clone());
        logins.end_trial(&new);
        assert_eq!(tried(), [new.credential]);
        logins.begin_trial(login("r.example/a", "new"));
        logins.end_trial(&login("r.example/a", "new"));
        assert_eq!(tried().len(), 1, "it was good before");
    }

    #[test]
    fn they_are_bounded_and_not_printed() {
        let logins = GivenLogins::default();
        for number in 0..MOST + 10 {
            logins.remember(login(&format!("r.example/a{number}"), "hunter2"));
        }
        assert_eq!(logins.all().len(), MOST);
        assert!(logins.of("r.example", "a0").is_empty());
        assert!(!format!("{logins:?} {:?}", logins.all()).contains("hunter2"));
    }
}
