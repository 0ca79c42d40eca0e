//! The reader's side: a holder that cannot be reached is asked for through its stewards.
//!
//! Where they are, the holder's card says: its own addresses, then those of its stewards, each with `/p2p/PEERID`.

use super::super::peers::Duty;
use super::super::{Effect, Engine};
use super::Errand;
use crate::failure::Failure;
use crate::network::peer_text;
use karte_protocol::card::Card;
use karte_protocol::id::{DeviceId, PartyId};
use karte_protocol::message::{Bytes, Hello, Request};
use karte_protocol::signed::Verified;
use std::collections::{BTreeMap, BTreeSet};

/// Addresses of stewards in a card. 3 of its 8: the holder's own come first.
const STEWARD_ADDRESSES_MAX: usize = 3;
/// Name and kind on the card that is shown to who need not know more: a steward of a holder, a reader of one.
const QUIET: (&str, &str) = ("karte", "partner");

impl Engine {
    // --- the card

    /// Where the stewards of the own party are, for its card.
    pub(in super::super) fn steward_addresses(&self) -> Vec<String> {
        let mut addresses = Vec::new();
        for (steward, devices) in &self.mine().state.stewards {
            let Some(contact) = self.contacts.get(steward) else { continue };
            for device in devices {
                let Some(peer) = peer_text(device.as_bytes()) else { continue };
                let own = contact.card.addresses.iter().filter(|address| !names_device(address));
                addresses.extend(own.take(2).map(|address| format!("{address}/p2p/{peer}")));
            }
        }
        addresses.retain(|address| address.len() <= 300);
        addresses.truncate(STEWARD_ADDRESSES_MAX);
        addresses
    }

    /// The own card has other addresses now: contacts that are connected are told at once, because the stewards are for
    /// when this node cannot tell them any more.
    pub(in super::super) fn card_changed(&mut self) {
        let known: BTreeSet<PartyId> =
            self.contacts.iter().filter(|(_, contact)| contact.row.known).map(|(party, _)| *party).collect();
        for state in self.peers.values_mut().filter(|state| state.is_greeted()) {
            state.errands.card_due = state.party.is_some_and(|party| known.contains(&party));
            state.owe_own_a_hello(self.me.party);
        }
    }

    /// The Hello for a device: a contact gets the own card, a steward or a reader that is none gets one without name
    /// and addresses.
    pub(in super::super) fn hello_to(&mut self, peer: &DeviceId) -> Result<Hello, Failure> {
        let of_contact = self.party_of(peer).is_some_and(|party| self.is_known(party));
        if of_contact || (self.helped_by(*peer).is_empty() && !self.is_device_of_guest(peer)) {
            return self.hello();
        }
        let full = self.card()?;
        let card =
            Card { name: QUIET.0.into(), kind: QUIET.1.into(), addresses: vec![], ..Card::clone(&full) };
        let card = Verified::sign(card, self.by(), &self.keys.device)?;
        Ok(Hello { card: card.bytes().to_vec().into(), ..self.hello()? })
    }

    fn is_device_of_guest(&self, peer: &DeviceId) -> bool {
        self.party_of(peer).is_some_and(|party| self.is_guest(party))
    }

    // --- who stands in for whom

    /// Notes whose devices stand in for a party, after its log changed.
    pub(in super::super) fn note_stewards(&mut self, of: PartyId) {
        for holders in self.steward.helpers.values_mut() {
            holders.remove(&of);
        }
        let devices = self.logs.get(&of).map(|held| held.state.stewards.values().flatten());
        for device in devices.into_iter().flatten() {
            self.steward.helpers.entry(*device).or_default().insert(of);
        }
        self.steward.helpers.retain(|_, holders| !holders.is_empty());
    }

    /// Whether this node reads under a live grant of a holder.
    fn reads_from(&self, holder: &PartyId) -> bool {
        self.got.values().any(|got| got.is_live() && got.row.holder == *holder)
    }

    /// Holders this node reads from that have a steward.
    pub(super) fn helped_holders(&self) -> impl Iterator<Item = &PartyId> {
        self.steward.helpers.values().flatten().filter(|holder| self.reads_from(holder))
    }

    /// Holders this node reads from whose steward a device is.
    pub(in super::super) fn helped_by(&self, peer: DeviceId) -> Vec<PartyId> {
        let holders = self.steward.helpers.get(&peer).into_iter().flatten();
        holders.filter(|holder| self.reads_from(holder)).copied().collect()
    }

    /// What to ask a steward for: everything while its holder is away, help while it is there.
    pub(in super::super) fn standin_duties(&self, party: PartyId, peer: DeviceId) -> Vec<Duty> {
        let mut duties = Vec::new();
        for holder in self.helped_by(peer).into_iter().filter(|holder| *holder != party) {
            if self.greeted_device(holder).is_some() || !self.is_dialling(holder) {
                duties.extend(self.reading_duties(holder, peer));
            }
            let left =
                self.peers.get(&peer).is_some_and(|state| state.errands.receipts_left.contains(&holder));
            if self.owes_receipts.contains(&holder) && !left {
                duties.push(Duty::Steward(Errand::Receipts(holder)));
            }
        }
        duties
    }

    /// The greeted device of a steward that stands in for a holder.
    pub(in super::super) fn standin_device(&self, holder: PartyId) -> Option<DeviceId> {
        let state = &self.logs.get(&holder)?.state;
        let mut greeted = self.peers.iter().filter(|(_, peer)| peer.is_greeted());
        greeted.find(|(device, _)| state.has_steward_device(device)).map(|(device, _)| *device)
    }

