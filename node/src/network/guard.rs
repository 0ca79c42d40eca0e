//! Who may come in, and who must make room.
//!
//! For: strangers cannot fill the node. Before a handshake only the address is known: handshakes are counted and rated
//! for each address and in all, with a part kept for addresses where a known device was met. After it the device is
//! known: strangers share a few slots, the oldest makes room for a newcomer, and all other slots are for known devices.
//! Not for: the bound on all connections together (libp2p's own limits stand before this), and what a stranger may ask.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};

use super::Limits;
use super::known::Known;
use super::lines::ip_of;
use super::rate::{Bucket, Buckets};

/// A stranger is not dropped for another one before this. 2 s: a greeting over a slow link takes no longer.
const STRANGER_GRACE: Duration = Duration::from_secs(2);
/// Prefixes that are counted at once. 16,384: about 2 MiB.
const PREFIXES_MAX: usize = 16_384;
/// Prefixes remembered because a known device came from there. 4,096: a large clinic's patients of some days.
const FAMILIAR_MAX: usize = 4_096;
/// Of the handshakes in progress, the part that unfamiliar addresses may hold: three quarters.
const UNFAMILIAR_PART: (usize, usize) = (3, 4);

/// What counts as one place: an IPv4 address, or the 64 bits of an IPv6 network, where one machine has all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
}

/// Why a connection was turned away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("too many handshakes at once")]
    Handshakes,
    #[error("too many connections in a short time")]
    Rate,
    #[error("no place for another device that is not known")]
    NoRoom,
}

/// The behaviour.
pub(crate) struct Guard {
    known: Known,
    strangers_max: usize,
    handshakes_max: usize,
    handshakes_per_prefix_max: usize,
    limits_rate: super::Rate,
    /// New connections of all places together.
    rate: Bucket,
    rates: Buckets<Prefix>,
    handshakes: HashMap<ConnectionId, Option<Prefix>>,
    /// Where known devices came from, oldest first.
    familiar: VecDeque<Prefix>,
    strangers: Vec<Stranger>,
    to_close: VecDeque<(PeerId, ConnectionId)>,
}

/// A connection that a stranger opened.
struct Stranger {
    connection: ConnectionId,
    peer: PeerId,
    came: Instant,
    /// It holds a circuit over this node: it is here for that, and stays as long.
    is_relayed_for: bool,
}

impl Guard {
    pub(crate) fn new(limits: &Limits, known: Known, now: Instant) -> Self {
        let in_max = limits.connections_in_max as usize;
        Self {
            known,
            strangers_max: limits.strangers_in_max.min(in_max),
            handshakes_max: limits.handshakes_in_max as usize,
            handshakes_per_prefix_max: limits.handshakes_per_prefix_max,
            limits_rate: limits.arrivals,
            rate: Bucket::new(limits.arrivals, now),
            rates: Buckets::new(limits.arrivals_per_prefix, PREFIXES_MAX),
            handshakes: HashMap::new(),
            familiar: VecDeque::new(),
            strangers: Vec::new(),
            to_close: VecDeque::new(),
        }
    }

    /// A circuit over this node begins or ends: who called for it is not idle meanwhile.
    pub(crate) fn relays_for(&mut self, peer: &PeerId, is_relayed_for: bool) {
        for stranger in self.strangers.iter_mut().filter(|stranger| stranger.peer == *peer) {
            stranger.is_relayed_for = is_relayed_for;
        }
    }

    fn knock(&mut self, place: Option<Prefix>, now: Instant) -> Result<(), Refusal> {
        let is_familiar = place.is_some_and(|place| self.familiar.contains(&place));
        let most = match is_familiar {
            true => self.handshakes_max,
            false => self.handshakes_max * UNFAMILIAR_PART.0 / UNFAMILIAR_PART.1,
        };
        let same = self.handshakes.values().filter(|other| place.is_some() && **other == place).count();
        if self.handshakes.len() >= most || same >= self.handshakes_per_prefix_max {
            return Err(Refusal::Handshakes);
        }
        // A place over its own rate takes nothing from all others.
        if place.is_some_and(|place| !self.rates.take(place, now)) {
            return Err(Refusal::Rate);
        }
        if !is_familiar && !self.rate.take(self.limits_rate, now) {
            return Err(Refusal::Rate);
        }
        Ok(())
    }

    fn welcome(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        place: Option<Prefix>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.known.contains(&peer) {
            self.remember(place);
            return Ok(());
        }
        let known = &self.known;
        self.strangers.retain(|stranger| !known.contains(&stranger.peer));
        if self.strangers.len() >= self.strangers_max {
            let oldest = self.oldest_idle(now).ok_or(Refusal::NoRoom)?;
            let dropped = self.strangers.remove(oldest);
            self.to_close.push_back((dropped.peer, dropped.connection));
        }
        self.strangers.push(Stranger { connection, peer, came: now, is_relayed_for: false });
        Ok(())
    }

    /// Strangers stand in the order in which they came.
    fn oldest_idle(&self, now: Instant) -> Option<usize> {
        let may_go = |stranger: &Stranger| {
            !stranger.is_relayed_for && now.saturating_duration_since(stranger.came) >= STRANGER_GRACE
        };
        self.strangers.iter().position(may_go)
    }

