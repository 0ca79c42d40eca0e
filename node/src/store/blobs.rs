//! Payloads: age ciphertext in files named by their blake3 hash, which `b3sum` confirms.
//!
//! For: writing while hashing, group sync, random reads, and receiving in parts. Not for: encryption (payloads
//! are ciphertext already), nor for who may read which. Called from several threads.
//!
//! ```text
//! payloads/ab/abcdef…   whole and durable, always: a file gets this name only after it was synced
//! tmp/<n>               being written, or finished and not yet synced; emptied at open
//! incoming/<hash>       a part of a payload on its way here; kept at open
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{StoreError, files, final_error, io_error};

/// blake3 of a payload's bytes: its name.
pub type BlobId = [u8; 32];

/// What a payload is read through.
pub trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// Payload files. Users: [`DiskBlobs`] and [`MemoryBlobs`].
pub trait Blobs: Send + Sync {
    /// Begins a new payload. Dropped before `finish`, it leaves nothing.
    fn create(&self) -> Result<Box<dyn BlobWriter>, StoreError>;

    /// Makes every payload finished or completed, and every delete made, before this call durable. One sync
    /// serves all who wait. An error poisons: nothing can be created until the blobs are opened again.
    fn sync(&self) -> Result<(), StoreError>;

    /// A reader over a payload, synced or not.
    fn open(&self, id: &BlobId) -> Result<Option<Box<dyn ReadSeek + Send>>, StoreError>;

    /// A payload's length in bytes.
    fn len(&self, id: &BlobId) -> Result<Option<u64>, StoreError>;

    /// Removes a payload, if it is there. Who has it open reads on.
    fn delete(&self, id: &BlobId) -> Result<(), StoreError>;

    /// Visits name and length of every durable payload, in no order.
    fn list(&self, visit: &mut dyn FnMut(&BlobId, u64) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Begins or resumes receiving a payload. One receiver at a time: others get [`StoreError::Busy`].
    fn partial(&self, id: &BlobId) -> Result<Box<dyn Partial>, StoreError>;
}

/// A payload being written.
pub trait BlobWriter: Write + Send {
    /// Makes it visible under its name, which is returned. Durable only after [`Blobs::sync`].
    fn finish(self: Box<Self>) -> Result<BlobId, StoreError>;
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

    /// Drops what was received.
    fn discard(self: Box<Self>) -> Result<(), StoreError>;
}

/// [`Blobs`] in a folder.
pub struct DiskBlobs(Arc<Folder>);

struct Folder {
    dir: PathBuf,
    next_tmp: AtomicU64,
    poisoned: AtomicBool,
    state: Mutex<State>,
    /// Held through a whole sync, so that whoever waits finds its files done or does them itself.
    syncing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Finished, visible, and not yet synced: where each of them lies.
    staged: BTreeMap<BlobId, PathBuf>,
    /// Folders whose names are not yet synced.
    dirs: BTreeSet<PathBuf>,
    receiving: BTreeSet<BlobId>,
}

impl DiskBlobs {
    /// Opens or makes the folder, and removes what was never finished. Open the [`Disk`](super::Disk) of the
    /// same node first: its lock keeps a second process out of this folder too.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let doing = "opening the payload folder";
        match std::fs::remove_dir_all(dir.join("tmp")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(doing)(error)),
            _ => {}
        }
        for name in ["payloads", "incoming", "tmp"] {
            files::make_dir(&dir.join(name)).map_err(io_error(doing))?;
        }
        files::sync_dir(dir).map_err(io_error(doing))?;
        Ok(Self(Arc::new(Folder {
            dir: dir.to_owned(),
            next_tmp: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            state: Mutex::default(),
            syncing: Mutex::new(()),
        })))
    }
}

impl Blobs for DiskBlobs {
    fn create(&self) -> Result<Box<dyn BlobWriter>, StoreError> {
        self.0.check_alive()?;
        let path = self.0.tmp_path();
        let file = files::private().create_new(true).open(&path).map_err(io_error("making a payload"))?;
        let hasher = blake3::Hasher::new();
        Ok(Box::new(DiskWriter { folder: Arc::clone(&self.0), path: Some(path), file, hasher }))
    }

