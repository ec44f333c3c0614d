//! The OCI runtimes that containers may be run with: a table from the configuration, one of which is the default.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::spec::SpecError;

/// A program that understands an OCI runtime's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeProgram {
    /// Where it is.
    pub path: PathBuf,
    /// What is put before every other argument.
    pub args: Vec<String>,
}

/// All that are known by a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    default: String,
    programs: BTreeMap<String, RuntimeProgram>,
}

impl Runtimes {
    /// One program, known by its file's name, that is the default.
    #[must_use]
    pub fn single(path: PathBuf) -> Self {
        let name = path
            .file_name()
            .map_or_else(|| "default".into(), |n| n.to_string_lossy().into_owned());
        Self::new(
            name,
            RuntimeProgram {
                path,
                args: Vec::new(),
            },
        )
    }

    /// A table with this default.
    #[must_use]
    pub fn new(default: String, program: RuntimeProgram) -> Self {
        let programs = BTreeMap::from([(default.clone(), program)]);
        Self { default, programs }
    }

    /// The same with a further one; a name that is taken keeps its program.
    #[must_use]
    pub fn with(mut self, name: String, program: RuntimeProgram) -> Self {
        self.programs.entry(name).or_insert(program);
        self
    }

    /// The name of the default.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.programs.keys().map(String::as_str)
    }

    /// The default's program.
    #[must_use]
    pub fn default_program(&self) -> RuntimeProgram {
        // The table is made with it.
        self.programs
            .get(&self.default)
            .cloned()
            .unwrap_or_else(|| RuntimeProgram {
                path: PathBuf::from(&self.default),
                args: Vec::new(),
            })
    }

    /// The program of a name, or at an absolute path; `None`: the default.
    ///
    /// # Errors
    /// [`SpecError::Runtime`] if there is none.
    pub fn find(&self, wanted: Option<&str>) -> Result<RuntimeProgram, SpecError> {
        let Some(wanted) = wanted.filter(|name| !name.is_empty()) else {
            return Ok(self.default_program());
        };
        let unknown = |reason: &'static str| SpecError::Runtime {
            name: wanted.to_owned(),
            reason,
            known: self.names().collect::<Vec<_>>().join(", "),
        };
        if let Some(program) = self.programs.get(wanted) {
            return Ok(program.clone());
        }
        if !wanted.contains('/') {
            return Err(unknown("it is not configured"));
        }
        if !wanted.starts_with('/') {
            return Err(unknown("a path must be absolute"));
        }
        if !is_executable(Path::new(wanted)) {
            return Err(unknown("there is no executable file"));
        }
        Ok(RuntimeProgram {
            path: wanted.into(),
            args: Vec::new(),
        })
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_what_is_neither() {
        let program = |path: &str| RuntimeProgram {
            path: path.into(),
            args: Vec::new(),
        };
        let debug = RuntimeProgram {
            path: "/opt/rt".into(),
            args: vec!["--debug".into()],
        };
        let runtimes = Runtimes::single("/bin/croze-rt".into())
            .with("debug".into(), debug.clone())
            .with("croze-rt".into(), program("/elsewhere"));
        for (wanted, found) in [
            (None, program("/bin/croze-rt")),
            (Some(""), program("/bin/croze-rt")),
            (Some("croze-rt"), program("/bin/croze-rt")),
            (Some("debug"), debug),
            (Some("/bin/sh"), program("/bin/sh")),
        ] {
            assert_eq!(runtimes.find(wanted), Ok(found), "{wanted:?}");
        }
        for (wanted, word) in [
            ("runc", "croze-rt, debug"),
            ("./rt", "absolute"),
            ("/etc", "no executable"),
            ("/etc/passwd", "no executable"),
        ] {
            let error = runtimes.find(Some(wanted)).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(wanted), "{error}");
        }
    }
}
