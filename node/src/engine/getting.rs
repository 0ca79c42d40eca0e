//! Grants this party received: accept, sync, verify, open, end.

use super::devices::Place;
use super::labels::Arrival;
use super::lacking::Lacking;
use super::library::{Seen, seen_of};
use super::peers::Duty;
use super::rows::{ChainRow, GOT, GotRow, GotState, LABELS, OUTBOX, ReceivedRow, SEGMENTS, TOP, shelf_of};
use super::{Effect, Engine, decode_row, find_id};
use crate::failure::{Failure, Kind};
use karte_protocol::card;
use karte_protocol::consent::Accept;
use karte_protocol::decide::{Clause, Denial};
use karte_protocol::encoding;
use karte_protocol::grant::{OPENING_BYTES_MAX, Onward, OpenGrant, Opening};
use karte_protocol::id::{DeviceId, GrantId, PartyId, RecordId};
use karte_protocol::identity::State;
use karte_protocol::keys::SealingKey;
use karte_protocol::label;
use karte_protocol::limits::CLOCK_SKEW_MS_MAX;
use karte_protocol::message::{Bytes, Request, SegmentAndKeys};
use karte_protocol::seal;
use karte_protocol::shelf::{self, Handed, Segment, Shelf, ShelfHead};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::UnixMs;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Offers of one holder that may wait for an answer. 1,000: nobody reads more.
const OFFERS_MAX: usize = 1_000;

/// A grant this party received.
pub(super) struct Got {
    pub(super) row: GotRow,
    pub(super) open: OpenGrant,
    pub(super) accept: Option<Verified<Accept>>,
    /// Handed over, and not here yet.
    pub(super) missing: Lacking,
    /// Handed over, and not to be had in this session.
    pub(super) absent: BTreeMap<RecordId, Handed>,
    /// Segments that each of the holder's devices says there are in its chain.
    pub(super) there: BTreeMap<DeviceId, u64>,
    /// Asked for by a sync, or due because the session is new.
    pub(super) wanted: bool,
    /// Stewards were called to help in this session.
    pub(super) helpers_called: bool,
    /// What the running or last sync brought.
    pub(super) run: Run,
}

/// What a sync brought under one grant.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    pub(super) received: u64,
    pub(super) bytes: u64,
    pub(super) refused: u64,
    pub(super) denied: bool,
    pub(super) broken: Option<String>,
    /// Payload bytes of what comes from each device just now.
    pub(super) underway: BTreeMap<DeviceId, u64>,
}

impl Got {
    pub(super) fn of(row: GotRow, open: OpenGrant) -> Result<Self, Failure> {
        let accept = match &row.accept {
            Some(bytes) => Some(Signed::<Accept>::from_bytes(bytes.to_vec()).verify()?),
            None => None,
        };
        let there = row.chains.iter().map(|chain| (chain.device, chain.segments)).collect();
        Ok(Self {
            row,
            open,
            accept,
            missing: Lacking::default(),
            absent: BTreeMap::new(),
            there,
            wanted: false,
            helpers_called: false,
            run: Run::default(),
        })
    }

    pub(super) fn is_live(&self) -> bool {
        self.row.state == GotState::Accepted
    }
}

/// Whether a peer may show what a device of the holder signed: itself, or a steward.
fn speaks_of(holder: &State, device: &DeviceId, peer: &DeviceId) -> bool {
    holder.has_device(device) && (device == peer || holder.has_steward_device(peer))
}

impl Engine {
    pub(super) fn load_got(&mut self) -> Result<(), Failure> {
        for (_, row) in self.rows::<GotRow>(GOT, TOP)? {
            let open = row.opening.verify()?;
            let id = open.id();
            let mut got = Got::of(row, open)?;
            let mut missing = Lacking::default();
            self.each_received(&id, &mut |record, row| {
                if row.label.is_none() {
                    missing.insert(row.handed(record));
                }
            })?;
            got.missing = missing;
            self.got.insert(id, got);
        }
        let mut owes = BTreeSet::new();
        self.store.scan_table(OUTBOX, &mut |holder, _, _| {
            owes.extend(PartyId::from_slice(holder));
            std::ops::ControlFlow::Continue(())
        })?;
        self.owes_receipts = owes;
        Ok(())
    }

