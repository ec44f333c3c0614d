//! A real terminal: a tmux session with a server of its own.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::output::Output;
use crate::scene::Scene;
use crate::wait::wait_until;

/// A terminal of 100 columns and 30 rows that runs one program; it ends with this value.
#[derive(Debug)]
pub struct Terminal<'scene> {
    scene: &'scene Scene,
    socket: String,
}

impl<'scene> Terminal<'scene> {
    /// Starts a shell command in a new terminal. After its end the terminal shows `[ended CODE]`.
    ///
    /// # Errors
    /// tmux fails.
    pub fn open(scene: &'scene Scene, shell_command: &str) -> Result<Self> {
        // A server that was told to end may still hold its socket: each has one of its own.
        let socket = scene
            .path(&format!("tmux-{}", scene.next_number()))
            .to_string_lossy()
            .into_owned();
        let terminal = Self { scene, socket };
        let kept = format!("{shell_command}; echo \"[ended $?]\"; exec cat");
        terminal
            .tmux(&[
                "-f",
                "/dev/null",
                "new-session",
                "-d",
                "-x",
                "100",
                "-y",
                "30",
                &kept,
            ])?
            .success()
            .context("starting tmux")?;
        Ok(terminal)
    }

    /// Types text and the Enter key.
    ///
    /// # Errors
    /// tmux fails.
    pub fn type_line(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text])?.success()?;
        self.press("Enter")
    }

    /// Presses one key by tmux's name of it, such as `C-c`.
    ///
    /// # Errors
    /// tmux fails.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key])?.success().map(drop)
    }

    /// Changes the window's size.
    ///
    /// # Errors
    /// tmux fails.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows])?
            .success()
            .map(drop)
    }

    /// What the terminal shows.
    ///
    /// # Errors
    /// tmux fails.
    pub fn screen(&self) -> Result<String> {
        Ok(self.tmux(&["capture-pane", "-p"])?.success()?.stdout)
    }

    /// Waits until the terminal shows a line that is exactly `line`.
    ///
    /// # Errors
    /// It does not in twenty seconds; the message has what it shows instead.
    pub fn wait_for_line(&self, line: &str) -> Result<()> {
        self.wait_for(&format!("the terminal showed {line:?}"), |screen| {
            screen.lines().any(|shown| shown.trim() == line)
        })
    }

    /// Waits until the program has ended with this code, wherever the cursor was.
    ///
    /// # Errors
    /// It has not in twenty seconds.
    pub fn wait_for_end(&self, code: u8) -> Result<()> {
        let words = format!("[ended {code}]");
        self.wait_for(&format!("the terminal showed {words}"), |screen| {
            screen.contains(&words)
        })
    }

    /// Waits until what the terminal shows fulfils `condition`.
    ///
    /// # Errors
    /// It does not in twenty seconds; the message has what it shows instead.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&str) -> bool) -> Result<()> {
        let found = wait_until(what, Duration::from_secs(20), || {
            Ok(condition(&self.screen()?).then_some(()))
        });
        found.with_context(|| format!("the terminal shows:\n{}", self.screen().unwrap_or_default()))
    }

    /// The terminal's modes, in stty's own notation.
    ///
    /// # Errors
    /// tmux or stty fails.
    pub fn modes(&self) -> Result<String> {
        let device = self.of_pane("#{pane_tty}")?;
        let modes = self.scene.call(&["stty", "-F", &device, "-g"])?.success()?;
        Ok(modes.text().to_owned())
    }

    /// Sends a signal to the program that was started in the terminal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_program(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let shell = self.of_pane("#{pane_pid}")?;
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        let program = children
            .split_whitespace()
            .next()
            .context("the program runs")?
            .parse()?;
        Ok(nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(program),
            signal,
        )?)
    }

    fn of_pane(&self, format: &str) -> Result<String> {
        let said = self.tmux(&["display-message", "-p", format])?.success()?;
        Ok(said.text().to_owned())
    }

    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let mut words = vec!["tmux", "-S", &self.socket];
        words.extend(arguments);
        self.scene.call(&words)
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        // Where the server has ended by itself there is nothing to end.
        drop(self.tmux(&["kill-server"]));
    }
}
