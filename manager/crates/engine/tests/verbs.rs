//! The engine over real stores in a directory of its own, with programs that fail in place of shim and runtime: what the verbs make,
//! refuse and take back. Unpacking and mounting need root; without it each test says so and ends.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers fail and speak as the tests do that call them"
)]

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use croze_engine::{
    AttachRequest, CreateRequest, Engine, Hello, ImagesRequest, ListRequest, RemoveImageRequest,
    RemoveRequest, Runtimes, Settings, StartRequest, State, WaitRequest,
};
use croze_model::{Error, ErrorKind};
use croze_snapshots::Snapshots;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::runtime::Runtime;

const IMAGE: &str = "croze/hello";
const PROGRAM: &[u8] = b"not a program";

/// One life of a daemon. Its tasks end with its runtime, and with them the root's lock.
struct Life {
    engine: Engine,
    runtime: Runtime,
}

/// `None` without root.
fn life(dir: &Path) -> Option<Life> {
    life_with(dir, Path::new("/bin/false"), Path::new("/bin/false"))
}

fn life_with(dir: &Path, runtime: &Path, shim: &Path) -> Option<Life> {
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !is_root {
        eprintln!("skipped: needs root");
        return None;
    }
    let settings = Settings {
        root: dir.join("lib"),
        run_root: dir.join("run"),
        runtimes: Runtimes::single(runtime.to_owned()),
        shim: shim.to_owned(),
        init: None,
        network: croze_engine::NetworkSettings::default(),
        snapshotter: None,
        storage_limit: croze_engine::Limit::default(),
        hello: Some(Hello {
            program: PROGRAM,
            created: None,
        }),
        registries: croze_engine::Hosts::default(),
    };
    let engine = Engine::open(settings).unwrap();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(engine.recover()).unwrap();
    Some(Life { engine, runtime })
}

fn request(name: &str) -> CreateRequest {
    CreateRequest {
        image: IMAGE.to_owned(),
        name: Some(name.parse().unwrap()),
        ..CreateRequest::default()
    }
}

/// Names of what is in a directory; one that is not there is empty.
fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Waits for changes of a directory.
struct Settled {
    changes: Inotify,
}

impl Settled {
    fn watch(dir: &Path) -> Self {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
        changes.add_watch(dir, flags).unwrap();
        Self { changes }
    }

    /// Looks again after each change, until `holds` or for twenty seconds.
    fn until(&mut self, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap();
            let mut fds = [PollFd::new(self.changes.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, timeout), Ok(1), "it did not come true");
            self.changes.read_events().unwrap();
        }
    }
}

fn snapshots(dir: &Path) -> usize {
    names_in(&dir.join("lib/snapshots/active")).len()
}

fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(Life { engine, runtime }) = life(dir.path()) else {
        return;
    };
    let unknown = CreateRequest {
        image: "nobody/knows".to_owned(),
        ..CreateRequest::default()
    };
    assert_eq!(
        kind(runtime.block_on(engine.create(unknown))),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(snapshots(dir.path()), 0);

    runtime.block_on(engine.create(request("first"))).unwrap();
    assert_eq!(
        kind(runtime.block_on(engine.create(request("first")))),
        Some(ErrorKind::AlreadyExists)
    );
    assert_eq!(
        snapshots(dir.path()),
        1,
        "the second one's snapshot was taken back"
    );
    assert_eq!(engine.list(&ListRequest { all: true }).len(), 1);
}

#[test]
fn made_up_names_differ_and_containers_are_found_by_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let Some(Life { engine, runtime }) = life(dir.path()) else {
        return;
    };
    let nameless = || CreateRequest {
        image: IMAGE.to_owned(),
        ..CreateRequest::default()
    };
    let first = runtime.block_on(engine.create(nameless())).unwrap();
    let second = runtime.block_on(engine.create(nameless())).unwrap();
    assert_ne!(first.name, second.name);
    assert!(first.name.as_str().contains('_'), "{}", first.name);
    for text in [first.name.as_str(), first.id.as_str(), first.id.short()] {
        assert_eq!(
            runtime.block_on(engine.inspect(text)).unwrap().container.id,
            first.id,
            "{text}"
        );
    }
    assert_eq!(
        kind(runtime.block_on(engine.inspect("nothing"))),
        Some(ErrorKind::NotFound)
    );
}

#[test]
fn an_image_stays_while_a_container_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(Life { engine, runtime }) = life(dir.path()) else {
        return;
    };
    runtime.block_on(engine.create(request("user"))).unwrap();
    let remove = || {
        engine.remove_image(RemoveImageRequest {
            image: IMAGE.to_owned(),
            force: false,
        })
    };
    assert_eq!(kind(runtime.block_on(remove())), Some(ErrorKind::Conflict));

    let gone = RemoveRequest {
        container: "user".to_owned(),
        force: false,
    };
    runtime.block_on(engine.remove(gone)).unwrap();
    assert_eq!(snapshots(dir.path()), 0);
    runtime.block_on(remove()).unwrap();
    assert!(
        runtime
            .block_on(engine.list_images(&ImagesRequest::default()))
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        names_in(&dir.path().join("lib/snapshots/layers")),
        [] as [String; 0],
        "its layer went with it"
    );
}

