//! Logins that somebody else had at hand and handed over, such as the kubelet with a pull.
//!
//! They are for the repository that they came with, and for no other. The newest is tried first; a few older
//! ones stay behind it, so that a wrong one takes nothing away. In memory only: what outlives the process is
//! for whoever holds this.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::credentials::Credential;
use crate::repository::Repository;

/// Logins of one repository: the newest, and those that it replaced.
const OF_A_REPOSITORY: usize = 3;
/// Logins of all repositories. The oldest go.
const MOST: usize = 1024;

/// Logins that were handed over; clones share them.
#[derive(Clone, Default)]
pub struct GivenLogins(Arc<Mutex<Vec<GivenLogin>>>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenLogin {
    /// What it is for.
    pub repository: Repository,
    /// The login.
    pub credential: Credential,
}

impl GivenLogins {
    /// Makes a login the newest of its repository; whether it was unknown before.
    pub fn remember(&self, login: GivenLogin) -> bool {
        let mut all = self.lock();
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

    /// Forgets a login that has turned out to be of no use.
    pub fn forget(&self, login: &GivenLogin) {
        self.lock().retain(|other| other != login);
    }

    /// Every login, the newest first.
    pub fn all(&self) -> Vec<GivenLogin> {
        self.lock().clone()
    }

    /// The logins for a repository, the newest first.
    pub(super) fn of(&self, host: &str, repository: &str) -> Vec<Credential> {
        let is_it = |login: &&GivenLogin| {
            super::file::hosts(host).contains(&login.repository.host())
                && login.repository.name() == repository
        };
        self.lock().iter().filter(is_it).map(|login| login.credential.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<GivenLogin>> {
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
        write!(f, "{} logins", self.lock().len())
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
        logins.forget(&login("r.example/a", "5"));
        assert_eq!(of("r.example", "a"), ["6", "4"]);
        logins.remember(login("docker.io/library/a", "7"));
        assert_eq!(of("registry-1.docker.io", "library/a"), of("docker.io", "library/a"));
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