    /// Calls the stewards of a holder that cannot be reached. True if one is there, or may be soon.
    pub(in super::super) fn call_stewards(&mut self, holder: PartyId) -> bool {
        if !self.reads_from(&holder) {
            return false;
        }
        if let Some(device) = self.standin_device(holder) {
            let run = self.syncs.iter().find(|run| run.parties.contains_key(&holder));
            let staff = run.map(|run| run.staff.clone());
            if let (Some(staff), Some(state)) = (staff, self.peers.get_mut(&device)) {
                state.ask_anew(&staff);
            }
            return true;
        }
        self.dial_stewards(holder)
    }

    /// Calls every steward of a holder. False: there is none to call.
    pub(in super::super) fn dial_stewards(&mut self, holder: PartyId) -> bool {
        let (Some(held), Some(contact)) = (self.logs.get(&holder), self.contacts.get(&holder)) else {
            return false;
        };
        let stewards = held.state.stewards.clone();
        let addresses = contact.card.addresses.clone();
        let mut called = false;
        for (steward, devices) in stewards {
            let theirs: Vec<String> =
                devices.iter().flat_map(|device| addresses_of(device, &addresses)).collect();
            if theirs.is_empty() || steward == self.me.party {
                continue;
            }
            called = true;
            if self.steward.called.entry(steward).or_default().insert(holder) {
                let devices = devices.into_iter().collect();
                self.out.push(Effect::Dial {
                    party: steward,
                    devices,
                    addresses: theirs,
                    at: BTreeMap::new(),
                });
            }
        }
        called
    }

    /// A steward is not to be had: syncs that waited for it, and have nobody else to wait for, end.
    pub(in super::super) fn steward_failed(&mut self, steward: PartyId, failure: &Failure) {
        for holder in self.steward.called.remove(&steward).unwrap_or_default() {
            let others = self.steward.called.values().any(|holders| holders.contains(&holder));
            if !others && self.standin_device(holder).is_none() && self.greeted_device(holder).is_none() {
                let failure = Failure {
                    message: format!(
                        "{}, and neither can its stewards: {}",
                        self.unreachable(holder),
                        failure.message
                    ),
                    ..failure.clone()
                };
                self.end_sync_of(holder, Err(failure));
            }
        }
    }

    /// The connection to a steward broke: as if it had not been there.
    pub(in super::super) fn steward_lost(&mut self, device: DeviceId, steward: PartyId, failure: &Failure) {
        let holders: BTreeSet<PartyId> =
            self.helped_by(device).into_iter().filter(|holder| *holder != steward).collect();
        self.steward.called.entry(steward).or_default().extend(holders);
        self.steward_failed(steward, failure);
    }

    /// The steward that stands in for a holder which is neither here nor being called.
    pub(in super::super) fn standin_for(&self, holder: PartyId) -> Option<DeviceId> {
        if self.is_dialling(holder) { None } else { self.standin_device(holder) }
    }

    fn unreachable(&self, holder: PartyId) -> String {
        format!("{} cannot be reached", self.name_of(holder))
    }

    /// The steward that a device is, by the logs of those this node reads from.
    pub(in super::super) fn steward_of_device(&self, peer: &DeviceId) -> Option<PartyId> {
        let holders = self.helped_by(*peer);
        let mut stewards = holders.iter().filter_map(|holder| {
            let state = &self.logs.get(holder)?.state;
            state.stewards.iter().find(|(_, devices)| devices.contains(peer)).map(|(steward, _)| *steward)
        });
        stewards.next()
    }

    // --- receipts

    /// Receipts for a holder, left with its steward. They stay due until the holder itself has them.
    pub(super) fn receipts_to_leave(
        &mut self,
        peer: DeviceId,
        holder: PartyId,
    ) -> Result<Option<Request>, Failure> {
        let due = self.receipts_due(holder)?;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.errands.receipts_left.insert(holder);
        }
        let receipts: Vec<Bytes> = due.iter().map(|receipt| Bytes::from(receipt.bytes().to_vec())).collect();
        Ok((!receipts.is_empty()).then_some(Request::Receipts { receipts }))
    }

    /// There is a new receipt for a holder: its stewards may have it too.
    pub(in super::super) fn receipt_is_new(&mut self, holder: PartyId) {
        for state in self.peers.values_mut() {
            state.errands.receipts_left.remove(&holder);
        }
    }
}

/// The addresses of a device among those of a card that is not its own.
fn addresses_of(device: &DeviceId, addresses: &[String]) -> Vec<String> {
    let Some(peer) = peer_text(device.as_bytes()) else { return vec![] };
    let end = format!("/p2p/{peer}");
    addresses.iter().filter_map(|address| address.strip_suffix(&end)).map(str::to_owned).collect()
}

/// The addresses of a card that are its owner's.
pub(in super::super) fn own_addresses(addresses: &[String]) -> Vec<String> {
    addresses.iter().filter(|address| !names_device(address)).cloned().collect()
}

/// Whether an address ends with the device that is there. One at a relay names the relay before its end.
fn names_device(address: &str) -> bool {
    address.rsplit('/').nth(1) == Some("p2p")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_at_a_relay_is_an_own_address_and_a_steward_there_is_not() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let own =
            ["/ip4/192.0.2.1/tcp/4747".into(), format!("/ip4/192.0.2.9/tcp/443/p2p/{peer}/p2p-circuit")];
        let of_stewards = own.iter().map(|address| format!("{address}/p2p/{peer}"));
        let card: Vec<String> = own.iter().cloned().chain(of_stewards).collect();
        assert_eq!(own_addresses(&card), own);
    }
}
