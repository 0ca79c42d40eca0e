//! What a steward takes from its holder: grants and shelves as statements, payloads on a stream that it opens.
//!
//! Nothing is believed because it comes from the holder: every statement is signed by one of its live devices, every
//! payload hashes to its name, every label to the hash that the holder named.

use super::super::peers::Duty;
use super::super::rows::{
    ENTRIES, KEPT_FOR, KEPT_RECORDS, KEPT_SEGMENTS, KEPT_SHELVED, KeptRecordRow, KeptRow,
};
use super::super::{Arrival, Effect, Engine, Expected, FetchEnd, Held};
use super::{Errand, KeptShelf};
use crate::failure::Failure;
use crate::store::Batch;
use karte_protocol::consent::{Accept, Library};
use karte_protocol::encoding;
use karte_protocol::grant::{OPENING_BYTES_MAX, Opening};
use karte_protocol::id::{DeviceId, EntryId, GrantId, ObjectId, PartyId, RecordId, digest};
use karte_protocol::identity::PartyLog;
use karte_protocol::limits::WANTS_MAX;
use karte_protocol::message::{Bytes, Fetch, Keep, KeptSegment, Response, SegmentAndKeys, Want};
use karte_protocol::seal;
use karte_protocol::shelf::{Segment, Shelf, ShelfHead};
use karte_protocol::signed::{Signed, Statement, Verified};

/// Grants kept for one holder. 10,000: far more readers than anybody has.
const GRANTS_MAX: usize = 10_000;

/// Why something is not kept.
enum Refusal {
    /// It is not what it should be.
    Wrong,
    /// It would be more than was offered.
    Full,
}

impl Engine {
    pub(in super::super) fn take_keep(&mut self, from: PartyId, keep: Keep) -> Result<Response, Failure> {
        if !self.keeps_for(from) {
            return Ok(Response::Denied);
        }
        let taken = match keep {
            Keep::Grant { opening, accept, reader } => {
                self.take_kept_grant(from, &opening, &accept, &reader)?
            }
            Keep::Shelf { grant, head, segments } => self.take_kept_shelf(from, grant, &head, &segments)?,
            Keep::Own { library, segments } => self.take_own_shelf(from, &library, &segments)?,
        };
        Ok(match (taken, self.steward.keeping.get(&from)) {
            (Ok(()), _) => Response::Done,
            (Err(Refusal::Full), Some(kept)) => {
                Response::Full { quota_bytes: kept.row.quota_bytes, used_bytes: kept.used_bytes }
            }
            _ => Response::Denied,
        })
    }

    // --- statements

    /// The grant as a steward may see it, its Accept, and who its reader is.
    fn take_kept_grant(
        &mut self,
        holder: PartyId,
        sealed: &[u8],
        accept: &[u8],
        reader: &[Bytes],
    ) -> Result<Result<(), Refusal>, Failure> {
        let opening = seal::open_with(sealed, &[&self.keys.sealing], OPENING_BYTES_MAX)
            .ok()
            .and_then(|bytes| encoding::decode::<Opening>(&bytes, OPENING_BYTES_MAX).ok());
        let Some((opening, open)) =
            opening.and_then(|opening| Some((opening.clone(), opening.verify().ok()?)))
        else {
            return Ok(Err(Refusal::Wrong));
        };
        let Ok(accept) = Signed::<Accept>::from_bytes(accept.to_vec()).verify() else {
            return Ok(Err(Refusal::Wrong));
        };
        let (id, party) = (open.id(), open.reader());
        // A steward is not told what a grant covers, and does not want to be.
        let fits = open.holder() == Some(holder)
            && open.scope.is_none()
            && accept.grant == id
            && accept.is_by(party)
            && accept.reader == party;
        let Some(kept) = self.steward.keeping.get(&holder) else { return Ok(Err(Refusal::Wrong)) };
        let room = kept.grants.contains_key(&id) || kept.grants.len() < GRANTS_MAX;
        if !fits || !room || !self.learn_reader(party, reader)? {
            return Ok(Err(Refusal::Wrong));
        }
        let _ = self.take_entries(holder, vec![open.entry.clone()])?;
        let ended = self.logs.get(&holder).is_none_or(|held| {
            held.state.revoked.contains(&id) || open.entry.by().r#gen != held.state.generation
        });
        if ended || self.now >= open.opened.not_after_ms {
            return Ok(Err(Refusal::Wrong));
        }
        let before = self.steward.keeping.get(&holder).and_then(|kept| kept.grants.get(&id));
        let same = before.is_some_and(|shelf| shelf.accept.as_ref().map(Verified::id) == Some(accept.id()));
        if !same {
            // Another acceptance is another reading key: its shelf begins anew.
            self.clear_kept_shelf(holder, id)?;
            let row = KeptRow {
                reader: party,
                opening: Some(opening),
                accept: Some(accept.bytes().to_vec().into()),
                head: None,
                segments: 0,
                last: None,
            };
            let shelf = KeptShelf { row, open: Some(open), accept: Some(accept), head: None };
            if let Some(kept) = self.steward.keeping.get_mut(&holder) {
                kept.grants.insert(id, shelf);
            }
        }
        self.save_kept(holder, id)?;
        Ok(Ok(()))
    }

