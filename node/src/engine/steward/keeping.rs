//! The steward's side: for whom it keeps, how long, what it vouches for, and how that ends.

use super::super::rows::{
    KEEPING, KEPT, KEPT_RECORDS, KEPT_SEGMENTS, KEPT_SHELVED, KeepingRow, KeptRecordRow, KeptRow, OUTBOX,
    RECEIPTS, RELEASES, TOP,
};
use super::super::select::time_text;
use super::super::{Engine, Serving, decode_row};
use super::{Errand, Kept, KeptShelf};
use crate::failure::Failure;
use karte_protocol::consent::{Accept, Status};
use karte_protocol::decide::{Clause, Denial};
use karte_protocol::entry::Act;
use karte_protocol::grant::OpenGrant;
use karte_protocol::id::{DeviceId, EntryId, GrantId, ObjectId, PartyId, RecordId};
use karte_protocol::limits::LEASE_MS_MAX;
use karte_protocol::message::{
    self, Bytes, Fetch, Keeping, KeptGrant, Request, Response, SegmentAndKeys, Want,
};
use karte_protocol::signed::Verified;
use karte_protocol::time::UnixMs;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Releases and receipts that wait for one holder. 10,000: a busy clinic's month; beyond it readers keep their own.
const OWED_MAX: usize = 10_000;
/// Releases and receipts handed back in one message, if they fit. 500: usually some 300 KB.
const SERVED_MAX: usize = 500;

impl Engine {
    pub(in super::super) fn load_keeping(&mut self) -> Result<(), Failure> {
        for (holder, row) in self.rows::<KeepingRow>(KEEPING, TOP)? {
            let Some(holder) = PartyId::from_slice(&holder) else { continue };
            let mut kept = Kept {
                row,
                grants: BTreeMap::new(),
                missing: BTreeMap::new(),
                absent: BTreeMap::new(),
                used_bytes: 0,
                entry: self.entry_of_steward(holder),
            };
            for (id, row) in self.rows::<KeptRow>(KEPT, holder.as_bytes())? {
                if let Some(id) = GrantId::from_slice(&id) {
                    kept.grants.insert(id, KeptShelf::of(row)?);
                }
            }
            for (record, row) in self.rows::<KeptRecordRow>(KEPT_RECORDS, holder.as_bytes())? {
                let Some(record) = RecordId::from_slice(&record) else { continue };
                kept.used_bytes += row.bytes;
                if row.label.is_none() {
                    kept.missing.insert(record, (row.bytes, row.label_hash));
                }
            }
            self.steward.keeping.insert(holder, kept);
        }
        let mut owes: BTreeMap<PartyId, usize> = BTreeMap::new();
        for holder in self.steward.keeping.keys() {
            let waiting = self.values(OUTBOX, holder.as_bytes())?;
            let kept = waiting.iter().filter(|(_, grant)| self.is_kept_grant(holder, grant)).count();
            owes.extend((kept > 0).then_some((*holder, kept)));
        }
        self.steward.owes = owes;
        Ok(())
    }

    pub(super) fn is_kept_grant(&self, holder: &PartyId, grant: &[u8]) -> bool {
        let Some(grant) = GrantId::from_slice(grant) else { return false };
        self.steward.keeping.get(holder).is_some_and(|kept| kept.grants.contains_key(&grant))
    }

    pub(super) fn entry_of_steward(&self, holder: PartyId) -> Option<EntryId> {
        self.logs.get(&holder)?.log.names_steward(self.me.party)
    }

    // --- the own user

