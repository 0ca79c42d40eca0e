//! What can go wrong in the network room, in words a person can use.
//!
//! For: one enum callers can match, and the translation of libp2p's errors into it. Not for: deciding what
//! to do about them.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::core::transport::TransportError;
use libp2p::core::upgrade::NegotiationError;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::OutboundFailure;
use libp2p::swarm::DialError;

use super::codec::BodyError;

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// `start` was called outside a tokio runtime.
    #[error("the network needs a tokio runtime to run on")]
    NoRuntime,
    /// A transport could not be set up.
    #[error("could not set up the network: {reason}")]
    Start {
        /// In the words of the operating system.
        reason: String,
    },
    /// An address could not be listened on.
    #[error("could not listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// In the words of the operating system.
        reason: String,
    },
    /// No address of a relay.
    #[error(
        "expected a relay's address with its device, such as /ip4/192.0.2.9/tcp/443/p2p/12D3KooW…, got {address}"
    )]
    NotRelay {
        /// The address.
        address: Multiaddr,
    },
    /// The network has shut down.
    #[error("the network has shut down")]
    Closed,
    /// The bytes are no ed25519 key.
    #[error("device key is not a valid ed25519 key")]
    NotDevice,
    /// There is no connection to this peer.
    #[error("not connected to this peer")]
    NotConnected,
    /// No address to try, or only our own.
    #[error("no address to reach this peer at")]
    NoAddresses,
    /// More addresses than we try.
    #[error("{count} addresses given, at most {count_max} are tried")]
    TooManyAddresses {
        /// Given.
        count: usize,
        /// Allowed.
        count_max: usize,
    },
    /// No address answered.
    #[error("peer is unreachable: {}", list(failures))]
    Unreachable {
        /// Why, for each address.
        failures: Vec<AddressFailure>,
    },
    /// Another device answered at this address.
    #[error("another device answered at {address}")]
    WrongPeer {
        /// The address.
        address: Multiaddr,
    },
    /// Our own limits forbid the connection.
    #[error("connection refused by our own limits: {reason}")]
    Denied {
        /// Which limit.
        reason: String,
    },
    /// The connection ended before the answer came.
    #[error("connection to the peer was lost")]
    ConnectionLost,
    /// The peer does not speak our protocol.
    #[error("peer does not speak this protocol")]
    Unsupported,
    /// A request body over the limit; nothing was sent.
    #[error("request has {bytes} bytes, at most {bytes_max} are allowed")]
    RequestTooLarge {
        /// Had.
        bytes: u64,
        /// Allowed.
        bytes_max: u32,
    },
    /// A response body over the limit, ours or the peer's.
    #[error("response has {bytes} bytes, at most {bytes_max} are allowed")]
    ResponseTooLarge {
        /// Had.
        bytes: u64,
        /// Allowed.
        bytes_max: u32,
    },
    /// Too many of our requests to this peer wait for an answer.
    #[error("{count_max} requests to this peer are already waiting")]
    TooManyRequests {
        /// Allowed.
        count_max: usize,
    },
    /// No answer in time.
    #[error("no answer within {} s", after.as_secs())]
    RequestTimeout {
        /// How long we waited.
        after: Duration,
    },
    /// The peer dropped the request: it would not, or had no room.
    #[error("peer ended the request without a reply")]
    NoReply,
    /// The asker of a request is gone.
    #[error("the asker no longer waits for this reply")]
    AskerGone,
    /// Too many of our streams to this peer are open.
    #[error("{count_max} streams to this peer are already open")]
    TooManyStreams {
        /// Allowed.
        count_max: usize,
    },
    /// The peer did not take the stream, in any of our tries.
    #[error("peer has no room for another stream")]
    StreamRefused,
    /// The stream was not taken in time.
    #[error("peer did not take the stream in time")]
    StreamTimeout,
    /// The stream ended without its end mark.
    #[error("stream was cut before its end")]
    StreamCut,
    /// A frame over the limit, ours or the peer's.
    #[error("frame has {bytes} bytes, at most {bytes_max} are allowed")]
    FrameTooLarge {
        /// Had.
        bytes: u64,
        /// Allowed.
        bytes_max: u32,
    },
    /// Reading or writing failed.
    #[error("connection failed: {reason}")]
    Io {
        /// In the words of the transport.
        reason: String,
    },
}

/// One address that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressFailure {
    /// The address.
    pub address: Multiaddr,
    /// Why, in a few words.
    pub reason: String,
}

impl NetError {
    /// Streams are negotiated lazily, so one whose protocol the other side does not speak says so when it is first read.
    pub(crate) fn io(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(NegotiationError::Failed) => Self::Unsupported,
            _ => Self::Io { reason: root_cause(&error) },
        }
    }
}

impl fmt::Display for AddressFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.reason)
    }
}

fn list(failures: &[AddressFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Without the peer's name, which libp2p appends to every address it dials.
pub(crate) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

pub(crate) fn dial_error(error: DialError) -> NetError {
    match error {
        DialError::NoAddresses => NetError::NoAddresses,
        DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } => {
            NetError::WrongPeer { address: without_peer(address) }
        }
        DialError::Denied { cause } => NetError::Denied { reason: root_cause(&cause) },
        DialError::Transport(failures) => {
            let failures = failures.into_iter().map(|(address, error)| address_failure(address, &error));
            NetError::Unreachable { failures: failures.collect() }
        }
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => NetError::Closed,
    }
}

fn address_failure(address: Multiaddr, error: &TransportError<io::Error>) -> AddressFailure {
    let reason = match error {
        TransportError::MultiaddrNotSupported(_) => "this kind of address is not supported".to_owned(),
        TransportError::Other(error) => root_cause(error),
    };
    AddressFailure { address: without_peer(address), reason }
}

pub(crate) fn request_error(error: OutboundFailure, after: Duration) -> NetError {
    match error {
        OutboundFailure::Timeout => NetError::RequestTimeout { after },
        OutboundFailure::UnsupportedProtocols => NetError::Unsupported,
        OutboundFailure::DialFailure => NetError::NotConnected,
        OutboundFailure::ConnectionClosed => NetError::ConnectionLost,
        OutboundFailure::Io(error) => body_error(error),
    }
}

fn body_error(error: io::Error) -> NetError {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(&BodyError::TooLarge { bytes, bytes_max }) => NetError::ResponseTooLarge { bytes, bytes_max },
        _ if error.kind() == io::ErrorKind::UnexpectedEof => NetError::NoReply,
        _ => NetError::io(error),
    }
}

/// The innermost cause, as one line: libp2p wraps a refused connection in up to six layers of the same words,
/// and writes some of them as a list.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().lines().last().unwrap_or_default().trim_start_matches([' ', '-']).to_owned()
}
