//! Subnets, hardware addresses, and the pool that containers get their addresses from.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// An address range, `172.30.0.0/16`; the host's bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The range of this prefix length that `address` is in; `None` if the prefix is longer than an address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = width(address);
        let host_bits = bits.checked_sub(u32::from(prefix))?;
        let value = number(address)
            .checked_shr(host_bits)
            .and_then(|v| v.checked_shl(host_bits));
        Some(Self {
            address: from_number(value.unwrap_or_default(), address.is_ipv4()),
            prefix,
        })
    }

    /// The first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits are the network's.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::new(address, self.prefix)
            .is_some_and(|other| other == self && address.is_ipv4() == self.address.is_ipv4())
    }

    /// Whether any address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let (wide, narrow) = if self.prefix <= other.prefix {
            (self, other)
        } else {
            (other, self)
        };
        wide.contains(narrow.address)
    }

    /// The address at this distance from the first; `None` beyond the end.
    #[must_use]
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        (offset <= self.last()).then(|| from_number(number(self.address) + offset, self.address.is_ipv4()))
    }

    /// The distance of an address from the first.
    #[must_use]
    pub fn offset(self, address: IpAddr) -> Option<u128> {
        self.contains(address)
            .then(|| number(address) - number(self.address))
    }

    /// The distance of the last address.
    fn last(self) -> u128 {
        let host_bits = width(self.address) - u32::from(self.prefix);
        1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn from_number(value: u128, is_v4: bool) -> IpAddr {
    if is_v4 {
        // No sum of a subnet's first address and an offset within it is longer than an address.
        IpAddr::V4(Ipv4Addr::from(u32::try_from(value).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(value))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let malformed = || NetworkError::MalformedSubnet {
            text: text.to_owned(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let subnet = Self::new(address, prefix.parse().map_err(|_| malformed())?).ok_or_else(malformed)?;
        // 172.30.0.1/16 is an interface's address; taken for a range it would hide a slip.
        if subnet.address == address {
            Ok(subnet)
        } else {
            Err(malformed())
        }
    }
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address that docker gives to who has this IPv4 address: two containers on one bridge never have the same.
    #[must_use]
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl FromStr for Mac {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let malformed = || NetworkError::MalformedMac {
            text: text.to_owned(),
        };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(malformed)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        // The lowest bit of the first byte: a group of receivers.
        if parts.next().is_some() || bytes[0] & 1 != 0 {
            return Err(malformed());
        }
        Ok(Self(bytes))
    }
}

/// The addresses of a subnet, and which of them are taken.
///
/// The first address is the network's own, the second the gateway's, and the last IPv4 one is the broadcast address: none of them is given
/// away. A free one is looked for behind the one given last, so that an address that became free rests for as long as possible: peers
/// still have its old owner in their tables.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    subnet: Subnet,
    taken: BTreeSet<u128>,
    next: u128,
}

/// Distance of the gateway from the subnet's first address.
const GATEWAY: u128 = 1;

impl Pool {
    /// All addresses are free but the reserved ones.
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self {
            subnet,
            taken: BTreeSet::new(),
            next: GATEWAY + 1,
        }
    }

    /// The gateway's address.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.subnet.nth(GATEWAY).unwrap_or(self.subnet.address)
    }

    /// The subnet.
    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    fn highest(&self) -> u128 {
        let last = self.subnet.last();
        if self.subnet.address.is_ipv4() {
            last.saturating_sub(1)
        } else {
            last
        }
    }

    /// Takes the next free address.
    pub(crate) fn take(&mut self) -> Result<IpAddr, NetworkError> {
        let (lowest, highest) = (GATEWAY + 1, self.highest());
        let upper = self.first_free(self.next.max(lowest), highest);
        let free = upper.or_else(|| self.first_free(lowest, highest));
        let full = || NetworkError::NoFreeAddress { subnet: self.subnet };
        let offset = free.ok_or_else(full)?;
        let address = self.subnet.nth(offset).ok_or_else(full)?;
        self.taken.insert(offset);
        self.next = offset + 1;
        Ok(address)
    }

    /// Takes this address.
    pub(crate) fn take_this(&mut self, address: IpAddr) -> Result<(), NetworkError> {
        let outside = || NetworkError::AddressOutside {
            address,
            subnet: self.subnet,
        };
        let offset = self.subnet.offset(address).ok_or_else(outside)?;
        if offset <= GATEWAY || offset > self.highest() {
            return Err(NetworkError::AddressReserved {
                address,
                subnet: self.subnet,
            });
        }
        if self.taken.insert(offset) {
            Ok(())
        } else {
            Err(NetworkError::AddressTaken { address })
        }
    }

    /// Gives an address back.
    pub(crate) fn free(&mut self, address: IpAddr) {
        if let Some(offset) = self.subnet.offset(address) {
            self.taken.remove(&offset);
        }
    }

    /// How many are taken.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.taken.len()
    }

    fn first_free(&self, from: u128, to: u128) -> Option<u128> {
        let mut candidate = from;
        for taken in self.taken.range(from..) {
            if *taken != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate <= to).then_some(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_ranges() {
        for (text, inside, outside) in [
            ("172.30.0.0/16", "172.30.255.255", "172.31.0.0"),
            ("10.0.0.0/8", "10.1.2.3", "11.0.0.0"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("192.168.1.7/32", "192.168.1.7", "192.168.1.8"),
            ("fd00::/64", "fd00::ffff:1", "fd00:0:0:1::"),
            ("::/0", "fe80::1", "1.2.3.4"),
        ] {
            assert!(subnet(text).contains(ip(inside)), "{text}");
            assert!(!subnet(text).contains(ip(outside)), "{text}");
            assert_eq!(subnet(text).to_string(), text);
        }
        for bad in [
            "",
            "172.30.0.0",
            "172.30.0.1/16",
            "172.30.0.0/33",
            "fd00::/129",
            "x/1",
            "1.2.3.4/-1",
            "fd00::1/64",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        for (one, other, overlap) in [
            ("172.30.0.0/16", "172.30.5.0/24", true),
            ("172.30.5.0/24", "172.16.0.0/12", true),
            ("172.30.0.0/16", "172.31.0.0/16", false),
            ("fd00::/64", "0.0.0.0/0", false),
        ] {
            assert_eq!(subnet(one).overlaps(subnet(other)), overlap, "{one} {other}");
            assert_eq!(subnet(other).overlaps(subnet(one)), overlap, "{other} {one}");
        }
    }

    #[test]
    fn hardware_addresses_follow_the_address() {
        let mac = Mac::of(Ipv4Addr::new(172, 30, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:1e:00:02");
        assert_eq!("02-42-AC-1e-00-02".parse::<Mac>().unwrap(), mac);
        for bad in [
            "",
            "02:42:ac:1e:00",
            "02:42:ac:1e:00:02:01",
            "2:42:ac:1e:0:2",
            "03:42:ac:1e:00:02",
            "gg:42:ac:1e:00:02",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_rest_before_they_are_given_again() {
        let mut pool = Pool::new(subnet("10.0.0.0/29"));
        assert_eq!(pool.gateway(), ip("10.0.0.1"));
        assert_eq!(pool.take().unwrap(), ip("10.0.0.2"));
        pool.free(ip("10.0.0.2"));
        assert_eq!(pool.take().unwrap(), ip("10.0.0.3"));
        pool.take_this(ip("10.0.0.4")).unwrap();
        assert_eq!(pool.take().unwrap(), ip("10.0.0.5"));
        assert_eq!(pool.take().unwrap(), ip("10.0.0.6"));
        assert_eq!(pool.take().unwrap(), ip("10.0.0.2"), "from the beginning");
        let error = pool.take().unwrap_err().to_string();
        assert!(error.contains("10.0.0.0/29"), "{error}");
        pool.free(ip("10.0.0.4"));
        assert_eq!(pool.take().unwrap(), ip("10.0.0.4"));
        assert_eq!(pool.taken(), 5);
    }

    #[test]
    fn wanted_addresses_are_checked() {
        let mut pool = Pool::new(subnet("10.0.0.0/24"));
        pool.take_this(ip("10.0.0.9")).unwrap();
        for (address, words) in [
            ("10.0.0.9", "in use"),
            ("10.0.1.9", "not in"),
            ("fd00::9", "not in"),
            ("10.0.0.0", "reserved"),
            ("10.0.0.1", "reserved"),
            ("10.0.0.255", "reserved"),
        ] {
            let error = pool.take_this(ip(address)).unwrap_err().to_string();
            assert!(error.contains(words), "{address}: {error}");
        }
        let mut v6 = Pool::new(subnet("fd00::/64"));
        assert_eq!(v6.take().unwrap(), ip("fd00::2"));
        v6.take_this(ip("fd00::ffff:ffff:ffff:ffff")).unwrap();
    }
}