    /// Says that this node keeps for a contact, how much and how long; again to change it.
    pub(in super::super) fn offer_to_keep(
        &mut self,
        contact: &str,
        quota_bytes: u64,
        for_ms: i64,
    ) -> Result<Vec<Value>, Failure> {
        let holder = self.find_contact(contact)?;
        let until_ms = self.now.saturating_add(for_ms);
        match self.steward.keeping.get_mut(&holder) {
            Some(kept) => (kept.row.quota_bytes, kept.row.until_ms) = (quota_bytes, until_ms),
            None => {
                let row = KeepingRow {
                    quota_bytes,
                    until_ms,
                    since_ms: self.now,
                    library: None,
                    segments: 0,
                    last: None,
                };
                let entry = self.entry_of_steward(holder);
                let kept = Kept {
                    row,
                    grants: BTreeMap::new(),
                    missing: BTreeMap::new(),
                    absent: BTreeMap::new(),
                    used_bytes: 0,
                    entry,
                };
                self.steward.keeping.insert(holder, kept);
            }
        }
        self.save_keeping(holder)?;
        // Whoever was told no before asks again when it hears from this node.
        for state in self.peers.values_mut().filter(|state| state.party == Some(holder)) {
            state.owe_a_status();
        }
        Ok(vec![self.view_keeping(holder)])
    }

    /// Keeps no longer for a contact: all that was kept is deleted.
    pub(in super::super) fn end_keeping(&mut self, contact: &str) -> Result<Vec<Value>, Failure> {
        let holder = self.find_contact_or_pending(contact)?;
        if !self.steward.keeping.contains_key(&holder) {
            return Err(Failure::usage(format!("nothing is kept for {}", self.name_of(holder)))
                .next("`karte steward keeping` shows for whom something is."));
        }
        let mut view = self.view_keeping(holder);
        self.drop_kept(holder, "this node's user ended it")?;
        if let Some(object) = view.as_object_mut() {
            object.insert("state".into(), json!("ended"));
        }
        Ok(vec![view])
    }

    pub(in super::super) fn show_keeping(&self) -> Vec<Value> {
        self.steward.keeping.keys().map(|holder| self.view_keeping(*holder)).collect()
    }

    fn view_keeping(&self, holder: PartyId) -> Value {
        let Some(kept) = self.steward.keeping.get(&holder) else { return Value::Null };
        let live = kept.grants.values().filter(|shelf| shelf.open.is_some()).count();
        let records = self.values(KEPT_RECORDS, holder.as_bytes()).map(|rows| rows.len()).unwrap_or_default();
        json!({
            "holder": holder.to_string(),
            "holder_name": self.name_of(holder),
            "state": if self.keeps_for(holder) { "keeps" } else { "is not named by it" },
            "quota_bytes": kept.row.quota_bytes,
            "used_bytes": kept.used_bytes,
            "records": records,
            "missing": kept.missing.len() + kept.absent.len(),
            "grants": live,
            "since": time_text(kept.row.since_ms),
            "until": time_text(kept.row.until_ms),
            "heard": self.heard_ms(holder).map(time_text),
        })
    }

    // --- what is kept

    /// Whether this device keeps for a holder: its user said so, and the holder's log names it.
    pub(in super::super) fn keeps_for(&self, holder: PartyId) -> bool {
        let said = self.steward.keeping.get(&holder).is_some_and(|kept| self.now < kept.row.until_ms);
        let named = self.logs.get(&holder).is_some_and(|held| {
            let mine = held.state.stewards.get(&self.me.party);
            mine.is_some_and(|devices| devices.contains(&self.device()))
        });
        said && named
    }

    /// A grant that is kept and has not ended here, with its holder.
    pub(in super::super) fn kept_grant(
        &self,
        id: &GrantId,
    ) -> Option<(PartyId, &OpenGrant, &Verified<Accept>, u64)> {
        let mut holders = self.steward.keeping.iter().filter(|(holder, _)| self.keeps_for(**holder));
        holders.find_map(|(holder, kept)| {
            let shelf = kept.grants.get(id)?;
            Some((*holder, shelf.open.as_ref()?, shelf.accept.as_ref()?, shelf.row.segments))
        })
    }

