//! The log's codec: whatever goes in comes out of the JSON again, in order and whole.

use super::*;

fn read_back(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            (
                value["log"].as_str().unwrap().to_owned(),
                value["stream"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

fn entries(chunks: &[&[u8]]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&path).unwrap();
    for chunk in chunks {
        log.push(StreamKind::Stdout, chunk, 0);
    }
    log.finish(0);
    assert_eq!(log.dropped(), 0);
    read_back(&path).into_iter().map(|(text, _)| text).collect()
}

#[test]
fn lines_whatever_the_chunks() {
    let table: [(&[&[u8]], &[&str]); 6] = [
        (&[b"a\nb\n"], &["a\n", "b\n"]),
        (&[b"a", b"b\nc", b"\n"], &["ab\n", "c\n"]),
        (&[b"no newline"], &["no newline"]),
        (&[b"\n\n"], &["\n", "\n"]),
        (
            &[b"tab\t \"quoted\" back\\slash \x00\x1b[0m\r\n"],
            &["tab\t \"quoted\" back\\slash \u{0}\u{1b}[0m\r\n"],
        ),
        (&[b"bad \xff\xfe utf\n"], &["bad \u{fffd}\u{fffd} utf\n"]),
    ];
    for (chunks, expected) in table {
        assert_eq!(entries(chunks), expected, "{chunks:?}");
    }
}

#[test]
fn a_long_line_becomes_parts_of_16_kib_and_no_character_is_cut() {
    let line = format!("{}ä{}\n", "x".repeat(ENTRY_MAX - 1), "y".repeat(ENTRY_MAX));
    let parts = entries(&[line.as_bytes()]);
    assert_eq!(parts.concat(), line);
    assert_eq!(
        parts[0].len(),
        ENTRY_MAX - 1,
        "the two bytes of ä go to the next part"
    );
    assert!(parts.iter().all(|p| p.len() <= ENTRY_MAX));
    assert_eq!(parts.iter().filter(|p| p.ends_with('\n')).count(), 1);
}

#[test]
fn streams_are_cut_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&path).unwrap();
    log.push(StreamKind::Stdout, b"out ", 0);
    log.push(StreamKind::Stderr, b"err\n", 0);
    log.push(StreamKind::Stdout, b"end\n", 0);
    log.finish(0);
    let expected = [("err\n", "stderr"), ("out end\n", "stdout")].map(|(t, s)| (t.to_owned(), s.to_owned()));
    assert_eq!(read_back(&path), expected);
}

#[test]
fn a_half_entry_of_an_earlier_life_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&path).unwrap();
    log.push(StreamKind::Stdout, b"one\n", 0);
    drop(log);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&[b'{'; 9000]).unwrap();
    let mut log = Log::open(&path).unwrap();
    log.push(StreamKind::Stdout, b"two\n", 0);
    let texts: Vec<String> = read_back(&path).into_iter().map(|(t, _)| t).collect();
    assert_eq!(texts, ["one\n", "two\n"]);
}

#[test]
fn a_disk_that_refuses_loses_counts_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&path).unwrap();
    log.push(StreamKind::Stdout, b"kept\n", 0);
    let good = std::mem::replace(
        &mut log.lines.file,
        OpenOptions::new().append(true).open("/dev/full").unwrap(),
    );
    log.push(StreamKind::Stdout, b"lost 1\nlost 2\n", 0);
    log.push(StreamKind::Stdout, b"lost 3\n", 0);
    assert_eq!(log.dropped(), 3);
    log.lines.file = good;
    log.push(StreamKind::Stdout, b"kept again\n", 0);
    log.finish(0);
    let texts: Vec<String> = read_back(&path).into_iter().map(|(t, _)| t).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert_eq!((texts[0].as_str(), texts[2].as_str()), ("kept\n", "kept again\n"));
    assert!(
        texts[1].starts_with("croze-shim: 3 log lines were dropped here: "),
        "{}",
        texts[1]
    );
}

#[test]
fn what_clients_had_live_is_no_loss_for_them_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&dir.path().join("log")).unwrap();
    log.lines.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
    log.push(StreamKind::Stdout, b"lost\nheld", 0);
    log.push(StreamKind::Stderr, b"held", 0);
    let live = log.position();
    assert_eq!(
        (live.lines_dropped, live.stdout_held, live.stderr_held),
        (1, 4, 4)
    );
    let for_clients = log.finish(0);
    let expected = Position {
        stdout_held: 0,
        stderr_held: 0,
        ..live
    };
    assert_eq!(for_clients, expected);
    assert_eq!(log.position().lines_dropped, 3);
}

#[test]
fn a_position_counts_what_the_file_has_and_what_it_cannot_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let beside = dir.path().join("log.replaced");
    let mut log = Log::open(&path).unwrap();
    log.push(StreamKind::Stdout, b"nobody listens \xff\n", 0);
    assert!(!beside.exists());
    log.keep_replaced().unwrap();
    log.push(StreamKind::Stdout, b"a\xf0\n b\xf1", 0);
    log.push(StreamKind::Stderr, b"held", 0);
    let length = fs::metadata(&path).unwrap().len();
    let expected = Position {
        log_offset: length,
        replaced_offset: 1,
        stdout_held: 3,
        stderr_held: 4,
        lines_dropped: 0,
    };
    assert_eq!(log.position(), expected);
    assert_eq!(log.held(), (&b" b\xf1"[..], &b"held"[..]));
    log.finish(0);
    assert_eq!(fs::read(&beside).unwrap(), b"\xf0\xf1");
    let end = log.position();
    assert_eq!((end.replaced_offset, end.stdout_held, end.stderr_held), (2, 0, 0));
    log.forget_replaced();
    assert!(!beside.exists());
}

#[test]
fn what_a_full_disk_took_of_a_batch_keeps_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&path).unwrap();
    log.keep_replaced().unwrap();
    log.batch.add(b"\xf0\n", StreamKind::Stdout, "T");
    let first = log.batch.lines.len();
    log.batch.add(b"\xf1\n", StreamKind::Stdout, "T");
    // The disk took the first entry and half of the second.
    log.replaced.as_mut().unwrap().append(b"\xf0\xf1").unwrap();
    let lines = log.batch.lines[..first + 10].to_vec();
    log.lines.file.write_all(&lines).unwrap();
    log.drop_entries(io::Error::other("full"), 0);
    let position = log.position();
    assert_eq!(
        (
            position.log_offset,
            position.replaced_offset,
            position.lines_dropped
        ),
        (first as u64, 1, 1)
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), first as u64);
    assert_eq!(fs::read(dir.path().join("log.replaced")).unwrap(), b"\xf0");
}