    /// Rows of the time when a holder had one device: its chain gets that device's name.
    pub(super) fn move_chains(&mut self) -> Result<(), Failure> {
        let old = self.got.iter().filter(|(_, got)| got.row.segments > 0).map(|(id, _)| *id);
        for id in old.collect::<Vec<_>>() {
            let rows = self.values(SEGMENTS, id.as_bytes())?;
            let first = rows.first().and_then(|(_, row)| decode_row::<SegmentAndKeys>(row).ok());
            let first = first.map(|both| Signed::<Segment>::from_bytes(both.segment.to_vec()).verify());
            let Some(got) = self.got.get_mut(&id) else { continue };
            let (segments, last, head_ms) = (got.row.segments, got.row.last, got.row.head_ms);
            got.row.forget_chains();
            if let Some(Ok(segment)) = first {
                let device = segment.by().device;
                got.row.keep_chain(ChainRow { device, segments, last, head_ms });
                got.there.insert(device, segments);
                for (seq, row) in rows {
                    self.put_bytes(SEGMENTS, &shelf_of(&id, &device), &seq, row)?;
                }
            }
            self.delete_all(SEGMENTS, id.as_bytes())?;
            self.save_got(id)?;
        }
        Ok(())
    }

    /// Keys are written around the commit, not in it. A grant whose key is gone was ending when the node stopped: it
    /// ends now. A key whose grant is not accepted was made for an acceptance that nobody has seen: it is destroyed.
    pub(super) fn match_keys_with_grants(&mut self) -> Result<(), Failure> {
        for id in self.ring.held() {
            if !self.got.get(&id).is_some_and(Got::is_live) {
                self.ring.destroy(&id)?;
            }
        }
        for id in self.got.keys().copied().collect::<Vec<_>>() {
            let accepted = self.got.get(&id).is_some_and(Got::is_live);
            if accepted && self.ring.reading(&id).is_none() {
                self.end_got(id, "its reading key is gone")?;
            }
        }
        Ok(())
    }

    pub(super) fn save_got(&mut self, id: GrantId) -> Result<(), Failure> {
        match self.got.get(&id).map(|got| got.row.clone()) {
            Some(row) => self.put(GOT, TOP, id.as_bytes(), &row),
            None => Ok(()),
        }
    }

    // --- offer and acceptance

    /// A grant that a contact gave us.
    pub(super) fn take_offer(&mut self, from: PartyId, sealed: &[u8]) -> Result<bool, Failure> {
        let Ok(bytes) = seal::open_with(sealed, &[&self.keys.sealing], OPENING_BYTES_MAX) else {
            return Ok(false);
        };
        let Ok(opening) = encoding::decode::<Opening>(&bytes, OPENING_BYTES_MAX) else {
            return Ok(false);
        };
        let Ok(open) = opening.verify() else {
            return Ok(false);
        };
        let is_for_us = open.holder() == Some(from) && open.reader() == self.me.party && open.scope.is_some();
        if !is_for_us {
            return Ok(false);
        }
        let id = open.id();
        if self.got.contains_key(&id) {
            return Ok(true);
        }
        let open_offers =
            self.got.values().filter(|got| got.row.holder == from && got.row.state == GotState::Offered);
        if open_offers.count() >= OFFERS_MAX {
            return Ok(false);
        }
        // Whether it was new says nothing here: it may have been pushed before the offer.
        let _ = self.take_entries(from, vec![open.entry.clone()])?;
        let got = Got::of(GotRow::offered(opening, from, self.now), open)?;
        self.got.insert(id, got);
        self.save_got(id)?;
        self.touch(Place::Received { grant: id })?;
        let name = self.name_of(from);
        // With a clock that cannot be believed nothing is signed by itself: the offer waits for its user.
        if self.policy.accept_grants && !self.is_clock_behind() {
            self.accept(id, self.policy.adopt)?;
            self.notice(format!("{name} offers grant {}, accepted by your settings", id.short()));
        } else {
            self.notice(format!("{name} offers grant {0}: `karte grant accept {0}`", id.short()));
        }
        self.honour_ends(from)?;
        Ok(true)
    }

