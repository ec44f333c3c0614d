//! Blobs, piece by piece. A connection that breaks is made again where it broke.

use std::time::{Duration, Instant};

use bytes::Bytes;
use croze_model::{Digest, Reference, Result};
use http::{StatusCode, header};
use reqwest::Response;

use crate::client::{Ask, Registry};
use crate::endpoint::Endpoint;
use crate::error::RegistryError;

/// How often a connection may break before [`PROGRESS`] more bytes came.
const MAX_BREAKS: u32 = 5;
/// How many bytes make up for earlier breaks: a server that breaks after each byte gets no further chances by that byte.
const PROGRESS: u64 = 64 * 1024;
/// How long a registry may take for [`PROGRESS`] bytes; a slower one counts as broken. Only waiting for the registry counts, not the time
/// that the taker of the bytes needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a download that has all its bytes waits for whether more come.
const AFTER_THE_END: Duration = Duration::from_secs(1);

/// A blob that is being fetched. Its digest is not checked here: who stores the bytes hashes them.
#[derive(Debug)]
pub struct BlobStream {
    registry: Registry,
    endpoint: Endpoint,
    digest: Digest,
    size: u64,
    /// Bytes handed out.
    offset: u64,
    /// Bytes of the present answer that were handed out before: a server without ranges begins again.
    skip: u64,
    response: Option<Response>,
    breaks: u32,
    /// Bytes since the last time that [`PROGRESS`] of them had come, and how long they took.
    recent: u64,
    waited: Duration,
    patience: Duration,
}

impl Registry {
    /// Begins to fetch the blob `digest` of `size` bytes from the reference's repository.
    ///
    /// # Errors
    /// `Unavailable`, `Unauthenticated`; `Corrupt` if the registry does not have it, or has another size.
    pub async fn blob(&self, reference: &Reference, digest: &Digest, size: u64) -> Result<BlobStream> {
        let mut stream = BlobStream {
            registry: self.clone(),
            endpoint: Endpoint::of(reference, self.hosts()),
            digest: *digest,
            size,
            offset: 0,
            skip: 0,
            response: None,
            breaks: 0,
            recent: 0,
            waited: Duration::ZERO,
            patience: PATIENCE,
        };
        stream.open().await?;
        Ok(stream)
    }

    /// A whole small blob, with its digest checked.
    ///
    /// # Errors
    /// As [`Registry::blob`]; `Corrupt` if it is larger than `limit` or not what its digest says.
    pub async fn small_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        limit: u64,
    ) -> Result<Vec<u8>> {
        let what = format!("blob {digest} of {}", reference.familiar());
        if size > limit {
            return Err(RegistryError::TooLarge { what, limit }.into());
        }
        let mut stream = self.blob(reference, digest, size).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await? {
            bytes.extend_from_slice(&piece);
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(RegistryError::WrongDigest {
                what,
                expected: *digest,
                found,
                by: "its descriptor",
            }
            .into());
        }
        Ok(bytes)
    }
}

impl BlobStream {
    /// The next piece; `None` when all bytes have come.
    ///
    /// # Errors
    /// `Unavailable` if the connection broke too often, `Corrupt` if more bytes come than there should be.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.offset == self.size {
                return self.end().await;
            }
            let Some(response) = &mut self.response else {
                self.open().await?;
                continue;
            };
            let asked = Instant::now();
            let answer = response.chunk().await;
            self.waited += asked.elapsed();
            match answer {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.take(piece)? {
                        return Ok(Some(piece));
                    }
                    if self.waited > self.patience {
                        self.broken(None).await?;
                    }
                }
                Ok(None) => self.broken(None).await?,
                Err(source) => self.broken(Some(source.without_url())).await?,
            }
        }
    }

    /// All bytes have come. How the connection ends does not matter any more, unless there are more.
    async fn end(&mut self) -> Result<Option<Bytes>> {
        let Some(mut response) = self.response.take() else {
            return Ok(None);
        };
        match tokio::time::timeout(AFTER_THE_END, response.chunk()).await {
            Ok(Ok(Some(more))) if more.len() as u64 > self.skip => Err(self
                .wrong_size(self.offset + more.len() as u64 - self.skip)
                .into()),
            _ => Ok(None),
        }
    }

    /// What of a piece is new.
    fn take(&mut self, mut piece: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        drop(piece.split_to(known));
        self.skip -= known as u64;
        if piece.is_empty() {
            return Ok(None);
        }
        let end = self.offset + piece.len() as u64;
        if end > self.size {
            return Err(self.wrong_size(end));
        }
        self.offset = end;
        self.recent += piece.len() as u64;
        if self.recent >= PROGRESS {
            (self.recent, self.waited, self.breaks) = (0, Duration::ZERO, 0);
        } else if self.waited > self.patience {
            // These bytes are good; the connection is given up.
            self.breaks += 1;
            self.waited = Duration::ZERO;
            self.response = None;
            if self.breaks > MAX_BREAKS {
                return Err(self.gave_up(None));
            }
        }
        Ok(Some(piece))
    }

    async fn broken(&mut self, source: Option<reqwest::Error>) -> Result<(), RegistryError> {
        self.response = None;
        self.breaks += 1;
        self.waited = Duration::ZERO;
        if self.breaks > MAX_BREAKS {
            return Err(self.gave_up(source));
        }
        tracing::debug!(digest = %self.digest, at = self.offset, of = self.size, "a download broke and goes on");
        tokio::time::sleep(self.registry.pause(self.breaks)).await;
        Ok(())
    }

    fn gave_up(&self, source: Option<reqwest::Error>) -> RegistryError {
        RegistryError::Broken {
            registry: self.endpoint.registry.clone(),
            digest: self.digest,
            received: self.offset,
            size: self.size,
            source,
        }
    }

    async fn open(&mut self) -> Result<(), RegistryError> {
        let address = self.endpoint.blob_url(&self.digest);
        let ask = Ask {
            accept: None,
            from: self.offset,
        };
        let response = self.registry.get(&self.endpoint, &address, &ask).await?;
        self.skip = match response.status() {
            StatusCode::NOT_FOUND => {
                return Err(RegistryError::UnknownBlob {
                    registry: self.endpoint.registry.clone(),
                    repository: self.endpoint.repository.clone(),
                    digest: self.digest,
                });
            }
            // There are fewer bytes than came already, or none after them.
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.wrong_size(self.offset)),
            StatusCode::PARTIAL_CONTENT if first_byte(&response) == Some(self.offset) => 0,
            StatusCode::PARTIAL_CONTENT => return Err(self.wrong_size(self.offset)),
            _ => self.offset,
        };
        // A length that is wrong from the beginning does not become right by asking again.
        let announced = response
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let expected = self.size - (self.offset - self.skip);
        if let Some(announced) = announced.filter(|&announced| announced != expected) {
            return Err(self.wrong_size(self.offset - self.skip + announced));
        }
        self.response = Some(response);
        Ok(())
    }

    fn wrong_size(&self, found: u64) -> RegistryError {
        RegistryError::WrongSize {
            what: format!("blob {}", self.digest),
            registry: self.endpoint.registry.clone(),
            expected: self.size,
            found,
        }
    }
}

/// Where a partial answer begins: `Content-Range: bytes 5-9/10`.
fn first_byte(response: &Response) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
#[path = "faulty_tests.rs"]
mod tests;
