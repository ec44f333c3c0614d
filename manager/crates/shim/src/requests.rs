//! What clients ask for.

use std::time::{Duration, Instant};

use croze_proto::shim::{
    Attach, Done, Exec, Failure, FailureKind, HelloReply, Ready, Request, StatusReply, reply, request,
};

use crate::client::Role;
use crate::ending::exit_message;
use crate::process::{Process, Wiring};
use crate::runtime::Verb;
use crate::shim::{INIT, Shim, Stage};
use crate::{note, runtime};

/// The newest version of the protocol.
const VERSION: u32 = 1;
/// How long one that is not served may take to read why.
const REFUSED: Duration = Duration::from_secs(2);

impl Shim {
    /// Serves one request.
    pub(crate) fn request(&mut self, client: u64, request: Request) {
        let id = request.id;
        let Some(body) = request.body else {
            // A newer crozed asks for something that this version does not know.
            return self.refuse(client, id, "request", "this shim does not know the request");
        };
        let greeted = self.client(client).is_some_and(|c| c.greeted);
        if let request::Body::Hello(hello) = body {
            return self.hello(client, id, hello.version);
        }
        if !greeted {
            self.refuse(client, id, "request", "the first request must be hello");
            if let Some(client) = self.client(client) {
                client.close(Instant::now(), Some(REFUSED));
            }
            return;
        }
        match body {
            request::Body::Hello(_) => {}
            request::Body::Status(_) => self.status(client, id),
            request::Body::Start(_) => self.start(client, id),
            request::Body::Signal(signal) => self.signal(client, id, signal.number, &signal.exec_id),
            request::Body::Wait(wait) if wait.start => self.wait_for_start(client, id),
            request::Body::Wait(wait) => self.wait_request(client, id, &wait.exec_id),
            request::Body::Resize(resize) => {
                let size = (clamp(resize.rows), clamp(resize.columns));
                match self.by_exec_id(&resize.exec_id) {
                    Some(process) => process.resize(size.0, size.1),
                    None => return self.unknown(client, id, "resize"),
                }
                self.reply(client, id, reply::Body::Done(Done {}));
            }
            request::Body::Attach(attach) => self.attach(client, id, &attach),
            request::Body::Exec(exec) => self.exec(client, id, &exec),
            request::Body::Input(bytes) => {
                if let Some(process) = self.stdin_of(client) {
                    process.push_input(&bytes);
                    process.write_input();
                }
            }
            request::Body::CloseInput(_) => {
                // The container's own input stays open for the next client unless it was said to end with the first.
                let once = self.launch.stdin_once;
                if let Some(process) = self.stdin_of(client).filter(|p| p.key != INIT || once) {
                    process.end_input();
                }
            }
            request::Body::ResizeStream(resize) => {
                let process = self.client(client).and_then(|c| c.role).map(|role| role.process);
                if let Some(process) = process.and_then(|key| self.process(key)) {
                    process.resize(clamp(resize.rows), clamp(resize.columns));
                }
            }
            request::Body::Discard(_) => self.discard(client, id),
        }
    }

    fn hello(&mut self, client: u64, id: u64, version: u32) {
        let container_id = self.launch.container_id.clone();
        if let Some(client) = self.client(client) {
            client.greeted = true;
        }
        let version = version.min(VERSION);
        let hello = HelloReply {
            version,
            container_id,
            shim_pid: std::process::id(),
        };
        self.reply(client, id, reply::Body::Hello(hello));
    }

    fn status(&mut self, client: u64, id: u64) {
        let init = self.processes.iter().find(|p| p.key == INIT);
        let identity = init.and_then(|p| p.identity.as_ref());
        let status = StatusReply {
            phase: self.phase().into(),
            pid: identity.map_or(0, |i| i.pid.as_raw().cast_unsigned()),
            pid_start_ticks: identity.map_or(0, |i| i.start_ticks),
            started_unix_nanos: self.started_nanos,
            log_lines_dropped: self.log.dropped(),
            exec_ids: self
                .processes
                .iter()
                .filter(|p| p.key != INIT)
                .map(|p| p.exec_id.clone())
                .collect(),
            exit: init.and_then(|p| p.ended.as_ref()).map(exit_message),
            starting: self.is_starting(),
        };
        self.reply(client, id, reply::Body::Status(status));
    }