    /// The reader and the holder of a grant that is kept, or was.
    pub(in super::super) fn parties_of_kept(&self, id: &GrantId) -> Option<(PartyId, PartyId)> {
        let mut kept = self.steward.keeping.iter();
        kept.find_map(|(holder, kept)| Some((kept.grants.get(id)?.row.reader, *holder)))
    }

    pub(in super::super) fn kept_head(&self, id: &GrantId) -> Option<Vec<u8>> {
        let mut kept = self.steward.keeping.values().filter_map(|kept| kept.grants.get(id));
        kept.find_map(|shelf| Some(shelf.head.as_ref()?.bytes().to_vec()))
    }

    /// What is sent for one want of a reader.
    pub(in super::super) fn kept_serving(
        &self,
        holder: PartyId,
        shelf: &[u8],
        want: &Want,
    ) -> Result<Serving, Failure> {
        let record = want.record;
        let nothing = Serving { record, payload_bytes: 0, from: 0, label: None };
        if self.store.get(KEPT_SHELVED, shelf, record.as_bytes())?.is_none() {
            return Ok(nothing);
        }
        let row: Option<KeptRecordRow> = self.row(KEPT_RECORDS, holder.as_bytes(), record.as_bytes())?;
        Ok(match row {
            Some(KeptRecordRow { bytes, label: Some(label), .. }) => {
                let label = want.label.then(|| label.into_vec());
                Serving { record, payload_bytes: bytes, from: want.from, label }
            }
            _ => nothing,
        })
    }

    /// The holder whose log an entry names this node its steward in, if a device of that holder asks.
    pub(in super::super) fn holder_asking(&self, peer: DeviceId, entry: GrantId) -> Option<PartyId> {
        let holder = self.peers.get(&peer)?.party?;
        let held = self.logs.get(&holder)?;
        let named = held.log.get(&EntryId::from(entry)).map(|entry| &entry.act);
        let names = matches!(named, Some(Act::AddSteward { party, .. }) if *party == self.me.party);
        let live = held.state.has_device(&peer) && !held.state.disputed && self.is_known(holder);
        (names && live && self.steward.keeping.contains_key(&holder)).then_some(holder)
    }

    /// The holder takes back what is kept for it: a new device, or a recovery.
    pub(in super::super) fn taken_back(
        &self,
        peer: DeviceId,
        fetch: &Fetch,
    ) -> Result<Option<Vec<Serving>>, Failure> {
        let Some(holder) = self.holder_asking(peer, fetch.grant) else { return Ok(None) };
        let items = fetch.wants.iter().map(|want| self.kept_serving(holder, holder.as_bytes(), want));
        items.collect::<Result<_, _>>().map(Some)
    }

    /// What a holder is told when it asks what is kept.
    pub(in super::super) fn keeping_told(&self, from: PartyId) -> Response {
        let Some(kept) = self.steward.keeping.get(&from).filter(|_| self.named_by_or_recovered(from)) else {
            return Response::Denied;
        };
        let grants = kept.grants.iter().filter_map(|(id, shelf)| {
            let reader = self.logs.get(&shelf.row.reader)?;
            let chains =
                shelf.head.as_ref().map(|head| head.chains.iter().map(|chain| chain.segments).sum::<u64>());
            Some(KeptGrant {
                grant: *id,
                accept: shelf.accept.as_ref()?.id(),
                reader: reader.state.identity,
                segments: shelf.row.segments,
                head: chains == Some(shelf.row.segments),
            })
        });
        Response::Keeping(Keeping {
            quota_bytes: kept.row.quota_bytes,
            used_bytes: kept.used_bytes,
            until_ms: kept.row.until_ms,
            missing: u64::try_from(kept.missing.len() + kept.absent.len()).unwrap_or_default(),
            grants: grants.collect(),
            library: kept.row.library.clone(),
            segments: kept.row.segments,
        })
    }

