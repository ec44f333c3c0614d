//! Messages that hold secrets show everything but those.

use std::fmt;

use crate::v1::{LoginResponse, RegistryCredentials};

/// What is shown of a secret: whether there is one.
fn hidden(secret: &str) -> &'static str {
    if secret.is_empty() { "" } else { "[secret]" }
}

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryCredentials")
            .field("username", &self.username)
            .field("password", &hidden(&self.password))
            .field("identity_token", &hidden(&self.identity_token))
            .field("registry_token", &hidden(&self.registry_token))
            .finish()
    }
}

impl fmt::Debug for LoginResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginResponse")
            .field("registry", &self.registry)
            .field("identity_token", &hidden(&self.identity_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::v1::PullRequest;

    use super::*;

    #[test]
    fn a_request_shows_no_secret() {
        let request = PullRequest {
            reference: "a".to_owned(),
            platform: String::new(),
            credentials: Some(RegistryCredentials {
                username: "alice".to_owned(),
                password: "hunter2".to_owned(),
                ..RegistryCredentials::default()
            }),
            mirror_credentials: [(
                "m".to_owned(),
                RegistryCredentials {
                    password: "hunter2".to_owned(),
                    ..RegistryCredentials::default()
                },
            )]
            .into(),
        };
        let shown = format!("{request:?}");
        assert!(shown.contains("alice") && !shown.contains("hunter2"), "{shown}");
    }
}
