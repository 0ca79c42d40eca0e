//! What should be on the disk by the rows, and how what is lost comes back.
//!
//! For: `karte store check` and `repair`. Payloads themselves are read by the runtime, which tells what it found.
//! A received record comes back from its holder by the ordinary fetch; an own one from a reader that it was handed
//! to or a steward that keeps it, which gives back the ciphertext that this party made (SPEC section 9, "Asking back").

use super::library::recall_label;
use super::peers::Duty;
use super::rows::{
    CAME_BY, ChainRow, GOT, LABELS, LOST, OWN, OWN_SHELF, OwnRow, RECEIVED, ReceivedRow, SEGMENTS, SHELVED,
    TOP, shelf_of,
};
use super::{Arrival, Effect, Engine, Expected, FetchEnd, Serving, decode_row};
use crate::failure::Failure;
use karte_protocol::entry::Act;
use karte_protocol::id::{DeviceId, EntryId, GrantId, ObjectId, PartyId, RecordId, digest};
use karte_protocol::limits::WANTS_MAX;
use karte_protocol::message::{Fetch, SegmentAndKeys, Want};
use karte_protocol::shelf::{Handed, Segment};
use karte_protocol::signed::Signed;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// What the rows say should be there.
#[derive(Default)]
pub struct Inventory {
    /// Every payload that should be on the disk, with its length in bytes.
    pub payloads: BTreeMap<RecordId, u64>,
    /// What is wrong in the rows themselves, told as objects.
    pub faults: Vec<Value>,
    /// Records whose rows say that they are lost, or whose label is.
    pub lost: BTreeSet<RecordId>,
    /// Own records.
    pub own: u64,
    /// Received records that are here.
    pub received: u64,
    /// Received records that were promised and have not come yet.
    pub pending: u64,
}

/// What is wrong with a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// It is not there.
    Missing,
    /// Its bytes do not hash to its name, or cannot be read.
    Damaged,
}

impl Harm {
    fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
        }
    }
}

/// One shelf, for finding gaps in it.
struct Chained<'a> {
    what: &'a str,
    parent: &'a [u8],
    grant: Option<GrantId>,
    count: u64,
    next: &'a str,
}

impl Engine {
    pub(super) fn inventory(&self) -> Result<Inventory, Failure> {
        let mut found = Inventory::default();
        self.count_own(&mut found)?;
        self.count_received(&mut found)?;
        self.own_log_gaps(&mut found);
        self.shelf_gaps(&mut found)?;
        for record in self.lost_rows()? {
            found.lost.insert(record);
        }
        Ok(found)
    }

