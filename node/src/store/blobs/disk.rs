//! Payloads in a folder: what is small goes into packs, what is large into files.
//!
//! For: the verbs of [`Blobs`], and which layout serves each. Not for: the layouts (`packs`, `files`,
//! `incoming`).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::behind::Behind;
use super::files::Files;
use super::incoming::{DiskPartial, Incoming};
use super::packs::Packs;
use super::{
    BlobId, BlobStats, BlobWriter, Blobs, Check, Checked, Failed, Limits, Partial, ReadSeek, Reclaimed,
    UnhashedWriter, lock, remove,
};
use crate::store::{StoreError, files, io_error};

/// Bytes checked between two words about it. 8 MiB: some 10 ms.
const PROGRESS_BYTES: u64 = 8 << 20;

/// [`Blobs`] in a folder.
pub struct DiskBlobs(Arc<Folder>);

pub(super) struct Folder {
    limits: Limits,
    pub(super) files: Files,
    pub(super) packs: Packs,
    pub(super) incoming: Incoming,
    poisoned: AtomicBool,
    /// Held through a whole sync, so that whoever waits finds its payloads done or does them itself; and through
    /// a rewrite of packs.
    syncing: Mutex<()>,
}

impl DiskBlobs {
    /// Opens or makes the folder, and removes what was never finished. Open the [`Disk`](crate::store::Disk) of
    /// the same node first: its lock keeps a second process out of this folder too.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Limits::default())
    }

    pub(crate) fn open_with(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        let doing = "opening the payload folder";
        let packs = dir.join("packs");
        files::make_dir(&packs).map_err(io_error(doing))?;
        let files = Files::open(dir).map_err(io_error(doing))?;
        let incoming = Incoming::open(dir).map_err(io_error(doing))?;
        files::sync_dir(dir).map_err(io_error(doing))?;
        // A part that cannot be removed keeps nobody from the payloads; `gc` says why.
        let _ = incoming.sweep(&limits, crate::clock::file_stamp_now());
        Ok(Self(Arc::new(Folder {
            limits,
            files,
            packs: Packs::open(&packs, limits)?,
            incoming,
            poisoned: AtomicBool::new(false),
            syncing: Mutex::new(()),
        })))
    }
}

impl Blobs for DiskBlobs {
    fn create(&self) -> Result<Box<dyn BlobWriter>, StoreError> {
        Ok(Box::new(HashingWriter { writer: self.0.writer()?, hasher: blake3::Hasher::new() }))
    }

    fn create_unhashed(&self) -> Result<Box<dyn UnhashedWriter>, StoreError> {
        Ok(Box::new(self.0.writer()?))
    }

