//! A registry that serves exactly the bytes a test wants: the wrong ones.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::Result;

use crate::image::{ImageLayout, digest};
use crate::server::Server;

/// One answer to one path.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The media type.
    pub content_type: String,
    /// What the header promises; `None` for the body's true length.
    pub claimed_length: Option<usize>,
    /// What is sent.
    pub body: Vec<u8>,
}

/// A listening registry; it ends with this value.
#[derive(Debug)]
pub struct Hostile {
    server: Server,
}

impl Hostile {
    /// Serves an image as `/v2/NAME/…` by tag `latest`. `spoil` may change any reply before it is served; the keys are
    /// `manifests/latest`, `manifests/sha256:…` and `blobs/sha256:…`.
    ///
    /// # Errors
    /// No port can be had.
    pub fn serve(
        name: &str,
        image: &ImageLayout,
        spoil: impl FnOnce(&mut HashMap<String, Reply>),
    ) -> Result<Self> {
        let mut replies = HashMap::new();
        let reply = |content_type: &str, body: Vec<u8>| Reply {
            content_type: content_type.to_owned(),
            claimed_length: None,
            body,
        };
        for blob in image.blobs()? {
            replies.insert(
                format!("blobs/{}", digest(&blob)),
                reply("application/octet-stream", blob),
            );
        }
        let manifest = serde_json::to_vec(&image.manifest)?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        replies.insert(
            format!("manifests/{}", digest(&manifest)),
            reply(media_type, manifest.clone()),
        );
        replies.insert("manifests/latest".to_owned(), reply(media_type, manifest));
        spoil(&mut replies);
        let replies: HashMap<String, Reply> = replies
            .into_iter()
            .map(|(path, reply)| (format!("/v2/{name}/{path}"), reply))
            .collect();
        let server = Server::start("hostile", move |client, _| answer(client, &replies))?;
        Ok(Self { server })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.server.address()
    }
}

/// Answers one request and closes.
fn answer(stream: &TcpStream, replies: &HashMap<String, Reply>) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut out = stream;
    match replies.get(path) {
        Some(reply) => {
            let length = reply.claimed_length.unwrap_or(reply.body.len());
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
                reply.content_type
            )?;
            if method != "HEAD" {
                out.write_all(&reply.body)?;
            }
        }
        None if path == "/v2/" => {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            )?;
        }
        None => {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            write!(
                out,
                "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: \
                 close\r\n\r\n{body}",
                body.len()
            )?;
        }
    }
    out.flush()?;
    stream.shutdown(Shutdown::Both)?;
    Ok(())
}
