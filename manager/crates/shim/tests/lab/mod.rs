//! One container's directory with its shim, and clients of it. Whatever a test comes to, nothing of it stays.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use croze_proto::shim::{self as wire, Launch, Reply, Request, reply, request};
use prost::Message as _;

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// One container's directory with its shim.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pub(crate) shim: Option<Child>,
}

/// A connection, with the number of its last request.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) last: u64,
}

impl Lab {
    pub(crate) fn new(command: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let lab = Self { dir, shim: None };
        lab.file("command", command);
        lab
    }

    /// Of its own, as are the cgroups that are called so.
    fn id(&self) -> String {
        let name = self.dir.path().file_name().unwrap().to_string_lossy();
        format!("lab-{}", name.trim_start_matches('.'))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the bundle.
    pub(crate) fn file(&self, name: &str, text: &str) {
        fs::write(self.path("run").join(name), text).unwrap();
    }

    /// Starts the shim and returns its answer.
    pub(crate) fn launch(&mut self, change: impl FnOnce(&mut Launch)) -> reply::Body {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let mut launch = Launch {
            version: 1,
            container_id: self.id(),
            run_dir: text(self.path("run")),
            runtime: text(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-runtime.sh")),
            runtime_args: Vec::new(),
            runtime_root: text(self.path("rt")),
            log_path: text(self.path("log")),
            exit_path: text(self.path("exit.json")),
            tty: false,
            open_stdin: false,
            stdin_once: false,
            ephemeral: false,
        };
        change(&mut launch);
        let mut shim = Command::new(env!("CARGO_BIN_EXE_croze-shim"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shim.stdin
            .take()
            .unwrap()
            .write_all(&launch.encode_to_vec())
            .unwrap();
        let mut stdout: ChildStdout = shim.stdout.take().unwrap();
        self.shim = Some(shim);
        read_frame(&mut stdout).unwrap().body.unwrap()
    }

    pub(crate) fn launched(command: &str) -> Self {
        let mut lab = Self::new(command);
        let answer = lab.launch(|_| {});
        assert!(matches!(answer, reply::Body::Ready(_)), "{answer:?}");
        lab
    }

    pub(crate) fn client(&self) -> Client {
        let stream = UnixStream::connect(self.path("run/shim.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Client { stream, last: 0 };
        let hello = client.ask(request::Body::Hello(wire::Hello { version: 9 }));
        assert!(
            matches!(hello, reply::Body::Hello(ref h) if h.version == 1),
            "{hello:?}"
        );
        client
    }

    pub(crate) fn log(&self) -> Vec<String> {
        let bytes = fs::read(self.path("log")).unwrap();
        // The shim may be writing: what follows the last line's end is a part of a line.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let text = std::str::from_utf8(&bytes[..whole]).unwrap();
        let line = |l: &str| {
            serde_json::from_str::<serde_json::Value>(l).unwrap()["log"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        text.lines().map(line).collect()
    }

    /// Waits for the shim's own end and returns the exit record.
    pub(crate) fn end(&mut self) -> serde_json::Value {
        assert!(self.shim.take().unwrap().wait().unwrap().success());
        assert!(!self.path("run/shim.sock").exists());
        assert_eq!(fs::read_to_string(self.path("deleted")).unwrap(), "deleted\n");
        serde_json::from_str(&fs::read_to_string(self.path("exit.json")).unwrap()).unwrap()
    }
}

impl Client {
    pub(crate) fn send(&mut self, body: request::Body) -> u64 {
        self.last += 1;
        let body = Request {
            id: self.last,
            body: Some(body),
        }
        .encode_to_vec();
        self.stream
            .write_all(&u32::try_from(body.len()).unwrap().to_be_bytes())
            .unwrap();
        self.stream.write_all(&body).unwrap();
        self.last
    }

    pub(crate) fn ask(&mut self, body: request::Body) -> reply::Body {
        let id = self.send(body);
        loop {
            let reply = read_frame(&mut self.stream).expect("the shim closed the connection");
            if reply.id == id {
                return reply.body.unwrap();
            }
        }
    }

    pub(crate) fn start(&mut self) {
        let answer = self.ask(request::Body::Start(wire::Start {}));
        assert!(matches!(answer, reply::Body::Done(_)), "{answer:?}");
    }

    pub(crate) fn wait(&mut self) -> wire::Exit {
        match self.ask(request::Body::Wait(wire::Wait {
            exec_id: String::new(),
            start: false,
        })) {
            reply::Body::Exit(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that comes until the connection ends: output, and the last other word.
    pub(crate) fn rest(&mut self) -> (String, Option<reply::Body>) {
        let (mut output, mut last) = (Vec::new(), None);
        while let Some(reply) = read_frame(&mut self.stream) {
            match reply.body.unwrap() {
                reply::Body::Output(chunk) => output.extend(chunk.data),
                other => last = Some(other),
            }
        }
        (String::from_utf8(output).unwrap(), last)
    }
}

pub(crate) fn read_frame(stream: &mut impl std::io::Read) -> Option<Reply> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).ok()?;
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    // A client that was given up may have half a frame.
    stream.read_exact(&mut body).ok()?;
    Some(Reply::decode(body.as_slice()).unwrap())
}

impl Drop for Lab {
    /// A test that fails leaves a shim that lives, and everything below it.
    fn drop(&mut self) {
        if let Some(mut shim) = self.shim.take() {
            let pid = i32::try_from(shim.id()).unwrap();
            // Stopped it adds nothing to what is looked for; what has gone by itself needs no signal.
            croze_sys::pidfd::kill(pid, SIGSTOP).ok();
            loop {
                let living = descendants(pid);
                if living.is_empty() {
                    break;
                }
                for pid in living {
                    croze_sys::pidfd::kill(pid, SIGKILL).ok();
                }
            }
            drop(shim.kill());
            drop(shim.wait());
        }
        for mount in cgroup_mounts() {
            // There are none where the shim could make none, or has left by itself.
            drop(fs::remove_dir(mount.join("croze-shim").join(self.id())));
            drop(fs::remove_dir(mount.join("croze-shim")));
        }
    }
}

/// The processes below this one that have not ended.
fn descendants(of: i32) -> Vec<i32> {
    let mut living = Vec::new();
    let mut parents = vec![of];
    let all: Vec<(i32, i32, bool)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // It may have gone meanwhile. The name, in brackets, may hold anything.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let ended = matches!(fields.next()?, "Z" | "X");
            Some((pid, fields.next()?.parse().ok()?, ended))
        })
        .collect();
    while let Some(parent) = parents.pop() {
        for (pid, _, ended) in all.iter().filter(|(_, of, _)| *of == parent) {
            parents.push(*pid);
            if !ended {
                living.push(*pid);
            }
        }
    }
    living
}

fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup"));
    cgroups
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}
