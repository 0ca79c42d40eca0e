//! The swarm of Karte: transports and protocols, every option spelled out.
//!
//! For: what we speak and how much of it. Not for: reacting to it (see `event_loop`).

use std::error::Error;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade::Version;
use libp2p::identity::{Keypair, PublicKey};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, autonat, dcutr, identify, mdns, noise, ping,
    quic, relay, swarm, yamux,
};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::codec::BodyCodec;
use super::error::root_cause;
use super::guard::Guard;
use super::heed::Heed;
use super::known::Known;
use super::relay::{RelayFor, relay_config};
use super::{Limits, NetConfig, NetError, payload};

const CONTROL: StreamProtocol = StreamProtocol::new("/karte/control/1");
const VERSION: &str = "karte/1";

/// The protocols. `limits`, `guard` and `payload` stand first: what they deny never reaches the others.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(crate) guard: Guard,
    pub(crate) payload: payload::Behaviour,
    pub(crate) control: request_response::Behaviour<BodyCodec>,
    identify: Heed<identify::Behaviour>,
    ping: ping::Behaviour,
    /// Devices of the same local network; off unless the settings say otherwise.
    mdns: Toggle<mdns::tokio::Behaviour>,
    /// Calls over relays, and places at them.
    relayed: relay::client::Behaviour,
    /// This node as a relay.
    relay: Toggle<relay::Behaviour>,
    /// Asks relays whether an address of ours can be called.
    reachable: autonat::v2::client::Behaviour,
    /// Says so to others; a relay's part.
    reaching: Toggle<Heed<autonat::v2::server::Behaviour>>,
    /// Makes a direct connection of a relayed one.
    punch: Heed<dcutr::Behaviour>,
}

/// The swarm, not yet listening.
pub(crate) fn build_swarm(config: &NetConfig, known: &Known) -> Result<Swarm<Behaviour>, NetError> {
    let limits = &config.limits;
    let refused = |reason: String| NetError::Start { reason };
    let builder = SwarmBuilder::with_existing_identity(keypair(&config.key)?)
        .with_tokio()
        .with_quic_config(|quic| quic_config(quic, limits))
        .with_other_transport(|key| Ok(super::tcp::transport(key, yamux_config(limits))?))
        .map_err(|error| refused(error.to_string()))?
        .with_dns()
        .map_err(|error| refused(error.to_string()))?
        .with_relay_client(noise::Config::new, || yamux_config(limits))
        .map_err(|error| refused(error.to_string()))?
        .with_behaviour(|key, relayed| Ok(behaviour(key.public(), relayed, config, known)?))
        .map_err(|error| refused(error.to_string()))?;
    Ok(builder
        .with_swarm_config(|swarm| swarm_config(swarm, limits))
        .with_connection_timeout(limits.connect_timeout)
        .build())
}

