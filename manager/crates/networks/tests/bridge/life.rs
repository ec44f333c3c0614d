//! Coming, going, being flushed, dying, and coming back.

use std::time::{Duration, Instant};

use croze_networks::BridgeSettings;

use crate::world::{Space, World, request};

#[test]
fn the_host_is_left_as_it_was_found() {
    let world = World::new();
    let before = world.traces();
    assert!(before.contains("net.ipv4.ip_forward = 0"), "{before}");
    let networks = world.open();
    assert_eq!(world.traces(), before, "nothing is made before it is needed");
    for n in 1..=5 {
        world.attach(&networks, n, &["80"]);
    }
    let used = world.traces();
    for words in [
        "net.ipv4.ip_forward = 1",
        "net.ipv6.conf.all.forwarding = 1",
        "croze0",
        "table ip croze0",
        "table ip6 croze0",
    ] {
        assert!(used.contains(words), "{words}: {used}");
    }
    for n in 1..=5 {
        world.detach(&networks, n);
    }
    world.detach(&networks, 9);
    world.close(&networks);
    assert_eq!(world.traces(), before);
    assert_eq!(world.pinned(), 0);
}

#[test]
fn forwarding_that_others_rely_on_stays() {
    let world = World::new();
    let networks = world.open();
    world.attach(&networks, 1, &[]);
    world.host.sh(
        "nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; }'",
    );
    world.detach(&networks, 1);
    world.close(&networks);
    let after = world.traces();
    assert!(
        after.contains("ip_forward = 1") && !after.contains("croze0"),
        "{after}"
    );
}

#[test]
fn flushed_rules_are_written_again() {
    let world = World::new();
    let networks = world.open();
    let endpoint = world.attach(&networks, 1, &["8080:80", "8080:80/udp"]);
    let inside = Space::of(&endpoint);
    inside.serve(80);
    let before = world.rules();
    for disturbance in [
        "nft flush ruleset",
        "nft delete table ip croze0",
        "nft flush chain ip croze0 forward",
        "nft flush map ip croze0 published-any",
        "nft delete element ip croze0 published-any '{ tcp . 8080 : 172.30.0.2 . 80 }'",
    ] {
        world.host.sh(disturbance);
        let since = Instant::now();
        while world.rules() != before {
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{disturbance}: {}",
                world.rules()
            );
        }
        assert!(world.outside.ask("10.99.0.1:8080").is_some(), "{disturbance}");
    }
    // What others have is theirs.
    world.host.sh("nft add table ip other; nft delete table ip other");
    assert_eq!(world.rules(), before);
}

#[test]
fn a_daemon_that_was_killed_finds_everything_again() {
    let world = World::new();
    let before = world.traces();
    let networks = world.open();
    let stays = world.attach(&networks, 1, &["8080:80"]);
    world.attach(&networks, 2, &["9090:90"]);
    let inside = Space::of(&stays);
    inside.serve(80);
    // As after kill -9: nothing is taken back. Its sockets go, as no proxy holds them here.
    drop(networks);
    assert!(
        world.outside.ask("10.99.0.1:8080").is_some(),
        "rules are the kernel's"
    );
    let rules = world.rules();

    let networks = world.open();
    world.recover(&networks, &[1]);
    assert!(world.outside.ask("10.99.0.1:8080").is_some());
    assert!(
        rules.contains("9090") && !world.rules().contains("9090"),
        "{}",
        world.rules()
    );
    assert_eq!(world.pinned(), 1);
    let next = world.attach(&networks, 3, &["9090:90"]);
    assert_ne!(next.ipv4.address, stays.ipv4.address);
    let error = world
        .try_attach(&networks, 4, request(4, &["10.99.0.1:9090:80"]))
        .unwrap_err();
    assert!(error.to_string().contains("container c3"), "{error}");

    // Killed once more; meanwhile both end, and somebody removes the bridge.
    drop((networks, inside));
    world.host.sh("ip link delete croze0");
    let networks = world.open();
    world.recover(&networks, &[]);
    world.close(&networks);
    assert_eq!(world.traces(), before);
    assert_eq!(world.pinned(), 0);
}

#[test]
fn a_bridge_that_was_removed_is_made_again() {
    let world = World::new();
    let networks = world.open();
    let one = world.attach(&networks, 1, &[]);
    world.host.sh("ip link delete croze0; nft delete table ip croze0");
    let since = Instant::now();
    while !world.traces().contains("table ip croze0") {
        assert!(
            since.elapsed() < Duration::from_secs(5),
            "nobody needs to ask for it"
        );
    }
    let two = world.attach(&networks, 2, &[]);
    let (first, second) = (Space::of(&one), Space::of(&two));
    first.serve(80);
    assert!(second.ask(&format!("{}:80", one.ipv4.address)).is_some());
}

