//! Where this node can be found, and who is near: the event loop's part in relays, external addresses and mDNS.
//!
//! For: places at relays kept; relayed connections given up for direct ones; known devices in the same network told.
//! Not for: dialling any of them (whoever holds the handle decides).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use karte_protocol::chance::{Chance, OsChance};
use libp2p::core::transport::ListenerId;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, mdns, relay};

use super::behaviour::BehaviourEvent;
use super::device::device_of;
use super::error::{root_cause, without_peer};
use super::event_loop::EventLoop;
use super::lines::ip_of;
use super::relay::{RelayFor, Reservations};
use super::waves::is_relayed;
use super::{NetEvent, ReachConfig};

/// Devices that are noted as near, known or not. 256: a large practice; whoever floods the local network is not noted.
const NEARBY_MAX: usize = 256;
/// Addresses of one device that are noted. 8: as many as a card holds.
const NEARBY_ADDRESSES_MAX: usize = 8;

/// What the loop knows of addresses.
pub(crate) struct Reach {
    relay_for: RelayFor,
    reservations: Reservations,
    /// Places at relays are asked for once it was said who is known: a relay that is a contact is greeted, another not.
    is_told: bool,
    /// Addresses at which somebody outside has reached us.
    external: BTreeSet<Multiaddr>,
    /// Devices that announce themselves here.
    nearby: HashMap<PeerId, Vec<Multiaddr>>,
    /// Relayed connections beside a direct one, and since when.
    given_up: Vec<(PeerId, ConnectionId, Instant)>,
}

impl Reach {
    pub(crate) fn new(config: ReachConfig, now: Instant) -> Self {
        Self {
            relay_for: config.relay_for,
            reservations: Reservations::new(config.relays, now),
            is_told: false,
            external: BTreeSet::new(),
            nearby: HashMap::new(),
            given_up: Vec::new(),
        }
    }
}

impl EventLoop {
    // --- addresses

    /// The addresses we listen on, without those at relays.
    pub(super) fn listening(&self) -> Vec<Multiaddr> {
        self.swarm.listeners().filter(|address| !is_relayed(address)).cloned().collect()
    }

