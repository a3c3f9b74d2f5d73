//! What a request wants to do, as token services name it: `repository:<name>:<actions>`.

use crate::repository::Repository;

/// A registry and the scopes a request there needs. Requests with equal access share their token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    registry: String,
    scopes: Vec<String>,
}

impl Access {
    /// Reading.
    pub(crate) fn pull(repository: &Repository) -> Self {
        Self::to(repository, "pull")
    }

    /// Writing, for which registries want to be asked for reading as well.
    pub(crate) fn push(repository: &Repository) -> Self {
        Self::to(repository, "pull,push")
    }

    /// Deleting.
    pub(crate) fn delete(repository: &Repository) -> Self {
        Self::to(repository, "delete")
    }

    /// Writing to one repository what another one of the same registry holds.
    pub(crate) fn mount(to: &Repository, from: &Repository) -> Self {
        let mut access = Self::push(to);
        access.scopes.push(scope(from, "pull"));
        access
    }

    fn to(repository: &Repository, actions: &str) -> Self {
        Self { registry: repository.host().to_owned(), scopes: vec![scope(repository, actions)] }
    }

    /// The registry, as references name it.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
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

fn scope(repository: &Repository, actions: &str) -> String {
    format!("repository:{}:{actions}", repository.name())
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
        let (a, b) = ("r.example/a".parse().unwrap(), "r.example/b".parse().unwrap());
        let pull = "repository:a:pull";
        for (access, challenged, want) in [
            (Access::pull(&a), None, vec![pull]),
            (Access::pull(&a), Some(pull), vec![pull]),
            (Access::pull(&a), Some("repository:a:pull,push"), vec!["repository:a:pull,push"]),
            (Access::push(&a), Some("repository:a:push,pull"), vec!["repository:a:pull,push"]),
            (Access::pull(&a), Some("aws"), vec![pull, "aws"]),
            (Access::mount(&a, &b), Some(pull), vec!["repository:a:pull,push", "repository:b:pull"]),
        ] {
            assert_eq!(access.scopes_with(challenged), want);
        }
    }
}
