//! The runtimes that are compared, and one call of one of them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use croze_sys::usage::wait_with_usage;

use crate::bundle::Bundles;

/// One runtime.
pub(crate) struct Runtime {
    /// What the report calls it.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The first line of `--version`.
    pub(crate) version: String,
    /// The program's size in bytes.
    pub(crate) size: u64,
}

impl Runtime {
    /// Looks at a program.
    ///
    /// # Errors
    /// It is not there, or does not run.
    pub(crate) fn find(name: &str, path: &Path) -> Result<Self> {
        let path =
            fs::canonicalize(path).with_context(|| format!("{name}: {} is missing", path.display()))?;
        let output = Command::new(&path).arg("--version").output()?;
        if !output.status.success() {
            bail!(
                "{} does not run: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let version = String::from_utf8_lossy(&output.stdout);
        Ok(Self {
            name: name.to_owned(),
            version: version.lines().next().unwrap_or_default().to_owned(),
            size: fs::metadata(&path)?.len(),
            path,
        })
    }
}

/// What one call cost.
pub(crate) struct Cost {
    pub(crate) time: Duration,
    /// Peak memory in KiB.
    pub(crate) memory: u64,
}

/// One runtime at work, with a directory of its own.
pub(crate) struct Bench<'a> {
    runtime: &'a Runtime,
    bundles: &'a Bundles,
    root: PathBuf,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(runtime: &'a Runtime, bundles: &'a Bundles) -> Result<Self> {
        let root = bundles.path(&format!("root-{}", runtime.name.replace(' ', "-")));
        fs::create_dir_all(&root)?;
        Ok(Self {
            runtime,
            bundles,
            root,
        })
    }

    /// Removes the seccomp programs that crun keeps beside its records.
    pub(crate) fn forget_compiled(&self) -> Result<()> {
        match fs::remove_dir_all(self.root.join(".cache")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Runs one command to its end.
    pub(crate) fn call(&self, arguments: &[&str]) -> Result<Cost> {
        let begin = Instant::now();
        let child = self.spawn(None, arguments, "errors")?;
        let (exit, usage) = wait_with_usage(i32::try_from(child.id())?)?;
        let time = begin.elapsed();
        self.check(exit.as_code(), arguments, "errors")?;
        Ok(Cost {
            time,
            memory: usage.peak_memory_kib,
        })
    }

    pub(crate) fn run(&self, bundle: &str, id: &str) -> Result<Cost> {
        self.call(&["run", "--bundle", &self.bundle(bundle), id])
    }

    /// Makes a container; returns its first process, too.
    pub(crate) fn create(&self, bundle: &str, id: &str) -> Result<(Cost, i32)> {
        let file = self.root.join(format!("{id}.pid"));
        let cost = self.call(&[
            "create",
            "--bundle",
            &self.bundle(bundle),
            "--pid-file",
            &file.display().to_string(),
            id,
        ])?;
        let pid = fs::read_to_string(&file)?
            .trim()
            .parse()
            .context("the pid file holds no number")?;
        Ok((cost, pid))
    }

    /// Runs all these bundles at once, with `turn` in the ids; returns how long it took until the last one had ended.
    ///
    /// Every turn has ids of its own: runc may leave a record behind when many of its kind end at once.
    pub(crate) fn run_at_once(&self, bundles: &[String], turn: usize) -> Result<Duration> {
        let begin = Instant::now();
        let mut children = Vec::with_capacity(bundles.len());
        for bundle in bundles {
            let id = format!("{bundle}-{turn}");
            let child = self.spawn(None, &["run", "--bundle", &self.bundle(bundle), &id], bundle)?;
            children.push((child.id(), bundle));
        }
        let mut exits = Vec::with_capacity(children.len());
        for (pid, bundle) in children {
            exits.push((wait_with_usage(i32::try_from(pid)?)?.0, bundle));
        }
        let time = begin.elapsed();
        for (exit, bundle) in exits {
            self.check(exit.as_code(), &["run", bundle], bundle)?;
        }
        Ok(time)
    }

    /// How many system calls one command and its children make, counted by strace; `None` without strace.
    pub(crate) fn count_calls(&self, arguments: &[&str]) -> Result<Option<usize>> {
        let lines = self.root.join("strace");
        let Ok(child) = self.spawn(Some(&lines), arguments, "errors") else {
            return Ok(None);
        };
        let (exit, _) = wait_with_usage(i32::try_from(child.id())?)?;
        self.check(exit.as_code(), arguments, "errors")?;
        Ok(Some(count_lines(&fs::read_to_string(&lines)?)))
    }

    fn spawn(&self, strace: Option<&Path>, arguments: &[&str], errors: &str) -> Result<Child> {
        let program = &self.runtime.path;
        let mut command = match strace {
            Some(lines) => {
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-o"]).arg(lines).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .arg("--root")
            .arg(&self.root)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.root.join(errors))?);
        Ok(command.spawn()?)
    }

    fn check(&self, code: i32, arguments: &[&str], errors: &str) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        bail!(
            "{} {arguments:?}: code {code}: {}",
            self.runtime.name,
            fs::read_to_string(self.root.join(errors))?
        )
    }

    pub(crate) fn bundle(&self, name: &str) -> String {
        self.bundles.path(name).display().to_string()
    }
}

/// One line for each call; the second half of one that was interrupted, and signals and ends, are none.
fn count_lines(strace: &str) -> usize {
    strace
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, call)| {
            call.trim_start()
                .starts_with(|first: char| first.is_ascii_lowercase())
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::count_lines;

    #[test]
    fn interrupted_calls_count_once() {
        let text = "7 read(3,  <unfinished ...>\n8 getpid() = 8\n7 <... read resumed>\"\", 1) = 0\n8 --- SIGCHLD {} ---\n\
            8 +++ exited with 0 +++\n7 exit_group(0) = ?\n";
        assert_eq!(count_lines(text), 3);
    }
}
