//! A shell in a container, used from a real terminal.

use anyhow::{Result, ensure};
use croze_integration_tests::{Scene, Terminal};

use crate::Stage;

#[test]
fn an_interactive_shell_is_usable() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let line = stage
            .daemon
            .shell_words(&format!("run --rm -it --hostname inside {} /bin/sh", stage.image))?;
        let terminal = Terminal::open(scene, &line)?;
        terminal.type_line("echo $((40 + 2)) $(hostname) $$")?;
        terminal.wait_for_line("42 inside 1")?;
        terminal.type_line("stty size")?;
        terminal.wait_for_line("30 100")?;
        terminal.resize(90, 25)?;
        terminal.type_line("stty size")?;
        terminal.wait_for_line("25 90")?;
        // Once this is shown the shell has left the terminal to its child.
        terminal.type_line("echo begun; sleep 1000; echo interrupted")?;
        terminal.wait_for_line("begun")?;
        terminal.press("C-c")?;
        terminal.type_line("echo still $((6 * 7))")?;
        terminal.wait_for_line("still 42")?;
        terminal.type_line("exit 5")?;
        terminal.wait_for_line("[ended 5]")?;
        // The terminal was given back as it was.
        terminal.type_line("plain text")?;
        terminal.wait_for_line("plain text")?;
        stage.daemon.finish()
    })
}

#[test]
fn an_added_shell_is_usable() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("host", &["--hostname", "inside"], &["/probe", "wait"], "ready")?;
        let terminal = Terminal::open(scene, &stage.daemon.shell_words("exec -it host /bin/sh")?)?;
        terminal.type_line("test -t 0 && test -t 1 && echo terminal in $(hostname)")?;
        terminal.wait_for_line("terminal in inside")?;
        terminal.type_line("stty size")?;
        terminal.wait_for_line("30 100")?;
        terminal.type_line("exit 3")?;
        terminal.wait_for_line("[ended 3]")?;
        stage.daemon.finish()
    })
}

#[test]
fn detaching_leaves_the_container_running() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let line = stage
            .daemon
            .shell_words(&format!("run -it --name kept {} /bin/sh", stage.image))?;
        let terminal = Terminal::open(scene, &line)?;
        terminal.type_line("echo $((40 + 2))")?;
        terminal.wait_for_line("42")?;
        terminal.press("C-p")?;
        terminal.press("C-q")?;
        terminal.wait_for_line("[ended 0]")?;
        drop(terminal);
        assert_eq!(stage.daemon.inspect("kept")?["State"]["Running"], true);

        let again = Terminal::open(scene, &stage.daemon.shell_words("attach kept")?)?;
        again.type_line("echo again $((6 * 7))")?;
        again.wait_for_line("again 42")?;
        again.type_line("exit")?;
        again.wait_for_line("[ended 0]")?;
        stage.daemon.finish()
    })
}

#[test]
fn a_pull_shows_bars_in_a_terminal() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.daemon.ok(&["rmi", &stage.image])?;
        let line = stage.daemon.shell_words(&format!("pull {}", stage.image))?;
        let terminal = Terminal::open(scene, &line)?;
        terminal.wait_for_line("[ended 0]")?;
        let screen = terminal.screen()?;
        // A finished bar is one line; where there is no terminal each change would have been one.
        let of_the_layer: Vec<&str> = screen.lines().filter(|line| line.ends_with("done")).collect();
        ensure!(
            of_the_layer.len() == 1 && !screen.contains("fetching "),
            "{screen}"
        );
        stage.daemon.finish()
    })
}
