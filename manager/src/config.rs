//! The resolved configuration: flags over the file over defaults.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use crate::args::{Args, LogFormat};

const DEFAULT_FILE: &str = "/etc/croze/croze.toml";
const DEFAULT_ROOT: &str = "/var/lib/croze";
const DEFAULT_RUN_ROOT: &str = "/run/croze";
const DEFAULT_RUNTIME: &str = "croze-rt";
const DEFAULT_SHIM: &str = "croze-shim";
const DEFAULT_LOG_LEVEL: &str = "info";

/// What the daemon runs with; every path is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Durable state.
    pub(crate) root: PathBuf,
    /// State of this boot.
    pub(crate) run_root: PathBuf,
    /// Socket to listen on.
    pub(crate) socket: PathBuf,
    /// The OCI runtime, name or path.
    pub(crate) runtime: PathBuf,
    /// The shim, name or path.
    pub(crate) shim: PathBuf,
    /// What to log.
    pub(crate) log_level: String,
    /// How to log.
    pub(crate) log_format: LogFormat,
}

/// `croze.toml`: every key may be missing, none may be unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    root: Option<PathBuf>,
    run_root: Option<PathBuf>,
    socket: Option<PathBuf>,
    runtime: Option<PathBuf>,
    shim: Option<PathBuf>,
    log_level: Option<String>,
    log_format: Option<LogFormat>,
}

impl Config {
    /// Reads the file (the default one may be missing, a named one may not) and resolves.
    pub(crate) fn load(args: &Args) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => parse(
                path,
                &std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            )?,
            None => match std::fs::read_to_string(DEFAULT_FILE) {
                Ok(text) => parse(Path::new(DEFAULT_FILE), &text)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::default(),
                Err(error) => return Err(error).with_context(|| format!("cannot read {DEFAULT_FILE}")),
            },
        };
        resolve(args, file)
    }
}

/// Parses a file's text; errors name the file, the line and what stands there.
fn parse(path: &Path, text: &str) -> anyhow::Result<File> {
    toml::from_str(text).with_context(|| format!("{} is no valid configuration", path.display()))
}

fn resolve(args: &Args, file: File) -> anyhow::Result<Config> {
    let pick = |flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| {
        flag.clone().or(file).unwrap_or_else(|| PathBuf::from(default))
    };
    let run_root = absolute(&pick(&args.run_root, file.run_root, DEFAULT_RUN_ROOT))?;
    let socket = args
        .socket
        .clone()
        .or(file.socket)
        .map_or_else(|| Ok(run_root.join("croze.sock")), |path| absolute(&path))?;
    Ok(Config {
        root: absolute(&pick(&args.root, file.root, DEFAULT_ROOT))?,
        run_root,
        socket,
        runtime: pick(&args.runtime, file.runtime, DEFAULT_RUNTIME),
        shim: pick(&args.shim, file.shim, DEFAULT_SHIM),
        log_level: args
            .log_level
            .clone()
            .or(file.log_level)
            .unwrap_or_else(|| DEFAULT_LOG_LEVEL.to_owned()),
        log_format: args.log_format.or(file.log_format).unwrap_or_default(),
    })
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> anyhow::Result<File> {
        parse(Path::new("/x/croze.toml"), text)
    }

    #[test]
    fn defaults_stand_where_nothing_is_said() {
        let config = resolve(&Args::default(), File::default()).unwrap();
        assert_eq!(config.root, Path::new("/var/lib/croze"));
        assert_eq!(config.socket, Path::new("/run/croze/croze.sock"));
        assert_eq!(
            (config.log_level.as_str(), config.log_format),
            ("info", LogFormat::Text)
        );
    }

    #[test]
    fn flags_win_over_the_file() {
        let args = Args {
            root: Some(PathBuf::from("/flag")),
            ..Args::default()
        };
        let text = "root = \"/file\"\nrun-root = \"/run/file\"\nruntime = \"runc\"\nlog-format = \"json\"\n";
        let config = resolve(&args, file(text).unwrap()).unwrap();
        assert_eq!(config.root, Path::new("/flag"));
        assert_eq!(config.socket, Path::new("/run/file/croze.sock"));
        assert_eq!(config.runtime, Path::new("runc"));
        assert_eq!(config.log_format, LogFormat::Json);
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        for (text, words) in [
            ("root = \"/a\"\nrot = 1\n", "rot"),
            ("root = 7\n", "root"),
            ("root = [\n", "croze.toml"),
        ] {
            let error = format!("{:#}", file(text).unwrap_err());
            assert!(
                error.contains("/x/croze.toml") && error.contains("line ") && error.contains(words),
                "{error}"
            );
        }
    }
}
