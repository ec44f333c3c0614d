//! `login` and `logout`: credentials are verified by the daemon at the registry, and kept by this program where docker keeps them.

use croze_client::v1::{LoginRequest, RegistryCredentials};
use croze_client::{Client, Error, Reference};

use crate::args::{LoginArgs, LogoutArgs};
use crate::credentials;
use crate::credentials::auth_file::{AuthFile, AuthFileError};
use crate::credentials::helper::{self, HelperError};
use crate::failure::Failure;
use crate::{output, terminal};

/// The longest password that is read from standard input, in bytes.
const MAX_PASSWORD: u64 = 64 * 1024;

/// `croze login`
pub(super) async fn login(client: &Client, args: &LoginArgs) -> Result<u8, Failure> {
    let server = args.server.as_deref().unwrap_or(Reference::HUB);
    if args.username.is_none() && args.password.is_none() && !args.password_stdin {
        // The daemon says what is wrong with a name that is none.
        let kept = match Reference::registry_of(server) {
            Some(registry) => credentials::kept(registry, "").await?,
            None => None,
        };
        if let Some(kept) = kept {
            output::line("Authenticating with existing credentials...")?;
            match verify(client, server, &kept).await {
                Ok(verified) => {
                    warn_of_unchecked(&verified);
                    output::line("Login Succeeded")?;
                    return Ok(0);
                }
                Err(failure) => failure.print(),
            }
        }
    }
    let asked = ask(args, server)?;
    let verified = verify(client, server, &asked).await?;
    warn_of_unchecked(&verified);
    let mut kept = asked;
    if !verified.identity_token.is_empty() {
        // The password has served its purpose: the token opens the same doors, and can be taken back.
        kept.password.clear();
        kept.identity_token = verified.identity_token;
    }
    keep(&verified.registry, &kept).await?;
    output::line("Login Succeeded")?;
    Ok(0)
}

async fn verify(
    client: &Client,
    server: &str,
    credentials: &RegistryCredentials,
) -> Result<croze_client::v1::LoginResponse, Failure> {
    let request = LoginRequest {
        server: server.to_owned(),
        credentials: Some(credentials.clone()),
    };
    Ok(client
        .images()
        .login(request)
        .await
        .map_err(Error::from)?
        .into_inner())
}

/// A registry that anybody may read is asked for something before it looks at credentials, and a login asks for nothing.
fn warn_of_unchecked(verified: &croze_client::v1::LoginResponse) {
    if verified.unchecked {
        output::notice(&format!(
            "warning: registry {} lets everybody in: nobody checked these credentials, and they may be wrong",
            verified.registry
        ));
    }
}

/// User and password: as given, or asked for.
fn ask(args: &LoginArgs, server: &str) -> Result<RegistryCredentials, Failure> {
    if args.password.is_some() {
        output::notice("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    if args.password_stdin && args.username.is_none() {
        return Err(Failure::usage("--password-stdin needs --username", None));
    }
    let username = match &args.username {
        Some(username) => username.clone(),
        None => terminal::ask(&format!("Username for {server}: "))?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => password_from_stdin()?,
        None => terminal::ask_secret("Password: ")?,
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::usage("a user name and a password are needed", None));
    }
    Ok(RegistryCredentials {
        username,
        password,
        ..RegistryCredentials::default()
    })
}

/// All of standard input, without the line's end that editors and `echo` put there.
fn password_from_stdin() -> Result<String, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .map_err(|source| Failure::io("read the password from standard input", source))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Gives credentials to the helper that the file names, else to the file itself.
async fn keep(registry: &str, credentials: &RegistryCredentials) -> Result<(), Failure> {
    let path = credentials::own_file()?;
    let file = AuthFile::read(&path)?;
    let helper = file.own_helper(registry).or_else(|| file.common_helper());
    let entry = match helper {
        Some(name) => {
            let found = credentials::found_of(credentials);
            helper::store(&name, credentials::key(registry), &found).await?;
            None
        }
        None => {
            output::notice(&format!(
                "WARNING! Your password will be stored unencrypted in {}.\nConfigure a credential helper (credsStore, \
                 credHelpers) to remove this warning.",
                file.path().display()
            ));
            Some(credentials)
        }
    };
    // The helper may have asked its user for something: the file is read again.
    Ok(AuthFile::change(&path, |file| file.set(registry, entry))?)
}

/// `croze logout`: needs no daemon.
pub(super) async fn logout(args: &LogoutArgs) -> Result<u8, Failure> {
    let server = args.server.as_deref().unwrap_or(Reference::HUB);
    let registry = Reference::registry_of(server).ok_or_else(|| {
        Failure::usage(
            format!("{server:?} is no registry's name"),
            Some("write HOST[:PORT], such as registry.example or localhost:5000"),
        )
    })?;
    let path = credentials::own_file()?;
    let file = AuthFile::read(&path)?;
    if !file.has(registry) {
        output::line(&format!("Not logged in to {registry}"))?;
        return Ok(0);
    }
    output::line(&format!("Removing login credentials for {registry}"))?;
    if let Some(name) = file.own_helper(registry).or_else(|| file.common_helper()) {
        helper::erase(&name, credentials::key(registry)).await?;
    }
    AuthFile::change(&path, |file| {
        file.remove(registry);
    })?;
    Ok(0)
}

impl From<AuthFileError> for Failure {
    fn from(error: AuthFileError) -> Self {
        let hint = match error {
            AuthFileError::Json { .. } => Some("correct the file, or move it away"),
            AuthFileError::File { .. } | AuthFileError::NotDurable { .. } => None,
        };
        Self::usage(error.to_string(), hint)
    }
}

impl From<HelperError> for Failure {
    fn from(error: HelperError) -> Self {
        Self::usage(
            error.to_string(),
            Some("credsStore and credHelpers in the file of credentials name the helper"),
        )
    }
}
