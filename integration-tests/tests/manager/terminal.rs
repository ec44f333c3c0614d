//! A shell in a container, used from a real terminal.

use anyhow::{Result, ensure};
use croze_integration_tests::{Scene, Terminal};
use nix::sys::signal::Signal;

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
        // The word is the job's own: once it is shown the shell has left the terminal to it.
        terminal.type_line("sh -c 'echo begun; exec sleep 1000'; echo interrupted")?;
        terminal.wait_for_line("begun")?;
        terminal.press("C-c")?;
        terminal.type_line("echo still $((6 * 7))")?;
        terminal.wait_for_line("still 42")?;
        terminal.type_line("exit 5")?;
        terminal.wait_for_end(5)?;
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
        terminal.wait_for_end(3)?;
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
        terminal.wait_for_end(0)?;
        drop(terminal);
        assert_eq!(stage.daemon.inspect("kept")?["State"]["Running"], true);

        let again = Terminal::open(scene, &stage.daemon.shell_words("attach kept")?)?;
        again.type_line("echo again $((6 * 7))")?;
        again.wait_for_line("again 42")?;
        again.type_line("exit")?;
        again.wait_for_end(0)?;
        stage.daemon.finish()
    })
}

/// A shell in a container of this name, in a terminal of its own.
fn shell<'scene>(
    scene: &'scene Scene,
    stage: &Stage<'_>,
    name: &str,
    flags: &str,
) -> Result<Terminal<'scene>> {
    let line = stage
        .daemon
        .shell_words(&format!("run -it --name {name} {flags} {} /bin/sh", stage.image))?;
    let terminal = Terminal::open(scene, &line)?;
    terminal.type_line("echo $((40 + 2))")?;
    terminal.wait_for_line("42")?;
    Ok(terminal)
}

/// The terminal is as one in which nothing has happened, and shows what is typed.
fn ensure_restored(scene: &Scene, terminal: &Terminal<'_>) -> Result<()> {
    let untouched = Terminal::open(scene, "true")?;
    untouched.wait_for_end(0)?;
    assert_eq!(terminal.modes()?, untouched.modes()?);
    terminal.type_line("plain text")?;
    terminal.wait_for_line("plain text")
}

/// Stops a job with ^Z, brings it back, ends one with ^C and one with ^\.
fn ensure_job_control(terminal: &Terminal<'_>) -> Result<()> {
    // The word is the job's own: once it is shown the shell has left the terminal to it.
    let begin = |word: &str| {
        terminal.type_line(&format!("sh -c 'echo {word} $((1+1)); exec sleep 1000'"))?;
        terminal.wait_for_line(&format!("{word} 2"))
    };
    begin("stop")?;
    terminal.press("C-z")?;
    terminal.wait_for("the job is stopped", |screen| screen.contains("Stopped"))?;
    terminal.type_line("clear; jobs")?;
    terminal.wait_for("the job is listed", |screen| screen.contains("[1]+  Stopped"))?;
    terminal.type_line("fg")?;
    terminal.wait_for("the job is back", |screen| screen.contains("fg\nsh -c"))?;
    terminal.press("C-c")?;
    terminal.type_line("echo interrupted $?")?;
    terminal.wait_for_line("interrupted 130")?;
    begin("quit")?;
    terminal.press("C-\\")?;
    terminal.type_line("echo quitted $?")?;
    terminal.wait_for_line("quitted 131")
}

#[test]
fn keys_control_the_jobs_of_a_shell() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let terminal = shell(scene, &stage, "jobs", "--rm")?;
        ensure_job_control(&terminal)?;
        terminal.press("C-d")?;
        terminal.wait_for_end(0)?;
        ensure_restored(scene, &terminal)?;

        stage.start("host", &[], &["/probe", "wait"], "ready")?;
        let terminal = Terminal::open(scene, &stage.daemon.shell_words("exec -it host /bin/sh")?)?;
        ensure_job_control(&terminal)?;
        terminal.resize(70, 20)?;
        terminal.type_line("stty size")?;
        terminal.wait_for_line("20 70")?;
        terminal.press("C-d")?;
        terminal.wait_for_end(0)?;
        ensure_restored(scene, &terminal)?;
        stage.daemon.finish()
    })
}