#[test]
fn layers_of_an_image_removed_by_force_go_with_its_last_container() {
    let dir = tempfile::tempdir().unwrap();
    let Some(Life { engine, runtime }) = life(dir.path()) else {
        return;
    };
    runtime.block_on(engine.create(request("user"))).unwrap();
    let forced = RemoveImageRequest {
        image: IMAGE.to_owned(),
        force: true,
    };
    runtime.block_on(engine.remove_image(forced)).unwrap();
    let layers = || names_in(&dir.path().join("lib/snapshots/layers")).len();
    assert_eq!(layers(), 1, "the container still stands on it");

    let gone = RemoveRequest {
        container: "user".to_owned(),
        force: false,
    };
    runtime.block_on(engine.remove(gone)).unwrap();
    assert_eq!(layers(), 0);
}

#[test]
fn what_was_never_started_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let Some(Life { engine, runtime }) = life(dir.path()) else {
        return;
    };
    runtime.block_on(engine.create(request("new"))).unwrap();
    let wait = engine.wait(WaitRequest {
        container: "new".to_owned(),
    });
    let status = runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), wait).await })
        .unwrap()
        .unwrap();
    assert_eq!(status.code, 0);
}

#[test]
fn a_start_that_fails_unmounts_and_a_self_removing_container_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let Some(Life { engine, runtime }) = life(dir.path()) else {
        return;
    };
    let start = |name: &str| {
        engine.start(StartRequest {
            container: name.to_owned(),
        })
    };
    runtime.block_on(engine.create(request("stays"))).unwrap();
    runtime
        .block_on(engine.create(CreateRequest {
            auto_remove: true,
            ..request("goes")
        }))
        .unwrap();
    for name in ["stays", "goes"] {
        assert!(
            runtime.block_on(start(name)).is_err(),
            "a shim that fails starts nothing"
        );
    }
    assert_eq!(
        names_in(&dir.path().join("run/rootfs")),
        [] as [String; 0],
        "nothing stays mounted"
    );
    let left = engine.list(&ListRequest { all: true });
    assert_eq!(
        left.iter()
            .map(|container| container.name.as_str())
            .collect::<Vec<_>>(),
        ["stays"]
    );
    assert_eq!(snapshots(dir.path()), 1);
}

#[test]
fn the_next_daemon_keeps_what_is_recorded_and_sweeps_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let Some(first) = life(dir.path()) else { return };
    first
        .runtime
        .block_on(first.engine.create(request("kept")))
        .unwrap();
    drop(first);

    // What a crash between two steps of create leaves.
    let orphan = "ab".repeat(32);
    Snapshots::open(&dir.path().join("lib"))
        .unwrap()
        .prepare(&orphan, &[])
        .unwrap();
    assert_eq!(snapshots(dir.path()), 2);

    let Some(Life { engine, runtime }) = life(dir.path()) else {
        return;
    };
    assert_eq!(snapshots(dir.path()), 1);
    assert!(!names_in(&dir.path().join("lib/snapshots/active")).contains(&orphan));
    assert_eq!(
        runtime
            .block_on(engine.inspect("kept"))
            .unwrap()
            .container
            .name
            .as_str(),
        "kept"
    );
}

