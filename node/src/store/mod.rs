//! The store: where everything a node must not forget is kept, and nothing on it can be read without its key.
//!
//! For: rows `(table, parent, item) -> value`, written in batches and made durable by group commit
//! ([`Store`]: [`Disk`], [`Memory`]), and payload files named by their hash ([`Blobs`]: [`DiskBlobs`],
//! [`MemoryBlobs`]). Not for: knowing what is in a row, deciding who may see it, or waiting; every call here
//! is synchronous, and one thread owns the store.
//!
//! *Durable* means: after `commit` (or `Blobs::sync`) returns `Ok`, the data outlives a killed process and a
//! lost power supply. Nothing may be acknowledged or sent before. After a crash the store opens with the state
//! of some commit that is not older than the last one that returned.

mod applier;
mod blobs;
mod check;
mod compact;
#[cfg(test)]
mod contract;
mod delta;
mod direct;
mod disk;
mod files;
mod format;
mod journal;
mod memory;
mod open;
mod place;
mod reserve;
mod salvage;
mod sealing;
mod survey;
mod view;
mod witness;

use std::io;
use std::ops::ControlFlow;

pub use blobs::{
    BlobId, BlobStats, BlobWriter, Blobs, Check, Checked, DiskBlobs, MemoryBlobs, Partial, ReadSeek,
    Reclaimed, UnhashedWriter,
};
pub use check::{Finding, Gravity, Health};
pub use delta::Batch;
pub(crate) use direct::Direct;
pub use disk::Disk;
pub use memory::Memory;
pub use open::Opened;
pub use salvage::{Missing, Salvage};
pub(crate) use sealing::Sealer;
pub use sealing::StoreKey;

/// Longest parent or item, in bytes. 512: a key is a few 32-byte ids and numbers.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest value, in bytes. 1 MiB: the largest is a segment's age file, about 150 KB for 1,000 records.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Largest batch, in bytes counted with [`Batch::size_bytes`]. 8 MiB: two batches always fit in one frame.
pub const BATCH_BYTES_MAX: usize = 8 << 20;

/// A table's number. The store does not know what is in it: its user names the constants.
///
/// 0 to 127 are journaled; 128 to 254 are not (they may be lost in a crash); 255 is the store's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Table(pub u8);

impl Table {
    /// Whether rows of this table go through the journal (`write`) or only to the view (`write_unjournaled`).
    pub const fn is_journaled(self) -> bool {
        self.0 < 0x80
    }
}

