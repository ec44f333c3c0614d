//! A server and clients that measure a path through a network: how much, how soon, how many.
//!
//! ```text
//!   client ── one byte: what it wants ──▶ server
//!     f  flood         ◀── zeros, until the client goes
//!     e  echo          ──▶ a byte ◀── the same byte, until the client goes
//!     o  one answer    ◀── one byte, and the end
//! ```
//!
//! Every client is bounded by time or count, and prints one number.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::{Outcome, say};

/// How long a client waits for the next byte.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a client lets itself be flooded.
const LONGEST: Duration = Duration::from_secs(60);
/// The most round trips or connections.
const MOST: usize = 100_000;
/// What is written or read at once.
const CHUNK: usize = 128 << 10;

const FLOOD: u8 = b'f';
const ECHO: u8 = b'e';
const ONE_ANSWER: u8 = b'o';

/// Serves the clients below on a TCP port, for ever.
pub(crate) fn serve(port: &str) -> Outcome {
    let port: u16 = port
        .parse()
        .map_err(|error| format!("serve-traffic: {port:?}: {error}"))?;
    let listener = TcpListener::bind(("0.0.0.0", port))
        .map_err(|error| format!("serve-traffic: port {port}: {error}"))?;
    say("ready")?;
    for stream in listener.incoming().flatten() {
        // A client that goes is the ordinary end; it knows itself what it has missed.
        std::thread::spawn(move || drop(answer(stream)));
    }
    Ok(0)
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match byte[0] {
        FLOOD => {
            let zeros = vec![0; CHUNK];
            loop {
                stream.write_all(&zeros)?;
            }
        }
        ECHO => loop {
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
        },
        ONE_ANSWER => stream.write_all(&byte),
        _ => Ok(()),
    }
}

/// Lets itself be flooded over one connection; prints bytes per second.
pub(crate) fn throughput(address: &str, milliseconds: &str) -> Outcome {
    let wanted = number("throughput", milliseconds)?;
    let time = Duration::from_millis(wanted as u64);
    if time.is_zero() || time > LONGEST {
        return Err(format!("throughput: between 1 ms and {LONGEST:?}, not {time:?}"));
    }
    let measured = || -> std::io::Result<f64> {
        let mut stream = open(address, FLOOD)?;
        let mut buffer = vec![0; CHUNK];
        // The clock starts when the first bytes are there: the connection is another figure.
        read_some(&mut stream, &mut buffer)?;
        let (begin, mut bytes) = (Instant::now(), 0);
        while begin.elapsed() < time {
            bytes += read_some(&mut stream, &mut buffer)?;
        }
        Ok(bytes as f64 / begin.elapsed().as_secs_f64())
    };
    print("throughput", address, measured())
}

/// Round trips of one byte over one open connection; prints the median in nanoseconds.
pub(crate) fn round_trips(address: &str, count: &str) -> Outcome {
    let count = bounded("round-trips", count)?;
    let measured = || -> std::io::Result<f64> {
        let mut stream = open(address, ECHO)?;
        let mut byte = [0];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        Ok(times[count / 2].as_nanos() as f64)
    };
    print("round-trips", address, measured())
}

/// Connections one after the other, each with one question and one answer, and closed; prints how many in a second.
pub(crate) fn connections(address: &str, count: &str) -> Outcome {
    let count = bounded("connections", count)?;
    let measured = || -> std::io::Result<f64> {
        let begin = Instant::now();
        for _ in 0..count {
            let mut answer = Vec::new();
            open(address, ONE_ANSWER)?.read_to_end(&mut answer)?;
            if answer != [ONE_ANSWER] {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    };
    print("connections", address, measured())
}

fn open(address: &str, wish: u8) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address
        .parse()
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[wish])?;
    Ok(stream)
}

/// At least one byte: a flood does not end by itself.
fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => Ok(length),
    }
}

fn number(verb: &str, text: &str) -> Result<usize, String> {
    text.parse().map_err(|error| format!("{verb}: {text:?}: {error}"))
}

fn bounded(verb: &str, text: &str) -> Result<usize, String> {
    match number(verb, text)? {
        count @ 1..=MOST => Ok(count),
        count => Err(format!("{verb}: between 1 and {MOST}, not {count}")),
    }
}

fn print(verb: &str, address: &str, measured: std::io::Result<f64>) -> Outcome {
    let figure = measured.map_err(|error| format!("{verb}: {address}: {error}"))?;
    say(&format!("{figure:.0}"))?;
    Ok(0)
}
