//! Lives while the manager is there.

use std::time::{Duration, Instant};

use bytes::Bytes;
use croze_containers::{
    Attachment, BindMount, ContainersError, CreateRequest, ExecRequest, Input, IoConfig, Propagation,
    ReadOnlyBelow, Resources, State, TerminalSize,
};
use croze_model::ErrorKind;

use crate::host::{Host, collect, life, shell, within};

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn codes_signals_and_both_streams() {
    life(async {
        let host = Host::new();
        let (status, log) = host.run(shell("echo out; echo err >&2; exit 7")).await;
        assert_eq!((status.code, status.signal), (7, None));
        let mut lines: Vec<&str> = log.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["err", "out"]);

        // Pid 1 of a pid namespace cannot kill itself; from outside it can be killed.
        let id = host.create(shell("kill -9 $$; sleep 1000")).await;
        host.start(&id).await;
        host.containers.kill(&id, "SIGKILL").await.unwrap();
        let status = within(host.containers.wait(&id)).await.unwrap();
        assert_eq!((status.code, status.signal), (137, Some(9)));
        let late = host.containers.kill(&id, "TERM").await.unwrap_err();
        assert!(
            matches!(late, ContainersError::WrongState { state: "exited", .. }),
            "{late:?}"
        );
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn a_fast_printer_loses_nothing() {
    life(async {
        let host = Host::new();
        let begun = Instant::now();
        let (status, log) = host.run(shell("seq 1 1000000")).await;
        assert_eq!((status.code, status.log_lines_dropped), (0, 0));
        let mut expected = 0;
        for line in log.lines() {
            expected += 1;
            assert_eq!(line, expected.to_string());
        }
        assert_eq!(expected, 1_000_000);
        eprintln!("a million lines in {:?}", begun.elapsed());
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn attached_before_the_start_with_input() {
    life(async {
        let host = Host::new();
        let io = IoConfig {
            open_stdin: true,
            stdin_once: true,
            ..IoConfig::default()
        };
        let id = host
            .create(CreateRequest {
                io,
                ..shell("cat; seq 1 1000000; exit 3")
            })
            .await;
        host.containers
            .prepare(&id, &host.rootfs(), &Attachment::default())
            .await
            .unwrap();
        let stream = host.containers.attach(&id, true).await.unwrap();
        stream
            .input
            .send(Input::Stdin(Bytes::from_static(b"typed\n")))
            .await
            .unwrap();
        stream.input.send(Input::CloseStdin).await.unwrap();
        host.start(&id).await;
        let (stdout, stderr, exit) = collect(stream).await;
        assert_eq!(
            stdout.lines().count(),
            1_000_001,
            "{}",
            &stdout[..stdout.len().min(200)]
        );
        assert!(stdout.starts_with("typed\n1\n2\n") && stdout.ends_with("999999\n1000000\n"));
        assert_eq!((stderr.as_str(), exit.unwrap().code), ("", 3));
        assert_eq!(within(host.containers.wait(&id)).await.unwrap().code, 3);
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn a_terminal_has_a_size_and_both_directions() {
    life(async {
        let host = Host::new();
        let io = IoConfig {
            tty: true,
            open_stdin: true,
            ..IoConfig::default()
        };
        let id = host
            .create(CreateRequest {
                io,
                ..shell("read line; echo got $line; stty size; exit 4")
            })
            .await;
        host.containers
            .prepare(&id, &host.rootfs(), &Attachment::default())
            .await
            .unwrap();
        let stream = host.containers.attach(&id, true).await.unwrap();
        stream
            .input
            .send(Input::Resize(TerminalSize {
                rows: 33,
                columns: 77,
            }))
            .await
            .unwrap();
        host.start(&id).await;
        stream
            .input
            .send(Input::Stdin(Bytes::from_static(b"hello\n")))
            .await
            .unwrap();
        let (stdout, _, exit) = collect(stream).await;
        assert!(
            stdout.contains("got hello\r\n") && stdout.contains("33 77"),
            "{stdout:?}"
        );
        assert_eq!(exit.unwrap().code, 4);
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn execs_of_every_kind() {
    life(async {
        let host = Host::new();
        let id = host.create(shell("sleep 1000")).await;
        host.start(&id).await;
        let exec = |command: &[&str]| ExecRequest {
            command: command.iter().map(|w| (*w).to_owned()).collect(),
            ..ExecRequest::default()
        };
        let (_, stream) = host
            .containers
            .exec(&id, exec(&["/bin/sh", "-c", "echo a; echo b >&2; exit 9"]))
            .await
            .unwrap();
        let (stdout, stderr, exit) = collect(stream).await;
        assert_eq!(
            (stdout.as_str(), stderr.as_str(), exit.unwrap().code),
            ("a\n", "b\n", 9)
        );

        let with_input = ExecRequest {
            stdin: true,
            user: Some("app".into()),
            working_dir: Some("/tmp".into()),
            ..exec(&["/bin/sh", "-c", "cat; id -u; pwd; echo $HOME"])
        };
        let (_, stream) = host.containers.exec(&id, with_input).await.unwrap();
        stream
            .input
            .send(Input::Stdin(Bytes::from(vec![b'x'; 300_000])))
            .await
            .unwrap();
        stream.input.send(Input::CloseStdin).await.unwrap();
        let (stdout, _, exit) = collect(stream).await;
        assert_eq!(stdout.len(), 300_000 + "7\n/tmp\n/home/app\n".len());
        assert!(stdout.ends_with("x7\n/tmp\n/home/app\n"));
        assert_eq!(exit.unwrap().code, 0);

        let size = Some(TerminalSize {
            rows: 20,
            columns: 50,
        });
        let (_, stream) = host
            .containers
            .exec(
                &id,
                ExecRequest {
                    tty: true,
                    size,
                    ..exec(&["stty", "size"])
                },
            )
            .await
            .unwrap();
        let (stdout, _, _) = collect(stream).await;
        assert_eq!(stdout, "20 50\r\n");

        // Far more than all buffers hold: an exec's output waits for its client.
        let (_, stream) = host
            .containers
            .exec(&id, exec(&["/bin/sh", "-c", "head -c 20000000 /dev/zero"]))
            .await
            .unwrap();
        let (stdout, _, _) = collect(stream).await;
        assert_eq!(stdout.len(), 20_000_000);

        let (_, stream) = host
            .containers
            .exec(
                &id,
                ExecRequest {
                    detach: true,
                    ..exec(&["/bin/sh", "-c", "echo done > /tmp/flag"])
                },
            )
            .await
            .unwrap();
        assert!(collect(stream).await.2.is_none());
        let flag = host.rootfs().join("tmp/flag");
        within(async {
            while std::fs::read_to_string(&flag).unwrap_or_default() != "done\n" {
                tokio::task::yield_now().await;
            }
        })
        .await;

        let error = host.containers.exec(&id, exec(&["/nope"])).await.unwrap_err();
        assert!(
            matches!(
                &error,
                ContainersError::Runtime {
                    kind: ErrorKind::CommandNotFound,
                    ..
                }
            ),
            "{error:?}"
        );
        within(host.containers.stop(&id, None, Some(Duration::from_millis(100))))
            .await
            .unwrap();
        assert_eq!(within(host.containers.wait(&id)).await.unwrap().code, 137);
        host.containers.remove(&id).await.unwrap();
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn failed_starts_say_why_and_can_be_repeated() {
    life(async {
        let host = Host::new();
        let id = host
            .create(CreateRequest {
                command: vec!["/nope".into()],
                ..CreateRequest::default()
            })
            .await;
        for _ in 0..2 {
            let error = host.containers.start(&id, &host.rootfs()).await.unwrap_err();
            assert!(
                matches!(
                    &error,
                    ContainersError::Runtime {
                        kind: ErrorKind::CommandNotFound,
                        ..
                    }
                ),
                "{error:?}"
            );
            let container = host.containers.get(&id).unwrap();
            assert!(
                matches!(&container.state, State::Exited { status } if status.code == 127),
                "{container:?}"
            );
            assert!(container.error.is_some());
        }
        host.containers.remove(&id).await.unwrap();
        let id = host
            .create(CreateRequest {
                command: vec!["/etc/passwd".into()],
                ..CreateRequest::default()
            })
            .await;
        let error = host.containers.start(&id, &host.rootfs()).await.unwrap_err();
        assert!(
            matches!(
                &error,
                ContainersError::Runtime {
                    kind: ErrorKind::CommandNotExecutable,
                    ..
                }
            ),
            "{error:?}"
        );
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn too_much_memory_is_killed_and_said_so() {
    life(async {
        let host = Host::new();
        let resources = Resources {
            memory_bytes: Some(16 << 20),
            memory_swap_bytes: Some(16 << 20),
            ..Resources::default()
        };
        let (status, _) = host
            .run(CreateRequest {
                resources,
                ..shell("tail -c 200000000 /dev/zero")
            })
            .await;
        assert!(status.oom_killed, "{status:?}");
        let (status, _) = host.run(shell("exit 0")).await;
        assert!(!status.oom_killed);
    });
}

#[test]
#[ignore = "needs root, a shim and a runtime"]
fn binds_appear_and_missing_sources_are_made() {
    life(async {
        let host = Host::new();
        let source = host.dir.path().join("made/by/volume");
        let mount = BindMount {
            source: source.clone(),
            target: "/data/x".into(),
            read_only: false,
            propagation: Propagation::default(),
            recursive: true,
            read_only_below: ReadOnlyBelow::default(),
            create_source: true,
        };
        let request = CreateRequest {
            mounts: vec![mount],
            working_dir: Some("/data/x".into()),
            ..shell("pwd > out; hostname; cat /etc/hostname; cat /etc/hosts | head -1")
        };
        let id = host.create(request).await;
        host.start(&id).await;
        within(host.containers.wait(&id)).await.unwrap();
        assert_eq!(std::fs::read_to_string(source.join("out")).unwrap(), "/data/x\n");
        assert_eq!(
            host.log(&id).await,
            format!("{0}\n{0}\n127.0.0.1\tlocalhost\n", id.short())
        );
    });
}
