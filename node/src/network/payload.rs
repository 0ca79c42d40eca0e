//! The payload protocol as a libp2p behaviour: opens substreams, hands over those of others.
//!
//! For: exactly the streams that were opened, none lost. `libp2p-stream` (0.5.0-alpha) drops inbound streams
//! when its acceptor is busy and keeps a channel of every connection that ever was; here an inbound stream is
//! an event with the swarm's own back-pressure, and nothing outlives its connection. It also turns away
//! peers whose key is not ed25519. Not for: accepting or refusing a stream (the event loop does).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandlerEvent, DialUpgradeError, FullyNegotiatedInbound,
    FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
    StreamUpgradeError, SubstreamProtocol, THandlerInEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::OwnedSemaphorePermit;

use super::NetError;
use super::device::device_of;
use super::event_loop::Answer;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/karte/payload/1");

/// A stream we opened, with the slot it occupies.
pub(crate) type Opened = (Stream, OwnedSemaphorePermit);

/// The order to open one stream.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) slot: OwnedSemaphorePermit,
    pub(crate) reply: Answer<Opened>,
}

/// A stream a peer opened.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) peer: PeerId,
    pub(crate) stream: Stream,
}

/// The behaviour. Its queue holds what was ordered since the swarm last asked.
pub(crate) struct Behaviour {
    open_timeout: Duration,
    queue: VecDeque<ToSwarm<Inbound, Open>>,
}

#[derive(Debug, thiserror::Error)]
#[error("peer's key is not ed25519")]
struct NotEd25519;

impl Behaviour {
    pub(crate) fn new(open_timeout: Duration) -> Self {
        Self { open_timeout, queue: VecDeque::new() }
    }

    /// Opens a stream over one connection of a peer; the answer comes over `open.reply`, which is dropped if the
    /// connection ends first.
    pub(crate) fn open(&mut self, peer_id: PeerId, line: ConnectionId, open: Open) {
        let handler = NotifyHandler::One(line);
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: open });
    }

    fn welcome(&self, peer: &PeerId) -> Result<Handler, ConnectionDenied> {
        device_of(peer).ok_or_else(|| ConnectionDenied::new(NotEd25519))?;
        Ok(Handler { open_timeout: self.open_timeout, orders: VecDeque::new(), arrived: VecDeque::new() })
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Inbound;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.welcome(&peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.welcome(&peer)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, stream: Stream) {
        self.queue.push_back(ToSwarm::GenerateEvent(Inbound { peer, stream }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Inbound, THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's part: orders to open, and streams that arrived. Both are bounded by the stream slots
/// of a peer and the muxer's stream limit.
pub(crate) struct Handler {
    open_timeout: Duration,
    orders: VecDeque<Open>,
    arrived: VecDeque<Stream>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Stream;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()).with_timeout(self.open_timeout)
    }

    fn connection_keep_alive(&self) -> bool {
        !self.orders.is_empty()
    }

    fn on_behaviour_event(&mut self, open: Open) {
        self.orders.push_back(open);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Open, Stream>> {
        if let Some(stream) = self.arrived.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        let Some(open) = self.orders.pop_front() else {
            return Poll::Pending;
        };
        let protocol =
            SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), open).with_timeout(self.open_timeout);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Open>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.arrived.push_back(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                // A caller that stopped waiting drops the stream here, and its slot with it.
                let _ = info.reply.send(Ok((protocol, info.slot)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let _ = info.reply.send(Err(open_error(error)));
            }
            _ => {}
        }
    }
}

fn open_error(error: StreamUpgradeError<Infallible>) -> NetError {
    match error {
        StreamUpgradeError::Timeout => NetError::StreamTimeout,
        StreamUpgradeError::NegotiationFailed => NetError::Unsupported,
        StreamUpgradeError::Io(error) => NetError::io(error),
        StreamUpgradeError::Apply(never) => match never {},
    }
}
