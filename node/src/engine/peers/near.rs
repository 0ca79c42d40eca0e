//! Where devices are just now: near, over another connection, or on a network that has changed.
//!
//! For: contacts are called where they announce themselves, and at once after a change of network; the network room
//! learns which devices are known. Not for: who is greeted; an address proves nothing, the handshake does.

use super::super::{Effect, Engine};
use super::Redial;
use karte_protocol::id::{DeviceId, PartyId};
use karte_protocol::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of the moment; nothing of it is kept.
#[derive(Default)]
pub(in crate::engine) struct Near {
    /// Addresses that known devices announce on the local network. The network tells of known devices alone.
    addresses: BTreeMap<DeviceId, Vec<String>>,
    /// The devices that the network was told to know; `None` before the first time.
    told: Option<BTreeSet<DeviceId>>,
    /// When the own addresses changed last; each change has a time of its own.
    moved_ms: UnixMs,
}

impl Near {
    /// The own addresses are others now.
    pub(in crate::engine) fn moved(&mut self, now: UnixMs) {
        self.moved_ms = now.max(self.moved_ms.saturating_add(1));
    }

    /// A card made now is dated no earlier than this.
    pub(in crate::engine) fn moved_ms(&self) -> UnixMs {
        self.moved_ms
    }

    /// Where a device announces itself.
    pub(in crate::engine) fn of(&self, device: &DeviceId) -> Vec<String> {
        self.addresses.get(device).cloned().unwrap_or_default()
    }
}

impl Engine {
    /// A device of a contact or an own one is near: it is called there, unless it is connected.
    pub(in crate::engine) fn nearby(&mut self, device: DeviceId, addresses: Vec<String>) {
        let Some(party) = self.party_of(&device).filter(|party| self.is_wanted(*party)) else { return };
        if addresses.is_empty() {
            self.near.addresses.remove(&device);
            return;
        }
        let is_new = self.near.addresses.insert(device, addresses.clone()) != Some(addresses);
        if is_new && !self.peers.contains_key(&device) {
            self.hurry(party);
        }
    }

    pub(in crate::engine) fn rerouted(&mut self, peer: DeviceId, address: String) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.address = address;
        }
    }

    /// The network has changed: whoever waits for a further try is called now.
    pub(in crate::engine) fn hurry_all(&mut self) {
        let waiting: Vec<PartyId> = self.redial.keys().copied().collect();
        waiting.into_iter().for_each(|party| self.hurry(party));
    }

    /// The next try comes with the next tick, and pauses begin anew; a call under way goes on.
    fn hurry(&mut self, party: PartyId) {
        let now = self.now;
        self.redial.entry(party).or_default().hurry(now);
    }

    /// Tells the network whom this node knows, when that has changed.
    pub(in crate::engine) fn tell_known(&mut self) {
        if !self.policy.live {
            return;
        }
        let known = self.known_devices();
        if self.near.told.as_ref() != Some(&known) {
            self.out.push(Effect::Know(known.iter().copied().collect()));
            self.near.addresses.retain(|device, _| known.contains(device));
            self.near.told = Some(known);
        }
    }

    fn known_devices(&self) -> BTreeSet<DeviceId> {
        let parties = self.logs.iter().filter(|(party, _)| self.is_wanted(**party));
        let mut known: BTreeSet<DeviceId> =
            parties.flat_map(|(_, held)| held.state.devices.keys().copied()).collect();
        known.remove(&self.device());
        known
    }

    /// The own party, a contact, or one that is met for a steward's sake.
    fn is_wanted(&self, party: PartyId) -> bool {
        party == self.me.party || self.is_admitted(party)
    }
}

impl Redial {
    fn hurry(&mut self, now: UnixMs) {
        (self.next_ms, self.pause_ms) = (now, 0);
    }
}
