//! A shim that leaves while it is asked: what it ran has ended, and nothing else may be recorded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use croze_proto::shim::{Failure, HelloReply, Reply, Request, StatusReply, reply};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::*;
use crate::request::{CreateRequest, ImageFacts};
use crate::types::Settings;

/// A process that stands for the shim, and the socket of one that has prepared a container. A start fails; to whatever else it is told the shim
/// closes its socket and its connections, and a moment later its process ends.
struct LeavingShim {
    run_dir: PathBuf,
    /// What it has prepared. Its note knows nothing of it.
    prepared: Option<ProcessIdentity>,
    process: std::sync::Mutex<std::process::Child>,
    left: watch::Sender<bool>,
}

impl LeavingShim {
    fn begin(run_dir: &Path, id: &ContainerId, prepared: Option<ProcessIdentity>) -> Arc<Self> {
        std::fs::create_dir_all(run_dir).unwrap();
        // Ends when its input does; its arguments are what tells a shim from others.
        let process = std::process::Command::new("sh")
            .args(["-c", "read _", id.as_str()])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let us = observe::this_process();
        let note = serde_json::json!({
            "pid": 0, "start_ticks": 0, "boot_id": us.boot_id, "shim_pid": process.id(),
        });
        std::fs::write(run_dir.join("shim.json"), note.to_string()).unwrap();
        let listener = UnixListener::bind(run_dir.join("shim.sock")).unwrap();
        let shim = Arc::new(Self {
            run_dir: run_dir.to_owned(),
            prepared,
            process: std::sync::Mutex::new(process),
            left: watch::Sender::new(false),
        });
        let of = Arc::clone(&shim);
        tokio::spawn(async move {
            let mut left = of.left.subscribe();
            loop {
                tokio::select! {
                    Ok((stream, _)) = listener.accept() => {
                        tokio::spawn(Arc::clone(&of).serve(stream));
                    }
                    _ = left.wait_for(|left| *left) => return,
                }
            }
        });
        shim
    }

    async fn serve(self: Arc<Self>, mut stream: UnixStream) {
        let mut left = self.left.subscribe();
        loop {
            let request = tokio::select! {
                request = receive(&mut stream) => request,
                _ = left.wait_for(|left| *left) => return,
            };
            let Some(Request { id, body: Some(body) }) = request else {
                return;
            };
            let body = match body {
                request::Body::Hello(_) => reply::Body::Hello(HelloReply {
                    version: 1,
                    ..HelloReply::default()
                }),
                request::Body::Status(_) => reply::Body::Status(StatusReply {
                    phase: Phase::Created.into(),
                    pid: self.prepared.as_ref().map_or(0, |process| process.pid),
                    pid_start_ticks: self.prepared.as_ref().map_or(0, |process| process.start_ticks),
                    ..StatusReply::default()
                }),
                request::Body::Start(_) => reply::Body::Failure(Failure {
                    stage: "start".into(),
                    message: "the runtime was killed".into(),
                    ..Failure::default()
                }),
                request::Body::Wait(_) => continue,
                _ => {
                    std::fs::remove_file(self.run_dir.join("shim.sock")).unwrap();
                    self.left.send_replace(true);
                    drop(stream);
                    let mut process = self.process.lock().unwrap();
                    drop(process.stdin.take());
                    process.wait().unwrap();
                    return;
                }
            };
            let body = Reply { id, body: Some(body) }.encode_to_vec();
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &body].concat()).await.unwrap();
        }
    }
}

async fn receive(stream: &mut UnixStream) -> Option<Request> {
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.ok()?;
    Request::decode(body.as_slice()).ok()
}

/// A container whose start fails at a shim that then leaves.
async fn fail_to_start(prepared: Option<ProcessIdentity>) {
    let dir = tempfile::tempdir().unwrap();
    let store = croze_store::Store::open(&dir.path().join("root")).unwrap();
    let settings = Settings {
        state_dir: dir.path().join("root/containers"),
        run_dir: dir.path().join("run"),
        runtimes: crate::runtimes::Runtimes::single("/nowhere/rt".into()),
        runtime_root: dir.path().join("rt"),
        shim: "/nowhere/shim".into(),
        init: None,
    };
    let containers = Containers::open(&store, settings).unwrap();
    let request = CreateRequest {
        command: vec!["true".into()],
        network: crate::networking::Network::None,
        ..CreateRequest::default()
    };
    let id = containers.new_id().unwrap();
    containers
        .create(id.clone(), request, ImageFacts::default())
        .await
        .unwrap();
    let _shim = LeavingShim::begin(&containers.run_dir(&id), &id, prepared);

    let error = containers.start(&id, Path::new("/nowhere")).await.unwrap_err();
    assert!(error.to_string().contains("the runtime was killed"), "{error}");
    let container = containers.get(&id).unwrap();
    assert!(
        matches!(container.state, State::Exited { .. }),
        "{:?}",
        container.state
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_leaves_while_its_start_is_given_up_has_ended() {
    fail_to_start(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_shim_had_prepared_is_killed_though_no_note_tells_of_it() {
    // Ends by itself only when its input does.
    let mut command = std::process::Command::new("sh")
        .args(["-c", "read _"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    fail_to_start(Some(observe::process_of(command.id()))).await;
    let ended = command.try_wait().unwrap();
    let signal = ended.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status));
    assert_eq!(signal, Some(9), "{ended:?}");
}
