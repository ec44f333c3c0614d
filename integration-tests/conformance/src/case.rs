//! One case: what is asked of the runtime, and what must be seen.

use anyhow::{Result, bail, ensure};
use croze_integration_tests::{Output, Scene, spec};
use serde_json::Value;

use crate::cgroups::Place;
use crate::host::{Host, Need};
use crate::stage::Stage;

/// What must be seen of a spec that was run.
#[derive(Clone, Debug)]
pub enum Expect {
    /// This part of the probe's report, by its JSON pointer.
    Reports(String, Value),
    /// This text on standard output, without white space around it.
    Prints(String),
    /// A mount at this point whose line has these words, or has not (those with a `!` before them).
    Mounted(String, Vec<String>),
    /// An error. Croze's has these words.
    Refused(Vec<String>),
    /// This exit code.
    Ends(i32),
    /// This value in the file of the container's cgroup while it waits.
    Cgroup(Place, String),
}

/// A script's body.
pub(crate) type Script = fn(&Stage<'_>) -> Result<()>;

/// What is asked, and what must be seen.
#[derive(Debug)]
pub struct Case {
    /// The field or flag, and after a space what is special.
    pub name: String,
    needs: Vec<Need>,
    args: Vec<String>,
    changes: Vec<Change>,
    expects: Vec<Expect>,
    script: Option<Script>,
}

#[derive(Debug)]
enum Change {
    Set(String, Value),
    Append(String, Value),
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that was asked for was seen.
    Ok,
    /// The host cannot show it.
    Skipped(String),
    /// Something else was seen, or something was left behind.
    Failed(String),
}

impl Case {
    /// A case that runs the probe's report in a spec like docker's.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            needs: Vec::new(),
            args: vec!["/probe".to_owned()],
            changes: Vec::new(),
            expects: Vec::new(),
            script: None,
        }
    }

    /// A case that takes more than one run.
    pub fn script(name: impl Into<String>, script: Script) -> Self {
        Self {
            script: Some(script),
            ..Self::new(name)
        }
    }

    /// The host must have this.
    #[must_use]
    pub fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// The container runs this.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// The container runs this line of shell.
    #[must_use]
    pub fn shell(self, line: &str) -> Self {
        self.args(&["/bin/sh", "-c", line])
    }

    /// Sets a field of the spec; objects on the way to it are made.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        self.changes.push(Change::Set(pointer.to_owned(), value));
        self
    }

    /// Appends to a list of the spec.
    #[must_use]
    pub fn append(mut self, pointer: &str, value: Value) -> Self {
        self.changes.push(Change::Append(pointer.to_owned(), value));
        self
    }

    /// See [`Expect::Reports`].
    #[must_use]
    pub fn reports(mut self, pointer: &str, value: Value) -> Self {
        self.expects.push(Expect::Reports(pointer.to_owned(), value));
        self
    }

    /// See [`Expect::Prints`].
    #[must_use]
    pub fn prints(mut self, text: &str) -> Self {
        self.expects.push(Expect::Prints(text.to_owned()));
        self
    }

    /// See [`Expect::Mounted`].
    #[must_use]
    pub fn mounted(mut self, point: &str, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.expects.push(Expect::Mounted(point.to_owned(), words));
        self
    }

    /// See [`Expect::Refused`].
    #[must_use]
    pub fn refused(mut self, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.expects.push(Expect::Refused(words));
        self
    }

    /// See [`Expect::Ends`].
    #[must_use]
    pub fn ends(mut self, code: i32) -> Self {
        self.expects.push(Expect::Ends(code));
        self
    }

    /// See [`Expect::Cgroup`]. The value may differ by the version: `v1` is `file=value`, `v2` too; an empty one means that this version
    /// has no such thing.
    #[must_use]
    pub fn cgroup(mut self, controller: &'static str, v1: &str, v2: &str) -> Self {
        let half = |text: &str| {
            text.split_once('=')
                .map(|(file, value)| (file.to_owned(), value.to_owned()))
        };
        let (v1, v2) = (half(v1), half(v2));
        self.needs.push(Need::CgroupFile {
            controller,
            v1: v1.as_ref().map(|(file, _)| file.clone()),
            v2: v2.as_ref().map(|(file, _)| file.clone()),
        });
        for (version, half) in [(1, v1), (2, v2)] {
            if let Some((file, value)) = half {
                let place = Place {
                    controller,
                    version,
                    file,
                };
                self.expects.push(Expect::Cgroup(place, value));
            }
        }
        self
    }

    /// Plays the case on a scene of its own.
    #[must_use]
    pub fn judge(&self, host: &Host) -> Verdict {
        if let Some(missing) = self.needs.iter().find_map(|need| host.lacks(need)) {
            return Verdict::Skipped(missing);
        }
        let played = Scene::play(|scene| {
            let stage = Stage::new(scene, host)?;
            match self.script {
                Some(script) => script(&stage),
                None => self.play(&stage),
            }
        });
        match played {
            Ok(()) => Verdict::Ok,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        }
    }

    fn play(&self, stage: &Stage<'_>) -> Result<()> {
        let watches = |expect: &&Expect| matches!(expect, Expect::Cgroup(..));
        let (outside, inside): (Vec<&Expect>, Vec<&Expect>) = self.expects.iter().partition(watches);
        ensure!(!self.expects.is_empty(), "the case expects nothing");
        if outside.is_empty() {
            let output = stage.run(&self.spec()?)?;
            return inside
                .into_iter()
                .try_for_each(|expect| see(stage, expect, &output));
        }
        ensure!(inside.is_empty(), "a case looks either inside or outside");
        let mut config = self.spec()?;
        config["process"]["args"] = serde_json::json!(["/probe", "wait"]);
        let id = stage.start(&config)?;
        let pid = stage.runtime.pid(&id)?;
        for expect in outside {
            let Expect::Cgroup(place, wanted) = expect else {
                continue;
            };
            if let Some(found) = place.read(pid)? {
                ensure!(&found == wanted, "{place}: {found:?} instead of {wanted:?}");
            }
        }
        stage.runtime.delete_by_force(&id)
    }

    fn spec(&self) -> Result<Value> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let mut config = spec::docker_like(&args);
        for change in &self.changes {
            match change {
                Change::Set(pointer, value) => set(&mut config, pointer, value.clone())?,
                Change::Append(pointer, value) => spec::append(&mut config, pointer, value.clone())?,
            }
        }
        Ok(config)
    }
}

