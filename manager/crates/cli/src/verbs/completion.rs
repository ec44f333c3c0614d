//! `completion`: scripts that make shells complete croze's words.
//!
//! Verbs and flags are clap's own lists. Names of containers and images are asked of the daemon while the user types, by `croze ps` and `croze
//! images`: what is added here to clap's script only says which of them belong where.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::{Cli, CompletedShell};
use crate::failure::Failure;
use crate::output;

/// Verbs that take containers which run.
const ON_RUNNING: [&str; 4] = ["attach", "exec", "kill", "stop"];
/// Verbs that take any containers.
const ON_CONTAINERS: [&str; 5] = ["inspect", "logs", "rm", "start", "wait"];
/// Verbs that take images.
const ON_IMAGES: [&str; 5] = ["create", "history", "rmi", "run", "tag"];

/// `croze completion`
pub(super) fn print(shell: CompletedShell) -> Result<u8, Failure> {
    output::text(&script(shell))?;
    Ok(0)
}

fn script(shell: CompletedShell) -> String {
    match shell {
        CompletedShell::Bash => format!("{}{}", generated(Shell::Bash), bash()),
        CompletedShell::Zsh => zsh(&generated(Shell::Zsh)),
        CompletedShell::Fish => format!("{}{}", generated(Shell::Fish), fish()),
    }
}

fn generated(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "croze", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// clap's function is asked where no name belongs. A name with a colon is several words to bash: what stands before its last one is not
/// completed again.
fn bash() -> String {
    format!(
        r#"
_croze_names() {{
    local line=${{COMP_LINE:0:COMP_POINT}} current noun="" verb="" word previous="" list=""
    current=${{line##*[[:space:]]}}
    local -a words host=()
    read -ra words <<<"${{line%"$current"}}"
    for word in "${{words[@]:1}}"; do
        if [[ $previous == --host ]]; then
            host=(--host "$word")
        elif [[ $word == --host=* ]]; then
            host=("$word")
        elif [[ $word != -* ]]; then
            if [[ -z $noun && $word =~ ^(container|image|system)$ ]]; then
                noun=$word
            else
                verb=$word
                break
            fi
        fi
        previous=$word
    done
    [[ $current != -* ]] && case "$noun $verb" in
        "image rm" | "image remove" | "image inspect" | "image history" | "image tag" | "image tree") list="images" ;;
        {running}) list="ps" ;;
        {containers}) list="ps -a" ;;
        {images}) list="images" ;;
    esac
    case $list in
        "") _croze "$@"; return ;;
        images) list=$(croze "${{host[@]}}" images --filter dangling=false --format '{{{{.Repository}}}}:{{{{.Tag}}}}' 2>/dev/null) ;;
        *) list=$(croze "${{host[@]}}" $list --format '{{{{.Names}}}}' 2>/dev/null) ;;
    esac
    COMPREPLY=($(compgen -W "$list" -- "$current"))
    if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${{COMPREPLY[@]#"${{current%"${{current##*:}}"}}"}}")
    fi
}}

complete -F _croze_names -o nosort -o bashdefault -o default croze
"#,
        running = cases(&ON_RUNNING),
        containers = cases(&ON_CONTAINERS),
        images = cases(&ON_IMAGES),
    )
}

/// The verbs with `container`, or no noun, before them.
fn cases(verbs: &[&str]) -> String {
    let cases: Vec<String> = verbs
        .iter()
        .flat_map(|verb| [format!("\" {verb}\""), format!("\"container {verb}\"")])
        .collect();
    cases.join(" | ")
}

/// In clap's script every positional word has an action of its own; those that are names get ours.
fn zsh(generated: &str) -> String {
    let lists = r#"
_croze_containers() {
    local -a names
    names=(${(f)"$(croze ps -a --format '{{.Names}}' 2>/dev/null)"})
    compadd -a names
}

_croze_images() {
    local -a names
    names=(${(f)"$(croze images --filter dangling=false --format '{{.Repository}}:{{.Tag}}' 2>/dev/null)"})
    compadd -a names
}
"#;
    let lines: Vec<String> = generated
        .lines()
        .map(|line| match zsh_action(line) {
            Some(action) => line.replace(":_default'", &format!(":{action}'")),
            None => line.to_owned(),
        })
        .collect();
    let (first, rest) = lines
        .split_first()
        .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    format!("{first}\n{lists}\n{}\n", rest.join("\n"))
}

/// What completes the positional word that this line is about.
fn zsh_action(line: &str) -> Option<&'static str> {
    let names = |names: &[&str]| names.iter().any(|name| line.contains(&format!(":{name} -- ")));
    if names(&["images", "source"]) || line.contains(":words -- The image") {
        Some("_croze_images")
    } else if names(&["container", "containers", "names"]) || line.contains(":words -- The container") {
        Some("_croze_containers")
    } else {
        None
    }
}

fn fish() -> String {
    let mut script = String::from(
        r#"
function __croze_containers
    croze ps $argv --format '{{.Names}}' 2>/dev/null
end

function __croze_images
    croze images --filter dangling=false --format '{{.Repository}}:{{.Tag}}' 2>/dev/null
end

"#,
    );
    for (verbs, list) in [
        (&ON_RUNNING[..], "__croze_containers"),
        (&ON_CONTAINERS[..], "__croze_containers -a"),
        (&ON_IMAGES[..], "__croze_images"),
    ] {
        script.push_str(&format!(
            "complete -c croze -n \"__fish_seen_subcommand_from {}\" -f -a \"({list})\"\n",
            verbs.join(" ")
        ));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_that_take_names_exist() {
        let command = Cli::command();
        for verb in ON_RUNNING.iter().chain(&ON_CONTAINERS).chain(&ON_IMAGES) {
            assert!(command.find_subcommand(verb).is_some(), "{verb}");
        }
    }

    #[test]
    fn every_script_completes_verbs_flags_and_names() {
        for (shell, name_lists) in [
            (
                CompletedShell::Bash,
                ["croze \"${host[@]}\" images", "list=\"ps -a\""],
            ),
            (CompletedShell::Zsh, ["croze ps -a", "croze images"]),
            (
                CompletedShell::Fish,
                ["(__croze_containers -a)", "(__croze_images)"],
            ),
        ] {
            let script = script(shell);
            for words in ["no-trunc", "inspect", "completion"]
                .into_iter()
                .chain(name_lists)
            {
                assert!(script.contains(words), "{shell:?} lacks {words}");
            }
        }
    }

    #[test]
    fn every_name_in_zsh_has_its_list() {
        let script = zsh(&generated(Shell::Zsh));
        assert!(script.starts_with("#compdef croze\n"));
        let count = |action: &str| script.matches(&format!(":{action}'")).count();
        // Each verb stands there twice or more: by itself and below its noun.
        assert!(
            count("_croze_containers") >= 2 * (ON_RUNNING.len() + ON_CONTAINERS.len()),
            "{script}"
        );
        assert!(count("_croze_images") >= 2 * ON_IMAGES.len(), "{script}");
    }
}
