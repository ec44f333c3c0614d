//! The resolved configuration: flags over the file over defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use croze_engine::{Hosts, Limit, NetworkSettings, Snapshotter, storage_limit};
use serde::Deserialize;

use crate::args::{Args, LogFormat};
use crate::{network, registries};

const DEFAULT_FILE: &str = "/etc/croze/croze.toml";
const DEFAULT_ROOT: &str = "/var/lib/croze";
const DEFAULT_RUN_ROOT: &str = "/run/croze";
const DEFAULT_RUNTIME: &str = "croze-rt";
const DEFAULT_SHIM: &str = "croze-shim";
pub(crate) const DEFAULT_INIT: &str = "croze-init";
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
    /// The default OCI runtime: a name of `runtimes`, or another name or path.
    pub(crate) runtime: PathBuf,
    /// Further OCI runtimes, by the names that `croze run --runtime` takes.
    pub(crate) runtimes: BTreeMap<String, RuntimeEntry>,
    /// The shim, name or path.
    pub(crate) shim: PathBuf,
    /// croze-init, name or path.
    pub(crate) init: PathBuf,
    /// What to log.
    pub(crate) log_level: String,
    /// How to log.
    pub(crate) log_format: LogFormat,
    /// What is special about single registries.
    pub(crate) registries: Hosts,
    /// How containers are connected.
    pub(crate) network: NetworkSettings,
    /// How containers' file systems are made.
    pub(crate) snapshotter: SnapshotterChoice,
    /// `[storage-opt]`: what a container may write besides its mounts, unless it asks for something else.
    pub(crate) storage_limit: Limit,
}

/// `snapshotter = "…"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SnapshotterChoice {
    /// With overlayfs if it can be used, else by copying, with a warning.
    #[default]
    Auto,
    /// With overlayfs.
    Overlay,
    /// By copying the image.
    Copy,
}

impl From<SnapshotterChoice> for Option<Snapshotter> {
    fn from(choice: SnapshotterChoice) -> Self {
        match choice {
            SnapshotterChoice::Auto => None,
            SnapshotterChoice::Overlay => Some(Snapshotter::Overlay),
            SnapshotterChoice::Copy => Some(Snapshotter::Copy),
        }
    }
}

/// `[runtimes.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RuntimeEntry {
    /// The program: a path, or a name looked for beside crozed and in PATH.
    pub(crate) path: PathBuf,
    /// What is put before every other argument.
    #[serde(default)]
    pub(crate) args: Vec<String>,
}

/// `croze.toml`: every key may be missing, none may be unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    root: Option<PathBuf>,
    run_root: Option<PathBuf>,
    socket: Option<PathBuf>,
    runtime: Option<PathBuf>,
    #[serde(default)]
    runtimes: BTreeMap<String, RuntimeEntry>,
    shim: Option<PathBuf>,
    init: Option<PathBuf>,
    log_level: Option<String>,
    log_format: Option<LogFormat>,
    #[serde(default)]
    snapshotter: SnapshotterChoice,
    #[serde(default)]
    storage_opt: BTreeMap<String, String>,
    #[serde(default)]
    registries: registries::Files,
    #[serde(default)]
    network: network::File,
}

impl Config {
    /// Reads the file (the default one may be missing, a named one may not) and resolves.
    pub(crate) fn load(args: &Args) -> anyhow::Result<Self> {
        let path = args.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if args.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                String::new()
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut file = parse(path, &text)?;
        let registries = registries::resolve(std::mem::take(&mut file.registries)).map_err(|wrong| {
            let line = line_of(&text, wrong.at);
            anyhow::Error::new(wrong).context(format!("{}, line {line}", path.display()))
        })?;
        resolve(args, file, registries)
    }
}

/// The line, counted from one, of the byte at this place.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}

/// Parses a file's text; errors name the file, the line and what stands there.
fn parse(path: &Path, text: &str) -> anyhow::Result<File> {
    toml::from_str(text).map_err(|error| {
        let meant = did_you_mean(error.message())
            .map(|key| format!(" (did you mean {key:?}?)"))
            .unwrap_or_default();
        anyhow::Error::new(error).context(format!("{} is no valid configuration{meant}", path.display()))
    })
}

/// The known key that is nearest to an unknown one, from the parser's message: "unknown field `x`, expected one of `y`, `z`".
fn did_you_mean(message: &str) -> Option<&str> {
    let mut quoted = message
        .strip_prefix("unknown field")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = quoted.next()?;
    croze_model::nearest(unknown, quoted)
}

