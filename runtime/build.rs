//! Puts the commit into the version text: from the environment (a packager's), else from git, else `unknown`; and leaves what only
//! unwinding reads out of a program that never unwinds.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CROZE_COMMIT");
    let commit = std::env::var("CROZE_COMMIT")
        .ok()
        .or_else(from_git)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=CROZE_COMMIT={commit}");
    drop_unwind_tables();
}

/// The standard library comes with unwind tables and makes the compiler write them for everything: 220 KB, a seventh of a program that
/// copies itself at every start, to print a backtrace without names. The message of a panic does not need them.
///
/// Cargo does not tell a build script that panics abort; the profile in which they do is the one that is optimised for size.
fn drop_unwind_tables() {
    println!("cargo::rerun-if-changed=no-unwind-tables.ld");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|set| set == value);
    let is_small = is("OPT_LEVEL", "s") || is("OPT_LEVEL", "z");
    if is_small && is("CARGO_CFG_TARGET_ENV", "musl") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/no-unwind-tables.ld");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{script}");
    }
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