#[test]
fn a_full_screen_program_draws_takes_keys_and_leaves() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let terminal = shell(scene, &stage, "editor", "--rm")?;
        terminal.type_line("echo $TERM")?;
        terminal.wait_for_line("xterm")?;
        terminal.type_line("vi /tmp/text")?;
        // It fills the terminal: below the empty first line one mark for each line, and the last line is its own.
        let marks = |screen: &str| screen.lines().filter(|line| line.trim() == "~").count();
        terminal.wait_for("the editor fills the screen", |screen| marks(screen) == 28)?;
        terminal.resize(80, 20)?;
        terminal.wait_for("the editor follows the size", |screen| marks(screen) == 18)?;
        terminal.press("i")?;
        terminal.type_line("first line")?;
        terminal.type_line("second")?;
        terminal.wait_for("the text is there", |screen| {
            screen.contains("second") && screen.contains("\nI /tmp/text")
        })?;
        terminal.press("Escape")?;
        terminal.wait_for("the editor takes commands", |screen| {
            screen.contains("\n- /tmp/text")
        })?;
        for key in ["k", "d", "d"] {
            terminal.press(key)?;
        }
        terminal.wait_for("the line is deleted", |screen| !screen.contains("second"))?;
        terminal.type_line(":wq")?;
        terminal.type_line("clear; wc -l </tmp/text; echo over")?;
        terminal.wait_for_line("over")?;
        let screen = terminal.screen()?;
        ensure!(
            marks(&screen) == 0 && screen.lines().any(|line| line.trim() == "2"),
            "{screen}"
        );
        terminal.type_line("top")?;
        terminal.wait_for("top shows the processes", |screen| {
            screen.contains("Load average") && screen.contains("COMMAND")
        })?;
        terminal.press("q")?;
        terminal.type_line("clear; exit 3")?;
        terminal.wait_for_end(3)?;
        ensure_restored(scene, &terminal)?;
        stage.daemon.finish()
    })
}

#[test]
fn detach_keys_of_ones_own_and_keys_that_only_begin_like_them() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let terminal = shell(scene, &stage, "usual", "")?;
        // In this shell ^P is the line before: it arrives, if not at once.
        terminal.type_line("clear; echo again $((1+1))")?;
        terminal.wait_for_line("again 2")?;
        terminal.press("C-p")?;
        terminal.press("Enter")?;
        terminal.press("C-p")?;
        terminal.type_line("; echo and more")?;
        terminal.wait_for_line("and more")?;
        terminal.resize(90, 25)?;
        terminal.type_line("stty size")?;
        terminal.wait_for_line("25 90")?;
        terminal.press("C-p")?;
        terminal.press("C-q")?;
        terminal.wait_for_end(0)?;
        ensure_restored(scene, &terminal)?;

        let words = "attach --detach-keys ctrl-a,d usual";
        let again = Terminal::open(scene, &stage.daemon.shell_words(words)?)?;
        again.press("Enter")?;
        again.wait_for("the prompt", |screen| screen.contains("/ #"))?;
        again.type_line("stty size")?;
        again.wait_for_line("30 100")?;
        again.press("C-p")?;
        again.press("C-q")?;
        again.press("C-u")?;
        again.type_line("echo still here $((1+1))")?;
        again.wait_for("these keys mean nothing now", |screen| {
            screen.contains("still here 2")
        })?;
        again.press("C-a")?;
        again.press("d")?;
        again.wait_for_end(0)?;
        ensure_restored(scene, &again)?;
        assert_eq!(stage.daemon.inspect("usual")?["State"]["Running"], true);

        // An added process goes on as well.
        let line = stage.daemon.shell_words("exec -it usual /bin/sh")?;
        let added = Terminal::open(scene, &line)?;
        added.type_line("echo added $((1+1))")?;
        added.wait_for_line("added 2")?;
        added.press("C-p")?;
        added.press("C-q")?;
        added.wait_for_end(0)?;
        ensure_restored(scene, &added)?;
        stage.daemon.finish()
    })
}

