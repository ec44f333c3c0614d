//! Blobs, piece by piece. A connection that breaks is made again where it broke; a source that fails for good is followed by the next, which
//! goes on at the same byte.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use croze_model::{Digest, Reference, Result};
use http::{StatusCode, header};
use reqwest::Response;

use crate::client::{Ask, Registry};
use crate::error::RegistryError;
use crate::sources::{Source, Sources, Tried};

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
    what: String,
    source: Source,
    /// Whom to ask if this one fails.
    others: VecDeque<Source>,
    tried: Tried,
    /// The source of the first bytes; another one may have sent what followed.
    first: Option<String>,
    digest: Digest,
    size: u64,
    /// Bytes handed out.
    offset: u64,
    /// Bytes of the present answer that were handed out before: a server without ranges begins again.
    skip: u64,
    /// The server has shown that it makes nothing of ranges: it is asked for everything.
    no_ranges: bool,
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
        self.blob_except(reference, digest, size, &[]).await
    }

    /// The same without the sources of these names, of which [`BlobStream::suspect`] has told that they served something else.
    ///
    /// # Errors
    /// As [`Registry::blob`].
    pub async fn blob_except(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        suspects: &[String],
    ) -> Result<BlobStream> {
        let Sources { mirrors, own, tried } = self.sources(reference);
        let unsuspected = mirrors
            .into_iter()
            .filter(|mirror| !suspects.contains(&mirror.name));
        let mut others: VecDeque<Source> = unsuspected.collect();
        let source = match others.pop_front() {
            Some(mirror) => {
                others.push_back(own);
                mirror
            }
            None => own,
        };
        let mut stream = BlobStream {
            what: format!("blob {digest} of {}", reference.familiar()),
            source,
            others,
            tried,
            first: None,
            digest: *digest,
            size,
            offset: 0,
            skip: 0,
            no_ranges: false,
            response: None,
            breaks: 0,
            recent: 0,
            waited: Duration::ZERO,
            patience: PATIENCE,
        };
        while let Err(error) = stream.open().await {
            stream.fall_back(error)?;
        }
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
        let mut suspects = Vec::new();
        loop {
            let mut stream = self.blob_except(reference, digest, size, &suspects).await?;
            let mut bytes = Vec::new();
            while let Some(piece) = stream.next().await? {
                bytes.extend_from_slice(&piece);
            }
            let found = Digest::of(&bytes);
            if found == *digest {
                return Ok(bytes);
            }
            let Some(suspect) = stream.suspect() else {
                return Err(RegistryError::WrongDigest {
                    what,
                    expected: *digest,
                    found,
                    by: "its descriptor",
                }
                .into());
            };
            suspects.push(suspect);
        }
    }
}

