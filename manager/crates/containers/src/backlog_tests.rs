//! Whatever a client had when it fell behind: it gets the rest, once.

use super::*;

const LINES: [(&str, bool); 5] = [
    (r"one\n", false),
    (r"err\n", true),
    (r"t\ufffdwo\n", false),
    (r"err 2\ufffd\n", true),
    ("end", false),
];

fn entry(text: &str, stderr: bool) -> String {
    let stream = if stderr { "stderr" } else { "stdout" };
    format!("{{\"log\":\"{text}\",\"stream\":\"{stream}\",\"time\":\"T\"}}\n")
}

/// A log with these lines, and its file of replaced bytes.
fn log(lines: &[(&str, bool)]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let text: String = lines.iter().map(|(text, stderr)| entry(text, *stderr)).collect();
    std::fs::write(&path, text).unwrap();
    std::fs::write(dir.path().join("log.replaced"), b"\xf1\xf2").unwrap();
    (dir, path)
}

fn end_of(path: &Path) -> Position {
    Position {
        log_offset: std::fs::metadata(path).unwrap().len(),
        replaced_offset: 2,
        ..Position::default()
    }
}

/// Standard output, standard error and notices of everything between two positions.
async fn missing(path: &Path, from: Position, to: Position, held: [&[u8]; 2]) -> [Vec<u8>; 3] {
    let (_state, receive) = watch::channel(State::Created);
    let mut backlog = Backlog::open(path, from, receive).unwrap();
    let mut pieces: Vec<Output> = backlog.refused(&to).into_iter().collect();
    while let Some(read) = backlog.read(&to).await {
        pieces.extend(read.unwrap());
    }
    pieces.extend(backlog.close(to, held[0].to_vec(), held[1].to_vec()));
    assert_eq!(backlog.position, to);
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for piece in pieces {
        match piece {
            Output::Stdout(bytes) => found[0].extend_from_slice(&bytes),
            Output::Stderr(bytes) => found[1].extend_from_slice(&bytes),
            Output::Notice(words) => found[2].extend_from_slice(words.as_bytes()),
            Output::Exit(_) => panic!("an exit"),
        }
    }
    found
}

#[tokio::test]
async fn everything_from_every_entry_on_with_any_part_of_the_next_line() {
    let (_dir, path) = log(&LINES);
    let all: [&[u8]; 2] = [b"one\nt\xf1wo\nend", b"err\nerr 2\xf2\n"];
    let lengths = LINES.map(|(text, stderr)| entry(text, stderr).len() as u64);
    // What each stream has behind so many entries.
    let had = [(0, 0), (4, 0), (4, 4), (9, 4), (9, 11), (12, 11)];
    for entries in 0..=LINES.len() {
        for (stdout_held, stderr_held) in [(0, 0), (1, 0), (0, 3), (2, 2)] {
            let (stdout, stderr) = had[entries];
            let from = Position {
                log_offset: lengths[..entries].iter().sum(),
                replaced_offset: u64::from(entries > 2) + u64::from(entries > 3),
                stdout_held,
                stderr_held,
                lines_dropped: 0,
            };
            let found = missing(&path, from, end_of(&path), [b"", b""]).await;
            let rest =
                |all: &[u8], had: usize, held: u32| all[(had + held as usize).min(all.len())..].to_vec();
            assert_eq!(found[0], rest(all[0], stdout, stdout_held), "{from:?}");
            assert_eq!(found[1], rest(all[1], stderr, stderr_held), "{from:?}");
            assert_eq!(found[2], b"");
        }
    }
}

#[tokio::test]
async fn what_is_in_no_entry_yet_comes_with_the_gap() {
    let (_dir, path) = log(&LINES[..2]);
    let target = Position {
        stdout_held: 6,
        stderr_held: 2,
        replaced_offset: 0,
        ..end_of(&path)
    };
    let start = Position::default();
    let found = missing(&path, start, target, [b"prompt", b"$ "]).await;
    assert_eq!(found, [b"one\nprompt".to_vec(), b"err\n$ ".to_vec(), vec![]]);
    // The client had some of it, and no entry was written since.
    let from = Position {
        stdout_held: 4,
        stderr_held: 2,
        ..target
    };
    let found = missing(&path, from, target, [b"prompt", b"$ "]).await;
    assert_eq!(found, [b"pt".to_vec(), vec![], vec![]]);
}