#[test]
fn the_terminal_is_given_back_however_it_ends() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for (signal, ended) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
            let name = format!("by-{signal}").to_lowercase();
            let terminal = shell(scene, &stage, &name, "")?;
            terminal.signal_program(signal)?;
            terminal.wait_for_end(ended)?;
            ensure_restored(scene, &terminal)?;
            assert_eq!(stage.daemon.inspect(&name)?["State"]["Running"], true, "{name}");
        }

        let terminal = shell(scene, &stage, "killed", "")?;
        stage.daemon.ok(&["kill", "killed"])?;
        terminal.wait_for_end(137)?;
        ensure_restored(scene, &terminal)?;

        let terminal = shell(scene, &stage, "left", "")?;
        stage.daemon.kill()?;
        terminal.wait_for_end(125)?;
        ensure!(
            terminal
                .screen()?
                .contains("the connection to the daemon was lost"),
            "{}",
            terminal.screen()?
        );
        ensure_restored(scene, &terminal)?;
        stage.daemon.launch()?;
        let again = Terminal::open(scene, &stage.daemon.shell_words("attach left")?)?;
        again.type_line("echo back $((1+1))")?;
        again.wait_for_line("back 2")?;
        again.press("C-d")?;
        again.wait_for_end(0)?;
        stage.daemon.finish()
    })
}

#[test]
fn terminals_inside_and_outside_in_every_combination() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let look = "test -t 0 && echo in; test -t 1 && echo out; test -t 2 && echo err; echo over";
        // A terminal inside, none outside.
        let output = stage.run(&["-t"], &["/bin/sh", "-c", look])?.success()?;
        assert_eq!(output.stdout, "in\r\nout\r\nerr\r\nover\r\n");
        // Input that is no terminal for a terminal inside: refused before anything is made.
        stage
            .run(&["-it"], &["/bin/sh"])?
            .failure(&["the input device is not a TTY"])?;
        assert_eq!(stage.daemon.ok(&["ps", "-aq"])?.text(), "");
        // None inside, one outside.
        let line = stage.daemon.shell_words(&format!(
            "run --rm -i {} /bin/sh -c '{look}; read x; echo got $x'",
            stage.image
        ))?;
        let terminal = Terminal::open(scene, &line)?;
        terminal.wait_for_line("over")?;
        terminal.type_line("a line")?;
        terminal.wait_for_line("got a line")?;
        terminal.wait_for_end(0)?;
        ensure!(
            !terminal.screen()?.lines().any(|line| line == "in"),
            "it has a terminal"
        );

        // One in the background gets its size with the first client.
        let run = ["run", "-d", "-i", "-t", "--name", "behind", &stage.image];
        stage.daemon.ok(&[&run[..], &["/bin/sh"]].concat())?;
        let attached = Terminal::open(scene, &stage.daemon.shell_words("attach behind")?)?;
        attached.type_line("stty size; tty")?;
        attached.wait_for_line("30 100")?;
        attached.wait_for_line("/dev/pts/0")?;
        attached.type_line("exit 9")?;
        attached.wait_for_end(9)?;
        ensure_restored(scene, &attached)?;

        // Only looking on: what ends the client ends nothing else.
        let run = ["run", "-d", "-t", "--name", "show", &stage.image];
        let forever = "while :; do echo shown; sleep 0.1; done";
        stage
            .daemon
            .ok(&[&run[..], &["/bin/sh", "-c", forever]].concat())?;
        let onlooker = Terminal::open(scene, &stage.daemon.shell_words("attach --no-stdin show")?)?;
        onlooker.wait_for_line("shown")?;
        onlooker.signal_program(Signal::SIGINT)?;
        onlooker.wait_for_end(130)?;
        assert_eq!(stage.daemon.inspect("show")?["State"]["Running"], true);
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
        terminal.wait_for_end(0)?;
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