    fn sync(&self) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.0.syncing);
        self.0.check_alive()?;
        let result = self.0.sync();
        // After a failed fsync a second one may succeed with the data lost.
        self.0.poisoned.store(result.is_err(), Ordering::SeqCst);
        result.map_err(final_error("syncing payloads"))
    }

    fn open(&self, id: &BlobId) -> Result<Option<Box<dyn ReadSeek + Send>>, StoreError> {
        Ok(self.0.file(id)?.map(|file| Box::new(file) as Box<dyn ReadSeek + Send>))
    }

    fn len(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        let Some(file) = self.0.file(id)? else {
            return Ok(None);
        };
        Ok(Some(file.metadata().map_err(io_error("opening a payload"))?.len()))
    }

    fn delete(&self, id: &BlobId) -> Result<(), StoreError> {
        let mut state = lock(&self.0.state);
        if let Some(staged) = state.staged.remove(id) {
            remove(&staged).map_err(io_error("deleting a payload"))?;
        }
        // What had come of it, if it was still on its way.
        remove(&self.0.dir.join("incoming").join(hex(id))).map_err(io_error("deleting a payload"))?;
        let (dir, path) = self.0.payload_path(id);
        if remove(&path).map_err(io_error("deleting a payload"))? {
            state.dirs.insert(dir);
        }
        Ok(())
    }

    fn list(&self, visit: &mut dyn FnMut(&BlobId, u64) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.0.list(visit).map_err(io_error("listing payloads"))
    }

    fn partial(&self, id: &BlobId) -> Result<Box<dyn Partial>, StoreError> {
        self.0.check_alive()?;
        let claim = Claim::take(&self.0, *id)?;
        let path = self.0.dir.join("incoming").join(hex(id));
        let doing = "opening a partial payload";
        let file = files::private().create(true).truncate(false).open(&path).map_err(io_error(doing))?;
        let len_bytes = file.metadata().map_err(io_error(doing))?.len();
        Ok(Box::new(DiskPartial { claim, path, file, len_bytes }))
    }
}

impl Folder {
    fn check_alive(&self) -> Result<(), StoreError> {
        if self.poisoned.load(Ordering::SeqCst) { Err(StoreError::Poisoned) } else { Ok(()) }
    }

    fn tmp_path(&self) -> PathBuf {
        self.dir.join("tmp").join(self.next_tmp.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn payload_path(&self, id: &BlobId) -> (PathBuf, PathBuf) {
        let name = hex(id);
        let dir = self.dir.join("payloads").join(name.get(..2).unwrap_or_default());
        let path = dir.join(name);
        (dir, path)
    }

    fn file(&self, id: &BlobId) -> Result<Option<File>, StoreError> {
        // Under the lock no sync moves it in between.
        let state = lock(&self.state);
        let path = state.staged.get(id).cloned().unwrap_or_else(|| self.payload_path(id).1);
        match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("opening a payload")(error)),
        }
    }

