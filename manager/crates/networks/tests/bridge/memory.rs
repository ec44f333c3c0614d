//! What the kernel remembers of containers that are gone, and what it knows of those whose records are damaged.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use croze_networks::AttachRequest;

use crate::world::{Space, World, id, request};

/// A client that keeps its port, as resolvers and games do.
fn client(world: &World) -> UdpSocket {
    world.outside.run(|| {
        let socket = UdpSocket::bind("10.99.0.2:4444").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket
    })
}

/// Whether somebody answers the client at the address within a while.
fn is_answered(client: &UdpSocket, address: &str, limit: Duration) -> bool {
    let since = Instant::now();
    while since.elapsed() < limit {
        // Refused by a message of the host about an earlier datagram: as good as silence.
        client.send_to(b"?", address).ok();
        if client.recv(&mut [0; 64]).is_ok() {
            return true;
        }
    }
    false
}

const SOON: Duration = Duration::from_secs(5);
/// For what must not happen: several datagrams.
const A_WHILE: Duration = Duration::from_millis(500);

#[test]
fn datagrams_of_a_lasting_client_follow_the_port_and_reach_nobody_else() {
    let world = World::new();
    let networks = world.open();
    let client = client(&world);
    let first = world.attach(&networks, 1, &["5000:80/udp"]);
    let inside = Space::of(&first);
    inside.serve(80);
    assert!(is_answered(&client, "10.99.0.1:5000", SOON));
    drop(inside);
    world.detach(&networks, 1);

    // Its address is another's, which has published nothing.
    let wanted = AttachRequest {
        ipv4: match first.ipv4.address {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        },
        ..request(2, &[])
    };
    let second = world.try_attach(&networks, 2, wanted).unwrap();
    assert_eq!(second.ipv4.address, first.ipv4.address);
    let inside = Space::of(&second);
    inside.serve(80);
    assert!(
        !is_answered(&client, "10.99.0.1:5000", A_WHILE),
        "what was never published was reached"
    );

    // The port is a third one's, with another address; the client has never stopped asking.
    let third = world.attach(&networks, 3, &["5000:80/udp"]);
    assert_ne!(third.ipv4.address, first.ipv4.address);
    let inside = Space::of(&third);
    inside.serve(80);
    assert!(
        is_answered(&client, "10.99.0.1:5000", SOON),
        "the port leads to who published it"
    );
}

#[test]
fn nothing_is_remembered_of_many_that_leave_at_once() {
    let world = World::new();
    let networks = world.open();
    let client = client(&world);
    let ports = |n: u8| format!("10.99.0.1:{}", 5000 + u16::from(n));
    let first: Vec<_> = (1..=10)
        .map(|n| {
            let endpoint = world.attach(&networks, n, &[&format!("{}:80/udp", 5000 + u16::from(n))]);
            Space::of(&endpoint).serve(80);
            assert!(is_answered(&client, &ports(n), SOON), "{n}");
            endpoint
        })
        .collect();
    let leaving = networks.clone();
    let ids: Vec<_> = first.iter().map(|endpoint| endpoint.container.clone()).collect();
    world.host.run(move || {
        ids.iter().for_each(|id| leaving.detach(id));
        leaving.settle();
    });
    // Answers that came late.
    while client.recv(&mut [0; 64]).is_ok() {}
    // Each address is another's, which has published nothing.
    for (n, endpoint) in (11..).zip(&first) {
        let wanted = AttachRequest {
            ipv4: match endpoint.ipv4.address {
                std::net::IpAddr::V4(address) => Some(address),
                std::net::IpAddr::V6(_) => None,
            },
            ..request(n, &[])
        };
        let endpoint = world.try_attach(&networks, n, wanted).unwrap();
        Space::of(&endpoint).serve(80);
    }
    let since = Instant::now();
    while since.elapsed() < A_WHILE {
        for n in 1..=10 {
            client.send_to(b"?", ports(n)).ok();
        }
        assert!(client.recv(&mut [0; 64]).is_err(), "somebody else has answered");
    }
}

#[test]
fn a_running_container_whose_record_is_damaged_keeps_what_it_has() {
    for damage in ["truncate -s 20", r#"sed -i 's/"version": *1,/"version":77,/'"#] {
        let world = World::new();
        let before = world.traces();
        let networks = world.open();
        let one = world.attach(&networks, 1, &["8080:80", "10.99.0.1:9090:80/udp"]);
        let inside = Space::of(&one);
        inside.serve(80);
        drop(networks);
        let record = world
            .path()
            .join(format!("run/network/endpoints/{}.json", one.container));
        let whole = std::fs::read(&record).unwrap();
        world.host.sh(&format!("{damage} {}", record.display()));
        assert_ne!(std::fs::read(&record).unwrap(), whole);

        // It runs: its interface, namespace, addresses and ports are its own.
        let networks = world.open();
        assert_eq!(networks.traces().into_iter().collect::<Vec<_>>(), [id(1)]);
        world.recover(&networks, &[1]);
        assert_eq!(world.pinned(), 1);
        assert!(
            world.outside.ask("10.99.0.1:8080").is_some(),
            "{damage}: its interface"
        );
        assert!(
            world.outside.ask_udp("10.99.0.1:9090").is_some(),
            "{damage}: its ports"
        );
        let known = networks.endpoint(&one.container).unwrap();
        assert_eq!((known.ipv4, known.ipv6, known.mac), (one.ipv4, one.ipv6, one.mac));
        assert_eq!(known.ports, one.ports);
        let two = world.attach(&networks, 2, &[]);
        assert_ne!(two.ipv4.address, one.ipv4.address, "{damage}: its address");

        // It has ended: all of it is taken back.
        drop((networks, inside));
        let networks = world.open();
        world.recover(&networks, &[2]);
        assert_eq!(world.pinned(), 1);
        assert!(networks.endpoint(&one.container).is_none() && !record.exists());
        world.detach(&networks, 2);
        world.close(&networks);
        assert_eq!(world.traces(), before, "{damage}");
        assert_eq!(std::fs::read_dir(record.parent().unwrap()).unwrap().count(), 0);
    }
}

#[test]
fn what_cannot_be_told_is_left_to_who_may_live() {
    let world = World::new();
    let networks = world.open();
    let one = world.attach(&networks, 1, &[]);
    drop(networks);
    let record = world
        .path()
        .join(format!("run/network/endpoints/{}.json", one.container));
    // Not even the namespace says more: the container has taken its interface's addresses away.
    Space::of(&one).sh("ip address flush dev eth0");
    world.host.sh(&format!("truncate -s 20 {}", record.display()));
    let networks = world.open();
    world.recover(&networks, &[1]);
    assert_eq!(world.pinned(), 1);
    let shown = world.host.sh("ip -o link");
    assert!(shown.contains(&one.interface), "{shown}");
}
