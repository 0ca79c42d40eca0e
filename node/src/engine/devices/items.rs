//! Things that own devices tell each other: made here out of rows, taken there into rows.
//!
//! What is signed is verified again; what is not (an alias, what is held back) is believed, for it comes from a live
//! device of the own party over its own connection. Taking one twice changes nothing, and only what changed
//! something is told on.

use super::super::getting::Got;
use super::super::giving::Given;
use super::super::rows::{
    ContactRow, DEVICES, FORGOTTEN, GivenRow, GotRow, GotState, OWN_SHELF, RECEIPTS, RELEASES, ReceivedRow,
    SEGMENTS, own_shelf_of, shelf_of,
};
use super::super::{Engine, decode_row};
use super::Place;
use crate::failure::Failure;
use karte_protocol::card;
use karte_protocol::consent::{Accept, Receipt, Release};
use karte_protocol::grant::{OpenGrant, Opening};
use karte_protocol::id::{DeviceId, GrantId, PartyId, RecordId};
use karte_protocol::keys::SealingKey;
use karte_protocol::limits::CLOCK_SKEW_MS_MAX;
use karte_protocol::message::{Bytes, Response, SegmentAndKeys};
use karte_protocol::own::{OwnItem, ReceivedState};
use karte_protocol::seal;
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::UnixMs;

/// Bytes of a reading key. 32: an X25519 secret.
const READING_KEY_BYTES: usize = 32;

/// A received grant as another own device tells it.
struct ToldReceived {
    open: OpenGrant,
    opening: Opening,
    state: ReceivedState,
    accept: Option<Bytes>,
    key: Option<Bytes>,
    adopt: bool,
    ended: String,
    at_ms: UnixMs,
}

impl Engine {
    // --- made

    pub(super) fn item_of(&self, place: &Place, to: &DeviceId) -> Result<Option<OwnItem>, Failure> {
        match place {
            Place::Library => {
                let recovery = self.library_recovery()?;
                let library = self.published_library()?;
                Ok(library.map(|library| OwnItem::Library { library: bytes_of(&library), recovery }))
            }
            Place::Contact { party } => self.contact_item(*party),
            Place::Given { grant } => Ok(self.given.get(grant).map(given_item)),
            Place::Received { grant } => Ok(self.received_item(grant, to)),
            Place::Segment { device, seq } => {
                let parent = if *device == self.device() { OWN_SHELF.to_vec() } else { own_shelf_of(device) };
                let row = self.store.get(SEGMENTS, &parent, &seq.to_be_bytes())?;
                let both = row.map(|row| decode_row::<SegmentAndKeys>(&row)).transpose()?;
                Ok(both.map(|both| OwnItem::Segment { segment: both.segment, keys: both.keys }))
            }
            Place::Release { grant, id } => {
                let row = self.store.get(RELEASES, grant.as_bytes(), id.as_bytes())?;
                Ok(row.map(|release| OwnItem::Release { release: release.into() }))
            }
            Place::Receipt { grant, id } => {
                let row = self.store.get(RECEIPTS, grant.as_bytes(), id.as_bytes())?;
                Ok(row.map(|receipt| OwnItem::Receipt { receipt: receipt.into() }))
            }
        }
    }

    fn contact_item(&self, party: PartyId) -> Result<Option<OwnItem>, Failure> {
        if let Some(contact) = self.contacts.get(&party).filter(|contact| contact.row.known) {
            let (card, alias) = (Some(contact.row.card.clone()), contact.row.alias.clone());
            return Ok(Some(OwnItem::Contact { party, card, alias, at_ms: decided_ms(&contact.row) }));
        }
        let forgotten: Option<UnixMs> = self.row(DEVICES, FORGOTTEN, party.as_bytes())?;
        Ok(forgotten.map(|at_ms| OwnItem::Contact { party, card: None, alias: String::new(), at_ms }))
    }

    fn received_item(&self, grant: &GrantId, to: &DeviceId) -> Option<OwnItem> {
        let got = self.got.get(grant)?;
        // Sealed to the one device that asks, at the moment it asks: no other place ever holds it.
        let recipients = self.mine().state.devices.get(to)?;
        let key = self.ring.reading(grant).filter(|_| got.is_live());
        let key = key.and_then(|key| seal::seal_to(key.expose_seed(), recipients).ok()).map(Bytes::from);
        Some(OwnItem::Received {
            opening: got.row.opening.clone(),
            state: told_state(got.row.state),
            accept: got.row.accept.clone(),
            key,
            adopt: got.row.adopt,
            ended: got.row.ended.clone(),
            at_ms: got.row.at_ms,
        })
    }

