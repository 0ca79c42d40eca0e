//! Payloads in memory. For: tests and the simulator. Not for: damage, which memory does not suffer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use super::{
    BlobId, BlobStats, BlobWriter, Blobs, Check, Checked, Partial, ReadSeek, Reclaimed, UnhashedWriter,
    expect_at, expect_hash, lock,
};
use crate::store::StoreError;

/// [`Blobs`] in memory, for tests and the simulator. Clones share their content.
#[derive(Clone, Default)]
pub struct MemoryBlobs(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    payloads: BTreeMap<BlobId, Payload>,
    partials: BTreeMap<BlobId, Vec<u8>>,
    receiving: BTreeSet<BlobId>,
}

struct Payload {
    bytes: Arc<[u8]>,
    is_durable: bool,
}

impl MemoryBlobs {
    /// No payloads.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is there after the process was killed: only what was synced. (A disk may bring a delete that was
    /// not synced back, and parts of partials; this one does neither.)
    pub fn crash(self) -> Self {
        let mut payloads = std::mem::take(&mut lock(&self.0).payloads);
        payloads.retain(|_, payload| payload.is_durable);
        Self(Arc::new(Mutex::new(Held { payloads, ..Held::default() })))
    }
}

impl Blobs for MemoryBlobs {
    fn create(&self) -> Result<Box<dyn BlobWriter>, StoreError> {
        Ok(Box::new(MemoryWriter { blobs: self.clone(), bytes: Vec::new() }))
    }

    fn create_unhashed(&self) -> Result<Box<dyn UnhashedWriter>, StoreError> {
        Ok(Box::new(MemoryWriter { blobs: self.clone(), bytes: Vec::new() }))
    }

    fn put(&self, id: &BlobId, bytes: &[u8]) -> Result<(), StoreError> {
        self.stage(*id, bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        lock(&self.0).payloads.values_mut().for_each(|payload| payload.is_durable = true);
        Ok(())
    }

    fn open(&self, id: &BlobId) -> Result<Option<Box<dyn ReadSeek + Send>>, StoreError> {
        let held = lock(&self.0);
        let payload = held.payloads.get(id).map(|payload| Cursor::new(Arc::clone(&payload.bytes)));
        Ok(payload.map(|reader| Box::new(reader) as Box<dyn ReadSeek + Send>))
    }

    fn read(&self, id: &BlobId, bytes_max: u64, buffer: &mut Vec<u8>) -> Result<bool, StoreError> {
        let held = lock(&self.0);
        let found = held.payloads.get(id).filter(|payload| payload.bytes.len() as u64 <= bytes_max);
        found.iter().for_each(|payload| buffer.extend_from_slice(&payload.bytes));
        Ok(found.is_some())
    }

    fn len(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        Ok(lock(&self.0).payloads.get(id).map(|payload| payload.bytes.len() as u64))
    }

    fn delete(&self, id: &BlobId) -> Result<(), StoreError> {
        lock(&self.0).payloads.remove(id);
        Ok(())
    }

    fn list(&self, visit: &mut dyn FnMut(&BlobId, u64) -> ControlFlow<()>) -> Result<(), StoreError> {
        let held = lock(&self.0);
        let durable = held.payloads.iter().filter(|(_, payload)| payload.is_durable);
        let listed: Vec<_> = durable.map(|(id, payload)| (*id, payload.bytes.len() as u64)).collect();
        // The visitor may call back.
        drop(held);
        let _ = listed.iter().try_for_each(|(id, len_bytes)| visit(id, *len_bytes));
        Ok(())
    }

    fn stats(&self) -> Result<BlobStats, StoreError> {
        let held = lock(&self.0);
        let sum = |lengths: &mut dyn Iterator<Item = usize>| lengths.map(|length| length as u64).sum();
        Ok(BlobStats {
            payloads: held.payloads.len() as u64,
            live_bytes: sum(&mut held.payloads.values().map(|payload| payload.bytes.len())),
            incoming_bytes: sum(&mut held.partials.values().map(Vec::len)),
            ..BlobStats::default()
        })
    }

    fn check(&self, visit: &mut dyn FnMut(Check) -> ControlFlow<()>) -> Result<Checked, StoreError> {
        let stats = self.stats()?;
        let mut checked = Checked { payloads: stats.payloads, bytes: stats.live_bytes, ..Checked::default() };
        let all = Check::Progress { bytes_done: stats.live_bytes, bytes_total: stats.live_bytes };
        checked.is_complete = visit(all).is_continue();
        Ok(checked)
    }

    fn gc(&self) -> Result<Reclaimed, StoreError> {
        Ok(Reclaimed::default())
    }

    fn partial(&self, id: &BlobId) -> Result<Box<dyn Partial>, StoreError> {
        let mut held = lock(&self.0);
        if !held.receiving.insert(*id) {
            return Err(StoreError::Busy);
        }
        let bytes = held.partials.remove(id).unwrap_or_default();
        Ok(Box::new(MemoryPartial { blobs: self.clone(), id: *id, bytes }))
    }
}

struct MemoryWriter {
    blobs: MemoryBlobs,
    bytes: Vec<u8>,
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for MemoryWriter {
    fn finish(self: Box<Self>) -> Result<BlobId, StoreError> {
        let id = blake3::hash(&self.bytes).into();
        self.blobs.stage(id, &self.bytes);
        Ok(id)
    }
}

impl UnhashedWriter for MemoryWriter {
    fn finish_as(self: Box<Self>, id: &BlobId) -> Result<(), StoreError> {
        self.blobs.stage(*id, &self.bytes);
        Ok(())
    }
}

impl MemoryBlobs {
    fn stage(&self, id: BlobId, bytes: &[u8]) {
        lock(&self.0).payloads.entry(id).or_insert(Payload { bytes: bytes.into(), is_durable: false });
    }
}

struct MemoryPartial {
    blobs: MemoryBlobs,
    id: BlobId,
    bytes: Vec<u8>,
}

impl Partial for MemoryPartial {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        expect_at(self.len_bytes(), offset)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn complete(mut self: Box<Self>, len_bytes: u64) -> Result<(), StoreError> {
        expect_at(len_bytes, self.len_bytes())?;
        let bytes = std::mem::take(&mut self.bytes);
        expect_hash(&self.id, blake3::Hasher::new().update(&bytes))?;
        self.blobs.stage(self.id, &bytes);
        Ok(())
    }

    fn complete_verified(self: Box<Self>, len_bytes: u64) -> Result<(), StoreError> {
        self.complete(len_bytes)
    }

    fn discard(mut self: Box<Self>) -> Result<(), StoreError> {
        self.bytes.clear();
        Ok(())
    }
}

impl Drop for MemoryPartial {
    fn drop(&mut self) {
        let mut held = lock(&self.blobs.0);
        held.receiving.remove(&self.id);
        let bytes = std::mem::take(&mut self.bytes);
        if !bytes.is_empty() {
            held.partials.insert(self.id, bytes);
        }
    }
}