#[test]
fn many_come_and_go_and_nothing_stays() {
    let world = World::new();
    let before = world.traces();
    let networks = world.open();
    for round in 0..2u8 {
        let threads: Vec<_> = (0..10u8)
            .map(|n| {
                let networks = networks.clone();
                world.host.run(move || {
                    std::thread::spawn(move || {
                        let n = 1 + round * 10 + n;
                        let id = crate::world::id(n);
                        let endpoint = networks.attach(&id, &request(n, &["80", "53/udp"])).unwrap();
                        networks.detach(&id);
                        endpoint.ipv4.address
                    })
                })
            })
            .collect();
        let mut addresses: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 10, "an address rests before it is given again");
    }
    world.close(&networks);
    assert_eq!(world.traces(), before);
    assert_eq!(world.pinned(), 0);
}

#[test]
fn subnets_that_the_host_uses_are_avoided_and_what_was_chosen_stays() {
    let world = World::new();
    world.host.sh("ip address add 172.30.9.1/24 dev out0");
    let networks = world.open();
    let first = world.attach(&networks, 1, &[]);
    assert_eq!(first.ipv4.address.to_string(), "172.31.0.2");
    world.detach(&networks, 1);
    world.close(&networks);
    world.host.sh("ip address del 172.30.9.1/24 dev out0");
    let networks = world.open();
    let again = world.attach(&networks, 2, &[]);
    assert_eq!(again.ipv4.address.to_string(), "172.31.0.2");
    assert_eq!(
        again.ipv6.unwrap().gateway,
        first.ipv6.unwrap().gateway,
        "the local subnet is made up once"
    );
    world.detach(&networks, 2);
    world.close(&networks);

    let taken = BridgeSettings {
        name: "br-other".into(),
        subnet: Some("10.99.0.0/16".parse().unwrap()),
        ..BridgeSettings::default()
    };
    let other = world.open_with(taken);
    let error = world
        .try_attach(&other, 3, request(3, &[]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("10.99.0.0/16") && error.contains("route to 10.99.0.0/24"),
        "{error}"
    );
}

#[test]
fn an_interface_of_the_bridges_name_and_a_foreign_firewall_are_told() {
    let world = World::new();
    let networks = world.open();
    let warnings = |networks: &croze_networks::Networks| {
        let networks = networks.clone();
        world.host.run(move || networks.warnings())
    };
    assert!(warnings(&networks).is_empty());
    world.host.sh("nft add table ip filter
         nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
    let told = warnings(&networks);
    assert!(
        told.len() == 1 && told[0].contains("FORWARD of table ip filter"),
        "{told:?}"
    );

    world.host.sh("ip link add croze0 type veth peer name croze1");
    let error = world
        .try_attach(&networks, 1, request(1, &[]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("croze0 exists and is no bridge"), "{error}");
}

#[test]
fn nobody_waits_for_an_interface_but_who_wants_what_it_holds() {
    let world = World::new();
    let before = world.traces();
    // Five addresses, for more containers than that, one right after the other; and one that comes back at once, with its own.
    let networks = world.open_with(BridgeSettings {
        subnet: Some("10.77.0.0/29".parse().unwrap()),
        ..BridgeSettings::default()
    });
    let mut were_leaving = 0;
    for n in (1..=12).chain([12, 12]) {
        let endpoint = world.attach(&networks, n, &["8080:80"]);
        let record = world.record(&endpoint);
        assert!(record.exists(), "{}", record.display());
        let left = networks.clone();
        world.host.run(move || left.detach(&endpoint.container));
        // The last thing that goes, some ten milliseconds later.
        were_leaving += u32::from(record.exists());
        assert!(networks.endpoint(&crate::world::id(n)).is_none());
        assert!(networks.facts().endpoints.is_empty());
        let port = world
            .host
            .run(|| std::net::TcpListener::bind("0.0.0.0:8080").map(drop));
        assert!(port.is_ok(), "{port:?}");
    }
    assert!(
        were_leaving > 0,
        "who detached has waited for the interface, every time"
    );
    let endpoint = world.attach(&networks, 1, &[]);
    let wanted = Some(match endpoint.ipv4.address {
        std::net::IpAddr::V4(address) => address,
        std::net::IpAddr::V6(_) => unreachable!(),
    });
    let left = networks.clone();
    world.host.run(move || left.detach(&endpoint.container));
    let again = croze_networks::AttachRequest {
        ipv4: wanted,
        ..request(2, &[])
    };
    let again = world.try_attach(&networks, 2, again).unwrap();
    let left = networks.clone();
    world.host.run(move || left.detach(&again.container));
    // The end waits for the rest.
    world.close(&networks);
    assert_eq!(world.traces(), before);
    assert_eq!(world.pinned(), 0);
}
