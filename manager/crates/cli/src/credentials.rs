//! Who asks at a registry: found where docker and podman keep it, so that a login made with either of them is good here, too.
//!
//! | looked at, the first that knows the registry counts | |
//! |---|---|
//! | `--creds USER[:PASSWORD]` | the command line |
//! | `$REGISTRY_AUTH_FILE` | if set |
//! | `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json` | docker's; `login` writes here (or to `$REGISTRY_AUTH_FILE`) |
//! | `$XDG_RUNTIME_DIR/containers/auth.json`, else `/run/containers/UID/auth.json` | podman's, until the next boot |
//! | `~/.config/containers/auth.json` | podman's |
//!
//! Within a file: the registry's own helper (`credHelpers`), then `auths`, then the helper for all (`credsStore`).
//!
//! Invariants: a secret is in no message and in no argument of a program; what a file holds besides is kept as it is.

pub(crate) mod auth_file;
mod directory;
pub(crate) mod helper;

use std::path::PathBuf;

use croze_client::Reference;
use croze_client::v1::RegistryCredentials;

use crate::credentials::auth_file::AuthFile;
use crate::credentials::helper::{Found, HelperError};
use crate::failure::Failure;
use crate::{output, terminal};

/// Docker Hub's name in files of credentials.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name by which a helper says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What `--creds` means; a password that is left out is asked for.
pub(crate) fn given(text: &str) -> Result<RegistryCredentials, Failure> {
    let (username, password) = match text.split_once(':') {
        Some((username, password)) => (username, password.to_owned()),
        None => (text, terminal::ask_secret("Password: ")?),
    };
    Ok(RegistryCredentials {
        username: username.to_owned(),
        password,
        ..RegistryCredentials::default()
    })
}

/// The credentials for an image's registry: those of the command line, else what is kept for it. `None` if there are none.
pub(crate) async fn for_image(
    image: &str,
    given: Option<&str>,
) -> Result<Option<RegistryCredentials>, Failure> {
    if let Some(text) = given {
        return self::given(text).map(Some);
    }
    let Ok(reference) = image.parse::<Reference>() else {
        // The daemon says what is wrong with it.
        return Ok(None);
    };
    kept(reference.domain(), reference.path()).await
}

/// What is kept for a repository of a registry. A file or helper that fails is told, and the next one is asked.
pub(crate) async fn kept(registry: &str, repository: &str) -> Result<Option<RegistryCredentials>, Failure> {
    for path in files() {
        let file = match AuthFile::read(&path) {
            Ok(file) => file,
            Err(error) => {
                output::notice(&format!("warning: {error}; going on without it"));
                continue;
            }
        };
        match in_file(&file, registry, repository).await {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(error) => output::notice(&format!("warning: {error}; going on without it")),
        }
    }
    Ok(None)
}

async fn in_file(
    file: &AuthFile,
    registry: &str,
    repository: &str,
) -> Result<Option<RegistryCredentials>, HelperError> {
    if let Some(name) = file.own_helper(registry) {
        return asked(&name, registry).await;
    }
    if let Some(found) = file.get(registry, repository) {
        return Ok(Some(found));
    }
    match file.common_helper() {
        Some(name) => asked(&name, registry).await,
        None => Ok(None),
    }
}

async fn asked(name: &str, registry: &str) -> Result<Option<RegistryCredentials>, HelperError> {
    Ok(helper::get(name, key(registry)).await?.map(credentials_of))
}

fn credentials_of(found: Found) -> RegistryCredentials {
    if found.username == TOKEN_USER {
        return RegistryCredentials {
            identity_token: found.secret,
            ..RegistryCredentials::default()
        };
    }
    RegistryCredentials {
        username: found.username,
        password: found.secret,
        ..RegistryCredentials::default()
    }
}

/// What a helper is to keep.
pub(crate) fn found_of(credentials: &RegistryCredentials) -> Found {
    if credentials.identity_token.is_empty() {
        Found {
            username: credentials.username.clone(),
            secret: credentials.password.clone(),
        }
    } else {
        Found {
            username: TOKEN_USER.to_owned(),
            secret: credentials.identity_token.clone(),
        }
    }
}

/// The name of a registry in files of credentials.
pub(crate) fn key(registry: &str) -> &str {
    if registry == Reference::HUB {
        HUB_KEY
    } else {
        registry
    }
}

/// The file that `login` and `logout` change.
pub(crate) fn own_file() -> Result<PathBuf, Failure> {
    files().into_iter().next().ok_or_else(|| {
        Failure::usage(
            "there is no place to keep a login",
            Some("set HOME, DOCKER_CONFIG or REGISTRY_AUTH_FILE"),
        )
    })
}

/// Every file that may know, in the order in which they are asked.
pub(crate) fn files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = |name: &str| variable(name).map(PathBuf::from);
    let home = path("HOME");
    let below_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
    let runtime = path("XDG_RUNTIME_DIR").map_or_else(
        || {
            PathBuf::from(format!(
                "/run/containers/{}/auth.json",
                rustix::process::getuid().as_raw()
            ))
        },
        |dir| dir.join("containers/auth.json"),
    );
    let docker = path("DOCKER_CONFIG")
        .map(|dir| dir.join("config.json"))
        .or_else(|| below_home(".docker/config.json"));
    [
        path("REGISTRY_AUTH_FILE"),
        docker,
        Some(runtime),
        below_home(".config/containers/auth.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_has_a_name_of_its_own_in_files() {
        assert_eq!(key("docker.io"), "https://index.docker.io/v1/");
        assert_eq!(key("quay.io"), "quay.io");
    }

    #[test]
    fn creds_are_a_user_and_a_password_that_may_hold_colons() {
        let credentials = given("alice:se:cret").unwrap();
        assert_eq!(
            (credentials.username.as_str(), credentials.password.as_str()),
            ("alice", "se:cret")
        );
    }
}
