//! Credential helpers: programs that are asked for a login. Protocol: docker-credential-helpers.
//!
//! A helper may hang, lie or write without end. It is given half a minute and killed; its output is
//! bounded, and never repeated.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::credentials::{Credential, Secret};
use crate::files::home;

/// How long a helper may take: some ask another machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of its output; tokens have some 20 KiB at most.
const OUTPUT: u64 = 256 << 10;
/// What a helper says in place of a user's name when its secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper for a login. The error is what it did instead.
pub(super) async fn ask(helper: &str, server: &str) -> Result<Option<Credential>, String> {
    if helper.contains('/') {
        return Err("has a path for a name".to_owned());
    }
    let mut command = Command::new(format!("docker-credential-{helper}"));
    // Most keep what they know below it.
    if let Some(home) = home() {
        command.env("HOME", home);
    }
    let mut child = command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("could not be run (docker-credential-{helper}: {})", error.kind()))?;
    match tokio::time::timeout(PATIENCE, converse(&mut child, server)).await {
        Ok((succeeded, output)) => read(succeeded, &output),
        Err(_) => Err("does not answer".to_owned()),
    }
}

/// Whether it succeeded, and what it wrote.
async fn converse(child: &mut Child, server: &str) -> (bool, Vec<u8>) {
    if let Some(mut question) = child.stdin.take() {
        // One that knows only one server need not read which is meant.
        let _ = question.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(answer) = child.stdout.take() {
        let _ = answer.take(OUTPUT).read_to_end(&mut output).await;
    }
    let succeeded = child.wait().await.is_ok_and(|status| status.success());
    (succeeded, output)
}

fn read(succeeded: bool, output: &[u8]) -> Result<Option<Credential>, String> {
    if !succeeded {
        // Helpers have no other way to say "none" than this text, which Docker matches as well.
        let none = output.windows(NONE.len()).any(|window| window == NONE);
        return if none { Ok(None) } else { Err("failed".to_owned()) };
    }
    let answer: Answer =
        serde_json::from_slice(output).map_err(|_| "answered in no known form".to_owned())?;
    let secret = Secret::new(answer.secret);
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credential::IdentityToken(secret),
        _ => Credential::Password { username: answer.username, password: secret },
    }))
}

const NONE: &[u8] = b"credentials not found";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_logins_tokens_or_none() {
        let password =
            Credential::Password { username: "u".to_owned(), password: Secret::new("p".to_owned()) };
        let token = Credential::IdentityToken(Secret::new("t".to_owned()));
        for (succeeded, output, want) in [
            (true, r#"{"ServerURL":"r","Username":"u","Secret":"p"}"#, Ok(Some(password))),
            (true, r#"{"ServerURL":"r","Username":"<token>","Secret":"t"}"#, Ok(Some(token))),
            (false, "credentials not found in native keychain\n", Ok(None)),
            (false, "hunter2", Err("failed".to_owned())),
            (true, "hunter2", Err("answered in no known form".to_owned())),
        ] {
            assert_eq!(read(succeeded, output.as_bytes()), want);
        }
    }

    #[tokio::test]
    async fn a_helper_has_a_plain_name_and_exists() {
        assert!(ask("../evil", "r").await.unwrap_err().contains("path"));
        let error = ask("jaunt-absent", "r").await.unwrap_err();
        assert_eq!(error, "could not be run (docker-credential-jaunt-absent: entity not found)");
    }
}
