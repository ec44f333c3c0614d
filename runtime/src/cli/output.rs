//! What is printed: states, lists, errors. The formats are runc's, byte for byte where programs read them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use croze_container::error::chain;
use croze_container::ops::Snapshot;
use serde::Serialize;

use super::log::{Level, Log};

/// A container as `state` and `list` print it, in this order of fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: &'a str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: String,
}

impl<'a> Printed<'a> {
    fn of(container: &'a Snapshot, owners: &Owners) -> Self {
        Self {
            oci_version: &container.oci_version,
            id: &container.id,
            pid: container.pid.unwrap_or(0),
            status: container.status.as_str(),
            bundle: &container.bundle,
            rootfs: &container.rootfs,
            created: &container.created,
            annotations: &container.annotations,
            owner: owners.name(container.owner),
        }
    }
}

/// User names by number, from `/etc/passwd` alone: a static program does not ask NSS.
struct Owners(String);

impl Owners {
    fn load() -> Self {
        Self(fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    /// The name, or `#number` as runc writes it.
    fn name(&self, uid: u32) -> String {
        let number = uid.to_string();
        let line = self
            .0
            .lines()
            .find(|line| line.split(':').nth(2) == Some(&number));
        let name = line.and_then(|line| line.split(':').next());
        name.map_or_else(|| format!("#{uid}"), str::to_owned)
    }
}

/// Prints text on standard output; an output that is closed is an error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// One container, indented, without a newline at the end.
pub(crate) fn state(container: &Snapshot) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Printed::of(container, &Owners::load()))
}

/// All containers as one array; `null` if there are none.
pub(crate) fn list_json(containers: &[Snapshot]) -> serde_json::Result<String> {
    if containers.is_empty() {
        return Ok("null\n".to_owned());
    }
    let owners = Owners::load();
    let all: Vec<_> = containers.iter().map(|c| Printed::of(c, &owners)).collect();
    serde_json::to_string(&all).map(|text| text + "\n")
}

/// All containers as a table.
pub(crate) fn list_table(containers: &[Snapshot]) -> String {
    let owners = Owners::load();
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(containers.iter().map(|c| {
        [
            c.id.clone(),
            c.pid.unwrap_or(0).to_string(),
            c.status.to_string(),
            c.bundle.display().to_string(),
            c.created.clone(),
            owners.name(c.owner),
        ]
    }));
    table(&rows)
}

/// Columns at least 12 wide, with 3 spaces after the longest cell; the last is as wide as its text.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count() + 3)
            .max()
            .unwrap_or(0)
            .max(12)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if at + 1 < N {
                out.extend(std::iter::repeat_n(' ', widths[at] - cell.chars().count()));
            }
        }
        out.push('\n');
    }
    out
}

/// The heading of what `ps` printed, and its lines about certain processes. The column is found by its heading,
/// `PID`; `None` if there is no such column, for then it cannot be told whose processes they are.
pub(crate) fn matching_lines(text: &str, pids: &[i32]) -> Option<String> {
    let mut lines = text.lines();
    let heading = lines.next()?;
    let column = heading.split_whitespace().position(|title| title == "PID")?;
    let wanted = |line: &&str| {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let mut out = format!("{heading}\n");
    for line in lines.filter(wanted) {
        out.push_str(line);
        out.push('\n');
    }
    Some(out)
}

/// An error that ends the program: to the log file if there is one, and to standard error.
pub(crate) fn fatal(
    log: Option<&Log>,
    verb: &str,
    error: &(dyn std::error::Error + 'static),
    code: u8,
) -> ExitCode {
    let message = chain(error);
    match log {
        // Whoever asks for JSON reads it from there.
        Some(log) if log.is_standard_error_in_json() => {
            log.line(Level::Error, &message);
            return ExitCode::from(code);
        }
        Some(log) if log.has_file() => log.line(Level::Error, &message),
        _ => {}
    }
    let place = if verb.is_empty() {
        String::new()
    } else {
        format!(" {verb}")
    };
    // Without standard error there is nobody to tell.
    writeln!(io::stderr().lock(), "croze-rt{place}: {message}").ok();
    ExitCode::from(code)
}

/// Help and version go to standard output with code 0, wrong arguments to standard error (and the log) with code 1, as runc has it.
pub(crate) fn usage(error: &clap::Error, log: Option<&Log>) -> ExitCode {
    error.print().ok();
    if let Some(log) = log.filter(|_| error.use_stderr()) {
        // What follows the first line tells how to do it right, which is for people.
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        log.line(Level::Error, line.trim_start_matches("error: "));
    }
    ExitCode::from(u8::from(error.use_stderr()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use croze_container::state::Status;

    fn container() -> Snapshot {
        Snapshot {
            oci_version: "1.0.2".into(),
            id: "c1".into(),
            pid: None,
            status: Status::Stopped,
            bundle: "/tmp/bundle-1".into(),
            rootfs: "/tmp/bundle-1/rootfs".into(),
            created: "2026-01-02T03:04:05.6Z".into(),
            annotations: BTreeMap::new(),
            owner: 4_294_967_000,
        }
    }

    #[test]
    fn state_is_printed_as_runc_does() {
        let mut container = container();
        let want = r##"{
  "ociVersion": "1.0.2",
  "id": "c1",
  "pid": 0,
  "status": "stopped",
  "bundle": "/tmp/bundle-1",
  "rootfs": "/tmp/bundle-1/rootfs",
  "created": "2026-01-02T03:04:05.6Z",
  "owner": "#4294967000"
}"##;
        assert_eq!(state(&container).unwrap(), want);
        container.annotations.insert("a".into(), "b".into());
        assert!(
            state(&container)
                .unwrap()
                .contains("\"annotations\": {\n    \"a\": \"b\"\n  },\n  \"owner\"")
        );
    }

    #[test]
    fn lists_are_printed_as_runc_does() {
        assert_eq!(
            list_table(&[container()]),
            "ID          PID         STATUS      BUNDLE          CREATED                  OWNER\n\
             c1          0           stopped     /tmp/bundle-1   2026-01-02T03:04:05.6Z   #4294967000\n"
        );
        assert_eq!(
            list_table(&[]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
        assert_eq!(list_json(&[]).unwrap(), "null\n");
        assert!(
            list_json(&[container()])
                .unwrap()
                .starts_with(r#"[{"ociVersion":"1.0.2","id":"c1","pid":0,"#)
        );
    }

    #[test]
    fn lines_of_ps_are_chosen_by_pid() {
        let text = "UID   PID  PPID CMD\nroot    1     0 init\nroot   12     1 sh 1\nroot  112    12 x\n";
        assert_eq!(
            matching_lines(text, &[12]).as_deref(),
            Some("UID   PID  PPID CMD\nroot   12     1 sh 1\n")
        );
        assert_eq!(matching_lines("TTY CMD\n? x\n", &[12]), None);
        assert_eq!(matching_lines("", &[12]), None);
    }

    #[test]
    fn owners_are_found_by_number() {
        let owners = Owners("root:x:0:0:root:/root:/bin/sh\nbad line\nme:x:1000:1000::/:\n".into());
        assert_eq!(owners.name(0), "root");
        assert_eq!(owners.name(1000), "me");
        assert_eq!(owners.name(7), "#7");
    }
}
