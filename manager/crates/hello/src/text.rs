//! The facts as a page for people: at most 80 columns.

use std::fmt::Write as _;

use crate::facts::{Facts, Limit};

const WIDTH: usize = 78;
const LABEL: usize = 16;

/// Whether escape sequences are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A terminal.
    Colour,
    /// A file or a pipe.
    Plain,
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn painted(&self, code: &str, words: &str) -> String {
        match self.style {
            Style::Colour => format!("\x1b[{code}m{words}\x1b[0m"),
            Style::Plain => words.to_owned(),
        }
    }

    fn line(&mut self, words: &str) {
        self.text.push_str(words);
        self.text.push('\n');
    }

    fn heading(&mut self, words: &str) {
        let painted = self.painted("1;36", words);
        self.line("");
        self.line(&format!("  {painted}"));
    }

    /// A label and its value, wrapped at blanks and indented below itself.
    fn fact(&mut self, label: &str, value: &str) {
        let mut first = true;
        for row in wrap(value, WIDTH - LABEL - 4) {
            let shown = if first {
                self.painted("2", &format!("{label:<LABEL$}"))
            } else {
                " ".repeat(LABEL)
            };
            // Writing to a String cannot fail.
            let _infallible = writeln!(self.text, "    {shown}{row}");
            first = false;
        }
    }
}

/// Rows of at most `width` characters; a longer word has a row of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in text.split_whitespace() {
        let row = rows.last().map_or(0, |r| r.chars().count());
        if row > 0 && row + 1 + word.chars().count() > width {
            rows.push(String::new());
        }
        if let Some(row) = rows.last_mut() {
            if !row.is_empty() {
                row.push(' ');
            }
            row.push_str(word);
        }
    }
    rows
}

/// The page.
pub(crate) fn render(facts: &Facts, style: Style) -> String {
    let mut page = Page {
        text: String::new(),
        style,
    };
    let hello = page.painted("1;32", "Hello from Croze!");
    page.line("");
    page.line(&format!("  {hello}"));
    page.line("");
    if facts.is_first_process() {
        page.line("  This program runs in a container of its own. crozed unpacked its image,");
        page.line("  croze-shim holds its output, and an OCI runtime put it behind these walls:");
    } else {
        page.line("  This program does not run as the first process of a container; this is");
        page.line("  what it sees where it is:");
    }
    for (title, rows) in sections(facts) {
        page.heading(title);
        for (label, value) in rows {
            page.fact(label, &value);
        }
    }
    next(&mut page);
    page.text
}