    pub(super) fn accept_by_hand(&mut self, text: &str, adopt: bool) -> Result<Vec<Value>, Failure> {
        let id = self.find_got(text)?;
        let state = self.got.get(&id).map(|got| got.row.state);
        match state {
            Some(GotState::Offered | GotState::Declined) => self.accept(id, adopt)?,
            Some(GotState::Accepted) => {
                if let Some(got) = self.got.get_mut(&id) {
                    got.row.adopt = adopt;
                }
                self.save_got(id)?;
                self.touch(Place::Received { grant: id })?;
            }
            Some(GotState::Ended) | None => {
                return Err(Failure::refused(format!("grant {} has ended", id.short()))
                    .next("Ask its holder for a new one."));
            }
        }
        Ok(vec![self.view_got(id)])
    }

    /// A fresh reading key, kept before the signed Accept names it.
    pub(super) fn accept(&mut self, id: GrantId, adopt: bool) -> Result<(), Failure> {
        self.require_clock()?;
        self.require_sound()?;
        let key = SealingKey::generate(self.chance.as_mut());
        let recipient = key.recipient();
        self.ring.keep(id, key)?;
        let Some(got) = self.got.get(&id) else {
            return Ok(());
        };
        let n = got.accept.as_ref().map_or(0, |accept| accept.n + 1);
        let accept = Accept { grant: id, reader: self.me.party, n, recipient };
        let signed = Verified::sign(accept, self.by(), &self.keys.device)?;
        self.delete_received_shelves(id)?;
        if let Some(got) = self.got.get_mut(&id) {
            got.row.accept = Some(signed.bytes().to_vec().into());
            got.row.state = GotState::Accepted;
            got.row.delivered = false;
            got.row.adopt = adopt;
            got.row.forget_chains();
            got.there.clear();
            got.accept = Some(signed);
            got.wanted = true;
        }
        for peer in self.peers.values_mut() {
            peer.denied.remove(&id);
            peer.accept_told.remove(&id);
        }
        self.save_got(id)?;
        self.touch(Place::Received { grant: id })
    }

    pub(super) fn decline(&mut self, text: &str) -> Result<Vec<Value>, Failure> {
        let id = self.find_got(text)?;
        match self.got.get(&id).map(|got| got.row.state) {
            Some(GotState::Offered) => {
                if let Some(got) = self.got.get_mut(&id) {
                    got.row.state = GotState::Declined;
                }
                self.save_got(id)?;
                self.touch(Place::Received { grant: id })?;
            }
            Some(GotState::Accepted) => self.end_got(id, "declined by this node's user")?,
            _ => {}
        }
        Ok(vec![self.view_got(id)])
    }

    fn find_got(&self, text: &str) -> Result<GrantId, Failure> {
        find_id("grant", text, self.got.keys().map(|id| (id.to_hex(), *id)))
    }

    /// Any grant, given or received.
    pub(super) fn find_grant(&self, text: &str) -> Result<GrantId, Failure> {
        find_id("grant", text, self.given.keys().chain(self.got.keys()).map(|id| (id.to_hex(), *id)))
    }

    pub(super) fn show_grants(&self) -> Result<Vec<Value>, Failure> {
        let given = self.given.iter().map(|(id, given)| (given.row.at_ms, self.view_given(*id)));
        let got = self.got.iter().map(|(id, got)| (got.row.at_ms, self.view_got(*id)));
        let mut views: Vec<(UnixMs, Value)> = given.chain(got).collect();
        views.sort_by_key(|(at, _)| *at);
        Ok(views.into_iter().map(|(_, view)| view).collect())
    }

    pub(super) fn show_grant(&self, text: &str) -> Result<Vec<Value>, Failure> {
        let id = self.find_grant(text)?;
        Ok(vec![if self.given.contains_key(&id) { self.view_given(id) } else { self.view_got(id) }])
    }

    pub(super) fn view_got(&self, id: GrantId) -> Value {
        let Some(got) = self.got.get(&id) else {
            return Value::Null;
        };
        let mut view = self.view_grant(id, &got.open.opened, got.open.scope.as_ref(), got.row.holder);
        let state = match got.row.state {
            GotState::Offered => "offered",
            GotState::Accepted => "active",
            GotState::Declined => "declined",
            GotState::Ended => "ended",
        };
        let mut here = 0;
        // A count of what can be read; a store that fails here fails louder elsewhere.
        let _ = self.each_received(&id, &mut |_, row| here += u64::from(row.label.is_some()));
        if let Some(object) = view.as_object_mut() {
            object.insert("state".into(), json!(state));
            object.insert("direction".into(), json!("received"));
            object.insert("ended".into(), json!(got.row.ended));
            object.insert("adopt".into(), json!(got.row.adopt));
            object.insert("records".into(), json!(here));
            object.insert("missing".into(), json!(got.missing.len()));
        }
        view
    }

