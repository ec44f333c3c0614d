//! A manager of units: systemd for the system, or a user's.
//!
//! ```text
//! start    StartTransientUnit ─> job ─ wait for JobRemoved(job, "done")
//! change   SetUnitProperties
//! stop     StopUnit ─> job ─ wait for JobRemoved ─ ResetFailedUnit
//! ```
//!
//! The manager is reached over its bus, and where no bus is up, at a socket of its own.

use super::{Error, Property, Scope, Which};
use crate::dbus::{self, Connection, Message, Method, Peer, Value};
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// How long systemd gets for anything. It may be busy with a whole boot.
const PATIENCE: Duration = Duration::from_secs(30);

const fn method(member: &'static str) -> Method {
    Method {
        destination: SERVICE,
        path: OBJECT,
        interface: MANAGER,
        member,
    }
}

/// Whether systemd runs this host, as `sd_booted(3)` finds out.
pub(super) fn check_running() -> Result<(), Error> {
    if Path::new("/run/systemd/system").is_dir() {
        Ok(())
    } else {
        Err(Error::Absent)
    }
}

/// A connection to a manager.
#[derive(Debug)]
pub struct Manager {
    connection: Connection,
}

impl Manager {
    /// Connects to the manager.
    ///
    /// # Errors
    /// [`Error::Absent`] if systemd does not run here; else what was tried, and why the last attempt failed.
    pub fn connect(which: Which) -> Result<Self, Error> {
        check_running()?;
        let mut last = None;
        for (path, peer) in addresses(which, |name| env::var(name).ok()) {
            match Connection::open(&path, peer, PATIENCE).and_then(|connection| Self::over(connection, peer))
            {
                Ok(manager) => return Ok(manager),
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(source) => Error::Unreachable {
                manager: which.name(),
                source,
            },
            None => Error::NoAddress,
        })
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// The bus does not take our wish for signals.
    pub fn over(mut connection: Connection, peer: Peer) -> Result<Self, dbus::Error> {
        if peer == Peer::Bus {
            connection.add_match(
                "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
                 interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
            )?;
        }
        Ok(Self { connection })
    }

    /// The manager's own cgroup, below which its slices are: empty for the root.
    ///
    /// # Errors
    /// It does not answer, or with something else.
    pub fn cgroup(&mut self) -> Result<String, Error> {
        let get = Method {
            interface: "org.freedesktop.DBus.Properties",
            ..method("Get")
        };
        let answer = self
            .connection
            .call(&get, &[Value::text(MANAGER), Value::text("ControlGroup")])?;
        match answer.values("v")?.pop() {
            Some(Value::Variant(inner)) if matches!(*inner, Value::Text(_)) => match *inner {
                Value::Text(path) => Ok(path.trim_end_matches('/').to_owned()),
                _ => Ok(String::new()),
            },
            _ => Err(dbus::Error::Malformed {
                what: "the manager's cgroup is no text",
            }
            .into()),
        }
    }

    /// Makes a scope with one process in it, and waits until it is there.
    ///
    /// # Errors
    /// [`Error::Exists`] for a name that is taken; what systemd refuses; a job that fails.
    pub fn start(&mut self, scope: &Scope, pid: i32) -> Result<(), Error> {
        let properties = Value::Array("(sv)".to_owned(), start_properties(scope, pid));
        let arguments = [
            Value::text(&*scope.unit),
            Value::text("replace"),
            properties,
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let mut answer = self.connection.call(&method("StartTransientUnit"), &arguments);
        if is(&answer, "UnitExists") {
            // What has failed stays known until somebody says that it may be forgotten.
            self.forget(&scope.unit)?;
            answer = self.connection.call(&method("StartTransientUnit"), &arguments);
        }
        if is(&answer, "UnitExists") {
            return Err(Error::Exists {
                unit: scope.unit.clone(),
            });
        }
        let job = job(&answer?)?;
        match self.finished(&job)?.as_str() {
            "done" => Ok(()),
            result => {
                self.forget(&scope.unit)?;
                Err(Error::Job {
                    action: "start",
                    unit: scope.unit.clone(),
                    result: result.to_owned(),
                })
            }
        }
    }

    /// Changes a unit's properties, until the next boot.
    ///
    /// # Errors
    /// What systemd refuses.
    pub fn change(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        if properties.is_empty() {
            return Ok(());
        }
        let list = properties.iter().map(pair).collect();
        let arguments = [
            Value::text(unit),
            Value::Bool(true),
            Value::Array("(sv)".to_owned(), list),
        ];
        self.connection.call(&method("SetUnitProperties"), &arguments)?;
        Ok(())
    }

    /// Stops a unit and lets it be forgotten. One that is gone already is no error: a scope goes with its last process.
    ///
    /// # Errors
    /// What systemd refuses.
    pub fn stop(&mut self, unit: &str) -> Result<(), Error> {
        let answer = self
            .connection
            .call(&method("StopUnit"), &[Value::text(unit), Value::text("replace")]);
        if is(&answer, "NoSuchUnit") {
            return Ok(());
        }
        let job = job(&answer?)?;
        let result = self.finished(&job)?;
        self.forget(unit)?;
        if matches!(result.as_str(), "done" | "canceled" | "skipped") {
            return Ok(());
        }
        Err(Error::Job {
            action: "stop",
            unit: unit.to_owned(),
            result,
        })
    }

    /// Forgets that a unit has failed; one that has not is no error.
    fn forget(&mut self, unit: &str) -> Result<(), Error> {
        let answer = self
            .connection
            .call(&method("ResetFailedUnit"), &[Value::text(unit)]);
        if is(&answer, "NoSuchUnit") {
            return Ok(());
        }
        answer?;
        Ok(())
    }

    /// Waits for a job's end; its result.
    fn finished(&mut self, job: &str) -> Result<String, Error> {
        let ended = |member: &str, message: &Message| {
            if member != "JobRemoved" {
                return None;
            }
            let mut values = message.values("uoss").ok()?.into_iter();
            match (values.nth(1)?, values.nth(1)?) {
                (Value::Path(path), Value::Text(result)) if path == job => Some(result),
                _ => None,
            }
        };
        Ok(self.connection.wait_signal("the end of systemd's job", ended)?)
    }
}

/// What a scope is made with: what it is, then what annotations ask for, then the limits, which have the last word.
fn start_properties(scope: &Scope, pid: i32) -> Vec<Value> {
    let fixed = [
        ("Description", Value::text(&*scope.description)),
        ("Slice", Value::text(&*scope.slice)),
        ("Delegate", Value::Bool(true)),
        ("CPUAccounting", Value::Bool(true)),
        ("MemoryAccounting", Value::Bool(true)),
        ("IOAccounting", Value::Bool(true)),
        ("TasksAccounting", Value::Bool(true)),
        // Not after the basic targets, and not stopped before them: the container's caller decides.
        ("DefaultDependencies", Value::Bool(false)),
        (
            "PIDs",
            Value::Array("u".to_owned(), vec![Value::U32(pid.cast_unsigned())]),
        ),
    ];
    let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
    fixed
        .chain(scope.annotated.iter().cloned())
        .chain(scope.limits.iter().cloned())
        .map(|property| pair(&property))
        .collect()
}

fn pair((name, value): &Property) -> Value {
    Value::Struct(vec![
        Value::text(&**name),
        Value::Variant(Box::new(value.clone())),
    ])
}

fn is(answer: &Result<Message, dbus::Error>, error: &str) -> bool {
    matches!(answer, Err(dbus::Error::Remote { name, .. })
        if name.strip_prefix(SERVICE).and_then(|rest| rest.strip_prefix('.')) == Some(error))
}

fn job(answer: &Message) -> Result<String, Error> {
    match answer.values("o")?.pop() {
        Some(Value::Path(job)) => Ok(job),
        _ => Err(dbus::Error::Malformed {
            what: "a job without a path",
        }
        .into()),
    }
}

/// Where a manager may be reached, the best first; pure.
fn addresses(which: Which, variable: impl Fn(&str) -> Option<String>) -> Vec<(PathBuf, Peer)> {
    let given = |name| {
        let text: Option<String> = variable(name);
        text.as_deref().map(unix_paths).unwrap_or_default()
    };
    let mut found = Vec::new();
    match which {
        Which::System => {
            found.extend(
                given("DBUS_SYSTEM_BUS_ADDRESS")
                    .into_iter()
                    .map(|path| (path, Peer::Bus)),
            );
            found.push((PathBuf::from("/run/dbus/system_bus_socket"), Peer::Bus));
            found.push((PathBuf::from("/run/systemd/private"), Peer::Service));
        }
        Which::User => {
            found.extend(
                given("DBUS_SESSION_BUS_ADDRESS")
                    .into_iter()
                    .map(|path| (path, Peer::Bus)),
            );
            if let Some(runtime) = variable("XDG_RUNTIME_DIR").filter(|path| path.starts_with('/')) {
                let runtime = PathBuf::from(runtime);
                found.push((runtime.join("bus"), Peer::Bus));
                found.push((runtime.join("systemd/private"), Peer::Service));
            }
        }
    }
    found.dedup();
    found
}

/// The paths in an address like `unix:path=/run/user/1000/bus,guid=…;…`.
fn unix_paths(address: &str) -> Vec<PathBuf> {
    let path = |one: &str| {
        let pairs = one.strip_prefix("unix:")?;
        let found = pairs.split(',').find_map(|pair| pair.strip_prefix("path="));
        found.map(PathBuf::from)
    };
    address.split(';').filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dbus::connection::tests::peer;
    use crate::dbus::message::Kind;
    use crate::dbus::message::tests::{failure, reply, signal};
    use crate::systemd::tests::scope;
    use std::thread::JoinHandle;

    const JOB: &str = "/org/freedesktop/systemd1/job/7";

    fn removed(job: &str, result: &str) -> Vec<u8> {
        signal(
            "JobRemoved",
            &[
                Value::U32(7),
                Value::Path(job.to_owned()),
                Value::text("x.scope"),
                Value::text(result),
            ],
        )
    }

    /// A manager whose peer answers calls by their names, one answer for each time.
    fn manager(script: Vec<(&'static str, Answer)>) -> (Manager, JoinHandle<Vec<Message>>) {
        let mut script = script.into_iter();
        let (socket, thread) = peer(move |call| {
            let Kind::Call { member } = &call.kind else {
                return Vec::new();
            };
            let (name, answer) = script.next().unwrap_or(("nothing more", Empty));
            assert_eq!(member, name);
            match answer {
                Empty => vec![reply(call.serial, &[])],
                Job(result) => vec![
                    removed("/somebody/elses", "failed"),
                    reply(call.serial, &[Value::Path(JOB.to_owned())]),
                    signal("UnitNew", &[Value::text("x.scope"), Value::Path("/u".to_owned())]),
                    removed(JOB, result),
                ],
                Fails(name) => {
                    vec![failure(call.serial, &format!("{SERVICE}.{name}"), "so it is")]
                }
                Text(text) => {
                    vec![reply(call.serial, &[Value::Variant(Box::new(Value::text(text)))])]
                }
            }
        });
        let connection = Connection::over(socket, Peer::Service, Duration::from_secs(5)).unwrap();
        let manager = Manager::over(connection, Peer::Service).unwrap();
        (manager, thread)
    }

    enum Answer {
        Empty,
        Job(&'static str),
        Error(&'static str),
        Text(&'static str),
    }
    use Answer::{Empty, Error as Fails, Job, Text};

    #[test]
    fn a_scope_is_started_changed_and_stopped() {
        let (mut manager, thread) = manager(vec![
            ("Get", Text("/user.slice/")),
            ("StartTransientUnit", Job("done")),
            ("SetUnitProperties", Empty),
            ("StopUnit", Job("done")),
            ("ResetFailedUnit", Fails("NoSuchUnit")),
        ]);
        assert_eq!(manager.cgroup().unwrap(), "/user.slice");
        manager.start(&scope(), 42).unwrap();
        manager.change("x.scope", &[]).unwrap();
        let limit = ("TasksMax".to_owned(), Value::U64(5));
        manager.change("x.scope", &[limit]).unwrap();
        manager.stop("x.scope").unwrap();
        drop(manager);
        let calls = thread.join().unwrap();
        assert_eq!(calls[1].signature, "ssa(sv)a(sa(sv))");
        let body = String::from_utf8_lossy(&calls[1].body).into_owned();
        for word in [
            "x.scope",
            "replace",
            "Slice",
            "system.slice",
            "Delegate",
            "PIDs",
            "MemoryMax",
            "CollectMode",
        ] {
            assert!(body.contains(word), "{word}");
        }
        assert!(body.find("CollectMode") < body.find("MemoryMax"));
    }

    #[test]
    fn a_name_that_is_taken_is_freed_if_it_only_failed() {
        let (mut first, thread) = manager(vec![
            ("StartTransientUnit", Fails("UnitExists")),
            ("ResetFailedUnit", Empty),
            ("StartTransientUnit", Job("done")),
        ]);
        first.start(&scope(), 42).unwrap();
        drop(first);
        thread.join().unwrap();
        let (mut second, thread) = manager(vec![
            ("StartTransientUnit", Fails("UnitExists")),
            ("ResetFailedUnit", Empty),
            ("StartTransientUnit", Fails("UnitExists")),
        ]);
        let error = second.start(&scope(), 42).unwrap_err();
        assert!(error.to_string().contains("x.scope"), "{error}");
        assert!(matches!(error, Error::Exists { .. }));
        drop(second);
        thread.join().unwrap();
    }

    #[test]
    fn failures_are_told() {
        let (mut manager, thread) = manager(vec![
            ("StartTransientUnit", Job("failed")),
            ("ResetFailedUnit", Empty),
            ("StopUnit", Fails("NoSuchUnit")),
            ("StopUnit", Job("timeout")),
            ("ResetFailedUnit", Empty),
            ("SetUnitProperties", Fails("Odd")),
            ("Get", Empty),
        ]);
        let error = manager.start(&scope(), 42).unwrap_err();
        assert_eq!(
            error.to_string(),
            "systemd could not start x.scope: failed; `systemctl status x.scope` and the journal say more"
        );
        manager.stop("x.scope").unwrap();
        assert!(
            manager
                .stop("x.scope")
                .unwrap_err()
                .to_string()
                .contains("timeout")
        );
        let limit = ("TasksMax".to_owned(), Value::U64(5));
        let error = manager.change("x.scope", &[limit]).unwrap_err();
        let shown = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(format!("{error} {shown}").contains("so it is"), "{error} {shown}");
        assert!(manager.cgroup().is_err());
        drop(manager);
        thread.join().unwrap();
    }

    #[test]
    fn managers_are_looked_for_where_they_listen() {
        let none = |_: &str| None;
        assert_eq!(
            addresses(Which::System, none),
            [
                (PathBuf::from("/run/dbus/system_bus_socket"), Peer::Bus),
                (PathBuf::from("/run/systemd/private"), Peer::Service)
            ]
        );
        assert_eq!(addresses(Which::User, none), []);
        let set = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some("/run/user/7".to_owned()),
            "DBUS_SESSION_BUS_ADDRESS" => Some("tcp:host=x;unix:guid=1,path=/bus".to_owned()),
            _ => None,
        };
        let paths: Vec<_> = addresses(Which::User, set)
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert_eq!(
            paths,
            ["/bus", "/run/user/7/bus", "/run/user/7/systemd/private"].map(PathBuf::from)
        );
    }
}