    fn remember(&mut self, place: Option<Prefix>) {
        let Some(place) = place else { return };
        self.familiar.retain(|known| *known != place);
        self.familiar.push_back(place);
        if self.familiar.len() > FAMILIAR_MAX {
            self.familiar.pop_front();
        }
    }
}

/// Where somebody calls from; none over a relay, whose circuits are bounded by themselves.
fn place_of(local: &Multiaddr, remote: &Multiaddr) -> Option<Prefix> {
    if super::waves::is_relayed(local) {
        return None;
    }
    ip_of(remote).map(prefix_of)
}

fn prefix_of(ip: IpAddr) -> Prefix {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Prefix::V4(ip.octets()),
        IpAddr::V6(ip) => {
            let mut network = [0; 8];
            network.iter_mut().zip(ip.octets()).for_each(|(to, from)| *to = from);
            Prefix::V6(network)
        }
    }
}

impl NetworkBehaviour for Guard {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let place = place_of(local, remote);
        self.knock(place, Instant::now()).map_err(ConnectionDenied::new)?;
        self.handshakes.insert(connection, place);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handshakes.remove(&connection);
        let place = place_of(local, remote);
        self.welcome(connection, peer, place, Instant::now()).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.handshakes.remove(&connection_id);
                self.strangers.retain(|stranger| stranger.connection != connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.strangers.retain(|stranger| stranger.connection != connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.to_close.pop_front() {
            Some((peer_id, connection)) => {
                let connection = CloseConnection::One(connection);
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection })
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::Rate;
    use super::*;

    const HERE: Option<Prefix> = Some(Prefix::V4([192, 0, 2, 1]));
    const THERE: Option<Prefix> = Some(Prefix::V4([192, 0, 2, 2]));

    fn guard(limits: Limits) -> Guard {
        Guard::new(&limits, Known::default(), Instant::now())
    }

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    #[test]
    fn the_oldest_stranger_makes_room_and_known_devices_need_none() {
        let mut guard = guard(Limits { strangers_in_max: 2, ..Limits::default() });
        let now = Instant::now();
        let [first, second, third, friend] = std::array::from_fn(|_| PeerId::random());
        guard.known.replace(HashSet::from([friend]));
        guard.welcome(id(1), first, HERE, now).expect("a free place");
        guard.welcome(id(2), second, HERE, now).expect("a free place");
        assert!(
            guard.welcome(id(3), third, HERE, now).is_err(),
            "nobody is dropped while it may still greet"
        );
        guard.welcome(id(4), friend, HERE, now).expect("a known device has a place of its own");
        guard.relays_for(&first, true);
        let later = now + STRANGER_GRACE;
        guard.welcome(id(5), third, HERE, later).expect("the second makes room: the first is in use");
        assert_eq!(guard.to_close, [(second, id(2))]);
        assert_eq!(guard.strangers.len(), 2);
        guard.known.replace(HashSet::from([friend, first]));
        guard.welcome(id(6), second, HERE, later).expect("who became known left a place");
        assert_eq!(guard.to_close.len(), 1, "nobody else had to go");
    }

    #[test]
    fn one_place_cannot_use_up_the_handshakes_and_the_familiar_have_a_part() {
        let limits = Limits { handshakes_in_max: 8, handshakes_per_prefix_max: 4, ..Limits::default() };
        let mut guard = guard(limits);
        let now = Instant::now();
        for number in 0..4 {
            guard.knock(HERE, now).expect("four from one place");
            guard.handshakes.insert(id(number), HERE);
        }
        assert!(matches!(guard.knock(HERE, now), Err(Refusal::Handshakes)), "a fifth");
        for number in 4..6 {
            let place = Some(Prefix::V4([198, 51, 100, 1]));
            guard.knock(place, now).expect("another place");
            guard.handshakes.insert(id(number), place);
        }
        assert!(guard.knock(THERE, now).is_err(), "three quarters are taken");
        guard.remember(THERE);
        guard.knock(THERE, now).expect("a known device was met there");
    }

    #[test]
    fn a_place_over_its_rate_takes_nothing_from_others() {
        let rate = |burst| Rate { burst, per_second: 1 };
        let mut guard =
            guard(Limits { arrivals: rate(10), arrivals_per_prefix: rate(4), ..Limits::default() });
        let now = Instant::now();
        let passed = (0..100).filter(|_| guard.knock(HERE, now).is_ok()).count();
        assert_eq!(passed, 4, "its own burst");
        let passed = (0..100).filter(|_| guard.knock(THERE, now).is_ok()).count();
        assert_eq!(passed, 4, "as much for the next");
    }

    #[test]
    fn a_network_of_ipv6_is_one_place() {
        let local: Multiaddr = "/ip6/::/tcp/1".parse().expect("an address");
        let place = |text: &str| place_of(&local, &text.parse().expect("an address"));
        assert_eq!(place("/ip6/2001:db8::1/tcp/9"), place("/ip6/2001:db8::ffff:2/tcp/8"));
        assert_ne!(place("/ip6/2001:db8::1/tcp/9"), place("/ip6/2001:db8:0:1::1/tcp/9"));
        assert_eq!(place("/ip6/::ffff:192.0.2.1/tcp/9"), HERE, "IPv4 in the dress of IPv6");
    }
}
