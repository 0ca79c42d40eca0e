//! Payloads that are files of their own: large ones, and those of folders older than packs.
//!
//! For: staging finished files and giving them their names at a sync. Not for: packs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BlobId, Failed, damaged, hex, lock, remove};
use crate::store::{StoreError, files, io_error};

pub(super) struct Files {
    dir: PathBuf,
    next_tmp: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Finished, visible, and not yet synced: where each of them lies.
    staged: BTreeMap<BlobId, PathBuf>,
    /// Folders whose names are not yet synced.
    dirs: BTreeSet<PathBuf>,
    /// Found damaged since the folder was opened.
    damaged: BTreeSet<BlobId>,
}

impl Files {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        for name in ["payloads", "tmp"] {
            files::make_dir(&dir.join(name))?;
        }
        // Emptied and not remade: a full disk has no room for a new folder, and must still be readable.
        for left in std::fs::read_dir(dir.join("tmp"))? {
            let left = left?;
            // Folders are not ours.
            if !left.file_type()?.is_dir() {
                remove(&left.path())?;
            }
        }
        Ok(Self { dir: dir.to_owned(), next_tmp: AtomicU64::new(0), state: Mutex::default() })
    }

    pub(super) fn tmp_path(&self) -> PathBuf {
        self.dir.join("tmp").join(self.next_tmp.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn payload_path(&self, id: &BlobId) -> (PathBuf, PathBuf) {
        let name = hex(id);
        let dir = self.dir.join("payloads").join(name.get(..2).unwrap_or_default());
        let path = dir.join(name);
        (dir, path)
    }

    pub(super) fn file(&self, id: &BlobId) -> Result<Option<File>, StoreError> {
        // Under the lock no sync moves it in between.
        let state = lock(&self.state);
        let path = match state.staged.get(id) {
            Some(path) => path.clone(),
            None if state.damaged.contains(id) => return Err(damaged(id, "other bytes")),
            None => self.payload_path(id).1,
        };
        match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("opening a payload")(error)),
        }
    }

    pub(super) fn len(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        match self.file(id) {
            Ok(Some(file)) => Ok(Some(file.metadata().map_err(io_error("opening a payload"))?.len())),
            Ok(None) | Err(StoreError::WrongHash { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a finished file visible. One that is staged already is kept: a running sync may hold it.
    pub(super) fn stage(&self, id: BlobId, path: PathBuf) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.staged.contains_key(&id) {
            return remove(&path).map(|_| ());
        }
        state.staged.insert(id, path);
        Ok(())
    }

    /// Whether exactly these bytes are here as a file. Others under that name are damage, and removed.
    pub(super) fn holds(&self, id: &BlobId, bytes: &[u8]) -> io::Result<bool> {
        let (dir, path) = self.payload_path(id);
        let length = match std::fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if length == bytes.len() as u64 && std::fs::read(&path).is_ok_and(|found| found == bytes) {
            lock(&self.state).damaged.remove(id);
            return Ok(true);
        }
        let mut state = lock(&self.state);
        remove(&path)?;
        state.damaged.remove(id);
        state.dirs.insert(dir);
        Ok(false)
    }

    pub(super) fn delete(&self, id: &BlobId) -> io::Result<()> {
        let mut state = lock(&self.state);
        if let Some(staged) = state.staged.get(id) {
            remove(staged)?;
            state.staged.remove(id);
        }
        let (dir, path) = self.payload_path(id);
        if remove(&path)? {
            state.dirs.insert(dir);
        }
        state.damaged.remove(id);
        Ok(())
    }

    /// Syncs files, gives them their names, syncs the names.
    pub(super) fn sync(&self) -> Result<(), Failed> {
        let doing = "syncing payloads";
        let staged: Vec<_> = lock(&self.state).staged.clone().into_iter().collect();
        let synced = side_by_side(&staged, |(_, path)| File::open(path).and_then(|file| file.sync_all()));
        for ((id, path), synced) in staged.into_iter().zip(synced) {
            let mut state = lock(&self.state);
            // Deleted meanwhile, or deleted and written again: then the next sync has it.
            if state.staged.get(&id) != Some(&path) {
                continue;
            }
            synced.map_err(Failed::unknown(doing))?;
            let (dir, name) = self.payload_path(&id);
            if !dir.try_exists().map_err(Failed::known(doing))? {
                files::make_dir(&dir).map_err(Failed::known(doing))?;
                state.dirs.insert(self.dir.join("payloads"));
            }
            std::fs::rename(&path, name).map_err(Failed::known(doing))?;
            state.staged.remove(&id);
            state.damaged.remove(&id);
            state.dirs.insert(dir);
        }
        let dirs: Vec<PathBuf> = std::mem::take(&mut lock(&self.state).dirs).into_iter().collect();
        let synced = side_by_side(&dirs, |dir| files::sync_dir(dir));
        synced.into_iter().collect::<io::Result<()>>().map_err(Failed::unknown(doing))
    }

    /// Every file that is durable, with its length.
    pub(super) fn list(&self, visit: &mut dyn FnMut(&BlobId, u64) -> ControlFlow<()>) -> io::Result<()> {
        for dir in std::fs::read_dir(self.dir.join("payloads"))? {
            let dir = dir?;
            if !dir.file_type()?.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(dir.path())? {
                let entry = entry?;
                let id = entry.file_name().to_str().and_then(|name| blake3::Hash::from_hex(name).ok());
                // Names that are no hashes are not ours.
                let Some(id) = id else { continue };
                let length = match entry.metadata() {
                    Ok(meta) => meta.len(),
                    // Deleted meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                if visit(id.as_bytes(), length).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn staged(&self) -> Vec<(BlobId, PathBuf)> {
        lock(&self.state).staged.iter().map(|(id, path)| (*id, path.clone())).collect()
    }

    pub(super) fn damaged(&self) -> u64 {
        lock(&self.state).damaged.len() as u64
    }

    /// Reads a file and remembers when it is not what its name says; whether it is. `None`: it is gone.
    pub(super) fn verify(&self, id: &BlobId) -> Option<bool> {
        let path = self.payload_path(id).1;
        let mut hasher = blake3::Hasher::new();
        let is_right = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            file => {
                file.and_then(|file| hasher.update_reader(file).map(|_| ())).is_ok()
                    && hasher.finalize().as_bytes() == id
            }
        };
        let mut state = lock(&self.state);
        if !is_right && path.exists() {
            state.damaged.insert(*id);
        }
        Some(is_right)
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
