//! How devices find one another: over a relay, directly after it, and past strangers who crowd in.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

mod nodes;

use std::time::{Duration, Instant};

use karte_node::network::{
    Limits, Multiaddr, NetError, NetEvent, Network, Rate, ReachConfig, RelayFor, is_relayed, peer_text,
};
use nodes::{MIB, Node, QUIC, SOON, TCP, device, node, node_that, node_with};
use tokio::time::timeout;

/// A relay for whom it says, and its address for others.
async fn relay(seed: u8, relay_for: RelayFor) -> (Node, Multiaddr) {
    let reach = ReachConfig { relay_for, ..ReachConfig::default() };
    let relay = node_that(seed, &[TCP], Limits::of_relay(), reach).await;
    let address = format!("{}/p2p/{}", relay.addresses[0], peer_text(&relay.device).unwrap());
    (relay, address.parse().unwrap())
}

/// A node with a place at a relay; `listen` may be empty: then nobody reaches it but there.
async fn behind(seed: u8, listen: &[&str], relay: &Multiaddr) -> Node {
    let reach = ReachConfig { relays: vec![relay.clone()], ..ReachConfig::default() };
    let node = node_that(seed, listen, Limits::default(), reach).await;
    node.network.know([]).await;
    node
}

/// The node's place at a relay, when it has one.
async fn place_of(node: &Node) -> Option<Multiaddr> {
    let looking = async {
        loop {
            if let Some(place) = node.network.addresses().await.into_iter().find(is_relayed) {
                return place;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(4), looking).await.ok()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(SOON, looking).await.is_ok(), "{what}");
}

async fn is_connected(network: &Network, to: u8) -> bool {
    network.connected().await.iter().any(|(peer, _)| *peer == device(to))
}

/// Passes over what the node tells until a stream comes.
async fn stream_at(node: &mut Node) -> karte_node::network::FrameStream {
    loop {
        if let NetEvent::Stream { stream, .. } = node.next().await {
            return stream;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_nobody_can_call_is_reached_through_its_relay() {
    let (relay, at) = relay(9, RelayFor::Contacts).await;
    relay.network.know([device(1)]).await;
    let mut ada = behind(1, &[], &at).await;
    let place = place_of(&ada).await.expect("the relay keeps a place for a contact");
    assert_eq!(place.to_string(), format!("{at}/p2p-circuit"), "what stands in its card");
    let ben = node(2, &[]).await;
    ben.network.connect(ada.device, vec![place]).await.expect("the circuit stands");
    let mut stream = ben.network.open_stream(ada.device).await.unwrap();
    let mut theirs = stream_at(&mut ada).await;
    let sending = tokio::spawn(async move {
        for number in 0..16_u8 {
            stream.send(&vec![number; MIB]).await.unwrap();
        }
        stream.close().await.unwrap();
    });
    for number in 0..16_u8 {
        let frame = theirs.recv().await.unwrap().expect("far more than libp2p's 128 KiB pass");
        assert!(frame.len() == MIB && frame.iter().all(|byte| *byte == number), "frame {number}");
    }
    assert_eq!(theirs.recv().await, Ok(None));
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_for_contacts_keeps_no_place_for_a_stranger() {
    let (relay, at) = relay(9, RelayFor::Contacts).await;
    let stranger = behind(1, &[], &at).await;
    assert!(place_of(&stranger).await.is_none(), "it is nobody's contact");
    let ben = node(2, &[]).await;
    let at_relay: Multiaddr = format!("{at}/p2p-circuit").parse().unwrap();
    let refused = ben.network.connect(stranger.device, vec![at_relay]).await;
    assert!(matches!(refused, Err(NetError::Unreachable { .. })), "nobody waits there: {refused:?}");
    relay.network.know([stranger.device]).await;
    eventually("who becomes a contact gets its place at the next try", async || {
        stranger.network.addresses().await.iter().any(is_relayed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_for_anyone_keeps_one_and_a_node_that_is_none_does_not() {
    let (_relay, at) = relay(9, RelayFor::Anyone).await;
    let stranger = behind(1, &[], &at).await;
    assert!(place_of(&stranger).await.is_some());
    let (_plain, at) = relay_like(8).await;
    let turned_away = behind(2, &[], &at).await;
    assert!(place_of(&turned_away).await.is_none(), "no relay, no place");
}

async fn relay_like(seed: u8) -> (Node, Multiaddr) {
    let plain = node(seed, &[TCP]).await;
    let address = format!("{}/p2p/{}", plain.addresses[0], peer_text(&plain.device).unwrap());
    (plain, address.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_place_is_told_and_taken_again() {
    let reach = ReachConfig { relay_for: RelayFor::Anyone, ..ReachConfig::default() };
    let (first, at) = relay(9, RelayFor::Anyone).await;
    let port = first.addresses[0].to_string();
    let mut ada = behind(1, &[], &at).await;
    place_of(&ada).await.expect("a place");
    while !matches!(ada.next().await, NetEvent::AddressesChanged) {}
    first.network.shutdown().await;
    while !matches!(ada.next().await, NetEvent::AddressesChanged) {}
    assert!(!ada.network.addresses().await.iter().any(is_relayed), "nobody is sent to a relay that is gone");
    let _again = node_that(9, &[&port], Limits::of_relay(), reach).await;
    eventually("the relay is back, and the place too", async || {
        ada.network.addresses().await.iter().any(is_relayed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_connection_becomes_a_direct_one() {
    let (relay, at) = relay(9, RelayFor::Contacts).await;
    relay.network.know([device(1), device(2)]).await;
    let ada = behind(1, &[TCP, QUIC], &at).await;
    let ben = behind(2, &[TCP, QUIC], &at).await;
    ada.network.know([device(2)]).await;
    ben.network.know([device(1)]).await;
    let (place, _) = (place_of(&ada).await.expect("a place"), place_of(&ben).await.expect("a place"));
    // Both have been told by the relay where they are seen from.
    tokio::time::sleep(Duration::from_millis(500)).await;
    ben.network.connect(ada.device, vec![place]).await.unwrap();
    let directly = async |network: &Network, to: u8| {
        let connected = network.connected().await;
        connected.iter().any(|(peer, address)| *peer == device(to) && !is_relayed(address))
    };
    eventually("a hole is punched", async || {
        directly(&ada.network, 2).await && directly(&ben.network, 1).await
    })
    .await;
    let mut stream = ben.network.open_stream(ada.device).await.expect("new streams go there");
    stream.send(b"direct").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_strangers_leaves_room_for_known_devices_and_for_newcomers() {
    let limits = Limits { strangers_in_max: 3, ..Limits::default() };
    let ben = node_with(2, &[TCP], limits).await;
    ben.network.know([device(1)]).await;
    let addresses = ben.addresses.clone();
    let ben_network = ben.network.clone();
    let _ben = ben.echo();
    let ada = node(1, &[]).await;
    ada.network.connect(device(2), addresses.clone()).await.unwrap();
    let mut crowd = Vec::new();
    for seed in 20..40 {
        let stranger = node(seed, &[]).await;
        let _ = stranger.network.connect(device(2), addresses.clone()).await;
        crowd.push(stranger);
    }
    let inside = ben_network.connected().await.len();
    assert!(inside <= 5, "three strangers, one who is being replaced, and Ada: {inside}");
    assert_eq!(ada.network.request(device(2), vec![1, 2]).await.unwrap(), [2, 1], "Ada is served throughout");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let newcomer = node(50, &[]).await;
    newcomer.network.connect(device(2), addresses.clone()).await.unwrap();
    assert_eq!(
        newcomer.network.request(device(2), vec![3, 4]).await.unwrap(),
        [4, 3],
        "the oldest made room"
    );
    drop(ada.network);
    let again = node(1, &[]).await;
    again.network.connect(device(2), addresses).await.unwrap();
    assert_eq!(again.network.request(device(2), vec![5, 6]).await.unwrap(), [6, 5], "and Ada comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_asks_without_end_is_sent_away_and_a_known_device_is_not() {
    let limits = Limits { asks_of_strangers: Rate { burst: 5, per_second: 1 }, ..Limits::default() };
    let ben = node_with(2, &[TCP], limits).await;
    ben.network.know([device(1)]).await;
    let addresses = ben.addresses.clone();
    let _ben = ben.echo();
    let (ada, stranger) = (node(1, &[]).await, node(3, &[]).await);
    for node in [&ada, &stranger] {
        node.network.connect(device(2), addresses.clone()).await.unwrap();
    }
    for number in 0..20 {
        assert_eq!(ada.network.request(device(2), vec![number]).await.unwrap(), [number]);
    }
    let mut answered = 0;
    for number in 0..20 {
        answered += u32::from(stranger.network.request(device(2), vec![number]).await.is_ok());
    }
    assert!((5..8).contains(&answered), "five, and what a second brings: {answered}");
    eventually("it is sent away", async || !is_connected(&stranger.network, 2).await).await;
}

/// Goes by the local network's multicast, which a machine may not let through: run by hand with `--ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an interface with multicast"]
async fn known_devices_find_one_another_on_the_local_network() {
    let reach = || ReachConfig { mdns: true, ..ReachConfig::default() };
    let mut ada = node_on_lan(1, reach()).await;
    let ben = node_on_lan(2, reach()).await;
    let _cleo = node_on_lan(3, reach()).await;
    ada.network.know([device(2)]).await;
    let began = Instant::now();
    let found = timeout(Duration::from_secs(30), async {
        loop {
            if let Some(NetEvent::Nearby { device, addresses }) = ada.events.recv().await {
                return (device, addresses);
            }
        }
    });
    let (found, addresses) = found.await.expect("Ben announces himself");
    println!("found after {:?} at {addresses:?}", began.elapsed());
    assert_eq!(found, ben.device, "and Cleo, who is nobody's contact, is not told");
    assert!(addresses.iter().all(|address| !address.to_string().contains("127.0.0.1")), "{addresses:?}");
    ada.network.connect(found, addresses).await.expect("he can be called there");
}

async fn node_on_lan(seed: u8, reach: ReachConfig) -> Node {
    let config = karte_node::network::NetConfig {
        key: zeroize::Zeroizing::new([seed; 32]),
        listen: vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()],
        agent: "karte-test/0".to_owned(),
        limits: Limits::default(),
        reach,
    };
    let (network, events) = karte_node::network::start(config).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let addresses = network.listeners().await;
    Node { network, events, device: device(seed), addresses }
}
