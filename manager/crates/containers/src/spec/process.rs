//! The process: arguments, environment, working directory.

use super::SpecError;
use super::user::ResolvedUser;
use crate::record::Container;
use crate::request::{CreateRequest, ExecRequest, ImageFacts};

/// Where commands are looked for when the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The arguments: entrypoint, then command. A requested entrypoint hides the image's command as well.
pub(crate) fn args(request: &CreateRequest, image: &ImageFacts) -> Result<Vec<String>, SpecError> {
    let entrypoint = match &request.entrypoint {
        // One empty word is how clients say "none".
        Some(words) if words.len() == 1 && words[0].is_empty() => &[],
        Some(words) => words.as_slice(),
        None => image.entrypoint.as_slice(),
    };
    let command = match (request.command.is_empty(), &request.entrypoint) {
        (true, None) => image.cmd.as_slice(),
        _ => request.command.as_slice(),
    };
    let args: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
    match args.first() {
        Some(first) if !first.is_empty() => Ok(args),
        _ => Err(SpecError::NoCommand),
    }
}

/// The arguments that are executed: with an init, it comes first.
pub(crate) fn executed(request: &CreateRequest, image: &ImageFacts) -> Result<Vec<String>, SpecError> {
    let args = args(request, image)?;
    if !request.options.init {
        return Ok(args);
    }
    let init = [super::mounts::INIT_TARGET, "--"].map(str::to_owned);
    Ok(init.into_iter().chain(args).collect())
}

/// The working directory, absolute.
pub(crate) fn working_dir(request: &CreateRequest, image: &ImageFacts) -> Result<String, SpecError> {
    match request.working_dir.as_deref().filter(|d| !d.is_empty()) {
        Some(dir) => absolute(dir),
        None if image.working_dir.is_empty() => Ok("/".into()),
        // Images say `app` and mean `/app`.
        None => absolute(&format!("/{}", image.working_dir.trim_start_matches('/'))),
    }
}

/// An absolute path without `.`, `..` and doubled slashes.
pub(crate) fn absolute(path: &str) -> Result<String, SpecError> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(SpecError::NotAbsolute { path: path.into() });
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Refuses what cannot be a variable.
pub(crate) fn check_env(env: &[String]) -> Result<(), SpecError> {
    match env
        .iter()
        .find(|e| e.is_empty() || e.starts_with('=') || e.contains('\0'))
    {
        Some(text) => Err(SpecError::Environment { text: text.clone() }),
        None => Ok(()),
    }
}

/// Refuses what sethostname(2) or resolvers would not take.
pub(crate) fn check_hostname(name: &str) -> Result<(), SpecError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > 63 || name.starts_with('-') || !name.bytes().all(good) {
        return Err(SpecError::Hostname { name: name.into() });
    }
    Ok(())
}

/// The environment: defaults, the image's, the request's, each over the one before; `HOME` from the user's entry unless one is set.
pub(crate) fn env(container: &Container, hostname: &str, user: &ResolvedUser) -> Vec<String> {
    let mut env = base_env(hostname, container.request.io.tty);
    merge(&mut env, &container.image.env);
    merge(&mut env, &container.request.env);
    add_home(&mut env, user);
    env
}

/// The variables that somebody has asked for, as docker lists them: the request's, then what the image says of others.
pub(crate) fn configured_env(request: &CreateRequest, image: &ImageFacts) -> Vec<String> {
    let name = |entry: &String| entry.split('=').next().map(str::to_owned);
    let asked = |entry: &&String| request.env.iter().any(|own| name(own) == name(entry));
    let images = image.env.iter().filter(|entry| !asked(entry));
    request.env.iter().chain(images).cloned().collect()
}

/// The environment of an exec: the container's, then the request's.
pub(crate) fn exec_env(
    container: &Container,
    hostname: &str,
    user: &ResolvedUser,
    request: &ExecRequest,
) -> Vec<String> {
    let mut env = base_env(hostname, request.tty);
    merge(&mut env, &container.image.env);
    merge(&mut env, &container.request.env);
    merge(&mut env, &request.env);
    add_home(&mut env, user);
    env
}

fn base_env(hostname: &str, tty: bool) -> Vec<String> {
    let mut env = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".into());
    }
    env
}

