//! Who reaches whom.

use croze_networks::{AttachRequest, BridgeSettings, Ipv6};

use crate::world::{Space, World, request};

#[test]
fn containers_reach_each_other_the_host_and_the_outside() {
    let world = World::new();
    let networks = world.open();
    let (a, b) = (world.attach(&networks, 1, &[]), world.attach(&networks, 2, &[]));
    let (inside_a, inside_b) = (Space::of(&a), Space::of(&b));
    for space in [&inside_b, &world.host, &world.outside] {
        space.serve(7000);
    }
    let (a6, b6) = (a.ipv6.unwrap(), b.ipv6.unwrap());
    // Another container sees the container's own address, and so does the host.
    for (target, seen) in [
        (b.ipv4.address, a.ipv4.address),
        (b6.address, a6.address),
        (a.ipv4.gateway, a.ipv4.address),
        (a6.gateway, a6.address),
    ] {
        let address = std::net::SocketAddr::new(target, 7000).to_string();
        assert_eq!(inside_a.ask(&address), Some(seen.to_string()), "{address}");
        assert_eq!(
            inside_a.ask_udp(&address),
            Some(seen.to_string()),
            "udp {address}"
        );
    }
    // The outside sees the host's address.
    for (address, seen) in [("10.99.0.2:7000", "10.99.0.1"), ("[fd99::2]:7000", "fd99::1")] {
        assert_eq!(inside_a.ask(address).as_deref(), Some(seen), "{address}");
        assert_eq!(inside_a.ask_udp(address).as_deref(), Some(seen), "udp {address}");
    }
    // The host reaches containers.
    assert_eq!(
        world.host.ask(&format!("{}:7000", b.ipv4.address)),
        Some(b.ipv4.gateway.to_string())
    );
    // What nobody published cannot be reached, even by who knows the way.
    world.outside.sh(&format!(
        "ip route add 172.30.0.0/16 via 10.99.0.1; ip -6 route add {}/64 via fd99::1",
        a6.gateway
    ));
    world.outside.cannot_ask(&format!("{}:7000", b.ipv4.address));
    world.outside.cannot_ask(&format!("[{}]:7000", b6.address));
    drop((inside_a, inside_b));
    for n in [1, 2] {
        world.detach(&networks, n);
    }
    world.close(&networks);
}

