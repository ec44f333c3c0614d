//! The words of a command line as runc's flag library reads them, put into those that our own parser reads.
//!
//! ```text
//! -bundle /b   --bundle /b   --b=/b        one dash or two are the same, for long names and for short ones
//! -t=true   --detach=1   --keep=F          a flag without a value may be given a truth value
//! ```
//!
//! A word is taken for a long name behind one dash only where it is exactly that of a flag, so `-td` stays the two short flags that crun and
//! our parser see in it; and, for a verb that takes words of somebody else's (`exec`, `ps`), only before the container's id.
//!
//! Of several truth values for a flag the last counts: one that is false takes the flag out of the line.
//!
//! Most lines have no such words: they are parsed as they are, and nothing here is spent on them.

use clap::{Arg, Command, Id};
use std::ffi::OsString;

/// Whether a line has a word that our parser might take for something else without a complaint: one dash, and as many letters as our
/// shortest long name has (`-la` of a container's command is no such word), or a value behind a sign.
pub(super) fn is_in_question(line: &[OsString]) -> bool {
    line.iter().skip(1).any(|word| match word.as_encoded_bytes() {
        [b'-', b'-', ..] => false,
        [b'-', flag @ ..] => flag.len() >= SHORTEST || flag.contains(&b'='),
        _ => false,
    })
}

/// The length of `all`, `cap`, `cwd`, `env`, `log`, `tty`.
const SHORTEST: usize = 3;

/// A line as our parser reads it.
#[derive(Debug)]
pub(super) struct Translated {
    /// The program's name, and the words.
    pub(super) words: Vec<OsString>,
    /// How many of them stand before the verb.
    before_verb: usize,
}

impl Translated {
    /// Translates a line for this parser.
    pub(super) fn new(mut command: Command, line: &[OsString]) -> Self {
        // What a verb takes is only known then.
        command.build();
        let mut reader = Reader {
            globals: &command,
            verb: Verb::Awaited,
        };
        let mut rest = line.iter();
        // What is taken back leaves its place.
        let mut words: Vec<_> = rest.next().cloned().into_iter().map(Some).collect();
        let mut flags = Vec::new();
        let mut verb_at = None;
        while let Some(word) = rest.next() {
            if word == "--" || reader.is_done() {
                words.push(Some(word.clone()));
                break;
            }
            let place = words.len();
            let read = match word.to_str() {
                Some(text) => reader.read(text),
                None => Read::alone(word),
            };
            if let Some((flag, is_set)) = read.truth {
                for (_, place) in flags.extract_if(.., |(said, _)| *said == flag) {
                    words[place] = None;
                }
                if is_set {
                    flags.push((flag, place));
                }
            }
            words.push(read.word);
            if read.has_value_behind {
                words.push(rest.next().cloned());
            }
            if verb_at.is_none() && !matches!(reader.verb, Verb::Awaited) {
                verb_at = Some(place);
                flags.clear();
            }
        }
        words.extend(rest.cloned().map(Some));
        let before_verb = words[..verb_at.unwrap_or(words.len())].iter().flatten().count();
        let words = words.into_iter().flatten().collect();
        Self { words, before_verb }
    }

    /// The flags before the verb.
    pub(super) fn globals(&self) -> &[OsString] {
        &self.words[..self.before_verb]
    }
}

/// What a word is read as.
struct Read<'a> {
    /// What stands in its place; nothing for a flag that is said to be false.
    word: Option<OsString>,
    /// Whether the next word is its value.
    has_value_behind: bool,
    /// A flag that takes no value, and whether it is set.
    truth: Option<(&'a Id, bool)>,
}

impl Read<'_> {
    fn alone(word: impl Into<OsString>) -> Self {
        Self {
            word: Some(word.into()),
            has_value_behind: false,
            truth: None,
        }
    }
}

/// How far the words are read.
enum Verb<'a> {
    /// These are the flags before the verb.
    Awaited,
    /// This verb, and so many words that are no flags behind it.
    Is(&'a Command, usize),
    /// There is no such verb.
    Unknown,
}

struct Reader<'a> {
    globals: &'a Command,
    verb: Verb<'a>,
}

impl<'a> Reader<'a> {
    /// Whether the rest belongs to others: to the command that a container is to run, say.
    fn is_done(&self) -> bool {
        match self.verb {
            Verb::Awaited => false,
            Verb::Is(verb, count) => count > 1 && takes_words_of_others(verb),
            Verb::Unknown => true,
        }
    }

