//! A repository of a registry, as a place where things are kept.

use crate::client::Client;
use crate::repository::Repository;

/// A repository, and what it is reached with.
#[derive(Clone, Copy, Debug)]
pub struct InRepository<'a> {
    /// What it is reached with.
    pub client: &'a Client,
    /// The repository.
    pub repository: &'a Repository,
}
