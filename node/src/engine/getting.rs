//! Grants this party received: accept, sync, verify, open, end.

use super::devices::Place;
use super::library::{Seen, seen_of};
use super::peers::Duty;
use super::rows::{ChainRow, GOT, GotRow, GotState, LABELS, OUTBOX, ReceivedRow, SEGMENTS, TOP, shelf_of};
use super::{Effect, Engine, FetchEnd, decode_row, find_id};
use crate::failure::{Failure, Kind};
use karte_protocol::card;
use karte_protocol::consent::{Accept, Release};
use karte_protocol::decide::{Clause, Denial};
use karte_protocol::encoding;
use karte_protocol::entry::Entry;
use karte_protocol::grant::{OPENING_BYTES_MAX, Onward, OpenGrant, Opening};
use karte_protocol::id::{DeviceId, GrantId, PartyId, RecordId, digest};
use karte_protocol::identity::{PartyLog, State};
use karte_protocol::keys::SealingKey;
use karte_protocol::label;
use karte_protocol::limits::{CLOCK_SKEW_MS_MAX, SESSION_MS_MAX, WANTS_MAX};
use karte_protocol::message::{Bytes, Fetch, Request, Response, SegmentAndKeys, Want};
use karte_protocol::seal;
use karte_protocol::shelf::{self, Handed, Segment, Shelf, ShelfHead};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::{MINUTE_MS, UnixMs};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How long a denied grant is not asked for again without being told to, in milliseconds. 5 minutes.
const DENIED_FOR_MS: i64 = 5 * MINUTE_MS;
/// Offers of one holder that may wait for an answer. 1,000: nobody reads more.
const OFFERS_MAX: usize = 1_000;

/// A grant this party received.
pub(super) struct Got {
    pub(super) row: GotRow,
    pub(super) open: OpenGrant,
    pub(super) accept: Option<Verified<Accept>>,
    /// Handed over, and not here yet.
    pub(super) missing: BTreeMap<RecordId, Handed>,
    /// Handed over, and not to be had in this session.
    absent: BTreeMap<RecordId, Handed>,
    /// Segments that each of the holder's devices says there are in its chain.
    pub(super) there: BTreeMap<DeviceId, u64>,
    /// Asked for by a sync, or due because the session is new.
    pub(super) wanted: bool,
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
    /// Payload bytes of the running fetch.
    pub(super) underway: u64,
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
            missing: BTreeMap::new(),
            absent: BTreeMap::new(),
            there,
            wanted: false,
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
            let mut missing = BTreeMap::new();
            self.each_received(&id, &mut |record, row| {
                if row.label.is_none() {
                    missing.insert(record, row.handed(record));
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

    /// What to ask a holder for next, as duties.
    pub(super) fn reading_duties(&self, holder: PartyId, peer: DeviceId) -> Vec<Duty> {
        let mut duties = Vec::new();
        let sessions = self.peers.get(&peer);
        for (id, got) in self.got.iter().filter(|(_, got)| got.row.holder == holder && got.is_live()) {
            let is_the_holders = sessions.is_some_and(|state| state.party == Some(holder));
            // Each device of the holder has to have it, and one may not have heard it from another yet.
            let told = sessions.is_some_and(|state| state.accept_told.contains(id));
            if !got.row.delivered || (is_the_holders && !told && self.has_several_devices(holder)) {
                // An acceptance is the holder's to take: without it a steward has nothing for us.
                duties.extend(is_the_holders.then_some(Duty::Accept(*id)));
                continue;
            }
            let session = sessions.and_then(|state| state.sessions.get(id)).copied();
            let runs_out = session.is_none_or(|until| until < self.now + 5 * MINUTE_MS);
            let denied =
                sessions.and_then(|state| state.denied.get(id)).is_some_and(|until| self.now < *until);
            // One device of the holder at a time is enough; another is asked when that one says no or goes away.
            let read_elsewhere = self.is_read_elsewhere(*id, &peer);
            if denied || read_elsewhere {
                continue;
            }
            let chain = self.chain_read(peer, id);
            let there = got.there.get(&chain).copied().unwrap_or_default();
            if got.wanted || (runs_out && self.policy.live) {
                duties.push(Duty::Release(*id));
            } else if session.is_some() && there > got.row.chain(chain).segments {
                duties.push(Duty::Segments(*id));
            } else if session.is_some() && !got.missing.is_empty() {
                duties.push(Duty::Fetch(*id));
            }
        }
        duties
    }

    /// Whose chain of a shelf is read on a connection: a device's own, or the one that a steward shows.
    pub(super) fn chain_read(&self, peer: DeviceId, id: &GrantId) -> DeviceId {
        self.peers.get(&peer).and_then(|state| state.reads.get(id)).copied().unwrap_or(peer)
    }

    fn has_several_devices(&self, party: PartyId) -> bool {
        self.logs.get(&party).is_some_and(|held| held.state.devices.len() > 1)
    }

    /// Whether a session under a grant is open or being asked for on another connection.
    fn is_read_elsewhere(&self, id: GrantId, peer: &DeviceId) -> bool {
        self.peers.iter().filter(|(other, _)| *other != peer).any(|(_, state)| {
            state.sessions.get(&id).is_some_and(|until| self.now + 5 * MINUTE_MS <= *until)
                || state.outstanding.contains(&Duty::Release(id))
                || state.outstanding.contains(&Duty::Fetch(id))
        })
    }

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

    pub(super) fn release_request(
        &mut self,
        peer: DeviceId,
        id: GrantId,
    ) -> Result<Option<Request>, Failure> {
        let nonce = self.chance.salt();
        let chain = self.chain_read(peer, &id);
        let staff = self.peers.get(&peer).map(|state| state.staff.clone()).unwrap_or_default();
        let Some(got) = self.got.get_mut(&id) else {
            return Ok(None);
        };
        let Some(accept) = &got.accept else {
            return Ok(None);
        };
        got.wanted = false;
        let release = Release {
            grant: id,
            accept: accept.id(),
            to: peer,
            purpose: got.open.opened.purpose.clone(),
            staff: if staff.is_empty() { "karte".into() } else { staff },
            since: got.row.chain(chain).segments,
            nonce,
            at_ms: self.now,
        };
        let signed = Verified::sign(release, self.by(), &self.keys.device)?;
        Ok(Some(Request::Release { release: signed.bytes().to_vec().into() }))
    }

    /// The holder opened a session.
    pub(super) fn session_opened(&mut self, peer: DeviceId, id: GrantId, head: &[u8]) -> Result<(), Failure> {
        let until = self.now + SESSION_MS_MAX;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.sessions.insert(id, until);
            state.denied.remove(&id);
        }
        if let Some(got) = self.got.get_mut(&id) {
            let mut absent = std::mem::take(&mut got.absent);
            got.missing.append(&mut absent);
        }
        self.take_head(peer, id, head)
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
                got.missing.insert(item.record, item);
            }
        }
        self.put(SEGMENTS, &shelf_of(&id, &device), &segment.seq.to_be_bytes(), both)?;
        if let Some(got) = self.got.get_mut(&id) {
            got.row.keep_chain(ChainRow { segments: segment.seq + 1, last: Some(segment.id()), ..held });
        }
        Ok(())
    }

