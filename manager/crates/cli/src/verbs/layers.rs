//! `history` and `image tree`: what an image consists of, and what of it other images have too.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use croze_client::v1::{ErrorKind, ImageLayer, InspectImageRequest, InspectImageResponse, ListImagesRequest};
use croze_client::{Client, Error};
use jiff::Timestamp;
use serde::Deserialize;

use crate::args::{HistoryArgs, TreeArgs};
use crate::failure::Failure;
use crate::listing::{Format, Title};
use crate::output::{self, printable};
use crate::template::Value;
use crate::{human, verbs};

/// docker's table, and the titles of its fields.
const TABLE: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const TITLES: [Title; 6] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
/// What stands for the id of a step that no image was kept of.
const MISSING: &str = "<missing>";
/// How much of a command is shown.
const LONGEST_COMMAND: usize = 45;

/// The part of an image's config that is of interest here.
#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    history: Option<Vec<serde_json::Value>>,
}

/// The steps that a config names. A step that is none costs its own words, and not those of the others.
fn history_of(config: &[u8]) -> Vec<Step> {
    let config: Config = serde_json::from_slice(config).unwrap_or_default();
    let steps = config.history.unwrap_or_default().into_iter();
    steps
        .map(|step| serde_json::from_value(step).unwrap_or_default())
        .collect()
}

/// One step of the image's making (image specification, "history"). Every field may be missing, or be `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Step {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

/// `croze history`
pub(super) async fn history(client: &Client, args: &HistoryArgs) -> Result<u8, Failure> {
    let asked = args.format.as_deref();
    let format = if args.quiet {
        Format::quiet(asked, "ID")?
    } else {
        Format::parse(asked, TABLE)?
    };
    let image = inspect(client, &args.image).await?;
    let id = image.summary.map(|summary| summary.id).unwrap_or_default();
    let now = Timestamp::now();
    let steps = steps(&history_of(&image.config_json), &image.layers);
    let rows: Vec<Value> = steps
        .iter()
        .rev()
        .enumerate()
        .map(|(n, (step, size))| row(if n == 0 { &id } else { MISSING }, step, *size, args, now))
        .collect();
    format.print(&TITLES, &rows)?;
    Ok(0)
}

/// The steps with the size of the layer that each made, the oldest first. Layers that no step made have a step without words.
fn steps(history: &[Step], layers: &[ImageLayer]) -> Vec<(Step, u64)> {
    let mut sizes = layers.iter().map(|layer| layer.size_bytes);
    let mut steps: Vec<(Step, u64)> = history
        .iter()
        .map(|step| {
            let size = if step.empty_layer == Some(true) {
                None
            } else {
                sizes.next()
            };
            (step.clone(), size.unwrap_or(0))
        })
        .collect();
    steps.extend(sizes.map(|size| (Step::default(), size)));
    steps
}

fn row(id: &str, step: &Step, size: u64, args: &HistoryArgs, now: Timestamp) -> Value {
    let id = if args.no_trunc || id == MISSING {
        id
    } else {
        human::short_id(id)
    };
    // What the builder wrote there is for one line of text.
    let created = step.created.as_deref().unwrap_or_default();
    let words = step.created_by.as_deref().unwrap_or_default();
    let command = printable(&words.replace('\t', " "));
    let command = if args.no_trunc {
        command
    } else {
        human::ellipsis(&command, LONGEST_COMMAND)
    };
    let created_at = human::rfc3339(created);
    let (since, size) = if args.human {
        (human::ago(created, now), human::size(size))
    } else {
        (created_at.clone(), size.to_string())
    };
    let since = if created.is_empty() {
        "N/A".to_owned()
    } else {
        since
    };
    let fields = [
        ("Comment", printable(step.comment.as_deref().unwrap_or_default())),
        ("CreatedAt", created_at),
        ("CreatedBy", command),
        ("CreatedSince", since),
        ("ID", id.to_owned()),
        ("Size", size),
    ];
    let fields = fields.map(|(name, text)| (name.to_owned(), Value::Text(text)));
    Value::Struct(fields.into_iter().collect())
}

async fn inspect(client: &Client, image: &str) -> Result<InspectImageResponse, Failure> {
    let request = InspectImageRequest {
        image: image.to_owned(),
    };
    Ok(client
        .images()
        .inspect_image(request)
        .await
        .map_err(Error::from)?
        .into_inner())
}

/// An image in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Branch {
    id: String,
    names: Vec<String>,
    layers: Vec<ImageLayer>,
}

impl Branch {
    fn of(image: InspectImageResponse) -> Self {
        let summary = image.summary.unwrap_or_default();
        Self {
            id: summary.id,
            names: summary.references,
            layers: image.layers,
        }
    }

    /// How it is called where others name it.
    fn name(&self) -> &str {
        self.names
            .first()
            .map_or_else(|| human::short_id(&self.id), String::as_str)
    }
}

/// `croze image tree`
pub(super) async fn tree(client: &Client, args: &TreeArgs) -> Result<u8, Failure> {
    let listed = client
        .images()
        .list_images(ListImagesRequest::default())
        .await
        .map_err(Error::from)?
        .into_inner();
    let mut all = Vec::new();
    for summary in listed.images {
        match inspect(client, &summary.id).await {
            Ok(image) => all.push(Branch::of(image)),
            // Removed meanwhile.
            Err(failure) if failure.kind() == Some(ErrorKind::NotFound) => {}
            Err(failure) => return Err(failure),
        }
    }
    if args.images.is_empty() {
        let drawn: Vec<String> = all.iter().map(|image| draw(image, &all, args.no_trunc)).collect();
        output::text(&drawn.join("\n"))?;
        return Ok(0);
    }
    let all = &all;
    verbs::for_each_name(&args.images, |name| async move {
        let image = Branch::of(inspect(client, &name).await?);
        Ok(draw(&image, all, args.no_trunc))
    })
    .await
}