    fn read(&mut self, text: &str) -> Read<'a> {
        let Some(flag) = text.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            self.count(text);
            return Read::alone(text);
        };
        let (has_two_dashes, flag) = flag.strip_prefix('-').map_or((false, flag), |flag| (true, flag));
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        let may_be_long = has_two_dashes || name.chars().count() == 1 || !self.is_behind_id();
        match self.find(name).filter(|_| may_be_long) {
            Some(arg) if arg.get_action().takes_values() => Read {
                has_value_behind: value.is_none(),
                ..Read::alone(if has_two_dashes == (arg.get_long() == Some(name)) {
                    text.into()
                } else {
                    spelled(arg, value)
                })
            },
            Some(arg) => match value.map_or(Some(true), truth) {
                Some(is_set) => Read {
                    word: is_set.then(|| spelled(arg, None)),
                    has_value_behind: false,
                    truth: Some((arg.get_id(), is_set)),
                },
                // For the parser to complain about.
                None => Read::alone(spelled(arg, value)),
            },
            None => Read {
                has_value_behind: !has_two_dashes && self.ends_in_want_of_a_value(flag),
                ..Read::alone(text)
            },
        }
    }

    /// Whether what comes may be the words of somebody else: of a container's command, or of the host's `ps`.
    fn is_behind_id(&self) -> bool {
        match self.verb {
            Verb::Is(verb, count) => count > 0 && takes_words_of_others(verb),
            _ => false,
        }
    }

    /// A word that is no flag: the verb, or what a verb is about.
    fn count(&mut self, word: &str) {
        match &mut self.verb {
            Verb::Awaited => {
                let verb = self.globals.find_subcommand(word);
                self.verb = verb.map_or(Verb::Unknown, |verb| Verb::Is(verb, 0));
            }
            Verb::Is(_, count) => *count += 1,
            Verb::Unknown => {}
        }
    }

    fn find(&self, name: &str) -> Option<&'a Arg> {
        let command = match self.verb {
            Verb::Awaited => self.globals,
            Verb::Is(verb, _) => verb,
            Verb::Unknown => return None,
        };
        let is_short = |arg: &Arg| arg.get_short().is_some_and(|short| name.chars().eq([short]));
        command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(name) || is_short(arg))
    }

    /// Whether the last of several short flags, and no other, takes a value.
    fn ends_in_want_of_a_value(&self, flags: &str) -> bool {
        let takes = |flag: char| {
            let arg = self.find(flag.encode_utf8(&mut [0; 4]));
            arg.is_some_and(|arg| arg.get_action().takes_values())
        };
        let first = flags.char_indices().find(|(_, flag)| takes(*flag));
        first.is_some_and(|(at, flag)| at + flag.len_utf8() == flags.len())
    }
}

fn takes_words_of_others(verb: &Command) -> bool {
    verb.get_positionals().any(Arg::is_trailing_var_arg_set)
}

/// A flag as our parser knows it, with its value behind a sign if there is one.
fn spelled(arg: &Arg, value: Option<&str>) -> OsString {
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, short) => format!("-{}", short.unwrap_or_default()),
    };
    value
        .map_or_else(|| name.clone(), |value| format!("{name}={value}"))
        .into()
}

