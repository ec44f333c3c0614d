//! Lives that go on without the manager, without the shim, or without a record of their start.

use std::os::unix::fs::symlink;
use std::time::Duration;

use croze_containers::{Attachment, ContainersError, Remains, State};
use croze_model::ContainerId;

use crate::host::{Host, life, shell, within};

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn life_goes_on_without_the_daemon() {
    life(async {
        let host = Host::new();
        let counting = host
            .create(shell(
                "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 5",
            ))
            .await;
        let ending = host.create(shell("sleep 0.2; exit 6")).await;
        let prepared = host.create(shell("exit 8")).await;
        host.start(&counting).await;
        host.start(&ending).await;
        host.containers
            .prepare(&prepared, &host.rootfs(), &Attachment::default())
            .await
            .unwrap();
        // What a kill -9 leaves: no handle of this process is needed by anybody any more.
        let Host {
            dir,
            store,
            containers,
        } = host;
        drop(containers);
        drop(store);
        let recorded = dir
            .path()
            .join("root/containers")
            .join(ending.as_str())
            .join("exit.json");
        within(async {
            while !recorded.exists() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (store, containers) = within(async {
            loop {
                // Watchers of the former life hold the store until their containers end; a killed process would hold nothing.
                let root = dir.path().to_path_buf();
                match tokio::task::spawn_blocking(move || std::panic::catch_unwind(|| Host::open(&root)))
                    .await
                    .unwrap()
                {
                    Ok(opened) => break opened,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        let host = Host {
            dir,
            store,
            containers,
        };
        let report = host.containers.recover(|_| std::future::ready(())).await.unwrap();
        assert_eq!(report.failed, []);
        assert_eq!(within(host.containers.wait(&ending)).await.unwrap().code, 6);
        assert_eq!(within(host.containers.wait(&counting)).await.unwrap().code, 5);
        let expected: String = (1..=300).map(|n| format!("{n}\n")).collect();
        assert_eq!(host.log(&counting).await, expected);
        host.start(&prepared).await;
        assert_eq!(within(host.containers.wait(&prepared)).await.unwrap().code, 8);
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn a_killed_shim_leaves_an_orphan_that_is_adopted() {
    life(async {
        let host = Host::new();
        let id = host.create(shell("sleep 1000")).await;
        host.start(&id).await;
        let inspection = host.containers.inspect(&id).await.unwrap();
        let shim = inspection.shim_pid.unwrap();
        assert!(croze_sys::pidfd::kill(shim.cast_signed(), 9).is_ok());
        // The watcher now waits for the process itself.
        within(host.containers.stop(&id, None, Some(Duration::from_millis(100))))
            .await
            .unwrap();
        let status = within(host.containers.wait(&id)).await.unwrap();
        assert!(status.unknown, "{status:?}");
        host.containers.remove(&id).await.unwrap();
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn the_same_container_runs_again_and_its_log_goes_on() {
    life(async {
        let host = Host::new();
        let id = host.create(shell("echo run; exit 1")).await;
        for _ in 0..3 {
            host.start(&id).await;
            assert_eq!(within(host.containers.wait(&id)).await.unwrap().code, 1);
        }
        assert_eq!(host.log(&id).await, "run\nrun\nrun\n");
        let prepared = host.create(shell("true")).await;
        host.containers
            .prepare(&prepared, &host.rootfs(), &Attachment::default())
            .await
            .unwrap();
        host.containers.remove(&prepared).await.unwrap();
        assert!(matches!(
            host.containers.get(&prepared),
            Err(ContainersError::NotFound { .. })
        ));
    });
}

/// Starts a prepared container behind the manager's back: what a start leaves whose answer was lost.
fn start_unrecorded(host: &Host, id: &ContainerId) {
    use croze_proto::shim::{Hello, Reply, Request, Start, reply, request};
    use prost::Message as _;
    use std::io::{Read as _, Write as _};
    // A path that fits into a socket's address.
    let short = host.dir.path().join("s");
    symlink(host.dir.path().join("run/containers").join(id.as_str()), &short).unwrap();
    let socket = short.join("shim.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    for (id, body) in [
        (1, request::Body::Hello(Hello { version: 1 })),
        (2, request::Body::Start(Start {})),
    ] {
        let body = Request { id, body: Some(body) }.encode_to_vec();
        let header = u32::try_from(body.len()).unwrap().to_be_bytes();
        stream.write_all(&[&header[..], &body].concat()).unwrap();
        let mut header = [0; 4];
        stream.read_exact(&mut header).unwrap();
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        stream.read_exact(&mut body).unwrap();
        let answer = Reply::decode(body.as_slice()).unwrap().body.unwrap();
        assert!(!matches!(answer, reply::Body::Failure(_)), "{answer:?}");
    }
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn what_runs_unrecorded_is_not_removed_but_recorded() {
    life(async {
        let host = Host::new();
        let id = host.create(shell("sleep 1000")).await;
        host.containers
            .prepare(&id, &host.rootfs(), &Attachment::default())
            .await
            .unwrap();
        start_unrecorded(&host, &id);
        assert_eq!(host.containers.get(&id).unwrap().state, State::Created);
        let refused = within(host.containers.remove(&id)).await.unwrap_err();
        assert!(
            matches!(refused, ContainersError::WrongState { state: "running", .. }),
            "{refused:?}"
        );
        assert!(host.containers.get(&id).unwrap().started_at.is_some());
        within(host.containers.stop(&id, None, Some(Duration::from_millis(100))))
            .await
            .unwrap();
        within(host.containers.remove(&id)).await.unwrap();
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn a_start_that_cannot_be_recorded_leaves_nothing_running() {
    life(async {
        let host = Host::new();
        let id = host.create(shell("sleep 1000")).await;
        host.containers
            .prepare(&id, &host.rootfs(), &Attachment::default())
            .await
            .unwrap();
        // A record cannot be stored where a directory is.
        let record = host
            .dir
            .path()
            .join("root/containers")
            .join(id.as_str())
            .join("container.json");
        let aside = host.dir.path().join("aside");
        std::fs::rename(&record, &aside).unwrap();
        std::fs::create_dir_all(record.join("x")).unwrap();
        let mut events = host.containers.events();
        within(host.containers.start(&id, &host.rootfs()))
            .await
            .unwrap_err();
        assert_eq!(host.containers.remains(&id).await.unwrap(), Remains::Nothing);
        let container = host.containers.get(&id).unwrap();
        assert!(
            matches!(&container.state, State::Exited { status } if status.code == 128),
            "{container:?}"
        );
        assert!(container.error.is_some());
        // What was not recorded is not told as having happened.
        while let Ok(event) = events.try_recv() {
            assert!(
                !matches!(event, croze_containers::Event::Started { .. }),
                "{event:?}"
            );
        }
        std::fs::remove_dir_all(&record).unwrap();
        std::fs::rename(&aside, &record).unwrap();
        host.start(&id).await;
        within(host.containers.stop(&id, None, Some(Duration::from_millis(100))))
            .await
            .unwrap();
        host.containers.remove(&id).await.unwrap();
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn a_shim_that_was_slow_still_says_how_it_ended() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let host = Host::new();
    let first = runtime();
    let (id, shim) = first.block_on(async {
        let id = host
            .create(shell("while ! [ -e /tmp/go ]; do sleep 0.05; done; exit 3"))
            .await;
        host.start(&id).await;
        let inspection = host.containers.inspect(&id).await.unwrap();
        (id, inspection.shim_pid.unwrap().cast_signed())
    });
    // The daemon is killed while the shim hangs, and the next one meets it so.
    croze_sys::pidfd::kill(shim, SIGSTOP).unwrap();
    let Host {
        containers,
        store,
        dir,
    } = host;
    drop(containers);
    drop(store);
    drop(first);
    let second = runtime();
    let (store, containers) = Host::open(dir.path());
    let host = Host {
        containers,
        store,
        dir,
    };
    second.block_on(async {
        let report = within(host.containers.recover(|_| std::future::ready(())))
            .await
            .unwrap();
        assert_eq!(report.failed.len(), 1, "{report:?}");
        std::fs::write(host.rootfs().join("tmp/go"), "").unwrap();
        // It ends; nobody but its shim may say how.
        let early = tokio::time::timeout(Duration::from_secs(1), host.containers.wait(&id)).await;
        assert!(early.is_err(), "{early:?}");
        croze_sys::pidfd::kill(shim, SIGCONT).unwrap();
        let status = within(host.containers.wait(&id)).await.unwrap();
        assert_eq!((status.code, status.unknown), (3, false));
        within(host.containers.remove(&id)).await.unwrap();
    });
}
