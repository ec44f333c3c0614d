//! The loop: what is waited for, what happens then, and how it all ends.
//!
//! ```text
//!   Creating ──create ok──▶ Created ──start ok──▶ Running ──┐
//!      │                       └───── the first process ends┴▶ Draining ──streams at their end, or 5 s──▶ Deleting ──▶ Leaving ──▶ gone
//!      └─create failed──▶ gone                                      log and exit record synced ─┘   runtime delete ─┘    └─ last replies sent
//! ```

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use croze_proto::shim::{Launch, Output, Phase, Stream, reply};
use nix::poll::PollFlags;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cgroup::{OomCounter, OwnCgroup};
use crate::client::Client;
use crate::error::ShimError;
use crate::log::{Log, StreamKind};
use crate::process::{Process, Wiring};
use crate::runtime::{Call, Verb};
use crate::waiting::Token;
use crate::{exit, note, runtime, time};

/// How long streams are read after their process has ended, when somebody else still holds them.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long other calls of the runtime may take once the container's first process has ended: nothing they could do matters any more.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long the runtime's delete may take.
pub(crate) const DELETE_LIMIT: Duration = Duration::from_secs(20);
/// How long clients may read nothing of the last replies.
pub(crate) const LEAVE_LIMIT: Duration = Duration::from_secs(2);
/// How long the last replies may take in all.
pub(crate) const LEAVE_LIMIT_IN_ALL: Duration = Duration::from_secs(8);
/// Bytes read from a stream at once.
const CHUNK: usize = 32 * 1024;
/// Key of the container's first process.
pub(crate) const INIT: u32 = 0;

/// Where the container stands; see the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Creating,
    Created,
    Running,
    Draining,
    Deleting { since: Instant },
    Leaving { since: Instant },
    Gone { good: bool },
}

/// The whole state of the program.
pub(crate) struct Shim {
    pub(crate) launch: Launch,
    pub(crate) stage: Stage,
    pub(crate) processes: Vec<Process>,
    pub(crate) clients: Vec<Client>,
    pub(crate) calls: Vec<Call>,
    /// Who waits for the end of the start that is in progress: client and request.
    pub(crate) start_waiters: Vec<(u64, u64)>,
    pub(crate) log: Log,
    pub(crate) started_nanos: i64,
    pub(crate) next_process: u32,
    next_client: u64,
    pub(crate) listener: UnixListener,
    pub(crate) signals: SignalFd,
    cgroup: OwnCgroup,
    pub(crate) oom: Option<OomCounter>,
    buffer: Vec<u8>,
}

impl Shim {
    /// Prepares everything and starts the runtime's create.
    pub(crate) fn launch(launch: Launch) -> Result<Self, ShimError> {
        std::env::set_current_dir(&launch.run_dir).map_err(ShimError::file("enter", &launch.run_dir))?;
        // It fails only if this is the leader already, which is as good.
        let _leader_already = nix::unistd::setsid();
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        set_child_subreaper(true).map_err(ShimError::call("prctl(PR_SET_CHILD_SUBREAPER)"))?;
        let signals = block_signals()?;
        let log = Log::open(Path::new(&launch.log_path))?;
        exit::reserve(Path::new(&launch.exit_path))?;
        let _may_not_exist = fs::remove_file("shim.sock");
        let listener = UnixListener::bind("shim.sock").map_err(ShimError::file("bind", "shim.sock"))?;
        restrict(Path::new("shim.sock"))?;
        listener.set_nonblocking(true).map_err(ShimError::call("fcntl"))?;
        let wiring = match (launch.tty, launch.open_stdin) {
            (true, _) => Wiring::Terminal,
            (false, true) => Wiring::PipesWithInput,
            (false, false) => Wiring::Pipes,
        };
        let (init, stdio) = Process::new(INIT, "", wiring, "console")?;
        let mut arguments = vec!["--bundle", ".", "--pid-file", "init.pid"];
        if launch.tty {
            arguments.extend(["--console-socket", "console.sock"]);
        }
        arguments.push(&launch.container_id);
        let call = runtime::call(&launch, Verb::Create, "create", &arguments, stdio)?;
        // From here on the runtime is at work, and the rest is done beside it.
        let cgroup = OwnCgroup::enter(&launch.container_id);
        runtime::protect_from_oom();
        Ok(Self {
            launch,
            stage: Stage::Creating,
            processes: vec![init],
            clients: Vec::new(),
            calls: vec![call],
            start_waiters: Vec::new(),
            log,
            started_nanos: 0,
            next_process: INIT + 1,
            next_client: 1,
            listener,
            signals,
            cgroup,
            oom: None,
            buffer: vec![0; CHUNK],
        })
    }

