//! `[network]` of croze.toml: the default network.
//!
//! ```toml
//! [network]
//! default = "bridge"          # of containers that ask for none in particular: bridge, none or host
//! bridge = "croze0"           # the bridge's name, and that of its packet filter tables
//! subnet = "172.30.0.0/16"    # without it: one that the host has no route to
//! ipv6 = true                 # false: none
//! subnet6 = "fd00:1::/64"     # without it: a unique local one that is made up once
//! mtu = 1500
//! ```

use croze_engine::{BridgeSettings, Ipv6, Network, NetworkError, NetworkSettings, Subnet};
use serde::Deserialize;

use crate::args::Args;

/// The file's words.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    default: Option<String>,
    bridge: Option<String>,
    subnet: Option<String>,
    ipv6: Option<bool>,
    subnet6: Option<String>,
    mtu: Option<u32>,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    /// The default network is none.
    #[error("the default network cannot be {name:?}: expected bridge, none or host")]
    Default {
        /// The name as given.
        name: String,
    },
    /// A subnet is none.
    #[error("[network] of croze.toml: {source}")]
    Subnet {
        /// Why.
        source: NetworkError,
    },
    /// A subnet is of the other kind.
    #[error("[network] of croze.toml: {key} is to be an {kind} subnet, and {subnet} is none")]
    Kind {
        /// The key.
        key: &'static str,
        /// `IPv4` or `IPv6`.
        kind: &'static str,
        /// The subnet as given.
        subnet: Subnet,
    },
    /// Too small for what every machine must take (RFC 791, RFC 8200), or larger than a packet can be.
    #[error("[network] of croze.toml: mtu {mtu} is not between 1280 and 65535")]
    Mtu {
        /// As given.
        mtu: u32,
    },
}

/// Flags over the file over defaults.
pub(crate) fn resolve(args: &Args, file: &File) -> Result<NetworkSettings, Wrong> {
    let defaults = BridgeSettings::default();
    let default = args.default_network.as_ref().or(file.default.as_ref());
    let default = match default.map(|name| (name, Network::from_name(name))) {
        None => Network::Bridge,
        Some((_, Some(network))) if !matches!(network, Network::Container(_)) => network,
        Some((name, _)) => return Err(Wrong::Default { name: name.clone() }),
    };
    let subnet = |key: &'static str, text: &Option<String>| {
        let kind = if key == "subnet" { "IPv4" } else { "IPv6" };
        let Some(text) = text else { return Ok(None) };
        let subnet: Subnet = text.parse().map_err(|source| Wrong::Subnet { source })?;
        if subnet.address().is_ipv4() == (kind == "IPv4") {
            Ok(Some(subnet))
        } else {
            Err(Wrong::Kind { key, kind, subnet })
        }
    };
    let subnet6 = subnet("subnet6", &file.subnet6)?;
    let ipv6 = match (file.ipv6, subnet6) {
        (Some(false), _) => Ipv6::Off,
        (_, Some(subnet)) => Ipv6::Subnet(subnet),
        (_, None) => Ipv6::Local,
    };
    let mtu = file.mtu.unwrap_or(defaults.mtu);
    if !(1280..=65_535).contains(&mtu) {
        return Err(Wrong::Mtu { mtu });
    }
    let name = args.bridge.clone().or(file.bridge.clone());
    Ok(NetworkSettings {
        default,
        bridge: BridgeSettings {
            name: name.unwrap_or(defaults.name),
            subnet: subnet("subnet", &file.subnet)?,
            ipv6,
            mtu,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<NetworkSettings, Wrong> {
        resolve(&Args::default(), &toml::from_str(text).unwrap())
    }

    #[test]
    fn what_is_said_is_taken_and_the_rest_has_defaults() {
        let silent = settings("").unwrap();
        assert_eq!(silent.default, Network::Bridge);
        assert_eq!(silent.bridge, BridgeSettings::default());
        let said = settings(
            "default = \"none\"\nbridge = \"br7\"\nsubnet = \"10.7.0.0/24\"\nsubnet6 = \"fd07::/64\"\nmtu = 1400",
        )
        .unwrap();
        assert_eq!(said.default, Network::None);
        assert_eq!(
            said.bridge,
            BridgeSettings {
                name: "br7".into(),
                subnet: Some("10.7.0.0/24".parse().unwrap()),
                ipv6: Ipv6::Subnet("fd07::/64".parse().unwrap()),
                mtu: 1400,
            }
        );
        assert_eq!(settings("ipv6 = false").unwrap().bridge.ipv6, Ipv6::Off);
        let args = Args {
            default_network: Some("host".into()),
            bridge: Some("br8".into()),
            ..Args::default()
        };
        let flags = resolve(
            &args,
            &toml::from_str("bridge = \"br7\"\ndefault = \"none\"").unwrap(),
        )
        .unwrap();
        assert_eq!(
            (flags.default, flags.bridge.name.as_str()),
            (Network::Host, "br8")
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("default = \"lan\"", "cannot be \"lan\""),
            ("default = \"container:x\"", "cannot be \"container:x\""),
            ("subnet = \"10.7.0.1/24\"", "\"10.7.0.1/24\" is no subnet"),
            ("subnet = \"fd07::/64\"", "subnet is to be an IPv4 subnet"),
            ("subnet6 = \"10.7.0.0/24\"", "subnet6 is to be an IPv6 subnet"),
            ("mtu = 100", "mtu 100"),
        ] {
            let error = settings(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
