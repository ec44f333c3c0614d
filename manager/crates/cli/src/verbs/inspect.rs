//! `inspect`: everything about containers and images, with docker's field names.
//!
//! [`container`] and [`image`] make docker's documents, [`shape`] knows which of their objects are maps, and what
//! docker leaves out where it is empty. What Croze has and docker has not stands
//! beside docker's fields; what docker has and Croze has not (yet) has docker's empty value.

mod container;
mod host_config;
mod image;
mod shape;

use croze_client::v1::{ErrorKind, InspectContainerRequest, InspectImageRequest};
use croze_client::{Client, Error};
use serde_json::Value as Json;

use crate::args::{InspectArgs, ObjectType};
use crate::failure::Failure;
use crate::output;
use crate::template::{Functions, Template, Value};

/// How what was found is printed.
#[derive(Debug)]
pub(super) enum Form {
    /// One JSON array for people.
    Indented,
    /// The same on one line.
    Compact,
    /// A template for each.
    Template(Template),
}

impl Form {
    /// What `--format` asks for.
    pub(super) fn parse(format: Option<&str>) -> Result<Self, Failure> {
        Ok(match format {
            None | Some("") => Self::Indented,
            Some("json") => Self::Compact,
            Some(template) => Self::Template(Template::parse(template)?),
        })
    }

    /// Prints what was found.
    pub(super) fn print(&self, found: &[Json]) -> Result<(), Failure> {
        let encoded = |result: serde_json::Result<String>| {
            result.map_err(|error| Failure::io("encode JSON", error.into()))
        };
        match self {
            Self::Indented => output::line(&encoded(serde_json::to_string_pretty(found))?),
            Self::Compact => output::line(&encoded(serde_json::to_string(found))?),
            Self::Template(template) => found.iter().try_for_each(|document| {
                let value = Value::from_document(document, shape::of, shape::omitted);
                output::line(&template.execute(&value, Functions::Values)?)
            }),
        }
    }
}

/// `croze inspect`: containers first, then images.
pub(super) async fn inspect(client: &Client, args: &InspectArgs) -> Result<u8, Failure> {
    let form = Form::parse(args.format.as_deref())?;
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.names {
        match one(client, name, args).await {
            Ok(document) => found.push(document),
            Err(failure) => {
                failure.print();
                failed = true;
            }
        }
    }
    form.print(&found)?;
    if failed { Err(Failure::reported()) } else { Ok(0) }
}

async fn one(client: &Client, name: &str, args: &InspectArgs) -> Result<Json, Failure> {
    if args.kind != Some(ObjectType::Image)
        && let Some(document) = one_container(client, name, args.size).await?
    {
        return Ok(document);
    }
    if args.kind != Some(ObjectType::Container)
        && let Some(document) = one_image(client, name).await?
    {
        return Ok(document);
    }
    Err(match args.kind {
        Some(ObjectType::Container) => Failure::usage(
            format!("no such container: {name}"),
            Some("`croze ps -a` lists all containers"),
        ),
        Some(ObjectType::Image) => Failure::usage(
            format!("no such image: {name}"),
            Some("`croze images` lists what there is"),
        ),
        None => Failure::usage(
            format!("no such object: {name}"),
            Some("`croze ps -a` and `croze images` list what there is"),
        ),
    })
}

/// The container of this name. What is no container's name may be an image's, even one that no container could have.
async fn one_container(client: &Client, name: &str, sizes: bool) -> Result<Option<Json>, Failure> {
    let request = InspectContainerRequest {
        container: name.to_owned(),
        sizes,
    };
    let answer = client.containers().inspect_container(request).await;
    match answer.map_err(Error::from) {
        Ok(response) => Ok(Some(container::document(&response.into_inner()))),
        Err(error) if error.kind() == Some(ErrorKind::NotFound) => Ok(None),
        // An ambiguous beginning of an id is an error, unless no container could be called so.
        Err(error) if error.kind() == Some(ErrorKind::InvalidArgument) && !could_be_an_id(name) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn one_image(client: &Client, name: &str) -> Result<Option<Json>, Failure> {
    let request = InspectImageRequest {
        image: name.to_owned(),
    };
    match client.images().inspect_image(request).await.map_err(Error::from) {
        Ok(response) => Ok(Some(image::document(&response.into_inner()))),
        Err(error) if error.kind() == Some(ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn could_be_an_id(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit())
}
