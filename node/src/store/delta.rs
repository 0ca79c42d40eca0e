//! Batches, and the delta they add up to between two commits: the bytes of one journal frame.
//!
//! For: order ("the last write wins"), bounds, and what is visible before it is committed. Not for disks.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde_bytes::{ByteBuf, Bytes};

use super::{BATCH_BYTES_MAX, NAME_BYTES_MAX, StoreError, Table, VALUE_BYTES_MAX};

/// What an operation may cost in a frame beside its bytes: CBOR heads of at most 9 bytes each, five of them.
const OP_BYTES: usize = 48;
/// Largest delta, in bytes. 16 MiB: two of the largest batches, and one frame is held in memory at replay.
pub(super) const DELTA_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;
/// What urgent batches may add to a full delta, in bytes. 1 MiB: a revocation is some KB, and it must not have
/// to wait for a group that the disk has no room for.
const URGENT_BYTES_MAX: usize = 1 << 20;

/// Ordered operations that are applied together. At most [`BATCH_BYTES_MAX`]; names and values are bounded by
/// [`NAME_BYTES_MAX`] and [`VALUE_BYTES_MAX`]; all is checked by `write`.
#[derive(Default)]
pub struct Batch {
    ops: Vec<Op>,
    size_bytes: usize,
    is_urgent: bool,
}

struct Op {
    table: Table,
    parent: Vec<u8>,
    what: What,
}

enum What {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteAll,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a row, replacing what was there.
    pub fn put(&mut self, table: Table, parent: &[u8], item: &[u8], value: Vec<u8>) -> &mut Self {
        let cost = item.len().saturating_add(value.len());
        self.push(table, parent, cost, What::Put(item.to_vec(), value))
    }

    /// Removes a row, if it is there.
    pub fn delete(&mut self, table: Table, parent: &[u8], item: &[u8]) -> &mut Self {
        self.push(table, parent, item.len(), What::Delete(item.to_vec()))
    }

    /// Removes all rows of a parent.
    pub fn delete_all(&mut self, table: Table, parent: &[u8]) -> &mut Self {
        self.push(table, parent, 0, What::DeleteAll)
    }

    /// Marks the batch as one that must be recorded even on a full disk, from a reserve kept for it: a denial.
    /// The whole group it is committed with shares the reserve.
    pub fn urgent(&mut self) -> &mut Self {
        self.is_urgent = true;
        self
    }

    /// Whether it is marked [`urgent`](Self::urgent).
    pub fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// An upper bound of what the batch costs in the journal: split what would pass [`BATCH_BYTES_MAX`].
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    fn push(&mut self, table: Table, parent: &[u8], cost: usize, what: What) -> &mut Self {
        let cost = cost.saturating_add(parent.len()).saturating_add(OP_BYTES);
        self.size_bytes = self.size_bytes.saturating_add(cost);
        self.ops.push(Op { table, parent: parent.to_vec(), what });
        self
    }

    /// Checks every bound, and that all tables are of the kind the caller writes to.
    pub(super) fn check(&self, journaled: bool) -> Result<(), StoreError> {
        at_most("batch", BATCH_BYTES_MAX, self.size_bytes)?;
        for op in &self.ops {
            check_table(op.table, journaled)?;
            at_most("parent", NAME_BYTES_MAX, op.parent.len())?;
            match &op.what {
                What::Put(item, value) => {
                    at_most("item", NAME_BYTES_MAX, item.len())?;
                    at_most("value", VALUE_BYTES_MAX, value.len())?;
                }
                What::Delete(item) => at_most("item", NAME_BYTES_MAX, item.len())?,
                What::DeleteAll => {}
            }
        }
        Ok(())
    }
}

fn at_most(what: &'static str, expected: usize, got: usize) -> Result<(), StoreError> {
    if got > expected { Err(StoreError::TooLarge { what, expected, got }) } else { Ok(()) }
}

fn check_table(table: Table, journaled: bool) -> Result<(), StoreError> {
    let expected = if journaled { "journaled (0 to 127)" } else { "unjournaled (128 to 254)" };
    if table.is_journaled() != journaled || table.0 == u8::MAX {
        return Err(StoreError::WrongTable { table: table.0, expected });
    }
    Ok(())
}

/// The net effect of some batches: per parent, whether what was there before is gone, and the last word on
/// each item (`None`: deleted).
#[derive(Default)]
pub(super) struct Delta {
    parents: BTreeMap<(u8, ByteBuf), Changes>,
    size_bytes: usize,
    is_urgent: bool,
}

#[derive(Default)]
pub(super) struct Changes {
    pub(super) cleared: bool,
    pub(super) items: BTreeMap<ByteBuf, Option<ByteBuf>>,
}

/// A frame's plaintext, canonical dag-cbor: `[[table, parent, cleared, [[item, value or null]..]]..]`.
type Encoded<'a> = Vec<(u8, &'a Bytes, bool, Vec<(&'a Bytes, Option<&'a Bytes>)>)>;
type Decoded = Vec<(u8, ByteBuf, bool, Vec<(ByteBuf, Option<ByteBuf>)>)>;