/// Listens on one address; the addresses really bound come as swarm events.
pub(crate) fn listen(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<ListenerId, NetError> {
    let refused = |error: &(dyn Error + 'static)| NetError::Listen {
        address: address.clone(),
        reason: root_cause(error),
    };
    probe(address).map_err(|error| refused(&error))?;
    swarm.listen_on(address.clone()).map_err(|error| refused(&error))
}

/// Finds a taken TCP port, which libp2p would share (it listens with `SO_REUSEPORT`): the system would then
/// deal our callers out to both programs.
fn probe(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::from(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::from(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

fn keypair(seed: &Zeroizing<[u8; 32]>) -> Result<Keypair, NetError> {
    // libp2p zeroes the copy it is given; its own `Keypair` stays in memory as long as the swarm.
    let mut copy = Zeroizing::new(**seed);
    Keypair::ed25519_from_bytes(copy.as_mut_slice()).map_err(|_| NetError::NotDevice)
}

fn behaviour(
    key: PublicKey,
    relayed: relay::client::Behaviour,
    config: &NetConfig,
    known: &Known,
) -> io::Result<Behaviour> {
    let (limits, me) = (&config.limits, key.to_peer_id());
    let whom = config.reach.relay_for;
    let relays = whom != RelayFor::Nobody;
    let mdns = match config.reach.mdns {
        true => Some(mdns::tokio::Behaviour::new(mdns::Config::default(), me)?),
        false => None,
    };
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(connection_limits(limits)),
        guard: Guard::new(limits, known.clone(), Instant::now()),
        payload: payload::Behaviour::new(limits.stream_open_timeout),
        control: control(limits),
        identify: Heed::new(identify::Behaviour::new(identify_config(key, &config.agent)), known.clone())
            .only_direct(),
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(limits.ping_interval).with_timeout(limits.ping_interval),
        ),
        mdns: mdns.into(),
        relayed,
        relay: relays.then(|| relay_server(me, whom, known)).into(),
        reachable: autonat::v2::client::Behaviour::default(),
        reaching: relays.then(|| Heed::new(autonat::v2::server::Behaviour::default(), known.clone())).into(),
        punch: Heed::new(dcutr::Behaviour::new(me), known.clone()),
    })
}

/// A relay from the start: whether it can be reached is its operator's business, not a guess of others.
fn relay_server(me: PeerId, whom: RelayFor, known: &Known) -> relay::Behaviour {
    let mut relay = relay::Behaviour::new(me, relay_config(whom, known.clone()));
    relay.set_status(Some(relay::Status::Enable));
    relay
}

fn connection_limits(limits: &Limits) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.handshakes_in_max))
        .with_max_pending_outgoing(Some(limits.connections_pending_max))
        .with_max_established_incoming(Some(limits.connections_in_max))
        .with_max_established_outgoing(Some(limits.connections_out_max))
        .with_max_established(Some(limits.connections_in_max.saturating_add(limits.connections_out_max)))
        .with_max_established_per_peer(Some(limits.connections_per_peer_max))
}

fn control(limits: &Limits) -> request_response::Behaviour<BodyCodec> {
    let codec = BodyCodec {
        request_bytes_max: limits.request_bytes_max,
        response_bytes_max: limits.response_bytes_max,
        // A request that fits into no room would wait for ever.
        room: Arc::new(Semaphore::new(limits.requests_bytes_max.max(limits.request_bytes_max) as usize)),
    };
    // Ours and the peer's requests share this bound, and either side may fill its half.
    let streams_max = limits.requests_in_flight_per_peer_max.saturating_mul(2);
    let config = request_response::Config::default()
        .with_request_timeout(limits.request_timeout)
        .with_max_concurrent_streams(streams_max);
    request_response::Behaviour::with_codec(codec, [(CONTROL, ProtocolSupport::Full)], config)
}

/// Says the agent, the protocols, and to each peer where it is seen from here; keeps our listen addresses to ourselves
/// (a card says them to contacts) and remembers nobody's.
fn identify_config(key: PublicKey, agent: &str) -> identify::Config {
    identify::Config::new(VERSION.to_owned(), key)
        .with_agent_version(agent.to_owned())
        .with_hide_listen_addrs(true)
        .with_push_listen_addr_updates(false)
        .with_cache_size(0)
}

/// Yamux tunes its windows by itself, up to 1 GiB per connection that we really read (libp2p exposes no
/// lower cap); unread streams stay at 256 KiB.
fn yamux_config(limits: &Limits) -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(limits.streams_per_connection_max as usize);
    config
}

fn quic_config(mut quic: quic::Config, limits: &Limits) -> quic::Config {
    // Two missed signs of life end a connection, as with the pings that watch over TCP.
    let idle = limits.ping_interval.saturating_mul(2);
    quic.max_idle_timeout = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
    quic.keep_alive_interval = limits.ping_interval;
    quic.handshake_timeout = limits.connect_timeout;
    quic.max_concurrent_stream_limit = limits.streams_per_connection_max;
    quic.max_stream_data = limits.stream_window_bytes;
    quic.max_connection_data = limits.connection_window_bytes;
    quic
}

/// Smart dialling staggers the addresses of one call (`waves` chose them) and keeps the first that answers.
///
/// Streams are negotiated lazily: what is asked travels with the name of its protocol, and no round trip goes to hearing
/// that the other side speaks it. Each of our streams offers one protocol; one that is not spoken fails at its first read.
fn swarm_config(swarm: swarm::Config, limits: &Limits) -> swarm::Config {
    swarm
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_idle_connection_timeout(limits.idle_timeout)
        .with_max_negotiating_inbound_streams(limits.streams_per_connection_max as usize)
        .with_smart_dial()
}
