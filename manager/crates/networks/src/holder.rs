//! Who holds a port of the host: from the kernel's lists of sockets, and the descriptors of the processes that may be looked at.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use croze_model::Protocol;

/// The name and pid of a process that holds the port, where that can be known.
pub(crate) fn find(protocol: Protocol, wanted: SocketAddr) -> Option<String> {
    // Only the thread's own directory shows the sockets of the thread's network namespace.
    let table = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let inode = match protocol {
        Protocol::Tcp => inode(&table("tcp"), wanted).or_else(|| inode(&table("tcp6"), wanted)),
        Protocol::Udp => inode(&table("udp"), wanted).or_else(|| inode(&table("udp6"), wanted)),
    }?;
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| holds(*pid, &link)).map(describe)
}

fn holds(pid: u32, link: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
}

fn describe(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    if words.nth(1).is_some_and(|word| word == crate::proxy::VERB)
        && let Some(container) = words.next()
    {
        return format!("container {container} of another crozed (pid {pid})");
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} (pid {pid})", name.trim())
}

/// The inode of the socket that keeps `wanted` from being bound, in the text of `/proc/net/tcp` and its like (proc(5)): local address and port in
/// field 1, state in field 3 (0A: listening), inode in field 9.
fn inode(table: &str, wanted: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let (address, state) = (parse_address(address)?, *fields.get(3)?);
        let in_the_way = address == wanted.ip() || address.is_unspecified() || wanted.ip().is_unspecified();
        // UDP sockets that are bound are in state 7, unconnected.
        (port == wanted.port() && in_the_way && matches!(state, "0A" | "07"))
            .then(|| fields.get(9)?.parse().ok())
            .flatten()
    })
}

/// The kernel prints each 32-bit word of an address in the host's byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        u32::from_str_radix(text.get(at..at + 8)?, 16)
            .ok()
            .map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for n in 0..4 {
                octets[n * 4..n * 4 + 4].copy_from_slice(&word(n * 8)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
        1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n\
        2: 0100007F:0051 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_socket_in_the_way_is_found() {
        for (address, found) in [
            ("127.0.0.1:8080", Some(4711)),
            ("0.0.0.0:8080", Some(4711)),
            ("10.0.0.1:8080", None),
            ("10.0.0.1:80", Some(4712)),
            ("0.0.0.0:81", None),
            ("0.0.0.0:82", None),
        ] {
            assert_eq!(inode(TCP, address.parse().unwrap()), found, "{address}");
        }
        assert_eq!(
            parse_address("00000000000000000000000001000000"),
            Some(Ipv6Addr::LOCALHOST.into())
        );
        assert_eq!(parse_address("00"), None);
    }
}
