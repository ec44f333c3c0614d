//! The image that the daemon brings with it: `croze/hello`, one static program that prints the isolation it sees.
//!
//! It is installed in the store at the daemon's start, so that a machine without network has something to run.

use croze_images::{EmbeddedFile, EmbeddedImage, LayerOrigin, Pulled, PulledLayer, RemoveOptions};
use croze_model::{Error, ErrorKind, Reference, Result};

use crate::engine::{Engine, Hello};

const REFERENCE: &str = "docker.io/croze/hello:latest";
const PROGRAM: &str = "hello";
/// Where `hello serve` listens unless told otherwise.
const SERVES: &str = "8080/tcp";

/// Whether this is the reference of the embedded image.
pub(crate) fn is_hello(reference: &Reference) -> bool {
    reference.to_string() == REFERENCE
}

/// Why the embedded image is not there, if that is what `text` asks for and this build has none.
pub(crate) fn explain(text: &str, program: Option<Hello>) -> Option<Error> {
    let asked = text
        .parse::<Reference>()
        .is_ok_and(|reference| is_hello(&reference));
    (asked && program.is_none()).then(missing)
}

fn missing() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "hello",
        "this build of crozed carries no hello program",
    )
    .hint("build it with `make build`, which puts croze/hello into the daemon, or run another image")
}

impl Engine {
    /// Makes sure that the embedded image is in the store as this build carries it; the result looks like a pull's.
    ///
    /// # Errors
    /// `Unsupported` if this build carries none; what the store says.
    pub(crate) async fn install_hello(&self) -> Result<Pulled> {
        let hello = self.settings().hello.ok_or_else(missing)?;
        let reference: Reference = REFERENCE.parse().map_err(|source: croze_model::ReferenceError| {
            Error::new(ErrorKind::Internal, "hello", REFERENCE).because(source)
        })?;
        let before = self.images().resolve(REFERENCE).await.ok().map(|image| image.id);
        let id = self.images().import_embedded(embedded(&reference, hello)).await?;
        if let Some(old) = before.filter(|old| *old != id) {
            // An older build's; containers may still use it, and then it stays.
            let old = old.to_string();
            if let Err(error) = self
                .images()
                .remove(&old, RemoveOptions::default(), &self.image_uses())
                .await
            {
                tracing::debug!(image = old, "the former croze/hello stays: {}", error.one_line());
            }
        }
        let image = self.images().resolve(REFERENCE).await?;
        let layer = |layer: &croze_images::ImageLayer| PulledLayer {
            blob: layer.blob,
            diff_id: layer.diff_id,
            size: layer.blob_size,
            origin: LayerOrigin::Existed,
        };
        let layers: Vec<PulledLayer> = image.layers.iter().map(layer).collect();
        Ok(Pulled {
            reference,
            digest: image.manifest,
            id,
            bytes_downloaded: 0,
            bytes_existing: layers.iter().map(|layer| layer.size).sum(),
            layers,
            up_to_date: before == Some(id),
            warnings: Vec::new(),
        })
    }
}

fn embedded(reference: &Reference, hello: Hello) -> EmbeddedImage {
    EmbeddedImage {
        reference: reference.clone(),
        files: vec![EmbeddedFile {
            path: PROGRAM.to_owned(),
            mode: 0o755,
            content: hello.program.to_vec(),
        }],
        entrypoint: vec![format!("/{PROGRAM}")],
        env: vec!["PATH=/".to_owned()],
        exposed_ports: vec![SERVES.to_owned()],
        labels: Vec::new(),
        created: hello
            .created
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
            .map(|time| time.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_embedded_image_is_explained_and_only_when_it_is_missing() {
        for (text, program, explained) in [
            ("croze/hello", None, true),
            ("docker.io/croze/hello:latest", None, true),
            (
                "croze/hello",
                Some(Hello {
                    program: b"elf",
                    created: None,
                }),
                false,
            ),
            ("croze/hello:2", None, false),
            ("localhost:5000/croze/hello", None, false),
            ("Not A Reference", None, false),
        ] {
            assert_eq!(explain(text, program).is_some(), explained, "{text}");
        }
        assert!(
            explain("croze/hello", None)
                .unwrap()
                .advice()
                .unwrap()
                .contains("make build")
        );
    }
}
