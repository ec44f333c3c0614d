//! The shim against a runtime made of shell: no privileges are needed, and every order of events can be arranged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod lab;

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use croze_proto::shim::{self as wire, reply, request};

use lab::{Client, Lab, read_frame};

#[test]
fn output_is_logged_the_end_recorded_and_the_runtime_told() {
    let mut lab = Lab::launched("echo one; echo two >&2; echo -n three; exit 7");
    let mut client = lab.client();
    client.start();
    assert_eq!(client.wait().code, 7);
    let record = lab.end();
    assert_eq!(
        (&record["code"], &record["signal"], &record["oom_killed"]),
        (&7.into(), &0.into(), &false.into())
    );
    let mut log = lab.log();
    log.sort();
    assert_eq!(log, ["one\n", "three", "two\n"]);
}

#[test]
fn a_process_that_ends_before_its_pid_is_known_keeps_its_status() {
    let mut lab = Lab::new("echo quick; touch command-ended; exit 9");
    lab.file("at-once", "");
    let answer = lab.launch(|_| {});
    assert!(matches!(answer, reply::Body::Ready(_)), "{answer:?}");
    assert_eq!(lab.end()["code"], 9);
    assert_eq!(lab.log(), ["quick\n"]);
}

#[test]
fn the_runtimes_words_come_back() {
    let mut lab = Lab::new("true");
    lab.file("fail-create", "");
    match lab.launch(|_| {}) {
        reply::Body::Failure(failure) => {
            assert_eq!(
                (failure.stage.as_str(), failure.message.as_str()),
                ("create", "no such luck")
            );
        }
        other => panic!("{other:?}"),
    }
    let mut lab = Lab::launched("sleep 1000");
    lab.file("fail-start", "");
    let mut client = lab.client();
    match client.ask(request::Body::Start(wire::Start {})) {
        reply::Body::Failure(failure) => assert_eq!(failure.message, "cannot start"),
        other => panic!("{other:?}"),
    }
    // What was created is not left behind.
    assert_eq!(lab.end()["signal"], 9);
}

