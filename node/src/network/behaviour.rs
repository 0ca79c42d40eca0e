//! The swarm of Karte: transports and protocols, every option spelled out.
//!
//! For: what we speak and how much of it. Not for: reacting to it (see `event_loop`).

use std::error::Error;
use std::io;
use std::net::{IpAddr, TcpListener};

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::transport::ListenerId;
use libp2p::identity::{Keypair, PublicKey};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, SwarmBuilder, identify, noise, ping, quic, swarm, tcp, yamux,
};
use zeroize::Zeroizing;

use super::codec::BodyCodec;
use super::error::root_cause;
use super::{Limits, NetConfig, NetError, payload};

const CONTROL: StreamProtocol = StreamProtocol::new("/karte/control/1");
const VERSION: &str = "karte/1";

/// The protocols. `limits` stands first: what it denies never reaches the others.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(crate) payload: payload::Behaviour,
    pub(crate) control: request_response::Behaviour<BodyCodec>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// The swarm, not yet listening.
pub(crate) fn build_swarm(config: &NetConfig) -> Result<Swarm<Behaviour>, NetError> {
    let limits = &config.limits;
    let builder = SwarmBuilder::with_existing_identity(keypair(&config.key)?)
        .with_tokio()
        .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, || yamux_config(limits))
        .map_err(|error| NetError::Start { reason: error.to_string() })?
        .with_quic_config(|quic| quic_config(quic, limits))
        .with_dns()
        .map_err(|error| NetError::Start { reason: error.to_string() })?;
    let Ok(builder) = builder.with_behaviour(|key| behaviour(key.public(), config));
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

fn behaviour(key: PublicKey, config: &NetConfig) -> Behaviour {
    let limits = &config.limits;
    Behaviour {
        limits: connection_limits::Behaviour::new(connection_limits(limits)),
        payload: payload::Behaviour::new(limits.stream_open_timeout),
        control: control(limits),
        identify: identify::Behaviour::new(identify_config(key, &config.agent)),
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(limits.ping_interval).with_timeout(limits.ping_interval),
        ),
    }
}

fn connection_limits(limits: &Limits) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.connections_pending_max))
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
    };
    // Ours and the peer's requests share this bound, and either side may fill its half.
    let streams_max = limits.requests_in_flight_per_peer_max.saturating_mul(2);
    let config = request_response::Config::default()
        .with_request_timeout(limits.request_timeout)
        .with_max_concurrent_streams(streams_max);
    request_response::Behaviour::with_codec(codec, [(CONTROL, ProtocolSupport::Full)], config)
}

/// Says the agent and the protocols; keeps our listen addresses to ourselves and remembers nobody's.
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
fn swarm_config(swarm: swarm::Config, limits: &Limits) -> swarm::Config {
    swarm
        .with_idle_connection_timeout(limits.idle_timeout)
        .with_max_negotiating_inbound_streams(limits.streams_per_connection_max as usize)
        .with_smart_dial()
}
