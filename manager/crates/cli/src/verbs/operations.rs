//! `operation`: what the daemon is doing for its clients, seen, watched and cancelled by any of them.

use std::pin::pin;

use croze_client::v1::{CancelOperationRequest, ListOperationsRequest, Operation, WatchOperationRequest};
use croze_client::{Client, Error};
use jiff::Timestamp;

use crate::args::OperationVerb;
use crate::failure::Failure;
use crate::listing::{Format, Title};
use crate::progress::{Display, Shown};
use crate::template::Value;
use crate::{human, signals, verbs};

const TABLE: &str = "{{.ID}}\t{{.Kind}}\t{{.Subject}}\t{{.Started}}\t{{.Progress}}";
const TITLES: [Title; 5] = [
    ("ID", "ID"),
    ("Kind", "KIND"),
    ("Subject", "SUBJECT"),
    ("Started", "STARTED"),
    ("Progress", "PROGRESS"),
];

/// `croze operation …`
pub(super) async fn operation(client: &Client, verb: &OperationVerb) -> Result<u8, Failure> {
    match verb {
        OperationVerb::Ls(args) => {
            let asked = args.format.as_deref();
            let format = match args.quiet {
                true => Format::quiet(asked, "ID")?,
                false => Format::parse(asked, TABLE)?,
            };
            let listed = client
                .operations()
                .list_operations(ListOperationsRequest {})
                .await;
            let listed = listed.map_err(Error::from)?.into_inner();
            let now = Timestamp::now();
            let rows: Vec<Value> = listed.operations.iter().map(|one| row(one, now)).collect();
            format.print(&TITLES, &rows)?;
            Ok(0)
        }
        OperationVerb::Watch(args) => watch(client, &args.operation).await,
        OperationVerb::Cancel(args) => {
            verbs::for_each_name(&args.operations, |id| async move {
                let request = CancelOperationRequest { id: id.clone() };
                client
                    .operations()
                    .cancel_operation(request)
                    .await
                    .map_err(Error::from)?;
                Ok(id)
            })
            .await
        }
    }
}

fn row(operation: &Operation, now: Timestamp) -> Value {
    let progress = match operation.total_bytes {
        0 => "resolving".to_owned(),
        total => format!(
            "{} of {}",
            human::size(operation.current_bytes),
            human::size(total)
        ),
    };
    let fields = [
        ("ID", operation.id.clone()),
        ("Kind", operation.kind.clone()),
        ("Progress", progress),
        ("Started", human::ago(&operation.started, now)),
        ("Subject", operation.subject.clone()),
    ];
    let fields = fields.map(|(name, text)| (name.to_owned(), Value::Text(text)));
    Value::Struct(fields.into_iter().collect())
}

/// Shows the progress until the end. That this client goes is nothing to the operation.
async fn watch(client: &Client, id: &str) -> Result<u8, Failure> {
    let request = WatchOperationRequest { id: id.to_owned() };
    let watched = client.operations().watch_operation(request).await;
    let mut events = watched.map_err(Error::from)?.into_inner();
    let mut display = Display::new(Shown::Everything);
    let mut signalled = pin!(signals::ending());
    loop {
        let progress = tokio::select! {
            progress = events.message() => progress.map_err(Error::from)?,
            number = &mut signalled, if display.is_drawn() => {
                let number = number.map_err(|source| Failure::io("catch signals", source))?;
                return Err(Failure::interrupted(format!("watch {id}"), number));
            }
        };
        match progress {
            Some(progress) => display.update(&progress),
            None => return Ok(0),
        }
    }
}
