//! What a client gets for what a shim sends.

use super::*;
use croze_proto::shim::Reply;
use prost::Message as _;
use tokio::net::UnixStream;

use crate::record::ExitStatus;

fn frame(id: u64, body: reply::Body) -> Vec<u8> {
    let body = Reply { id, body: Some(body) }.encode_to_vec();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

fn output(data: &[u8], position: Option<Position>) -> Vec<u8> {
    let output = wire::Output {
        stream: wire::Stream::Stdout.into(),
        data: data.to_vec(),
        position,
    };
    frame(7, reply::Body::Output(output))
}

fn exit(position: Option<Position>) -> Vec<u8> {
    let exit = wire::Exit {
        code: 3,
        position,
        ..wire::Exit::default()
    };
    frame(7, reply::Body::Exit(exit))
}

/// What a client gets when the shim sends `frames` and closes.
async fn relayed(frames: &[Vec<u8>], backlog: Option<Backlog>) -> Vec<Output> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&frames.concat()).await.unwrap();
    drop(theirs);
    let (to_client, mut receive) = mpsc::channel(64);
    let (reader, _writer) = ours.into_split();
    let relay = OutputRelay {
        reader,
        name: "web".into(),
        stream_id: 7,
        backlog,
        to_client,
    };
    relay.run().await;
    let mut items = Vec::new();
    while let Some(item) = receive.recv().await {
        items.push(item.unwrap());
    }
    items
}

#[tokio::test]
async fn a_stream_ends_once_with_an_exit_or_with_words() {
    let foreign = frame(8, reply::Body::Done(wire::Done {}));
    let frames = [output(b"a", None), foreign, exit(None), output(b"late", None)];
    let whole = relayed(&frames, None).await;
    assert_eq!(whole[0], Output::Stdout(Bytes::from_static(b"a")));
    assert!(
        matches!(&whole[1..], [Output::Exit(status)] if status.code == 3),
        "{whole:?}"
    );
    let broken = relayed(&[output(b"a", None)], None).await;
    assert_eq!(broken[1..], [Output::Notice(CONNECTION_LOST.into())]);
    // A frame that was cut off is the end as well.
    let mut half = output(b"b", None);
    half.truncate(half.len() - 1);
    assert_eq!(
        relayed(&[half], None).await,
        [Output::Notice(CONNECTION_LOST.into())]
    );
}

fn at(entries: u64, stdout_held: u32) -> Position {
    Position {
        log_offset: entries * ENTRY.len() as u64,
        stdout_held,
        ..Position::default()
    }
}

const ENTRY: &str = "{\"log\":\"word\\n\",\"stream\":\"stdout\",\"time\":\"T\"}\n";

/// A log of four entries, and a client that was attached at its beginning.
fn backlog(dir: &tempfile::TempDir, state: &watch::Sender<State>) -> Backlog {
    let path = dir.path().join("log");
    std::fs::write(&path, ENTRY.repeat(4)).unwrap();
    Backlog::open(&path, Position::default(), state.subscribe()).unwrap()
}

fn text(items: &[Output]) -> String {
    let bytes: Vec<u8> = items
        .iter()
        .filter_map(|item| match item {
            Output::Stdout(bytes) => Some(bytes.to_vec()),
            _ => None,
        })
        .flatten()
        .collect();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn gaps_are_filled_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let state = watch::Sender::new(State::Created);
    let gap = wire::Gap {
        position: Some(at(3, 2)),
        stdout_held: b"wo".to_vec(),
        stderr_held: Vec::new(),
    };
    let frames = [
        output(b"word\nwo", Some(at(1, 2))),
        frame(7, reply::Body::Gap(gap)),
        output(b"r", Some(at(3, 3))),
        exit(Some(at(4, 0))),
    ];
    let items = relayed(&frames, Some(backlog(&dir, &state))).await;
    assert_eq!(text(&items), "word\n".repeat(4), "{items:?}");
    assert!(
        matches!(items.last(), Some(Output::Exit(status)) if status.code == 3),
        "{items:?}"
    );
}

#[tokio::test]
async fn a_gap_without_a_log_is_told() {
    let state = watch::Sender::new(State::Created);
    let lost = AttachedLog {
        path: "/nowhere/log".into(),
        state: state.subscribe(),
    };
    let backlog = lost.open(Position::default()).await;
    assert!(backlog.is_none());
    let gap = wire::Gap {
        position: Some(at(3, 0)),
        ..wire::Gap::default()
    };
    let frames = [frame(7, reply::Body::Gap(gap)), exit(Some(at(3, 0)))];
    let items = relayed(&frames, backlog).await;
    assert_eq!(items[0], Output::Notice(NOTHING_TO_CATCH_UP_FROM.into()));
    assert!(
        matches!(&items[1..], [Output::Exit(status)] if status.code == 3),
        "{items:?}"
    );
}

#[tokio::test]
async fn the_end_is_found_without_the_shim() {
    let dir = tempfile::tempdir().unwrap();
    let state = watch::Sender::new(State::Created);
    let backlog = backlog(&dir, &state);
    // By the time the client looks the next run has begun to print.
    let status = ExitStatus {
        code: 9,
        log_end: Some(at(3, 0).log_offset),
        unknown: false,
        ..crate::service::unknown_end()
    };
    state.send_replace(State::Exited {
        status: status.clone(),
    });
    let items = relayed(&[output(b"word\nw", Some(at(1, 1)))], Some(backlog)).await;
    assert_eq!(text(&items), "word\n".repeat(3), "{items:?}");
    assert_eq!(items.last(), Some(&Output::Exit(status)));
}

#[tokio::test]
async fn a_killed_shim_is_told_after_what_it_logged() {
    let dir = tempfile::tempdir().unwrap();
    let state = watch::Sender::new(State::Created);
    let backlog = backlog(&dir, &state);
    state.send_replace(State::Exited {
        status: crate::service::unknown_end(),
    });
    let items = relayed(&[], Some(backlog)).await;
    assert_eq!(text(&items), "word\n".repeat(4), "{items:?}");
    assert_eq!(items.last(), Some(&Output::Notice(CONNECTION_LOST.into())));
}

#[tokio::test]
async fn a_client_that_goes_is_let_go_while_its_input_waits() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = ours.into_split();
    let (input, from_client) = mpsc::channel(16);
    let (over, is_over) = oneshot::channel();
    let relay = tokio::spawn(relay_input(writer, 8, 7, from_client, is_over));
    // Far more than a socket holds: with its first byte there, the rest waits.
    let much = Bytes::from(vec![7; 4 << 20]);
    input.send(Input::Stdin(much)).await.unwrap();
    let mut first = [0];
    tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut first)
        .await
        .unwrap();
    over.send(()).unwrap();
    drop(reader);
    tokio::time::timeout(Duration::from_secs(10), relay)
        .await
        .expect("the connection outlives its client")
        .unwrap();
}

#[test]
fn input_of_any_length_is_cut_into_messages_that_a_shim_takes() {
    let bytes = Bytes::from(vec![7; 3 * INPUT_PIECE + 1]);
    let pieces = messages(Input::Stdin(bytes.clone()));
    let mut joined = Vec::new();
    for piece in &pieces {
        match piece {
            request::Body::Input(piece) => joined.extend_from_slice(piece),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((pieces.len(), joined), (4, bytes.to_vec()));
}