/// One image: its layers, base first, and which other images have them.
fn draw(image: &Branch, all: &[Branch], whole: bool) -> String {
    let mut others: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for other in all.iter().filter(|other| other.id != image.id) {
        for layer in &other.layers {
            others.entry(&layer.diff_id).or_default().insert(other.name());
        }
    }
    let short = |id: &str| {
        if whole {
            id.to_owned()
        } else {
            human::short_id(id).to_owned()
        }
    };
    // A layer that is there twice takes space once.
    let sizes: BTreeMap<&str, u64> = image
        .layers
        .iter()
        .map(|layer| (layer.diff_id.as_str(), layer.size_bytes))
        .collect();
    let total: u64 = sizes.values().sum();
    let own = sizes.iter().filter(|(layer, _)| !others.contains_key(*layer));
    let own: u64 = own.map(|(_, size)| size).sum();
    let names = if image.names.is_empty() {
        "<none>".to_owned()
    } else {
        image.names.join(", ")
    };
    let mut text = format!(
        "{names}  {}  {} ({} of it in no other image)\n",
        short(&image.id),
        human::size(total),
        human::size(own)
    );
    for (n, layer) in image.layers.iter().enumerate() {
        let branch = if n + 1 == image.layers.len() {
            "└──"
        } else {
            "├──"
        };
        let sharing: Vec<&str> = others
            .get(layer.diff_id.as_str())
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let shared = if sharing.is_empty() {
            String::new()
        } else {
            format!("  also in {}", sharing.join(", "))
        };
        let (id, size) = (short(&layer.diff_id), human::size(layer.size_bytes));
        text.push_str(&format!("{branch} {id}  {size:>8}{shared}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, size_bytes: u64) -> ImageLayer {
        ImageLayer {
            diff_id: format!("sha256:{name:0<64}"),
            size_bytes,
            ..ImageLayer::default()
        }
    }

    #[test]
    fn steps_have_the_sizes_of_their_layers() {
        let step = |words: &str, empty_layer| Step {
            created_by: Some(words.to_owned()),
            empty_layer: Some(empty_layer),
            ..Step::default()
        };
        let (add, cmd, run) = (step("ADD", false), step("CMD", true), step("RUN", false));
        let history = [add.clone(), cmd.clone(), run.clone()];
        for (history, sizes, expected) in [
            (
                &history[..],
                &[10, 20][..],
                vec![(&add, 10), (&cmd, 0), (&run, 20)],
            ),
            (&history[..], &[10][..], vec![(&add, 10), (&cmd, 0), (&run, 0)]),
            (
                &history[..1],
                &[10, 20][..],
                vec![(&add, 10), (&Step::default(), 20)],
            ),
            (&[], &[10][..], vec![(&Step::default(), 10)]),
            (&[], &[][..], vec![]),
        ] {
            let layers: Vec<ImageLayer> = sizes.iter().map(|&size| layer("a", size)).collect();
            let steps = steps(history, &layers);
            let found: Vec<(&Step, u64)> = steps.iter().map(|(step, size)| (step, *size)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_step_that_is_none_costs_its_own_words_only() {
        let words = |config: &str| -> Vec<Option<String>> {
            let steps = history_of(config.as_bytes()).into_iter();
            steps.map(|step| step.created_by).collect()
        };
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        for (history, expected) in [
            (
                r#"[{"created_by":"a"},{"created_by":"b"}]"#,
                vec![a.clone(), b.clone()],
            ),
            (
                r#"[{"created":null,"comment":null,"empty_layer":null,"created_by":"a"},{"created_by":null}]"#,
                vec![a.clone(), None],
            ),
            (
                r#"[{"created_by":"a"},{"created_by":7},null,{"created_by":"b"}]"#,
                vec![a, None, None, b],
            ),
            ("null", vec![]),
            ("7", vec![]),
        ] {
            assert_eq!(
                words(&format!(r#"{{"history":{history}}}"#)),
                expected,
                "{history}"
            );
        }
    }

    #[test]
    fn a_tree_says_what_is_shared_and_what_is_not() {
        let image = |id: &str, names: &[&str], layers: &[ImageLayer]| Branch {
            id: format!("sha256:{id:0<64}"),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            layers: layers.to_vec(),
        };
        let (base, top, other) = (
            layer("ba5e", 100_000_000),
            layer("70b", 2_000_000),
            layer("07e", 3_000),
        );
        let all = [
            image("a", &["a:1", "a:2"], &[base.clone(), top.clone(), top]),
            image("b", &["b:1"], &[base.clone(), other]),
            image("c", &[], &[base]),
        ];
        assert_eq!(
            draw(&all[0], &all, false),
            "a:1, a:2  a00000000000  102MB (2MB of it in no other image)\n\
             ├── ba5e00000000     100MB  also in b:1, c00000000000\n\
             ├── 70b000000000       2MB\n\
             └── 70b000000000       2MB\n"
        );
        assert_eq!(
            draw(&all[2], &all, false),
            "<none>  c00000000000  100MB (0B of it in no other image)\n\
             └── ba5e00000000     100MB  also in a:1, b:1\n"
        );
    }
}
