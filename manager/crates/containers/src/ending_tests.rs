//! Shims that leave, die, or say nothing while they are asked: what they held is ended all the same, and nothing else may be recorded.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use croze_proto::shim::{Failure, HelloReply, Ready, Reply, Request, StatusReply, reply};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;
use crate::request::{CreateRequest, ImageFacts};
use crate::types::{Event, Settings};

/// What a shim does when it is asked to start, to signal or to discard.
#[derive(Debug, Clone, Copy)]
enum Does {
    /// What it is asked.
    Obey,
    /// It says that it cannot.
    Fail,
    /// It says nothing.
    Stall,
    /// It closes its socket and its connections, and a moment later its process ends.
    Leave,
}

/// A process that stands for the shim, and the socket of one that has prepared a container.
struct Shim {
    run_dir: PathBuf,
    /// What it has prepared. Its note knows nothing of it.
    prepared: Option<ProcessIdentity>,
    start: Does,
    signal: Does,
    process: std::sync::Mutex<Child>,
    left: watch::Sender<bool>,
}

impl Shim {
    fn begin(
        run_dir: &Path,
        id: &ContainerId,
        prepared: Option<ProcessIdentity>,
        (start, signal): (Does, Does),
    ) -> Arc<Self> {
        std::fs::create_dir_all(run_dir).unwrap();
        // Its arguments are what tells a shim from others.
        let process = waiting(&[id.as_str()]);
        let us = observe::this_process();
        let note = serde_json::json!({
            "pid": 0, "start_ticks": 0, "boot_id": us.boot_id, "shim_pid": process.id(),
        });
        std::fs::write(run_dir.join("shim.json"), note.to_string()).unwrap();
        let listener = UnixListener::bind(run_dir.join("shim.sock")).unwrap();
        let shim = Arc::new(Self {
            run_dir: run_dir.to_owned(),
            prepared,
            start,
            signal,
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
                request::Body::Wait(_) => continue,
                other => {
                    let does = match other {
                        request::Body::Start(_) => self.start,
                        _ => self.signal,
                    };
                    match does {
                        Does::Obey => reply::Body::Ready(Ready::default()),
                        Does::Fail => reply::Body::Failure(Failure {
                            stage: "start".into(),
                            message: "the runtime was killed".into(),
                            ..Failure::default()
                        }),
                        Does::Stall => continue,
                        Does::Leave => return self.leave(),
                    }
                }
            };
            let body = Reply { id, body: Some(body) }.encode_to_vec();
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &body].concat()).await.unwrap();
        }
    }

    fn leave(&self) {
        std::fs::remove_file(self.run_dir.join("shim.sock")).unwrap();
        self.left.send_replace(true);
        let mut process = self.process.lock().unwrap();
        drop(process.stdin.take());
        process.wait().unwrap();
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let mut process = self.process.lock().unwrap();
        drop(process.stdin.take());
        process.wait().ok();
    }
}

async fn receive(stream: &mut UnixStream) -> Option<Request> {
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.ok()?;
    Request::decode(body.as_slice()).ok()
}

