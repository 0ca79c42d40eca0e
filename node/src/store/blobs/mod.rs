//! Payloads: age ciphertext named by its blake3 hash, which `b3sum` confirms.
//!
//! For: writing while hashing, group sync, random reads, receiving in parts, finding damage by name, and giving
//! space back. Not for: encryption (payloads are ciphertext already), nor for who may read which. Called from
//! several threads.
//!
//! ```text
//! packs/                small payloads, many in one file (`packs` tells the format)
//! payloads/ab/abcdef…   large ones, and small ones of older folders: whole and durable, always, because a
//!                       file gets this name only after it was synced
//! tmp/<n>               being written, or finished and not yet synced; emptied at open
//! incoming/<hash>       a part of a payload on its way here; kept at open
//! ```

mod behind;
mod disk;
mod files;
mod frame;
mod gc;
mod incoming;
#[cfg(test)]
mod laws;
mod memory;
mod pack;
mod packs;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use disk::DiskBlobs;
pub use memory::MemoryBlobs;

use super::{StoreError, final_error, io_error};

/// blake3 of a payload's bytes: its name.
pub type BlobId = [u8; 32];

/// What a payload is read through.
pub trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// Payloads. Users: [`DiskBlobs`] and [`MemoryBlobs`].
pub trait Blobs: Send + Sync {
    /// Begins a new payload. Dropped before `finish`, it leaves nothing.
    fn create(&self) -> Result<Box<dyn BlobWriter>, StoreError>;

    /// As [`create`](Blobs::create), for who hashes what it writes.
    fn create_unhashed(&self) -> Result<Box<dyn UnhashedWriter>, StoreError>;

    /// Keeps a payload whose bytes the caller has verified against its name, as if it had been written and finished.
    fn put(&self, id: &BlobId, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes every payload finished or completed, and every delete made, before this call durable. One sync
    /// serves all who wait. After [`StoreError::Full`] it can be tried again. When nobody knows any more what is
    /// on the disk it poisons: nothing can be created, and nothing packed deleted, until the blobs are opened
    /// again.
    fn sync(&self) -> Result<(), StoreError>;

    /// A reader over a payload, synced or not. A small one was verified, and is an error that names it when it
    /// is damaged; a large one is verified while it is read, by whoever reads it.
    fn open(&self, id: &BlobId) -> Result<Option<Box<dyn ReadSeek + Send>>, StoreError>;

    /// Appends a payload of at most `bytes_max` bytes to `buffer`, unverified: for who verifies what it reads. Whether
    /// there is such a payload.
    fn read(&self, id: &BlobId, bytes_max: u64, buffer: &mut Vec<u8>) -> Result<bool, StoreError>;

    /// A payload's length in bytes; `None` also when it is known to be damaged, so that it is fetched again.
    fn len(&self, id: &BlobId) -> Result<Option<u64>, StoreError>;

    /// Removes a payload, if it is there. Who has it open reads on. After the next [`sync`](Blobs::sync) it does
    /// not come back; after a [`gc`](Blobs::gc) its bytes are gone from the folder.
    fn delete(&self, id: &BlobId) -> Result<(), StoreError>;

    /// Visits name and length of every durable payload, in no order: damaged ones too, so that whoever deletes
    /// what is not needed deletes them as well.
    fn list(&self, visit: &mut dyn FnMut(&BlobId, u64) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Begins or resumes receiving a payload. One receiver at a time: others get [`StoreError::Busy`].
    fn partial(&self, id: &BlobId) -> Result<Box<dyn Partial>, StoreError>;

    /// Counts and sizes. Walks the payload files.
    fn stats(&self) -> Result<BlobStats, StoreError>;

    /// Reads every payload and names the damaged ones, which from then on count as not here, until they are put
    /// again. `Break` ends it early.
    fn check(&self, visit: &mut dyn FnMut(Check) -> ControlFlow<()>) -> Result<Checked, StoreError>;

    /// Syncs, then clears away every byte of what was deleted before this call, and parts of payloads that are
    /// too many, too large or too old.
    fn gc(&self) -> Result<Reclaimed, StoreError>;
}

/// A payload being written.
pub trait BlobWriter: Write + Send {
    /// Makes it visible under its name, which is returned. Durable only after [`Blobs::sync`]. Bytes that are
    /// here and damaged are replaced.
    fn finish(self: Box<Self>) -> Result<BlobId, StoreError>;
}

/// A payload being written, which its writer hashes.
pub trait UnhashedWriter: Write + Send {
    /// As [`BlobWriter::finish`], under the hash of what was written.
    fn finish_as(self: Box<Self>, id: &BlobId) -> Result<(), StoreError>;
}

/// A payload being received, from its start to its end; dropped, it can be resumed. After a crash its last
/// bytes may be wrong, which `complete` finds.
pub trait Partial: Send {
    /// How much is there, in bytes: where the next write goes.
    fn len_bytes(&self) -> u64;

    /// Appends bytes the caller has verified. `offset` must be the length.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError>;

    /// Hashes the whole and makes it visible. Durable only after [`Blobs::sync`]. With a wrong length the part
    /// is kept, with a wrong hash it is dropped.
    fn complete(self: Box<Self>, len_bytes: u64) -> Result<(), StoreError>;

    /// As [`complete`](Partial::complete), for who verified every byte against the name before writing it: hashed only
    /// when some of it was here before, from which a crash may have taken.
    fn complete_verified(self: Box<Self>, len_bytes: u64) -> Result<(), StoreError>;

    /// Drops what was received.
    fn discard(self: Box<Self>) -> Result<(), StoreError>;
}

/// Counts, and sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlobStats {
    /// Payloads, durable or not yet.
    pub payloads: u64,
    /// Of these, known to be damaged.
    pub damaged: u64,
    /// Payload bytes.
    pub live_bytes: u64,
    /// What a gc would free, about: deleted payloads and notes about them.
    pub reclaimable_bytes: u64,
    /// What packs and indexes take beyond the payloads in them, the reclaimable bytes included.
    pub overhead_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Payloads that are files of their own.
    pub files: u64,
    /// Parts of payloads on their way here.
    pub incoming_bytes: u64,
}

/// What a check tells while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// This payload is not what its name says, or cannot be read.
    Damaged(BlobId),
    /// How far it is. Told every few MiB.
    Progress {
        /// Payload bytes read.
        bytes_done: u64,
        /// Payload bytes there were at the start.
        bytes_total: u64,
    },
}