    /// The identity entries of a reader. It becomes no contact by them.
    fn learn_reader(&mut self, party: PartyId, entries: &[Bytes]) -> Result<bool, Failure> {
        let entries = Self::verify_entries(entries);
        if party == self.me.party {
            return Ok(true);
        }
        if let std::collections::btree_map::Entry::Vacant(unknown) = self.logs.entry(party) {
            let Some(genesis) = entries.first() else { return Ok(false) };
            let Some(log) = PartyLog::start(genesis.clone()).ok().filter(|log| log.party() == party) else {
                return Ok(false);
            };
            unknown.insert(Held::of(log));
            let id = EntryId::from(genesis.id());
            self.put_bytes(ENTRIES, party.as_bytes(), id.as_bytes(), genesis.bytes().to_vec())?;
        }
        let identity = entries.into_iter().filter(|entry| entry.act.is_identity()).collect();
        self.take_entries(party, identity)?;
        Ok(true)
    }

    fn take_kept_shelf(
        &mut self,
        holder: PartyId,
        grant: GrantId,
        head: &[u8],
        segments: &[KeptSegment],
    ) -> Result<Result<(), Refusal>, Failure> {
        let kept = self.steward.keeping.get(&holder).and_then(|kept| kept.grants.get(&grant));
        let Some(accept) = kept.and_then(|shelf| shelf.accept.as_ref()).map(Verified::id) else {
            return Ok(Err(Refusal::Wrong));
        };
        for both in segments {
            let kept = self.steward.keeping.get(&holder).and_then(|kept| kept.grants.get(&grant));
            let end = kept.map(|shelf| (shelf.row.segments, shelf.row.last));
            let Some(segment) = self.segment_of(holder, both) else { return Ok(Err(Refusal::Wrong)) };
            let continues = Some((segment.seq, segment.prev)) == end;
            if !continues || segment.shelf != (Shelf::Granted { grant, accept }) {
                return Ok(Err(Refusal::Wrong));
            }
            if let Err(refusal) = self.keep_segment(holder, grant.as_bytes(), &segment, both)? {
                return Ok(Err(refusal));
            }
            if let Some(shelf) =
                self.steward.keeping.get_mut(&holder).and_then(|kept| kept.grants.get_mut(&grant))
            {
                (shelf.row.segments, shelf.row.last) = (segment.seq + 1, Some(segment.id()));
            }
            self.save_kept(holder, grant)?;
        }
        let Some(head) = self.signed_by_holder::<ShelfHead>(holder, head) else {
            return Ok(Err(Refusal::Wrong));
        };
        let fits = head.grant == grant && head.accept == accept;
        if let Some(shelf) = self
            .steward
            .keeping
            .get_mut(&holder)
            .and_then(|kept| kept.grants.get_mut(&grant))
            .filter(|_| fits)
            && shelf.head.as_ref().is_none_or(|held| held.issued_ms <= head.issued_ms)
        {
            shelf.row.head = Some(head.bytes().to_vec().into());
            shelf.head = Some(head);
        }
        self.save_kept(holder, grant)?;
        Ok(Ok(()))
    }

