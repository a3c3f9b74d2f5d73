//! What a request wants to do, as token services name it: `repository:<name>:<actions>`.

use crate::hosts::Route;
use crate::repository::Repository;

/// A host, a repository there and the scopes a request needs. Requests with equal access share their
/// token. The host is the one that is asked: a mirror's credentials are its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    /// Nothing that one origin was given is sent to another of the same name.
    origin: String,
    registry: String,
    /// As that host knows it.
    repository: String,
    scopes: Vec<String>,
}

impl Access {
    /// Reading.
    pub(crate) fn pull(route: &Route, repository: &Repository) -> Self {
        Self::to(route, repository, "pull")
    }

    /// Writing, for which registries want to be asked for reading as well.
    pub(crate) fn push(route: &Route, repository: &Repository) -> Self {
        Self::to(route, repository, "pull,push")
    }

    /// Deleting.
    pub(crate) fn delete(route: &Route, repository: &Repository) -> Self {
        Self::to(route, repository, "delete")
    }

    /// Writing to one repository what another one of the same registry holds.
    pub(crate) fn mount(route: &Route, to: &Repository, from: &Repository) -> Self {
        let mut access = Self::push(route, to);
        access.scopes.push(scope(&route.name_of(from), "pull"));
        access
    }

    fn to(route: &Route, repository: &Repository, actions: &str) -> Self {
        let repository = route.name_of(repository);
        let scopes = vec![scope(&repository, actions)];
        let origin = route.api().origin().ascii_serialization();
        Self { origin, registry: route.host().to_owned(), repository, scopes }
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The host, as credentials are filed.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, as that host knows it.
    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    /// Our scopes and those a challenge names besides, each once: a challenge may want less than we
    /// shall need, and a few registries know other scopes than repositories.
    pub(crate) fn scopes_with(&self, challenged: Option<&str>) -> Vec<String> {
        let mut scopes = self.scopes.clone();
        for scope in challenged.unwrap_or_default().split_ascii_whitespace() {
            if !scopes.iter().any(|have| covers(have, scope)) {
                scopes.retain(|have| !covers(scope, have));
                scopes.push(scope.to_owned());
            }
        }
        scopes
    }
}

fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

/// Whether a scope grants everything that another asks for.
fn covers(scope: &str, other: &str) -> bool {
    match (scope.rsplit_once(':'), other.rsplit_once(':')) {
        (Some((resource, actions)), Some((other_resource, other_actions))) => {
            resource == other_resource
                && other_actions.split(',').all(|other| actions.split(',').any(|action| action == other))
        }
        _ => scope == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_its_scopes_with_the_challenge() {
        let pull = "repository:a:pull";
        let to = |scopes: &[&str]| Access {
            origin: "https://r.example".to_owned(),
            registry: "r.example".to_owned(),
            repository: "a".to_owned(),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        };
        for (access, challenged, want) in [
            (to(&[pull]), None, vec![pull]),
            (to(&[pull]), Some(pull), vec![pull]),
            (to(&[pull]), Some("repository:a:pull,push"), vec!["repository:a:pull,push"]),
            (to(&["repository:a:pull,push"]), Some("repository:a:push,pull"), vec!["repository:a:pull,push"]),
            (to(&[pull]), Some("aws"), vec![pull, "aws"]),
            (
                to(&["repository:a:pull,push", "repository:b:pull"]),
                Some(pull),
                vec!["repository:a:pull,push", "repository:b:pull"],
            ),
        ] {
            assert_eq!(access.scopes_with(challenged), want);
        }
    }
}