    /// Runs until the container is over; says whether everything went as it should.
    pub(crate) fn run(&mut self) -> bool {
        loop {
            // One reading of the clock: what the one leaves to a deadline, the other must wait for.
            let now = Instant::now();
            self.advance(now);
            if let Stage::Gone { good } = self.stage {
                self.tidy_up();
                return good;
            }
            for (token, ready) in self.wait(now) {
                self.dispatch(token, ready);
            }
        }
    }

    fn tidy_up(&mut self) {
        for file in ["shim.sock", "shim.json", "console.sock", "init.pid"] {
            let _may_not_exist = fs::remove_file(file);
        }
        self.log.forget_replaced();
        self.cgroup.leave();
        if let Some(oom) = &self.oom {
            oom.remove_empty_parents();
        }
    }

    fn dispatch(&mut self, token: Token, ready: PollFlags) {
        match token {
            Token::Signal => {
                // SIGCHLD is the only one that means something; the others are blocked so that they do not end the shim.
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Token::Listener => self.accept(),
            Token::Client(key) => self.serve(key, ready),
            Token::Output(key, stream) => {
                self.read_output(key, stream);
            }
            Token::Input(key) => {
                if let Some(process) = self.process(key) {
                    process.write_input();
                }
            }
            Token::Console(key) => {
                if let Some(process) = self.process(key)
                    && let Err(error) = process.accept_terminal()
                {
                    note(&error);
                }
            }
        }
    }

    pub(crate) fn process(&mut self, key: u32) -> Option<&mut Process> {
        self.processes.iter_mut().find(|p| p.key == key)
    }

    pub(crate) fn client(&mut self, key: u64) -> Option<&mut Client> {
        self.clients.iter_mut().find(|c| c.key == key)
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                // The kernel's buffer comes on top of a client's ring.
                let _default_size =
                    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::SndBuf, &(1 << 20));
                self.clients.push(Client::new(self.next_client, stream));
                self.next_client += 1;
            }
        }
    }

    fn serve(&mut self, key: u64, ready: PollFlags) {
        let Some(client) = self.client(key) else { return };
        if ready.contains(PollFlags::POLLOUT) {
            client.flush();
        }
        if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            for request in client.read() {
                self.request(key, request);
            }
        }
    }

    /// One chunk of a stream: into the log first, then to the clients. Returns its length; 0: there is nothing now.
    pub(crate) fn read_output(&mut self, key: u32, stream: StreamKind) -> usize {
        let mut buffer = std::mem::take(&mut self.buffer);
        let length = self.process(key).and_then(|p| p.read(stream, &mut buffer));
        if let Some(n) = length {
            self.pass_on(key, stream, &buffer[..n]);
        }
        self.buffer = buffer;
        length.unwrap_or(0)
    }

    fn pass_on(&mut self, key: u32, stream: StreamKind, bytes: &[u8]) {
        if key == INIT {
            self.log.push(stream, bytes, time::now_nanos());
        }
        let position = (key == INIT).then(|| self.log.position());
        let wire = match stream {
            StreamKind::Stdout => Stream::Stdout,
            StreamKind::Stderr => Stream::Stderr,
        };
        for client in &mut self.clients {
            let Some(role) = client.role.filter(|role| role.process == key) else {
                continue;
            };
            if key == INIT && (client.gap || client.is_full()) {
                client.gap = true;
                continue;
            }
            let output = Output {
                stream: wire.into(),
                data: bytes.to_vec(),
                position,
            };
            client.send(role.request, reply::Body::Output(output));
            client.flush();
        }
    }

    pub(crate) fn reply(&mut self, client: u64, request: u64, body: reply::Body) {
        if let Some(client) = self.client(client) {
            client.send(request, body);
            client.flush();
        }
    }

    /// The stage as it goes over the wire.
    pub(crate) fn phase(&self) -> Phase {
        match self.stage {
            Stage::Creating => Phase::Creating,
            Stage::Created => Phase::Created,
            Stage::Running => Phase::Running,
            Stage::Draining | Stage::Deleting { .. } | Stage::Leaving { .. } | Stage::Gone { .. } => {
                Phase::Exited
            }
        }
    }
}

/// Blocks SIGCHLD, which is read from the descriptor, and what would end the shim from outside; the container's life must not
/// depend on a stray signal. Children start with an empty mask (std resets it).
fn block_signals() -> Result<SignalFd, ShimError> {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        mask.add(signal);
    }
    mask.thread_block().map_err(ShimError::call("sigprocmask"))?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(ShimError::call("signalfd"))
}

fn restrict(socket: &Path) -> Result<(), ShimError> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(ShimError::file("chmod", socket))
}
