//! Children: who has ended, and what follows for the calls of the runtime.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Instant;

use croze_proto::shim::{Done, Failure, FailureKind, Ready, reply};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus};

use crate::cgroup::OomCounter;
use crate::error::ShimError;
use crate::process::{Ended, Identity, Process};
use crate::runtime::Verb;
use crate::shim::{INIT, Shim, Stage};
use crate::{answer, exit, note, runtime, time};

impl Shim {
    /// Looks at all children that have ended.
    pub(crate) fn reap(&mut self) {
        // Calls first: a call that ended says which process it made, and that one may have ended too.
        let calls: Vec<Pid> = self.calls.iter().map(|c| c.pid).collect();
        for pid in calls {
            if let Some(status) = wait_for(pid) {
                self.call_ended(pid, status);
            }
        }
        let known: Vec<Pid> = self
            .processes
            .iter()
            .filter(|p| p.ended.is_none())
            .filter_map(|p| Some(p.identity.as_ref()?.pid))
            .collect();
        for pid in known {
            if let Some(status) = wait_for(pid) {
                self.process_ended(pid, status);
            }
        }
        while self.calls.is_empty() {
            let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) else {
                break;
            };
            // Orphans of the container, or a known process that ended since it was asked for above.
            self.process_ended(Pid::from_raw(pid.as_raw_pid()), status);
        }
    }

    fn process_ended(&mut self, pid: Pid, status: WaitStatus) {
        let oom_killed = self.oom.as_ref().is_some_and(|o| o.read() > 0);
        let is_it = |p: &&mut Process| p.ended.is_none() && p.identity.as_ref().is_some_and(|i| i.pid == pid);
        let Some(process) = self.processes.iter_mut().find(is_it) else {
            return;
        };
        let signal = status.terminating_signal().map_or(0, i32::cast_unsigned);
        let code = status.exit_status().map_or(128 + signal, i32::cast_unsigned);
        let at_nanos = time::now_nanos();
        process.ended = Some(Ended {
            code,
            signal,
            at_nanos,
            since: Instant::now(),
            oom_killed,
            position: None,
            position_for_clients: None,
        });
        if process.key == INIT {
            self.stage = Stage::Draining;
        }
    }

    fn call_ended(&mut self, pid: Pid, status: WaitStatus) {
        let Some(at) = self.calls.iter().position(|c| c.pid == pid) else {
            return;
        };
        let call = self.calls.remove(at);
        let outcome = call.outcome(ExitStatus::from_raw(status.as_raw()));
        self.conclude(call.verb, outcome);
    }

    /// What follows from a call of the runtime that is over, or that nobody waits for any more.
    pub(crate) fn conclude(&mut self, verb: Verb, outcome: Result<(), String>) {
        match verb {
            Verb::Create => self.created(outcome),
            Verb::Start { client, request } => self.started(client, request, outcome),
            Verb::Exec { process } => self.exec_began(process, outcome),
            Verb::Delete => {
                if let Err(words) = outcome {
                    note(&format!("delete: {words}"));
                }
                self.stage = Stage::Leaving {
                    since: Instant::now(),
                };
                self.say_exit();
            }
        }
    }

    fn created(&mut self, outcome: Result<(), String>) {
        let made = outcome
            .and_then(|()| runtime::read_pid(Path::new("init.pid")).map_err(|e| e.to_string()))
            .and_then(|pid| Identity::of(pid).map_err(|e| e.to_string()));
        match made {
            Ok(identity) => {
                let pid = identity.pid.as_raw();
                self.oom = OomCounter::of(pid);
                if let Err(error) = exit::write_note(pid, identity.start_ticks) {
                    note(&error);
                }
                if let Some(init) = self.process(INIT) {
                    init.identity = Some(identity);
                }
                self.stage = Stage::Created;
                let ready = reply::Body::Ready(Ready {
                    pid: pid.cast_unsigned(),
                    position: None,
                });
                // The daemon that wanted it is gone, and the next one knows nothing of it: nobody would ever start it.
                if !answer(ready) {
                    self.discard_prepared();
                }
            }
            Err(message) => {
                let _nobody_needs_to_know = answer(reply::Body::Failure(Failure {
                    kind: FailureKind::Runtime.into(),
                    stage: "create".into(),
                    message,
                }));
                self.stage = Stage::Gone { good: false };
            }
        }
        // crozed sees the end of the pipe, and nothing of the shim holds its terminal.
        if let Err(error) = detach_stdio() {
            note(&error);
        }
    }

    fn started(&mut self, client: u64, request: u64, outcome: Result<(), String>) {
        let body = match outcome {
            Ok(()) => {
                self.started_nanos = time::now_nanos();
                if self.stage == Stage::Created {
                    self.stage = Stage::Running;
                }
                reply::Body::Done(Done {})
            }
            Err(message) => {
                // Whatever is left of it must not linger.
                if let Some(identity) = self.process(INIT).and_then(|p| p.identity.as_ref()) {
                    let _ended_already = identity.signal(9);
                }
                reply::Body::Failure(Failure {
                    kind: FailureKind::Runtime.into(),
                    stage: "start".into(),
                    message,
                })
            }
        };
        self.reply(client, request, body);
        for (client, request) in std::mem::take(&mut self.start_waiters) {
            self.reply(client, request, reply::Body::Done(Done {}));
        }
    }

    fn exec_began(&mut self, key: u32, outcome: Result<(), String>) {
        let Some(process) = self.processes.iter_mut().find(|p| p.key == key) else {
            return;
        };
        let name = format!("exec-{}", process.exec_id);
        let made = outcome
            .and_then(|()| runtime::read_pid(Path::new(&format!("{name}.pid"))).map_err(|e| e.to_string()))
            .and_then(|pid| Identity::of(pid).map_err(|e| e.to_string()));
        for suffix in ["pid", "json", "sock"] {
            let _may_not_exist = fs::remove_file(format!("{name}.{suffix}"));
        }
        let requested_by = process.requested_by;
        let body = match made {
            Ok(identity) => {
                let pid = identity.pid.as_raw().cast_unsigned();
                process.identity = Some(identity);
                reply::Body::Ready(Ready { pid, position: None })
            }
            Err(message) => {
                self.processes.retain(|p| p.key != key);
                reply::Body::Failure(Failure {
                    kind: FailureKind::Runtime.into(),
                    stage: "exec".into(),
                    message,
                })
            }
        };
        if let Some((client, request)) = requested_by {
            self.reply(client, request, body);
        }
    }
}

/// The status of one child, if it has ended.
fn wait_for(pid: Pid) -> Option<WaitStatus> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw())?;
    rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)
        .ok()
        .flatten()
        .map(|(_, status)| status)
}

/// Standard input and output become /dev/null.
fn detach_stdio() -> Result<(), ShimError> {
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(ShimError::file("open", "/dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(ShimError::call("dup2"))?;
    rustix::stdio::dup2_stdout(&null).map_err(ShimError::call("dup2"))
}
