//! Settings that change, hosts that are no routers, daemons that end.

use std::time::{Duration, Instant};

use croze_networks::{BridgeSettings, Ipv6};

use crate::world::{Space, World, request};

fn settings(name: &str, subnet: Option<&str>, ipv6: Ipv6) -> BridgeSettings {
    BridgeSettings {
        name: name.into(),
        subnet: subnet.map(|subnet| subnet.parse().unwrap()),
        ipv6,
        ..BridgeSettings::default()
    }
}

#[test]
fn what_a_killed_daemon_left_with_other_settings_goes() {
    let world = World::new();
    let before = world.traces();
    let networks = world.open();
    world.attach(&networks, 1, &["8080:80"]);
    let made_up = networks.facts().subnets[1].0;
    drop(networks);
    // Killed; its container ended; somebody has written other settings.
    for other in [
        settings("croze7", None, Ipv6::Local),
        settings("croze7", Some("10.7.0.0/16"), Ipv6::Off),
        settings("croze7", Some("10.7.0.0/16"), Ipv6::Local),
    ] {
        let last = other.ipv6 == Ipv6::Local;
        let networks = world.open_with(other);
        world.recover(&networks, &[]);
        world.attach(&networks, 2, &[]);
        let shown = world.traces();
        assert!(!shown.contains("croze0"), "{shown}");
        assert_eq!(shown.contains("table ip6 croze7"), last, "{shown}");
        if last {
            assert_eq!(networks.facts().subnets[1].0, made_up, "it is made up once");
        }
        drop(networks);
    }
    let networks = world.open_with(settings("croze7", Some("10.7.0.0/16"), Ipv6::Local));
    world.recover(&networks, &[]);
    world.close(&networks);
    assert_eq!(world.traces(), before);
}

#[test]
fn containers_that_run_keep_their_network_whatever_the_settings_say() {
    let world = World::new();
    let networks = world.open();
    let one = world.attach(&networks, 1, &["8080:80"]);
    let inside = Space::of(&one);
    inside.serve(80);
    drop(networks);
    let networks = world.open_with(settings("croze7", Some("10.7.0.0/16"), Ipv6::Off));
    world.recover(&networks, &[1]);
    assert!(world.outside.ask("10.99.0.1:8080").is_some());
    let two = world.attach(&networks, 2, &[]);
    assert!(
        two.ipv4.address.to_string().starts_with("172.30.0."),
        "the same network: {two:?}"
    );
    let shown = world.traces();
    assert!(
        shown.contains("croze7") && !shown.contains("croze0"),
        "the bridge has its new name: {shown}"
    );
    assert!(Space::of(&two).ask(&format!("{}:80", one.ipv4.address)).is_some());
}

#[test]
fn a_host_that_was_no_router_becomes_none_for_others() {
    let world = World::new();
    // A third network, on another side of the host, and one that comes later.
    let (third, later) = (Space::new(), Space::new());
    let join = |name: &str, net: u8, space: &Space| {
        world.host.sh(&format!(
            "ip link add {name} type veth peer name eth0 netns {}
             ip address add 10.{net}.0.1/24 dev {name}; ip link set {name} up",
            space.thread_id
        ));
        space.sh(&format!(
            "ip link set lo up; ip address add 10.{net}.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.{net}.0.1"
        ));
        space.serve(7000);
    };
    join("third0", 88, &third);
    world.outside.sh("ip route add default via 10.99.0.1");
    world.outside.serve(7000);
    // One side forwarded already, by its own switch.
    world.host.sh("echo 1 >/proc/sys/net/ipv4/conf/third0/forwarding");
    let networks = world.open();
    let endpoint = world.attach(&networks, 1, &["8080:80"]);
    let inside = Space::of(&endpoint);
    for address in ["10.99.0.2:7000", "10.88.0.2:7000"] {
        assert!(inside.ask(address).is_some(), "containers reach {address}");
    }
    drop(inside);
    world.outside.cannot_ask("10.88.0.2:7000");
    join("later0", 77, &later);
    assert!(
        world.outside.ask("10.77.0.2:7000").is_some(),
        "an interface that comes later is its maker's matter"
    );
    world.detach(&networks, 1);
    world.close(&networks);
    let switches = "cd /proc/sys/net/ipv4/conf; cat third0/forwarding out0/forwarding all/forwarding";
    assert_eq!(world.host.sh(switches), "1\n0\n0\n");
}

#[test]
fn after_the_end_nothing_is_brought_up_again() {
    let world = World::new();
    let before = world.traces();
    let networks = world.open();
    world.attach(&networks, 1, &[]);
    world.detach(&networks, 1);
    world.close(&networks);
    let error = world.try_attach(&networks, 2, request(2, &[])).unwrap_err();
    assert!(error.to_string().contains("crozed is ending"), "{error}");
    assert_eq!(world.traces(), before);
}

#[test]
fn asking_waits_for_nobody_who_asks_the_kernel() {
    let world = World::new();
    let networks = world.open();
    let endpoint = world.attach(&networks, 1, &[]);
    // Many come and go meanwhile; each holds the lock of the rules for a while.
    let busy: Vec<_> = (2..12u8)
        .map(|n| {
            let networks = networks.clone();
            world.host.run(move || {
                std::thread::spawn(move || {
                    networks
                        .attach(&crate::world::id(n), &request(n, &["80"]))
                        .unwrap();
                    networks.detach(&crate::world::id(n));
                })
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    while busy.iter().any(|thread| !thread.is_finished()) {
        let since = Instant::now();
        assert!(networks.endpoint(&endpoint.container).is_some());
        assert!(!networks.facts().endpoints.is_empty());
        longest = longest.max(since.elapsed());
    }
    for thread in busy {
        thread.join().unwrap();
    }
    // A call of the kernel may take its time on a busy machine, and is not waited for; a turn of the scheduler is.
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
