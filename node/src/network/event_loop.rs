//! The one task that owns the swarm.
//!
//! For: turning commands into swarm calls and swarm events into answers and `NetEvent`s. Local work first
//! (replies, commands, telling), peers last. Not for: waiting on anyone; every branch returns at once.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::request_response::{Event as Control, Message, OutboundRequestId, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, ping};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::behaviour::{Behaviour, BehaviourEvent};
use super::device::device_of;
use super::error::{dial_error, request_error, root_cause};
use super::outbox::Outbox;
use super::payload::{Inbound, Open, Opened};
use super::{DeviceKey, FrameStream, Limits, NetError, NetEvent, Reply, stream};

/// Where the result of a command goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, NetError>>;

/// What a handle asks of the loop. A caller that stopped waiting has dropped the other end of `reply`.
pub(crate) enum Command {
    Connect {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        reply: Answer<()>,
    },
    Request {
        peer: PeerId,
        body: Vec<u8>,
        reply: Answer<Vec<u8>>,
    },
    Open {
        peer: PeerId,
        reply: Answer<Opened>,
    },
    /// `done` is dropped when the last connection is closed.
    Disconnect {
        peer: PeerId,
        done: oneshot::Sender<()>,
    },
    Listeners {
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    Connected {
        reply: oneshot::Sender<Vec<(DeviceKey, Multiaddr)>>,
    },
    /// `done` is dropped when the task has ended.
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

pub(crate) struct EventLoop {
    swarm: Swarm<Behaviour>,
    listeners: Vec<ListenerId>,
    limits: Limits,
    commands: mpsc::Receiver<Command>,
    outbox: Outbox,
    peers: HashMap<PeerId, Peer>,
    /// Dials in progress; bounded by the pending connections.
    dials: HashMap<ConnectionId, Dial>,
    /// Our requests in flight; bounded by each peer's slots and ended by the request timeout.
    asked: HashMap<OutboundRequestId, Asked>,
    /// Replies we owe; bounded by `replies_pending_max` and ended by the request timeout.
    owed: FuturesUnordered<BoxFuture<'static, Owed>>,
}

/// A peer with at least one connection.
struct Peer {
    device: DeviceKey,
    connections: Vec<(ConnectionId, Multiaddr)>,
    requests: Arc<Semaphore>,
    streams_in: Arc<Semaphore>,
    streams_out: Arc<Semaphore>,
    /// Dropped with the peer, which tells those who asked for the disconnection.
    leaving: Vec<oneshot::Sender<()>>,
}

struct Dial {
    peer: PeerId,
    reply: Answer<()>,
}

struct Asked {
    reply: Answer<Vec<u8>>,
    _slot: OwnedSemaphorePermit,
}

/// A reply, or `None` if there will be none.
type Owed = (ResponseChannel<Vec<u8>>, Option<Vec<u8>>);

impl EventLoop {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        listeners: Vec<ListenerId>,
        limits: Limits,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<NetEvent>,
    ) -> Self {
        Self {
            swarm,
            listeners,
            limits,
            commands,
            outbox: Outbox::new(events),
            peers: HashMap::new(),
            dials: HashMap::new(),
            asked: HashMap::new(),
            owed: FuturesUnordered::new(),
        }
    }

    /// Runs until `Shutdown` or until the last handle is dropped.
    pub(crate) async fn run(mut self) {
        let done = loop {
            tokio::select! {
                biased;
                Some(owed) = self.owed.next() => self.pay(owed),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { done }) => break Some(done),
                    Some(command) => self.obey(command),
                    None => break None,
                },
                () = self.outbox.flush_one(), if self.outbox.is_waiting() => {}
                event = self.swarm.select_next_some() => self.on_swarm(event),
            }
        };
        self.shut_down().await;
        drop(done);
    }

    /// Listeners first, so that nobody new comes; then the connections, each said goodbye; then, with
    /// `self`, the swarm, whatever did not close in time, and every waiting caller's reply (`Closed`).
    async fn shut_down(mut self) {
        for listener in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        self.dials.clear();
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let timeout = self.limits.shutdown_timeout;
        let all_closed = async {
            while !self.peers.is_empty() {
                let event = self.swarm.select_next_some().await;
                self.on_swarm(event);
            }
        };
        if tokio::time::timeout(timeout, all_closed).await.is_err() {
            tracing::debug!(peers = self.peers.len(), "connections dropped at shutdown");
        }
        self.outbox.flush_now();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Connect { peer, addresses, reply } => self.connect(peer, addresses, reply),
            Command::Request { peer, body, reply } => self.request(peer, body, reply),
            Command::Open { peer, reply } => self.open(peer, reply),
            Command::Disconnect { peer, done } => self.disconnect(peer, done),
            Command::Listeners { reply } => drop(reply.send(self.swarm.listeners().cloned().collect())),
            Command::Connected { reply } => drop(reply.send(self.connected())),
            // `run` takes it out before.
            Command::Shutdown { .. } => {}
        }
    }

    fn connect(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, reply: Answer<()>) {
        let dial = DialOpts::peer_id(peer)
            .addresses(addresses)
            .condition(PeerCondition::Disconnected)
            // Calling from the port we listen on, two nodes that call each other at once meet in one TCP
            // connection where both believe to be the caller, and both give up (21 of 60 on loopback).
            .allocate_new_port()
            .build();
        let connection = dial.connection_id();
        match self.swarm.dial(dial) {
            Ok(()) => drop(self.dials.insert(connection, Dial { peer, reply })),
            Err(DialError::DialPeerConditionFalse(_)) => drop(reply.send(Ok(()))),
            Err(error) => drop(reply.send(Err(dial_error(error)))),
        }
    }

    fn request(&mut self, peer: PeerId, body: Vec<u8>, reply: Answer<Vec<u8>>) {
        let full = NetError::TooManyRequests { count_max: self.limits.requests_in_flight_per_peer_max };
        match self.slot(&peer, |peer| &peer.requests, full) {
            Ok(slot) => {
                let id = self.swarm.behaviour_mut().control.send_request(&peer, body);
                self.asked.insert(id, Asked { reply, _slot: slot });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn open(&mut self, peer: PeerId, reply: Answer<Opened>) {
        let full = NetError::TooManyStreams { count_max: self.limits.streams_per_peer_max };
        match self.slot(&peer, |peer| &peer.streams_out, full) {
            Ok(slot) => self.swarm.behaviour_mut().payload.open(peer, Open { slot, reply }),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// One of a connected peer's slots.
    fn slot(
        &self,
        peer: &PeerId,
        slots: fn(&Peer) -> &Arc<Semaphore>,
        full: NetError,
    ) -> Result<OwnedSemaphorePermit, NetError> {
        let peer = self.peers.get(peer).ok_or(NetError::NotConnected)?;
        Arc::clone(slots(peer)).try_acquire_owned().map_err(|_| full)
    }

    fn disconnect(&mut self, peer: PeerId, done: oneshot::Sender<()>) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.leaving.retain(|done| !done.is_closed());
            known.leaving.push(done);
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn connected(&self) -> Vec<(DeviceKey, Multiaddr)> {
        let first = |peer: &Peer| Some((peer.device, peer.connections.first()?.1.clone()));
        self.peers.values().filter_map(first).collect()
    }

    /// Sends a reply; without one the dropped channel ends the asker's wait.
    fn pay(&mut self, (channel, body): Owed) {
        let Some(body) = body else { return };
        let sent = self.swarm.behaviour_mut().control.send_response(channel, body);
        if sent.is_err() {
            tracing::debug!("a reply came after its asker had gone");
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.on_closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(reason = root_cause(&error), "inbound connection refused");
            }
            SwarmEvent::NewListenAddr { address, .. } => self.outbox.tell(NetEvent::Listening(address)),
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => {
                tracing::warn!(reason = root_cause(&error), "a listener closed");
            }
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Payload(Inbound { peer, stream }) => self.on_stream(peer, stream),
            BehaviourEvent::Control(event) => self.on_control(event),
            BehaviourEvent::Ping(ping::Event {
                connection,
                result: Err(ping::Failure::Timeout | ping::Failure::Other { .. }),
                ..
            }) => drop(self.swarm.close_connection(connection)),
            _ => {}
        }
    }

    fn on_established(&mut self, peer_id: PeerId, connection: ConnectionId, endpoint: ConnectedPoint) {
        // The payload behaviour has already turned away every other kind of key.
        let Some(device) = device_of(&peer_id) else { return };
        let address = endpoint.get_remote_address().clone();
        let limits = &self.limits;
        let peer = self.peers.entry(peer_id).or_insert_with(|| Peer::new(device, limits));
        peer.connections.push((connection, address.clone()));
        if peer.connections.len() == 1 {
            let dialled = endpoint.is_dialer();
            self.outbox.tell(NetEvent::Connected { peer: device, address, dialled });
        }
        for (_, dial) in self.dials.extract_if(|_, dial| dial.peer == peer_id) {
            let _ = dial.reply.send(Ok(()));
        }
    }

    fn on_closed(&mut self, peer_id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&peer_id) else {
            return;
        };
        peer.connections.retain(|(id, _)| *id != connection);
        if peer.connections.is_empty() {
            self.outbox.tell_disconnected(peer.device);
            self.peers.remove(&peer_id);
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, error: DialError) {
        if let Some(dial) = self.dials.remove(&connection) {
            let _ = dial.reply.send(Err(dial_error(error)));
        }
    }

    fn on_control(&mut self, event: Control<Vec<u8>, Vec<u8>>) {
        match event {
            Control::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.on_request(peer, request, channel);
            }
            Control::Message { message: Message::Response { request_id, response }, .. } => {
                self.on_answer(request_id, Ok(response));
            }
            Control::OutboundFailure { request_id, error, .. } => {
                let error = request_error(error, self.limits.request_timeout);
                self.on_answer(request_id, Err(error));
            }
            Control::InboundFailure { error, .. } => {
                tracing::debug!(reason = root_cause(&error), "a peer's request failed");
            }
            Control::ResponseSent { .. } => {}
        }
    }

    fn on_answer(&mut self, id: OutboundRequestId, answer: Result<Vec<u8>, NetError>) {
        if let Some(asked) = self.asked.remove(&id) {
            let _ = asked.reply.send(answer);
        }
    }

    /// A request without room is dropped, which its asker learns at once as `NoReply`.
    fn on_request(&mut self, peer: PeerId, body: Vec<u8>, channel: ResponseChannel<Vec<u8>>) {
        let Some(peer) = self.peers.get(&peer).map(|peer| peer.device) else {
            return;
        };
        let (sender, receiver) = oneshot::channel();
        let reply = Reply { sender, bytes_max: self.limits.response_bytes_max };
        let room = self.owed.len() < self.limits.replies_pending_max;
        if room && self.outbox.offer(NetEvent::Request { peer, body, reply }) {
            let reply = tokio::time::timeout(self.limits.request_timeout, receiver);
            let owed = reply.map(|body| (channel, body.ok().and_then(Result::ok)));
            self.owed.push(owed.boxed());
        }
    }

    /// A stream without room is dropped unacknowledged, and its opener tries again.
    fn on_stream(&mut self, peer: PeerId, mut stream: libp2p::Stream) {
        let Some(peer) = self.peers.get(&peer) else { return };
        let Ok(slot) = Arc::clone(&peer.streams_in).try_acquire_owned() else {
            return;
        };
        if self.outbox.has_room() && stream::say_ready(&mut stream) {
            let stream = FrameStream::new(stream, slot, self.limits.frame_bytes_max);
            self.outbox.offer(NetEvent::Stream { peer: peer.device, stream });
        }
    }
}

impl Peer {
    fn new(device: DeviceKey, limits: &Limits) -> Self {
        Self {
            device,
            connections: Vec::new(),
            requests: Arc::new(Semaphore::new(limits.requests_in_flight_per_peer_max)),
            streams_in: Arc::new(Semaphore::new(limits.streams_per_peer_max)),
            streams_out: Arc::new(Semaphore::new(limits.streams_per_peer_max)),
            leaving: Vec::new(),
        }
    }
}
