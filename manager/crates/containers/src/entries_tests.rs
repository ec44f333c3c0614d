//! Records on a disk that takes them, or not.

use super::*;
use crate::networking::Network;

fn open(dir: &Path) -> (Store, Inner) {
    let store = Store::open(&dir.join("root")).unwrap();
    let settings = Settings {
        state_dir: dir.join("root/containers"),
        run_dir: dir.join("run"),
        runtimes: crate::runtimes::Runtimes::single("/nowhere/rt".into()),
        runtime_root: dir.join("rt"),
        shim: "/nowhere/shim".into(),
        init: None,
    };
    let inner = Inner::open(&store, settings).unwrap();
    (store, inner)
}

fn id(n: u8) -> ContainerId {
    ContainerId::from_random([n; 32])
}

fn request(name: Option<&str>) -> CreateRequest {
    CreateRequest {
        name: name.map(|n| n.parse().unwrap()),
        command: vec!["true".into()],
        network: Network::None,
        ..CreateRequest::default()
    }
}

#[test]
fn names_are_unique_and_free_again_after_removal() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, inner) = open(dir.path());
    let create = |n, name| inner.create(id(n), request(name), ImageFacts::default());
    assert_eq!(create(0xa1, Some("web")).unwrap().name.as_str(), "web");
    assert_eq!(create(0xa2, None).unwrap().name.as_str(), "a2a2a2a2a2a2");
    let taken = create(0xb1, Some("web")).unwrap_err();
    assert!(
        matches!(taken, ContainersError::NameTaken(ref t) if t.holder == id(0xa1).as_str()),
        "{taken}"
    );
    inner.remove_files(&inner.get(&id(0xa1)).unwrap()).unwrap();
    create(0xb1, Some("web")).unwrap();
}

#[test]
fn a_name_is_taken_from_before_its_record_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, inner) = open(dir.path());
    let name: ContainerName = "web".parse().unwrap();
    let pending = inner.take_name(&name, &id(0xa1)).unwrap();
    // The index knows nothing of it: as it is after it was filled anew from the records.
    let taken = inner.create(id(0xb1), request(Some("web")), ImageFacts::default());
    assert!(
        matches!(taken, Err(ContainersError::NameTaken(ref t)) if t.holder == id(0xa1).as_str()),
        "{taken:?}"
    );
    drop(pending);
    inner
        .create(id(0xb1), request(Some("web")), ImageFacts::default())
        .unwrap();
    // Nor does the index decide over one whose record is there.
    inner.names.release("web", id(0xb1).as_str()).unwrap();
    let taken = inner.create(id(0xa1), request(Some("web")), ImageFacts::default());
    assert!(matches!(taken, Err(ContainersError::NameTaken(_))), "{taken:?}");
}

#[test]
fn of_two_records_with_one_name_the_first_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, inner) = open(dir.path());
    for (n, name) in [(2, "web"), (1, "db")] {
        inner
            .create(id(n), request(Some(name)), ImageFacts::default())
            .unwrap();
    }
    let record = inner.settings.container_dir(&id(1)).join(RECORD_FILE);
    drop(inner);
    drop(store);
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"db\"", "\"web\"")).unwrap();
    let (_store, inner) = open(dir.path());
    assert_eq!(inner.resolve("web").unwrap(), id(2));
    assert_eq!(inner.get(&id(1)).unwrap().name.as_str(), id(1).short());
}

#[test]
fn containers_are_found_by_name_id_and_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, inner) = open(dir.path());
    for (n, name) in [(0xa1, "web"), (0xa2, "a1"), (0xb1, "db")] {
        inner
            .create(id(n), request(Some(name)), ImageFacts::default())
            .unwrap();
    }
    let found = |text: &str| inner.resolve(text);
    assert_eq!(found("web").unwrap(), id(0xa1));
    assert_eq!(found("/web").unwrap(), id(0xa1));
    assert_eq!(found("a1").unwrap(), id(0xa2), "a name comes before a beginning");
    assert_eq!(found("a1a").unwrap(), id(0xa1));
    assert_eq!(found(id(0xb1).as_str()).unwrap(), id(0xb1));
    assert!(matches!(found("a"), Err(ContainersError::Ambiguous { .. })));
    for unknown in ["", "c", "we"] {
        assert!(
            matches!(found(unknown), Err(ContainersError::NotFound { .. })),
            "{unknown:?}"
        );
    }
}

#[test]
fn records_survive_and_half_removed_containers_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, inner) = open(dir.path());
    for n in [1, 2, 3] {
        inner.create(id(n), request(None), ImageFacts::default()).unwrap();
    }
    let (two, three) = (
        inner.settings.container_dir(&id(2)),
        inner.settings.container_dir(&id(3)),
    );
    std::fs::write(two.join("container.log"), "kept").unwrap();
    // A crash after the record went, and one that damaged a record.
    std::fs::write(inner.settings.container_dir(&id(1)).join("container.log"), "x").unwrap();
    std::fs::remove_file(inner.settings.container_dir(&id(1)).join(RECORD_FILE)).unwrap();
    std::fs::write(three.join(RECORD_FILE), "damaged").unwrap();
    drop(inner);
    drop(store);
    let (_store, inner) = open(dir.path());
    let ids: Vec<ContainerId> = inner.list().into_iter().map(|c| c.id).collect();
    assert_eq!(ids, [id(2), id(3)]);
    assert!(!inner.settings.container_dir(&id(1)).exists());
    assert!(two.join("container.log").exists());
    assert!(three.exists(), "what was set aside is left for a look at it");
    let lost = inner.get(&inner.resolve(id(3).short()).unwrap()).unwrap();
    assert!(matches!(lost.state, State::Dead { .. }), "{:?}", lost.state);
    inner.remove_files(&lost).unwrap();
    assert!(!three.exists(), "its user wants it gone");
    assert!(inner.get(&id(3)).is_err());
}