/// What a check came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Payloads looked at.
    pub payloads: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged ones, each of which was named.
    pub damaged: u64,
    /// Bytes where pack and index are both damaged, so that nothing names what was there: compare with the rows.
    pub unnamed_bytes: u64,
    /// Whether it came to the end.
    pub is_complete: bool,
}

/// What a gc freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reclaimed {
    /// Bytes on the disk, parts included.
    pub bytes: u64,
    /// Packs rewritten or removed.
    pub packs: u64,
    /// Parts of payloads dropped.
    pub partials: u64,
}

/// Bounds of a folder. Other values than the default are for tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest payload that is packed, in bytes. 1 MiB, one slice: it is verified and held in memory when it is opened,
    /// and copied when its pack is rewritten. A file of its own costs two more waits for the disk; a CT study of a
    /// thousand files arrived 1.6 times as fast in packs.
    pub(crate) packed_bytes: usize,
    /// Longest pack, in bytes. 16 MiB: rewriting one is the longest step a sync may take on, some 50 ms.
    pub(crate) pack_bytes: u64,
    /// Reclaimable bytes that are left alone unless gc is asked for. 1 MiB: not worth rewriting a pack.
    pub(crate) gc_floor_bytes: u64,
    /// Parts of payloads kept. 256: as many records as one fetch asks for.
    pub(crate) incoming_count: usize,
    /// Their bytes in all. 16 GiB: some hundred interrupted CT series.
    pub(crate) incoming_bytes: u64,
    /// Since a part last grew. 30 days: a contact on holiday may go on where it was interrupted.
    pub(crate) incoming_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packed_bytes: 1 << 20,
            pack_bytes: 16 << 20,
            gc_floor_bytes: 1 << 20,
            incoming_count: 256,
            incoming_bytes: 16 << 30,
            incoming_age: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// Why something failed, and whether anybody still knows what is on the disk.
enum Failed {
    /// It can be tried again.
    Known(StoreError),
    /// After a failed sync a second one may succeed with the data lost.
    Unknown(StoreError),
}

impl Failed {
    fn known(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Known(io_error(doing)(source))
    }

    fn unknown(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Unknown(final_error(doing)(source))
    }

    fn into_io(self) -> io::Error {
        match self {
            Self::Known(StoreError::Full { .. }) => io::ErrorKind::StorageFull.into(),
            Self::Known(StoreError::Io { source, .. }) | Self::Unknown(StoreError::Io { source, .. }) => {
                source
            }
            Self::Known(other) | Self::Unknown(other) => io::Error::other(other),
        }
    }
}

/// std's mutexes, because nothing awaits under them. What a panicking thread leaves is a map that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a file; whether it was there.
fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn expect_at(expected: u64, got: u64) -> Result<(), StoreError> {
    if expected == got { Ok(()) } else { Err(StoreError::WrongOffset { expected, got }) }
}

fn expect_hash(id: &BlobId, hasher: &blake3::Hasher) -> Result<(), StoreError> {
    let got = hasher.finalize();
    if got.as_bytes() == id { Ok(()) } else { Err(damaged(id, got.to_hex().as_str())) }
}

fn damaged(id: &BlobId, got: &str) -> StoreError {
    StoreError::WrongHash { expected: hex(id), got: got.to_owned() }
}

fn hex(id: &BlobId) -> String {
    blake3::Hash::from_bytes(*id).to_hex().to_string()
}
