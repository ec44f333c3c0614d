//! Whom the host listens to, and what is not crozed's to touch.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use croze_networks::{BridgeSettings, Ipv6};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sockopt};

use crate::world::{Space, World, request};

/// A router advertisement: "I am your router for half an hour, and the best", RFC 4861 and 4191.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0x08, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];

/// Sends it to everybody on the link behind `eth0`.
fn advertise(space: &Space) {
    let index = space.sh("ip -o link show dev eth0 | cut -d: -f1");
    let scope = index.trim().parse().unwrap();
    space.run(move || {
        let socket =
            rustix::net::socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let everybody: Ipv6Addr = "ff02::1".parse().unwrap();
        let to = SocketAddrV6::new(everybody, 0, 0, scope);
        rustix::net::sendto(&socket, &ADVERTISEMENT, SendFlags::empty(), &to).unwrap();
    });
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(10), "{what}");
    }
}

/// How many router advertisements the host has received by an interface.
fn heard(world: &World, interface: &str) -> u32 {
    let line =
        format!("awk '$1 == \"Icmp6InType134\" {{ print $2 }}' /proc/thread-self/net/dev_snmp6/{interface}");
    world.host.sh(&line).trim().parse().unwrap_or(0)
}

const HOST_LISTENS: &str =
    "cat /proc/sys/net/ipv6/conf/out0/accept_ra /proc/sys/net/ipv6/conf/default/accept_ra";

#[test]
fn a_container_is_no_router_of_the_host_and_the_hosts_own_router_stays() {
    for ipv6 in [Ipv6::Local, Ipv6::Off] {
        let world = World::new();
        world.outside.sh("ip address add fe80::99/64 dev eth0 nodad");
        let by_outside = "default via fe80::99 dev out0 proto ra";
        let routes = || world.host.sh("ip -6 route");
        // Its interface may not listen yet when the first one comes.
        wait_for("the host heard its router", || {
            advertise(&world.outside);
            routes().contains(by_outside)
        });

        let networks = world.open_with(BridgeSettings {
            ipv6,
            ..BridgeSettings::default()
        });
        let endpoint = world.attach(&networks, 1, &[]);
        let listens = if ipv6 == Ipv6::Off { "1\n1\n" } else { "2\n1\n" };
        assert_eq!(
            world.host.sh(HOST_LISTENS),
            listens,
            "the uplink, and nobody who comes later"
        );
        let inside = Space::of(&endpoint);
        // Root in a container may give itself what crozed did not give it.
        inside.sh("echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6
             ip address add fe80::66/64 dev eth0 nodad");
        // When the second has been received, the first has been dealt with.
        wait_for("the host received what the container sent", || {
            advertise(&inside);
            heard(&world, "croze0") >= 2
        });
        let after = routes();
        assert!(
            after.contains(by_outside) && !after.contains("dev croze0 proto ra"),
            "{after}"
        );

        // Its port by itself, should the bridge be removed, is deaf as well.
        let line = format!(
            "cat /proc/sys/net/ipv6/conf/{}/accept_ra /proc/sys/net/ipv6/conf/croze0/accept_ra",
            endpoint.interface
        );
        assert_eq!(world.host.sh(&line), "0\n0\n");
        world.detach(&networks, 1);
        world.close(&networks);
        assert_eq!(world.host.sh(HOST_LISTENS), "1\n1\n");
    }
}

#[test]
fn a_bridge_of_the_administrator_is_refused_and_stays() {
    let world = World::new();
    world.host.sh("ip link add br0 type bridge
         ip address add 10.77.0.1/24 dev br0
         ip link set br0 up");
    let state = "ip -o address show dev br0; ip -d -o link show dev br0 | grep -o 'alias.*' || true";
    let (before, traces) = (world.host.sh(state), world.traces());
    let networks = world.open_with(BridgeSettings {
        name: "br0".into(),
        ..BridgeSettings::default()
    });
    let error = world.try_attach(&networks, 1, request(1, &[])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the bridge br0 exists and was not made by crozed"
    );
    world.recover(&networks, &[]);
    world.close(&networks);
    assert_eq!((world.host.sh(state), world.traces()), (before, traces));
}

#[test]
fn a_bridge_that_took_our_name_meanwhile_stays_when_the_daemon_ends() {
    let world = World::new();
    let networks = world.open();
    world.attach(&networks, 1, &[]);
    // One that is deleted is made again before anybody else can.
    world
        .host
        .sh("ip link set croze0 down; ip link set croze0 name was0; ip link add croze0 type bridge");
    let error = world.try_attach(&networks, 2, request(2, &[])).unwrap_err();
    assert!(error.to_string().contains("was not made by crozed"), "{error}");
    world.detach(&networks, 1);
    world.close(&networks);
    assert!(world.host.sh("ip -o link").contains(" croze0: "));
    assert!(!world.rules().contains("croze0"), "the rules were ours");
}

#[test]
fn a_second_daemon_leaves_the_firsts_containers_alone() {
    let world = World::new();
    let first = world.open();
    let endpoint = world.attach(&first, 1, &["8080:80"]);
    let inside = Space::of(&endpoint);
    inside.serve(80);
    let before = world.traces();

    let second = world.open_of("second", BridgeSettings::default());
    world.recover(&second, &[]);
    let error = world.try_attach(&second, 2, request(2, &[])).unwrap_err();
    let words = error.to_string();
    assert!(
        words.starts_with("the bridge croze0 exists and belongs to the crozed with the run root ")
            && words.ends_with("/run"),
        "{words}"
    );
    world.close(&second);
    assert_eq!(world.traces(), before);
    assert!(world.outside.ask("10.99.0.1:8080").is_some());

    // With a bridge of its own it has its own network.
    let second = world.open_of(
        "second",
        BridgeSettings {
            name: "croze1".into(),
            ..BridgeSettings::default()
        },
    );
    let other = world.attach(&second, 2, &[]);
    assert_ne!(other.ipv4.gateway, endpoint.ipv4.gateway);
    world.detach(&second, 2);
    world.close(&second);
    assert_eq!(world.traces(), before);
}

#[test]
fn ports_of_containers_that_ended_with_a_killed_daemon_lead_nowhere() {
    let world = World::new();
    let before = world.traces();
    let networks = world.open();
    world.attach(&networks, 1, &["8080:80"]);
    drop(networks);
    // It goes on living: nothing but the recovery can take the rules away.
    let networks = world.open();
    world.recover(&networks, &[]);
    assert_eq!(world.traces(), before);
    world.host.serve(8080);
    assert!(world.outside.ask("10.99.0.1:8080").is_some());
}

#[test]
fn a_host_without_ipv6_has_ipv4_containers() {
    let world = World::new();
    world.host.sh("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let networks = world.open();
    let endpoint = world.attach(&networks, 1, &["8080:80"]);
    assert_eq!(endpoint.ipv6, None);
    let inside = Space::of(&endpoint);
    inside.serve(80);
    assert!(world.outside.ask("10.99.0.1:8080").is_some());

    // A subnet that was asked for is had.
    let wanted = world.open_of(
        "wanted",
        BridgeSettings {
            name: "croze1".into(),
            ipv6: Ipv6::Subnet("fd77::/64".parse().unwrap()),
            ..BridgeSettings::default()
        },
    );
    let endpoint = world.attach(&wanted, 2, &[]);
    let inside = Space::of(&endpoint);
    world.host.serve(90);
    assert!(inside.ask("[fd77::1]:90").is_some());
}