impl Delta {
    pub(super) fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// An upper bound of the encoded size.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub(super) fn has_room_for(&self, batch: &Batch) -> bool {
        let extra = if batch.is_urgent { URGENT_BYTES_MAX } else { 0 };
        self.size_bytes.saturating_add(batch.size_bytes) <= DELTA_BYTES_MAX.saturating_add(extra)
    }

    /// Whether an urgent batch is in it.
    pub(super) fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Lets the group have the reserve.
    pub(super) fn make_urgent(&mut self) {
        self.is_urgent = true;
    }

    /// Adds a checked batch, operation by operation.
    pub(super) fn add(&mut self, batch: Batch) {
        self.size_bytes = self.size_bytes.saturating_add(batch.size_bytes);
        self.is_urgent |= batch.is_urgent;
        for op in batch.ops {
            let changes = self.parents.entry((op.table.0, ByteBuf::from(op.parent))).or_default();
            match op.what {
                What::Put(item, value) => {
                    changes.items.insert(item.into(), Some(value.into()));
                }
                What::Delete(item) => {
                    changes.items.insert(item.into(), None);
                }
                What::DeleteAll => *changes = Changes { cleared: true, items: BTreeMap::new() },
            }
        }
    }

    /// Adds a row, for a base.
    pub(super) fn put_row(&mut self, table: u8, parent: ByteBuf, item: ByteBuf, value: ByteBuf) {
        let cost = parent.len().saturating_add(item.len()).saturating_add(value.len());
        self.size_bytes = self.size_bytes.saturating_add(cost).saturating_add(OP_BYTES);
        self.parents.entry((table, parent)).or_default().items.insert(item, Some(value));
    }

    /// Adds what happened after it. The size counts what it holds, not what was overwritten.
    pub(super) fn absorb(&mut self, later: Self) {
        for ((table, parent), changes) in later.parents {
            let parent_bytes = parent.len();
            let own = self.parents.entry((table, parent)).or_default();
            if changes.cleared {
                let gone = own.items.iter().map(|(item, value)| cost(parent_bytes, item, value.as_ref()));
                self.size_bytes = self.size_bytes.saturating_sub(gone.sum());
                *own = Changes { cleared: true, items: BTreeMap::new() };
            }
            for (item, value) in changes.items {
                self.size_bytes = self.size_bytes.saturating_add(cost(parent_bytes, &item, value.as_ref()));
                let item_bytes = item.len();
                if let Some(old) = own.items.insert(item, value) {
                    let old = cost(parent_bytes, &[], old.as_ref()).saturating_add(item_bytes);
                    self.size_bytes = self.size_bytes.saturating_sub(old);
                }
            }
        }
    }

    pub(super) fn parents(&self) -> impl Iterator<Item = (Table, &[u8], &Changes)> {
        self.parents.iter().map(|((table, parent), changes)| (Table(*table), parent.as_slice(), changes))
    }

    /// The last word on a row: `None` when the delta says nothing, `Some(None)` when it is gone.
    pub(super) fn get(&self, table: Table, parent: &[u8], item: &[u8]) -> Option<Option<&[u8]>> {
        let changes = self.changes(table, parent)?;
        match changes.items.get(Bytes::new(item)) {
            Some(value) => Some(value.as_ref().map(|value| value.as_slice())),
            None => changes.cleared.then_some(None),
        }
    }

    /// Visits the rows it sets for one parent.
    pub(super) fn scan(
        &self,
        table: Table,
        parent: &[u8],
        visit: &mut super::VisitItem<'_>,
    ) -> ControlFlow<()> {
        self.changes(table, parent).map_or(ControlFlow::Continue(()), |changes| changes.visit(visit))
    }

    /// Visits the rows it sets in one table.
    pub(super) fn scan_table(&self, table: Table, visit: &mut super::VisitRow<'_>) -> ControlFlow<()> {
        for (_, parent, changes) in self.parents().filter(|(its_table, ..)| *its_table == table) {
            changes.visit(&mut |item, value| visit(parent, item, value))?;
        }
        ControlFlow::Continue(())
    }

    fn changes(&self, table: Table, parent: &[u8]) -> Option<&Changes> {
        self.parents.get(&(table.0, ByteBuf::from(parent)))
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let encoded: Encoded<'_> = self
            .parents()
            .map(|(table, parent, c)| (table.0, Bytes::new(parent), c.cleared, c.list()))
            .collect();
        // Zeroized by whoever seals it, so it must not leave copies where it outgrew a shorter place.
        let mut bytes = Vec::with_capacity(self.size_bytes.saturating_add(OP_BYTES));
        serde_ipld_dagcbor::to_writer(&mut bytes, &encoded).ok()?;
        Some(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let decoded: Decoded = serde_ipld_dagcbor::from_slice(bytes).ok()?;
        let parents = decoded.into_iter().map(|(table, parent, cleared, items)| {
            ((table, parent), Changes { cleared, items: items.into_iter().collect() })
        });
        Some(Self { parents: parents.collect(), size_bytes: bytes.len(), is_urgent: false })
    }
}

/// What an item costs in memory, about.
fn cost(parent_bytes: usize, item: &[u8], value: Option<&ByteBuf>) -> usize {
    let value = value.map_or(0, |value| value.len());
    parent_bytes.saturating_add(item.len()).saturating_add(value).saturating_add(OP_BYTES)
}

impl Changes {
    fn visit(&self, visit: &mut super::VisitItem<'_>) -> ControlFlow<()> {
        for (item, value) in &self.items {
            if let Some(value) = value {
                visit(item, value)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn list(&self) -> Vec<(&Bytes, Option<&Bytes>)> {
        self.items
            .iter()
            .map(|(item, value)| (Bytes::new(item), value.as_ref().map(|value| Bytes::new(value))))
            .collect()
    }
}
