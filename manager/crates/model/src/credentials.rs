//! Who asks at a registry. Secrets never show themselves: not in `Debug`, and they have no `Display`.

use std::fmt;

/// A password or a token.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What a client knows for one registry, as docker's `X-Registry-Auth` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// A user and a password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that the registry's token server gave at a login in place of the password (OAuth 2's refresh token).
    Identity {
        /// The user, if it is known.
        username: String,
        /// The token.
        token: Secret,
    },
    /// A bearer token for the registry itself, sent as it is.
    Registry {
        /// The token.
        token: Secret,
    },
}

impl Credentials {
    /// Who that is, for messages: `user "alice"`, or what there is instead.
    #[must_use]
    pub fn who(&self) -> String {
        match self {
            Self::Anonymous => "anonymous users".to_owned(),
            Self::Password { username, .. } | Self::Identity { username, .. } if !username.is_empty() => {
                format!("user {username:?}")
            }
            Self::Password { .. } | Self::Identity { .. } | Self::Registry { .. } => {
                "the holder of this token".to_owned()
            }
        }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        *self == Self::Anonymous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_nowhere() {
        let credentials = Credentials::Password {
            username: "alice".to_owned(),
            password: Secret::new("hunter2"),
        };
        let shown = format!("{credentials:?} {}", credentials.who());
        assert!(shown.contains("alice") && !shown.contains("hunter2"), "{shown}");
    }
}