    /// The next want-list.
    pub(super) fn start_fetch(&mut self, peer: DeviceId, id: GrantId) -> bool {
        let Some(got) = self.got.get_mut(&id) else {
            return false;
        };
        let Some(accept) = got.accept.as_ref().map(Verified::id) else {
            return false;
        };
        let handed: Vec<&Handed> = got.missing.values().take(WANTS_MAX).collect();
        let wants = handed.iter().map(|item| Want { record: item.record, from: 0, label: true }).collect();
        let lengths = handed.iter().map(|item| item.bytes).collect();
        got.run.underway = 0;
        self.out.push(Effect::Fetch(
            peer,
            Fetch { grant: id, accept, wants, back: false, keep: false },
            lengths,
        ));
        true
    }

    // --- arriving

    /// Payloads are here and durable. Each label is opened, traced to its author and compared with the scope.
    pub(super) fn arrived(
        &mut self,
        peer: DeviceId,
        id: GrantId,
        records: Vec<(RecordId, Vec<u8>)>,
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
        for (record, sealed_label) in records {
            let handed = match self.got.get_mut(&id).filter(|got| got.is_live()) {
                Some(got) => got.missing.remove(&record),
                None => None,
            };
            let Some(handed) = handed else {
                self.drop_if_unneeded(vec![record])?;
                continue;
            };
            adopted += u64::from(self.verify_arrival(id, &handed, &sealed_label)?);
        }
        if adopted > 0 {
            self.notice(format!("{adopted} records were taken into your own"));
        }
        self.tell_progress(id);
        Ok(())
    }

