//! The port proxy of a container: a small process that holds its published ports' sockets, and outlives crozed.
//!
//! ```text
//!   crozed ── croze-shim port-proxy <container> tcp:172.30.0.2:80 udp:… ──▶ proxy       stdin: a socket pair that keeps message borders
//!          ── message: pidfd of the container's first process ──▶
//!          ── messages: the bound sockets, in the order of the arguments, 8 at once ──▶
//!          ◀── message: ready ──
//! ```
//!
//! It ends when the container's first process does, or on SIGTERM. One process for each container that publishes ports, whatever their number.

use std::fs::OpenOptions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use croze_sys::{pidfd, process, socket};
use rustix::net::sockopt::{self, Timeout};

use crate::error::NetworkError;
use crate::ports::Bound;
use crate::records::{Endpoint, ProcessMark};

type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// The word by which the shim's program becomes a port proxy.
pub(crate) const VERB: &str = "port-proxy";

/// How long it may take to say that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to end in order.
const END_LIMIT: Duration = Duration::from_secs(2);
/// So many descriptors go with one message.
const FDS_PER_MESSAGE: usize = 8;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// A descriptor of this very process; `None` if it has ended.
pub(crate) fn open_process(mark: ProcessMark) -> Option<OwnedFd> {
    let pid = i32::try_from(mark.pid).ok()?;
    let fd = pidfd::open(pid).ok()?;
    let stat = process::stat(pid).ok()?;
    (stat.start_time == mark.start_ticks && !stat.has_ended()).then_some(fd)
}

/// Starts the proxy, and returns when it serves.
pub(crate) fn start(
    program: &Path,
    log: &Path,
    endpoint: &Endpoint,
    sockets: &[Bound],
    container: ProcessMark,
) -> Result<(Child, ProcessMark)> {
    let failed = |reason: String| NetworkError::Proxy { reason };
    let watched =
        open_process(container).ok_or_else(|| failed("the container's process has ended".into()))?;
    let (ours, theirs) = socket::message_pair().map_err(|e| failed(e.to_string()))?;
    sockopt::set_socket_timeout(&ours, Timeout::Recv, Some(READY_LIMIT))
        .map_err(|e| failed(e.to_string()))?;
    let stderr = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(NetworkError::file("open", log))?;
    let child = Command::new(program)
        .arg(VERB)
        .arg(&endpoint.name)
        .args(sockets.iter().map(|bound| target(endpoint, bound)))
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(NetworkError::file("execute", program))?;
    let mut guard = Guard(Some(child));
    let send = |fds: &[&OwnedFd]| {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        socket::send_fds(&ours, &[1], &fds).map_err(|e| failed(e.to_string()))
    };
    send(&[&watched])?;
    for some in sockets.chunks(FDS_PER_MESSAGE) {
        send(&some.iter().map(|bound| &bound.socket).collect::<Vec<_>>())?;
    }
    let mut answer = [0; 1];
    match socket::receive(&ours, &mut answer) {
        Ok(1..) => {}
        Ok(0) => return Err(failed(format!("it ended; {} may say why", log.display()))),
        Err(error) => return Err(failed(error.to_string())),
    }
    let child = guard.0.take().ok_or(NetworkError::Interrupted)?;
    let pid = child.id();
    let stat = process::stat(pid.cast_signed()).map_err(|e| failed(e.to_string()))?;
    let mark = ProcessMark {
        pid,
        start_ticks: stat.start_time,
    };
    Ok((child, mark))
}

/// Kills and reaps a child unless it is taken out.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Where connections to a socket go: to the container's address of the same family, where it has one.
fn target(endpoint: &Endpoint, bound: &Bound) -> String {
    let address: IpAddr = match endpoint.ipv6 {
        Some(ipv6) if bound.port.host_ip.is_ipv6() => ipv6.address,
        _ => endpoint.ipv4.address,
    };
    format!(
        "{}:{}",
        bound.port.protocol,
        SocketAddr::new(address, bound.port.container_port)
    )
}

/// Ends the proxy, and returns when its ports are free.
pub(crate) fn stop(mark: ProcessMark, child: Option<Child>) -> Result<()> {
    if let Some(fd) = open_process(mark) {
        for signal in [SIGTERM, SIGKILL] {
            let _ended_already = pidfd::send_signal(&fd, signal);
            if pidfd::wait_ended(&fd, Some(END_LIMIT)).unwrap_or(true) {
                break;
            }
        }
    }
    let reaped = child.map(|mut child| child.wait());
    remove_cgroup(mark.pid);
    match reaped {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(NetworkError::Proxy {
            reason: format!("it cannot be waited for: {error}"),
        }),
        _ => Ok(()),
    }
}

/// Removes the cgroup of a proxy that has ended. It does so itself when it can; one that was killed could not. The directories are empty, so this
/// cannot take anything from anybody.
pub(crate) fn remove_cgroup(pid: u32) {
    let mountinfo = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    for line in mountinfo.lines().filter(|line| line.contains(" - cgroup")) {
        let Some(mount) = line.split(' ').nth(4).map(Path::new) else {
            continue;
        };
        let shims = mount.join("croze-shim");
        if std::fs::remove_dir(shims.join(format!("ports-{pid}"))).is_ok() {
            let _others_are_there = std::fs::remove_dir(shims);
        }
    }
}
