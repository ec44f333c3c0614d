//! The completion scripts, in the shells that are there: they load without a word, and complete verbs, flags and names.

use anyhow::{Result, ensure};
use croze_integration_tests::{Scene, bin};

use crate::Stage;

/// Asks bash's completion what may follow each line, as the Tab key does: one line `LINE -> WORDS` each.
const ASK_BASH: &str = r#"
croze() { "$CROZE" --host "$CROZE_HOST" "$@"; }
source "$SCRIPT" || exit 9
ask() {
    COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
    read -ra COMP_WORDS <<<"$1"
    [[ $1 == *' ' ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    $(complete -p croze | sed -n 's/.*-F \([^ ]*\).*/\1/p') croze "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    echo "$1 -> ${COMPREPLY[*]}"
}
while IFS= read -r line; do ask "$line"; done <"$LINES_FILE"
"#;

#[test]
fn bash_completes_verbs_flags_and_names() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("runs", &[], &["/probe", "wait"], "ready")?;
        stage.daemon.ok(&["create", "--name", "rests", &stage.image])?;
        let repository = stage.image.trim_end_matches(":latest");
        let cases = [
            ("croze inf", "info"),
            ("croze ps --no-t", "--no-trunc"),
            ("croze run --hostn", "--hostname"),
            ("croze container create --hostn", "--hostname"),
            ("croze completion ba", "bash"),
            ("croze stop ", "runs"),
            ("croze rm ", "rests runs"),
            ("croze container rm re", "rests"),
            ("croze rm -f re", "rests"),
            ("croze image rm 127", &format!("{repository}:latest")),
        ]
        .map(|(line, words)| (line.to_owned(), words.to_owned()));
        let lines = scene.path("lines");
        let asked: Vec<&str> = cases.iter().map(|(line, _)| line.as_str()).collect();
        std::fs::write(&lines, asked.join("\n") + "\n")?;
        let script = scene.path("completion.bash");
        std::fs::write(&script, stage.daemon.ok(&["completion", "bash"])?.stdout)?;
        let mut bash = std::process::Command::new("bash");
        // As a word break, a colon parts what is asked from what stands before it: here the whole word is compared.
        bash.args(["--norc", "-c", &format!("COMP_WORDBREAKS=' '\n{ASK_BASH}")]);
        bash.env("CROZE", bin("croze")?).env("SCRIPT", &script);
        bash.env("LINES_FILE", &lines);
        bash.env(
            "CROZE_HOST",
            stage
                .daemon
                .shell_words("")?
                .split(' ')
                .nth(2)
                .unwrap_or_default(),
        );
        let output = scene.run(bash)?.success()?;
        ensure!(output.stderr.is_empty(), "{output}");
        for ((line, expected), answer) in cases.iter().zip(output.stdout.lines()) {
            let mut words: Vec<&str> = answer
                .split_once(" -> ")
                .map_or("", |(_, words)| words)
                .split(' ')
                .collect();
            words.sort_unstable();
            assert_eq!(words.join(" "), *expected, "{line:?}: {output}");
        }
        assert_eq!(output.stdout.lines().count(), cases.len(), "{output}");
        stage.daemon.finish()
    })
}

#[test]
fn every_shell_that_is_there_loads_its_script() -> Result<()> {
    Scene::play(|scene| {
        for shell in ["bash", "zsh", "fish"] {
            let script = scene.path(shell);
            let printed = scene.call(&[bin("croze")?.as_os_str(), "completion".as_ref(), shell.as_ref()])?;
            std::fs::write(&script, printed.success()?.stdout)?;
            let there = scene.call(&["sh", "-c", &format!("command -v {shell}")])?;
            if there.stdout.is_empty() {
                eprintln!("no {shell} here: its script is not parsed");
                continue;
            }
            let checked = scene
                .call(&[shell.as_ref(), "-n".as_ref(), script.as_os_str()])?
                .success()?;
            ensure!(checked.stderr.is_empty(), "{checked}");
        }
        Ok(())
    })
}