/// A container's record, whatever happened to it, stands for what the container wrote.
#[test]
fn a_record_that_cannot_be_read_keeps_its_file_system() {
    for (words, damage) in [
        ("damaged", "x"),
        ("newer", r#"{"kind":"container","version":999,"record":{}}"#),
        ("empty", ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let Some(first) = life(dir.path()) else { return };
        let id = first
            .runtime
            .block_on(first.engine.create(request("kept")))
            .unwrap()
            .id;
        drop(first);
        let state = dir.path().join("lib/containers").join(id.as_str());
        std::fs::write(state.join("container.json"), damage).unwrap();

        for start in 1..=2 {
            let second = life(dir.path()).unwrap();
            assert_eq!(snapshots(dir.path()), 1, "{words}, start {start}");
            let seen = second.engine.list(&ListRequest { all: true });
            assert!(
                matches!(seen.as_slice(), [dead] if dead.id == id && matches!(dead.state, State::Dead { .. })),
                "{words}, start {start}: {seen:?}"
            );
            drop(second);
        }
        let Life { engine, runtime } = life(dir.path()).unwrap();
        let gone = RemoveRequest {
            container: id.short().to_owned(),
            force: false,
        };
        runtime.block_on(engine.remove(gone)).unwrap();
        assert_eq!(snapshots(dir.path()), 0, "{words}: its user decided");
        assert!(!state.exists());
    }
}

/// Shims that do not answer must not keep everybody from the daemon, and nothing is unmounted under them.
#[test]
fn silent_shims_hold_up_the_start_for_some_seconds_at_most() {
    const SHIMS: usize = 3;
    let dir = tempfile::tempdir().unwrap();
    let Some(first) = life(dir.path()) else { return };
    let create = |_| {
        first.runtime.block_on(first.engine.create(CreateRequest {
            image: IMAGE.to_owned(),
            ..CreateRequest::default()
        }))
    };
    let ids: Vec<_> = (0..SHIMS).map(|n| create(n).unwrap().id).collect();
    drop(first);
    let silent = |id: &croze_model::ContainerId| {
        let bundle = dir.path().join("run/containers").join(id.as_str());
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::create_dir(dir.path().join("run/rootfs").join(id.as_str())).unwrap();
        std::os::unix::net::UnixListener::bind(bundle.join("shim.sock")).unwrap()
    };
    let _listeners: Vec<_> = ids.iter().map(silent).collect();

    let begin = Instant::now();
    let second = life(dir.path()).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    assert_eq!(second.engine.list(&ListRequest { all: true }).len(), SHIMS);
    assert_eq!(names_in(&dir.path().join("run/rootfs")).len(), SHIMS);
    second.runtime.shutdown_background();
}

/// Needs `CROZE_TEST_SHIM` and `CROZE_TEST_RUNTIME`.
#[test]
#[ignore = "needs a built shim and a runtime"]
fn a_container_prepared_for_a_client_that_goes_away_is_taken_back() {
    let program = |variable: &str| PathBuf::from(std::env::var_os(variable).unwrap());
    let (oci, shim) = (program("CROZE_TEST_RUNTIME"), program("CROZE_TEST_SHIM"));
    let dir = tempfile::tempdir().unwrap();
    let Some(first) = life_with(dir.path(), &oci, &shim) else {
        return;
    };
    let mounted = || names_in(&dir.path().join("run/rootfs")).len();
    let attach = |life: &Life, name: &str| {
        let request = AttachRequest {
            container: name.to_owned(),
            stdin: false,
            before_start: true,
            size: None,
        };
        life.runtime.block_on(life.engine.attach(request)).unwrap().2
    };
    let mut settled = Settled::watch(&dir.path().join("run/rootfs"));
    let stays = request("stays");
    let goes = CreateRequest {
        auto_remove: true,
        ..request("goes")
    };
    for wanted in [stays, goes] {
        first.runtime.block_on(first.engine.create(wanted)).unwrap();
    }
    for name in ["stays", "goes"] {
        let (one, two) = (attach(&first, name), attach(&first, name));
        assert_eq!(mounted(), 1, "{name}");
        first.runtime.block_on(async { drop(one) });
        assert_eq!(mounted(), 1, "{name}: another client is still there");
        first.runtime.block_on(async { drop(two) });
        settled.until(|| mounted() == 0);
    }
    // Taking one back goes on after its root file system is unmounted; whoever removes it waits for that.
    let gone = RemoveRequest {
        container: "goes".to_owned(),
        force: true,
    };
    let removed = first.runtime.block_on(first.engine.remove(gone));
    assert_eq!(kind(removed), Some(ErrorKind::NotFound), "it removed itself");
    let state = |life: &Life| life.engine.list(&ListRequest { all: true })[0].state.clone();
    assert_eq!(state(&first), State::Created, "as if nobody had come");

    // The daemon ends while a client waits.
    let stream = attach(&first, "stays");
    drop(first);
    drop(stream);
    assert_eq!(mounted(), 1);
    let second = life_with(dir.path(), &oci, &shim).unwrap();
    settled.until(|| mounted() == 0);
    assert_eq!(state(&second), State::Created);
}

#[test]
fn root_and_run_root_belong_to_one_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let Some(first) = life(dir.path()) else { return };
    let bundle = dir.path().join("run/containers").join("ab".repeat(32));
    std::fs::create_dir(&bundle).unwrap();
    for (root, run_root) in [("lib", "run"), ("lib", "other"), ("another", "run")] {
        let settings = Settings {
            root: dir.path().join(root),
            run_root: dir.path().join(run_root),
            runtimes: Runtimes::single(PathBuf::from("/bin/false")),
            shim: PathBuf::from("/bin/false"),
            registries: croze_engine::Hosts::default(),
            init: None,
            network: croze_engine::NetworkSettings::default(),
            snapshotter: None,
            storage_limit: croze_engine::Limit::default(),
            hello: None,
        };
        let error = Engine::open(settings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let holder = format!("held by process {}", std::process::id());
        assert!(error.one_line().contains(&holder), "{}", error.one_line());
        assert!(bundle.exists(), "what the other daemon has is not swept");
    }
    drop(first);
}