    fn count_own(&self, found: &mut Inventory) -> Result<(), Failure> {
        let mut failed = None;
        self.store.scan(OWN, TOP, &mut |item, value| {
            let one = RecordId::from_slice(item).map(|record| self.count_own_one(record, value, found));
            match one {
                Some(Err(failure)) => {
                    failed = Some(failure);
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn count_own_one(&self, record: RecordId, value: &[u8], found: &mut Inventory) -> Result<(), Failure> {
        found.own += 1;
        let Ok(row) = decode_row::<OwnRow>(value) else {
            found.faults.push(json!({ "fault": "row damaged", "record": record.to_hex(),
                "next": "`karte store rebuild` remakes the view from the journal." }));
            return Ok(());
        };
        found.payloads.insert(record, row.payload_bytes);
        let label = self.store.get(LABELS, TOP, record.as_bytes())?;
        if label.is_none_or(|label| digest(&label) != row.label_hash) {
            found.lost.insert(record);
            found.faults.push(self.fault(record, "label missing")?);
        }
        Ok(())
    }

    fn count_received(&self, found: &mut Inventory) -> Result<(), Failure> {
        for (id, got) in &self.got {
            let mut rows: Vec<(RecordId, ReceivedRow)> = Vec::new();
            self.each_received(id, &mut |record, row| rows.push((record, row)))?;
            for (record, row) in rows {
                if row.label.is_none() {
                    found.pending += 1;
                    continue;
                }
                if row.quarantine.is_some() {
                    continue;
                }
                found.received += 1;
                found.payloads.insert(record, row.payload_bytes);
                let label = self.store.get(LABELS, id.as_bytes(), record.as_bytes())?;
                if got.is_live() && label.is_none_or(|label| digest(&label) != row.label_hash) {
                    found.lost.insert(record);
                    found.faults.push(self.fault(record, "label missing")?);
                }
            }
        }
        Ok(())
    }

    fn own_log_gaps(&self, found: &mut Inventory) {
        let state = &self.mine().state;
        for head in &state.heads {
            let whole = state.complete.get(&head.device).copied().unwrap_or_default();
            if whole <= head.seq {
                found.faults.push(json!({
                    "fault": "entries missing",
                    "device": head.device.to_hex(),
                    "from": whole,
                    "until": head.seq,
                    "next": "`karte store repair` asks contacts for them.",
                }));
            }
        }
    }

    fn shelf_gaps(&self, found: &mut Inventory) -> Result<(), Failure> {
        let (own, _) = self.own_shelf_end()?;
        let next = "Records are not lost by it; only other own devices would miss their keys.";
        let shelf = Chained { what: "own shelf", parent: OWN_SHELF, grant: None, count: own, next };
        self.shelf_gap(&shelf, found)?;
        let ids: Vec<(GrantId, u64)> = self.live_shelves();
        for (id, count) in ids {
            let next = "Revoke this grant and give it again.";
            let shelf = Chained { what: "shelf given", parent: id.as_bytes(), grant: Some(id), count, next };
            self.shelf_gap(&shelf, found)?;
        }
        for (id, got) in self.got.iter().filter(|(_, got)| got.is_live()) {
            let next = "`karte store repair` asks its holder again.";
            for chain in &got.row.chains {
                let (parent, count) = (shelf_of(id, &chain.device), chain.segments);
                let shelf =
                    Chained { what: "shelf received", parent: &parent, grant: Some(*id), count, next };
                self.shelf_gap(&shelf, found)?;
            }
        }
        Ok(())
    }

    fn shelf_gap(&self, shelf: &Chained<'_>, found: &mut Inventory) -> Result<(), Failure> {
        if let Some((seq, _)) = self.first_gap(shelf.parent, shelf.count)? {
            found.faults.push(json!({
                "fault": format!("{} has a gap", shelf.what),
                "grant": shelf.grant.map(|grant| grant.to_hex()),
                "segment": seq,
                "segments": shelf.count,
                "next": shelf.next,
            }));
        }
        Ok(())
    }

    /// The first segment that is missing or does not link, and the one before it.
    fn first_gap(&self, parent: &[u8], count: u64) -> Result<Option<(u64, Option<ObjectId>)>, Failure> {
        let mut last = None;
        for seq in 0..count {
            let row = self.store.get(SEGMENTS, parent, &seq.to_be_bytes())?;
            let segment = row
                .and_then(|row| decode_row::<SegmentAndKeys>(&row).ok())
                .filter(|both| !both.keys.is_empty())
                .and_then(|both| Signed::<Segment>::from_bytes(both.segment.to_vec()).verify().ok());
            match segment.filter(|segment| segment.seq == seq && segment.prev == last) {
                Some(segment) => last = Some(segment.id()),
                None => return Ok(Some((seq, last))),
            }
        }
        Ok(None)
    }

    // --- what is lost

    fn lost_rows(&self) -> Result<Vec<RecordId>, Failure> {
        let mut lost = Vec::new();
        for (record, _) in self.values(LOST, TOP)? {
            let Some(record) = RecordId::from_slice(&record) else { continue };
            if self.needs(&record)? {
                lost.push(record);
            }
        }
        Ok(lost)
    }

    /// Who could give a record back, by name.
    fn sources(&self, record: &RecordId) -> Result<Vec<String>, Failure> {
        let mut names: BTreeSet<String> = self.readers_of(record)?.into_iter().collect();
        for (grant, _) in self.values(CAME_BY, record.as_bytes())? {
            let holder = GrantId::from_slice(&grant)
                .and_then(|grant| self.got.get(&grant))
                .filter(|got| got.is_live())
                .map(|got| got.row.holder);
            names.extend(holder.map(|holder| self.name_of(holder)));
        }
        if self.own_row(record)?.is_some() {
            names.extend(self.mine().state.stewards.keys().map(|steward| self.name_of(*steward)));
        }
        Ok(names.into_iter().collect())
    }

    fn fault(&self, record: RecordId, what: &str) -> Result<Value, Failure> {
        let own = self.own_row(&record)?;
        let title =
            own.as_ref().and_then(|row| recall_label(&row.label).ok()).map(|label| label.title.clone());
        let sources = self.sources(&record)?;
        let next = match sources.is_empty() {
            true => "No contact is known to have it: a backup may.".to_owned(),
            false => format!("`karte store repair` asks {}.", sources.join(", ")),
        };
        Ok(json!({
            "fault": what,
            "record": record.to_hex(),
            "title": title,
            "own": own.is_some(),
            "from": sources,
            "next": next,
        }))
    }

    /// Names payloads that are not there or not what they should be. With `mark` they are forgotten as held, so that
    /// the ordinary duties bring them again; lost labels and gaps in received shelves too.
    pub(super) fn take_lost(
        &mut self,
        payloads: &[(RecordId, Harm)],
        mark: bool,
    ) -> Result<Vec<Value>, Failure> {
        let mut views = Vec::new();
        for (record, harm) in payloads {
            views.push(self.fault(*record, &format!("payload {}", harm.word()))?);
        }
        if mark {
            let labels = self.inventory()?.lost;
            let records: BTreeSet<RecordId> =
                payloads.iter().map(|(record, _)| *record).chain(labels).collect();
            for record in records {
                self.forget_held(record)?;
            }
            self.mend_received_shelves()?;
            self.load_recalls()?;
        }
        Ok(views)
    }

    /// What the runtime has seen whole again.
    pub(super) fn found_again(&mut self, records: &[RecordId]) -> Result<(), Failure> {
        records.iter().try_for_each(|record| self.no_longer_lost(record))
    }

    fn forget_held(&mut self, record: RecordId) -> Result<(), Failure> {
        self.put_bytes(LOST, TOP, record.as_bytes(), vec![])?;
        for (grant, _) in self.values(CAME_BY, record.as_bytes())? {
            let Some(grant) = GrantId::from_slice(&grant) else { continue };
            let row = self.received_row(&grant, &record)?;
            let live = self.got.get(&grant).is_some_and(|got| got.is_live());
            let Some(row) = row.filter(|row| live && row.quarantine.is_none()) else { continue };
            let handed = row.handed(record);
            self.put_received(grant, record, &ReceivedRow::pending(&handed, self.now))?;
            if let Some(got) = self.got.get_mut(&grant) {
                got.missing.insert(handed);
            }
        }
        Ok(())
    }

    pub(super) fn no_longer_lost(&mut self, record: &RecordId) -> Result<(), Failure> {
        if self.store.get(LOST, TOP, record.as_bytes())?.is_some() {
            self.delete(LOST, TOP, record.as_bytes())?;
        }
        for recall in self.recalls.values_mut() {
            recall.remove(record);
        }
        Ok(())
    }

    /// From a gap on, a received shelf is asked for again; records that are here are passed over.
    fn mend_received_shelves(&mut self) -> Result<(), Failure> {
        for id in self.got.keys().copied().collect::<Vec<_>>() {
            let live = self.got.get(&id).filter(|got| got.is_live());
            let chains = live.map(|got| got.row.chains.clone()).unwrap_or_default();
            for chain in chains {
                let gap = self.first_gap(&shelf_of(&id, &chain.device), chain.segments)?;
                let (Some((segments, last)), Some(got)) = (gap, self.got.get_mut(&id)) else { continue };
                let there = got.there.entry(chain.device).or_default();
                *there = chain.segments.max(*there);
                got.row.keep_chain(ChainRow { segments, last, ..chain });
            }
            if let Some(row) = self.got.get(&id).map(|got| got.row.clone()) {
                self.put(GOT, TOP, id.as_bytes(), &row)?;
            }
        }
        Ok(())
    }

    // --- asking back: the holder's side

    /// Own records that are lost, by the live grant under which a reader may have them, and by the entry that names a
    /// steward which may.
    pub(super) fn load_recalls(&mut self) -> Result<(), Failure> {
        let mut recalls: BTreeMap<GrantId, BTreeMap<RecordId, Handed>> = BTreeMap::new();
        let ids = self.live_shelves();
        let stewards: Vec<GrantId> =
            self.mine().state.stewards.keys().filter_map(|steward| self.naming_of(*steward)).collect();
        for record in self.lost_rows()? {
            let Some(row) = self.own_row(&record)? else { continue };
            for entry in &stewards {
                recalls.entry(*entry).or_default().insert(record, row.handed(record));
            }
            for (id, _) in &ids {
                if self.store.get(SHELVED, id.as_bytes(), record.as_bytes())?.is_some() {
                    recalls.entry(*id).or_default().insert(record, row.handed(record));
                }
            }
        }
        self.recalls = recalls;
        Ok(())
    }

    /// The entry that names a live steward.
    fn naming_of(&self, steward: PartyId) -> Option<GrantId> {
        let mine = self.mine();
        let is_live = mine.state.stewards.contains_key(&steward);
        is_live.then(|| mine.log.names_steward(steward)).flatten().map(GrantId::from)
    }

    /// Whether payloads that come under this id are own ones that were lost.
    pub(super) fn is_recall(&self, id: &GrantId) -> bool {
        self.given.contains_key(id) || self.names_a_steward(id)
    }

    fn names_a_steward(&self, id: &GrantId) -> bool {
        let entry = self.mine().log.get(&EntryId::from(*id));
        entry.is_some_and(|entry| matches!(entry.act, Act::AddSteward { .. }))
    }

    pub(super) fn recall_duties(&self, party: PartyId) -> Vec<Duty> {
        let entry = self.naming_of(party);
        let has = |id: &GrantId| entry == Some(*id) || self.is_given_to(id, party);
        let due = self.recalls.iter().filter(|(id, lost)| !lost.is_empty() && has(id));
        due.map(|(id, _)| Duty::Recall(*id)).collect()
    }

    pub(super) fn start_recall(&mut self, peer: DeviceId, id: GrantId) -> bool {
        let keep = self.names_a_steward(&id);
        let entry = keep.then(|| ObjectId::from(*id.as_bytes()));
        let Some(accept) = entry.or_else(|| self.accept_of_given(&id)) else { return false };
        let Some(lost) = self.recalls.get(&id).filter(|lost| !lost.is_empty()) else { return false };
        let handed: Vec<&Handed> = lost.values().take(WANTS_MAX).collect();
        let wants = handed.iter().map(|item| Want { record: item.record, from: 0, label: true }).collect();
        let expected = handed.iter().map(|item| Expected::of(item.bytes)).collect();
        let fetch = Fetch { grant: id, accept, wants, back: !keep, keep, urgent: false };
        self.out.push(Effect::Fetch(peer, fetch, expected));
        true
    }

    /// Own payloads are here again, verified against their names, each with its sealed label.
    pub(super) fn came_back(&mut self, records: Vec<Arrival>) -> Result<(), Failure> {
        let mut back = 0;
        for Arrival { record, label: sealed, .. } in records {
            let Some(row) = self.own_row(&record)? else { continue };
            if digest(&sealed) != row.label_hash {
                continue;
            }
            self.put_bytes(LABELS, TOP, record.as_bytes(), sealed)?;
            self.no_longer_lost(&record)?;
            back += 1;
        }
        if back > 0 {
            self.notice(format!("{back} own records came back"));
        }
        Ok(())
    }

    pub(super) fn recall_ended(&mut self, peer: DeviceId, id: GrantId, missing: &[RecordId], end: &FetchEnd) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.outstanding.remove(&Duty::Recall(id));
            if *end != FetchEnd::Whole {
                state.pause(Duty::Recall(id), self.now);
            }
        }
        // Not to be had there: asked for again after the next repair or start.
        if let Some(lost) = self.recalls.get_mut(&id) {
            for record in missing {
                lost.remove(record);
            }
        }
    }

    // --- asking back: the reader's side

    /// What this reader gives back to the holder of a live grant: ciphertext that the holder made and handed over.
    pub(super) fn giving_back(&self, peer: DeviceId, fetch: &Fetch) -> Result<Option<Vec<Serving>>, Failure> {
        if !self.may_give_back(peer, fetch.grant) {
            return Ok(None);
        }
        let accepted = self.got.get(&fetch.grant).and_then(|got| got.accept.as_ref()).map(|held| held.id());
        if accepted != Some(fetch.accept) {
            return Ok(None);
        }
        let mut items = Vec::new();
        for want in &fetch.wants {
            items.push(self.given_back(fetch.grant, want)?);
        }
        Ok(Some(items))
    }

    /// Whether `peer` is a live device of the holder of a grant that is live here.
    pub(super) fn may_give_back(&self, peer: DeviceId, grant: GrantId) -> bool {
        let Some(got) = self.got.get(&grant).filter(|got| got.is_live()) else { return false };
        let greeted = self.peers.get(&peer).is_some_and(|state| state.party == Some(got.row.holder));
        let live = self.logs.get(&got.row.holder).is_some_and(|held| {
            held.state.has_device(&peer) && !held.state.disputed && !held.state.revoked.contains(&grant)
        });
        greeted && live && self.is_known(got.row.holder)
    }

    fn given_back(&self, grant: GrantId, want: &Want) -> Result<Serving, Failure> {
        let record = want.record;
        let row = self.received_row(&grant, &record)?;
        let here = row.filter(|row| row.label.is_some() && row.quarantine.is_none());
        let Some(row) = here else {
            return Ok(Serving { record, payload_bytes: 0, from: 0, label: None });
        };
        let label =
            if want.label { self.store.get(LABELS, grant.as_bytes(), record.as_bytes())? } else { None };
        Ok(Serving { record, payload_bytes: row.payload_bytes, from: want.from, label })
    }

    // --- sizes

    /// Counts for `karte store stats`.
    pub(super) fn count_rows(&self) -> Result<Value, Failure> {
        let (own, received) = self.count_records()?;
        let mut rows = 0_u64;
        for table in 1..=super::rows::TABLE_MAX {
            self.store.scan_table(crate::store::Table(table), &mut |_, _, _| {
                rows += 1;
                ControlFlow::Continue(())
            })?;
        }
        let entries: usize = self.logs.values().map(|held| held.log.in_order().len()).sum();
        let mut received_rows = 0_u64;
        self.store.scan_table(RECEIVED, &mut |_, _, _| {
            received_rows += 1;
            ControlFlow::Continue(())
        })?;
        Ok(json!({
            "own": own, "received": received, "received_rows": received_rows, "rows": rows, "entries": entries,
            "contacts": self.contacts.len(), "given": self.given.len(), "got": self.got.len(),
            "lost": self.lost_rows()?.len(), "commits": self.store.stats().commits,
            "journal_bytes": self.store.stats().journal_bytes,
        }))
    }
}
