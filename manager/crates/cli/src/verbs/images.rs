//! `pull`, `images`, `rmi`.

use std::collections::HashMap;
use std::pin::pin;

use croze_client::v1::{
    Filter, ImageSummary, ListImagesRequest, ListSourcesRequest, PullRequest, PullResult,
    RegistryCredentials, RemoveImageRequest, TagImageRequest, pull_event,
};
use croze_client::{Client, Error, Reference};
use jiff::Timestamp;

use crate::args::{ImagesArgs, PullArgs, RmiArgs, TagArgs};
use crate::failure::Failure;
use crate::listing::{Format, Title};
use crate::output;
use crate::progress::{self, Display, Shown};
use crate::template::Value;
use crate::{credentials, human, signals, verbs};

/// What a list shows where there is no name, tag or digest.
const NONE: &str = "<none>";

/// `croze pull`
pub(super) async fn pull(client: &Client, args: &PullArgs) -> Result<u8, Failure> {
    let source = Source {
        image: &args.image,
        platform: args.platform.as_deref(),
        creds: args.creds.as_deref(),
    };
    let shown = if args.quiet {
        Shown::Nothing
    } else {
        Shown::Everything
    };
    let result = fetch(client, &source, shown).await?;
    for warning in &result.warnings {
        output::notice(&format!("WARNING: {warning}"));
    }
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

/// What is to be pulled, and on whose behalf.
pub(super) struct Source<'a> {
    /// The reference.
    pub(super) image: &'a str,
    /// The platform, if one is asked for by name.
    pub(super) platform: Option<&'a str>,
    /// `USER[:PASSWORD]`, if the command line has it.
    pub(super) creds: Option<&'a str>,
}

