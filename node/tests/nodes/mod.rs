//! Devices on one machine, for the tests of the network room.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::time::Duration;

use karte_node::network::{
    DeviceKey, FrameStream, Limits, Multiaddr, NetConfig, NetEvent, Network, ReachConfig, device_of, start,
};
use libp2p::identity::Keypair;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const SOON: Duration = Duration::from_secs(8);
pub(crate) const MIB: usize = 1024 * 1024;

pub(crate) struct Node {
    pub(crate) network: Network,
    pub(crate) events: mpsc::Receiver<NetEvent>,
    pub(crate) device: DeviceKey,
    pub(crate) addresses: Vec<Multiaddr>,
}

pub(crate) fn device(seed: u8) -> DeviceKey {
    let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    device_of(&key.public().to_peer_id()).unwrap()
}

pub(crate) async fn node_with(seed: u8, listen: &[&str], limits: Limits) -> Node {
    node_that(seed, listen, limits, ReachConfig::default()).await
}

/// A node that is found in these ways.
pub(crate) async fn node_that(seed: u8, listen: &[&str], limits: Limits, reach: ReachConfig) -> Node {
    let config = NetConfig {
        key: Zeroizing::new([seed; 32]),
        listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
        agent: "karte-test/0".to_owned(),
        limits,
        reach,
    };
    let (network, mut events) = start(config).unwrap();
    let mut addresses = Vec::new();
    while addresses.len() < listen.len() {
        match timeout(SOON, events.recv()).await.unwrap().unwrap() {
            NetEvent::Listening(address) => addresses.push(address),
            _ => panic!("a fresh node only tells its listeners"),
        }
    }
    assert_eq!(network.listeners().await.len(), listen.len());
    Node { network, events, device: device(seed), addresses }
}

pub(crate) async fn node(seed: u8, listen: &[&str]) -> Node {
    node_with(seed, listen, Limits::default()).await
}

impl Node {
    pub(crate) async fn next(&mut self) -> NetEvent {
        timeout(SOON, self.events.recv()).await.expect("an event comes soon").expect("the network runs")
    }

    pub(crate) async fn expect_connected(&mut self, peer: &DeviceKey, called: bool) {
        match self.next().await {
            NetEvent::Connected { peer: came, dialled, .. } => assert_eq!((&came, dialled), (peer, called)),
            _ => panic!("Connected comes before everything else"),
        }
    }

    pub(crate) async fn expect_disconnected(&mut self, peer: &DeviceKey) {
        match self.next().await {
            NetEvent::Disconnected { peer: left } => assert_eq!(&left, peer),
            _ => panic!("Disconnected was due"),
        }
    }

    pub(crate) async fn expect_silence(&mut self) {
        let event = timeout(Duration::from_millis(300), self.events.recv()).await;
        assert!(event.is_err(), "nothing more was to be told");
    }

    pub(crate) async fn expect_stream(&mut self) -> FrameStream {
        match self.next().await {
            NetEvent::Stream { stream, .. } => stream,
            _ => panic!("a stream was due"),
        }
    }

    /// Answers every request with its body reversed; keeps streams and drops them.
    pub(crate) fn echo(mut self) -> Network {
        let network = self.network.clone();
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                if let NetEvent::Request { mut body, reply, .. } = event {
                    body.reverse();
                    let _ = reply.send(body);
                }
            }
        });
        network
    }
}
