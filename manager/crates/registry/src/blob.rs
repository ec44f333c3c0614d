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
use crate::flow::{Flow, Speed};
use crate::sources::{Source, Sources, Tried};

/// With so many breaks that nothing has made up for, a download is given up.
const MAX_BREAKS: u32 = 5;
/// The same where another source follows: a connection that breaks once is made again.
const BREAKS_BEFORE_ANOTHER: u32 = 2;
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
    flow: Flow,
    /// Why the source is given up, once the bytes that came before are taken.
    failed: Option<RegistryError>,
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
            flow: Flow::new(self.times().patience),
            failed: None,
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
        self.flow = Flow::new(self.source.registry.times().patience);
        Ok(())
    }

    /// The next piece from the present source.
    async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.offset == self.size {
                return self.end().await;
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            let Some(response) = &mut self.response else {
                self.open_again().await?;
                continue;
            };
            let Source {
                registry, endpoint, ..
            } = &self.source;
            let begun = Instant::now();
            let address = response.url().clone();
            let answer = registry
                .unless_silent(endpoint, &address, response.chunk())
                .await?;
            match answer {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.take(piece, begun.elapsed())? {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => self.broken(None, begun.elapsed()).await?,
                Err(source) => self.broken(Some(source.without_url()), begun.elapsed()).await?,
            }
        }
    }

    /// Asks for what is missing, after a break.
    async fn open_again(&mut self) -> Result<(), RegistryError> {
        match self.open().await {
            // Who has sent something is there: a connection that is refused now may be taken in a moment.
            Err(RegistryError::Unreachable { source, .. })
                if self.offset > 0 && !self.source.registry.has_another() =>
            {
                self.broken(Some(source), Duration::ZERO).await
            }
            opened => opened,
        }
    }

    /// All bytes have come. How the connection ends does not matter any more, unless there are more.
    async fn end(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.failed = None;
        let Some(mut response) = self.response.take() else {
            return Ok(None);
        };
        self.source.did_well();
        match tokio::time::timeout(AFTER_THE_END, response.chunk()).await {
            Ok(Ok(Some(more))) if more.len() as u64 > self.skip => {
                Err(self.wrong_size(self.offset + more.len() as u64 - self.skip))
            }
            _ => Ok(None),
        }
    }

    /// What of a piece is new, which was waited for so long.
    fn take(&mut self, mut piece: Bytes, waited: Duration) -> Result<Option<Bytes>, RegistryError> {
        let came = piece.len() as u64;
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        drop(piece.split_to(known));
        self.skip -= known as u64;
        let end = self.offset + piece.len() as u64;
        if end > self.size {
            return Err(self.wrong_size(end));
        }
        self.offset = end;
        if self.flow.came(waited, came, piece.len() as u64) == Speed::TooSlow {
            // These bytes are good; the connection is given up, and for another source this one.
            self.response = None;
            if self.flow.breaks() >= MAX_BREAKS || self.source.registry.has_another() {
                self.failed = Some(RegistryError::TooSlow {
                    registry: self.source.endpoint.registry.clone(),
                    digest: self.digest,
                    received: self.offset,
                    size: self.size,
                });
            }
        }
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// The connection broke, after this wait. The next one is made in a moment; at once if another source may be asked instead.
    async fn broken(
        &mut self,
        source: Option<reqwest::Error>,
        waited: Duration,
    ) -> Result<(), RegistryError> {
        self.response = None;
        self.flow.broke(waited);
        let breaks = self.flow.breaks();
        let has_another = self.source.registry.has_another();
        if breaks
            >= if has_another {
                BREAKS_BEFORE_ANOTHER
            } else {
                MAX_BREAKS
            }
        {
            return Err(self.gave_up(source));
        }
        tracing::debug!(digest = %self.digest, at = self.offset, of = self.size, "a download broke and goes on");
        if !has_another {
            tokio::time::sleep(self.source.registry.pause(breaks)).await;
        }
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