impl BlobStream {
    /// The next piece; `None` when all bytes have come.
    ///
    /// # Errors
    /// `Unavailable` if the connection broke too often, `Corrupt` if more bytes come than there should be: at every source.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.piece().await {
                Ok(Some(piece)) => {
                    let Source {
                        name,
                        registry,
                        endpoint,
                    } = &self.source;
                    self.first.get_or_insert_with(|| name.clone());
                    let rate = registry.rate(endpoint);
                    registry.pace().bytes(&endpoint.registry, rate, piece.len()).await;
                    return Ok(Some(piece));
                }
                Ok(None) => return Ok(None),
                Err(error) => self.fall_back(error)?,
            }
        }
    }

    /// If what came is not what the digest says: the source that sent the first of it, to be left out of another try. `None` if there is no
    /// other try, because that was the registry itself.
    #[must_use]
    pub fn suspect(&self) -> Option<String> {
        let own = self.others.back().unwrap_or(&self.source);
        self.first.clone().filter(|first| *first != own.name)
    }

    /// Goes on at the next source, where this one has left off.
    fn fall_back(&mut self, error: RegistryError) -> Result<()> {
        let Some(next) = self.others.pop_front() else {
            return Err(self.tried.all_failed(&self.source, error, &self.what));
        };
        self.tried.note(&self.source, error);
        self.source = next;
        self.no_ranges = false;
        self.response = None;
        (self.breaks, self.recent, self.waited) = (0, 0, Duration::ZERO);
        Ok(())
    }

    /// The next piece from the present source.
    async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.offset == self.size {
                return self.end().await;
            }
            let Some(response) = &mut self.response else {
                match self.open().await {
                    // Who has sent something is there: a connection that is refused now may be taken in a moment.
                    Err(RegistryError::Unreachable { source, .. }) if self.offset > 0 => {
                        self.broken(Some(source)).await?;
                    }
                    opened => opened?,
                }
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
    async fn end(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let Some(mut response) = self.response.take() else {
            return Ok(None);
        };
        match tokio::time::timeout(AFTER_THE_END, response.chunk()).await {
            Ok(Ok(Some(more))) if more.len() as u64 > self.skip => {
                Err(self.wrong_size(self.offset + more.len() as u64 - self.skip))
            }
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
        let pause = self.source.registry.pause(self.breaks);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn gave_up(&self, source: Option<reqwest::Error>) -> RegistryError {
        RegistryError::Broken {
            registry: self.source.endpoint.registry.clone(),
            digest: self.digest,
            received: self.offset,
            size: self.size,
            source,
        }
    }

    /// Asks for what is missing. There is no `If-Range`: what a digest names cannot have changed, and a storage whose machines tag the same
    /// bytes differently would send all of them again.
    async fn open(&mut self) -> Result<(), RegistryError> {
        loop {
            let Source {
                registry, endpoint, ..
            } = &self.source;
            let ask = Ask {
                accept: None,
                from: if self.no_ranges { 0 } else { self.offset },
            };
            let address = endpoint.blob_url(&self.digest);
            let response = registry.get(endpoint, &address, &ask).await?;
            let begins = match response.status() {
                StatusCode::NOT_FOUND => {
                    return Err(RegistryError::UnknownBlob {
                        registry: endpoint.registry.clone(),
                        repository: endpoint.repository.clone(),
                        digest: self.digest,
                    });
                }
                StatusCode::RANGE_NOT_SATISFIABLE => None,
                StatusCode::PARTIAL_CONTENT => self.begins(&response)?,
                _ => self.is_whole(&response).map(|()| Some(0))?,
            };
            if let Some(begins) = begins {
                self.skip = self.offset - begins;
                self.response = Some(response);
                return Ok(());
            }
            if self.no_ranges {
                // Asked for everything, it says the same.
                return Err(self.wrong_size(self.offset));
            }
            // It has fewer bytes than came already, or makes nothing of ranges: everything is asked for, and its length tells.
            self.no_ranges = true;
        }
    }

    /// Where a partial answer begins; `None` if it is of no use, because it begins too late or does not say where.
    fn begins(&self, response: &Response) -> Result<Option<u64>, RegistryError> {
        let Some(range) = content_range(response) else {
            return Ok(None);
        };
        // A length that is wrong from the beginning does not become right by asking again.
        if let Some(total) = range.total.filter(|&total| total != self.size) {
            return Err(self.wrong_size(total));
        }
        if range.last >= self.size {
            return Err(self.wrong_size(range.last.saturating_add(1)));
        }
        // One that ends early is a connection that breaks early.
        Ok(Some(range.first).filter(|&first| first <= self.offset))
    }

    /// Whether an answer with everything says that it is as long as it should be, or nothing.
    fn is_whole(&self, response: &Response) -> Result<(), RegistryError> {
        let announced = response
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        match announced {
            Some(announced) if announced != self.size => Err(self.wrong_size(announced)),
            _ => Ok(()),
        }
    }

    fn wrong_size(&self, found: u64) -> RegistryError {
        RegistryError::WrongSize {
            what: format!("blob {}", self.digest),
            registry: self.source.endpoint.registry.clone(),
            expected: self.size,
            found,
        }
    }
}

/// What a partial answer holds.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

/// `Content-Range: bytes 5-9/10`, or `bytes 5-9/*`.
fn content_range(response: &Response) -> Option<ContentRange> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    (first <= last).then_some(ContentRange { first, last, total })
}

#[cfg(test)]
#[path = "faulty_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "range_tests.rs"]
mod range_tests;
