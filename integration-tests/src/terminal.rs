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
        let found = wait_until(
            &format!("the terminal showed {line:?}"),
            Duration::from_secs(20),
            || {
                Ok(self
                    .screen()?
                    .lines()
                    .any(|shown| shown.trim() == line)
                    .then_some(()))
            },
        );
        found.with_context(|| format!("the terminal shows:\n{}", self.screen().unwrap_or_default()))
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
