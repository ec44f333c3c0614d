//! A host and an outside, each a network namespace of its own.
//!
//! ```text
//!   host: lo, out0 10.99.0.1/24 fd99::1/64 ════ outside: eth0 10.99.0.2/24 fd99::2/64
//! ```

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use croze_model::ContainerId;
use croze_networks::{AttachRequest, BridgeSettings, Endpoint, Networks, Settings};
use nix::sched::{CloneFlags, setns, unshare};

const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for a packet that is not dropped.
const IMPATIENCE: Duration = Duration::from_millis(300);

type Work = Box<dyn FnOnce() + Send>;

/// A thread in a namespace of its own, which does what it is given.
pub(crate) struct Space {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's id, by which `ip` finds the namespace.
    pub(crate) thread_id: i32,
}

impl Space {
    fn enter(how: impl FnOnce() + Send + 'static) -> Self {
        let (work, todo): (Sender<Work>, Receiver<Work>) = channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            how();
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            todo.into_iter().for_each(|work| work());
        });
        Self {
            work: Some(work),
            thread: Some(thread),
            thread_id: told.recv().expect("the namespace was entered"),
        }
    }

    pub(crate) fn new() -> Self {
        Self::enter(|| unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root"))
    }

    /// The pinned namespace of a container.
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let file = std::fs::File::open(&endpoint.namespace).expect("the namespace is pinned");
        Self::enter(move || setns(file, CloneFlags::CLONE_NEWNET).unwrap())
    }

    /// Does something in the namespace and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let work: Work = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            tell.send(result).unwrap();
        });
        self.work.as_ref().unwrap().send(work).unwrap();
        match told.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Answers every TCP connection to the port with the client's address, and every datagram, until the test ends.
    pub(crate) fn serve(&self, port: u16) {
        self.run(move || {
            let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
            let listener = listener.unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let peer = stream.peer_addr().unwrap().ip().to_canonical().to_string();
                    stream.write_all(peer.as_bytes()).ok();
                }
            });
            let socket = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)));
            let socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let text = peer.ip().to_canonical().to_string();
                    socket.send_to(text.as_bytes(), peer).ok();
                }
            });
        });
    }

    /// What the server at this address sees as the client's address, over TCP; `None`: it cannot be reached.
    pub(crate) fn ask(&self, address: &str) -> Option<String> {
        self.ask_for(address, PATIENCE)
    }

    /// Expects that the address cannot be reached.
    pub(crate) fn cannot_ask(&self, address: &str) {
        assert_eq!(self.ask_for(address, IMPATIENCE), None, "{address}");
    }

    fn ask_for(&self, address: &str, limit: Duration) -> Option<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
            stream.set_read_timeout(Some(limit)).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// The same over UDP.
    pub(crate) fn ask_udp(&self, address: &str) -> Option<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || {
            let own = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(own).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"?", address).ok()?;
            let mut buffer = [0; 64];
            let (length, _) = socket.recv_from(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    }

    /// A command line's standard output.
    pub(crate) fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn sh(line: &str) -> String {
    let output = Command::new("sh").arg("-ec").arg(line).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{line}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The two namespaces, and directories for the networks' state.
pub(crate) struct World {
    pub(crate) host: Space,
    pub(crate) outside: Space,
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let (host, outside) = (Space::new(), Space::new());
        host.sh(&format!(
            "ip link set lo up
             ip link add out0 type veth peer name eth0 netns {}
             ip address add 10.99.0.1/24 dev out0
             ip address add fd99::1/64 dev out0 nodad
             ip link set out0 up",
            outside.thread_id
        ));
        outside.sh("ip link set lo up
             ip address add 10.99.0.2/24 dev eth0
             ip address add fd99::2/64 dev eth0 nodad
             ip link set eth0 up");
        Self {
            host,
            outside,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What the daemon opens.
    pub(crate) fn open(&self) -> Networks {
        self.open_with(BridgeSettings::default())
    }

    pub(crate) fn open_with(&self, bridge: BridgeSettings) -> Networks {
        self.open_of("", bridge)
    }

    /// What another daemon opens, which has its directories below `daemon`.
    pub(crate) fn open_of(&self, daemon: &str, bridge: BridgeSettings) -> Networks {
        let dir = self.path().join(daemon);
        let settings = Settings {
            root: dir.join("root"),
            run_root: dir.join("run"),
            shim: "/no/such/program".into(),
            bridge,
        };
        self.host.run(move || Networks::open(settings)).unwrap()
    }

    /// Connects a container whose id is made of this digit.
    pub(crate) fn attach(&self, networks: &Networks, n: u8, publish: &[&str]) -> Endpoint {
        let request = request(n, publish);
        self.try_attach(networks, n, request)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_attach(
        &self,
        networks: &Networks,
        n: u8,
        request: AttachRequest,
    ) -> Result<Endpoint, croze_networks::NetworkError> {
        let networks = networks.clone();
        self.host.run(move || networks.attach(&id(n), &request))
    }

    pub(crate) fn detach(&self, networks: &Networks, n: u8) {
        let networks = networks.clone();
        self.host.run(move || {
            networks.detach(&id(n));
            networks.settle();
        });
    }

    pub(crate) fn recover(&self, networks: &Networks, live: &[u8]) {
        let own = croze_networks::ProcessMark {
            pid: std::process::id(),
            start_ticks: croze_sys::process::stat(std::process::id().cast_signed())
                .unwrap()
                .start_time,
        };
        let live: BTreeMap<_, _> = live.iter().map(|n| (id(*n), Some(own))).collect();
        let networks = networks.clone();
        self.host.run(move || networks.recover(live)).unwrap();
    }

    pub(crate) fn close(&self, networks: &Networks) {
        let networks = networks.clone();
        self.host.run(move || networks.close());
    }

    pub(crate) fn rules(&self) -> String {
        self.host.sh("nft list ruleset")
    }

    /// Everything of the host's network that a daemon might leave behind. Whether a link has come up yet is the kernel's matter.
    pub(crate) fn traces(&self) -> String {
        let sysctls = "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.out0.accept_ra net.ipv6.conf.default.accept_ra";
        let line = format!(
            "ip -o link | cut -d' ' -f2; (ip route; ip -6 route) | sed 's/ linkdown//'; nft list ruleset; {sysctls}"
        );
        self.host.sh(&line)
    }

    /// The file that says that a container is connected.
    pub(crate) fn record(&self, endpoint: &Endpoint) -> PathBuf {
        let name = format!("{}.json", endpoint.container);
        self.path().join("run/network/endpoints").join(name)
    }

    pub(crate) fn pinned(&self) -> usize {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.path().join("run/netns");
        let mounted = mounts
            .lines()
            .filter(|l| l.contains(dir.to_str().unwrap()))
            .count();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), mounted);
        mounted
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A failed test leaves mounts, which would keep the directory.
        let daemons = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        let runs = daemons.map(|entry| entry.path().join("run/netns"));
        let pinned = std::iter::once(self.path().join("run/netns")).chain(runs);
        for entry in pinned.flat_map(std::fs::read_dir).flatten().flatten() {
            rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
}

pub(crate) fn id(n: u8) -> ContainerId {
    ContainerId::from_random([n; 32])
}

pub(crate) fn request(n: u8, publish: &[&str]) -> AttachRequest {
    AttachRequest {
        name: format!("c{n}"),
        publish: publish.iter().map(|p| p.parse().unwrap()).collect(),
        ..AttachRequest::default()
    }
}