    fn put(&self, id: &BlobId, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.check_alive()?;
        if self.0.is_packed(bytes.len() as u64) {
            return self.0.pack(*id, bytes);
        }
        let doing = "finishing a payload";
        let mut spilled = Spilled::create(&self.0).map_err(io_error(doing))?;
        spilled.write(bytes).map_err(io_error(doing))?;
        spilled.stage(&self.0, *id)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.0.syncing);
        self.0.sync_held()?;
        match self.0.packs.gc_step() {
            Err(failed @ Failed::Unknown(_)) => Err(self.0.fail(failed)),
            // What was asked for is durable; what stays to be reclaimed, the next sync or `gc` tries again.
            _ => Ok(()),
        }
    }

    fn open(&self, id: &BlobId) -> Result<Option<Box<dyn ReadSeek + Send>>, StoreError> {
        if let Some(bytes) = self.0.packs.read(id)? {
            return Ok(Some(Box::new(Cursor::new(bytes))));
        }
        Ok(self.0.files.file(id)?.map(|file| Box::new(file) as Box<dyn ReadSeek + Send>))
    }

    fn read(&self, id: &BlobId, bytes_max: u64, buffer: &mut Vec<u8>) -> Result<bool, StoreError> {
        if self.0.packs.read_into(id, bytes_max, buffer)? {
            return Ok(true);
        }
        let Some(file) = self.0.files.file(id)? else { return Ok(false) };
        let doing = "reading a payload";
        if file.metadata().map_err(io_error(doing))?.len() > bytes_max {
            return Ok(false);
        }
        file.take(bytes_max).read_to_end(buffer).map_err(io_error(doing))?;
        Ok(true)
    }

    fn len(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        if self.0.packs.has(id) { Ok(self.0.packs.len(id)) } else { self.0.files.len(id) }
    }

    fn delete(&self, id: &BlobId) -> Result<(), StoreError> {
        let doing = "deleting a payload";
        if self.0.packs.has(id) {
            self.0.check_alive()?;
            self.0.packs.delete(id)?;
        }
        self.0.files.delete(id).map_err(io_error(doing))?;
        // What had come of it, if it was still on its way.
        self.0.incoming.delete(id).map(|_| ()).map_err(io_error(doing))
    }

    fn list(&self, visit: &mut dyn FnMut(&BlobId, u64) -> ControlFlow<()>) -> Result<(), StoreError> {
        for (id, len_bytes) in self.0.packs.list() {
            if visit(&id, len_bytes).is_break() {
                return Ok(());
            }
        }
        let mut alone = |id: &BlobId, length| {
            if self.0.packs.has(id) { ControlFlow::Continue(()) } else { visit(id, length) }
        };
        self.0.files.list(&mut alone).map_err(io_error("listing payloads"))
    }

    fn partial(&self, id: &BlobId) -> Result<Box<dyn Partial>, StoreError> {
        self.0.check_alive()?;
        Ok(Box::new(DiskPartial::open(&self.0, *id)?))
    }

    fn stats(&self) -> Result<BlobStats, StoreError> {
        self.0.stats().map_err(io_error("counting payloads"))
    }

    fn check(&self, visit: &mut dyn FnMut(Check) -> ControlFlow<()>) -> Result<Checked, StoreError> {
        let bytes_total = self.stats()?.live_bytes;
        let mut run = Run { visit, checked: Checked::default(), told_bytes: 0, bytes_total };
        let ended = self.0.check(&mut run)?;
        run.checked.is_complete = ended.is_continue();
        run.checked.unnamed_bytes = self.0.packs.sizes().hole_bytes;
        Ok(run.checked)
    }

    fn gc(&self) -> Result<Reclaimed, StoreError> {
        let mut reclaimed = Reclaimed::default();
        // Twice: with the deleted payloads gone, the notes about their deletion can go too.
        for _ in ["payloads", "notes"] {
            for batch in self.0.batches()? {
                // Syncs get their turn between two batches.
                let _one_at_a_time = lock(&self.0.syncing);
                self.0.check_alive()?;
                let one = self.0.packs.rewrite(&batch).map_err(|failed| self.0.fail(failed))?;
                reclaimed.bytes = reclaimed.bytes.saturating_add(one.bytes);
                reclaimed.packs = reclaimed.packs.saturating_add(one.packs);
            }
        }
        let swept = self.0.incoming.sweep(&self.0.limits, crate::clock::file_stamp_now());
        let (partials, bytes) = swept.map_err(io_error("dropping partial payloads"))?;
        self.0.packs.keep_reserve();
        reclaimed.partials = partials;
        reclaimed.bytes = reclaimed.bytes.saturating_add(bytes);
        Ok(reclaimed)
    }
}

impl Folder {
    fn writer(self: &Arc<Self>) -> Result<DiskWriter, StoreError> {
        self.check_alive()?;
        Ok(DiskWriter { folder: Arc::clone(self), held: Vec::new(), spilled: None })
    }

    pub(super) fn check_alive(&self) -> Result<(), StoreError> {
        if self.poisoned.load(Ordering::SeqCst) { Err(StoreError::Poisoned) } else { Ok(()) }
    }

    fn fail(&self, failed: Failed) -> StoreError {
        match failed {
            Failed::Known(error) => error,
            Failed::Unknown(error) => {
                self.poisoned.store(true, Ordering::SeqCst);
                error
            }
        }
    }

    /// Whoever calls holds `syncing`.
    fn sync_held(&self) -> Result<(), StoreError> {
        self.check_alive()?;
        self.files.sync().and_then(|()| self.packs.sync()).map_err(|failed| self.fail(failed))
    }

    fn batches(&self) -> Result<Vec<BTreeSet<u32>>, StoreError> {
        let _one_at_a_time = lock(&self.syncing);
        self.sync_held()?;
        Ok(self.packs.gc_batches())
    }

    pub(super) fn is_packed(&self, len_bytes: u64) -> bool {
        len_bytes <= self.limits.packed_bytes as u64
    }

    pub(super) fn pack(&self, id: BlobId, bytes: &[u8]) -> Result<(), StoreError> {
        if !self.packs.has(&id) && self.files.holds(&id, bytes).map_err(io_error("finishing a payload"))? {
            return Ok(());
        }
        self.packs.put(id, bytes)
    }

