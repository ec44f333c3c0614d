//! Single values of the rarer options: devices, limits, hosts, kernel parameters.

use std::net::IpAddr;

use croze_client::v1::{Device, Ulimit};

/// Parses one `--device`: `/dev/host[:/dev/container][:rwm]`.
pub(crate) fn device(text: &str) -> Result<Device, String> {
    let wrong = |reason: &str| format!("invalid device {text:?}: {reason}");
    let mode = |word: &str| !word.is_empty() && word.bytes().all(|b| b"rwm".contains(&b));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, last] if mode(last) => (*source, *source, *last),
        [source, target] => (*source, *target, "rwm"),
        [source, target, permissions] if mode(permissions) => (*source, *target, *permissions),
        [_, _, _] => return Err(wrong("permissions are one or more of r, w and m")),
        _ => return Err(wrong("write /dev/host[:/dev/container][:rwm]")),
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err(wrong("its paths must be absolute"));
    }
    Ok(Device {
        source: source.to_owned(),
        target: target.to_owned(),
        permissions: permissions.to_owned(),
    })
}

/// Parses one `--ulimit`: `name=soft[:hard]`; -1 or `unlimited` for none.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let wrong = |reason: &str| format!("invalid ulimit {text:?}: {reason}");
    let number = |word: &str| match word {
        "unlimited" => Ok(-1),
        _ => word
            .parse::<i64>()
            .ok()
            .filter(|number| *number >= -1)
            .ok_or_else(|| wrong("limits are numbers from 0, or -1 for none")),
    };
    let (name, limits) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| wrong("write NAME=SOFT[:HARD]"))?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(wrong("the soft limit must not exceed the hard one"));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// Parses one `--add-host`: `name:address` or `name=address`.
pub(crate) fn extra_host(text: &str) -> Result<String, String> {
    let wrong = |reason: &str| format!("invalid host {text:?}: {reason}");
    let (name, address) = text
        .split_once([':', '='])
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| wrong("write NAME:ADDRESS"))?;
    if address == "host-gateway" {
        return Ok(format!("{name}:{address}"));
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(address);
    let address: IpAddr = bare
        .parse()
        .map_err(|_| wrong("the address must be an IP address or host-gateway"))?;
    Ok(format!("{name}:{address}"))
}

/// Parses one `--dns`.
pub(crate) fn dns_server(text: &str) -> Result<String, String> {
    let address: IpAddr = text
        .trim()
        .parse()
        .map_err(|_| format!("invalid name server {text:?}: it must be an IP address"))?;
    Ok(address.to_string())
}

/// Parses one `--sysctl`: `name=value`.
pub(crate) fn sysctl(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("invalid sysctl {text:?}: write NAME=value")),
    }
}

/// Parses one `--storage-opt`: `size=10G`. What it means is the daemon's to say.
pub(crate) fn storage_opt(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!(
            "invalid storage option {text:?}: write size=10G, or inodes=100000"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        for (text, expected) in [
            ("/dev/a", Some(("/dev/a", "/dev/a", "rwm"))),
            ("/dev/a:r", Some(("/dev/a", "/dev/a", "r"))),
            ("/dev/a:/dev/b", Some(("/dev/a", "/dev/b", "rwm"))),
            ("/dev/a:/dev/b:rw", Some(("/dev/a", "/dev/b", "rw"))),
            ("/dev/a:/dev/b:rx", None),
            ("/dev/a:b", None),
            ("a", None),
            ("", None),
            ("/a:/b:r:w", None),
        ] {
            let found = device(text).ok().map(|d| (d.source, d.target, d.permissions));
            let expected = expected.map(|(s, t, p)| (s.to_owned(), t.to_owned(), p.to_owned()));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn ulimits() {
        for (text, expected) in [
            ("nofile=10", Some((10, 10))),
            ("nofile=10:20", Some((10, 20))),
            ("core=-1", Some((-1, -1))),
            ("core=0:unlimited", Some((0, -1))),
            ("nofile=20:10", None),
            ("nofile=-1:10", None),
            ("nofile=-2", None),
            ("nofile=x", None),
            ("nofile", None),
            ("=1", None),
        ] {
            let found = ulimit(text).ok().map(|u| (u.soft, u.hard));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn hosts_servers_and_parameters() {
        for (text, expected) in [
            ("db:10.0.0.9", Ok("db:10.0.0.9")),
            ("db=10.0.0.9", Ok("db:10.0.0.9")),
            ("six:fd00::1", Ok("six:fd00::1")),
            ("six:[fd00::1]", Ok("six:fd00::1")),
            ("db:host-gateway", Ok("db:host-gateway")),
            ("db:x", Err("IP address")),
            ("db", Err("NAME:ADDRESS")),
            (":10.0.0.9", Err("NAME:ADDRESS")),
        ] {
            match (extra_host(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(error), Err(word)) => assert!(error.contains(word), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        assert_eq!(dns_server("1.1.1.1").as_deref(), Ok("1.1.1.1"));
        assert!(dns_server("one").is_err());
        assert_eq!(sysctl("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert!(sysctl("a.b").is_err() && sysctl("=1").is_err());
        assert_eq!(storage_opt("size=1G"), Ok(("size".to_owned(), "1G".to_owned())));
        assert!(storage_opt("size").is_err() && storage_opt("size=").is_err() && storage_opt("=1").is_err());
    }
}
