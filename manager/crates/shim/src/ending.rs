//! How processes, clients and the container end: what follows from the state and the clock rather than from an event.

use std::time::{Duration, Instant};

use croze_proto::shim::{Exit, reply};

use crate::client::Client;
use crate::exit::Lasts;
use crate::log::StreamKind;
use crate::process::Ended;
use crate::runtime::Verb;
use crate::shim::{
    CALL_LIMIT, DELETE_LIMIT, DRAIN_LIMIT, INIT, LEAVE_LIMIT, LEAVE_LIMIT_IN_ALL, Shim, Stage,
};
use crate::{exit, note, runtime, time};

impl Shim {
    /// Everything that follows from the state and the clock rather than from an event.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.clients.iter_mut().for_each(|c| c.tell_gap(&self.log));
        self.drop_clients(now);
        self.give_up_calls(now);
        self.finish_execs(now);
        match self.stage {
            Stage::Draining if self.calls.is_empty() && self.is_drained(INIT, now) => {
                self.finish_container(now);
            }
            Stage::Deleting { since } if now - since >= DELETE_LIMIT => {
                note(&"the runtime's delete takes too long and is no longer waited for");
                self.calls.clear();
                self.stage = Stage::Leaving { since: now };
                self.say_exit();
            }
            Stage::Leaving { since } => {
                let told = self.clients.iter().all(|c| !c.has_output());
                if told || now >= self.leave_at(since) {
                    self.stage = Stage::Gone { good: true };
                }
            }
            _ => {}
        }
    }

    /// Whether a process has ended and its output is in, or the limit has passed. An exec's client that is behind stops the limit: what waits for it
    /// in the pipe is not lost.
    fn is_drained(&self, key: u32, now: Instant) -> bool {
        self.processes.iter().find(|p| p.key == key).is_some_and(|p| {
            let passed = |since: Instant| now - since >= DRAIN_LIMIT && !self.is_held_up(key);
            p.ended
                .as_ref()
                .is_some_and(|e| p.is_drained() || passed(e.since))
        })
    }

    /// When the container's end no longer waits for calls of the runtime.
    pub(crate) fn calls_end(&self) -> Option<Instant> {
        let init = self.processes.iter().find(|p| p.key == INIT)?;
        init.ended.as_ref().map(|e| e.since + CALL_LIMIT)
    }

    /// When the shim leaves even if somebody has not read his last reply.
    pub(crate) fn leave_at(&self, since: Instant) -> Instant {
        let progress = self
            .clients
            .iter()
            .filter(|c| c.has_output())
            .map(Client::progress);
        let last = progress.max().map_or(since, |at| at.max(since));
        (last + LEAVE_LIMIT).min(since + LEAVE_LIMIT_IN_ALL)
    }

    /// A runtime that hangs must not keep the container's end from being recorded.
    fn give_up_calls(&mut self, now: Instant) {
        let end = self.calls_end();
        let passed = |at: Instant| now >= at;
        while let Some(at) = self
            .calls
            .iter()
            .position(|c| c.deadline(end).is_some_and(passed))
        {
            let call = self.calls.remove(at);
            // If it cannot even be killed now, it is reaped as one of the orphans some day.
            call.kill();
            let words = format!("the runtime's {} took too long and was killed", call.verb.name());
            note(&words);
            self.conclude(call.verb, Err(words));
        }
    }

    /// Reads what is in the pipes of a process that has ended, and no more than they can hold: others may go on writing.
    fn read_the_rest(&mut self, key: u32) {
        for stream in [StreamKind::Stdout, StreamKind::Stderr] {
            let size = self.process(key).map_or(0, |p| p.pipe_size(stream));
            let mut read = 0;
            while read < size {
                match self.read_output(key, stream) {
                    0 => break,
                    n => read += n,
                }
            }
        }
    }

    fn drop_clients(&mut self, now: Instant) {
        let over: Vec<_> = self
            .clients
            .iter()
            .filter(|c| c.is_over(now))
            .filter_map(|c| c.role)
            .collect();
        self.clients.retain(|c| !c.is_over(now));
        if !self
            .clients
            .iter()
            .any(|c| c.role.is_some_and(|role| role.process == INIT))
        {
            self.log.forget_replaced();
        }
        for role in over.iter().filter(|r| r.stdin) {
            let once = role.process != INIT || self.launch.stdin_once;
            if let Some(process) = self.process(role.process).filter(|_| once) {
                process.end_input();
            }
        }
    }

    fn finish_execs(&mut self, now: Instant) {
        let keys: Vec<u32> = self
            .processes
            .iter()
            .map(|p| p.key)
            .filter(|k| *k != INIT)
            .collect();
        for key in keys {
            if !self.is_drained(key, now) {
                continue;
            }
            self.read_the_rest(key);
            let Some(at) = self.processes.iter().position(|p| p.key == key) else {
                continue;
            };
            let process = self.processes.remove(at);
            if let Some(ended) = &process.ended {
                self.tell(key, &process.waiters, ended);
            }
        }
    }

    /// The first process has ended and its output is in: record it, then delete.
    fn finish_container(&mut self, now: Instant) {
        self.read_the_rest(INIT);
        // Now, while it can be told with what is held back: whether the disk takes that or not, every client has had it.
        for client in &mut self.clients {
            client.end_gap(&self.log);
        }
        let position_for_clients = self.log.finish(time::now_nanos());
        let lasts = if self.launch.ephemeral {
            Lasts::ThisBoot
        } else {
            Lasts::BeyondPowerCut
        };
        if lasts == Lasts::BeyondPowerCut
            && let Err(error) = self.log.sync()
        {
            note(&format!("the log cannot be synced: {error}"));
        }
        let position = self.log.position();
        if let Some(init) = self.processes.iter_mut().find(|p| p.key == INIT) {
            init.close_streams();
            if let (Some(ended), Some(identity)) = (&mut init.ended, &init.identity) {
                ended.position = Some(position);
                ended.position_for_clients = Some(position_for_clients);
                let started = (self.started_nanos > 0).then(|| time::rfc3339(self.started_nanos));
                let record = serde_json::json!({
                    "version": 1,
                    "id": self.launch.container_id,
                    "pid": identity.pid.as_raw(),
                    "code": ended.code,
                    "signal": ended.signal,
                    "oom_killed": ended.oom_killed,
                    "started": started,
                    "finished": time::rfc3339(ended.at_nanos),
                    "log_lines_dropped": position.lines_dropped,
                    "log_end": position.log_offset,
                });
                if let Err(error) = exit::write_record(&self.launch.exit_path, &record, lasts) {
                    note(&error);
                }
            }
        }
        let arguments = ["--force", &self.launch.container_id];
        match runtime::call(
            &self.launch,
            Verb::Delete,
            "delete",
            &arguments,
            runtime::CallStdio::null(),
        ) {
            Ok(call) => {
                self.calls.push(call);
                self.stage = Stage::Deleting { since: now };
            }
            Err(error) => {
                note(&error);
                self.stage = Stage::Leaving { since: now };
                self.say_exit();
            }
        }
    }

    /// Tells everybody that the container has ended.
    pub(crate) fn say_exit(&mut self) {
        let mut remaining = std::mem::take(&mut self.processes);
        let init_end = remaining
            .iter()
            .find(|p| p.key == INIT)
            .and_then(|p| p.ended.clone());
        for process in &mut remaining {
            // An exec whose end was not seen ended with the container.
            let ended = process.ended.take().or_else(|| init_end.clone());
            if let Some(ended) = &ended {
                self.tell(process.key, &process.waiters, ended);
                process.waiters.clear();
            }
            process.ended = ended;
        }
        self.processes = remaining;
    }

    fn tell(&mut self, key: u32, waiters: &[(u64, u64)], ended: &Ended) {
        let now = Instant::now();
        for (client, request) in waiters {
            self.reply(*client, *request, reply::Body::Exit(exit_message(ended)));
        }
        for client in &mut self.clients {
            if let Some(role) = client.role.filter(|r| r.process == key) {
                client.end_gap(&self.log);
                let exit = Exit {
                    position: ended.position_for_clients,
                    ..exit_message(ended)
                };
                client.send(role.request, reply::Body::Exit(exit));
                client.flush();
                // An exec's client may take its time while the container lives: its output is nowhere else. What others do not read in time they
                // find in the log and in the record of the exit.
                let patience = (key == INIT).then_some(CLOSING);
                client.close(now, patience);
            }
        }
    }
}

/// How long a client of the container's streams may read nothing of its last frames.
const CLOSING: Duration = Duration::from_millis(500);

/// An end as it goes over the wire.
pub(crate) fn exit_message(ended: &Ended) -> Exit {
    Exit {
        code: ended.code,
        signal: ended.signal,
        oom_killed: ended.oom_killed,
        finished_unix_nanos: ended.at_nanos,
        position: ended.position,
    }
}
