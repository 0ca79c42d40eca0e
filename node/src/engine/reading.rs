//! Reading under a received grant: opening, the receipts that the holder gets of it, and the end.

use super::devices::Place;
use super::library::Seen;
use super::peers::Duty;
use super::rows::{CAME_BY, GONE, GOT, GotState, LABELS, OUTBOX, RECEIPTS, RECEIVED, TOP};
use super::{Effect, Engine, Opening};
use crate::command::Filter;
use crate::failure::Failure;
use crate::store::Batch;
use karte_protocol::consent::{Deed, Receipt};
use karte_protocol::decide::{self, Clause, Denial};
use karte_protocol::encoding;
use karte_protocol::id::{GrantId, ObjectId, PartyId, RecordId};
use karte_protocol::keys::Recipient;
use karte_protocol::label::Label;
use karte_protocol::limits::{LIST_ITEMS_MAX, TEXT_BYTES_MAX};
use karte_protocol::message;
use karte_protocol::signed::{Signed, Verified};
use std::collections::BTreeMap;

/// Most records opened by one command. 100,000: some 100 MB of labels; a chart of a lifetime of daily data.
const OPENED_AT_ONCE_MAX: usize = 100_000;

pub(super) fn opening_of(seen: &Seen, recipients: Vec<Recipient>) -> Opening {
    Opening {
        record: seen.record,
        file_key: seen.handed.file_key.clone(),
        label: Label::clone(&seen.label),
        grant: seen.grant,
        recipients,
    }
}

impl Engine {
    // --- opening

    /// Grants under which received records may be shown now.
    pub(super) fn readable_grants(&self) -> Vec<GrantId> {
        self.got.keys().copied().filter(|id| self.may_read(*id).is_ok()).collect()
    }

    /// SPEC rule 10.
    fn may_read(&self, id: GrantId) -> Result<(), Denial> {
        let unknown = Denial { grant: id, clause: Clause::NotCounting };
        if self.is_clock_behind() {
            return Err(Denial { grant: id, clause: Clause::Clock });
        }
        let got = self.got.get(&id).ok_or(unknown.clone())?;
        let holder = self.logs.get(&got.row.holder).ok_or(unknown)?;
        decide::read(&decide::Reading {
            now_ms: self.now,
            grant: id,
            opened: &got.open.opened,
            holder: &holder.state,
            holder_heard_ms: self.heard_of_ms(got.row.holder, &got.open.entry),
        })?;
        match self.ring.reading(&id) {
            Some(_) => Ok(()),
            None => Err(Denial { grant: id, clause: Clause::KeyGone }),
        }
    }

    /// Permission to open a record. Under a grant the receipt is written first, and goes to the holder.
    pub(super) fn open_record(&mut self, text: &str, age: bool, staff: &str) -> Result<Opening, Failure> {
        if staff.len() > TEXT_BYTES_MAX {
            return Err(Failure::usage("expected a staff name of at most 500 bytes"));
        }
        let seen = self.find_record(text).map_err(|failure| self.why_not(text).unwrap_or(failure))?;
        if let Some(grant) = seen.grant {
            self.may_read(grant)?;
            // The holder is to have a receipt of it, and this device may have to sign none.
            self.require_sound()?;
            let purpose = self.got.get(&grant).map(|got| got.open.opened.purpose.clone()).unwrap_or_default();
            self.write_receipt(grant, Deed::Opened, vec![seen.record], staff, &purpose)?;
        }
        let recipients = if age { vec![self.keys.sealing.recipient()] } else { vec![] };
        Ok(opening_of(&seen, recipients))
    }

    /// Permission to open all that a filter selects. Under a grant each reading is told to its holder.
    pub(super) fn open_selected(&mut self, filter: &Filter, staff: &str) -> Result<Vec<Opening>, Failure> {
        let seen = self.selected(filter)?;
        self.openings_of(&seen, staff)
    }

