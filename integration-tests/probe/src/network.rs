//! A server and a client that say who talks to whom.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::{Outcome, say};

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers every TCP connection to the ports with the client's address, and every datagram with address and content, for ever.
pub(crate) fn serve(ports: &[&str]) -> Outcome {
    let mut threads = Vec::new();
    for text in ports {
        let port: u16 = text
            .parse()
            .map_err(|error| format!("serve: {text:?}: {error}"))?;
        let failed = |error: std::io::Error| format!("serve: port {port}: {error}");
        let listener = TcpListener::bind(("::", port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
            .map_err(failed)?;
        let socket = UdpSocket::bind(("::", port))
            .or_else(|_| UdpSocket::bind(("0.0.0.0", port)))
            .map_err(failed)?;
        threads.push(std::thread::spawn(move || streams(&listener)));
        threads.push(std::thread::spawn(move || datagrams(&socket)));
    }
    say("ready")?;
    for thread in threads {
        thread.join().map_err(|_| "serve: a thread panicked".to_owned())?;
    }
    Ok(0)
}

fn streams(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        // Each on a thread of its own: one client that sends nothing holds up nobody.
        std::thread::spawn(move || {
            let Ok(peer) = stream.peer_addr() else { return };
            let mut text = String::new();
            // The client's half ends first: so that both directions are seen to end.
            if stream.read_to_string(&mut text).is_ok() {
                let answer = format!("{} {text}", peer.ip().to_canonical());
                drop(stream.write_all(answer.as_bytes()));
            }
        });
    }
}

fn datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let answer = format!("{} {text}", peer.ip().to_canonical());
        drop(socket.send_to(answer.as_bytes(), peer));
    }
}

/// Sends a word and prints what comes back.
pub(crate) fn ask(protocol: &str, address: &str) -> Outcome {
    let address: SocketAddr = address
        .parse()
        .map_err(|error| format!("ask: {address:?}: {error}"))?;
    let answer = match protocol {
        "tcp" => ask_tcp(address),
        "udp" => ask_udp(address),
        other => return Err(format!("ask: {other:?} is neither tcp nor udp")),
    };
    say(&answer.map_err(|error| format!("ask: {address}: {error}"))?)?;
    Ok(0)
}

fn ask_tcp(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"hello")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    // A proxy whose target refuses accepts and ends.
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

fn ask_udp(address: SocketAddr) -> std::io::Result<String> {
    let own: SocketAddr = if address.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0; 16], 0).into()
    };
    let socket = UdpSocket::bind(own)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"hello")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