    fn take_own_shelf(
        &mut self,
        holder: PartyId,
        library: &[u8],
        segments: &[KeptSegment],
    ) -> Result<Result<(), Refusal>, Failure> {
        let Some(library) = self.signed_by_holder::<Library>(holder, library) else {
            return Ok(Err(Refusal::Wrong));
        };
        for both in segments {
            let end = self.steward.keeping.get(&holder).map(|kept| (kept.row.segments, kept.row.last));
            let Some(segment) = self.segment_of(holder, both) else { return Ok(Err(Refusal::Wrong)) };
            let continues = Some((segment.seq, segment.prev)) == end;
            if !continues || !matches!(segment.shelf, Shelf::Own { .. }) {
                return Ok(Err(Refusal::Wrong));
            }
            if let Err(refusal) = self.keep_segment(holder, holder.as_bytes(), &segment, both)? {
                return Ok(Err(refusal));
            }
            if let Some(kept) = self.steward.keeping.get_mut(&holder) {
                (kept.row.segments, kept.row.last) = (segment.seq + 1, Some(segment.id()));
            }
            self.save_keeping(holder)?;
        }
        if let Some(kept) = self.steward.keeping.get_mut(&holder) {
            kept.row.library = Some(library.bytes().to_vec().into());
        }
        self.save_keeping(holder)?;
        Ok(Ok(()))
    }

    /// A statement of a live device of the holder.
    fn signed_by_holder<T: Statement>(&self, holder: PartyId, bytes: &[u8]) -> Option<Verified<T>> {
        let signed = Signed::<T>::from_bytes(bytes.to_vec()).verify().ok()?;
        let state = &self.logs.get(&holder)?.state;
        (signed.is_by(holder) && state.has_device(&signed.by().device)).then_some(signed)
    }

    /// A segment whose keys and record list are those it was signed with.
    fn segment_of(&self, holder: PartyId, both: &KeptSegment) -> Option<Verified<Segment>> {
        let segment = self.signed_by_holder::<Segment>(holder, &both.segment)?;
        let lists = both.records.iter().map(|kept| &kept.record).eq(&segment.records);
        (lists && digest(&both.keys) == segment.keys_hash).then_some(segment)
    }

    /// One segment onto a shelf that is kept, if its records fit.
    fn keep_segment(
        &mut self,
        holder: PartyId,
        shelf: &[u8],
        segment: &Segment,
        both: &KeptSegment,
    ) -> Result<Result<(), Refusal>, Failure> {
        let mut fresh = Vec::new();
        for kept in &both.records {
            if self.store.get(KEPT_RECORDS, holder.as_bytes(), kept.record.as_bytes())?.is_none() {
                fresh.push(kept);
            }
        }
        let more = fresh.iter().fold(0_u64, |sum, kept| sum.saturating_add(kept.bytes));
        let Some(kept) = self.steward.keeping.get_mut(&holder) else { return Ok(Err(Refusal::Wrong)) };
        if kept.used_bytes.saturating_add(more) > kept.row.quota_bytes {
            return Ok(Err(Refusal::Full));
        }
        kept.used_bytes += more;
        kept.missing.extend(fresh.iter().map(|kept| (kept.record, (kept.bytes, kept.label_hash))));
        let pair = SegmentAndKeys { segment: both.segment.clone(), keys: both.keys.clone() };
        let mut batch = Batch::default();
        batch.put(KEPT_SEGMENTS, shelf, &segment.seq.to_be_bytes(), encoding::encode(&pair)?);
        for record in &segment.records {
            batch.put(KEPT_SHELVED, shelf, record.as_bytes(), vec![]);
        }
        for kept in fresh {
            let row = KeptRecordRow { bytes: kept.bytes, label_hash: kept.label_hash, label: None };
            batch.put(KEPT_RECORDS, holder.as_bytes(), kept.record.as_bytes(), encoding::encode(&row)?);
            batch.put(KEPT_FOR, kept.record.as_bytes(), holder.as_bytes(), vec![]);
        }
        for record in &segment.withdrawn {
            batch.delete(KEPT_SHELVED, shelf, record.as_bytes());
        }
        self.write(batch)?;
        self.let_go(holder, segment.withdrawn.clone())?;
        Ok(Ok(()))
    }

