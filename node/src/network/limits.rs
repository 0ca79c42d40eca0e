//! Every bound of the network room, with its unit and its reason.
//!
//! For: one place where a reader sees what a remote may cost us. libp2p's own defaults limit little or
//! nothing, so nothing is left to them. Not for: rules about who may ask for what (that is consent's work).

use std::time::Duration;

use super::rate::Rate;

/// What peers, known or unknown, may take from this node.
///
/// The worst case an unknown crowd can hold in memory is about `strangers_in_max * connection_window_bytes` and
/// `requests_bytes_max` (320 MiB by default), and only by really sending it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Established connections others opened to us. 256: the patients of a clinic who are awake at once.
    pub connections_in_max: u32,
    /// Of these, by devices that the node does not know. 32: newcomers knock and leave; all other slots are for known
    /// devices.
    pub strangers_in_max: usize,
    /// Handshakes in progress that others began. 128: each holds some 50 KiB, and a stalled one its slot for
    /// `connect_timeout`.
    pub handshakes_in_max: u32,
    /// Of these, from one IPv4 address or IPv6 network of 64 bits. 32: many may sit behind one NAT.
    pub handshakes_per_prefix_max: usize,
    /// New connections from others, of all together. 400, then 200 a second: a handshake costs about a millisecond.
    pub arrivals: Rate,
    /// New connections from one address. 128, then 16 a second: a hospital behind one NAT comes back after a cut.
    pub arrivals_per_prefix: Rate,
    /// Requests and streams of one known device. 4,000, then 2,000 a second: far above what the fastest sync asks.
    pub asks_of_known: Rate,
    /// Requests and streams of one stranger. 40, then 10 a second: it may knock, join and ask again.
    pub asks_of_strangers: Rate,
    /// Established connections we opened. 64: all contacts of one person.
    pub connections_out_max: u32,
    /// Connections to one peer. 16: two when both dial at once, and a peer that crashes again and again comes back
    /// before its dead ones have timed out (seen with 4: it was refused).
    pub connections_per_peer_max: u32,
    /// Calls of ours in progress. 32: a handshake costs a signature, so few at a time.
    pub connections_pending_max: u32,
    /// Streams of all kinds on one connection. 256: far above what an honest peer opens at once, because
    /// yamux ends the whole connection of a peer that passes it.
    pub streams_per_connection_max: u32,
    /// Payload streams open with one peer, each way. 32: transfers are long and few.
    pub streams_per_peer_max: usize,
    /// Unread bytes on one QUIC stream. 4 MiB: 40 MB/s at 100 ms of latency.
    pub stream_window_bytes: u32,
    /// Unread bytes on one QUIC connection. 8 MiB: two streams at full speed.
    pub connection_window_bytes: u32,
    /// Our unanswered requests to one peer. 16: sync asks a handful at a time.
    pub requests_in_flight_per_peer_max: usize,
    /// Requests of all peers waiting for our reply. 256: each may hold `request_bytes_max`.
    pub replies_pending_max: usize,
    /// Bytes of all requests being read or answered, beyond the first 16 KiB of each. 64 MiB: 64 of the largest at
    /// once; who comes later waits within `request_timeout`.
    pub requests_bytes_max: u32,
    /// Bytes of one request. 1 MiB: control messages are small, payloads take streams.
    pub request_bytes_max: u32,
    /// Bytes of one response. 1 MiB, as above.
    pub response_bytes_max: u32,
    /// Bytes of one frame on a payload stream. 2 MiB: a sealed 1 MiB record and its proof.
    pub frame_bytes_max: u32,
    /// Addresses tried in one `connect`. 16: a card names a few, per network and transport.
    pub addresses_per_dial_max: usize,
    /// Commands waiting for the event loop. 64: callers then wait their turn.
    pub commands_queue_max: usize,
    /// Events waiting for their reader. 256: beyond it requests and streams are refused.
    pub events_queue_max: usize,
    /// Tries to open one stream while the peer has no room for it. 5: together about 300 ms.
    pub stream_open_attempts_max: u32,
    /// One transport handshake. 10 s: a slow mobile link.
    pub connect_timeout: Duration,
    /// A request from first byte to whole reply, on both sides. 20 s: 1 MiB at 400 kbit/s.
    pub request_timeout: Duration,
    /// Negotiation of one stream, and the wait for its acceptance. 5 s: two slow round trips.
    pub stream_open_timeout: Duration,
    /// A connection without streams and requests is closed after this. 120 s: reconnecting is cheap.
    pub idle_timeout: Duration,
    /// Pause between pings; a peer that misses one for as long again is gone. 5 s: a dead connection must not hide
    /// a live one for long.
    pub ping_interval: Duration,
    /// How long a relayed connection stays beside a direct one: at least this, so that the other side has it too, and
    /// `relayed_stay_max` at most, when it is never quiet. 1 s and 10 s: what is cut then goes on over the direct one.
    pub relayed_stay_min: Duration,
    /// See `relayed_stay_min`.
    pub relayed_stay_max: Duration,
    /// Closing connections in an orderly way. 2 s: then they are dropped.
    pub shutdown_timeout: Duration,
}

/// One mebibyte, in bytes.
const MIB: u32 = 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_in_max: 256,
            strangers_in_max: 32,
            handshakes_in_max: 128,
            handshakes_per_prefix_max: 32,
            arrivals: Rate { burst: 400, per_second: 200 },
            arrivals_per_prefix: Rate { burst: 128, per_second: 16 },
            asks_of_known: Rate { burst: 4_000, per_second: 2_000 },
            asks_of_strangers: Rate { burst: 40, per_second: 10 },
            connections_out_max: 64,
            connections_per_peer_max: 16,
            connections_pending_max: 32,
            streams_per_connection_max: 256,
            streams_per_peer_max: 32,
            stream_window_bytes: 4 * MIB,
            connection_window_bytes: 8 * MIB,
            requests_in_flight_per_peer_max: 16,
            replies_pending_max: 256,
            requests_bytes_max: 64 * MIB,
            request_bytes_max: MIB,
            response_bytes_max: MIB,
            frame_bytes_max: 2 * MIB,
            addresses_per_dial_max: 16,
            commands_queue_max: 64,
            events_queue_max: 256,
            stream_open_attempts_max: 5,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(20),
            stream_open_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(120),
            ping_interval: Duration::from_secs(5),
            relayed_stay_min: Duration::from_secs(1),
            relayed_stay_max: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// The same for a node that relays for others: callers of circuits are strangers to it, and each reservation is a
    /// connection.
    pub fn of_relay() -> Self {
        Self {
            connections_in_max: 512,
            strangers_in_max: 128,
            // It calls back those who ask whether they can be called.
            connections_pending_max: 128,
            // AutoNAT takes no answer after 10 s, and would ask again and again.
            connect_timeout: Duration::from_secs(8),
            ..Self::default()
        }
    }
}
