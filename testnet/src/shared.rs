//! A store in memory that outlives its engine: it can be copied as a folder can, and it can be full.
//!
//! For: worlds in which somebody starts an old copy, or runs out of disk. Not for: durability; see
//! `karte_node::store::Memory`.

use karte_node::store::{Batch, Memory, Stats, Store, StoreError, Table, VisitItem, VisitRow};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows of one copy: table, parent, item, value.
pub type Rows = Vec<(Table, Vec<u8>, Vec<u8>, Vec<u8>)>;

/// The highest table that is journaled.
const JOURNALED_MAX: u8 = 127;

/// A handle; clones share the rows.
#[derive(Clone, Default)]
pub struct SharedStore(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    memory: Memory,
    full: bool,
}

impl SharedStore {
    /// With these rows in it.
    pub fn of(rows: Rows) -> Self {
        Self::of_time(rows, 0)
    }

    /// With these rows in it, and this time floor.
    pub fn of_time(rows: Rows, floor_ms: u64) -> Self {
        let store = Self::default();
        store.lock().memory.raise_time_floor(floor_ms);
        for (table, parent, item, value) in rows {
            let mut batch = Batch::default();
            batch.put(table, &parent, &item, value);
            store.lock().memory.write(batch).expect("memory takes rows");
        }
        store.lock().memory.commit().expect("memory commits");
        store
    }

    /// Everything in it, as copying a folder would give it.
    pub fn copy(&self) -> Rows {
        let mut rows = Vec::new();
        for table in (0..=JOURNALED_MAX).map(Table) {
            let memory = &self.lock().memory;
            memory
                .scan_table(table, &mut |parent, item, value| {
                    rows.push((table, parent.to_vec(), item.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                })
                .expect("memory reads");
        }
        rows
    }

    /// The process is killed: what was not committed is lost.
    pub fn crash(&self) {
        let mut inner = self.lock();
        inner.memory = std::mem::take(&mut inner.memory).crash();
    }

    /// Visits the rows of a table where they lie. The visitor must not ask the store.
    pub fn visit(&self, table: Table, visit: &mut VisitRow<'_>) {
        self.lock().memory.scan_table(table, visit).expect("memory reads");
    }

    /// From now on there is no room, or there is again. A group that finds none is dropped.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SharedStore {
    fn get(&self, table: Table, parent: &[u8], item: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.lock().memory.get(table, parent, item)
    }

    fn scan(&self, table: Table, parent: &[u8], visit: &mut VisitItem<'_>) -> Result<(), StoreError> {
        // Copied out first: a visitor may ask the store again.
        let mut rows = Vec::new();
        self.lock().memory.scan(table, parent, &mut |item, value| {
            rows.push((item.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        let _ = rows.iter().try_for_each(|(item, value)| visit(item, value));
        Ok(())
    }

    fn scan_table(&self, table: Table, visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        self.lock().memory.scan_table(table, &mut |parent, item, value| {
            rows.push((parent.to_vec(), item.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        let _ = rows.iter().try_for_each(|(parent, item, value)| visit(parent, item, value));
        Ok(())
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.lock().memory.write(batch)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if inner.full && inner.memory.stats().pending_bytes > 0 {
            return Err(StoreError::Full { doing: "committing" });
        }
        inner.memory.commit()
    }

    fn abandon(&mut self) {
        self.lock().memory.abandon();
    }

    fn write_unjournaled(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.lock().memory.write_unjournaled(batch)
    }

    fn time_floor_ms(&self) -> u64 {
        self.lock().memory.time_floor_ms()
    }

    fn raise_time_floor(&mut self, floor_ms: u64) {
        self.lock().memory.raise_time_floor(floor_ms);
    }

    fn lower_time_floor(&mut self, floor_ms: u64) -> Result<(), StoreError> {
        self.lock().memory.lower_time_floor(floor_ms)
    }

    fn stats(&self) -> Stats {
        self.lock().memory.stats()
    }

    fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        self.commit()
    }
}