    pub(super) fn openings_of(&mut self, seen: &[Seen], staff: &str) -> Result<Vec<Opening>, Failure> {
        if staff.len() > TEXT_BYTES_MAX {
            return Err(Failure::usage("expected a staff name of at most 500 bytes"));
        }
        if seen.len() > OPENED_AT_ONCE_MAX {
            return Err(Failure::usage(format!(
                "expected at most {OPENED_AT_ONCE_MAX} records to open at once, got {}",
                seen.len()
            ))
            .next("Narrow it, for example with --from and --until."));
        }
        let mut under: BTreeMap<GrantId, Vec<RecordId>> = BTreeMap::new();
        for one in seen {
            if let Some(grant) = one.grant {
                under.entry(grant).or_default().push(one.record);
            }
        }
        for (grant, records) in under {
            self.may_read(grant)?;
            let purpose = self.got.get(&grant).map(|got| got.open.opened.purpose.clone()).unwrap_or_default();
            for part in records.chunks(LIST_ITEMS_MAX) {
                self.write_receipt(grant, Deed::Opened, part.to_vec(), staff, &purpose)?;
            }
        }
        Ok(seen.iter().map(|one| opening_of(one, vec![])).collect())
    }

    /// A record that is not shown any more: say under which grant it came and why it is closed, to the own user.
    fn why_not(&self, text: &str) -> Option<Failure> {
        let record: RecordId = text.trim().parse().ok()?;
        let held = self.values(CAME_BY, record.as_bytes()).ok()?;
        let gone = self.values(GONE, record.as_bytes()).ok()?;
        held.iter().chain(&gone).filter_map(|(grant, _)| GrantId::from_slice(grant)).find_map(|grant| {
            self.run_failure(grant).or_else(|| self.may_read(grant).err().map(Failure::from))
        })
    }

    fn write_receipt(
        &mut self,
        id: GrantId,
        what: Deed,
        records: Vec<RecordId>,
        staff: &str,
        purpose: &str,
    ) -> Result<(), Failure> {
        if !self.is_sound() {
            tracing::warn!(grant = %id.short(), "no receipt: this device signs nothing now");
            return Ok(());
        }
        let Some(got) = self.got.get(&id) else {
            return Ok(());
        };
        let Some(accept) = got.accept.as_ref().map(Verified::id) else {
            return Ok(());
        };
        let receipt = Receipt {
            grant: id,
            accept,
            what,
            records,
            staff: staff.to_owned(),
            purpose: purpose.to_owned(),
            at_ms: self.now,
            seq: got.row.receipts,
            prev: got.row.receipt_last,
        };
        let holder = got.row.holder;
        let signed = Verified::sign(receipt, self.by(), &self.keys.device)?;
        let Some(got) = self.got.get_mut(&id) else {
            return Ok(());
        };
        got.row.receipts += 1;
        got.row.receipt_last = Some(signed.id());
        // One batch: two receipts of one number would be a break in the chain.
        let mut batch = Batch::default();
        batch.put(RECEIPTS, id.as_bytes(), signed.id().as_bytes(), signed.bytes().to_vec());
        batch.put(OUTBOX, holder.as_bytes(), signed.id().as_bytes(), id.as_bytes().to_vec());
        batch.put(GOT, TOP, id.as_bytes(), encoding::encode(&got.row)?);
        self.owes_receipts.insert(holder);
        self.receipt_is_new(holder);
        self.write(batch)?;
        self.touch(Place::Receipt { grant: id, id: signed.id() })
    }

    /// Receipts that a holder has not confirmed, oldest first.
    pub(super) fn receipts_due(&self, holder: PartyId) -> Result<Vec<Verified<Receipt>>, Failure> {
        let mut due = Vec::new();
        for (receipt, grant) in self.values(OUTBOX, holder.as_bytes())? {
            if let Some(bytes) = self.store.get(RECEIPTS, &grant, &receipt)? {
                due.push(Signed::<Receipt>::from_bytes(bytes).verify()?);
            }
        }
        due.sort_by_key(|receipt| (receipt.grant, receipt.seq));
        // The next ones follow when these are confirmed.
        due.truncate(message::fitting(due.iter().map(|receipt| receipt.bytes().len())));
        Ok(due)
    }

    pub(super) fn receipts_delivered(&mut self, holder: PartyId, ids: &[ObjectId]) -> Result<(), Failure> {
        ids.iter().try_for_each(|id| self.delete(OUTBOX, holder.as_bytes(), id.as_bytes()))
    }

    // --- ending