/// A process that ends by itself when its input does.
fn waiting(arguments: &[&str]) -> Child {
    std::process::Command::new("sh")
        .args(["-c", "read _"])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A container whose shim has prepared it.
struct Prepared {
    dir: tempfile::TempDir,
    containers: Containers,
    id: ContainerId,
    shim: Arc<Shim>,
}

impl Prepared {
    async fn new(process: Option<ProcessIdentity>, does: (Does, Does)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Writes down what it is called with, and does nothing.
        let runtime = dir.path().join("rt");
        let script = format!("#!/bin/sh\necho \"$@\" >>{}/calls\n", dir.path().display());
        std::fs::write(&runtime, script).unwrap();
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700)).unwrap();
        let store = croze_store::Store::open(&dir.path().join("root")).unwrap();
        let settings = Settings {
            state_dir: dir.path().join("root/containers"),
            run_dir: dir.path().join("run"),
            runtimes: crate::runtimes::Runtimes::single(runtime),
            runtime_root: dir.path().join("state"),
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
        let shim = Shim::begin(&containers.run_dir(&id), &id, process, does);
        Self {
            dir,
            containers,
            id,
            shim,
        }
    }

    async fn start(&self) -> Result<()> {
        self.containers.start(&self.id, Path::new("/nowhere")).await
    }

    async fn fail_to_start(&self) {
        let error = self.start().await.unwrap_err();
        assert!(error.to_string().contains("the runtime was killed"), "{error}");
    }

    fn state(&self) -> State {
        self.containers.get(&self.id).unwrap().state
    }

    /// The calls of the runtime.
    fn calls(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_leaves_while_its_start_is_given_up_has_ended() {
    let prepared = Prepared::new(None, (Does::Fail, Does::Leave)).await;
    prepared.fail_to_start().await;
    assert!(
        matches!(prepared.state(), State::Exited { .. }),
        "{:?}",
        prepared.state()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_shim_had_prepared_is_killed_though_no_note_tells_of_it() {
    let mut command = waiting(&[]);
    let process = observe::process_of(command.id());
    let prepared = Prepared::new(Some(process), (Does::Fail, Does::Leave)).await;
    prepared.fail_to_start().await;
    let ended = command.try_wait().unwrap();
    assert_eq!(ended.and_then(|status| status.signal()), Some(9), "{ended:?}");
    // What else is in its cgroup is the runtime's to kill, which alone knows it.
    let delete = format!("delete --force {}\n", prepared.id);
    assert!(prepared.calls().contains(&delete), "{}", prepared.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_signalled_though_its_shim_is_killed_meanwhile() {
    let mut command = waiting(&[]);
    let process = observe::process_of(command.id());
    let prepared = Prepared::new(Some(process), (Does::Obey, Does::Leave)).await;
    prepared.start().await.unwrap();
    prepared.containers.kill(&prepared.id, "TERM").await.unwrap();
    assert_eq!(command.wait().unwrap().signal(), Some(15));
    // Nobody saw its status.
    assert_eq!(prepared.containers.wait(&prepared.id).await.unwrap().code, 255);
    let error = prepared.containers.kill(&prepared.id, "TERM").await.unwrap_err();
    assert!(matches!(error, ContainersError::WrongState { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_shim_that_says_nothing_is_waited_for_once() {
    let prepared = Prepared::new(None, (Does::Obey, Does::Stall)).await;
    let since = Instant::now();
    let error = prepared.containers.remove(&prepared.id).await.unwrap_err();
    assert!(matches!(error, ContainersError::ShimSilent { .. }), "{error}");
    assert_eq!(since.elapsed().as_secs(), 10);
    assert!(
        prepared.containers.get(&prepared.id).is_ok(),
        "nothing is removed"
    );

    let mut command = waiting(&[]);
    let process = observe::process_of(command.id());
    let prepared = Prepared::new(Some(process), (Does::Obey, Does::Stall)).await;
    prepared.start().await.unwrap();
    let since = Instant::now();
    // It might get the signal twice.
    let error = prepared.containers.kill(&prepared.id, "USR1").await.unwrap_err();
    assert!(matches!(error, ContainersError::ShimSilent { .. }), "{error}");
    assert_eq!(since.elapsed().as_secs(), 10);
    prepared.containers.kill(&prepared.id, "KILL").await.unwrap();
    assert_eq!(since.elapsed().as_secs(), 20);
    assert_eq!(command.wait().unwrap().signal(), Some(9));
}

#[tokio::test(start_paused = true)]
async fn a_stop_kills_past_a_shim_that_says_nothing() {
    let mut command = waiting(&[]);
    let process = observe::process_of(command.id());
    let prepared = Prepared::new(Some(process), (Does::Obey, Does::Stall)).await;
    prepared.start().await.unwrap();
    let grace = Some(Duration::from_secs(3));
    let error = prepared
        .containers
        .stop(&prepared.id, None, grace)
        .await
        .unwrap_err();
    assert_eq!(command.wait().unwrap().signal(), Some(9));
    // Only the shim can tell that it has ended.
    assert!(matches!(error, ContainersError::StillRunning { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_ended_is_seen_and_its_end_is_told_once() {
    let mut command = waiting(&[]);
    let process = observe::process_of(command.id());
    // Neither its start nor its end succeeds.
    let prepared = Prepared::new(Some(process), (Does::Fail, Does::Fail)).await;
    let mut events = prepared.containers.events();
    prepared.fail_to_start().await;
    assert!(prepared.state().is_running(), "{:?}", prepared.state());
    prepared.shim.leave();
    drop(command.stdin.take());
    command.wait().unwrap();
    prepared.containers.wait(&prepared.id).await.unwrap();
    prepared.containers.remove(&prepared.id).await.unwrap();
    let mut told = Vec::new();
    while let Ok(event) = events.recv().await {
        let is_last = matches!(event, Event::Removed { .. });
        told.push(event);
        if is_last {
            break;
        }
    }
    let ends = told.iter().filter(|event| matches!(event, Event::Exited { .. }));
    assert_eq!(ends.count(), 1, "{told:?}");
}
