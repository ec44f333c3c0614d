//! Starting a shim, and what is done by the runtime directly when a shim is dead.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use croze_proto::shim::{Launch, reply};
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::ContainersError;
use crate::link;
use crate::service::Settings;

/// How long the runtime may take to create a container.
const CREATE: Duration = Duration::from_secs(60);
/// How long it may take to delete what a dead shim left.
const DELETE: Duration = Duration::from_secs(20);

/// Starts a shim and waits until it has created the container.
///
/// The shim is a child only as long as this process lives; it leads a session of its own and is nobody's to stop. Undo: after a failure nothing of the
/// container is left in the runtime.
pub(crate) async fn launch(settings: &Settings, launch: &Launch) -> Result<(), ContainersError> {
    let run_dir = Path::new(&launch.run_dir);
    let notes = run_dir.join("shim.log");
    let stderr = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&notes)
        .map_err(ContainersError::file("open", &notes))?;
    let mut child = Command::new(&settings.shim)
        .arg(&launch.container_id)
        // What the daemon's own service manager has said to the daemon: a runtime would take it for the container's.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES")
        .current_dir(run_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .kill_on_drop(false)
        .spawn()
        .map_err(ContainersError::file("execute the shim", &settings.shim))?;
    // It does nothing before it is told what, and what it starts then are containers.
    restore_open_files(&child, &launch.container_id);
    let answer = timeout(CREATE, converse(&mut child, launch)).await;
    let result = match answer {
        Ok(result) => result,
        Err(_) => {
            // It leads a session: the runtime's call that hangs is in its process group and goes with it.
            if let Some(pid) = child.id() {
                let _dead_already = croze_sys::pidfd::kill(-pid.cast_signed(), 9);
            }
            Err(failed(format!(
                "the runtime did not create the container within {} s",
                CREATE.as_secs()
            )))
        }
    };
    // Whoever ends is reaped, however long that takes.
    tokio::spawn(async move { child.wait().await });
    if result.is_err() {
        delete(settings, &launch.container_id).await;
    }
    result
}

/// Gives a child the limit of open files that the daemon was started with.
fn restore_open_files(child: &tokio::process::Child, container: &str) {
    let Some(pid) = child.id() else {
        return;
    };
    match croze_sys::files::restore_limit(pid.cast_signed()) {
        Ok(()) => {}
        // Dead already.
        Err(error) if error.errno == croze_sys::Errno::SRCH => {}
        Err(error) => {
            tracing::warn!(container, %error, "it gets the daemon's own limit of open files, which is higher than the one that containers get");
        }
    }
}

async fn converse(child: &mut tokio::process::Child, launch: &Launch) -> Result<(), ContainersError> {
    let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(ContainersError::Interrupted);
    };
    stdin
        .write_all(&launch.encode_to_vec())
        .await
        .map_err(|e| failed(format!("it does not read: {e}")))?;
    drop(stdin);
    let reply = link::read_frame(&mut stdout)
        .await
        .map_err(|e| failed(format!("it answers nonsense: {e}")))?;
    match reply.and_then(|r| r.body) {
        Some(reply::Body::Ready(_)) => Ok(()),
        Some(reply::Body::Failure(failure)) => Err(link::convert_failure(failure)),
        _ => Err(failed(
            "it ended without an answer; its shim.log may say why".into(),
        )),
    }
}

fn failed(message: String) -> ContainersError {
    ContainersError::Runtime {
        stage: "create".into(),
        message,
        kind: croze_model::ErrorKind::Internal,
    }
}

/// Has the runtime delete whatever there is of a container, and removes its shim's cgroup; only for containers without a shim.
pub(crate) async fn delete(settings: &Settings, id: &str) {
    let runtime = crate::bundle::runtime_of_run(settings, &settings.run_dir.join(id));
    let call = Command::new(&runtime.path)
        .args(&runtime.args)
        .arg("--root")
        .arg(&settings.runtime_root)
        .args(["delete", "--force", id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let call = async {
        let mut child = call?;
        // For the hooks that it calls.
        restore_open_files(&child, id);
        child.wait().await
    };
    match timeout(DELETE, call).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(container = id, %error, "the runtime cannot be called to delete"),
        Err(_) => tracing::warn!(container = id, "the runtime's delete takes too long"),
    }
    let id = id.to_owned();
    // rmdir of a cgroup may wait for the kernel.
    let _panicked = tokio::task::spawn_blocking(move || remove_shim_cgroup(&id)).await;
}

/// A shim removes its own cgroup when it leaves; one that was killed could not. The directories are empty, so this cannot take anything from anybody.
fn remove_shim_cgroup(id: &str) {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mountinfo.lines().filter(|l| l.contains(" - cgroup")) {
        let Some(mount) = line.split(' ').nth(4) else {
            continue;
        };
        for dir in [
            format!("{mount}/croze-shim/{id}"),
            format!("{mount}/croze-shim"),
            format!("{mount}/croze"),
        ] {
            // Not there, or in use by others.
            let _stays = std::fs::remove_dir(dir);
        }
    }
}
