//! A behaviour that listens to known devices only.
//!
//! For: identify, AutoNAT's server and DCUtR take addresses from whoever speaks; a stranger could make us call them,
//! or fill their lists. What a stranger's connection tells the behaviour inside waits a little, in case it becomes
//! known: a new contact greets first. Then it is dropped; answers that need no decision (our own identify) still go
//! out. Not for: refusing connections (see `guard`).

use std::collections::{HashSet, VecDeque};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure, FromSwarm, ListenFailure,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

use super::known::Known;
use super::waves::is_relayed;

/// How long a stranger's word waits. 8 s: as long as the other side of a hole punch goes on trying.
const WAITS: Duration = Duration::from_secs(8);
/// Words that wait. 64: two of each stranger that has a slot.
const WAITING_MAX: usize = 64;

/// `inner`, deaf to strangers.
pub(crate) struct Heed<B: NetworkBehaviour> {
    inner: B,
    known: Known,
    /// Whether it must hear nothing that came over a relay: what is seen there is the relay's address.
    only_direct: bool,
    relayed: HashSet<ConnectionId>,
    waiting: VecDeque<Word<B>>,
}

/// What a stranger's connection told.
struct Word<B: NetworkBehaviour> {
    peer: PeerId,
    connection: ConnectionId,
    event: THandlerOutEvent<B>,
    came: Instant,
}

impl<B: NetworkBehaviour> Heed<B> {
    pub(crate) fn new(inner: B, known: Known) -> Self {
        let (relayed, waiting) = (HashSet::new(), VecDeque::new());
        Self { inner, known, only_direct: false, relayed, waiting }
    }

    /// Hears only what came over direct connections.
    pub(crate) fn only_direct(self) -> Self {
        Self { only_direct: true, ..self }
    }

    fn note(&mut self, connection: ConnectionId, address: &Multiaddr) {
        if is_relayed(address) {
            self.relayed.insert(connection);
        }
    }

    /// Hands on what was said by who is known by now; forgets what is too old.
    fn hear_waiting(&mut self, now: Instant) {
        for _ in 0..self.waiting.len() {
            let Some(word) = self.waiting.pop_front() else { return };
            if self.known.contains(&word.peer) {
                self.inner.on_connection_handler_event(word.peer, word.connection, word.event);
            } else if now.saturating_duration_since(word.came) < WAITS {
                self.waiting.push_back(word);
            }
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Heed<B> {
    type ConnectionHandler = THandler<B>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<B>, ConnectionDenied> {
        self.note(connection, local);
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<B>, ConnectionDenied> {
        self.note(connection, address);
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) = event {
            self.relayed.remove(&connection_id);
            self.waiting.retain(|word| word.connection != connection_id);
        }
        if let FromSwarm::ListenFailure(ListenFailure { connection_id, .. })
        | FromSwarm::DialFailure(DialFailure { connection_id, .. }) = event
        {
            self.relayed.remove(&connection_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if self.only_direct && self.relayed.contains(&connection) {
            return;
        }
        if self.known.contains(&peer) {
            self.inner.on_connection_handler_event(peer, connection, event);
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(Word { peer, connection, event, came: Instant::now() });
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Asked at least with every pulse of the event loop.
        self.hear_waiting(Instant::now());
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;
    use libp2p::ping;

    use super::*;

    /// Who is heard next; ping hands on whatever its connections tell.
    fn heard(heed: &mut Heed<ping::Behaviour>) -> Option<PeerId> {
        match heed.poll(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Ready(ToSwarm::GenerateEvent(event)) => Some(event.peer),
            _ => None,
        }
    }

    #[test]
    fn a_strangers_word_waits_until_it_is_known_and_not_for_ever() {
        let (known, line) = (Known::default(), ConnectionId::new_unchecked(1));
        let mut heed = Heed::new(ping::Behaviour::default(), known.clone());
        let (friend, stranger) = (PeerId::random(), PeerId::random());
        for peer in [friend, stranger] {
            heed.on_connection_handler_event(peer, line, Ok(Duration::ZERO));
        }
        assert_eq!(heard(&mut heed), None, "nobody is known");
        known.replace(HashSet::from([friend]));
        assert_eq!(heard(&mut heed), Some(friend), "it has greeted meanwhile");
        heed.hear_waiting(Instant::now() + WAITS);
        known.replace(HashSet::from([friend, stranger]));
        assert_eq!(heard(&mut heed), None, "too late");
        for _ in 0..1000 {
            heed.on_connection_handler_event(PeerId::random(), line, Ok(Duration::ZERO));
        }
        assert_eq!(heed.waiting.len(), WAITING_MAX, "a crowd is not remembered");
    }

    #[test]
    fn what_came_over_a_relay_says_nothing_of_our_address() {
        let (friend, line) = (PeerId::random(), ConnectionId::new_unchecked(1));
        let known = Known::new([friend]);
        let mut heed = Heed::new(ping::Behaviour::default(), known).only_direct();
        heed.note(line, &Multiaddr::empty().with(libp2p::multiaddr::Protocol::P2pCircuit));
        heed.on_connection_handler_event(friend, line, Ok(Duration::ZERO));
        assert_eq!(heard(&mut heed), None);
    }
}
