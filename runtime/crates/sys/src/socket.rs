//! Unix sockets between processes that know each other, and descriptors sent over them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::Named;
use crate::{Errno, Error, Result};

/// A connected pair of sockets that keep message borders and tell when the other side is gone, close-on-exec.
///
/// # Errors
/// No descriptors left.
pub fn message_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .named("socketpair")
}

/// Connects to the stream socket at `path`, however long the path is.
///
/// A socket's address holds 107 bytes: a longer path goes through a descriptor of its directory.
///
/// # Errors
/// Nobody listens there (`ECONNREFUSED`), or there is no such socket.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    const LIMIT: usize = 107;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .named("socket")?;
    let held;
    let near;
    let mut target = path;
    if path.as_os_str().len() > LIMIT {
        held = crate::fd::open_path(path)?;
        near = crate::fd::proc_path(held.as_fd())
            .into_string()
            .unwrap_or_default();
        target = Path::new(&near);
    }
    let address = SocketAddrUnix::new(target).named("connect")?;
    retry(|| rustix::net::connect(&socket, &address)).named("connect")?;
    Ok(socket)
}

/// Sends one message.
///
/// # Errors
/// `EPIPE`: the other side is gone.
pub fn send(socket: impl AsFd, message: &[u8]) -> Result<()> {
    let sent = retry(|| rustix::net::send(socket.as_fd(), message, SendFlags::NOSIGNAL)).named("sendto")?;
    if sent == message.len() {
        Ok(())
    } else {
        Err(Error::new("sendto", Errno::MSGSIZE))
    }
}

/// Receives one message into `buffer`; its length, 0 when the other side is gone.
///
/// # Errors
/// `EMSGSIZE`: it did not fit.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    let (_, length) =
        retry(|| rustix::net::recv(socket.as_fd(), &mut *buffer, RecvFlags::TRUNC)).named("recvfrom")?;
    if length > buffer.len() {
        Err(Error::new("recvfrom", Errno::MSGSIZE))
    } else {
        Ok(length)
    }
}

/// Sends one message with descriptors.
///
/// # Errors
/// `EPIPE`: the other side is gone.
pub fn send_fds(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::new("sendmsg", Errno::TOOMANYREFS));
    }
    retry(|| {
        rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(message)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })
    .named("sendmsg")
    .map(drop)
}

/// Receives one message and the descriptors that came with it (at most 8), close-on-exec.
///
/// # Errors
/// None that is to be expected of a connected socket.
pub fn receive_fds(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = retry(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut *buffer)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })
    .named("recvmsg")?;
    let fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((message.bytes, fds))
}

fn retry<T>(mut call: impl FnMut() -> std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    #[test]
    fn messages_keep_their_borders_and_the_end_is_seen() {
        let (here, there) = message_pair().expect("a pair");
        send(&here, b"one").expect("sent");
        send(&here, b"two!").expect("sent");
        drop(here);
        let mut buffer = [0; 16];
        for expected in [&b"one"[..], b"two!", b""] {
            let length = receive(&there, &mut buffer).expect("received");
            assert_eq!(&buffer[..length], expected);
        }
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (here, there) = message_pair().expect("a pair");
        send(&here, b"too long").expect("sent");
        assert_eq!(
            receive(&there, &mut [0; 3]).expect_err("cut").errno,
            Errno::MSGSIZE
        );
    }

    #[test]
    fn a_descriptor_arrives_as_a_descriptor_of_the_same_file() {
        let (here, there) = message_pair().expect("a pair");
        let file = std::fs::File::open("/proc/self/comm").expect("a /proc");
        send_fds(&here, b"x", &[file.as_fd()]).expect("sent");
        let (length, mut fds) = receive_fds(&there, &mut [0; 1]).expect("received");
        assert_eq!((length, fds.len()), (1, 1));
        let mut text = String::new();
        std::fs::File::from(fds.remove(0))
            .read_to_string(&mut text)
            .expect("read");
        assert!(!text.is_empty());
    }

    #[test]
    fn a_socket_with_a_long_path_is_reached() {
        let directory = std::env::temp_dir().join(format!("croze-sys-socket-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("made");
        let short = directory.join("s");
        let listener = UnixListener::bind(&short).expect("bound");
        let long_directory = directory.join("d".repeat(120));
        std::fs::create_dir(&long_directory).expect("made");
        let long = long_directory.join("s");
        std::fs::rename(&short, &long).expect("moved");
        connect(&long).expect("connected");
        listener.accept().expect("somebody came");
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
