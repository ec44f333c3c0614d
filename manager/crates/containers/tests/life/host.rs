//! What every life needs: a root of its own, a root file system, and short ways to run and to look.

use std::cell::RefCell;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use croze_containers::{
    Containers, CreateRequest, ExitStatus, ImageFacts, LogOptions, Output, ProcessStream, Settings,
};
use croze_model::ContainerId;
use croze_store::Store;
use futures_util::StreamExt as _;
use tempfile::TempDir;

thread_local! {
    /// The directories of this thread's test. They outlive its runtime: tasks that end with it close the index, and write.
    static KEPT: RefCell<Vec<Arc<TempDir>>> = const { RefCell::new(Vec::new()) };
}

/// Runs a test's work to its end; its directories go when nothing runs any more.
pub(crate) fn life(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work);
    drop(runtime);
    KEPT.take();
}

pub(crate) struct Host {
    // In this order they are dropped: nothing is written into the directory after it is gone.
    pub(crate) containers: Containers,
    pub(crate) store: Store,
    pub(crate) dir: Arc<TempDir>,
}

fn program(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} must name a program"));
    PathBuf::from(path)
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = Arc::new(tempfile::Builder::new().prefix("croze-life-").tempdir().unwrap());
        KEPT.with_borrow_mut(|kept| kept.push(dir.clone()));
        let rootfs = dir.path().join("rootfs");
        for sub in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            std::fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "seq", "cat", "sleep", "id", "env", "tail", "yes", "head", "stty", "ls", "hostname", "pwd",
        ] {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:7:7::/home/app:/bin/sh\n",
        )
        .unwrap();
        let (store, containers) = Self::open(dir.path());
        Self {
            dir,
            store,
            containers,
        }
    }

    pub(crate) fn open(dir: &Path) -> (Store, Containers) {
        let store = Store::open(&dir.join("root")).unwrap();
        let settings = Settings {
            state_dir: dir.join("root/containers"),
            run_dir: dir.join("run/containers"),
            runtimes: croze_containers::Runtimes::single(program("CROZE_TEST_RUNTIME")),
            runtime_root: dir.join("run/rt"),
            shim: program("CROZE_TEST_SHIM"),
            init: None,
        };
        let containers = Containers::open(&store, settings).unwrap();
        (store, containers)
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub(crate) async fn create(&self, request: CreateRequest) -> ContainerId {
        let id = self.containers.new_id().unwrap();
        self.containers
            .create(id, request, ImageFacts::default())
            .await
            .unwrap()
            .id
    }

    pub(crate) async fn start(&self, id: &ContainerId) {
        self.containers.start(id, &self.rootfs()).await.unwrap();
    }

    /// Runs to the end and returns how it ended and what it logged.
    pub(crate) async fn run(&self, request: CreateRequest) -> (ExitStatus, String) {
        let id = self.create(request).await;
        self.start(&id).await;
        let status = within(self.containers.wait(&id)).await.unwrap();
        let log = self.log(&id).await;
        self.containers.remove(&id).await.unwrap();
        (status, log)
    }

    pub(crate) async fn log(&self, id: &ContainerId) -> String {
        let mut stream = self.containers.logs(id, LogOptions::default()).await.unwrap();
        let mut text = Vec::new();
        while let Some(entry) = stream.next().await {
            text.extend_from_slice(&entry.unwrap().data);
        }
        String::from_utf8(text).unwrap()
    }
}

pub(crate) fn shell(script: &str) -> CreateRequest {
    CreateRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..CreateRequest::default()
    }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .expect("it takes too long")
}

/// Everything of a stream up to its end.
pub(crate) async fn collect(stream: ProcessStream) -> (String, String, Option<ExitStatus>) {
    let (mut stdout, mut stderr, mut exit) = (Vec::new(), Vec::new(), None);
    let mut output = stream.output;
    while let Some(item) = within(output.next()).await {
        match item.unwrap() {
            Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            Output::Exit(status) => exit = Some(status),
            Output::Notice(words) => panic!("{words}"),
        }
    }
    (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
        exit,
    )
}