    fn start(&mut self, client: u64, id: u64) {
        if self.stage != Stage::Created || !self.calls.is_empty() {
            return self.refuse(client, id, "start", "the container is not waiting to be started");
        }
        let verb = Verb::Start { client, request: id };
        let arguments = [self.launch.container_id.as_str()];
        match runtime::call(
            &self.launch,
            verb,
            "start",
            &arguments,
            runtime::CallStdio::null(),
        ) {
            Ok(call) => self.calls.push(call),
            Err(error) => self.fail(client, id, FailureKind::Internal, "start", &error.to_string()),
        }
    }

    /// Whether the runtime's start is at work.
    fn is_starting(&self) -> bool {
        self.calls
            .iter()
            .any(|call| matches!(call.verb, Verb::Start { .. }))
    }

    fn wait_for_start(&mut self, client: u64, id: u64) {
        if self.is_starting() {
            self.start_waiters.push((client, id));
        } else {
            self.reply(client, id, reply::Body::Done(Done {}));
        }
    }

    fn signal(&mut self, client: u64, id: u64, number: u32, exec_id: &str) {
        let Some(process) = self.by_exec_id(exec_id) else {
            return self.unknown(client, id, "signal");
        };
        let Some(identity) = process.identity.as_ref().filter(|_| process.ended.is_none()) else {
            return self.refuse(client, id, "signal", "the process has ended");
        };
        match identity.signal(number) {
            Ok(()) => self.reply(client, id, reply::Body::Done(Done {})),
            Err(error) if error.errno == croze_sys::Errno::SRCH => {
                self.refuse(client, id, "signal", "the process has ended");
            }
            Err(error) => {
                let words = format!("signal {number}: {error}");
                self.fail(client, id, FailureKind::Internal, "signal", &words);
            }
        }
    }

    fn wait_request(&mut self, client: u64, id: u64, exec_id: &str) {
        let leaving = matches!(self.stage, Stage::Leaving { .. } | Stage::Gone { .. });
        let Some(process) = self.by_exec_id(exec_id) else {
            return self.unknown(client, id, "wait");
        };
        match process.ended.as_ref().filter(|_| leaving) {
            Some(ended) => {
                let exit = exit_message(ended);
                self.reply(client, id, reply::Body::Exit(exit));
            }
            None => process.waiters.push((client, id)),
        }
    }

    fn attach(&mut self, client: u64, id: u64, attach: &Attach) {
        if !matches!(self.stage, Stage::Created | Stage::Running) {
            return self.refuse(client, id, "attach", "the container does not run");
        }
        let pid = self
            .process(INIT)
            .and_then(|p| p.identity.as_ref())
            .map_or(0, |i| i.pid.as_raw());
        if let Err(error) = self.log.keep_replaced() {
            // Where the client falls behind it gets replacements.
            note(&error);
        }
        let position = Some(self.log.position());
        if self.take_role(
            client,
            Role {
                process: INIT,
                request: id,
                stdin: attach.stdin,
            },
        ) {
            self.reply(
                client,
                id,
                reply::Body::Ready(Ready {
                    pid: pid.cast_unsigned(),
                    position,
                }),
            );
        } else {
            self.refuse(client, id, "attach", "this connection carries a stream already");
        }
    }

    fn take_role(&mut self, client: u64, role: Role) -> bool {
        match self.client(client) {
            Some(client) if client.role.is_none() => {
                client.role = Some(role);
                true
            }
            _ => false,
        }
    }

