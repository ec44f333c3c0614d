//! `croze-hello fetch URL`: one HTTP request, for an image or a machine that has no other client.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const MOST_BYTES: u64 = 1 << 20;

/// The body at `http://HOST[:PORT][/PATH]`.
///
/// # Errors
/// The URL is none, nobody answers, or the answer is not 200.
pub(crate) fn fetch(url: &str) -> io::Result<Vec<u8>> {
    let invalid = |words: &str| io::Error::new(io::ErrorKind::InvalidInput, words.to_owned());
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| invalid("write http://HOST[:PORT][/PATH]"))?;
    let (authority, path) = rest
        .find('/')
        .map_or((rest, "/"), |at| (&rest[..at], &rest[at..]));
    let with_port = if authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let mut last = invalid("the host has no address");
    for address in with_port.to_socket_addrs()? {
        match ask(address, authority, path) {
            Ok(answer) => return body(&answer),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask(address: SocketAddr, host: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer)?;
    Ok(answer)
}

fn body(answer: &[u8]) -> io::Result<Vec<u8>> {
    let unfit = |words: String| io::Error::new(io::ErrorKind::InvalidData, words);
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .ok_or_else(|| unfit("the answer is no HTTP".to_owned()))?;
    let (head, body) = answer.split_at(end + 4);
    let head = String::from_utf8_lossy(head);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(unfit(format!("the server says {status:?}")));
    }
    Ok(body.to_vec())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    fn from_server(answer: &'static [u8]) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0_u8; 1024];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let result = fetch(&format!("http://127.0.0.1:{port}/a?b"));
        assert!(server.join().unwrap().starts_with("GET /a?b HTTP/1.1\r\n"));
        result
    }

    #[test]
    fn a_body_or_the_reason_why_not() {
        assert_eq!(
            from_server(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody").unwrap(),
            b"body"
        );
        for (answer, words) in [
            (b"HTTP/1.1 404 Not Found\r\n\r\n".as_slice(), "404"),
            (b"SSH-2.0".as_slice(), "no HTTP"),
        ] {
            let error = from_server(answer).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        for url in ["https://x", "x", ""] {
            assert!(fetch(url).is_err(), "{url:?}");
        }
    }
}
