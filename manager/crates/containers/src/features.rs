//! What an OCI runtime can do beyond what all of them can: asked of the program itself.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::record::Container;
use crate::runtimes::RuntimeProgram;
use crate::service::Settings;
use crate::spec::binds::{ReadOnlyDepth, wants_whole_tree};
use crate::spec::host::HostFacts;

/// How long a runtime may take to tell.
const ANSWER: Duration = Duration::from_secs(5);

/// The first crun that knows the mount option `rro`. Its `features` came later.
const CRUN_KNOWS: (u32, u32) = (1, 4);

/// How far down a container's read-only binds can be read-only. The runtime is only asked where that matters.
pub(crate) async fn read_only_depth(settings: &Settings, container: &Container) -> ReadOnlyDepth {
    let depth = ReadOnlyDepth::of_kernel(HostFacts::observe().kernel);
    let matters = container.request.mounts.iter().any(wants_whole_tree);
    let wanted = container.request.options.runtime.as_deref();
    match settings.runtimes.find(wanted) {
        // Whoever needs the program will say what is wrong with its name.
        Ok(runtime) if matters && depth == ReadOnlyDepth::Whole => {
            if knows_rro(&runtime).await {
                ReadOnlyDepth::Whole
            } else {
                ReadOnlyDepth::Top
            }
        }
        _ => depth,
    }
}

/// Whether the mount option `rro` is known; no answer means no.
async fn knows_rro(runtime: &RuntimeProgram) -> bool {
    if let Some(features) = ask(runtime, "features").await {
        return lists_rro(&features);
    }
    match ask(runtime, "--version").await {
        Some(version) => crun_knows_rro(&version),
        None => false,
    }
}

async fn ask(runtime: &RuntimeProgram, question: &str) -> Option<String> {
    let call = Command::new(&runtime.path)
        .args(&runtime.args)
        .arg(question)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(ANSWER, call).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// `features` of the OCI runtime specification.
fn lists_rro(features: &str) -> bool {
    serde_json::from_str::<Value>(features).is_ok_and(|features| {
        let options = features["mountOptions"].as_array();
        options.is_some_and(|options| options.iter().any(|option| option == "rro"))
    })
}

/// The first line of crun's `--version`: `crun version 1.8.1`.
fn crun_knows_rro(version: &str) -> bool {
    let Some(number) = version.strip_prefix("crun version ") else {
        return false;
    };
    let mut parts = number.split(['.', '\n', '-']).map_while(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= CRUN_KNOWS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        for (features, expected) in [
            (r#"{"mountOptions":["ro","rro"]}"#, true),
            (r#"{"mountOptions":["ro"]}"#, false),
            (r#"{"ociVersionMin":"1.0.0"}"#, false),
            ("rro", false),
            ("", false),
        ] {
            assert_eq!(lists_rro(features), expected, "{features}");
        }
        for (version, expected) in [
            ("crun version 1.8.1\ncommit: f8a0\nspec: 1.0.0\n", true),
            ("crun version 1.4\n", true),
            ("crun version 1.3.2\n", false),
            ("crun version 2.0-dev\n", true),
            ("crun version UNKNOWN\n", false),
            ("runc version 1.0.0\n", false),
        ] {
            assert_eq!(crun_knows_rro(version), expected, "{version}");
        }
    }
}