    fn exec(&mut self, client: u64, id: u64, exec: &Exec) {
        if self.stage != Stage::Running {
            return self.refuse(client, id, "exec", "the container does not run");
        }
        let good_id = !exec.exec_id.is_empty()
            && exec.exec_id.len() <= 64
            && exec
                .exec_id
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !good_id || self.processes.iter().any(|p| p.exec_id == exec.exec_id) {
            return self.refuse(client, id, "exec", "the exec id is malformed or taken");
        }
        let key = self.next_process;
        let role = Role {
            process: key,
            request: id,
            stdin: exec.stdin,
        };
        if !exec.detach && !self.take_role(client, role) {
            return self.refuse(client, id, "exec", "this connection carries a stream already");
        }
        self.next_process += 1;
        if let Err(error) = self.begin_exec(client, id, key, exec) {
            if let Some(client) = self.client(client) {
                client.role = None;
            }
            note(&error);
            self.fail(client, id, FailureKind::Internal, "exec", &error.to_string());
        }
    }

    fn begin_exec(
        &mut self,
        client: u64,
        id: u64,
        key: u32,
        exec: &Exec,
    ) -> Result<(), crate::error::ShimError> {
        let name = format!("exec-{}", exec.exec_id);
        let wiring = match (exec.tty, exec.detach, exec.stdin) {
            (true, _, _) => Wiring::Terminal,
            (false, true, _) => Wiring::Null,
            (false, false, true) => Wiring::PipesWithInput,
            (false, false, false) => Wiring::Pipes,
        };
        let json = format!("{name}.json");
        std::fs::write(&json, &exec.process_json).map_err(crate::error::ShimError::file("write", &json))?;
        let (mut process, stdio) = Process::new(key, &exec.exec_id, wiring, &name)?;
        process.requested_by = Some((client, id));
        if exec.rows > 0 && exec.columns > 0 {
            process.resize(clamp(exec.rows), clamp(exec.columns));
        }
        let (pid_file, socket) = (format!("{name}.pid"), format!("{name}.sock"));
        let mut arguments = vec!["--detach", "--process", &json, "--pid-file", &pid_file];
        if exec.tty {
            arguments.extend(["--console-socket", &socket]);
        }
        arguments.push(&self.launch.container_id);
        let call = runtime::call(
            &self.launch,
            Verb::Exec { process: key },
            &name,
            &arguments,
            stdio,
        )?;
        self.calls.push(call);
        self.processes.push(process);
        Ok(())
    }

    /// Ends a container that was never started; `done` says that it will be gone when the connection is.
    fn discard(&mut self, client: u64, id: u64) {
        if self.stage != Stage::Created || self.is_starting() {
            return self.refuse(client, id, "discard", "the container was started");
        }
        self.discard_prepared();
        self.reply(client, id, reply::Body::Done(Done {}));
    }

    /// Ends what waits to be started; its end takes the usual way.
    pub(crate) fn discard_prepared(&mut self) {
        if let Some(identity) = self.process(INIT).and_then(|p| p.identity.as_ref()) {
            let _ended_already = identity.signal(9);
        }
    }

    fn by_exec_id(&mut self, exec_id: &str) -> Option<&mut Process> {
        self.processes.iter_mut().find(|p| p.exec_id == exec_id)
    }

    /// The process to whose standard input this client may write.
    fn stdin_of(&mut self, client: u64) -> Option<&mut Process> {
        let role = self.client(client)?.role.filter(|role| role.stdin)?;
        self.process(role.process)
    }

    fn refuse(&mut self, client: u64, id: u64, stage: &str, words: &str) {
        self.fail(client, id, FailureKind::Conflict, stage, words);
    }

    fn unknown(&mut self, client: u64, id: u64, stage: &str) {
        self.fail(
            client,
            id,
            FailureKind::NotFound,
            stage,
            "there is no such process",
        );
    }

    fn fail(&mut self, client: u64, id: u64, kind: FailureKind, stage: &str, words: &str) {
        let failure = Failure {
            kind: kind.into(),
            stage: stage.into(),
            message: words.into(),
        };
        self.reply(client, id, reply::Body::Failure(failure));
    }
}

fn clamp(size: u32) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}