    /// True if the record was adopted.
    fn verify_arrival(&mut self, id: GrantId, handed: &Handed, sealed_label: &[u8]) -> Result<bool, Failure> {
        let mut row = ReceivedRow::pending(handed, self.now);
        match self.judge_label(id, handed, sealed_label) {
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
        self.put_bytes(LABELS, id.as_bytes(), handed.record.as_bytes(), sealed_label.to_vec())?;
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

    fn judge_label(
        &self,
        id: GrantId,
        handed: &Handed,
        sealed: &[u8],
    ) -> Result<Verified<label::Label>, String> {
        if digest(sealed) != handed.label_hash {
            return Err("its label is not the one that was handed over".into());
        }
        let opened = label::open_label(sealed, &handed.file_key).map_err(|error| error.to_string())?;
        let author =
            author_of(&opened.label, &opened.identity).ok_or("its author's signature cannot be traced")?;
        if !opened.label.is_by(author) {
            return Err("its author's signature cannot be traced".into());
        }
        let got = self.got.get(&id).ok_or("its grant is unknown")?;
        let in_scope = opened.label.subject == got.open.opened.subject
            && got.open.scope.as_ref().is_some_and(|scope| scope.covers(&handed.record, &opened.label));
        if !in_scope && !wrong!(QuarantineIgnored) {
            return Err("it is outside the scope of its grant".into());
        }
        if seal::payload_bytes(opened.label.bytes) != handed.bytes {
            return Err("its length is not the one its label names".into());
        }
        Ok(opened.label)
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

    pub(super) fn receiving(&mut self, _peer: DeviceId, id: GrantId, bytes: u64) {
        if let Some(got) = self.got.get_mut(&id) {
            got.run.underway = bytes;
        }
        self.tell_progress(id);
    }

    pub(super) fn fetch_ended(
        &mut self,
        peer: DeviceId,
        id: GrantId,
        missing: &[RecordId],
        end: &FetchEnd,
    ) -> Result<(), Failure> {
        if let Some(holder) = self.pulled_for(&id) {
            self.pull_ended(peer, holder, missing, end);
            return Ok(());
        }
        if id == self.own_fetch() {
            self.own_fetch_ended(peer, missing, end);
            return Ok(());
        }
        if self.is_recall(&id) {
            self.recall_ended(peer, id, missing, end);
            return Ok(());
        }
        let again = self.now + DENIED_FOR_MS;
        if let Some(state) = self.peers.get_mut(&peer) {
            if !state.outstanding.remove(&Duty::Fetch(id)) {
                // The last word of an earlier connection.
                return Ok(());
            }
            if *end == FetchEnd::Denied {
                state.sessions.remove(&id);
                state.denied.insert(id, again);
            }
        }
        if let Some(got) = self.got.get_mut(&id) {
            for record in missing {
                // Not there any more: it is asked for again in a later session, not in this one.
                if let Some(handed) = got.missing.remove(record) {
                    got.absent.insert(*record, handed);
                }
                got.run.refused += 1;
            }
            match end {
                FetchEnd::Whole => {}
                FetchEnd::Denied => got.run.denied = true,
                FetchEnd::Broken(reason) => {
                    got.run.broken = Some(reason.clone());
                    // Not again on this connection without being told to.
                    if let Some(state) = self.peers.get_mut(&peer) {
                        state.sessions.remove(&id);
                        state.denied.insert(id, again);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_session(
        &mut self,
        peer: DeviceId,
        id: GrantId,
        response: Response,
    ) -> Result<(), Failure> {
        match response {
            Response::Session { status, head } => {
                self.hear_status(peer, &status)?;
                self.session_opened(peer, id, &head)
            }
            _ => {
                self.session_denied(peer, id);
                Ok(())
            }
        }
    }

    /// The holder said no. Why, it does not say; its log, which we may follow, may.
    pub(super) fn session_denied(&mut self, peer: DeviceId, id: GrantId) {
        let again = self.now + DENIED_FOR_MS;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.sessions.remove(&id);
            state.denied.insert(id, again);
        }
        // Another device of the holder may say yes: this one may have been without word from it for too long.
        let holder = self.got.get(&id).map(|got| got.row.holder);
        let others = self.peers.values().filter(|state| state.is_greeted() && state.party == holder);
        let unasked = others.into_iter().any(|state| !state.denied.contains_key(&id));
        if let Some(got) = self.got.get_mut(&id) {
            got.run.denied = !unasked;
            got.wanted |= unasked;
        }
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

/// The party whose identity entries name the device that signed the label.
pub(crate) fn author_of(label: &Verified<label::Label>, identity: &[Vec<u8>]) -> Option<PartyId> {
    let mut entries = identity.iter().map(|bytes| Signed::<Entry>::from_bytes(bytes.clone()).verify());
    let genesis = entries.next()?.ok()?;
    let mut log = PartyLog::start(genesis).ok()?;
    for entry in entries {
        log.add(entry.ok()?).ok()?;
    }
    let state = log.state();
    state.has_device(&label.by().device).then(|| log.party())
}

/// A card's bytes, checked; used for Hello.
pub(super) fn introduce(bytes: &[u8]) -> Option<card::Introduced> {
    card::introduce(bytes).ok()
}