#[tokio::test]
async fn without_the_bytes_there_are_replacements() {
    let (dir, path) = log(&LINES);
    std::fs::remove_file(dir.path().join("log.replaced")).unwrap();
    let found = missing(&path, Position::default(), end_of(&path), [b"", b""]).await;
    assert_eq!(
        String::from_utf8(found[0].clone()).unwrap(),
        "one\nt\u{fffd}wo\nend"
    );
    // What the client had is counted in the bytes that were printed, of which each lost one is three in the log.
    let two: usize = LINES[..2]
        .iter()
        .map(|(text, stderr)| entry(text, *stderr).len())
        .sum();
    for (held, rest) in [
        (1, "\u{fffd}wo\nend"),
        (2, "wo\nend"),
        (3, "o\nend"),
        (5, "end"),
        (6, "nd"),
    ] {
        let from = Position {
            log_offset: two as u64,
            stdout_held: held,
            ..Position::default()
        };
        let found = missing(&path, from, end_of(&path), [b"", b""]).await;
        assert_eq!(found[0], rest.as_bytes(), "{held}");
        assert_eq!(found[1], "err 2\u{fffd}\n".as_bytes());
    }
}

#[tokio::test]
async fn lines_that_the_disk_refused_are_told_and_the_shims_words_left_out() {
    let (dir, path) = log(&LINES);
    let marked =
        "{\"log\":\"2 lines\\n\",\"stream\":\"stderr\",\"attrs\":{\"croze\":\"dropped\"},\"time\":\"T\"}\n";
    std::fs::write(&path, format!("{marked}{}", entry("later", false))).unwrap();
    let from = Position {
        stdout_held: 3,
        ..Position::default()
    };
    let target = Position {
        lines_dropped: 2,
        ..end_of(&path)
    };
    let found = missing(&path, from, target, [b"", b""]).await;
    assert_eq!(
        (found[0].as_slice(), found[1].as_slice()),
        (&b"later"[..], &b""[..])
    );
    assert!(found[2].starts_with(b"2 lines of output are missing"));
    drop(dir);
}

#[tokio::test]
async fn a_log_that_was_cut_off_or_damaged_is_told_and_ends_nothing() {
    let (_dir, path) = log(&LINES[..1]);
    let end = end_of(&path);
    let beyond = Position {
        log_offset: end.log_offset + 100,
        ..end
    };
    let found = missing(&path, Position::default(), beyond, [b"", b"more"]).await;
    assert_eq!(
        (found[0].as_slice(), found[1].as_slice()),
        (&b"one\n"[..], &b"more"[..])
    );
    assert!(found[2].ends_with(b"was cut off"));

    std::fs::write(&path, format!("\0\0\n{}", entry("kept", false))).unwrap();
    let found = missing(&path, Position::default(), end_of(&path), [b"", b""]).await;
    assert_eq!(found[0], b"kept");
    assert!(found[2].ends_with(b"is damaged"));

    // What a killed shim left in the middle of an entry is nothing.
    std::fs::write(&path, format!("{}{{\"log\":\"ha", entry("kept", false))).unwrap();
    let found = missing(&path, Position::default(), end_of(&path), [b"", b""]).await;
    assert_eq!(found, [b"kept".to_vec(), vec![], vec![]]);
}

#[tokio::test]
async fn the_first_end_from_now_on_counts() {
    let (_dir, path) = log(&LINES[..1]);
    let ended = |code| State::Exited {
        status: ExitStatus {
            code,
            log_end: Some(7),
            ..crate::service::unknown_end()
        },
    };
    let (state, receive) = watch::channel(ended(1));
    let mut backlog = Backlog::open(&path, Position::default(), receive).unwrap();
    assert_eq!(
        backlog.end(std::time::Duration::ZERO).await,
        None,
        "an earlier run"
    );
    state.send_replace(ended(2));
    let status = backlog.end(std::time::Duration::from_secs(10)).await;
    assert_eq!(status.as_ref().map(|s| s.code), Some(2));
    assert_eq!(backlog.end_position(status.as_ref()).log_offset, 7);
    assert_eq!(backlog.end_position(None).log_offset, end_of(&path).log_offset);
}
