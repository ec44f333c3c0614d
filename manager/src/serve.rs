//! The daemon's life: open, recover, listen, serve until a signal, leave.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use croze_engine::{Engine, Hello, RuntimeProgram, Runtimes, Settings};
use croze_model::{Error, ErrorKind};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, DEFAULT_INIT, RuntimeEntry};
use crate::socket::Socket;
use crate::{hello, programs};

/// Calls that are under way when the daemon is told to end get so long; streams such as followed logs never end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the daemon.
pub(crate) fn serve(config: &Config) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(
            Error::new(ErrorKind::PermissionDenied, "start", "crozed must run as root")
                .hint("use sudo; running without root is not there yet")
                .into(),
        );
    }
    let settings = settings(config)?;
    make_run_root(&config.run_root)?;
    let engine = Engine::open(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("crozed")
        .build()
        .context("cannot start the asynchronous runtime")?;
    let result = runtime.block_on(run(config, engine.clone()));
    // Whatever ended it: nobody is served any more, and what no container uses goes.
    runtime.block_on(engine.close());
    drop(engine);
    // Work that is under way on blocking threads is not waited for without end: recovery deals with what it leaves.
    runtime.shutdown_timeout(GRACE);
    result
}

fn settings(config: &Config) -> anyhow::Result<Settings> {
    Ok(Settings {
        root: config.root.clone(),
        run_root: config.run_root.clone(),
        runtimes: runtimes(config)?,
        shim: programs::find("shim", "--shim", &config.shim)?,
        init: init(config)?,
        hello: hello::HELLO.map(|program| Hello {
            program,
            created: hello::CREATED,
        }),
        registries: config.registries.clone(),
        network: config.network.clone(),
        snapshotter: config.snapshotter.into(),
        storage_limit: config.storage_limit,
    })
}

/// The table of runtimes. The default must be there; another one that is not yet is only warned of, and looked for again when it is called.
fn runtimes(config: &Config) -> anyhow::Result<Runtimes> {
    let program = |entry: &RuntimeEntry, path: PathBuf| RuntimeProgram {
        path,
        args: entry.args.clone(),
    };
    let default = config.runtime.to_string_lossy().into_owned();
    let mut runtimes = match config.runtimes.get(&default) {
        Some(entry) => {
            let path = programs::find("OCI runtime", "--runtime", &entry.path)?;
            Runtimes::new(default, program(entry, path))
        }
        None => Runtimes::single(programs::find("OCI runtime", "--runtime", &config.runtime)?),
    };
    for (name, entry) in &config.runtimes {
        let path =
            programs::find("OCI runtime", "[runtimes] of croze.toml", &entry.path).unwrap_or_else(|error| {
                tracing::warn!(runtime = %name, error = %error.one_line(), "a configured runtime is missing");
                entry.path.clone()
            });
        runtimes = runtimes.with(name.clone(), program(entry, path));
    }
    Ok(runtimes)
}

/// croze-init. Without it only containers that ask for it cannot be made, so one that is just not installed is no reason not to serve; one that
/// was named is.
fn init(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    match programs::find("init", "--init", &config.init) {
        Ok(path) => Ok(Some(path)),
        Err(_) if config.init == Path::new(DEFAULT_INIT) => {
            tracing::warn!("croze-init is not installed: containers with --init are refused");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes the directory of this boot's state: others may pass through it to the socket, not look at it. One that exists keeps its mode, and is
/// refused if somebody else could put things into it.
fn make_run_root(path: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    match builder.recursive(false).mode(0o711).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return builder
                .recursive(true)
                .create(path)
                .with_context(|| format!("cannot make {}", path.display()));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
    let metadata = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    match unfit(&metadata) {
        None => Ok(()),
        Some(why) => Err(Error::new(
            ErrorKind::InvalidArgument,
            "start",
            format!("{} cannot be the run root", path.display()),
        )
        .because(why.to_owned())
        .hint("name a directory of croze's own with --run-root; it is made if it does not exist")
        .into()),
    }
}

/// Why a directory cannot hold what only root may touch.
fn unfit(metadata: &fs::Metadata) -> Option<&'static str> {
    if !metadata.is_dir() {
        Some("it is not a directory")
    } else if metadata.uid() != nix::unistd::geteuid().as_raw() {
        Some("it belongs to another user")
    } else if metadata.mode() & 0o022 != 0 {
        Some("others may write to it")
    } else {
        None
    }
}

async fn run(config: &Config, engine: Engine) -> anyhow::Result<()> {
    // Before recovery: a signal during it ends the daemon in order, too.
    let ends = ending()?;
    tokio::pin!(ends);
    // Also before it: a client that comes now waits, and is not told that there is no daemon.
    let (_socket, listener) = Socket::bind(&config.socket)?;
    tokio::select! {
        recovered = engine.recover() => recovered?,
        name = &mut ends => {
            tracing::info!(signal = name, "crozed ends during recovery");
            return Ok(());
        }
    }
    let listener = UnixListener::from_std(listener).context("cannot listen")?;
    let (tell, told) = tokio::sync::oneshot::channel();
    let serving = croze_door_grpc::serve(engine, listener, async move {
        told.await.ok();
    });
    tokio::pin!(serving);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        socket = %config.socket.display(),
        root = %config.root.display(),
        "crozed is ready"
    );
    // systemd (sd_notify(3)) starts what depends on the daemon now; elsewhere nobody listens, which is no failure.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("cannot tell the service manager that crozed is ready: {error}");
    }
    tokio::select! {
        served = &mut serving => return served.context("cannot serve"),
        name = &mut ends => tracing::info!(signal = name, "crozed ends; containers go on"),
    }
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
    tell.send(()).ok();
    match tokio::time::timeout(GRACE, serving).await {
        Ok(served) => served.context("cannot serve"),
        // What is left are streams, whose clients see the connection end.
        Err(_) => Ok(()),
    }
}

/// Ends with the name of the signal that ends the daemon.
fn ending() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_run_root_is_made_and_one_that_exists_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let new = dir.path().join("above/new");
        make_run_root(&new).unwrap();
        assert_eq!(mode(&new), 0o711);

        for (bits, fits) in [(0o755, true), (0o700, true), (0o1777, false), (0o775, false)] {
            let path = dir.path().join(format!("{bits:o}"));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!(make_run_root(&path).is_ok(), fits, "{bits:o}");
            assert_eq!(mode(&path), bits, "its mode is its owner's");
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(make_run_root(&file).is_err());
    }
}
