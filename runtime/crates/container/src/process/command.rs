//! A command: found in the container as its shell would find it, then executed.
//!
//! It is looked for before the container counts as created, so that a missing command is an error of `create`. The words of the
//! errors are those that engines look for to tell "not found" from "not permitted".

use std::ffi::CString;
use std::path::{Path, PathBuf};

use croze_sys::Errno;
use rustix::fs::{Access, AtFlags, CWD, FileType};

use crate::process::program;

/// Where to look when the environment has no `PATH`: nowhere, as `execvp` of most systems would.
const NO_PATH: &str = "";

/// Why a command cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A bare name that is in no directory of `PATH`.
    #[error("exec: {name:?}: executable file not found in $PATH")]
    NotFound {
        /// The name.
        name: String,
    },
    /// A path that leads to nothing that can be executed, or a file that the kernel refuses.
    #[error("exec: {path:?}: {}", croze_sys::Error::new("", *errno))]
    Refused {
        /// The path.
        path: String,
        /// Why.
        errno: Errno,
    },
    /// A directory. Engines look for these words of the kernel's to tell that it is no fault of theirs.
    #[error(
        "exec: {path:?}: {}: it is a directory",
        croze_sys::Error::new("", Errno::ACCESS)
    )]
    Directory {
        /// The path.
        path: String,
    },
    /// An argument has a NUL byte in it.
    #[error("exec: an argument or a variable contains a NUL byte")]
    Nul,
}

/// A command that was found, ready to be executed.
#[derive(Debug)]
pub struct Command {
    path: CString,
    shown: String,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Looks a command up in the current root, from the current directory, as the current user.
///
/// # Errors
/// It is not there, or may not be executed.
pub fn find(args: &[String], env: &[String]) -> Result<Command, CommandError> {
    let name = args
        .first()
        .ok_or_else(|| CommandError::NotFound { name: String::new() })?;
    let path = if name.contains('/') {
        at(name)?
    } else {
        in_path(name, variable(env, "PATH").unwrap_or(NO_PATH))?
    };
    let strings = |texts: &[String]| -> Result<Vec<CString>, CommandError> {
        texts
            .iter()
            .map(|text| CString::new(text.as_str()).map_err(|_| CommandError::Nul))
            .collect()
    };
    let shown = path.display().to_string();
    Ok(Command {
        path: CString::new(shown.as_str()).map_err(|_| CommandError::Nul)?,
        shown,
        args: strings(args)?,
        env: strings(env)?,
    })
}

impl Command {
    /// Why the kernel has refused to execute it, where the file itself shows it.
    ///
    /// It opens the file. There is no reason where this process's filter would end it for that: it is to end as it has told.
    pub fn reason(&self, refused: &CommandError, filter: Option<&croze_seccomp::Program>) -> Option<String> {
        match refused {
            CommandError::Refused { errno, .. } if program::may_ask(filter) => {
                program::reason(Path::new(&self.shown), *errno)
            }
            _ => None,
        }
    }

    /// Replaces this process; returns only if the kernel refuses.
    pub fn execute(&self) -> CommandError {
        let error = croze_sys::process::execute(&self.path, &self.args, &self.env);
        CommandError::Refused {
            path: self.shown.clone(),
            errno: error.errno,
        }
    }
}

/// The value of a variable; the last one counts, as for a C library.
pub fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter()
        .rev()
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn at(path: &str) -> Result<PathBuf, CommandError> {
    match check(Path::new(path)) {
        Ok(()) => Ok(PathBuf::from(path)),
        Err(Errno::ACCESS) if Path::new(path).is_dir() => Err(CommandError::Directory {
            path: path.to_owned(),
        }),
        Err(errno) => Err(CommandError::Refused {
            path: path.to_owned(),
            errno,
        }),
    }
}

/// A file that is there but may not be executed is remembered: it tells more than "not found".
fn in_path(name: &str, path: &str) -> Result<PathBuf, CommandError> {
    let mut refused = None;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => {
                refused.get_or_insert(CommandError::Refused {
                    path: candidate.display().to_string(),
                    errno: Errno::ACCESS,
                });
            }
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| CommandError::NotFound {
        name: name.to_owned(),
    }))
}

fn check(path: &Path) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // A filter, or Linux before 5.8, without faccessat2: the permission shows when it is executed.
        Err(Errno::NOSYS | Errno::PERM) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(_) if stat.st_mode & 0o111 == 0 => Err(Errno::ACCESS),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn found(args: &[&str], env: &[&str]) -> Result<String, String> {
        find(&strings(args), &strings(env))
            .map(|command| command.shown)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn commands_are_found_and_errors_have_the_known_words() {
        assert_eq!(found(&["sh"], &["PATH=/nowhere:/bin"]), Ok("/bin/sh".to_owned()));
        assert_eq!(found(&["/bin/sh"], &[]), Ok("/bin/sh".to_owned()));
        let cases = [
            (
                ["no-such-command"],
                r#"exec: "no-such-command": executable file not found in $PATH"#,
            ),
            (["/no/such"], r#"exec: "/no/such": no such file or directory"#),
            (["/etc/passwd"], r#"exec: "/etc/passwd": permission denied"#),
            (["/bin"], r#"exec: "/bin": permission denied: it is a directory"#),
        ];
        for (args, expected) in cases {
            assert_eq!(found(&args, &["PATH=/bin"]), Err(expected.to_owned()));
        }
        assert_eq!(
            found(&["passwd"], &["PATH=/etc"]),
            Err(r#"exec: "/etc/passwd": permission denied"#.to_owned())
        );
        assert_eq!(
            found(&["sh"], &[]),
            Err(r#"exec: "sh": executable file not found in $PATH"#.to_owned())
        );
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let env = strings(&["PATH=/a", "PATHS=/x", "PATH=/b"]);
        assert_eq!(variable(&env, "PATH"), Some("/b"));
        assert_eq!(variable(&env, "HOME"), None);
    }
}
