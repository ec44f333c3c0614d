//! Puts the commit into the version text: from the environment (a packager's), else from git, else `unknown`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CROZE_COMMIT");
    let commit = std::env::var("CROZE_COMMIT")
        .ok()
        .or_else(from_git)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=CROZE_COMMIT={commit}");
}

/// Without a rerun on every commit: the version of a development build may lag behind.
fn from_git() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| output.status.success() && !text.is_empty())
}
