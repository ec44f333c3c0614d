//! The bundle of a container: what the runtime and the shim are given. Blocking.
//!
//! ```text
//!   <run>/<id>/            0700; the shim's working directory
//!     config.json          the OCI spec
//!     runtime.json         the OCI runtime that was called with it
//!     shim.sock …          the shim's own files
//!   <state>/<id>/
//!     hosts hostname resolv.conf    bind-mounted below /etc
//!     container.log                 written by the shim
//!     exit.json                     written by the shim at the end of a run
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use croze_proto::shim::Launch;
use croze_store::Durable;
use serde_json::Value;

use crate::entries::remove_tree;
use crate::error::ContainersError;
use crate::networking::Attachment;
use crate::record::Container;
use crate::request::{BindMount, ExecRequest};
use crate::runtimes::RuntimeProgram;
use crate::service::Result;
use crate::spec::binds::{self, ReadOnlyDepth};
use crate::spec::host::HostFacts;
use crate::spec::{self, Facts};
use crate::types::Settings;

/// The version of the launch message that is spoken here.
const LAUNCH_VERSION: u32 = 1;

/// The runtime of a run, beside its bundle: whoever cleans up after a dead shim must call the same one.
const RUNTIME_NOTE: &str = "runtime.json";

/// Writes the bundle over a mounted root file system, and returns what the shim is told. `pid_namespace` is another container's.
pub(crate) fn write(
    settings: &Settings,
    container: &Container,
    rootfs: &Path,
    pid_namespace: Option<&Path>,
    read_only_depth: ReadOnlyDepth,
    attachment: &Attachment,
) -> Result<Launch> {
    let (run_dir, state_dir) = (
        settings.bundle_path(&container.id),
        settings.container_dir(&container.id),
    );
    remove_tree(&run_dir)?;
    // What lies below the run directory is forgotten at boot.
    croze_store::create_private_dir_when(&run_dir, Durable::Soon)?;
    let exit_path = settings.exit_path(&container.id);
    match fs::remove_file(&exit_path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(ContainersError::File {
                call: "remove",
                path: exit_path,
                source: e,
            });
        }
        _ => {}
    }
    for mount in container.request.mounts.iter().filter(|m| m.create_source) {
        if !mount.source.exists() {
            fs::create_dir_all(&mount.source).map_err(ContainersError::file("create", &mount.source))?;
        }
    }
    check_sources(container)?;
    let runtime = settings
        .runtimes
        .find(container.request.options.runtime.as_deref())?;
    let host = HostFacts::observe();
    let accounts = spec::root::accounts(rootfs)?;
    let devices = spec::devices::observe(&container.request.options)?;
    let facts = Facts {
        host: &host,
        accounts: &accounts,
        rootfs,
        etc_dir: &state_dir,
        init: settings.init.as_deref(),
        devices: &devices,
        pid_namespace,
        read_only_depth,
        network_namespace: attachment.namespace.as_deref(),
    };
    let config = spec::generate(container, &facts)?;
    if let Some(cwd) = config["process"]["cwd"].as_str() {
        spec::root::create_dir(rootfs, cwd)?;
    }
    spec::etc::write(
        &state_dir,
        spec::hostname(container, &host),
        &container.request,
        attachment,
    )?;
    let config_path = run_dir.join("config.json");
    fs::write(&config_path, config.to_string()).map_err(ContainersError::file("write", &config_path))?;
    let note_path = run_dir.join(RUNTIME_NOTE);
    let note = serde_json::json!(runtime).to_string();
    fs::write(&note_path, note).map_err(ContainersError::file("write", &note_path))?;
    let io = container.request.io;
    Ok(Launch {
        version: LAUNCH_VERSION,
        container_id: container.id.to_string(),
        run_dir: text(&run_dir)?,
        runtime: text(&runtime.path)?,
        runtime_args: runtime.args,
        runtime_root: text(&settings.runtime_root)?,
        log_path: text(&settings.log_path(&container.id))?,
        exit_path: text(&exit_path)?,
        tty: io.tty,
        open_stdin: io.open_stdin,
        stdin_once: io.stdin_once,
        ephemeral: container.request.auto_remove,
    })
}

/// Refuses bind mounts whose source is not there and is not to be made, or lies on a mount that does not travel as asked. The runtime would refuse
/// the one in words of its own, and not notice the other.
pub(crate) fn check_sources(container: &Container) -> Result<()> {
    let missing = |mount: &&BindMount| !mount.create_source && !mount.source.exists();
    if let Some(mount) = container.request.mounts.iter().find(missing) {
        return Err(ContainersError::Spec(spec::SpecError::Mount {
            target: mount.target.clone(),
            reason: format!("bind source path does not exist: {}", mount.source.display()),
        }));
    }
    if binds::root_propagation(&container.request.mounts).is_none() {
        return Ok(());
    }
    let mountinfo = host_mounts()?;
    for mount in &container.request.mounts {
        // One that is still to be made is looked at when it is there.
        if let Ok(source) = mount.source.canonicalize() {
            binds::check_travels(mount, &source, &mountinfo)?;
        }
    }
    Ok(())
}

/// What a user should know who takes a read-only bind for more than it can be. A table of mounts that cannot be read gives no warning.
pub(crate) fn writable_below(container: &Container, depth: ReadOnlyDepth) -> Vec<String> {
    if depth == ReadOnlyDepth::Whole {
        return Vec::new();
    }
    let mountinfo = host_mounts().unwrap_or_default();
    let has_mounts_below = |source: &Path| {
        let source = source.canonicalize();
        source.is_ok_and(|source| binds::has_mounts_below(&source, &mountinfo))
    };
    let mounts = container.request.mounts.iter();
    mounts
        .filter(|mount| binds::wants_whole_tree(mount) && has_mounts_below(&mount.source))
        .map(|mount| {
            format!(
                "{}: what is mounted below {} stays writable: to make it read-only needs Linux 5.12 and a runtime that knows the mount option rro",
                mount.target,
                mount.source.display()
            )
        })
        .collect()
}

/// The table of this process's mounts, which are the host's.
fn host_mounts() -> Result<String> {
    let path = Path::new("/proc/self/mountinfo");
    let bytes = fs::read(path).map_err(ContainersError::file("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The runtime of the last run; the default where that cannot be told.
pub(crate) fn runtime_of_run(settings: &Settings, run_dir: &Path) -> RuntimeProgram {
    fs::read(run_dir.join(RUNTIME_NOTE))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_else(|| settings.runtimes.default_program())
}

/// The OCI process of an exec in a running container.
pub(crate) fn exec_process(
    settings: &Settings,
    container: &Container,
    request: &ExecRequest,
) -> Result<Value> {
    let config_path = settings.bundle_path(&container.id).join("config.json");
    let bytes = fs::read(&config_path).map_err(ContainersError::file("read", &config_path))?;
    let config: Value = serde_json::from_slice(&bytes).map_err(|e| ContainersError::File {
        call: "parse",
        path: config_path,
        source: e.into(),
    })?;
    let rootfs = PathBuf::from(config["root"]["path"].as_str().unwrap_or_default());
    let accounts = spec::root::accounts(&rootfs)?;
    Ok(spec::exec_process(
        container,
        request,
        &HostFacts::observe(),
        &accounts,
    )?)
}

/// The wire carries text, as the runtime's command line does in practice.
fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| ContainersError::File {
            call: "use",
            path: path.into(),
            source: std::io::Error::new(ErrorKind::InvalidInput, "the path is not UTF-8"),
        })
}
