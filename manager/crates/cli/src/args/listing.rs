//! What lists and shows: `ps`, `images`, `inspect`, `logs`, `events`, `version`, `info`.

use clap::{Args, ValueEnum};
use croze_client::v1::Filter;

use crate::moments;
use crate::values::{self, Tail};

/// `ps`
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "clap's flags, one field each")]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only those that fit, such as name=web, status=exited or label=tier
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub(crate) filter: Vec<Filter>,
    /// What to print: table, json, or a template such as '{{.Names}}: {{.Status}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Only so many of those made last, whether or not they run; -1 for all
    #[arg(
        short = 'n',
        long,
        value_name = "NUMBER",
        default_value = "-1",
        allow_hyphen_values = true
    )]
    pub(crate) last: i32,
    /// Only the one made last, whether or not it runs
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Also show how much each wrote
    #[arg(short, long)]
    pub(crate) size: bool,
}

/// `history`
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// What to print: table, json, or a template such as '{{.CreatedBy}}: {{.Size}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print sizes and times for people
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub(crate) human: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Reference, id or prefix of an id
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
}

/// `image tree`
#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// References, ids or prefixes of ids [default: all images]
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

/// `images`
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "clap's flags, one field each")]
pub(crate) struct ImagesArgs {
    /// Also those in between; here there are none
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Also show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Only those that fit, such as reference=deb*, dangling=true or label=tier
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub(crate) filter: Vec<Filter>,
    /// What to print: table, json, or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print only image ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Only images of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) name: Option<String>,
}

/// What a name that is inspected may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectType {
    /// A container
    Container,
    /// An image
    Image,
}

/// `inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// What to print: json (on one line), or a template such as '{{.State.Status}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Also show how much a container wrote
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Only look for one kind of thing: container or image
    #[arg(long = "type", value_enum, value_name = "TYPE", hide_possible_values = true)]
    pub(crate) kind: Option<ObjectType>,
    /// Names, ids or prefixes of ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// `logs`
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Show the attributes of each line; there are none yet
    #[arg(long)]
    pub(crate) details: bool,
    /// Go on until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what was written since: 10m, 2026-01-31T15:04:05Z
    #[arg(long, value_name = "TIME", value_parser = moments::parse, allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// Only so many of the last lines, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = values::tail, allow_hyphen_values = true)]
    pub(crate) tail: Tail,
    /// Show when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Only what was written until: 10m, 2026-01-31T15:04:05Z
    #[arg(long, value_name = "TIME", value_parser = moments::parse, allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
    /// Name, id or prefix of an id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

/// `events`
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only those that fit, such as container=web, event=die or type=image
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub(crate) filter: Vec<Filter>,
    /// What to print: json, or a template such as '{{.Action}} {{.Actor.ID}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Also what happened since: 10m, 2026-01-31T15:04:05Z
    #[arg(long, value_name = "TIME", value_parser = moments::parse, allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// End at this time; at once if it is over
    #[arg(long, value_name = "TIME", value_parser = moments::parse, allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
}

/// `version`, `info`
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// What to print: json, or a template such as '{{json .}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

/// Parses `KEY=VALUE`. The daemon knows the keys.
fn filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok(Filter {
            key: key.trim().to_lowercase(),
            value: value.trim().to_owned(),
        }),
        _ => Err(format!(
            "invalid filter {text:?}: write KEY=VALUE, such as name=web"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_pairs() {
        let parsed = filter(" Label = a=b ").unwrap();
        assert_eq!((parsed.key.as_str(), parsed.value.as_str()), ("label", "a=b"));
        for bad in ["", "name", "=x"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