    /// After new entries of a holder: every grant that they end, ends.
    pub(super) fn honour_ends(&mut self, holder: PartyId) -> Result<(), Failure> {
        let Some(held) = self.logs.get(&holder) else {
            return Ok(());
        };
        let ended: Vec<(GrantId, &str)> = self
            .got
            .iter()
            .filter(|(_, got)| got.row.holder == holder && got.row.state != GotState::Ended)
            .filter_map(|(id, got)| {
                let generation = got.open.entry.by().r#gen;
                if held.state.revoked.contains(id) {
                    Some((*id, "revoked by its holder"))
                } else if generation < held.state.generation {
                    Some((*id, "ended by its holder's recovery"))
                } else if held.state.is_void(&got.open.entry.by().device, got.open.entry.seq) {
                    Some((*id, "void: its holder ended the device that gave it"))
                } else {
                    None
                }
            })
            .collect();
        for (id, reason) in ended {
            self.end_got(id, reason)?;
        }
        Ok(())
    }

    pub(super) fn end_expired(&mut self) -> Result<(), Failure> {
        let over: Vec<GrantId> = self
            .got
            .iter()
            .filter(|(_, got)| got.row.state != GotState::Ended && self.now >= got.open.opened.not_after_ms)
            .map(|(id, _)| *id)
            .collect();
        over.into_iter().try_for_each(|id| self.end_got(id, "expired"))
    }

    /// The end of a received grant: the reading key is destroyed, and with it everything that was derived from
    /// it, in copies of this folder too; rows and payloads that nothing else needs are deleted; the holder gets
    /// a signed receipt of both.
    pub(super) fn end_got(&mut self, id: GrantId, reason: &str) -> Result<(), Failure> {
        let Some(got) = self.got.get(&id) else {
            return Ok(());
        };
        let (was_accepted, holder) = (got.row.state == GotState::Accepted, got.row.holder);
        if !wrong!(KeyKept) {
            self.ring.destroy(&id)?;
        }
        let records: Vec<RecordId> = self
            .values(RECEIVED, id.as_bytes())?
            .iter()
            .filter_map(|(record, _)| RecordId::from_slice(record))
            .collect();
        self.delete_all(RECEIVED, id.as_bytes())?;
        self.delete_received_shelves(id)?;
        self.delete_all(LABELS, id.as_bytes())?;
        for record in &records {
            self.delete(CAME_BY, record.as_bytes(), id.as_bytes())?;
            self.put_bytes(GONE, record.as_bytes(), id.as_bytes(), vec![])?;
        }
        self.drop_if_unneeded(records)?;
        if let Some(got) = self.got.get_mut(&id) {
            got.row.state = GotState::Ended;
            got.row.ended = reason.to_owned();
            got.row.chains.clear();
            got.missing.clear();
            got.wanted = false;
        }
        self.save_got(id)?;
        self.touch(Place::Received { grant: id })?;
        for peer in self.peers.values_mut() {
            peer.outstanding.remove(&Duty::Fetch(id));
            peer.sessions.remove(&id);
        }
        self.out.push(Effect::StopFetch(id, None));
        if was_accepted {
            let purpose = self.got.get(&id).map(|got| got.open.opened.purpose.clone()).unwrap_or_default();
            self.write_receipt(id, Deed::Stopped, vec![], "karte", &purpose)?;
            self.write_receipt(id, Deed::Deleted, vec![], "karte", &purpose)?;
        }
        let name = self.name_of(holder);
        self.notice(format!("grant {} of {name} has ended: {reason}", id.short()));
        Ok(())
    }

    pub(super) fn drop_received(&mut self, id: GrantId, record: RecordId) -> Result<(), Failure> {
        self.delete(RECEIVED, id.as_bytes(), record.as_bytes())?;
        self.delete(CAME_BY, record.as_bytes(), id.as_bytes())?;
        self.delete(LABELS, id.as_bytes(), record.as_bytes())?;
        if let Some(got) = self.got.get_mut(&id) {
            got.missing.remove(&record);
        }
        self.drop_if_unneeded(vec![record])
    }

    pub(super) fn drop_if_unneeded(&mut self, records: Vec<RecordId>) -> Result<(), Failure> {
        let mut unneeded = Vec::new();
        for record in records {
            if !self.needs(&record)? {
                unneeded.push(record);
            }
        }
        if !unneeded.is_empty() {
            self.out.push(Effect::Drop(unneeded));
        }
        Ok(())
    }
}
