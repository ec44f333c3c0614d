//! How many files the calling process may have open, apart from how many its children may.
//!
//! The soft limit is low by default because of programs that use `select(2)`; a server takes what the hard one allows. A container is such a program as
//! well as any: it gets what the server was started with.

use std::sync::OnceLock;

use crate::Result;
use crate::process::{limit, set_limit};

/// `RLIMIT_NOFILE`, whose type is each C library's own.
const OPEN_FILES: u32 = 7;

/// What this process was started with, soft and hard; known once the limit was raised.
static INHERITED: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the soft limit of this process to the hard one.
///
/// # Errors
/// `EPERM` where the hard limit is higher than `fs.nr_open` is now.
pub fn raise_limit() -> Result<()> {
    let (soft, hard) = limit(OPEN_FILES)?;
    INHERITED.get_or_init(|| (soft, hard));
    set_limit(0, OPEN_FILES, hard, hard)
}

/// Gives a child that was just started, and has done nothing yet, the limit that this process was started with.
///
/// # Errors
/// `ESRCH`: it has ended and was reaped.
pub fn restore_limit(child: i32) -> Result<()> {
    match INHERITED.get() {
        Some((soft, hard)) => set_limit(child, OPEN_FILES, *soft, *hard),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Soft and hard limit of a process.
    fn limits(pid: &str) -> (String, String) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[3].to_owned(), words[4].to_owned())
    }

    /// Runs the test below in a process of its own, which nobody else's tests are in.
    #[test]
    fn a_child_gets_what_its_parent_was_started_with() {
        let output = Command::new("sh")
            .args(["-c", "ulimit -Sn 100 && exec \"$0\" --exact --ignored \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg("files::tests::what_its_parent_was_started_with")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "it changes its process: the test above starts one for it"]
    fn what_its_parent_was_started_with() {
        let (before, hard) = limit(OPEN_FILES).unwrap();
        if before != 100 {
            return;
        }
        raise_limit().unwrap();
        raise_limit().unwrap();
        assert_eq!(limits("self"), (hard.to_string(), hard.to_string()));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        restore_limit(i32::try_from(pid).unwrap()).unwrap();
        assert_eq!(limits(&pid.to_string()), ("100".to_owned(), hard.to_string()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