/// The truth values of Go's `strconv.ParseBool`.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{Invocation, LogFormat, Verb};
    use super::{Arg, Command, SHORTEST};
    use clap::CommandFactory;
    use std::ffi::OsString;
    use std::path::PathBuf;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn parse(line: &str) -> Result<Invocation, clap::Error> {
        Invocation::read(words(&format!("croze-rt {line}")))
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn flags_may_have_a_value_as_in_go() {
        let Verb::Run(args) = parse("--debug=true --systemd-cgroup=false run --detach=true --keep=false c1")
            .unwrap()
            .verb
        else {
            panic!()
        };
        assert!(args.detach && !args.keep);
        for line in [
            "--debug=maybe list",
            "run --detach=1.5 c1",
            "run -d=yes c1",
            "list --dream=true",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for (value, expected) in [
            ("1", true),
            ("t", true),
            ("TRUE", true),
            ("0", false),
            ("f", false),
            ("False", false),
        ] {
            for flag in ["-d", "--d", "-detach", "--detach"] {
                for line in [
                    format!("run {flag}={value} c1"),
                    format!("run c1 --detach={value}"),
                ] {
                    let Verb::Run(args) = parse(&line).expect(&line).verb else {
                        panic!()
                    };
                    assert_eq!(args.detach, expected, "{line}");
                }
            }
        }
        // What is the command's own stays as it is.
        let Verb::Exec(args) = parse("exec --tty=true c1 sh --tty=true").unwrap().verb else {
            panic!()
        };
        assert!(args.tty && args.command == ["sh", "--tty=true"]);
    }

    #[test]
    fn long_names_may_stand_behind_one_dash_as_in_go() {
        for line in [
            "-root /r --log-format json create -bundle /b -pid-file=p -no-pivot c1",
            "--root /r -log-format=json create -b=/b --pid-file p --no-pivot=true c1",
            "-root=/r -log-format json create --b /b -pid-file p -no-pivot=T c1",
        ] {
            let line = parse(line).expect(line);
            assert_eq!(line.globals.root, Some(PathBuf::from("/r")));
            assert_eq!(line.globals.log_format, LogFormat::Json);
            let Verb::Create(args) = line.verb else { panic!() };
            assert_eq!(
                (args.bundle.to_str(), args.id.as_str(), args.no_pivot),
                (Some("/b"), "c1", true)
            );
            assert_eq!(args.pid_file, Some(PathBuf::from("p")));
        }
    }

    #[test]
    fn the_last_truth_value_counts() {
        for (line, expected) in [
            ("run --detach --detach=false c1", false),
            ("run -d c1 --detach=0", false),
            ("run --detach=false -d c1", true),
            ("run -d=0 --detach --detach=T c1", true),
            ("--debug run --detach c1", true),
        ] {
            let Verb::Run(args) = parse(line).expect(line).verb else {
                panic!("{line}")
            };
            assert_eq!((args.detach, args.create.id.as_str()), (expected, "c1"), "{line}");
        }
        let line = parse("--systemd-cgroup --debug --systemd-cgroup=false --debug=f --debug list").unwrap();
        assert!(!line.globals.systemd_cgroup && line.globals.debug);
        // A value that looks like a flag is none.
        let Verb::Exec(args) = parse("exec --env=--tty -t=false c1 true").unwrap().verb else {
            panic!()
        };
        assert!(!args.tty && args.env == ["--tty"]);
    }

    #[test]
    fn flags_of_a_verb_may_stand_behind_its_id_with_one_dash() {
        let Verb::Create(args) = parse("create c1 -bundle=/b -pid-file p").unwrap().verb else {
            panic!()
        };
        assert_eq!(
            (args.bundle.to_str(), args.pid_file),
            (Some("/b"), Some(PathBuf::from("p")))
        );
        let Verb::Run(args) = parse("run c1 -detach").unwrap().verb else {
            panic!()
        };
        assert!(args.detach);
        for line in ["delete c1 -force", "kill c1 -all KILL", "update c1 -resources=-"] {
            parse(line).expect(line);
        }
    }

    #[test]
    fn what_is_a_flag_of_exec_and_what_is_the_commands() {
        /// Flags, the terminal, the environment, the command.
        type Case = (
            &'static str,
            bool,
            &'static [&'static str],
            &'static [&'static str],
        );
        let cases: [Case; 8] = [
            ("exec -env A=1 c1 env", false, &["A=1"], &["env"]),
            ("exec -tty -env=A=1 c1 env -env", true, &["A=1"], &["env", "-env"]),
            // As crun reads them; runc knows no such flags.
            ("exec -dt c1 ls -la", true, &[], &["ls", "-la"]),
            ("exec -te A=1 c1 ls -tty", true, &["A=1"], &["ls", "-tty"]),
            ("exec -eA=1 c1 ls", false, &["A=1"], &["ls"]),
            (
                "exec --env=-tty c1 ls -t=true",
                false,
                &["-tty"],
                &["ls", "-t=true"],
            ),
            ("exec -t=0 c1 -- -tty", false, &[], &["-tty"]),
            ("exec c1 sh -c -tty", false, &[], &["sh", "-c", "-tty"]),
        ];
        for (line, tty, env, command) in cases {
            let Verb::Exec(args) = parse(line).expect(line).verb else {
                panic!("{line}")
            };
            assert_eq!((args.id.as_str(), args.tty), ("c1", tty), "{line}");
            assert_eq!(
                (&args.env[..], &args.command[..]),
                (&strings(env)[..], &strings(command)[..]),
                "{line}"
            );
        }
    }

    #[test]
    fn the_words_before_the_verb_end_there() {
        let globals = |line: &str| {
            let line: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let globals = Invocation::globals_of(&line);
            globals
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        for (line, expected) in [
            ("rt exec --bogus c1 app --log /etc/x", "rt"),
            (
                "rt --root exec -log=/l exec c1 app --log /etc/x",
                "rt --root exec --log=/l",
            ),
            ("rt --bogus --log /l state", "rt --bogus --log /l"),
            ("rt --debug frob --log /l", "rt --debug"),
            ("rt", "rt"),
        ] {
            assert_eq!(globals(line), expected);
        }
    }
    #[test]
    fn no_long_name_is_shorter_than_is_looked_for() {
        let mut command = Invocation::command();
        command.build();
        let verbs = command.get_subcommands().flat_map(Command::get_arguments);
        let names = command.get_arguments().chain(verbs).filter_map(Arg::get_long);
        assert_eq!(names.map(str::len).min(), Some(SHORTEST));
    }
}