/// Pulls an image and shows this much of the progress.
pub(super) async fn fetch(client: &Client, source: &Source<'_>, shown: Shown) -> Result<PullResult, Failure> {
    let request = PullRequest {
        reference: source.image.to_owned(),
        platform: source.platform.unwrap_or_default().to_owned(),
        credentials: credentials::for_image(source.image, source.creds).await?,
        mirror_credentials: for_mirrors(client, source.image).await?,
    };
    let mut events = client
        .images()
        .pull(request)
        .await
        .map_err(Error::from)?
        .into_inner();
    let mut display = Display::new(shown);
    // Bars are taken from the terminal before a signal ends this program; elsewhere it ends at once.
    let mut signalled = pin!(signals::ending());
    loop {
        let event = tokio::select! {
            event = events.message() => event.map_err(Error::from)?,
            number = &mut signalled, if display.is_drawn() => {
                let number = number.map_err(|source| Failure::io("catch signals", source))?;
                return Err(Failure::interrupted(format!("pull {}", source.image), number));
            }
        };
        let Some(event) = event else { break };
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

/// What is kept for the mirrors that the daemon asks first, by their names: for the repository as it is called there.
async fn for_mirrors(client: &Client, image: &str) -> Result<HashMap<String, RegistryCredentials>, Failure> {
    let Ok(reference) = image.parse::<Reference>() else {
        // The daemon says what is wrong with it.
        return Ok(HashMap::new());
    };
    let request = ListSourcesRequest {
        reference: image.to_owned(),
    };
    let registries = match client.images().list_sources(request).await {
        Ok(sources) => sources.into_inner().registries,
        // A daemon that does not know of mirrors has none.
        Err(_) => Vec::new(),
    };
    let mut found = HashMap::new();
    for mirror in registries.iter().filter(|name| *name != reference.domain()) {
        let (registry, path) = mirror.split_once('/').unwrap_or((mirror, ""));
        let repository = format!("{path}/{}", reference.path());
        if let Some(kept) = credentials::kept(registry, repository.trim_start_matches('/')).await? {
            found.insert(mirror.clone(), kept);
        }
    }
    Ok(found)
}

/// docker's tables: without digests, and with them.
const TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const TABLE_WITH_DIGESTS: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
/// The fields of an image and the titles of their columns.
const TITLES: [Title; 11] = [
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
];

/// `croze images`
pub(super) async fn list(client: &Client, args: &ImagesArgs) -> Result<u8, Failure> {
    let asked = args.format.as_deref();
    let format = match (args.quiet, args.digests) {
        (true, _) => Format::quiet(asked, "ID")?,
        (false, true) => Format::parse(asked, TABLE_WITH_DIGESTS)?,
        (false, false) => Format::parse(asked, TABLE)?,
    };
    let mut filters = args.filter.clone();
    filters.extend(args.name.iter().map(|name| Filter {
        key: "reference".to_owned(),
        value: name.clone(),
    }));
    let images = client
        .images()
        .list_images(ListImagesRequest { filters })
        .await
        .map_err(Error::from)?
        .into_inner()
        .images;
    let now = Timestamp::now();
    let with_digests = args.digests || format.mentions("Digest");
    let rows: Vec<Value> = images
        .iter()
        .flat_map(|image| {
            let names = names(image, with_digests).into_iter();
            names.map(|name| row(image, name, args.no_trunc, now))
        })
        .collect();
    format.print(&TITLES, &rows)?;
    Ok(0)
}

/// An image's fields as docker's templates name them, in the order of its JSON; one row for each of its names.
fn row(image: &ImageSummary, name: Name, whole: bool, now: Timestamp) -> Value {
    let not_counted = || "N/A".to_owned();
    let id = if whole {
        image.id.clone()
    } else {
        human::short_id(&image.id).to_owned()
    };
    let fields = [
        ("Containers", not_counted()),
        ("CreatedAt", human::moment(human::or_never(&image.created))),
        ("CreatedSince", human::ago(&image.created, now)),
        ("Digest", name.digest),
        ("ID", id),
        ("Repository", name.repository),
        ("SharedSize", not_counted()),
        ("Size", human::size(image.size_bytes)),
        ("Tag", name.tag),
        ("UniqueSize", not_counted()),
        ("VirtualSize", human::size(image.size_bytes)),
    ];
    let fields = fields.map(|(name, text)| (name.to_owned(), Value::Text(text)));
    Value::Struct(fields.into_iter().collect())
}

/// One of an image's names, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    repository: String,
    tag: String,
    digest: String,
}

/// The names of an image, as docker lists them: every tag, with each digest of its repository where digests are shown; then the repositories of
/// which there are digests alone; one row of `<none>` for an image without a name.
fn names(image: &ImageSummary, with_digests: bool) -> Vec<Name> {
    let name = |repository: &str, tag: &str, digest: &str| Name {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: digest.to_owned(),
    };
    let digests_of = |repository: &str| -> Vec<&str> {
        let split = image.repo_digests.iter().filter_map(|name| name.split_once('@'));
        split
            .filter(|(of, _)| *of == repository)
            .map(|(_, digest)| digest)
            .collect()
    };
    let mut names = Vec::new();
    let mut tagged = Vec::new();
    for reference in &image.references {
        let (repository, tag) = repository_and_tag(reference);
        match digests_of(&repository).as_slice() {
            digests if with_digests && !digests.is_empty() => {
                names.extend(digests.iter().map(|digest| name(&repository, &tag, digest)));
            }
            _ => names.push(name(&repository, &tag, NONE)),
        }
        tagged.push(repository);
    }
    for reference in &image.repo_digests {
        let Some((repository, digest)) = reference.split_once('@') else {
            continue;
        };
        if tagged.iter().any(|known| known == repository) {
            continue;
        }
        if with_digests {
            names.push(name(repository, NONE, digest));
        } else {
            names.push(name(repository, NONE, NONE));
            tagged.push(repository.to_owned());
        }
    }
    if names.is_empty() {
        names.push(name(NONE, NONE, NONE));
    }
    names
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

/// `croze tag`
pub(super) async fn tag(client: &Client, args: &TagArgs) -> Result<u8, Failure> {
    let request = TagImageRequest {
        source: args.source.clone(),
        target: args.target.clone(),
    };
    client.images().tag_image(request).await.map_err(Error::from)?;
    Ok(0)
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

    #[test]
    fn names_are_listed_as_docker_lists_them() {
        let image = |tags: &[&str], digests: &[&str]| ImageSummary {
            references: tags.iter().map(|&tag| tag.to_owned()).collect(),
            repo_digests: digests.iter().map(|&digest| digest.to_owned()).collect(),
            ..ImageSummary::default()
        };
        let listed = |image: &ImageSummary, with_digests| -> Vec<String> {
            let names = names(image, with_digests).into_iter();
            names
                .map(|name| format!("{} {} {}", name.repository, name.tag, name.digest))
                .collect()
        };
        for (tags, digests, plain, with_digests) in [
            (
                &[][..],
                &[][..],
                &["<none> <none> <none>"][..],
                &["<none> <none> <none>"][..],
            ),
            (
                &["a:1", "a:2"],
                &["a@d"],
                &["a 1 <none>", "a 2 <none>"],
                &["a 1 d", "a 2 d"],
            ),
            (
                &["a:1"],
                &["a@d", "a@e", "b@d"],
                &["a 1 <none>", "b <none> <none>"],
                &["a 1 d", "a 1 e", "b <none> d"],
            ),
            (
                &[],
                &["b@d", "b@e"],
                &["b <none> <none>"],
                &["b <none> d", "b <none> e"],
            ),
        ] {
            let image = image(tags, digests);
            assert_eq!(listed(&image, false), plain, "{tags:?} {digests:?}");
            assert_eq!(listed(&image, true), with_digests, "{tags:?} {digests:?}");
        }
    }
}