    pub(super) fn has_live_grants_with(&self, party: PartyId) -> bool {
        let given = self.given.iter().any(|(id, given)| {
            given.open.reader() == party && self.standing(*id, &given.open.opened).is_none()
        });
        given || self.got.values().any(|got| got.row.holder == party && got.is_live())
    }

    // --- asking

    pub(super) fn accept_request(&self, id: GrantId) -> Option<Request> {
        let accept = self.got.get(&id)?.accept.as_ref()?;
        Some(Request::Accept { accept: accept.bytes().to_vec().into() })
    }

    pub(super) fn accept_delivered(&mut self, peer: DeviceId, id: GrantId) -> Result<(), Failure> {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.accept_told.insert(id);
            state.denied.remove(&id);
        }
        if self.got.get(&id).is_some_and(|got| got.row.delivered) {
            return Ok(());
        }
        if let Some(got) = self.got.get_mut(&id) {
            got.row.delivered = true;
            got.wanted = true;
        }
        self.save_got(id)
    }

    /// A shelf head, asked for or pushed: of the chain of the device that signed it. An older one than held is a
    /// rollback and is refused.
    pub(super) fn take_head(&mut self, peer: DeviceId, id: GrantId, bytes: &[u8]) -> Result<(), Failure> {
        let Ok(head) = Signed::<ShelfHead>::from_bytes(bytes).verify() else {
            return Ok(());
        };
        let Some(got) = self.got.get(&id) else {
            return Ok(());
        };
        let device = head.by().device;
        let by_holder = self
            .logs
            .get(&got.row.holder)
            .is_some_and(|held| head.is_by(got.row.holder) && speaks_of(&held.state, &device, &peer));
        let is_ours = got.accept.as_ref().is_some_and(|accept| head.accept == accept.id());
        let told = head.chains.iter().find(|chain| chain.device == device).map(|chain| chain.segments);
        let Some(segments) = told.filter(|_| by_holder && is_ours && head.grant == id) else {
            return Ok(());
        };
        if head.issued_ms > self.now.saturating_add(CLOCK_SKEW_MS_MAX) {
            // Taken once, it would make every later head of a holder whose clock was mended look like an older one.
            self.notice(format!("a shelf of grant {} from the future was refused", id.short()));
            return Ok(());
        }
        let held = got.row.chain(device);
        let rolled_back = head.issued_ms < held.head_ms || segments < held.segments;
        if rolled_back && segments >= held.segments {
            // An older word that takes nothing back: a steward's copy of it.
            return Ok(());
        }
        if rolled_back {
            self.notice(format!("an older shelf of grant {} was refused", id.short()));
            return Ok(());
        }
        if let Some(got) = self.got.get_mut(&id) {
            got.row.keep_chain(ChainRow { head_ms: head.issued_ms, ..held });
            got.there.insert(device, segments);
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.reads.insert(id, device);
        }
        // Kept with the segments it announces: a head by itself is not worth a row.
        Ok(())
    }

    /// Segments in order: each must link to the one before and be signed by the holder.
    pub(super) fn take_segments(
        &mut self,
        peer: DeviceId,
        id: GrantId,
        segments: &[SegmentAndKeys],
    ) -> Result<(), Failure> {
        let device = self.chain_read(peer, &id);
        if segments.is_empty() {
            // The holder names more than it gives: wait for its next word instead of asking for ever.
            if let Some(got) = self.got.get_mut(&id) {
                got.there.insert(device, got.row.chain(device).segments);
            }
        }
        for both in segments {
            if let Err(reason) = self.take_segment(device, id, both) {
                self.notice(format!("a segment of grant {} was refused: {reason}", id.short()));
                if let Some(got) = self.got.get_mut(&id) {
                    got.there.insert(device, got.row.chain(device).segments);
                    got.run.broken = Some(reason.message);
                }
                return Ok(());
            }
        }
        self.save_got(id)
    }

    /// Segments that came with the word of them: taken if they are the next ones. Else they are asked for, as ever.
    pub(super) fn take_news(
        &mut self,
        peer: DeviceId,
        id: GrantId,
        segments: &[SegmentAndKeys],
    ) -> Result<(), Failure> {
        let Some(got) = self.got.get(&id).filter(|got| got.is_live()) else { return Ok(()) };
        let device = self.chain_read(peer, &id);
        let held = got.row.chain(device).segments;
        let first =
            segments.first().map(|both| Signed::<Segment>::from_bytes(both.segment.to_vec()).verify());
        let asked =
            self.peers.get(&peer).is_some_and(|state| state.outstanding.contains(&Duty::Segments(id)));
        let is_next = matches!(first, Some(Ok(first)) if first.seq == held);
        match is_next && !asked && got.there.get(&device).is_some_and(|there| *there > held) {
            true => self.take_segments(peer, id, segments),
            false => Ok(()),
        }
    }

    /// The next segment of a holder device's chain.
    fn take_segment(&mut self, device: DeviceId, id: GrantId, both: &SegmentAndKeys) -> Result<(), Failure> {
        let segment = Signed::<Segment>::from_bytes(both.segment.to_vec()).verify()?;
        let got = self.got.get(&id).ok_or_else(|| Failure::failed("unknown grant"))?;
        let accept = got.accept.as_ref().ok_or_else(|| Failure::failed("not accepted"))?.id();
        let holder = self.logs.get(&got.row.holder).ok_or_else(|| Failure::failed("unknown holder"))?;
        let by_holder = segment.is_by(got.row.holder) && holder.state.has_device(&device);
        let by_holder = by_holder && segment.by().device == device;
        let held = got.row.chain(device);
        let links = segment.seq == held.segments && segment.prev == held.last;
        if !by_holder || !links || segment.shelf != (Shelf::Granted { grant: id, accept }) {
            return Err(Failure::failed("it does not continue the holder's shelf"));
        }
        let key = self.ring.reading(&id).ok_or(Denial { grant: id, clause: Clause::KeyGone })?;
        let handed = shelf::open_keys(&segment, &both.keys, &[key])?;
        for record in &segment.withdrawn {
            self.drop_received(id, *record)?;
        }
        for item in handed {
            if self.received_row(&id, &item.record)?.is_some() {
                continue;
            }
            let row = ReceivedRow::pending(&item, self.now);
            self.put_received(id, item.record, &row)?;
            if let Some(got) = self.got.get_mut(&id) {
                got.missing.insert(item);
            }
        }
        self.put(SEGMENTS, &shelf_of(&id, &device), &segment.seq.to_be_bytes(), both)?;
        if let Some(got) = self.got.get_mut(&id) {
            got.row.keep_chain(ChainRow { segments: segment.seq + 1, last: Some(segment.id()), ..held });
        }
        Ok(())
    }

    // --- arriving

    /// Payloads are here and durable. Each label is opened, traced to its author and compared with the scope.
    pub(super) fn arrived(
        &mut self,
        peer: DeviceId,
        id: GrantId,
        records: Vec<Arrival>,
    ) -> Result<(), Failure> {
        if let Some(holder) = self.pulled_for(&id) {
            return self.kept_arrived(holder, records);
        }
        if id == self.own_fetch() {
            return self.own_arrived(peer, records);
        }
        if self.is_recall(&id) {
            return self.came_back(records);
        }
        let mut adopted = 0;
        for mut arrival in records {
            let record = arrival.record;
            let handed = match self.got.get_mut(&id).filter(|got| got.is_live()) {
                Some(got) => got.missing.remove(&record),
                None => None,
            };
            let Some(handed) = handed else {
                self.drop_if_unneeded(vec![record])?;
                continue;
            };
            let judged = arrival.judge(&handed, &mut self.authors);
            adopted += u64::from(self.verify_arrival(id, &handed, arrival.label, judged)?);
        }
        if adopted > 0 {
            self.notice(format!("{adopted} records were taken into your own"));
        }
        self.tell_progress(id);
        Ok(())
    }

    /// True if the record was adopted.
    fn verify_arrival(
        &mut self,
        id: GrantId,
        handed: &Handed,
        sealed_label: Vec<u8>,
        judged: Result<Verified<label::Label>, String>,
    ) -> Result<bool, Failure> {
        let mut row = ReceivedRow::pending(handed, self.now);
        match judged.and_then(|label| self.within_scope(id, handed, label)) {
            Ok(label) => row.label = Some(label.bytes().to_vec().into()),
            Err(reason) => {
                // Its place is kept, so that it is not fetched again, and nobody is shown it.
                row.label = Some(Bytes::default());
                row.quarantine = Some(reason.clone());
                self.notice(format!("record {} was put aside: {reason}", handed.record.short()));
                if let Some(got) = self.got.get_mut(&id) {
                    got.run.refused += 1;
                }
            }
        }
        self.put_received(id, handed.record, &row)?;
        if self.own_row(&handed.record)?.is_none() {
            self.no_longer_lost(&handed.record)?;
        }
        if row.quarantine.is_some() {
            return Ok(false);
        }
        self.put_bytes(LABELS, id.as_bytes(), handed.record.as_bytes(), sealed_label)?;
        self.out.push(Effect::Arrived(id, handed.record));
        if let Some(got) = self.got.get_mut(&id) {
            got.run.received += 1;
            got.run.bytes += handed.bytes;
        }
        let adopts = self.got.get(&id).is_some_and(|got| got.row.adopt);
        match seen_of(id, handed.record, &row) {
            Some(seen) if adopts && self.adopts_by_itself(&seen) => self.adopt(&seen),
            _ => Ok(false),
        }
    }

    fn within_scope(
        &self,
        id: GrantId,
        handed: &Handed,
        label: Verified<label::Label>,
    ) -> Result<Verified<label::Label>, String> {
        let got = self.got.get(&id).ok_or("its grant is unknown")?;
        let in_scope = label.subject == got.open.opened.subject
            && got.open.scope.as_ref().is_some_and(|scope| scope.covers(&handed.record, &label));
        if !in_scope && !wrong!(QuarantineIgnored) {
            return Err("it is outside the scope of its grant".into());
        }
        Ok(label)
    }

    /// SPEC rule 11, without asking: a record about this party, written by its holder or another contact.
    fn adopts_by_itself(&self, seen: &Seen) -> bool {
        let author = seen.label.by().party;
        seen.label.subject == self.me.party
            && author.is_some_and(|author| author == self.me.party || self.is_known(author))
    }

    /// SPEC rule 11: only the subject itself, or by `onward: keep`.
    fn may_adopt(&self, seen: &Seen) -> bool {
        let keeps = seen
            .grant
            .and_then(|grant| self.got.get(&grant))
            .is_some_and(|got| got.open.opened.onward == Onward::Keep);
        seen.label.subject == self.me.party || keeps
    }

    pub(super) fn adopt_by_hand(&mut self, text: &str) -> Result<Vec<Value>, Failure> {
        let seen = self.find_record(text)?;
        if seen.grant.is_some() && !self.may_adopt(&seen) {
            return Err(Failure::refused(
                "only a record about yourself, or one given with --onward keep, can be taken over",
            )
            .next("Ask its holder for a grant with --onward keep."));
        }
        let fresh = seen.grant.is_some() && self.adopt(&seen)?;
        let mut view = self.view_record(&seen);
        if let Some(object) = view.as_object_mut() {
            object.insert("adopted".into(), json!(fresh));
        }
        Ok(vec![view])
    }

    pub(super) fn run_failure(&self, id: GrantId) -> Option<Failure> {
        let got = self.got.get(&id)?;
        let name = self.name_of(got.row.holder);
        if got.row.state == GotState::Ended {
            return Some(
                Failure::refused(format!("grant {} of {name} has ended: {}", id.short(), got.row.ended))
                    .next("Ask for a new grant if you still need to read."),
            );
        }
        if got.run.denied {
            return Some(
                Failure::refused(format!("{name} denied grant {}", id.short()))
                    .next("It may have ended; ask its holder."),
            );
        }
        got.run.broken.as_ref().map(|reason| {
            Failure::new(Kind::Unreachable, format!("the transfer from {name} broke off: {reason}"))
                .next("Repeat `karte sync`: what has arrived is kept.")
        })
    }
}

/// A card's bytes, checked; used for Hello.
pub(super) fn introduce(bytes: &[u8]) -> Option<card::Introduced> {
    card::introduce(bytes).ok()
}