fn merge(env: &mut Vec<String>, over: &[String]) {
    for entry in over {
        let name = entry.split('=').next().unwrap_or(entry);
        // Some images have such an entry, and runtimes refuse it.
        if name.is_empty() {
            continue;
        }
        let same = env.iter().position(|e| e.split('=').next() == Some(name));
        match (same, entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (None, true) => env.push(entry.clone()),
            (Some(at), false) => {
                env.remove(at);
            }
            (None, false) => {}
        }
    }
}

fn add_home(env: &mut Vec<String>, user: &ResolvedUser) {
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn entrypoint_and_command() {
        type Words = &'static [&'static str];
        type Case = (Words, Words, Option<Words>, Words, Option<Words>);
        // image's entrypoint, image's command, requested entrypoint, requested command, result
        let table: [Case; 9] = [
            (&[], &["sh"], None, &[], Some(&["sh"])),
            (&["/init"], &["a"], None, &[], Some(&["/init", "a"])),
            (&["/init"], &["a"], None, &["b"], Some(&["/init", "b"])),
            (&[], &["sh"], None, &["ls", "-l"], Some(&["ls", "-l"])),
            (&["/init"], &["a"], Some(&["/mine"]), &[], Some(&["/mine"])),
            (
                &["/init"],
                &["a"],
                Some(&["/mine"]),
                &["b"],
                Some(&["/mine", "b"]),
            ),
            (&["/init"], &["a"], Some(&[""]), &["b"], Some(&["b"])),
            (&["/init"], &["a"], Some(&[]), &[], None),
            (&[], &[], None, &[], None),
        ];
        for (entrypoint, cmd, wanted_entrypoint, command, expected) in table {
            let image = ImageFacts {
                entrypoint: own(entrypoint),
                cmd: own(cmd),
                ..ImageFacts::default()
            };
            let request = CreateRequest {
                entrypoint: wanted_entrypoint.map(own),
                command: own(command),
                ..CreateRequest::default()
            };
            assert_eq!(
                args(&request, &image).ok(),
                expected.map(own),
                "{entrypoint:?} {cmd:?} {command:?}"
            );
        }
    }

    #[test]
    fn environments_are_laid_over_each_other() {
        let mut env = own(&["PATH=/bin", "A=1", "B=2"]);
        merge(&mut env, &own(&["B=3", "C=x=y", "A", "MISSING", "=x", ""]));
        assert_eq!(env, ["PATH=/bin", "B=3", "C=x=y"]);
    }

    #[test]
    fn the_configured_environment_is_the_requests_before_the_images() {
        let request = CreateRequest {
            env: own(&["B=9", "GONE", "A=1", "A=2"]),
            ..CreateRequest::default()
        };
        let image = ImageFacts {
            env: own(&["PATH=/bin", "B=2", "GONE=x"]),
            ..ImageFacts::default()
        };
        assert_eq!(
            configured_env(&request, &image),
            ["B=9", "GONE", "A=1", "A=2", "PATH=/bin"]
        );
    }

    #[test]
    fn working_directories() {
        let dir = |wanted: Option<&str>, image: &str| {
            let request = CreateRequest {
                working_dir: wanted.map(str::to_owned),
                ..CreateRequest::default()
            };
            let image = ImageFacts {
                working_dir: image.into(),
                ..ImageFacts::default()
            };
            working_dir(&request, &image)
        };
        assert_eq!(dir(None, ""), Ok("/".into()));
        assert_eq!(dir(None, "app"), Ok("/app".into()));
        assert_eq!(dir(Some("/a/./b/../c//"), "/x"), Ok("/a/c".into()));
        assert_eq!(dir(Some("/../.."), ""), Ok("/".into()));
        assert_eq!(
            dir(Some("rel"), ""),
            Err(SpecError::NotAbsolute { path: "rel".into() })
        );
    }

    #[test]
    fn malformed_variables_and_hostnames() {
        for bad in ["", "=x", "A=\0"] {
            assert!(check_env(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        for bad in ["", "-a", "a b", "a/b", &"x".repeat(64)] {
            assert!(check_hostname(bad).is_err(), "{bad:?}");
        }
        check_hostname("web-1.example").unwrap();
    }
}