fn exited() -> State {
    State::Exited {
        status: crate::service::unknown_end(),
    }
}

#[test]
fn an_end_that_cannot_be_stored_is_true_all_the_same_and_stored_later() {
    let dir = tempfile::tempdir().unwrap();
    let (store, inner) = open(dir.path());
    inner.create(id(1), request(None), ImageFacts::default()).unwrap();
    let state = inner.state_of(&id(1)).unwrap();
    // A record cannot be stored where its directory is a file.
    let (place, aside) = (inner.settings.container_dir(&id(1)), dir.path().join("aside"));
    std::fs::rename(&place, &aside).unwrap();
    std::fs::write(&place, "").unwrap();
    let ends = |container: &mut Container| {
        container.state = exited();
        Ok(())
    };
    assert!(inner.change(&id(1), ends).is_err());
    assert_eq!(*state.borrow(), State::Created, "a request is durable or refused");
    assert!(inner.change_live(&id(1), ends).unwrap().is_some());
    assert!(
        matches!(*state.borrow(), State::Exited { .. }),
        "who waits is told"
    );
    assert!(matches!(inner.get(&id(1)).unwrap().state, State::Exited { .. }));
    assert!(inner.save_again(&id(1)).is_err());
    std::fs::remove_file(&place).unwrap();
    std::fs::rename(&aside, &place).unwrap();
    inner.save_again(&id(1)).unwrap();
    drop((inner, state));
    drop(store);
    let (_store, inner) = open(dir.path());
    assert!(matches!(inner.get(&id(1)).unwrap().state, State::Exited { .. }));
}

#[test]
fn the_end_of_what_removes_itself_is_the_exit_records() {
    let dir = tempfile::tempdir().unwrap();
    let (store, inner) = open(dir.path());
    for (n, auto_remove) in [(1, false), (2, true)] {
        let request = CreateRequest {
            auto_remove,
            ..request(None)
        };
        inner.create(id(n), request, ImageFacts::default()).unwrap();
        let unsaved = inner.change_live(&id(n), |container| {
            container.state = exited();
            Ok(())
        });
        assert!(unsaved.unwrap().is_none());
        assert!(matches!(inner.get(&id(n)).unwrap().state, State::Exited { .. }));
    }
    drop(inner);
    drop(store);
    let (_store, inner) = open(dir.path());
    assert!(matches!(inner.get(&id(1)).unwrap().state, State::Exited { .. }));
    assert_eq!(
        inner.get(&id(2)).unwrap().state,
        State::Created,
        "as it was stored; recovery sees the end"
    );
}

#[test]
fn what_is_seen_of_one_run_does_not_touch_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, inner) = open(dir.path());
    inner.create(id(1), request(None), ImageFacts::default()).unwrap();
    inner.begin_run(&id(1));
    let first = inner.begin_watch(&id(1)).unwrap();
    assert_eq!(inner.begin_watch(&id(1)), None, "one watcher is enough");
    inner.note_failed_start(&id(1), Some(127));
    inner.begin_run(&id(1));
    let second = inner.begin_watch(&id(1)).unwrap();
    assert_ne!(first, second);
    assert_eq!(inner.run(&id(1)), Some(second));
    assert_eq!(inner.end_watch(&id(1), first), Some(127));
    assert_eq!(inner.begin_watch(&id(1)), None, "the second run is still watched");
    assert_eq!(inner.end_watch(&id(1), second), None);
}

#[test]
fn bundles_of_the_living_are_not_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, inner) = open(dir.path());
    let bundles = [1, 2].map(|n| inner.settings.bundle_path(&id(n)));
    for (bundle, alive) in bundles.iter().zip([true, false]) {
        std::fs::create_dir(bundle).unwrap();
        let mut us = observe::this_process();
        us.start_ticks += u64::from(!alive);
        let note = serde_json::json!({ "version": 1, "pid": us.pid, "start_ticks": us.start_ticks, "boot_id": us.boot_id, "shim_pid": 1 });
        std::fs::write(bundle.join("shim.json"), note.to_string()).unwrap();
    }
    drop(inner);
    drop(store);
    let _opened = open(dir.path());
    assert_eq!(bundles.map(|bundle| bundle.exists()), [true, false]);
}

#[test]
fn a_removal_that_leaves_files_behind_is_a_removal() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, inner) = open(dir.path());
    inner
        .create(id(1), request(Some("web")), ImageFacts::default())
        .unwrap();
    // A tree that cannot be removed as one: it is a file.
    std::fs::write(inner.settings.bundle_path(&id(1)), "").unwrap();
    inner.remove_files(&inner.get(&id(1)).unwrap()).unwrap();
    assert!(inner.get(&id(1)).is_err());
    assert!(!inner.settings.container_dir(&id(1)).exists());
    inner
        .create(id(2), request(Some("web")), ImageFacts::default())
        .unwrap();
}
