//! Payloads on their way here: parts in `incoming/`, each with one receiver.
//!
//! For: appending, completing, and bounding what interrupted fetches leave. Not for: verifying slices, which
//! the caller does before it writes them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::behind::Behind;
use super::disk::Folder;
use super::{BlobId, Limits, Partial, expect_at, expect_hash, hex, lock, remove};
use crate::store::{Direct, StoreError, files, io_error};

pub(super) struct Incoming {
    dir: PathBuf,
    receiving: Mutex<BTreeSet<BlobId>>,
}

/// A part nobody is receiving.
struct Part {
    modified: SystemTime,
    length: u64,
    path: PathBuf,
}

impl Incoming {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("incoming");
        files::make_dir(&dir)?;
        Ok(Self { dir, receiving: Mutex::default() })
    }

    pub(super) fn delete(&self, id: &BlobId) -> io::Result<bool> {
        remove(&self.dir.join(hex(id)))
    }

    pub(super) fn size_bytes(&self) -> io::Result<u64> {
        let mut sum = 0u64;
        for entry in std::fs::read_dir(&self.dir)? {
            sum = sum.saturating_add(entry?.metadata().map_or(0, |meta| meta.len()));
        }
        Ok(sum)
    }

    /// Drops parts that are too old, and the oldest while there are too many or too large ones, but none that
    /// is being received. Returns their number and bytes.
    pub(super) fn sweep(&self, limits: &Limits, now: SystemTime) -> io::Result<(u64, u64)> {
        // Held throughout, so that nobody begins to receive what is removed.
        let receiving = lock(&self.receiving);
        let mut parts = self.parts(&receiving)?;
        parts.sort_by_key(|part| part.modified);
        let mut left_bytes = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.length));
        let (mut left, mut dropped, mut dropped_bytes) = (parts.len(), 0u64, 0u64);
        for part in parts {
            // A part from the future has no age: the clock was set back.
            let age = now.duration_since(part.modified).unwrap_or_default();
            if age <= limits.incoming_age
                && left <= limits.incoming_count
                && left_bytes <= limits.incoming_bytes
            {
                break;
            }
            remove(&part.path)?;
            left = left.saturating_sub(1);
            left_bytes = left_bytes.saturating_sub(part.length);
            dropped = dropped.saturating_add(1);
            dropped_bytes = dropped_bytes.saturating_add(part.length);
        }
        Ok((dropped, dropped_bytes))
    }

    fn parts(&self, receiving: &BTreeSet<BlobId>) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| blake3::Hash::from_hex(name).ok());
            if id.is_some_and(|id| !receiving.contains(id.as_bytes())) {
                let meta = entry.metadata()?;
                parts.push(Part { modified: meta.modified()?, length: meta.len(), path: entry.path() });
            }
        }
        Ok(parts)
    }
}

pub(super) struct DiskPartial {
    claim: Claim,
    path: PathBuf,
    file: File,
    len_bytes: u64,
    /// What was here when this receiver began.
    found_bytes: u64,
    direct: Direct,
    behind: Behind,
}

impl DiskPartial {
    pub(super) fn open(folder: &Arc<Folder>, id: BlobId) -> Result<Self, StoreError> {
        let claim = Claim::take(folder, id)?;
        let path = folder.incoming.dir.join(hex(&id));
        let doing = "opening a partial payload";
        let file = files::private().create(true).truncate(false).open(&path).map_err(io_error(doing))?;
        let len_bytes = file.metadata().map_err(io_error(doing))?.len();
        let direct = Direct::new(path.clone());
        Ok(Self { claim, path, file, len_bytes, found_bytes: len_bytes, direct, behind: Behind::default() })
    }

    fn hash(&self) -> io::Result<blake3::Hasher> {
        let mut hasher = blake3::Hasher::new();
        // A failed write may have left bytes behind the length.
        hasher.update_reader(File::open(&self.path)?.take(self.len_bytes))?;
        Ok(hasher)
    }
}

impl Partial for DiskPartial {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        expect_at(self.len_bytes, offset)?;
        let written = self.direct.write_all_at(&self.file, bytes, offset);
        written.map_err(io_error("writing a partial payload"))?;
        self.len_bytes = offset.saturating_add(bytes.len() as u64);
        self.behind.wrote(&self.file, bytes.len() as u64);
        Ok(())
    }

    fn complete(self: Box<Self>, len_bytes: u64) -> Result<(), StoreError> {
        self.claim.folder.check_alive()?;
        expect_at(len_bytes, self.len_bytes)?;
        let hasher = self.hash().map_err(io_error("completing a partial payload"))?;
        if let Err(error) = expect_hash(&self.claim.id, &hasher) {
            self.discard()?;
            return Err(error);
        }
        self.stage(len_bytes)
    }

    fn complete_verified(self: Box<Self>, len_bytes: u64) -> Result<(), StoreError> {
        if self.found_bytes > 0 {
            return self.complete(len_bytes);
        }
        self.claim.folder.check_alive()?;
        expect_at(len_bytes, self.len_bytes)?;
        self.stage(len_bytes)
    }

    fn discard(self: Box<Self>) -> Result<(), StoreError> {
        remove(&self.path).map(|_| ()).map_err(io_error("discarding a partial payload"))
    }
}

impl DiskPartial {
    fn stage(mut self, len_bytes: u64) -> Result<(), StoreError> {
        let doing = "completing a partial payload";
        self.behind.finish().map_err(io_error(doing))?;
        // A failed write may have left bytes behind the length.
        self.file.set_len(len_bytes).map_err(io_error(doing))?;
        let folder = &self.claim.folder;
        if folder.is_packed(len_bytes) {
            let mut bytes = Vec::new();
            let file = File::open(&self.path).map_err(io_error(doing))?;
            file.take(len_bytes).read_to_end(&mut bytes).map_err(io_error(doing))?;
            folder.pack(self.claim.id, &bytes)?;
            return remove(&self.path).map(|_| ()).map_err(io_error(doing));
        }
        // Into tmp first: from here on it is like any finished payload.
        let tmp = folder.files.tmp_path();
        std::fs::rename(&self.path, &tmp).map_err(io_error(doing))?;
        folder.files.stage(self.claim.id, tmp).map_err(io_error(doing))
    }
}

/// The right to receive one payload, given back when dropped.
struct Claim {
    folder: Arc<Folder>,
    id: BlobId,
}

impl Claim {
    fn take(folder: &Arc<Folder>, id: BlobId) -> Result<Self, StoreError> {
        if !lock(&folder.incoming.receiving).insert(id) {
            return Err(StoreError::Busy);
        }
        Ok(Self { folder: Arc::clone(folder), id })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.folder.incoming.receiving).remove(&self.id);
    }
}
