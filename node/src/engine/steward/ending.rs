//! How keeping ends: one grant, or all that was kept for a holder.

use super::super::Engine;
use super::super::rows::{
    KEEPING, KEPT, KEPT_FOR, KEPT_RECORDS, KEPT_SEGMENTS, KEPT_SHELVED, KeptRecordRow, OUTBOX, RELEASES, TOP,
};
use super::KeptShelf;
use crate::failure::Failure;
use crate::store::Batch;
use karte_protocol::id::{GrantId, PartyId, RecordId};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

impl Engine {
    /// After new entries of a holder, and as time passes: what has ended is served no more and deleted.
    pub(in super::super) fn settle_kept(&mut self, holder: PartyId) -> Result<(), Failure> {
        let entry = self.entry_of_steward(holder);
        let Some(kept) = self.steward.keeping.get_mut(&holder) else { return Ok(()) };
        kept.entry = entry;
        let over = self.now >= kept.row.until_ms;
        let Some(held) = self.logs.get(&holder) else { return Ok(()) };
        if held.log.removes_steward(self.me.party) {
            return self.drop_kept(holder, "the holder ended it");
        }
        if over {
            return self.drop_kept(holder, "the time it was offered for is over");
        }
        let (state, now) = (&held.state, self.now);
        let ends = |id: &GrantId, shelf: &KeptShelf| {
            shelf.open.as_ref().is_some_and(|open| {
                state.revoked.contains(id)
                    || open.entry.by().r#gen < state.generation
                    || now >= open.opened.not_after_ms
            })
        };
        let ended: Vec<GrantId> =
            kept.grants.iter().filter(|(id, shelf)| ends(id, shelf)).map(|(id, _)| *id).collect();
        ended.into_iter().try_for_each(|grant| self.end_kept(holder, grant))
    }

    pub(in super::super) fn settle_all_kept(&mut self) -> Result<(), Failure> {
        let holders: Vec<PartyId> = self.steward.keeping.keys().copied().collect();
        holders.into_iter().try_for_each(|holder| self.settle_kept(holder))
    }

    /// A grant that is kept has ended: running streams are cut, its shelf is deleted, and payloads that are on no other
    /// shelf of its holder too. Who its reader was is kept: it may still ask for the log that tells it why.
    fn end_kept(&mut self, holder: PartyId, grant: GrantId) -> Result<(), Failure> {
        self.end_serving(grant);
        self.clear_kept_shelf(holder, grant)?;
        if let Some(shelf) =
            self.steward.keeping.get_mut(&holder).and_then(|kept| kept.grants.get_mut(&grant))
        {
            (shelf.open, shelf.accept, shelf.head) = (None, None, None);
            (shelf.row.opening, shelf.row.accept, shelf.row.head) = (None, None, None);
        }
        self.save_kept(holder, grant)?;
        let name = self.name_of(holder);
        self.notice(format!("grant {} of {name} has ended: it is kept no longer", grant.short()));
        Ok(())
    }

    /// Deletes a shelf and what lies on no other.
    pub(super) fn clear_kept_shelf(&mut self, holder: PartyId, grant: GrantId) -> Result<(), Failure> {
        let records: Vec<RecordId> = self.shelf_of(grant.as_bytes())?.into_iter().collect();
        self.delete_all(KEPT_SEGMENTS, grant.as_bytes())?;
        self.delete_all(KEPT_SHELVED, grant.as_bytes())?;
        if let Some(shelf) =
            self.steward.keeping.get_mut(&holder).and_then(|kept| kept.grants.get_mut(&grant))
        {
            (shelf.row.segments, shelf.row.last) = (0, None);
        }
        self.let_go(holder, records)
    }

    pub(super) fn shelf_of(&self, shelf: &[u8]) -> Result<BTreeSet<RecordId>, Failure> {
        let mut records = BTreeSet::new();
        self.store.scan(KEPT_SHELVED, shelf, &mut |record, _| {
            records.extend(RecordId::from_slice(record));
            ControlFlow::Continue(())
        })?;
        Ok(records)
    }

    /// Deletes those of a holder's records that lie on none of its shelves any more.
    pub(super) fn let_go(&mut self, holder: PartyId, records: Vec<RecordId>) -> Result<(), Failure> {
        let Some(kept) = self.steward.keeping.get(&holder) else { return Ok(()) };
        let mut shelves: Vec<Vec<u8>> = kept.grants.keys().map(|grant| grant.as_bytes().to_vec()).collect();
        shelves.push(holder.as_bytes().to_vec());
        let mut gone = Vec::new();
        for record in records {
            let mut shelved = false;
            for shelf in &shelves {
                shelved |= self.store.get(KEPT_SHELVED, shelf, record.as_bytes())?.is_some();
            }
            if !shelved {
                gone.push(record);
            }
        }
        self.forget_kept(holder, gone)
    }

    fn forget_kept(&mut self, holder: PartyId, records: Vec<RecordId>) -> Result<(), Failure> {
        for record in &records {
            let row: Option<KeptRecordRow> = self.row(KEPT_RECORDS, holder.as_bytes(), record.as_bytes())?;
            let mut batch = Batch::default();
            batch.delete(KEPT_RECORDS, holder.as_bytes(), record.as_bytes());
            batch.delete(KEPT_FOR, record.as_bytes(), holder.as_bytes());
            self.write(batch)?;
            if let Some(kept) = self.steward.keeping.get_mut(&holder) {
                kept.used_bytes -= row.map_or(0, |row| row.bytes);
                kept.missing.remove(record);
                kept.absent.remove(record);
            }
        }
        self.drop_if_unneeded(records)
    }

    /// All that was kept for a holder is deleted, and that anything was.
    pub(super) fn drop_kept(&mut self, holder: PartyId, why: &str) -> Result<(), Failure> {
        let Some(kept) = self.steward.keeping.get(&holder) else { return Ok(()) };
        let grants: Vec<GrantId> = kept.grants.keys().copied().collect();
        for grant in &grants {
            self.end_serving(*grant);
            for table in [KEPT_SEGMENTS, KEPT_SHELVED, RELEASES] {
                self.delete_all(table, grant.as_bytes())?;
            }
        }
        for table in [KEPT_SEGMENTS, KEPT_SHELVED] {
            self.delete_all(table, holder.as_bytes())?;
        }
        let records = self.values(KEPT_RECORDS, holder.as_bytes())?;
        let records = records.iter().filter_map(|(record, _)| RecordId::from_slice(record)).collect();
        self.forget_kept(holder, records)?;
        self.delete_all(KEPT, holder.as_bytes())?;
        self.delete(KEEPING, TOP, holder.as_bytes())?;
        for (item, grant) in self.values(OUTBOX, holder.as_bytes())? {
            if self.is_kept_grant(&holder, &grant) {
                self.delete(OUTBOX, holder.as_bytes(), &item)?;
            }
        }
        self.steward.keeping.remove(&holder);
        self.steward.owes.remove(&holder);
        let name = self.name_of(holder);
        self.notice(format!("nothing is kept for {name} any more: {why}"));
        Ok(())
    }
}
