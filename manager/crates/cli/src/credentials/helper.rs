//! Credential helpers: programs `docker-credential-NAME` that keep secrets where a file should not.
//!
//! ```text
//!   docker-credential-NAME get    stdin: SERVER                       stdout: {"Username":…,"Secret":…}
//!   docker-credential-NAME store  stdin: {"ServerURL":…,"Username":…,"Secret":…}
//!   docker-credential-NAME erase  stdin: SERVER
//!   exit code not 0: stdout says why
//! ```

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A helper may ask its user for something; longer than this nobody waits.
const DEADLINE: Duration = Duration::from_secs(60);
/// What a helper says, with exit code 1, of a server that it does not know.
const UNKNOWN: &str = "credentials not found in native keychain";
/// How much of a helper's message is shown.
const MAX_SAID: usize = 200;

/// What a helper keeps for one server.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Found {
    pub(crate) username: String,
    pub(crate) secret: String,
}

/// Why a helper could not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error("{name:?} cannot be the name of a credential helper")]
    Name { name: String },
    #[error("cannot run the credential helper {program}: {source}")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("the credential helper {program} did not answer within {} seconds", DEADLINE.as_secs())]
    Deadline { program: String },
    #[error("the credential helper {program} failed: {said}")]
    Failed { program: String, said: String },
    #[error("the credential helper {program} gave an answer that cannot be read")]
    Answer { program: String },
}

/// What the helper knows of a server; `None` if it knows nothing.
pub(crate) async fn get(name: &str, server: &str) -> Result<Option<Found>, HelperError> {
    match call(name, "get", server).await {
        Ok(answer) => found_in(&answer).map_err(|_| HelperError::Answer {
            program: program(name),
        }),
        Err(HelperError::Failed { said, .. }) if said.contains(UNKNOWN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives the helper something to keep.
pub(crate) async fn store(name: &str, server: &str, found: &Found) -> Result<(), HelperError> {
    let request =
        serde_json::json!({ "ServerURL": server, "Username": found.username, "Secret": found.secret });
    call(name, "store", &request.to_string()).await.map(drop)
}

/// Lets the helper forget a server; one that it does not know is no error.
pub(crate) async fn erase(name: &str, server: &str) -> Result<(), HelperError> {
    match call(name, "erase", server).await {
        Err(HelperError::Failed { said, .. }) if said.contains(UNKNOWN) => Ok(()),
        other => other.map(drop),
    }
}

/// What an answer says; an empty secret is how some helpers say that they do not know the server.
fn found_in(answer: &str) -> Result<Option<Found>, serde_json::Error> {
    let found: Found = serde_json::from_str(answer)?;
    Ok(Some(found).filter(|found| !found.secret.is_empty()))
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

async fn call(name: &str, verb: &str, input: &str) -> Result<String, HelperError> {
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(HelperError::Name {
            name: name.to_owned(),
        });
    }
    let program = program(name);
    let failed = |source| HelperError::Run {
        program: program.clone(),
        source,
    };
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What it has to ask or complain about goes to the user.
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin {
            // One that ends without reading says why on its output.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(DEADLINE, talk)
        .await
        .map_err(|_| HelperError::Deadline {
            program: program.clone(),
        })?
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let said: String = text
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_SAID)
        .collect();
    Err(HelperError::Failed {
        program,
        said: if said.is_empty() {
            output.status.to_string()
        } else {
            said
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_secret_is_that_of_a_helper_that_knows_nothing() {
        for (answer, username) in [
            (r#"{"Username":"alice","Secret":"s"}"#, Some("alice")),
            (r#"{"ServerURL":"x","Username":"alice","Secret":""}"#, None),
            (r#"{"Username":"","Secret":""}"#, None),
        ] {
            let found = found_in(answer).unwrap();
            assert_eq!(found.as_ref().map(|found| found.username.as_str()), username);
        }
        assert!(found_in("").is_err());
    }
}