    /// A recovery ends stewards, and is when the holder needs what they keep.
    fn named_by_or_recovered(&self, holder: PartyId) -> bool {
        let in_time = self.steward.keeping.get(&holder).is_some_and(|kept| self.now < kept.row.until_ms);
        let removed = self.logs.get(&holder).is_some_and(|held| held.log.removes_steward(self.me.party));
        let ever = self.logs.get(&holder).is_some_and(|held| {
            held.log
                .identity_entries()
                .iter()
                .any(|entry| matches!(entry.act, Act::AddSteward { party, .. } if party == self.me.party))
        });
        in_time && ever && !removed
    }

    // --- vouching

    /// A Status of the holder, signed by this steward: for as long as the holder's own devices allowed by their last
    /// word, and not a moment longer. What is live already is kept.
    pub(in super::super) fn vouch(
        &mut self,
        holder: PartyId,
        heard_ms: Option<UnixMs>,
        offline_ms: i64,
    ) -> Result<(), Failure> {
        let (Some(held), Some(heard_ms)) = (self.logs.get(&holder), heard_ms) else {
            return Ok(());
        };
        let until_ms = heard_ms.saturating_add(offline_ms);
        if !self.is_sound() || self.is_clock_behind() || self.now >= until_ms {
            return Ok(());
        }
        let state = &held.state;
        if let Some(status) = self.latest.get(&holder)
            && status.heads == state.heads
            && status.identity == state.identity
            && (0..LEASE_MS_MAX / 4).contains(&(self.now - status.issued_ms))
            && self.now < status.issued_ms.saturating_add(status.lease_ms)
        {
            return Ok(());
        }
        let status = Status {
            of: holder,
            r#gen: state.generation,
            heads: state.heads.clone(),
            identity: state.identity,
            issued_ms: self.now,
            lease_ms: LEASE_MS_MAX.min(until_ms - self.now),
        };
        let signed = Verified::sign(status, self.by(), &self.keys.device)?;
        self.latest.insert(holder, signed);
        Ok(())
    }

    /// Whoever is past the bound has no live Status to show either, a steward or one device of several: its user is told
    /// the cause.
    pub(in super::super) fn explain(
        &self,
        denial: Denial,
        heard_ms: Option<UnixMs>,
        offline_ms: i64,
    ) -> Denial {
        let past = |heard_ms: UnixMs| self.now > heard_ms.saturating_add(offline_ms);
        match denial.clause {
            Clause::HolderStatus if heard_ms.is_none_or(past) => Denial { clause: Clause::Offline, ..denial },
            _ => denial,
        }
    }

    // --- what is due

    pub(super) fn keeping_errands(&self, party: PartyId) -> Vec<Errand> {
        let mut due = Vec::new();
        if self.steward.owes.contains_key(&party) {
            due.push(Errand::Served);
        }
        let lacks = self.steward.keeping.get(&party).is_some_and(|kept| !kept.missing.is_empty());
        if lacks && self.keeps_for(party) {
            due.push(Errand::Pull(party));
        }
        due
    }

    /// Keeps a release or receipt for the holder.
    pub(in super::super) fn owe(
        &mut self,
        holder: PartyId,
        id: ObjectId,
        grant: GrantId,
    ) -> Result<(), Failure> {
        *self.steward.owes.entry(holder).or_default() += 1;
        self.put_bytes(OUTBOX, holder.as_bytes(), id.as_bytes(), grant.as_bytes().to_vec())
    }

    /// Whether more may wait for a holder.
    pub(in super::super) fn may_owe(&self, holder: &PartyId) -> bool {
        self.steward.owes.get(holder).is_none_or(|waiting| *waiting < OWED_MAX)
    }