#[test]
fn a_runtime_that_is_not_there_is_an_answer_too() {
    let mut lab = Lab::new("true");
    match lab.launch(|launch| launch.runtime = "/nowhere/rt".into()) {
        reply::Body::Failure(failure) => {
            assert!(failure.message.contains("/nowhere/rt"), "{}", failure.message);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn signals_and_discard() {
    let mut lab = Lab::launched("exec sleep 1000");
    let mut client = lab.client();
    client.start();
    let signal = |number, exec_id: &str| {
        request::Body::Signal(wire::Signal {
            number,
            exec_id: exec_id.into(),
        })
    };
    assert!(
        matches!(client.ask(signal(15, "nope")), reply::Body::Failure(f) if f.kind() == wire::FailureKind::NotFound)
    );
    assert!(matches!(client.ask(signal(999, "")), reply::Body::Failure(_)));
    assert!(matches!(client.ask(signal(15, "")), reply::Body::Done(_)));
    let exit = client.wait();
    assert_eq!((exit.code, exit.signal), (143, 15));
    lab.end();

    let mut lab = Lab::launched("exit 0");
    let mut client = lab.client();
    assert!(matches!(
        client.ask(request::Body::Discard(wire::Discard {})),
        reply::Body::Done(_)
    ));
    assert_eq!(lab.end()["code"], 137);
}

#[test]
fn who_comes_while_it_is_started_hears_when_that_is_over() {
    let mut lab = Lab::launched("exec sleep 1000");
    let gate = lab.path("run/gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let mut first = lab.client();
    first.send(request::Body::Start(wire::Start {}));
    // The one who asked is gone, as a daemon that was killed; the question is behind the start in the shim's queue.
    let status = first.ask(request::Body::Status(wire::Status {}));
    assert!(
        matches!(&status, reply::Body::Status(s) if s.starting && s.phase() == wire::Phase::Created),
        "{status:?}"
    );
    drop(first);
    let mut second = lab.client();
    let discard = second.ask(request::Body::Discard(wire::Discard {}));
    assert!(matches!(discard, reply::Body::Failure(_)), "{discard:?}");
    let wait = || {
        request::Body::Wait(wire::Wait {
            exec_id: String::new(),
            start: true,
        })
    };
    let waiting = second.send(wait());
    fs::write(&gate, "go\n").unwrap();
    let over = read_frame(&mut second.stream).unwrap();
    assert_eq!(over.id, waiting);
    assert!(matches!(over.body, Some(reply::Body::Done(_))), "{over:?}");
    let status = second.ask(request::Body::Status(wire::Status {}));
    assert!(
        matches!(&status, reply::Body::Status(s) if !s.starting && s.phase() == wire::Phase::Running),
        "{status:?}"
    );
    // Nothing is in progress any more.
    assert!(matches!(second.ask(wait()), reply::Body::Done(_)));
    let kill = wire::Signal {
        number: 9,
        exec_id: String::new(),
    };
    second.ask(request::Body::Signal(kill));
    assert_eq!(lab.end()["code"], 137);
}

#[test]
fn input_and_output_of_an_attached_client() {
    let mut lab = Lab::new("cat; exit 5");
    lab.launch(|launch| (launch.open_stdin, launch.stdin_once) = (true, true));
    let mut client = lab.client();
    let attached = client.ask(request::Body::Attach(wire::Attach { stdin: true }));
    assert!(matches!(attached, reply::Body::Ready(_)), "{attached:?}");
    lab.client().start();
    let text = "some words\n".repeat(20_000);
    let mut sender = Client {
        stream: client.stream.try_clone().unwrap(),
        last: client.last,
    };
    let to_send = text.clone();
    // Both directions at once: neither side's buffers hold all of it.
    let sending = std::thread::spawn(move || {
        for chunk in to_send.as_bytes().chunks(10_000) {
            sender.send(request::Body::Input(chunk.to_vec()));
        }
        sender.send(request::Body::CloseInput(wire::CloseInput {}));
    });
    let (output, last) = client.rest();
    sending.join().unwrap();
    assert_eq!(output.len(), text.len());
    assert!(output == text);
    assert!(matches!(last, Some(reply::Body::Exit(exit)) if exit.code == 5));
    assert_eq!(lab.end()["code"], 5);
}

/// Prints sixty lines of 100,000 bytes.
const MUCH: &str =
    "i=0; while [ $i -lt 60 ]; do head -c 100000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done;";

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_can_find_what_it_missed() {
    let mut lab = Lab::launched(MUCH);
    let mut lazy = lab.client();
    let ready = lazy.ask(request::Body::Attach(wire::Attach { stdin: false }));
    assert!(
        matches!(ready, reply::Body::Ready(ref r) if r.position == Some(wire::Position::default())),
        "{ready:?}"
    );
    let mut other = lab.client();
    other.start();
    assert_eq!(other.wait().code, 0);
    let record = lab.end();
    let log = lab.log();
    assert_eq!(log.concat().len(), 60 * 100_001);
    assert_eq!(record["log_end"], fs::metadata(lab.path("log")).unwrap().len());
    // It woke up when everything was over. What it has got says where in the log it ends.
    let (mut got, mut position) = (0, wire::Position::default());
    while let Some(reply) = read_frame(&mut lazy.stream) {
        match reply.body.unwrap() {
            reply::Body::Output(output) => {
                got += output.data.len();
                position = output.position.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(got < 60 * 100_001);
    let text = fs::read(lab.path("log")).unwrap();
    let before = &text[..usize::try_from(position.log_offset).unwrap()];
    let entries = before.iter().filter(|b| **b == b'\n').count();
    let held = usize::try_from(position.stdout_held).unwrap();
    assert_eq!(log[..entries].concat().len() + held, got);
}

#[test]
fn a_descendant_that_holds_the_pipe_delays_the_end_by_a_stated_limit() {
    let mut lab = Lab::launched("sleep 1000 & echo $! >sleeper; echo bye; exit 0");
    let begun = Instant::now();
    lab.client().start();
    assert_eq!(lab.end()["code"], 0);
    let took = begun.elapsed();
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(15)).contains(&took),
        "{took:?}"
    );
    assert_eq!(lab.log(), ["bye\n"]);
    let sleeper = fs::read_to_string(lab.path("run/sleeper")).unwrap();
    croze_sys::pidfd::kill(sleeper.trim().parse().unwrap(), 9).unwrap();
}

#[test]
fn an_exec_has_streams_and_an_end_of_its_own() {
    let mut lab = Lab::launched("exec sleep 1000");
    lab.file(
        "exec-command",
        "read -r line; echo got $line; echo bad >&2; exit 3",
    );
    let mut main = lab.client();
    main.start();
    let mut client = lab.client();
    let exec = wire::Exec {
        exec_id: "ab12".into(),
        process_json: b"{}".to_vec(),
        stdin: true,
        ..wire::Exec::default()
    };
    let begun = client.ask(request::Body::Exec(exec.clone()));
    assert!(matches!(begun, reply::Body::Ready(_)), "{begun:?}");
    client.send(request::Body::Input(b"this\n".to_vec()));
    let (output, last) = client.rest();
    assert!(
        output.contains("got this\n") && output.contains("bad\n"),
        "{output:?}"
    );
    assert!(matches!(last, Some(reply::Body::Exit(exit)) if exit.code == 3));
    let mut refused = lab.client();
    let bad = wire::Exec {
        exec_id: "../x".into(),
        ..exec
    };
    assert!(matches!(
        refused.ask(request::Body::Exec(bad)),
        reply::Body::Failure(_)
    ));
    main.ask(request::Body::Signal(wire::Signal {
        number: 9,
        exec_id: String::new(),
    }));
    assert_eq!(lab.end()["signal"], 9);
    assert_eq!(
        fs::read(lab.path("log")).unwrap(),
        b"",
        "an exec's output is its client's"
    );
}

#[test]
fn a_client_that_reads_again_is_told_where_it_goes_on_and_how_it_ended() {
    let mut lab = Lab::launched(&format!(
        "{MUCH} printf prompt; while ! [ -e go ]; do :; done; echo after; exit 4"
    ));
    let mut lazy = lab.client();
    lazy.ask(request::Body::Attach(wire::Attach { stdin: false }));
    lab.client().start();
    while lab.log().concat().len() < 60 * 100_001 {}
    let mut bodies = Vec::new();
    let gap = loop {
        match read_frame(&mut lazy.stream).unwrap().body.unwrap() {
            reply::Body::Output(_) => {}
            reply::Body::Gap(gap) => break gap,
            other => panic!("{other:?}"),
        }
    };
    let position = gap.position.unwrap();
    // The prompt may have been printed after the gap was told: then it comes by itself.
    if position.stdout_held == 0 {
        bodies.push(read_frame(&mut lazy.stream).unwrap().body.unwrap());
    } else {
        assert_eq!(gap.stdout_held, b"prompt");
    }
    lab.file("go", "");
    while let Some(reply) = read_frame(&mut lazy.stream) {
        bodies.push(reply.body.unwrap());
    }
    let texts: Vec<u8> = bodies
        .iter()
        .filter_map(|body| match body {
            reply::Body::Output(output) => Some(output.data.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(texts.ends_with(b"after\n"), "{bodies:?}");
    assert!(
        matches!(bodies.last(), Some(reply::Body::Exit(exit)) if exit.code == 4
            && exit.position.unwrap().log_offset == fs::metadata(lab.path("log")).unwrap().len()),
        "{bodies:?}"
    );
    assert_eq!(lab.end()["code"], 4);
}

#[test]
fn input_that_does_not_end_with_its_first_client_stays_open() {
    let mut lab = Lab::new("read -r line; echo got $line");
    lab.launch(|launch| launch.open_stdin = true);
    lab.client().start();
    let mut first = lab.client();
    first.ask(request::Body::Attach(wire::Attach { stdin: true }));
    first.send(request::Body::CloseInput(wire::CloseInput {}));
    // Answered after it: requests of one connection are served in turn.
    first.ask(request::Body::Status(wire::Status {}));
    let mut second = lab.client();
    second.ask(request::Body::Attach(wire::Attach { stdin: true }));
    second.send(request::Body::Input(b"words\n".to_vec()));
    assert_eq!(second.rest().0, "got words\n");
    lab.end();
}

/// An exec with nothing special about it.
fn plain_exec(exec_id: &str) -> request::Body {
    request::Body::Exec(wire::Exec {
        exec_id: exec_id.into(),
        process_json: b"{}".to_vec(),
        ..wire::Exec::default()
    })
}

#[test]
fn a_runtime_that_hangs_does_not_keep_the_end_from_being_recorded() {
    let mut lab = Lab::launched("while ! [ -e go ]; do :; done; exit 6");
    lab.client().start();
    lab.file("hang-exec", "");
    let mut client = lab.client();
    let exec = client.send(plain_exec("ab"));
    lab.client().ask(request::Body::Status(wire::Status {}));
    lab.file("go", "");
    let refused = read_frame(&mut client.stream).unwrap();
    assert_eq!(refused.id, exec);
    assert!(
        matches!(refused.body, Some(reply::Body::Failure(ref f)) if f.message.contains("took too long")),
        "{refused:?}"
    );
    assert_eq!(lab.end()["code"], 6);
}

#[test]
fn an_execs_client_that_stalls_gets_everything_in_the_end() {
    let mut lab = Lab::launched("exec sleep 1000");
    let mut main = lab.client();
    main.start();
    // It writes until everything between it and its client is full, says how much that was, and ends.
    lab.file(
        "exec-command",
        "mkdir first 2>/dev/null || exec sleep 9
        dd if=/dev/zero bs=1000 2>written & p=$!
        sleep 2; kill -USR1 $p; while ! [ -s written ]; do :; done; kill -9 $p; exit 3",
    );
    let mut stalled = lab.client();
    let begun = stalled.ask(plain_exec("ab"));
    assert!(matches!(begun, reply::Body::Ready(_)), "{begun:?}");
    while !lab.path("run/first").exists() {}
    // Far longer than the limit for draining.
    let mut clock = lab.client();
    clock.ask(plain_exec("cd"));
    assert!(matches!(clock.rest().1, Some(reply::Body::Exit(exit)) if exit.code == 0));
    let (output, last) = stalled.rest();
    assert!(
        matches!(last, Some(reply::Body::Exit(exit)) if exit.code == 3),
        "{last:?}"
    );
    let words = fs::read_to_string(lab.path("run/written")).unwrap();
    let full_blocks: usize = words
        .lines()
        .nth(1)
        .unwrap()
        .split('+')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(output.len(), full_blocks * 1000, "{words}");
    main.ask(request::Body::Signal(wire::Signal {
        number: 9,
        exec_id: String::new(),
    }));
    lab.end();
}

#[test]
fn who_does_not_say_hello_is_not_served() {
    let mut lab = Lab::launched("exit 0");
    let stream = UnixStream::connect(lab.path("run/shim.sock")).unwrap();
    let mut rude = Client { stream, last: 0 };
    let answer = rude.ask(request::Body::Status(wire::Status {}));
    assert!(matches!(answer, reply::Body::Failure(_)), "{answer:?}");
    assert_eq!(rude.stream.read(&mut [0; 8]).unwrap(), 0);
    lab.client().start();
    lab.end();
}

#[test]
fn a_test_that_fails_leaves_neither_shim_nor_cgroup() {
    let lab = Lab::launched("sleep 1000 & exec sleep 1000");
    lab.client().start();
    let shim = lab.shim.as_ref().unwrap().id();
    let own = lab.path("run");
    let below = || {
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path().join("cwd")).ok())
            .filter(|cwd| *cwd == own)
            .count()
    };
    // The processes of the container are where their runtime was.
    assert!(below() >= 1);
    let cgroup = fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap();
    drop(lab);
    assert_eq!(below(), 0);
    for line in cgroup.lines().filter(|line| line.contains("/croze-shim/")) {
        let (_, path) = line.split_once(":/").unwrap();
        let found = fs::read_dir("/sys/fs/cgroup").unwrap();
        for hierarchy in found.filter_map(Result::ok) {
            assert!(!hierarchy.path().join(path).exists(), "{line}");
        }
    }
}
