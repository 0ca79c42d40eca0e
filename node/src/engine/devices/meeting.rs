//! Meeting another device of the own party: greeting, the own log, and the last word to one that was removed.

use super::super::peers::{Duty, Redial};
use super::super::people::in_one_message;
use super::super::rows::{AddressRow, DEVICE_ADDRESSES, DEVICES};
use super::super::{Effect, Engine};
use crate::failure::Failure;
use karte_protocol::card::{Card, Introduced};
use karte_protocol::id::{DeviceId, GrantId, PartyId};
use karte_protocol::limits::CLOCK_SKEW_MS_MAX;
use karte_protocol::message::{Bytes, Request};
use karte_protocol::signed::Verified;
use karte_protocol::time::{SECOND_MS, UnixMs};

/// Entries that are looked at when somebody who is not greeted says that this device has ended. 64: identity entries
/// of a party with some devices, and a few milliseconds of signatures.
const FAREWELL_ENTRIES_MAX: usize = 64;
/// How long the next such word on one connection is not looked at, in milliseconds. 2 s.
const FAREWELL_EVERY_MS: i64 = 2 * SECOND_MS;

impl Engine {
    /// A device that says it is of this party. True if it is live; one that was removed is told so.
    pub(in super::super) fn meet_own(&mut self, introduced: Introduced) -> Result<bool, Failure> {
        let peer = introduced.card.by().device;
        self.learn_own_devices(&introduced)?;
        if !self.is_own_device(&peer) {
            if self.mine().log.named_devices().contains(&peer) {
                self.farewell(peer, self.me.party);
            }
            return Ok(false);
        }
        self.keep_addresses(&introduced.card)?;
        Ok(self.is_own_device(&peer) && self.may_greet())
    }

    /// A card's entries prove themselves: one device may have taken in a third that this one has not heard of. What
    /// this device itself signed is left to the own log, which shows whether this is an older copy.
    fn learn_own_devices(&mut self, introduced: &Introduced) -> Result<(), Failure> {
        let (me, this) = (self.me.party, self.device());
        let mut news = false;
        for entry in introduced.log.in_order() {
            news |= entry.by().device != this && self.take_entry(me, entry.clone())?;
        }
        if news {
            self.refresh(me);
            self.own_log_changed()?;
        }
        Ok(())
    }

    /// Where a device of any party can be reached, by its own card.
    pub(in super::super) fn keep_addresses(&mut self, card: &Verified<Card>) -> Result<(), Failure> {
        let device = card.by().device;
        let timely = card.at_ms <= self.now.saturating_add(CLOCK_SKEW_MS_MAX);
        if card.addresses.is_empty() || !timely {
            return Ok(());
        }
        let held: Option<AddressRow> = self.row(DEVICES, device.as_bytes(), DEVICE_ADDRESSES)?;
        let newer = held.is_none_or(|held| card.at_ms > held.at_ms && held.addresses != card.addresses);
        if newer {
            let row = AddressRow { addresses: card.addresses.clone(), at_ms: card.at_ms };
            self.put(DEVICES, device.as_bytes(), DEVICE_ADDRESSES, &row)?;
        }
        Ok(())
    }

    /// Where a device may be: where it announces itself here, then where it said to be.
    pub(in super::super) fn addresses_of(&self, device: &DeviceId) -> Vec<String> {
        let row = self.row::<AddressRow>(DEVICES, device.as_bytes(), DEVICE_ADDRESSES);
        let said = row.ok().flatten().map(|row| row.addresses).unwrap_or_default();
        let mut addresses = self.near.of(device);
        addresses.extend(said);
        addresses
    }

    // --- the own log

