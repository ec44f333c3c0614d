//! `pull`, `images`, `rmi`.

use croze_client::v1::{
    ImageSummary, ListImagesRequest, PullRequest, PullResult, RemoveImageRequest, pull_event,
};
use croze_client::{Client, Error};
use jiff::Timestamp;

use crate::args::{ImagesArgs, PullArgs, RmiArgs};
use crate::failure::Failure;
use crate::output::{self, Table};
use crate::progress::{self, Display};
use crate::{human, verbs};

/// What a list shows where there is no name, tag or digest.
const NONE: &str = "<none>";

/// `croze pull`
pub(super) async fn pull(client: &Client, args: &PullArgs) -> Result<u8, Failure> {
    let result = fetch(client, &args.image, args.platform.as_deref(), args.quiet).await?;
    if !args.quiet {
        output::line(&format!("Digest: {}", result.digest))?;
        let status = if result.up_to_date {
            "Image is up to date for"
        } else {
            "Downloaded newer image for"
        };
        output::line(&format!("Status: {status} {}", result.reference))?;
        output::line(&progress::summary(&result))?;
    }
    output::line(&result.reference)?;
    Ok(0)
}

/// Pulls an image and shows the progress.
pub(super) async fn fetch(
    client: &Client,
    reference: &str,
    platform: Option<&str>,
    quiet: bool,
) -> Result<PullResult, Failure> {
    let request = PullRequest {
        reference: reference.to_owned(),
        platform: platform.unwrap_or_default().to_owned(),
    };
    let mut events = client
        .images()
        .pull(request)
        .await
        .map_err(Error::from)?
        .into_inner();
    let mut display = Display::new(quiet);
    while let Some(event) = events.message().await.map_err(Error::from)? {
        match event.event {
            Some(pull_event::Event::Progress(progress)) => display.update(&progress),
            Some(pull_event::Event::Result(result)) => return Ok(result),
            None => {}
        }
    }
    Err(Error::Protocol {
        expected: "the result of the pull",
    }
    .into())
}

/// `croze images`
pub(super) async fn list(client: &Client, args: &ImagesArgs) -> Result<u8, Failure> {
    let images = client
        .images()
        .list_images(ListImagesRequest {})
        .await
        .map_err(Error::from)?
        .into_inner()
        .images;
    if args.quiet {
        for image in &images {
            output::line(shown_id(image, args.no_trunc))?;
        }
        return Ok(0);
    }
    let digest_title: &[&str] = if args.digests { &["DIGEST"] } else { &[] };
    let titles = [
        &["REPOSITORY", "TAG"],
        digest_title,
        &["IMAGE ID", "CREATED", "SIZE"],
    ]
    .concat();
    let mut table = Table::new(&titles);
    let now = Timestamp::now();
    for image in &images {
        for (repository, tag) in names(image) {
            let mut cells = vec![repository, tag];
            if args.digests {
                cells.push(if image.digest.is_empty() {
                    NONE.to_owned()
                } else {
                    image.digest.clone()
                });
            }
            cells.push(shown_id(image, args.no_trunc).to_owned());
            cells.push(human::ago(&image.created, now));
            cells.push(human::size(image.size_bytes));
            table.row(cells);
        }
    }
    table.print()?;
    Ok(0)
}

fn shown_id(image: &ImageSummary, whole: bool) -> &str {
    if whole {
        &image.id
    } else {
        human::short_id(&image.id)
    }
}

/// Repository and tag of every reference of an image; one row of `<none>` when it has no reference.
fn names(image: &ImageSummary) -> Vec<(String, String)> {
    if image.references.is_empty() {
        return vec![(NONE.to_owned(), NONE.to_owned())];
    }
    image
        .references
        .iter()
        .map(|reference| repository_and_tag(reference))
        .collect()
}

fn repository_and_tag(reference: &str) -> (String, String) {
    if let Some((repository, _)) = reference.split_once('@') {
        return (repository.to_owned(), NONE.to_owned());
    }
    match reference.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        _ => (reference.to_owned(), NONE.to_owned()),
    }
}

/// `croze rmi`
pub(super) async fn remove(client: &Client, args: &RmiArgs) -> Result<u8, Failure> {
    verbs::for_each_name(&args.images, |image| async move {
        let request = RemoveImageRequest {
            image,
            force: args.force,
        };
        let removed = client
            .images()
            .remove_image(request)
            .await
            .map_err(Error::from)?
            .into_inner();
        let untagged = removed
            .untagged
            .iter()
            .map(|reference| format!("Untagged: {reference}"));
        let deleted = removed.deleted.iter().map(|digest| format!("Deleted: {digest}"));
        let lines: Vec<String> = untagged.chain(deleted).collect();
        Ok(lines.join("\n"))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_into_repository_and_tag() {
        for (reference, repository, tag) in [
            ("debian:12", "debian", "12"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b", "1"),
            ("localhost:5000/a", "localhost:5000/a", NONE),
            ("a@sha256:00", "a", NONE),
        ] {
            assert_eq!(
                repository_and_tag(reference),
                (repository.to_owned(), tag.to_owned()),
                "{reference}"
            );
        }
    }
}
