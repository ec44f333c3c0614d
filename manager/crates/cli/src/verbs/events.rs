//! `events`.

use std::collections::BTreeMap;

use croze_client::v1::{Event, EventsRequest};
use croze_client::{Client, Error};
use jiff::Timestamp;
use serde_json::{Value as Json, json};

use crate::args::EventsArgs;
use crate::failure::Failure;
use crate::template::{Functions, Shape, Template, Value, Zero};
use crate::{human, output};

/// How an event is printed.
#[derive(Debug)]
enum Form {
    Line,
    Json,
    Template(Template),
}

/// `croze events`
pub(super) async fn show(client: &Client, args: &EventsArgs) -> Result<u8, Failure> {
    let form = match args.format.as_deref() {
        None | Some("") => Form::Line,
        Some("json" | "{{json .}}") => Form::Json,
        Some(template) => Form::Template(Template::parse(template)?),
    };
    let request = EventsRequest {
        since: args.since.clone().unwrap_or_default(),
        until: args.until.clone().unwrap_or_default(),
        filters: args.filter.clone(),
    };
    let mut events = client
        .system()
        .events(request)
        .await
        .map_err(Error::from)?
        .into_inner();
    while let Some(event) = events.message().await.map_err(Error::from)? {
        let line = match &form {
            Form::Line => line(&event),
            Form::Json => document(&event).to_string(),
            Form::Template(template) => template.execute(&value(&event), Functions::Values)?,
        };
        output::line(&line)?;
    }
    Ok(0)
}

fn sorted(event: &Event) -> BTreeMap<&String, &String> {
    event.attributes.iter().collect()
}

fn line(event: &Event) -> String {
    let attributes: Vec<String> = sorted(event)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    output::printable(&format!(
        "{} {} {} {} ({})",
        human::exact(&event.time),
        event.kind,
        event.action,
        event.id,
        attributes.join(", ")
    ))
}

/// docker's document: as its API sends it.
fn document(event: &Event) -> Json {
    let (seconds, nanos) = time(event);
    json!({
        "status": event.action,
        "id": event.id,
        "from": from(event),
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": sorted(event)},
        "scope": "local",
        "time": seconds,
        "timeNano": nanos,
    })
}

/// The fields as templates name them.
fn value(event: &Event) -> Value {
    let (seconds, nanos) = time(event);
    let fields = json!({
        "Status": event.action,
        "ID": event.id,
        "From": from(event),
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": sorted(event)},
        "Scope": "local",
        "Time": seconds,
        "TimeNano": nanos,
    });
    Value::from_json(&fields, |_, key| match key {
        "Attributes" => Shape::Map(Zero::Text),
        _ => Shape::Struct,
    })
}

/// The image of a container.
fn from(event: &Event) -> &str {
    let image = (event.kind == "container").then(|| event.attributes.get("image"));
    image.flatten().map_or("", String::as_str)
}

fn time(event: &Event) -> (i64, i64) {
    let time: Timestamp = event.time.parse().unwrap_or(Timestamp::UNIX_EPOCH);
    (time.as_second(), i64::try_from(time.as_nanosecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            time: "2026-01-01T00:00:00.5Z".to_owned(),
            kind: "container".to_owned(),
            action: "die".to_owned(),
            id: "ab".to_owned(),
            attributes: [("name", "web"), ("exitCode", "0"), ("image", "debian")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        }
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(
            line(&event()),
            "2026-01-01T00:00:00.500000000Z container die ab (exitCode=0, image=debian, name=web)"
        );
    }

    #[test]
    fn an_event_has_dockers_fields() {
        let document = document(&event());
        assert_eq!(document["from"], "debian");
        assert_eq!(document["timeNano"], 1_767_225_600_500_000_000_i64);
        let template = Template::parse(
            "{{.Type}} {{.From}} {{.Actor.Attributes.name}} {{.Actor.Attributes.x}} {{.Time}}",
        );
        assert_eq!(
            template
                .unwrap()
                .execute(&value(&event()), Functions::Values)
                .as_deref(),
            Ok("container debian web <no value> 1767225600")
        );
    }
}