/// Sets a field by its pointer; `null` takes it away.
///
/// # Errors
/// Something on the way is no object.
pub(crate) fn set(config: &mut Value, pointer: &str, value: Value) -> Result<()> {
    let (parent, last) = pointer.rsplit_once('/').unwrap_or_default();
    let mut place = config;
    for key in parent.split('/').skip(1) {
        ensure!(
            place.is_object() || place.is_null(),
            "{pointer}: something before {key} is no object"
        );
        place = &mut place[key];
    }
    if value.is_null() {
        if let Some(object) = place.as_object_mut() {
            object.remove(last);
        }
        return Ok(());
    }
    place[last] = value;
    Ok(())
}

fn see(stage: &Stage<'_>, expect: &Expect, output: &Output) -> Result<()> {
    match expect {
        Expect::Refused(words) => {
            let asked: Vec<&str> = words.iter().map(String::as_str).collect();
            let asked = if stage.is_croze() { asked.as_slice() } else { &[] };
            output.clone().failure(asked).map(drop)
        }
        Expect::Ends(code) => output.clone().code(*code).map(drop),
        Expect::Prints(text) => {
            let output = output.clone().success()?;
            ensure!(output.text() == text, "expected {text:?}: {output}");
            Ok(())
        }
        Expect::Reports(pointer, wanted) => {
            let report = output.clone().success()?.json()?;
            let found = report.pointer(pointer).unwrap_or(&Value::Null);
            ensure!(found == wanted, "{pointer}: {found} instead of {wanted}");
            Ok(())
        }
        Expect::Mounted(point, words) => {
            let report = output.clone().success()?.json()?;
            mounted(&report, point, words)
        }
        Expect::Cgroup(..) => bail!("this is looked at from outside"),
    }
}

/// Whether the last mount at `point`, which is what a path reaches, has these words in its line.
///
/// # Errors
/// It has not, or nothing is mounted there.
pub(crate) fn mounted(report: &Value, point: &str, words: &[String]) -> Result<()> {
    let lines = report["mountinfo"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let line = lines
        .iter()
        .filter_map(Value::as_str)
        .rfind(|line| line.split(' ').nth(4) == Some(point));
    let Some(line) = line else {
        bail!("nothing is mounted at {point}: {lines:?}")
    };
    // Options stand in two lists; a word such as `shared:3` is found by what stands before the colon.
    let has = |wanted: &str| {
        line.split([' ', ','])
            .any(|word| word == wanted || word.starts_with(&format!("{wanted}:")))
    };
    for word in words {
        let (wanted, there) = word
            .strip_prefix('!')
            .map_or((word.as_str(), true), |word| (word, false));
        ensure!(has(wanted) == there, "{word:?} in {line}");
    }
    Ok(())
}
