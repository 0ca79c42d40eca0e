//! The store in memory, for tests and the simulator. It forgets in a crash exactly what a disk may forget.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde_bytes::{ByteBuf, Bytes};

use super::delta::{Batch, Delta};
use super::{Stats, Store, StoreError, Table, VisitItem, VisitRow};

/// Rows of one kind, by table and parent.
type Rows = BTreeMap<(u8, ByteBuf), BTreeMap<ByteBuf, ByteBuf>>;

/// A [`Store`] in memory. Dropped, it is gone; [`crash`](Memory::crash) keeps what was committed.
#[derive(Default)]
pub struct Memory {
    rows: Rows,
    /// Apart, because a crash loses them.
    unjournaled: Rows,
    pending: Delta,
    time_floor_ms: u64,
    committed_floor_ms: u64,
    commits: u64,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a reopened store holds after its process was killed: only what was committed.
    pub fn crash(self) -> Self {
        let floor_ms = self.committed_floor_ms;
        Self { rows: self.rows, time_floor_ms: floor_ms, committed_floor_ms: floor_ms, ..Self::default() }
    }

    fn rows(&self, table: Table) -> &Rows {
        if table.is_journaled() { &self.rows } else { &self.unjournaled }
    }

    fn unless_pending(&self, table: Table, parent: &[u8], item: &[u8]) -> bool {
        self.pending.get(table, parent, item).is_none()
    }
}

impl Store for Memory {
    fn get(&self, table: Table, parent: &[u8], item: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.pending.get(table, parent, item) {
            return Ok(value.map(<[u8]>::to_vec));
        }
        let items = self.rows(table).get(&(table.0, ByteBuf::from(parent)));
        Ok(items.and_then(|items| items.get(Bytes::new(item))).map(|value| value.to_vec()))
    }

    fn scan(&self, table: Table, parent: &[u8], visit: &mut VisitItem<'_>) -> Result<(), StoreError> {
        if self.pending.scan(table, parent, visit).is_break() {
            return Ok(());
        }
        for (item, value) in self.rows(table).get(&(table.0, ByteBuf::from(parent))).into_iter().flatten() {
            if self.unless_pending(table, parent, item) && visit(item, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_table(&self, table: Table, visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        if self.pending.scan_table(table, visit).is_break() {
            return Ok(());
        }
        let _ = self.rows(table).iter().filter(|((its_table, _), _)| *its_table == table.0).try_for_each(
            |((_, parent), items)| {
                items
                    .iter()
                    .filter(|(item, _)| self.unless_pending(table, parent, item))
                    .try_for_each(|(item, value)| -> ControlFlow<()> { visit(parent, item, value) })
            },
        );
        Ok(())
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        batch.check(true)?;
        if !self.pending.has_room_for(&batch) {
            self.commit()?;
        }
        self.pending.add(batch);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if !self.pending.is_empty() {
            apply(&mut self.rows, &std::mem::take(&mut self.pending));
            self.committed_floor_ms = self.time_floor_ms;
            self.commits = self.commits.saturating_add(1);
        }
        Ok(())
    }

    fn abandon(&mut self) {
        self.pending = Delta::default();
    }

    fn write_unjournaled(&mut self, batch: Batch) -> Result<(), StoreError> {
        batch.check(false)?;
        let mut delta = Delta::default();
        delta.add(batch);
        apply(&mut self.unjournaled, &delta);
        Ok(())
    }

    fn time_floor_ms(&self) -> u64 {
        self.time_floor_ms
    }

    fn raise_time_floor(&mut self, floor_ms: u64) {
        self.time_floor_ms = self.time_floor_ms.max(floor_ms);
    }

    fn lower_time_floor(&mut self, floor_ms: u64) -> Result<(), StoreError> {
        self.time_floor_ms = self.time_floor_ms.min(floor_ms);
        self.committed_floor_ms = self.committed_floor_ms.min(floor_ms);
        Ok(())
    }

    fn stats(&self) -> Stats {
        let pending_bytes = self.pending.size_bytes() as u64;
        Stats { commits: self.commits, pending_bytes, ..Stats::default() }
    }

    fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        self.commit()
    }
}

fn apply(rows: &mut Rows, delta: &Delta) {
    for (table, parent, changes) in delta.parents() {
        let items = rows.entry((table.0, ByteBuf::from(parent))).or_default();
        if changes.cleared {
            items.clear();
        }
        for (item, value) in &changes.items {
            match value {
                Some(value) => items.insert(item.clone(), value.clone()),
                None => items.remove(item),
            };
        }
    }
}
