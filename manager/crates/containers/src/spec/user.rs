//! Users: `user[:group]` against the root file system's `/etc/passwd` and `/etc/group`.
//!
//! A number is always an id, never looked up as a name (CVE-2016-3697); ids above 2^31-1 are refused (CVE-2024-40635); the primary group is among
//! the additional ones, so that it cannot be dropped to get around a negative permission (CVE-2022-36109).

use serde_json::{Value, json};

use super::SpecError;

/// The largest id that is accepted.
const ID_MAX: u64 = i32::MAX as u64;

/// The two account files as texts; empty where the image has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    /// `/etc/passwd`.
    pub(crate) passwd: String,
    /// `/etc/group`.
    pub(crate) group: String,
}

/// A name or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Id(u32),
    Name(String),
}

/// A parsed `user[:group]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserSpec {
    user: Named,
    group: Option<Named>,
}

/// The ids of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvedUser {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// All groups, the primary one first.
    pub(crate) groups: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
}

impl ResolvedUser {
    /// The OCI object.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "uid": self.uid, "gid": self.gid, "additionalGids": self.groups })
    }
}

/// One line of passwd(5).
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl UserSpec {
    /// Parses the text; empty means root.
    pub(crate) fn parse(text: &str) -> Result<Self, SpecError> {
        let bad = |reason| SpecError::User {
            text: text.into(),
            reason,
        };
        if text.is_empty() {
            return Ok(Self {
                user: Named::Id(0),
                group: None,
            });
        }
        let (user, group) = match text.split_once(':') {
            Some((_, "")) => return Err(bad("the group is missing")),
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let named = |part: &str| -> Result<Named, SpecError> {
            if part.contains([':', '\n', '\0']) {
                return Err(bad("it contains characters that no name has"));
            }
            if part.bytes().all(|b| b.is_ascii_digit()) {
                let id = part.parse::<u64>().ok().filter(|id| *id <= ID_MAX);
                let id = id.and_then(|id| u32::try_from(id).ok());
                return id.map(Named::Id).ok_or_else(|| bad("ids end at 2147483647"));
            }
            Ok(Named::Name(part.to_owned()))
        };
        if user.is_empty() {
            return Err(bad("the user is missing"));
        }
        Ok(Self {
            user: named(user)?,
            group: group.map(named).transpose()?,
        })
    }

    /// The ids, by the image's account files.
    pub(crate) fn resolve(&self, accounts: &Accounts) -> Result<ResolvedUser, SpecError> {
        let mut entries = accounts.passwd.lines().filter_map(passwd_entry);
        let entry = match &self.user {
            Named::Id(id) => entries.find(|e| e.uid == *id),
            Named::Name(name) => entries.find(|e| e.name == name),
        };
        let (uid, mut gid, home, name) = match (&self.user, &entry) {
            (_, Some(e)) => (e.uid, e.gid, e.home, Some(e.name)),
            (Named::Id(id), None) => (*id, 0, "", None),
            (Named::Name(name), None) => return Err(SpecError::NoSuchUser { name: name.clone() }),
        };
        let mut groups = Vec::new();
        match &self.group {
            Some(Named::Id(id)) => gid = *id,
            Some(Named::Name(name)) => {
                let found = group_entries(&accounts.group).find(|(group, _, _)| group == name);
                gid = found
                    .map(|(_, id, _)| id)
                    .ok_or_else(|| SpecError::NoSuchGroup { name: name.clone() })?;
            }
            None => {
                if let Some(user) = name {
                    let of_user = group_entries(&accounts.group)
                        .filter(|(_, _, members)| members.split(',').any(|m| m == user));
                    groups.extend(of_user.map(|(_, id, _)| id));
                }
            }
        }
        groups.retain(|g| *g != gid);
        groups.insert(0, gid);
        let mut seen = std::collections::BTreeSet::new();
        groups.retain(|g| seen.insert(*g));
        let home = if home.is_empty() { "/" } else { home };
        Ok(ResolvedUser {
            uid,
            gid,
            groups,
            home: home.to_owned(),
        })
    }
}

impl ResolvedUser {
    /// The same with further groups, names or numbers.
    pub(crate) fn with_groups(mut self, wanted: &[String], accounts: &Accounts) -> Result<Self, SpecError> {
        for text in wanted {
            let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let found = if number {
                id(text)
            } else {
                let mut groups = group_entries(&accounts.group);
                groups.find(|(name, _, _)| name == text).map(|(_, id, _)| id)
            };
            let gid = found.ok_or_else(|| SpecError::NoSuchGroup { name: text.clone() })?;
            if !self.groups.contains(&gid) {
                self.groups.push(gid);
            }
        }
        Ok(self)
    }
}

fn id(text: &str) -> Option<u32> {
    text.parse::<u64>()
        .ok()
        .filter(|id| *id <= ID_MAX)
        .and_then(|id| u32::try_from(id).ok())
}

/// A line that is malformed or has ids out of range is no entry.
fn passwd_entry(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
    let mut fields = fields.skip(1);
    let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
    // A home with control characters would smuggle lines into what programs write (CVE-2022-4318).
    let home = fields.nth(1).unwrap_or("").trim_end_matches('\r');
    let home = if home.chars().any(char::is_control) {
        ""
    } else {
        home
    };
    Some(PasswdEntry { name, uid, gid, home })
}

/// Name, id and members of each group.
fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or("").trim_end_matches('\r')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# comment:x:5:5::/:\nbroken\nbin:x:1:1:bin:/bin:/sbin/nologin\n\
                     app:x:1000:1000:App:/home/app:/bin/sh\n1000:x:77:77::/evil:/bin/sh\nbig:x:4294967296:0::/:\n\
                     nohome:x:2000:2000:::\n"
                .into(),
            group: "root:x:0:\ndaemon:x:1:app,bin\napp:x:1000:\nwheel:x:10:root,app\naudio:x:29:app\ntwice:x:29:app\nbad:x:x:app\n".into(),
        }
    }

    fn resolved(text: &str) -> Result<(u32, u32, Vec<u32>, String), SpecError> {
        let user = UserSpec::parse(text)?.resolve(&accounts())?;
        Ok((user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn names_and_numbers() {
        let table = [
            ("", (0, 0, vec![0, 10], "/root")),
            ("root", (0, 0, vec![0, 10], "/root")),
            ("app", (1000, 1000, vec![1000, 1, 10, 29], "/home/app")),
            ("1000", (1000, 1000, vec![1000, 1, 10, 29], "/home/app")),
            ("app:audio", (1000, 29, vec![29], "/home/app")),
            ("app:5", (1000, 5, vec![5], "/home/app")),
            ("4242", (4242, 0, vec![0], "/")),
            ("4242:4243", (4242, 4243, vec![4243], "/")),
            ("nohome", (2000, 2000, vec![2000], "/")),
            ("2147483647", (2_147_483_647, 0, vec![0], "/")),
        ];
        for (text, (uid, gid, groups, home)) in table {
            assert_eq!(
                resolved(text),
                Ok((uid, gid, groups, home.to_owned())),
                "{text:?}"
            );
        }
    }

    #[test]
    fn further_groups() {
        let app = || UserSpec::parse("app").unwrap().resolve(&accounts()).unwrap();
        let with = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
            app().with_groups(&groups, &accounts()).map(|user| user.groups)
        };
        assert_eq!(
            with(&["root", "4711", "audio"]),
            Ok(vec![1000, 1, 10, 29, 0, 4711])
        );
        for wrong in ["nogroup", "", "2147483648", "-1"] {
            assert!(with(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "nobody-here",
            "big",
            "app:nogroup",
            "app:",
            ":app",
            "2147483648",
            "99999999999999999999",
            "a:b:c",
        ] {
            assert!(resolved(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_image_without_account_files_knows_numbers_only() {
        let none = Accounts::default();
        let root = UserSpec::parse("").unwrap().resolve(&none).unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/"));
        assert!(UserSpec::parse("app").unwrap().resolve(&none).is_err());
    }
}
