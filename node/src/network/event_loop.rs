//! The one task that owns the swarm.
//!
//! For: turning commands into swarm calls and swarm events into answers and `NetEvent`s. Local work first
//! (replies, commands, telling), peers last. Not for: waiting on anyone; every branch returns at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::request_response::{Event as Control, Message, OutboundRequestId, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, ping};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};

use super::behaviour::{Behaviour, BehaviourEvent};
use super::codec::Body;
use super::device::device_of;
use super::error::{dial_error, request_error, root_cause};
use super::known::Known;
use super::lines::{Lines, place_of};
use super::outbox::Outbox;
use super::payload::{Inbound, Open, Opened};
use super::rate::Bucket;
use super::reach::Reach;
use super::{DeviceKey, FrameStream, Limits, NetError, NetEvent, Reply, stream};

/// How often the loop looks after reservations and connections that are given up. 250 ms: seldom enough to cost nothing.
const PULSE: Duration = Duration::from_millis(250);

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
    /// Where others may find us, best first.
    Addresses {
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    /// Who is known from now on.
    Know {
        devices: HashSet<PeerId>,
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
    pub(super) swarm: Swarm<Behaviour>,
    listeners: Vec<ListenerId>,
    pub(super) limits: Limits,
    commands: mpsc::Receiver<Command>,
    pub(super) outbox: Outbox,
    pub(super) peers: HashMap<PeerId, Peer>,
    pub(super) known: Known,
    /// Where we can be found, and who is near.
    pub(super) reach: Reach,
    pulse: Interval,
    /// Dials in progress; bounded by the pending connections.
    dials: HashMap<ConnectionId, Dial>,
    /// Our requests in flight; bounded by each peer's slots and ended by the request timeout.
    asked: HashMap<OutboundRequestId, Asked>,
    /// Replies we owe; bounded by `replies_pending_max` and ended by the request timeout.
    owed: FuturesUnordered<BoxFuture<'static, Owed>>,
}

/// A peer with at least one connection.
pub(super) struct Peer {
    pub(super) device: DeviceKey,
    pub(super) lines: Lines,
    /// How often it may still ask.
    asks: Bucket,
    /// The same while it is known: it begins full, whatever was asked as a stranger.
    asks_known: Bucket,
    /// Its requests that wait for our reply.
    owed: usize,
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

/// A reply to a peer, or `None` if there will be none.
type Owed = (PeerId, ResponseChannel<Vec<u8>>, Option<Vec<u8>>);

impl EventLoop {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        listeners: Vec<ListenerId>,
        limits: Limits,
        (known, reach): (Known, Reach),
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<NetEvent>,
    ) -> Self {
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            known,
            reach,
            pulse,
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
                _ = self.pulse.tick() => self.on_pulse(Instant::now()),
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
            Command::Listeners { reply } => drop(reply.send(self.listening())),
            Command::Addresses { reply } => drop(reply.send(self.addresses())),
            Command::Know { devices } => self.know(devices),
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
                let body = Body { bytes: body, room: None };
                let id = self.swarm.behaviour_mut().control.send_request(&peer, body);
                self.asked.insert(id, Asked { reply, _slot: slot });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn open(&mut self, peer: PeerId, reply: Answer<Opened>) {
        let full = NetError::TooManyStreams { count_max: self.limits.streams_per_peer_max };
        let best = self.peers.get(&peer).and_then(|peer| peer.lines.best()).map(|line| line.id);
        match (self.slot(&peer, |peer| &peer.streams_out, full), best) {
            (Ok(slot), Some(line)) => {
                self.swarm.behaviour_mut().payload.open(peer, line, Open { slot, reply })
            }
            (Err(error), _) => drop(reply.send(Err(error))),
            (Ok(_), None) => drop(reply.send(Err(NetError::NotConnected))),
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
        let best = |peer: &Peer| Some((peer.device, peer.lines.best()?.address.clone()));
        self.peers.values().filter_map(best).collect()
    }

    /// Sends a reply; without one the dropped channel ends the asker's wait.
    fn pay(&mut self, (peer, channel, body): Owed) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.owed = peer.owed.saturating_sub(1);
        }
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
            SwarmEvent::NewListenAddr { listener_id, address } => self.on_address(listener_id, address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_address_gone(&address),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                self.on_listener_closed(listener_id, reason)
            }
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_reachable(address, true),
            SwarmEvent::ExternalAddrExpired { address } => self.on_reachable(address, false),
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
            event => self.on_reach(event),
        }
    }

    fn on_established(&mut self, peer_id: PeerId, connection: ConnectionId, endpoint: ConnectedPoint) {
        // The payload behaviour has already turned away every other kind of key.
        let Some(device) = device_of(&peer_id) else { return };
        let limits = &self.limits;
        let peer = self.peers.entry(peer_id).or_insert_with(|| Peer::new(device, limits));
        let before = peer.lines.best().map(|line| line.id);
        peer.lines.add(connection, &endpoint);
        let address = place_of(&endpoint);
        match before {
            None => {
                // A relay that is nobody's contact is not to be greeted: it need not know who we are.
                let dialled = endpoint.is_dialer() && !self.known.is_only_relay(&peer_id);
                self.outbox.tell(NetEvent::Connected { peer: device, address, dialled });
            }
            Some(_) if peer.lines.best().is_some_and(|line| line.id == connection) => {
                self.outbox.offer(NetEvent::Rerouted { peer: device, address });
            }
            Some(_) => {}
        }
        self.give_up_relayed(peer_id);
        for (_, dial) in self.dials.extract_if(|_, dial| dial.peer == peer_id) {
            let _ = dial.reply.send(Ok(()));
        }
    }

    fn on_closed(&mut self, peer_id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&peer_id) else {
            return;
        };
        peer.lines.remove(connection);
        if peer.lines.is_empty() {
            self.outbox.tell_disconnected(peer.device);
            self.peers.remove(&peer_id);
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, error: DialError) {
        if let Some(dial) = self.dials.remove(&connection) {
            let _ = dial.reply.send(Err(dial_error(error)));
        }
    }

    fn on_control(&mut self, event: Control<Body, Vec<u8>>) {
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

    /// A request without room, or beyond its asker's rate, is dropped, which its asker learns at once as `NoReply`.
    fn on_request(&mut self, peer_id: PeerId, body: Body, channel: ResponseChannel<Vec<u8>>) {
        if !self.may_ask(&peer_id) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&peer_id) else {
            return;
        };
        let (sender, receiver) = oneshot::channel();
        let Body { bytes, room: held } = body;
        let reply = Reply { sender, bytes_max: self.limits.response_bytes_max, _room: held };
        let room = self.owed.len() < self.limits.replies_pending_max;
        if room && self.outbox.offer(NetEvent::Request { peer: peer.device, body: bytes, reply }) {
            peer.owed += 1;
            let reply = tokio::time::timeout(self.limits.request_timeout, receiver);
            let owed = reply.map(move |body| (peer_id, channel, body.ok().and_then(Result::ok)));
            self.owed.push(owed.boxed());
        }
    }

    /// A stream without room is dropped unacknowledged, and its opener tries again.
    fn on_stream(&mut self, peer: PeerId, mut stream: libp2p::Stream) {
        if !self.may_ask(&peer) {
            return;
        }
        let Some(peer) = self.peers.get(&peer) else { return };
        let Ok(slot) = Arc::clone(&peer.streams_in).try_acquire_owned() else {
            return;
        };
        if self.outbox.has_room() && stream::say_ready(&mut stream) {
            let stream = FrameStream::new(stream, slot, self.limits.frame_bytes_max);
            self.outbox.offer(NetEvent::Stream { peer: peer.device, stream });
        }
    }

    /// Takes one of a peer's asks. A stranger that goes on beyond its rate is sent away: it costs more than it is worth.
    fn may_ask(&mut self, peer_id: &PeerId) -> bool {
        let Some(peer) = self.peers.get_mut(peer_id) else { return false };
        let is_known = self.known.contains(peer_id);
        let (bucket, rate) = match is_known {
            true => (&mut peer.asks_known, self.limits.asks_of_known),
            false => (&mut peer.asks, self.limits.asks_of_strangers),
        };
        let may = bucket.take(rate, Instant::now());
        if !may && !is_known {
            tracing::debug!("a stranger asked too often");
            let _ = self.swarm.disconnect_peer_id(*peer_id);
        }
        may
    }
}

impl Peer {
    fn new(device: DeviceKey, limits: &Limits) -> Self {
        Self {
            device,
            lines: Lines::default(),
            asks: Bucket::new(limits.asks_of_strangers, Instant::now()),
            asks_known: Bucket::new(limits.asks_of_known, Instant::now()),
            owed: 0,
            requests: Arc::new(Semaphore::new(limits.requests_in_flight_per_peer_max)),
            streams_in: Arc::new(Semaphore::new(limits.streams_per_peer_max)),
            streams_out: Arc::new(Semaphore::new(limits.streams_per_peer_max)),
            leaving: Vec::new(),
        }
    }

    /// Whether nothing is under way with it.
    pub(super) fn is_quiet(&self, limits: &Limits) -> bool {
        let is_free = |slots: &Semaphore, most| slots.available_permits() >= most;
        self.owed == 0
            && is_free(&self.requests, limits.requests_in_flight_per_peer_max)
            && is_free(&self.streams_in, limits.streams_per_peer_max)
            && is_free(&self.streams_out, limits.streams_per_peer_max)
    }
}