    /// The answer to a device of the own party that asks what there is to tell.
    pub(in super::super) fn own_asked(
        &mut self,
        peer: DeviceId,
        from: u64,
        there: u64,
    ) -> Result<Response, Failure> {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.own_there = Some(there);
        }
        self.told_to(&peer, from)
    }

    // --- taken

    /// What another own device told, and where to go on asking: in one commit.
    pub(in super::super) fn take_own(
        &mut self,
        peer: DeviceId,
        items: Vec<OwnItem>,
        next: u64,
        there: u64,
    ) -> Result<(), Failure> {
        for item in items {
            self.take_item(item)?;
        }
        self.tell_segments_on()?;
        self.set_cursor(&peer, next.min(there))?;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.own_there = Some(there);
        }
        Ok(())
    }

    fn take_item(&mut self, item: OwnItem) -> Result<(), Failure> {
        match item {
            OwnItem::Library { library, recovery } => self.take_library(&library, &recovery),
            OwnItem::Contact { party, card, alias, at_ms } => self.take_contact(party, card, &alias, at_ms),
            OwnItem::Given { opening, exclude, accept, delivered, at_ms } => {
                let row = GivenRow {
                    opening,
                    exclude,
                    delivered,
                    accept: None,
                    segments: 0,
                    last: None,
                    handed_back: false,
                    at_ms,
                };
                self.take_given(row, accept)
            }
            OwnItem::Received { opening, state, accept, key, adopt, ended, at_ms } => {
                match opening.verify() {
                    Ok(open) => {
                        let told = ToldReceived { open, opening, state, accept, key, adopt, ended, at_ms };
                        self.take_received(told)
                    }
                    Err(_) => Ok(()),
                }
            }
            OwnItem::Segment { segment, keys } => self.take_own_segment(SegmentAndKeys { segment, keys }),
            OwnItem::Release { release } => {
                let Ok(release) = Signed::<Release>::from_bytes(release.to_vec()).verify() else {
                    return Ok(());
                };
                let (grant, id) = (release.grant, release.id());
                if self.store.get(RELEASES, grant.as_bytes(), id.as_bytes())?.is_some() {
                    return Ok(());
                }
                self.put_bytes(RELEASES, grant.as_bytes(), id.as_bytes(), release.bytes().to_vec())?;
                self.touch(Place::Release { grant, id })
            }
            OwnItem::Receipt { receipt } => {
                let Ok(receipt) = Signed::<Receipt>::from_bytes(receipt.to_vec()).verify() else {
                    return Ok(());
                };
                let (grant, id) = (receipt.grant, receipt.id());
                if self.store.get(RECEIPTS, grant.as_bytes(), id.as_bytes())?.is_some() {
                    return Ok(());
                }
                self.put_bytes(RECEIPTS, grant.as_bytes(), id.as_bytes(), receipt.bytes().to_vec())?;
                self.touch(Place::Receipt { grant, id })
            }
        }
    }

    fn take_contact(
        &mut self,
        party: PartyId,
        card: Option<Bytes>,
        alias: &str,
        at_ms: UnixMs,
    ) -> Result<(), Failure> {
        let held = self.contacts.get(&party).filter(|contact| contact.row.known);
        let held_ms = held.map(|contact| decided_ms(&contact.row));
        let forgotten: Option<UnixMs> = self.row(DEVICES, FORGOTTEN, party.as_bytes())?;
        let stale = held_ms.max(forgotten).is_some_and(|held_ms| held_ms >= at_ms);
        if stale || at_ms > self.now.saturating_add(CLOCK_SKEW_MS_MAX) || party == self.me.party {
            return Ok(());
        }
        let Some(card) = card else {
            return self.forget_contact(party, at_ms);
        };
        let Ok(introduced) = card::introduce(&card) else { return Ok(()) };
        if introduced.log.party() == party {
            self.keep_told_contact(party, introduced, alias, at_ms)?;
        }
        Ok(())
    }

    fn take_given(&mut self, row: GivenRow, accept: Option<Bytes>) -> Result<(), Failure> {
        let Ok(open) = row.opening.verify() else { return Ok(()) };
        let is_ours = open.holder() == Some(self.me.party) && open.scope.is_some();
        let log = &self.mine().log;
        let own_and_unknown = open.entry.by().device == self.device() && !log.holds(&open.id().into());
        // A grant of this very device that it does not know: the own log will show that this is an older copy.
        if !is_ours || own_and_unknown {
            return Ok(());
        }
        let id = open.id();
        let entry = open.entry.clone();
        if self.take_entry(self.me.party, entry.clone())? {
            self.refresh(self.me.party);
            self.push_entry(&entry);
        }
        let mut changed = false;
        match self.given.get_mut(&id) {
            Some(given) => {
                changed |= row.delivered && !given.row.delivered;
                given.row.delivered |= row.delivered;
            }
            None => {
                self.given.insert(id, Given::fresh(row, open));
                changed = true;
            }
        }
        if changed {
            self.save_given(id)?;
        }
        let accept = accept.and_then(|bytes| Signed::<Accept>::from_bytes(bytes.to_vec()).verify().ok());
        match accept.filter(|accept| accept.grant == id) {
            Some(accept) => self.take_told_accept(accept),
            None => Ok(()),
        }
    }

    fn take_received(&mut self, told: ToldReceived) -> Result<(), Failure> {
        let Some(holder) = told.open.holder() else { return Ok(()) };
        if told.open.reader() != self.me.party || told.open.scope.is_none() || holder == self.me.party {
            return Ok(());
        }
        let id = told.open.id();
        if !self.got.contains_key(&id) {
            let _ = self.take_entries(holder, vec![told.open.entry.clone()])?;
            let row = GotRow::offered(told.opening.clone(), holder, told.at_ms);
            self.got.insert(id, Got::of(row, told.open.clone())?);
            self.save_got(id)?;
            self.touch(Place::Received { grant: id })?;
        }
        let held = self.got.get(&id).map_or(GotState::Ended, |got| got.row.state);
        match (held, told.state) {
            (GotState::Ended, _) | (_, ReceivedState::Offered) => Ok(()),
            (_, ReceivedState::Ended) => self.end_got(id, &told.ended),
            (GotState::Offered, ReceivedState::Declined) => {
                if let Some(got) = self.got.get_mut(&id) {
                    got.row.state = GotState::Declined;
                }
                self.save_got(id)?;
                self.touch(Place::Received { grant: id })
            }
            (_, ReceivedState::Declined) => Ok(()),
            (_, ReceivedState::Accepted) => self.take_own_accept(id, &told),
        }
    }

    /// The party's yes to a grant, given on another device, with the key that reads under it.
    fn take_own_accept(&mut self, id: GrantId, told: &ToldReceived) -> Result<(), Failure> {
        let accept = told.accept.as_ref().map(|bytes| Signed::<Accept>::from_bytes(bytes.to_vec()).verify());
        let Some(Ok(accept)) = accept else { return Ok(()) };
        let state = &self.mine().state;
        let is_ours = accept.grant == id
            && accept.reader == self.me.party
            && accept.is_by(self.me.party)
            && state.has_device(&accept.by().device);
        let Some(key) = told.key.as_ref().and_then(|sealed| self.opened_key(sealed)).filter(|_| is_ours)
        else {
            return Ok(());
        };
        let Some(got) = self.got.get(&id) else { return Ok(()) };
        let held = got.accept.as_ref().filter(|held| state.has_device(&held.by().device) && got.is_live());
        let wins = held.is_none_or(|held| {
            (accept.n, std::cmp::Reverse(accept.id())) > (held.n, std::cmp::Reverse(held.id()))
        });
        if !wins || key.recipient() != accept.recipient {
            return Ok(());
        }
        let rows = self.rows_under(id)?;
        self.ring.keep(id, key)?;
        self.begin_under(id, accept, told.adopt)?;
        self.put_again(id, rows)?;
        self.touch(Place::Received { grant: id })
    }

    fn opened_key(&self, sealed: &[u8]) -> Option<SealingKey> {
        let seed = seal::open_with(sealed, &[&self.keys.sealing], READING_KEY_BYTES).ok()?;
        let seed: zeroize::Zeroizing<[u8; READING_KEY_BYTES]> =
            zeroize::Zeroizing::new(seed.as_slice().try_into().ok()?);
        Some(SealingKey::from_seed(&seed))
    }

    // --- a received grant under another reading key

    /// Yes again from this device, with a fresh key. What has arrived stays.
    pub(super) fn accept_under_new_key(&mut self, id: GrantId, adopt: bool) -> Result<(), Failure> {
        let rows = self.rows_under(id)?;
        self.accept(id, adopt)?;
        self.put_again(id, rows)
    }

    fn rows_under(&self, id: GrantId) -> Result<Vec<(RecordId, ReceivedRow)>, Failure> {
        let mut rows = Vec::new();
        self.each_received(&id, &mut |record, row| rows.push((record, row)))?;
        Ok(rows)
    }

    fn put_again(&mut self, id: GrantId, rows: Vec<(RecordId, ReceivedRow)>) -> Result<(), Failure> {
        rows.into_iter().try_for_each(|(record, row)| self.put_received(id, record, &row))
    }

    /// The Accept that counts from now on; every shelf under it begins anew.
    fn begin_under(&mut self, id: GrantId, accept: Verified<Accept>, adopt: bool) -> Result<(), Failure> {
        self.delete_received_shelves(id)?;
        if let Some(got) = self.got.get_mut(&id) {
            got.row.accept = Some(bytes_of(&accept));
            got.row.state = GotState::Accepted;
            got.row.delivered = false;
            got.row.adopt |= adopt;
            got.row.forget_chains();
            got.there.clear();
            got.accept = Some(accept);
            got.wanted = true;
        }
        for peer in self.peers.values_mut() {
            peer.denied.remove(&id);
            peer.accept_told.remove(&id);
        }
        self.save_got(id)
    }

    /// Segments of every holder device's chain under a grant.
    pub(in super::super) fn delete_received_shelves(&mut self, id: GrantId) -> Result<(), Failure> {
        let devices: Vec<DeviceId> = match self.got.get(&id) {
            Some(got) => got.row.chains.iter().map(|chain| chain.device).collect(),
            None => vec![],
        };
        self.delete_all(SEGMENTS, id.as_bytes())?;
        devices.into_iter().try_for_each(|device| self.delete_all(SEGMENTS, &shelf_of(&id, &device)))
    }

    /// Live grants whose key in the ring is not the one of their Accept: a stop came between keystore and store.
    pub(in super::super) fn mend_reading_keys(&mut self) -> Result<(), Failure> {
        if !self.is_sound() || self.is_clock_behind() {
            return Ok(());
        }
        let torn = self.got.iter().filter(|(id, got)| {
            let held = self.ring.reading(id).map(SealingKey::recipient);
            let named = got.accept.as_ref().map(|accept| accept.recipient.clone());
            got.is_live() && held.is_some() && held != named
        });
        let torn: Vec<(GrantId, bool)> = torn.map(|(id, got)| (*id, got.row.adopt)).collect();
        for (id, adopt) in torn {
            // What was sealed under the key that is gone opens no more: it is fetched again.
            self.delete_all(super::super::rows::RECEIVED, id.as_bytes())?;
            self.delete_received_shelves(id)?;
            self.accept(id, adopt)?;
        }
        Ok(())
    }
}

fn decided_ms(row: &ContactRow) -> UnixMs {
    row.changed_ms.max(row.since_ms)
}

fn given_item(given: &Given) -> OwnItem {
    OwnItem::Given {
        opening: given.row.opening.clone(),
        exclude: given.row.exclude.clone(),
        accept: given.row.accept.clone(),
        delivered: given.row.delivered,
        at_ms: given.row.at_ms,
    }
}

fn told_state(state: GotState) -> ReceivedState {
    match state {
        GotState::Offered => ReceivedState::Offered,
        GotState::Accepted => ReceivedState::Accepted,
        GotState::Declined => ReceivedState::Declined,
        GotState::Ended => ReceivedState::Ended,
    }
}

fn bytes_of<T: karte_protocol::signed::Statement>(signed: &Verified<T>) -> Bytes {
    Bytes::from(signed.bytes().to_vec())
}