    // --- payloads

    pub(super) fn start_pull(&mut self, peer: DeviceId, holder: PartyId) {
        let Some(kept) = self.steward.keeping.get(&holder) else { return };
        let Some(entry) = kept.entry else { return };
        let listed: Vec<(&RecordId, u64)> =
            kept.missing.iter().take(WANTS_MAX).map(|(record, (bytes, _))| (record, *bytes)).collect();
        let wants =
            listed.iter().map(|(record, _)| Want { record: **record, from: 0, label: true }).collect();
        let expected = listed.iter().map(|(_, bytes)| Expected::of(*bytes)).collect();
        let accept = ObjectId::from(*entry.as_bytes());
        let fetch = Fetch { grant: entry.into(), accept, wants, back: false, keep: true, urgent: false };
        self.out.push(Effect::Fetch(peer, fetch, expected));
        if let Some(state) = self.peers.get_mut(&peer) {
            state.outstanding.insert(Duty::Steward(Errand::Pull(holder)));
        }
    }

    /// The holder for whom something is fetched under this name.
    pub(in super::super) fn pulled_for(&self, entry: &GrantId) -> Option<PartyId> {
        let entry = EntryId::from(*entry);
        let mut kept = self.steward.keeping.iter();
        kept.find(|(_, kept)| kept.entry == Some(entry)).map(|(holder, _)| *holder)
    }

    /// Payloads are here and durable, each with its sealed label.
    pub(in super::super) fn kept_arrived(
        &mut self,
        holder: PartyId,
        records: Vec<Arrival>,
    ) -> Result<(), Failure> {
        for Arrival { record, label, .. } in records {
            let listed =
                self.steward.keeping.get(&holder).and_then(|kept| kept.missing.get(&record)).copied();
            let Some((bytes, label_hash)) = listed.filter(|(_, hash)| digest(&label) == *hash) else {
                // A label that is not the one that was named: not asked for again on this connection.
                if let Some(kept) = self.steward.keeping.get_mut(&holder)
                    && let Some(listed) = kept.missing.remove(&record)
                {
                    kept.absent.insert(record, listed);
                }
                self.drop_if_unneeded(vec![record])?;
                continue;
            };
            let row = KeptRecordRow { bytes, label_hash, label: Some(label.into()) };
            self.put(KEPT_RECORDS, holder.as_bytes(), record.as_bytes(), &row)?;
            if let Some(kept) = self.steward.keeping.get_mut(&holder) {
                kept.missing.remove(&record);
            }
        }
        let whole = self.steward.keeping.get(&holder).is_some_and(|kept| kept.missing.is_empty());
        for state in self.peers.values_mut().filter(|state| whole && state.party == Some(holder)) {
            // A word from here, and the holder asks what is kept now.
            state.owe_a_status();
        }
        Ok(())
    }

    pub(in super::super) fn pull_ended(
        &mut self,
        peer: DeviceId,
        holder: PartyId,
        missing: &[RecordId],
        end: &FetchEnd,
    ) {
        let duty = Duty::Steward(Errand::Pull(holder));
        let now = self.now;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.outstanding.remove(&duty);
            if *end != FetchEnd::Whole {
                state.pause(duty, now);
            }
        }
        if let Some(kept) = self.steward.keeping.get_mut(&holder) {
            for record in missing {
                // Not to be had now: asked for again on the next connection.
                if let Some(listed) = kept.missing.remove(record) {
                    kept.absent.insert(*record, listed);
                }
            }
        }
    }

    /// On a new connection to a holder all that it did not have before is asked for again.
    pub(in super::super) fn ask_absent_again(&mut self, holder: PartyId) {
        if let Some(kept) = self.steward.keeping.get_mut(&holder) {
            let mut absent = std::mem::take(&mut kept.absent);
            kept.missing.append(&mut absent);
        }
    }
}