    pub(super) fn addresses(&self) -> Vec<Multiaddr> {
        let (here, near): (Vec<_>, Vec<_>) = self.listening().into_iter().partition(is_loopback);
        let external = self.reach.external.iter().cloned();
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in external.chain(self.reach.reservations.circuits()).chain(near).chain(here) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    pub(super) fn on_address(&mut self, listener: ListenerId, address: Multiaddr) {
        if is_relayed(&address) {
            if self.reach.reservations.held(listener) {
                self.outbox.tell(NetEvent::AddressesChanged);
            }
            return;
        }
        // A relay tells who reserves a place where it is; without any address it could not.
        if self.reach.relay_for != RelayFor::Nobody {
            self.swarm.add_external_address(address.clone());
        }
        self.reach.reservations.hurry(Instant::now());
        self.outbox.tell(NetEvent::Listening(address));
    }

    pub(super) fn on_address_gone(&mut self, address: &Multiaddr) {
        if !is_relayed(address) {
            self.swarm.remove_external_address(address);
            self.close_dead(address);
            self.outbox.tell(NetEvent::AddressesChanged);
        }
    }

    /// What left from an address that is gone is dead, and would be found to be so only by the pings, after 20 s.
    fn close_dead(&mut self, gone: &Multiaddr) {
        let Some(gone) = ip_of(gone) else { return };
        let lines = self.peers.values().flat_map(|peer| peer.lines.from(gone));
        for line in lines.collect::<Vec<_>>() {
            self.swarm.close_connection(line);
        }
    }

    pub(super) fn on_listener_closed(&mut self, listener: ListenerId, reason: Result<(), std::io::Error>) {
        if let Err(error) = reason {
            // A relay that does not know us yet refuses, too: it is asked again.
            tracing::warn!(reason = root_cause(&error), "a listener, or a place at a relay, was closed");
        }
        if self.reach.reservations.lost(listener, Instant::now(), chance()) {
            self.outbox.tell(NetEvent::AddressesChanged);
        }
    }

    /// AutoNAT found that an address of ours can be called, or no longer. Places at relays are told by their listeners.
    pub(super) fn on_reachable(&mut self, address: Multiaddr, is_reachable: bool) {
        let address = without_peer(address);
        if is_relayed(&address) {
            return;
        }
        let is_new = match is_reachable {
            true => self.reach.external.insert(address),
            false => self.reach.external.remove(&address),
        };
        if is_new {
            self.outbox.tell(NetEvent::AddressesChanged);
        }
    }

    // --- what is looked after

    pub(super) fn on_pulse(&mut self, now: Instant) {
        if self.reach.is_told {
            self.reserve(now);
        }
        self.close_given_up(now);
    }

    fn reserve(&mut self, now: Instant) {
        for (index, circuit) in self.reach.reservations.due(now) {
            match self.swarm.listen_on(circuit) {
                Ok(listener) => self.reach.reservations.asked(index, listener),
                Err(error) => {
                    tracing::warn!(reason = root_cause(&error), "no place at a relay");
                    self.reach.reservations.failed(index, now, chance());
                }
            }
        }
    }

    /// Notes the relayed connections of a peer that has a direct one.
    pub(super) fn give_up_relayed(&mut self, peer_id: PeerId) {
        let Some(peer) = self.peers.get(&peer_id) else { return };
        for line in peer.lines.superseded() {
            if !self.reach.given_up.iter().any(|(_, known, _)| *known == line) {
                self.reach.given_up.push((peer_id, line, Instant::now()));
            }
        }
    }

    /// Closes them when nothing is under way with the peer, or when it never is: what is cut goes on over the direct one.
    fn close_given_up(&mut self, now: Instant) {
        let (peers, limits) = (&self.peers, &self.limits);
        let mut to_close = Vec::new();
        self.reach.given_up.retain(|(peer_id, line, since)| {
            let Some(peer) = peers.get(peer_id).filter(|peer| peer.lines.superseded().contains(line)) else {
                return false;
            };
            let stayed = now.saturating_duration_since(*since);
            let may_close = stayed >= limits.relayed_stay_max
                || (stayed >= limits.relayed_stay_min && peer.is_quiet(limits));
            if may_close {
                to_close.push(*line);
            }
            !may_close
        });
        for line in to_close {
            self.swarm.close_connection(line);
        }
    }

    // --- who is known, and who is near

    pub(super) fn know(&mut self, devices: HashSet<PeerId>) {
        let news: Vec<PeerId> =
            self.reach.nearby.keys().filter(|peer| devices.contains(peer)).copied().collect();
        let news: Vec<PeerId> = news.into_iter().filter(|peer| !self.known.contains(peer)).collect();
        self.known.replace(devices);
        self.reach.is_told = true;
        news.into_iter().for_each(|peer| self.tell_nearby(peer));
    }

    fn tell_nearby(&self, peer: PeerId) {
        let Some(device) = device_of(&peer).filter(|_| self.known.contains(&peer)) else { return };
        let addresses = self.reach.nearby.get(&peer).cloned().unwrap_or_default();
        self.outbox.offer(NetEvent::Nearby { device, addresses });
    }

    pub(super) fn on_reach(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.on_found(found),
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => self.on_gone(gone),
            BehaviourEvent::Relay(relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id }) => {
                tracing::debug!(from = %src_peer_id, to = %dst_peer_id, "relaying");
                self.swarm.behaviour_mut().guard.relays_for(&src_peer_id, true);
            }
            BehaviourEvent::Relay(relay::Event::CircuitClosed { src_peer_id, .. }) => {
                self.swarm.behaviour_mut().guard.relays_for(&src_peer_id, false);
            }
            BehaviourEvent::Relay(relay::Event::ReservationReqDenied { src_peer_id, .. }) => {
                tracing::debug!(peer = %src_peer_id, "no place at this relay");
            }
            BehaviourEvent::Punch(event) => match event.result {
                Ok(_) => tracing::debug!(peer = %event.remote_peer_id, "a direct connection was made"),
                Err(error) => {
                    tracing::debug!(peer = %event.remote_peer_id, reason = root_cause(&error), "no direct connection");
                }
            },
            BehaviourEvent::Reachable(event) => {
                let is_reachable = event.result.is_ok();
                tracing::debug!(address = %event.tested_addr, is_reachable, "asked whether we can be called");
            }
            _ => {}
        }
    }

    fn on_found(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut news = HashSet::new();
        for (peer, address) in found {
            let is_noted = self.reach.nearby.contains_key(&peer);
            if !is_noted && self.reach.nearby.len() >= NEARBY_MAX && !self.known.contains(&peer) {
                continue;
            }
            let (addresses, address) = (self.reach.nearby.entry(peer).or_default(), without_peer(address));
            if addresses.len() < NEARBY_ADDRESSES_MAX && !addresses.contains(&address) {
                addresses.push(address);
                news.insert(peer);
            }
        }
        news.into_iter().for_each(|peer| self.tell_nearby(peer));
    }

    fn on_gone(&mut self, gone: Vec<(PeerId, Multiaddr)>) {
        for (peer, address) in gone {
            let address = without_peer(address);
            let Some(addresses) = self.reach.nearby.get_mut(&peer) else { continue };
            addresses.retain(|known| *known != address);
            if addresses.is_empty() {
                self.reach.nearby.remove(&peer);
            }
            self.tell_nearby(peer);
        }
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| ip.is_loopback())
}

fn chance() -> u8 {
    let mut byte = [0; 1];
    OsChance.fill(&mut byte);
    let [byte] = byte;
    byte
}