/// A label and what stands beside it.
pub(crate) type Row = (&'static str, String);

/// What is shown, in its order: titles and their rows.
pub(crate) fn sections(facts: &Facts) -> [(&'static str, Vec<Row>); 3] {
    [
        ("Who I am", who(facts)),
        ("What separates me from the host", walls(facts)),
        ("How much I may use", limits(facts)),
    ]
}

fn who(facts: &Facts) -> Vec<Row> {
    let number = |id: Option<u32>| id.map_or("unknown".to_owned(), |id| id.to_string());
    let groups: Vec<String> = facts.groups.iter().map(u32::to_string).collect();
    let groups = if groups.is_empty() {
        String::new()
    } else {
        format!(", groups {}", groups.join(" "))
    };
    vec![
        (
            "process",
            format!("pid {}; {}", facts.pid, counted(facts.processes)),
        ),
        (
            "user",
            format!("uid {}, gid {}{groups}", number(facts.uid), number(facts.gid)),
        ),
        ("hostname", facts.hostname.clone()),
        ("kernel", facts.kernel.clone()),
    ]
}

fn counted(processes: usize) -> String {
    match processes {
        1 => "no other process is visible".into(),
        n => format!("{n} processes are visible"),
    }
}

fn walls(facts: &Facts) -> Vec<Row> {
    let namespaces: Vec<String> = facts
        .namespaces
        .iter()
        .map(|(kind, id)| format!("{kind}:{id}"))
        .collect();
    let access = if facts.root_read_only {
        "read-only"
    } else {
        "writable"
    };
    let capabilities = match facts.capabilities.len() {
        0 => "none".to_owned(),
        n => format!("{n} of 41: {}", facts.capabilities.join(" ")),
    };
    let seccomp = match facts.seccomp {
        Some(0) => "off",
        Some(1) => "strict",
        Some(2) => "a filter decides about each system call",
        _ => "not visible",
    };
    let privileges = match facts.no_new_privs {
        Some(true) => "locked: no program can gain any (no_new_privs)",
        Some(false) => "setuid programs may gain some (no_new_privs is off)",
        None => "not visible",
    };
    vec![
        ("namespaces", namespaces.join(" ")),
        ("root", format!("{}, {access}", facts.root_type)),
        ("network", network(facts)),
        ("capabilities", capabilities),
        ("seccomp", seccomp.to_owned()),
        ("new privileges", privileges.to_owned()),
    ]
}

fn network(facts: &Facts) -> String {
    match facts.interfaces.as_slice() {
        [] => "no interface at all".to_owned(),
        [one] if one == "lo" => "lo only: nothing beyond this container can be reached".to_owned(),
        many => {
            let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
            match addresses.len() {
                0 => format!("{}, without an address", many.join(" ")),
                _ => format!("{}; addresses {}", many.join(" "), addresses.join(" ")),
            }
        }
    }
}

fn limits(facts: &Facts) -> Vec<Row> {
    vec![
        ("memory", shown(facts.memory_bytes, |bytes| bytes_text(*bytes))),
        ("cpu", shown(facts.cpus, |cpus| format!("{cpus:.2} of a CPU"))),
        ("processes", shown(facts.pids, u64::to_string)),
    ]
}

fn shown<T>(limit: Limit<T>, text: impl Fn(&T) -> String) -> String {
    match limit {
        Limit::At(value) => text(&value),
        Limit::Unlimited => "no limit".into(),
        Limit::NotVisible => "not visible from here".into(),
    }
}

fn bytes_text(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) if bytes.is_multiple_of(*size) => format!("{} {unit}", bytes / size),
        Some((size, unit)) => {
            let tenths = bytes / (size / 10).max(1);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

fn next(page: &mut Page) {
    page.heading("What to try next");
    for (command, words) in [
        (
            "croze run --rm -m 64m --cpus 0.5 croze/hello",
            "limits are shown above",
        ),
        ("croze run --rm croze/hello --json", "the same for programs"),
        (
            "croze run -d -p 8080:8080 croze/hello serve",
            "this page over HTTP",
        ),
        ("croze pull debian", "a real image"),
        ("croze run --rm -it debian", "a shell in it"),
        ("croze ps -a", "all containers"),
    ] {
        let command = page.painted("1", &format!("{command:<46}"));
        page.line(format!("    {command} {words}").trim_end());
    }
    page.line("");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            pid: 1,
            uid: Some(0),
            gid: Some(0),
            groups: vec![0, 10],
            hostname: "0123456789ab".into(),
            kernel: "6.1.0".into(),
            namespaces: ["pid", "mnt", "uts", "ipc", "net", "user", "cgroup", "time"]
                .map(|k| (k, "4026531836".to_owned()))
                .to_vec(),
            processes: 1,
            memory_bytes: Limit::At(64 << 20),
            cpus: Limit::At(0.5),
            pids: Limit::Unlimited,
            capabilities: [
                "chown",
                "dac_override",
                "fowner",
                "fsetid",
                "kill",
                "setgid",
                "setuid",
                "setpcap",
            ]
            .map(str::to_owned)
            .to_vec(),
            no_new_privs: Some(false),
            seccomp: Some(2),
            root_type: "overlay".into(),
            root_read_only: false,
            interfaces: vec!["lo".into(), "eth0".into()],
            addresses: vec!["172.30.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        }
    }

    #[test]
    fn a_plain_page_has_80_columns_and_no_escapes() {
        let page = render(&facts(), Style::Plain);
        for line in page.lines() {
            assert!(
                line.chars().count() <= 80 && !line.contains('\x1b') && line.trim_end() == line,
                "{line:?}"
            );
        }
        for words in [
            "Hello from Croze!",
            "pid 1;",
            "64 MiB",
            "0.50 of a CPU",
            "no limit",
            "8 of 41: chown",
            "overlay, writable",
            "lo eth0; addresses 172.30.0.2 fd00::2",
        ] {
            assert!(page.contains(words), "{words}:\n{page}");
        }
    }

    #[test]
    fn a_terminal_gets_the_same_words_in_colour() {
        let coloured = render(&facts(), Style::Colour);
        assert!(coloured.contains("\x1b[1;32mHello from Croze!\x1b[0m"));
        let mut plain = coloured;
        for code in ["1;32", "1;36", "1", "2", "0"] {
            plain = plain.replace(&format!("\x1b[{code}m"), "");
        }
        let trimmed = |text: &str| text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(trimmed(&plain), trimmed(&render(&facts(), Style::Plain)));
    }

    #[test]
    fn sizes_and_wrapping() {
        let table = [
            (64 << 20, "64 MiB"),
            (1 << 30, "1 GiB"),
            (1_500_000, "1.4 MiB"),
            (12, "12 bytes"),
        ];
        for (bytes, text) in table {
            assert_eq!(bytes_text(bytes), text);
        }
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("toolongword a", 5), ["toolongword", "a"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