fn resolve(args: &Args, file: File, registries: Hosts) -> anyhow::Result<Config> {
    let pick = |flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| {
        flag.clone().or(file).unwrap_or_else(|| PathBuf::from(default))
    };
    let run_root = absolute(&pick(&args.run_root, file.run_root, DEFAULT_RUN_ROOT))?;
    let socket = args
        .socket
        .clone()
        .or(file.socket)
        .map_or_else(|| Ok(run_root.join("croze.sock")), |path| absolute(&path))?;
    let network = network::resolve(args, &file.network)?;
    let storage_limit =
        storage_limit(&file.storage_opt, Limit::default()).context("[storage-opt] of croze.toml")?;
    Ok(Config {
        root: absolute(&pick(&args.root, file.root, DEFAULT_ROOT))?,
        run_root,
        socket,
        runtime: pick(&args.runtime, file.runtime, DEFAULT_RUNTIME),
        runtimes: file.runtimes,
        shim: pick(&args.shim, file.shim, DEFAULT_SHIM),
        init: pick(&args.init, file.init, DEFAULT_INIT),
        log_level: args
            .log_level
            .clone()
            .or(file.log_level)
            .unwrap_or_else(|| DEFAULT_LOG_LEVEL.to_owned()),
        log_format: args.log_format.or(file.log_format).unwrap_or_default(),
        registries,
        network,
        snapshotter: file.snapshotter,
        storage_limit,
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
        let config = resolve(&Args::default(), File::default(), Hosts::default()).unwrap();
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
        let config = resolve(&args, file(text).unwrap(), Hosts::default()).unwrap();
        assert_eq!(config.root, Path::new("/flag"));
        assert_eq!(config.socket, Path::new("/run/file/croze.sock"));
        assert_eq!(config.runtime, Path::new("runc"));
        assert_eq!(config.log_format, LogFormat::Json);
    }

    #[test]
    fn runtimes_have_names_paths_and_arguments() {
        let text = "runtime = \"slow\"\n[runtimes.slow]\npath = \"/opt/rt\"\nargs = [\"--debug\"]\n\
                    [runtimes.runc]\npath = \"runc\"\n";
        let config = resolve(&Args::default(), file(text).unwrap(), Hosts::default()).unwrap();
        assert_eq!(config.runtime, Path::new("slow"));
        let names: Vec<&String> = config.runtimes.keys().collect();
        assert_eq!(names, ["runc", "slow"]);
        assert_eq!(config.runtimes["slow"].args, ["--debug"]);
        assert!(config.runtimes["runc"].args.is_empty());
    }

    #[test]
    fn containers_have_the_limits_that_are_configured() {
        let limits = |text: &str| {
            resolve(&Args::default(), file(text).unwrap(), Hosts::default())
                .map(|config| config.storage_limit)
        };
        assert_eq!(limits("").unwrap(), Limit::default());
        let said = limits("[storage-opt]\nsize = \"10G\"\ninodes = \"1000\"\n").unwrap();
        assert_eq!((said.bytes, said.inodes), (Some(10 << 30), Some(1000)));
        for (text, words) in [
            ("size = \"x\"", "such as 64m"),
            ("zise = \"1G\"", "there are size and inodes"),
        ] {
            let error = format!("{:#}", limits(&format!("[storage-opt]\n{text}\n")).unwrap_err());
            assert!(
                error.contains("[storage-opt]") && error.contains(words),
                "{error}"
            );
        }
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        for (text, words) in [
            ("root = \"/a\"\nrot = 1\n", "rot"),
            ("root = 7\n", "root"),
            ("root = [\n", "croze.toml"),
            ("[runtimes.x]\nargs = []\n", "path"),
            ("[runtimes.x]\npath = \"p\"\narguments = []\n", "arguments"),
        ] {
            let error = format!("{:#}", file(text).unwrap_err());
            assert!(
                error.contains("/x/croze.toml") && error.contains("line ") && error.contains(words),
                "{error}"
            );
        }
    }

    fn load(text: &str) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("croze.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&Args {
            config: Some(path),
            ..Args::default()
        })
    }

    #[test]
    fn registries_are_read() {
        let text = "[registries.\"r.example:5000\"]\nplain-http = true\n\n[registries.localhost]\nca = \"/dev/null\"\n";
        let expected: Hosts = [
            (
                "r.example:5000".to_owned(),
                croze_engine::Host {
                    plain_http: Some(true),
                    ..croze_engine::Host::default()
                },
            ),
            (
                "localhost".to_owned(),
                croze_engine::Host {
                    ca: Some(PathBuf::from("/dev/null")),
                    ..croze_engine::Host::default()
                },
            ),
        ]
        .into_iter()
        .collect();
        assert_eq!(load(text).unwrap().registries, expected);
    }

    #[test]
    fn what_is_wrong_with_a_registry_is_told_with_its_line() {
        for (text, words, line) in [
            ("[registries.\"a b\"]\n", "no registry's name", 3),
            ("[registries]\n\"a b\" = {}\n", "no registry's name", 4),
            (
                "[registries.\"a.b\"]\nplain-htp = true\n",
                "did you mean \"plain-http\"?",
                4,
            ),
            ("[registries.\"a.b\"]\nplain-http = 1\n", "invalid type", 4),
            ("[registries.\"a.b\"]\nca = \"x.pem\"\n", "must be absolute", 3),
            (
                "[registries.\"a.b\"]\nca = \"/no/such.pem\"\n",
                "cannot read it",
                3,
            ),
            (
                "[registries.\"a.b\"]\nclient-key = \"/dev/null\"\n",
                "client-cert",
                3,
            ),
            (
                "[registries.\"a.b\"]\nplain-http = true\ninsecure-skip-verify = true\n",
                "no use for certificates",
                3,
            ),
        ] {
            let error = format!("{:#}", load(&format!("root = \"/x\"\n\n{text}")).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
            assert!(error.contains(&format!("line {line}")), "{text}: {error}");
        }
    }

    #[test]
    fn only_a_near_key_is_meant() {
        assert_eq!(
            did_you_mean("unknown field `rot`, expected one of `root`, `run-root`"),
            Some("root")
        );
        assert_eq!(did_you_mean("unknown field `xyz`, expected `plain-http`"), None);
        assert_eq!(did_you_mean("invalid type"), None);
    }
}