    pub(super) fn served_request(&mut self, peer: DeviceId) -> Result<Option<Request>, Failure> {
        let Some(holder) = self.peers.get(&peer).and_then(|state| state.party) else { return Ok(None) };
        let mut owed: Vec<(ObjectId, bool, Vec<u8>)> = Vec::new();
        for (item, grant) in self.values(OUTBOX, holder.as_bytes())? {
            let Some(id) = ObjectId::from_slice(&item).filter(|_| self.is_kept_grant(&holder, &grant)) else {
                continue;
            };
            let release = self.store.get(RELEASES, &grant, &item)?;
            let is_release = release.is_some();
            let receipt = if is_release { None } else { self.store.get(RECEIPTS, &grant, &item)? };
            owed.push((id, is_release, release.or(receipt).unwrap_or_default()));
            if owed.len() >= SERVED_MAX {
                break;
            }
        }
        if owed.is_empty() {
            self.steward.owes.remove(&holder);
            return Ok(None);
        }
        owed.truncate(message::fitting(owed.iter().map(|(_, _, bytes)| bytes.len())));
        let ids = owed.iter().map(|(id, ..)| *id).collect();
        // An empty one is no longer here: it is only struck off the list.
        owed.retain(|(_, _, bytes)| !bytes.is_empty());
        let (releases, receipts): (Vec<_>, Vec<_>) =
            owed.into_iter().partition(|(_, is_release, _)| *is_release);
        let bytes = |owed: Vec<(ObjectId, bool, Vec<u8>)>| {
            owed.into_iter().map(|(_, _, bytes)| Bytes::from(bytes)).collect::<Vec<_>>()
        };
        let (releases, receipts) = (bytes(releases), bytes(receipts));
        if let Some(state) = self.peers.get_mut(&peer) {
            state.errands.served = ids;
        }
        Ok(Some(Request::Served { releases, receipts }))
    }

    pub(super) fn served_delivered(&mut self, peer: DeviceId) -> Result<(), Failure> {
        let Some((holder, ids)) = self
            .peers
            .get_mut(&peer)
            .and_then(|state| Some((state.party?, std::mem::take(&mut state.errands.served))))
        else {
            return Ok(());
        };
        for id in ids {
            self.delete(OUTBOX, holder.as_bytes(), id.as_bytes())?;
            if let Some(owed) = self.steward.owes.get_mut(&holder) {
                *owed = owed.saturating_sub(1);
            }
        }
        Ok(())
    }

    // --- rows

    pub(super) fn save_keeping(&mut self, holder: PartyId) -> Result<(), Failure> {
        match self.steward.keeping.get(&holder).map(|kept| kept.row.clone()) {
            Some(row) => self.put(KEEPING, TOP, holder.as_bytes(), &row),
            None => Ok(()),
        }
    }

    pub(super) fn save_kept(&mut self, holder: PartyId, grant: GrantId) -> Result<(), Failure> {
        let kept = self.steward.keeping.get(&holder).and_then(|kept| kept.grants.get(&grant));
        match kept.map(|shelf| shelf.row.clone()) {
            Some(row) => self.put(KEPT, holder.as_bytes(), grant.as_bytes(), &row),
            None => Ok(()),
        }
    }

    /// Segments of a grant that is kept, or of a holder's own shelf.
    pub(in super::super) fn kept_segment(
        &self,
        shelf: &[u8],
        seq: u64,
    ) -> Result<Option<(usize, SegmentAndKeys)>, Failure> {
        let row = self.store.get(KEPT_SEGMENTS, shelf, &seq.to_be_bytes())?;
        row.map(|row| Ok((row.len(), decode_row(&row)?))).transpose()
    }

    /// Sums for `karte status`.
    pub(in super::super) fn keeping_summary(&self) -> Value {
        let kept = self.steward.keeping.values();
        json!({
            "holders": self.steward.keeping.len(),
            "used_bytes": kept.clone().map(|kept| kept.used_bytes).sum::<u64>(),
            "quota_bytes": kept.map(|kept| kept.row.quota_bytes).fold(0_u64, u64::saturating_add),
        })
    }
}
