//! `config.json`: read, made parseable, validated.
//!
//! ```text
//! bytes ──▶ Spec                                     the common case: one pass
//!   └─ refused ─▶ JSON value ─ filter ─▶ Spec        unknown capabilities dropped with a warning, defaults filled in
//!                                 └────▶ error that names the field
//! Spec ──▶ validate ──▶ Loaded
//! ```
//!
//! The types of `oci-spec` are strict where callers expect leniency: a capability that the types do not know would make the
//! whole file unreadable, where only a warning is wanted. Only such files take the second way.
//!
//! The bytes are kept: what is stored for later operations is the user's file as it was, never a re-serialised one.

mod default;
mod filter;
mod shape;
mod validate;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::de::DeserializeOwned;
use shape::{ProcessShape, SpecShape};

pub use default::default_spec;
pub use validate::{SysctlKind, has_namespace, sysctl_kind, validate, validate_process};

/// Why a spec cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no JSON, or not of the right shape.
    #[error("cannot parse {what}")]
    Parse {
        /// The file, or what else the text came from.
        what: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field that must be there is not.
    #[error("{field} is missing: {reason}")]
    Missing {
        /// The field, as a path through the file.
        field: &'static str,
        /// What it is needed for.
        reason: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("{field}: {value:?} is not valid: {reason}")]
    Invalid {
        /// The field, as a path through the file.
        field: String,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something that may be there once only is there twice.
    #[error("{field}: {value:?} is there more than once")]
    Duplicate {
        /// The list.
        field: &'static str,
        /// What is repeated.
        value: String,
    },
}

/// A spec that was read and found valid.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The spec.
    pub spec: Spec,
    /// The file's bytes.
    pub raw: Vec<u8>,
    /// What was ignored, one line each, for the log.
    pub warnings: Vec<String>,
}

/// Reads and validates the file with a spec.
///
/// # Errors
/// The file is missing, malformed, or asks for something impossible; the error names the field.
pub fn load(path: &Path) -> Result<Loaded, SpecError> {
    let raw = croze_sys::file::read(path).map_err(|source| SpecError::Read {
        path: path.to_owned(),
        source,
    })?;
    let (spec, mut warnings) = parse(&raw, &path.display().to_string())?;
    validate(&spec)?;
    warnings.extend(without_effect(&spec));
    Ok(Loaded { spec, raw, warnings })
}

/// What is well-formed, and ignored as runc ignores it: the specification has a place for flags of a personality, and names none.
fn without_effect(spec: &Spec) -> Option<String> {
    let personality = spec.linux().as_ref()?.personality().as_ref()?;
    let flags = personality.flags().as_ref().filter(|flags| !flags.is_empty())?;
    Some(format!(
        "linux.personality.flags: {} ignored: the specification names no flags",
        flags.join(", ")
    ))
}

/// Parses a spec without validating it; `what` names it in errors.
///
/// # Errors
/// As [`load`].
pub fn parse(raw: &[u8], what: &str) -> Result<(Spec, Vec<String>), SpecError> {
    if let Ok(spec) = serde_json::from_slice::<SpecShape>(raw) {
        return Ok((spec.into(), Vec::new()));
    }
    let malformed = |source| SpecError::Parse {
        what: what.to_owned(),
        source,
    };
    let mut value = serde_json::from_slice(raw).map_err(malformed)?;
    let warnings = filter::spec(&mut value)?;
    let spec = reparse::<SpecShape>(&value).map_err(malformed)?;
    Ok((spec.into(), warnings))
}

/// The types are made from text in both ways: made from values, too, all their code would be in the program twice.
fn reparse<T: DeserializeOwned>(value: &serde_json::Value) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&serde_json::to_vec(value)?)
}

/// Parses a `resources` object; `what` names it in errors.
///
/// # Errors
/// As [`load`].
pub fn parse_resources(raw: &[u8], what: &str) -> Result<LinuxResources, SpecError> {
    let malformed = |source| SpecError::Parse {
        what: what.to_owned(),
        source,
    };
    let mut value = serde_json::from_slice(raw).map_err(malformed)?;
    filter::resources(&mut value)?;
    reparse(&value).map_err(malformed)
}

/// Reads and validates a file with an OCI `process` object.
///
/// # Errors
/// As [`load`].
pub fn load_process(path: &Path) -> Result<(Process, Vec<String>), SpecError> {
    let raw = std::fs::read(path).map_err(|source| SpecError::Read {
        path: path.to_owned(),
        source,
    })?;
    let what = path.display().to_string();
    let malformed = |source| SpecError::Parse {
        what: what.clone(),
        source,
    };
    let (process, warnings) = match serde_json::from_slice::<ProcessShape>(&raw) {
        Ok(process) => (process, Vec::new()),
        Err(_) => {
            let mut value = serde_json::from_slice(&raw).map_err(malformed)?;
            let warnings = filter::process(&mut value)?;
            (reparse(&value).map_err(malformed)?, warnings)
        }
    };
    let process = process.into();
    validate_process(&process)?;
    Ok((process, warnings))
}