    /// Makes a finished file visible. One that is staged already is kept: a running sync may hold it.
    fn stage(&self, id: BlobId, path: PathBuf) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.staged.contains_key(&id) {
            return remove(&path).map(|_| ());
        }
        state.staged.insert(id, path);
        Ok(())
    }

    /// Syncs files, gives them their names, syncs the names.
    fn sync(&self) -> io::Result<()> {
        let staged: Vec<_> = lock(&self.state).staged.clone().into_iter().collect();
        let synced = side_by_side(&staged, |(_, path)| File::open(path).and_then(|file| file.sync_all()));
        for ((id, path), synced) in staged.into_iter().zip(synced) {
            let mut state = lock(&self.state);
            // Deleted meanwhile, or deleted and written again: then the next sync has it.
            if state.staged.get(&id) != Some(&path) {
                continue;
            }
            synced?;
            let (dir, name) = self.payload_path(&id);
            if !dir.try_exists()? {
                files::make_dir(&dir)?;
                state.dirs.insert(self.dir.join("payloads"));
            }
            std::fs::rename(&path, name)?;
            state.staged.remove(&id);
            state.dirs.insert(dir);
        }
        let dirs: Vec<PathBuf> = std::mem::take(&mut lock(&self.state).dirs).into_iter().collect();
        side_by_side(&dirs, |dir| files::sync_dir(dir)).into_iter().collect()
    }

    fn list(&self, visit: &mut dyn FnMut(&BlobId, u64) -> ControlFlow<()>) -> io::Result<()> {
        for dir in std::fs::read_dir(self.dir.join("payloads"))? {
            for entry in std::fs::read_dir(dir?.path())? {
                let entry = entry?;
                let id = entry.file_name().to_str().and_then(|name| blake3::Hash::from_hex(name).ok());
                // Names that are no hashes are not ours.
                let Some(id) = id else { continue };
                if visit(id.as_bytes(), entry.metadata()?.len()).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

struct DiskWriter {
    folder: Arc<Folder>,
    /// `None` once it is staged: then it is no longer ours to remove.
    path: Option<PathBuf>,
    file: File,
    hasher: blake3::Hasher,
}

impl Write for DiskWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for DiskWriter {
    fn finish(mut self: Box<Self>) -> Result<BlobId, StoreError> {
        self.folder.check_alive()?;
        let id = self.hasher.finalize().into();
        if let Some(path) = self.path.take() {
            self.folder.stage(id, path).map_err(io_error("finishing a payload"))?;
        }
        Ok(id)
    }
}

impl Drop for DiskWriter {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be removed now is removed at the next open.
            let _ = remove(path);
        }
    }
}

struct DiskPartial {
    claim: Claim,
    path: PathBuf,
    file: File,
    len_bytes: u64,
}

impl Partial for DiskPartial {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        expect_at(self.len_bytes, offset)?;
        self.file.write_all_at(bytes, offset).map_err(io_error("writing a partial payload"))?;
        self.len_bytes = offset.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn complete(self: Box<Self>, len_bytes: u64) -> Result<(), StoreError> {
        self.claim.folder.check_alive()?;
        expect_at(len_bytes, self.len_bytes)?;
        let doing = "completing a partial payload";
        // A failed write may have left bytes behind the length.
        self.file.set_len(len_bytes).map_err(io_error(doing))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&self.path).map_err(io_error(doing))?).map_err(io_error(doing))?;
        if let Err(error) = expect_hash(&self.claim.id, &hasher) {
            self.discard()?;
            return Err(error);
        }
        // Into tmp first: from here on it is like any finished payload.
        let tmp = self.claim.folder.tmp_path();
        std::fs::rename(&self.path, &tmp).map_err(io_error(doing))?;
        self.claim.folder.stage(self.claim.id, tmp).map_err(io_error(doing))
    }

    fn discard(self: Box<Self>) -> Result<(), StoreError> {
        remove(&self.path).map(|_| ()).map_err(io_error("discarding a partial payload"))
    }
}

/// The right to receive one payload, given back when dropped.
struct Claim {
    folder: Arc<Folder>,
    id: BlobId,
}

impl Claim {
    fn take(folder: &Arc<Folder>, id: BlobId) -> Result<Self, StoreError> {
        if !lock(&folder.state).receiving.insert(id) {
            return Err(StoreError::Busy);
        }
        Ok(Self { folder: Arc::clone(folder), id })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.folder.state).receiving.remove(&self.id);
    }
}

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

    fn sync(&self) -> Result<(), StoreError> {
        lock(&self.0).payloads.values_mut().for_each(|payload| payload.is_durable = true);
        Ok(())
    }

    fn open(&self, id: &BlobId) -> Result<Option<Box<dyn ReadSeek + Send>>, StoreError> {
        let held = lock(&self.0);
        let payload = held.payloads.get(id).map(|payload| Cursor::new(Arc::clone(&payload.bytes)));
        Ok(payload.map(|reader| Box::new(reader) as Box<dyn ReadSeek + Send>))
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

/// Threads that wait for the disk together. 16: a file system merges their fsyncs into few journal commits, so
/// a group costs little more than a few.
const SYNCS_AT_ONCE: usize = 16;

/// Runs a blocking call for each item, several at once; results in the order of the items.
fn side_by_side<T: Sync>(items: &[T], call: impl Fn(&T) -> io::Result<()> + Sync) -> Vec<io::Result<()>> {
    let share = items.len().div_ceil(SYNCS_AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(share)
            .map(|part| (part.len(), scope.spawn(|| part.iter().map(&call).collect::<Vec<_>>())))
            .collect();
        workers
            .into_iter()
            .flat_map(|(count, worker)| {
                worker.join().unwrap_or_else(|_| {
                    (0..count).map(|_| Err(io::Error::other("a syncing thread ended badly"))).collect()
                })
            })
            .collect()
    })
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
    if got.as_bytes() == id {
        return Ok(());
    }
    Err(StoreError::WrongHash { expected: hex(id), got: got.to_hex().to_string() })
}

fn hex(id: &BlobId) -> String {
    blake3::Hash::from_bytes(*id).to_hex().to_string()
}
