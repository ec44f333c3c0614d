//! What recovery decides in every situation.

use super::*;

fn process(pid: u32) -> ProcessIdentity {
    ProcessIdentity {
        pid,
        start_ticks: 1,
        boot_id: "b".into(),
    }
}

fn exited(code: u32) -> ExitStatus {
    ExitStatus {
        code,
        finished_at: "t".into(),
        unknown: false,
        ..unknown_end()
    }
}

fn nothing_there() -> Observed {
    Observed {
        shim: ShimState::Absent,
        exit: None,
        orphan: None,
        leftovers: false,
    }
}

fn last(was_started: bool) -> LastRun {
    LastRun {
        status: exited(3),
        was_started,
        started_at: None,
    }
}

fn answers(phase: Phase) -> Observed {
    Observed {
        shim: ShimState::Answers {
            phase,
            process: process(5),
            started_at: Some("s".into()),
            starting: false,
        },
        ..nothing_there()
    }
}

fn with_leftovers() -> Observed {
    Observed {
        leftovers: true,
        ..nothing_there()
    }
}

fn being_started() -> Observed {
    Observed {
        shim: ShimState::Answers {
            phase: Phase::Created,
            process: process(5),
            started_at: None,
            starting: true,
        },
        ..nothing_there()
    }
}

#[test]
fn every_situation_has_its_action() {
    let absent = nothing_there();
    let with_exit = Observed {
        exit: Some(last(true)),
        ..absent.clone()
    };
    let discarded = Observed {
        exit: Some(last(false)),
        ..absent.clone()
    };
    let orphaned = Observed {
        orphan: Some(process(5)),
        ..absent.clone()
    };
    let silent = Observed {
        shim: ShimState::Silent("x".into()),
        exit: Some(last(true)),
        ..absent.clone()
    };
    let (created, running) = (State::Created, State::Running { process: process(5) });
    let over = State::Exited { status: exited(0) };
    let dead = State::Dead { reason: "r".into() };
    let table: [(&str, &State, &Observed, Action); 21] = [
        ("prepared", &created, &answers(Phase::Created), Action::Watch),
        (
            "crash during the start",
            &created,
            &being_started(),
            Action::Follow,
        ),
        (
            "crash during a further start",
            &over,
            &being_started(),
            Action::Follow,
        ),
        (
            "crash between start and record",
            &created,
            &answers(Phase::Running),
            Action::Began(process(5), Some("s".into())),
        ),
        (
            "the same, second run",
            &over,
            &answers(Phase::Running),
            Action::Began(process(5), Some("s".into())),
        ),
        ("runs", &running, &answers(Phase::Running), Action::Watch),
        ("ends just now", &running, &answers(Phase::Exited), Action::Watch),
        (
            "ended while the daemon was away",
            &running,
            &with_exit,
            Action::Ended(last(true)),
        ),
        ("shim killed", &running, &orphaned, Action::Adopt(process(5))),
        ("host rebooted", &running, &absent, Action::Lost),
        (
            "silent shim, whatever else",
            &running,
            &silent,
            Action::Unclear("x".into()),
        ),
        (
            "silent shim of a created one",
            &created,
            &silent,
            Action::Unclear("x".into()),
        ),
        (
            "ran and ended unrecorded",
            &created,
            &with_exit,
            Action::Ended(last(true)),
        ),
        ("discarded, never started", &created, &discarded, Action::Nothing),
        ("never prepared", &created, &absent, Action::Nothing),
        (
            "crash while preparing",
            &created,
            &with_leftovers(),
            Action::Sweep,
        ),
        ("over", &over, &absent, Action::Nothing),
        ("over, its record still there", &over, &with_exit, Action::Nothing),
        ("over, yet something runs", &over, &orphaned, Action::Sweep),
        (
            "over, shim about to leave",
            &over,
            &answers(Phase::Exited),
            Action::Watch,
        ),
        ("dead", &dead, &absent, Action::Nothing),
    ];
    for (name, state, observed, expected) in table {
        assert_eq!(plan(state, observed), expected, "{name}");
    }
}

#[test]
fn a_later_run_that_nobody_recorded_is_told_by_its_end() {
    let at = |time: &str, code| ExitStatus {
        finished_at: time.into(),
        ..exited(code)
    };
    let recorded = State::Exited {
        status: at("2026-01-01T12:00:00Z", 0),
    };
    let table = [
        ("its own exit record", "2026-01-01T12:00:00Z", true, false),
        (
            "its start failed, recorded after its shim",
            "2026-01-01T11:00:00Z",
            true,
            false,
        ),
        (
            "a second run began and ended unrecorded",
            "2026-01-01T12:00:00.5Z",
            true,
            true,
        ),
        (
            "prepared a second time, and discarded",
            "2026-01-01T13:00:00Z",
            false,
            false,
        ),
        ("unreadable", "yesterday", true, false),
    ];
    for (name, time, was_started, ran_again) in table {
        let last = LastRun {
            status: at(time, 3),
            was_started,
            started_at: None,
        };
        let observed = Observed {
            exit: Some(last.clone()),
            ..nothing_there()
        };
        let expected = match ran_again {
            true => Action::RanAgain(last),
            false => Action::Nothing,
        };
        assert_eq!(plan(&recorded, &observed), expected, "{name}");
    }
}

#[tokio::test]
async fn an_end_that_two_have_seen_is_told_once_and_that_of_the_next_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = croze_store::Store::open(&dir.path().join("root")).unwrap();
    let settings = crate::types::Settings {
        state_dir: dir.path().join("root/containers"),
        run_dir: dir.path().join("run"),
        runtimes: crate::runtimes::Runtimes::single("/nowhere/rt".into()),
        runtime_root: dir.path().join("state"),
        shim: "/nowhere/shim".into(),
        init: None,
    };
    let containers = Containers::open(&store, settings).unwrap();
    let request = crate::request::CreateRequest {
        command: vec!["true".into()],
        network: crate::networking::Network::None,
        ..Default::default()
    };
    let id = containers.new_id().unwrap();
    containers
        .create(id.clone(), request, Default::default())
        .await
        .unwrap();
    let mut events = containers.events();
    for _ in 0..2 {
        containers.inner.begin_run(&id);
        let run = containers.inner.run(&id).unwrap();
        for _ in 0..2 {
            containers.ended(&id, run, last(true)).await.unwrap();
        }
        let told = events.try_recv().unwrap();
        assert!(
            matches!(&told, Event::Exited { status, .. } if status.code == 3),
            "{told:?}"
        );
        assert!(events.try_recv().is_err());
    }
}