#[test]
fn a_container_has_what_docker_gives() {
    let world = World::new();
    let networks = world.open();
    let endpoint = world.attach(&networks, 1, &[]);
    assert_eq!(endpoint.ipv4.address.to_string(), "172.30.0.2");
    assert_eq!(endpoint.mac.to_string(), "02:42:ac:1e:00:02");
    let inside = Space::of(&endpoint);
    let shown = inside.sh("ip address; ip route; ip -6 route");
    for words in [
        "inet 172.30.0.2/16",
        "link/ether 02:42:ac:1e:00:02",
        "default via 172.30.0.1 dev eth0",
        "inet 127.0.0.1/8",
        &format!("inet6 {}/64", endpoint.ipv6.unwrap().address),
        &format!("default via {} dev eth0", endpoint.ipv6.unwrap().gateway),
        "mtu 1500",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert_eq!(
        inside.sh("cd /proc/sys/net/ipv6/conf/eth0; cat accept_dad accept_ra"),
        "0\n0\n",
        "no duplicate address detection; CVE-2020-13401"
    );
}

#[test]
fn wanted_addresses_are_given_or_refused() {
    let world = World::new();
    let networks = world.open();
    let wanted = AttachRequest {
        ipv4: Some("172.30.7.7".parse().unwrap()),
        mac: Some("02:00:00:00:00:07".parse().unwrap()),
        ..request(1, &[])
    };
    let endpoint = world.try_attach(&networks, 1, wanted.clone()).unwrap();
    assert_eq!(endpoint.ipv4.address.to_string(), "172.30.7.7");
    let shown = Space::of(&endpoint).sh("ip link show eth0");
    assert!(shown.contains("02:00:00:00:00:07"), "{shown}");
    for (request, words) in [
        (wanted, "already in use"),
        (
            AttachRequest {
                ipv4: Some("10.0.0.7".parse().unwrap()),
                ..request(2, &[])
            },
            "not in the network's subnet 172.30.0.0/16",
        ),
        (
            AttachRequest {
                ipv6: Some("fd00:dead::7".parse().unwrap()),
                ..request(2, &[])
            },
            "not in the network's subnet fd",
        ),
    ] {
        let error = world.try_attach(&networks, 2, request).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(world.pinned(), 1, "what was refused left nothing");
}

#[test]
fn without_ipv6_there_is_none() {
    let world = World::new();
    let settings = BridgeSettings {
        name: "br-test".into(),
        subnet: Some("10.55.0.0/24".parse().unwrap()),
        ipv6: Ipv6::Off,
        mtu: 1400,
    };
    let networks = world.open_with(settings);
    let endpoint = world.attach(&networks, 1, &["8080:80"]);
    assert_eq!(
        (endpoint.ipv4.address.to_string().as_str(), endpoint.ipv6),
        ("10.55.0.2", None)
    );
    let shown = Space::of(&endpoint).sh("ip address show eth0");
    assert!(!shown.contains("inet6") && shown.contains("mtu 1400"), "{shown}");
    let rules = world.rules();
    assert!(
        rules.contains("table ip br-test") && !rules.contains("table ip6"),
        "{rules}"
    );
    let wanted = AttachRequest {
        ipv6: Some("fd00::7".parse().unwrap()),
        ..request(2, &[])
    };
    let error = world.try_attach(&networks, 2, wanted).unwrap_err().to_string();
    assert!(error.contains("has no IPv6"), "{error}");
}

#[test]
fn published_ports_answer_from_everywhere() {
    from_everywhere(&World::new());
}

#[test]
fn published_ports_answer_whether_bridged_packets_pass_the_filter_or_not() {
    // br_netfilter, which docker loads, has a switch for each network namespace.
    for value in [0, 1] {
        let world = World::new();
        world.host.sh(&format!(
            "for name in iptables ip6tables; do
                 file=/proc/sys/net/bridge/bridge-nf-call-$name
                 if test -e $file; then echo {value} > $file; fi
             done"
        ));
        from_everywhere(&world);
    }
}

fn from_everywhere(world: &World) {
    let networks = world.open();
    let endpoint = world.attach(
        &networks,
        1,
        &["8080:80", "10.99.0.1:8081:80", "8080:80/udp", "127.0.0.1:8082:80"],
    );
    let (inside, other) = (Space::of(&endpoint), Space::of(&world.attach(&networks, 2, &[])));
    inside.serve(80);
    let gateway = endpoint.ipv4.gateway;
    for (who, from) in [
        ("outside", &world.outside),
        ("the host", &world.host),
        ("another container", &other),
        ("the container itself", &inside),
    ] {
        for address in ["10.99.0.1:8080", "10.99.0.1:8081", "[fd99::1]:8080"] {
            assert!(from.ask(address).is_some(), "{who} asks {address}");
        }
        for address in ["10.99.0.1:8080", "[fd99::1]:8080"] {
            assert!(from.ask_udp(address).is_some(), "{who} asks udp {address}");
        }
    }
    // The client's own address arrives.
    assert_eq!(world.outside.ask("10.99.0.1:8080").unwrap(), "10.99.0.2");
    assert_eq!(world.outside.ask("[fd99::1]:8080").unwrap(), "fd99::2");
    assert!(other.ask(&format!("{gateway}:8080")).is_some());
    // What is published on one address is there only.
    assert_eq!(other.ask(&format!("{gateway}:8081")), None);
    assert_eq!(world.outside.ask("[fd99::1]:8081"), None);
    assert_eq!(world.outside.ask("10.99.0.1:8082"), None, "loopback only");
    drop((inside, other));
    world.detach(&networks, 1);
    assert_eq!(world.outside.ask("10.99.0.1:8080"), None);
    // The ports are free again.
    world.attach(&networks, 3, &["8080:80"]);
}

#[test]
fn a_hundred_ports_are_one_rule() {
    let world = World::new();
    let networks = world.open();
    let one = world.attach(&networks, 1, &["9000-9099:80-179"]);
    assert_eq!(one.ports.len(), 200, "on both families");
    let inside = Space::of(&one);
    let rules = world.rules();
    assert_eq!(rules.matches("dnat ip").count(), 4, "{rules}");
    for (port, target) in [(9000, 80), (9057, 137), (9099, 179)] {
        inside.serve(target);
        assert!(
            world.outside.ask(&format!("10.99.0.1:{port}")).is_some(),
            "{port}"
        );
    }
}

#[test]
fn a_port_of_another_container_is_refused_by_name() {
    let world = World::new();
    let networks = world.open();
    world.attach(&networks, 1, &["8080:80", "9000:90"]);
    let before = world.rules();
    let refused = world.try_attach(&networks, 2, request(2, &["7070:70", "127.0.0.1:8080:80"]));
    let error = refused.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot publish port 127.0.0.1:8080/tcp: it is already allocated to container c1"
    );
    assert_eq!(world.rules(), before);
    assert_eq!(world.pinned(), 1);
    // Nothing is kept of what was refused: neither its other port nor its address.
    world.attach(&networks, 3, &["7070:70"]);
}
