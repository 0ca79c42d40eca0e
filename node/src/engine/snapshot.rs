//! The rows of a backup: what a party needs to begin again elsewhere, as of one commit.
//!
//! For: which rows go out, and that they are of one point. Not for: files; that is [`crate::backup`].
//!
//! Left out: rows of received records, their labels and shelves (they open with reading keys alone, which are in no
//! backup: what was received comes anew from its holder, if the grant still counts), shelves given (a recovery ends
//! their grants), statuses, and what only this device needs.

use super::Engine;
use super::rows::{
    ASKED, CONTACTS, ENTRIES, GIVEN, GONE, GOT, KNOWN, LABELS, META, OUTBOX, OWN, OWN_SHELF, RECEIPTS,
    REFUSALS, RELEASES, SEGMENTS, SENT_REQUESTS, SHELVED, TOP,
};
use crate::backup::Row;
use crate::failure::Failure;
use crate::store::Table;
use std::ops::ControlFlow;

/// Takes rows, some at a time; false: nobody wants more.
pub type RowSink = Box<dyn FnMut(Vec<Row>) -> bool + Send>;

/// Rows handed over together, in bytes of names and values. 1 MiB: what waits between engine and disk stays small.
const CHUNK_BYTES: usize = 1 << 20;

/// Tables that a backup holds. A new table is left out until it is put here.
const KEPT: [Table; 20] = [
    ENTRIES,
    CONTACTS,
    GIVEN,
    GOT,
    OWN,
    LABELS,
    KNOWN,
    SHELVED,
    SEGMENTS,
    RELEASES,
    RECEIPTS,
    OUTBOX,
    SENT_REQUESTS,
    ASKED,
    REFUSALS,
    META,
    GONE,
    super::rows::KEPT_KEYS,
    super::rows::KEEPERS,
    super::rows::LOST,
];

/// Names in [`META`] that belong to this device or folder alone.
const OF_THIS_DEVICE: [&[u8]; 3] = [b"addresses", b"standing", super::recover::PENDING];

fn is_kept(table: Table, parent: &[u8], item: &[u8]) -> bool {
    match table {
        LABELS => parent == TOP,
        // Every own device's chain; the shelf of a grant has a longer or shorter name.
        SEGMENTS => {
            parent == OWN_SHELF || (parent.len() == OWN_SHELF.len() + 32 && parent.starts_with(OWN_SHELF))
        }
        META => !OF_THIS_DEVICE.contains(&item),
        _ => true,
    }
}

/// The table of own records, whose payloads belong to a backup.
pub(crate) const OWN_TABLE: u8 = OWN.0;
/// The table of entries; its parent is the party.
pub(crate) const ENTRIES_TABLE: u8 = ENTRIES.0;

impl Engine {
    /// Hands out every row of a backup, as of a commit made just now. The engine does nothing else meanwhile.
    pub(super) fn snapshot(&mut self, sink: &mut RowSink) -> Result<(), Failure> {
        self.commit()?;
        let (mut rows, mut bytes, mut wanted) = (Vec::new(), 0, true);
        for table in KEPT {
            self.store.scan_table(table, &mut |parent, item, value| {
                if !is_kept(table, parent, item) {
                    return ControlFlow::Continue(());
                }
                bytes += parent.len() + item.len() + value.len();
                rows.push(Row::put(table.0, parent, item, value));
                if bytes >= CHUNK_BYTES {
                    bytes = 0;
                    wanted = sink(std::mem::take(&mut rows));
                }
                if wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if !wanted {
                return Err(Failure::failed("the backup was broken off"));
            }
        }
        sink(rows);
        Ok(())
    }
}
