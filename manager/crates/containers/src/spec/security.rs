//! docker's `--security-opt`: rights that are taken, given, or filtered otherwise.

use serde_json::Value;

use super::{SpecError, seccomp_profile};

/// What filters system calls.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Filter {
    /// The default profile; none for a privileged container.
    #[default]
    Default,
    /// Nothing.
    Unconfined,
    /// This profile, in docker's format or in the OCI spec's.
    Profile(Value),
}

/// All of a container's `--security-opt`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Security {
    /// execve(2) gives no rights that the process does not have.
    pub(crate) no_new_privileges: bool,
    /// The seccomp filter.
    pub(crate) filter: Filter,
    /// An AppArmor profile that the host has loaded.
    pub(crate) apparmor: Option<String>,
    /// Nothing of /proc and /sys is masked or read-only.
    pub(crate) open_system_paths: bool,
}

impl Security {
    /// Reads the options, `KEY`, `KEY=VALUE` or (as docker also takes) `KEY:VALUE`.
    pub(crate) fn parse(options: &[String]) -> Result<Self, SpecError> {
        let mut security = Self::default();
        for option in options {
            let bad = |reason: String| SpecError::SecurityOption {
                option: shortened(option),
                reason,
            };
            let separator = option.find(['=', ':']);
            let (key, value) = match separator {
                Some(at) => (&option[..at], Some(&option[at + 1..])),
                None => (option.as_str(), None),
            };
            match (key, value) {
                ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
                ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
                ("seccomp", Some("unconfined")) => security.filter = Filter::Unconfined,
                ("seccomp", Some("builtin")) => security.filter = Filter::Default,
                ("seccomp", Some(text)) => {
                    let profile: Value = serde_json::from_str(text)
                        .map_err(|error| bad(format!("the profile is no JSON: {error}")))?;
                    if !profile.is_object() || !profile["defaultAction"].is_string() {
                        return Err(bad("the profile needs a defaultAction".into()));
                    }
                    seccomp_profile::check(&profile).map_err(bad)?;
                    security.filter = Filter::Profile(profile);
                }
                ("apparmor", Some("unconfined")) => security.apparmor = None,
                ("apparmor", Some(name)) if !name.is_empty() => security.apparmor = Some(name.to_owned()),
                ("systempaths", Some("unconfined")) => security.open_system_paths = true,
                // Without SELinux there is nothing to disable.
                ("label", Some("disable")) => {}
                ("label", _) => {
                    return Err(bad("SELinux labels are not supported; label=disable is".into()));
                }
                _ => {
                    return Err(bad(
                        "there are no-new-privileges, seccomp=, apparmor=, label=disable and systempaths=unconfined"
                            .into(),
                    ));
                }
            }
        }
        Ok(security)
    }
}

/// A profile is long; its beginning tells enough.
fn shortened(option: &str) -> String {
    let mut short: String = option.chars().take(40).collect();
    if short.len() < option.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(options: &[&str]) -> Result<Security, SpecError> {
        Security::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_understood() {
        let base = Security::default;
        let table: [(&[&str], Security); 8] = [
            (&[], base()),
            (
                &["no-new-privileges"],
                Security {
                    no_new_privileges: true,
                    ..base()
                },
            ),
            (&["no-new-privileges:true", "no-new-privileges=false"], base()),
            (
                &["seccomp=unconfined"],
                Security {
                    filter: Filter::Unconfined,
                    ..base()
                },
            ),
            (
                &[r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#],
                Security {
                    filter: Filter::Profile(json!({ "defaultAction": "SCMP_ACT_ALLOW" })),
                    ..base()
                },
            ),
            (
                &["apparmor=mine"],
                Security {
                    apparmor: Some("mine".into()),
                    ..base()
                },
            ),
            (&["apparmor=unconfined", "label=disable"], base()),
            (
                &["systempaths=unconfined"],
                Security {
                    open_system_paths: true,
                    ..base()
                },
            ),
        ];
        for (options, expected) in table {
            assert_eq!(parse(options), Ok(expected), "{options:?}");
        }
    }

    #[test]
    fn what_is_not() {
        for (option, word) in [
            ("seccomp={", "no JSON"),
            ("seccomp=[]", "defaultAction"),
            (
                r#"seccomp={"defaultAction":"a","architectures":["x"],"archMap":[]}"#,
                "architectures and archMap",
            ),
            (
                r#"seccomp={"defaultAction":"a","syscalls":[{"excludes":{"minKernel":"4.x"}}]}"#,
                r#"minKernel "4.x""#,
            ),
            (
                r#"seccomp={"defaultAction":"a","syscalls":[{"includes":{"minKernel":4}}]}"#,
                "minKernel 4",
            ),
            ("no-new-privileges=maybe", "there are"),
            ("label=type:x", "SELinux"),
            ("systempaths=some", "there are"),
            ("bogus", "there are"),
            ("apparmor=", "there are"),
        ] {
            let error = parse(&[option]).unwrap_err().to_string();
            assert!(error.contains(word), "{option}: {error}");
        }
    }
}