    fn stats(&self) -> io::Result<BlobStats> {
        let sizes = self.packs.sizes();
        let mut stats = BlobStats {
            payloads: sizes.payloads,
            damaged: self.packs.damaged().saturating_add(self.files.damaged()),
            live_bytes: sizes.live_bytes,
            reclaimable_bytes: sizes.reclaimable_bytes,
            overhead_bytes: sizes.disk_bytes.saturating_sub(sizes.live_bytes),
            packs: sizes.packs,
            files: 0,
            incoming_bytes: self.incoming.size_bytes()?,
        };
        let mut count = |length| {
            stats.files = stats.files.saturating_add(1);
            stats.payloads = stats.payloads.saturating_add(1);
            stats.live_bytes = stats.live_bytes.saturating_add(length);
        };
        self.files.list(&mut |id, length| {
            if !self.packs.has(id) {
                count(length);
            }
            ControlFlow::Continue(())
        })?;
        for (_, path) in self.files.staged() {
            // Synced or deleted meanwhile: then it is counted, or not, the next time.
            count(std::fs::metadata(path).map_or(0, |meta| meta.len()));
        }
        Ok(stats)
    }

    fn check(&self, run: &mut Run<'_>) -> Result<ControlFlow<()>, StoreError> {
        for (place, id) in self.packs.in_order() {
            let is_right = match self.packs.read(&id) {
                Ok(None) => continue,
                read => read.is_ok(),
            };
            if run.add(&id, place.length.into(), is_right).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let mut all = Vec::new();
        self.files
            .list(&mut |id, length| {
                all.push((*id, length));
                ControlFlow::Continue(())
            })
            .map_err(io_error("listing payloads"))?;
        for (id, length) in all.into_iter().filter(|(id, _)| !self.packs.has(id)) {
            let Some(is_right) = self.files.verify(&id) else { continue };
            if run.add(&id, length, is_right).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(run.progress())
    }
}

/// A check under way.
struct Run<'a> {
    visit: &'a mut dyn FnMut(Check) -> ControlFlow<()>,
    checked: Checked,
    told_bytes: u64,
    bytes_total: u64,
}

impl Run<'_> {
    fn add(&mut self, id: &BlobId, length: u64, is_right: bool) -> ControlFlow<()> {
        self.checked.payloads = self.checked.payloads.saturating_add(1);
        self.checked.bytes = self.checked.bytes.saturating_add(length);
        if !is_right {
            self.checked.damaged = self.checked.damaged.saturating_add(1);
            (self.visit)(Check::Damaged(*id))?;
        }
        if self.checked.bytes.saturating_sub(self.told_bytes) < PROGRESS_BYTES {
            return ControlFlow::Continue(());
        }
        self.progress()
    }

    fn progress(&mut self) -> ControlFlow<()> {
        self.told_bytes = self.checked.bytes;
        (self.visit)(Check::Progress { bytes_done: self.checked.bytes, bytes_total: self.bytes_total })
    }
}

/// A payload being written: in memory while it is small enough to be packed, then in a file.
struct DiskWriter {
    folder: Arc<Folder>,
    held: Vec<u8>,
    spilled: Option<Spilled>,
}

/// The same, hashed as it is written.
struct HashingWriter {
    writer: DiskWriter,
    hasher: blake3::Hasher,
}

/// A file in `tmp`, removed when dropped unless it was staged.
struct Spilled {
    path: Option<PathBuf>,
    file: File,
    behind: Behind,
}

impl Spilled {
    fn create(folder: &Folder) -> io::Result<Self> {
        let path = folder.files.tmp_path();
        let file = files::private().create_new(true).open(&path)?;
        Ok(Self { path: Some(path), file, behind: Behind::default() })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.behind.wrote(&self.file, bytes.len() as u64);
        Ok(())
    }

    fn stage(mut self, folder: &Folder, id: BlobId) -> Result<(), StoreError> {
        let doing = "finishing a payload";
        self.behind.finish().map_err(io_error(doing))?;
        let Some(path) = self.path.take() else { return Ok(()) };
        folder.files.stage(id, path).map_err(io_error(doing))
    }
}

impl DiskWriter {
    fn spill(&mut self) -> io::Result<()> {
        let mut spilled = Spilled::create(&self.folder)?;
        spilled.write(&self.held)?;
        self.held = Vec::new();
        self.spilled = Some(spilled);
        Ok(())
    }
}

impl Write for DiskWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.spilled.is_none() && !self.folder.is_packed((self.held.len() + bytes.len()) as u64) {
            self.spill()?;
        }
        match &mut self.spilled {
            Some(spilled) => spilled.write(bytes).map(|()| bytes.len()),
            None => self.held.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl UnhashedWriter for DiskWriter {
    fn finish_as(mut self: Box<Self>, id: &BlobId) -> Result<(), StoreError> {
        self.folder.check_alive()?;
        match self.spilled.take() {
            Some(spilled) => spilled.stage(&self.folder, *id),
            None => self.folder.pack(*id, &self.held),
        }
    }
}

impl Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for HashingWriter {
    fn finish(self: Box<Self>) -> Result<BlobId, StoreError> {
        let id = self.hasher.finalize().into();
        Box::new(self.writer).finish_as(&id)?;
        Ok(id)
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be removed now is removed at the next open.
            let _ = remove(path);
        }
    }
}