/// Called with item and value of one parent's rows; `Break` ends the scan.
pub type VisitItem<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;
/// Called with parent, item and value of a table's rows; `Break` ends the scan.
pub type VisitRow<'a> = dyn FnMut(&[u8], &[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Rows in tables. Users: [`Disk`] and [`Memory`]; both pass the same contract.
pub trait Store: Send {
    /// The value of one row, written or committed.
    fn get(&self, table: Table, parent: &[u8], item: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits all rows of one parent, in no order.
    fn scan(&self, table: Table, parent: &[u8], visit: &mut VisitItem<'_>) -> Result<(), StoreError>;

    /// Visits all rows of one table, in no order.
    fn scan_table(&self, table: Table, visit: &mut VisitRow<'_>) -> Result<(), StoreError>;

    /// Applies a batch to journaled tables, all or nothing. Visible to `get` and `scan` at once, **not durable**
    /// until `commit`. A full group is committed early to keep it bounded: durable sooner is always allowed.
    fn write(&mut self, batch: Batch) -> Result<(), StoreError>;

    /// Makes everything written before durable, in one group: all of it or, after a crash before the return,
    /// perhaps none of it. With nothing written it does nothing. After [`StoreError::Full`] nothing changed: the
    /// group is kept and can be committed again, given up with [`abandon`](Self::abandon), or carried by an
    /// [urgent](Batch::urgent) batch, for which a reserve is kept. After any other error the store refuses
    /// writes: what of the group is durable shows when it is opened again.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Gives up everything written since the last commit: it was never there. After [`StoreError::Full`] this
    /// lets the store go on.
    fn abandon(&mut self);

    /// Applies a batch to tables that are not journaled. Kept by a clean close, lost by a crash.
    fn write_unjournaled(&mut self, batch: Batch) -> Result<(), StoreError>;

    /// The latest time known to have passed, as of the last commit or raise.
    fn time_floor_ms(&self) -> u64;

    /// Raises the time floor (a lower value is ignored). Kept durably by the next commit that writes, and by
    /// `close`.
    fn raise_time_floor(&mut self, floor_ms: u64);

    /// Lowers the time floor (a higher value is ignored): its own user says that the clock was wrong. Durable when it
    /// returns, whichever of the witness files is lost later.
    fn lower_time_floor(&mut self, floor_ms: u64) -> Result<(), StoreError>;

    /// Accepts that the store lives where it lies now, after it was found to be a copy. Durable when it returns; a
    /// store without a place has nothing to do.
    fn settle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Sizes, for the status page.
    fn stats(&self) -> Stats;

    /// Commits, and leaves everything such that the next open is quick.
    fn close(self: Box<Self>) -> Result<(), StoreError>;
}

/// Sizes of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Length of the journal, all its segments.
    pub journal_bytes: u64,
    /// Commit groups made since the store was opened.
    pub commits: u64,
    /// Size of the view on disk; 0 when unknown or held in memory.
    pub view_bytes: u64,
    /// Upper bound of what is written and not yet committed.
    pub pending_bytes: u64,
    /// What the live rows take in a fresh journal, about.
    pub live_bytes: u64,
    /// What compacting would give back, about: journal and view.
    pub reclaimable_bytes: u64,
    /// What the store takes beside live rows: view, witness and reserve.
    pub overhead_bytes: u64,
    /// Segments of the journal.
    pub segments: u64,
    /// What is kept for urgent batches on a full disk.
    pub reserve_bytes: u64,
    /// Rows in journaled tables, without what waits to be applied.
    pub rows: u64,
    /// Whether the view is held in memory, because the disk has no room for it.
    pub is_view_in_memory: bool,
}

/// Why the store said no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the folder open.
    #[error("store is open in process {pid}: stop it, or talk to it over its control socket")]
    Locked {
        /// The owner's process id as it wrote it, or "unknown".
        pid: String,
    },
    /// The store was made with another key; nothing is damaged.
    #[error("store key does not open this store: it was made with another key")]
    WrongKey,
    /// The file was written by another version of this program.
    #[error("{file} has format version {got}, expected {expected}")]
    Version {
        /// Which file.
        file: String,
        /// The version this program writes.
        expected: u16,
        /// The version found.
        got: u16,
    },
    /// Something acknowledged can no longer be read, and nothing here has it a second time. The store refuses to
    /// open: restore it from a copy, or let [`Disk::salvage`] keep what is whole and say what is lost.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Damaged {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// What was expected there.
        what: &'static str,
    },
    /// The view cannot be used. The journal is whole: `Disk::rebuild` or the next open remakes the view.
    #[error("view cannot be used: {what}; it is remade at the next start")]
    View {
        /// What failed.
        what: String,
    },
    /// No space left on the disk, or less than a commit may need. Nothing changed: make room and try again.
    #[error("disk is full while {doing}")]
    Full {
        /// What was being done.
        doing: &'static str,
    },
    /// Any other failure of the operating system.
    #[error("{doing} failed: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write or sync failed, so nobody knows what is on the disk until it is read again.
    #[error("store refuses writes after an earlier disk error: close it and open it again")]
    Poisoned,
    /// A bound was passed.
    #[error("{what} is too large: expected at most {expected} bytes, got {got}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The bound.
        expected: usize,
        /// The size.
        got: usize,
    },
    /// A journaled table was written unjournaled, or the reverse.
    #[error("table {table} is of the wrong kind: expected {expected}")]
    WrongTable {
        /// The table's number.
        table: u8,
        /// "journaled (0 to 127)" or "unjournaled (128 to 254)".
        expected: &'static str,
    },
    /// The bytes received do not hash to the name they were received for. They were dropped.
    #[error("payload does not match its name: expected {expected}, got {got}")]
    WrongHash {
        /// The name, in hex.
        expected: String,
        /// blake3 of the bytes, in hex.
        got: String,
    },
    /// A partial was written elsewhere than at its end, or completed at the wrong length.
    #[error("partial payload is at byte {got}, expected {expected}")]
    WrongOffset {
        /// Where the partial would have had to end.
        expected: u64,
        /// Where it ends.
        got: u64,
    },
    /// Somebody else is receiving the same payload now.
    #[error("payload is already being received")]
    Busy,
    /// The system's random source failed.
    #[error("system random source failed: {0}")]
    Random(getrandom::Error),
}

/// Names what was being done, and tells a full disk from other errors.
fn io_error(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { doing },
        _ => StoreError::Io { doing, source },
    }
}

/// The same for steps that cannot be tried again: a full disk is then like any other failure.
fn final_error(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { doing, source }
}