    /// After entries of the own log came from elsewhere: what they end, ends here too.
    pub(in super::super) fn own_log_changed(&mut self) -> Result<(), Failure> {
        let over = self.given.iter().filter(|(id, given)| self.standing(**id, &given.open.opened).is_some());
        let over: Vec<GrantId> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end_serving(id));
        self.recheck_own_statuses()?;
        self.leave_ended_devices(self.me.party);
        if !self.mine().state.has_device(&self.device()) {
            self.stop_signing();
        }
        self.show_forks()
    }

    /// Statuses of own devices that named entries which were not here yet.
    fn recheck_own_statuses(&mut self) -> Result<(), Failure> {
        let told: Vec<_> = self.peers.values().filter_map(|peer| peer.own_status.clone()).collect();
        let me = self.me.party;
        told.into_iter().try_for_each(|status| self.take_status(me, status).map(drop))
    }

    /// Connected devices that are no longer of a party are told, and nothing else.
    pub(in super::super) fn leave_ended_devices(&mut self, party: PartyId) {
        let Some(held) = self.logs.get(&party) else { return };
        let greeted = self.peers.iter().filter(|(_, peer)| peer.party == Some(party));
        let ended: Vec<DeviceId> =
            greeted.map(|(device, _)| *device).filter(|device| !held.state.has_device(device)).collect();
        ended.into_iter().for_each(|device| self.farewell(device, party));
    }

    /// The last word to a device that its party removed: the entries that show it. Whoever holds them may say it.
    pub(in super::super) fn farewell(&mut self, device: DeviceId, of: PartyId) {
        if let Some(peer) = self.peers.get_mut(&device) {
            peer.leave(of);
        }
    }

    pub(in super::super) fn farewell_request(&mut self, peer: DeviceId) -> Option<Request> {
        let of = self.peers.get_mut(&peer)?.farewell.take()?;
        let entries = in_one_message(&self.logs.get(&of)?.log.identity_entries());
        Some(Request::Entries { of, entries })
    }

    /// Entries of the own party from somebody who is not greeted: they prove themselves, and may say that this
    /// device has ended. Bounded, because a stranger may send them.
    pub(in super::super) fn farewell_heard(
        &mut self,
        peer: DeviceId,
        entries: &[Bytes],
    ) -> Result<(), Failure> {
        let now = self.now;
        let Some(state) = self.peers.get_mut(&peer).filter(|state| now >= state.deaf_until_ms) else {
            return Ok(());
        };
        state.deaf_until_ms = now + FAREWELL_EVERY_MS;
        let entries = entries.get(..FAREWELL_ENTRIES_MAX).unwrap_or(entries);
        let mut news = false;
        for entry in Self::verify_entries(entries) {
            let this_device = entry.by().device == self.device();
            if entry.act.is_identity() && !this_device {
                news |= self.take_entry(self.me.party, entry)?;
            }
        }
        if news {
            self.refresh(self.me.party);
            self.own_log_changed()?;
        }
        Ok(())
    }

    /// This device has ended: what runs under its name ends.
    fn stop_signing(&mut self) {
        self.end_here();
        let why = self.require_sound().err().map(|failure| failure.message).unwrap_or_default();
        tracing::error!(why, "this device signs nothing more");
        self.notice(why);
    }

    // --- connections

    /// Other own devices that should be connected and are not.
    pub(in super::super) fn dial_own(&mut self) -> bool {
        let party: PartyId = self.me.party;
        let absent: Vec<DeviceId> =
            self.other_devices().into_iter().filter(|device| !self.peers.contains_key(device)).collect();
        let mut called = false;
        for device in absent {
            let addresses = self.addresses_of(&device);
            if addresses.is_empty() {
                continue;
            }
            called = true;
            let at = [(device, addresses.clone())].into();
            self.out.push(Effect::Dial { party, devices: vec![device], addresses, at });
        }
        called
    }

    pub(in super::super) fn renew_own(&mut self) {
        let me = self.me.party;
        let due = self.redial.get(&me).is_none_or(Redial::is_due(self.now));
        if due && !self.other_devices().is_empty() && self.dial_own() {
            self.is_being_called(me);
        }
    }

    // --- duties

    pub(in super::super) fn own_duties(&self, peer: DeviceId) -> Result<Vec<Duty>, Failure> {
        let Some(state) = self.peers.get(&peer) else { return Ok(vec![]) };
        let cursor = self.cursor_of(&peer)?;
        let mut duties = Vec::new();
        let untold = state.own_told != Some(self.feed_end());
        if untold || state.own_there.is_some_and(|there| there != cursor) {
            duties.push(Duty::Own);
        }
        if self.may_fetch_own(&peer) {
            duties.push(Duty::OwnFetch);
        }
        Ok(duties)
    }

    pub(in super::super) fn own_request(&mut self, peer: DeviceId) -> Result<Option<Request>, Failure> {
        let (from, there) = (self.cursor_of(&peer)?, self.feed_end());
        if let Some(state) = self.peers.get_mut(&peer) {
            state.own_told = Some(there);
        }
        Ok(Some(Request::Own { from, there }))
    }

    /// Something of the own party was heard: for `karte device list`.
    pub(in super::super) fn heard_own(&mut self, peer: DeviceId, issued_ms: UnixMs) -> Result<(), Failure> {
        let name = super::super::rows::DEVICE_HEARD;
        let held: Option<UnixMs> = self.row(DEVICES, peer.as_bytes(), name)?;
        if held.is_none_or(|held| held + super::KEEP_SYNCED_EVERY_MS <= issued_ms) {
            self.put(DEVICES, peer.as_bytes(), name, &issued_ms)?;
        }
        Ok(())
    }
}
