//! The store on disk: journal (the authority), witness (what of it was acknowledged), view (for lookups).
//!
//! For: the order in which the three are written and opened. Not for: their formats, each in its own file.
//!
//! ```text
//! lock                 the owner's process id, locked while open
//! journal/000001.log   sealed frames, one for each commit
//! witness              journal length and head, time floor
//! view/                sled
//! clean                position and hash of the view, there only after a clean close
//! ```
//! A write is kept in memory (the pending delta). A commit appends it to the journal and syncs, writes the
//! witness and syncs, applies it to the view, and forgets it. A crash between any two steps loses nothing that
//! was acknowledged: a frame the witness does not cover is kept if whole and cut off if torn, and the view is
//! remade.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::delta::{Batch, Delta};
use super::files::{self, take};
use super::journal::{self, Append, Journal};
use super::sealing::{Keys, StoreKey};
use super::view::{self, View};
use super::witness::{self, Position, Witness};
use super::{Stats, Store, StoreError, Table, VisitItem, VisitRow, io_error};

const LOCK: &str = "lock";
const VIEW: &str = "view";
const CLEAN: &str = "clean";
const CLEAN_MAGIC: [u8; 8] = *b"KARTECLN";
/// The clean marker, in bytes: magic 8, position 40, hash of the view 32, MAC 32. Longer ones are not ours.
const CLEAN_BYTES: usize = 112;

/// What opening found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// No store was there: one was made.
    New,
    /// The view was as the last close left it.
    Clean,
    /// The view was clean but older than the journal, as after restoring it from a copy.
    CaughtUp {
        /// Commits applied to it.
        frames: u64,
    },
    /// The view was remade from the journal, as after a crash. Unjournaled tables are empty.
    Rebuilt {
        /// Commits in the journal.
        frames: u64,
    },
}

/// A [`Store`] in a folder, all of it sealed under a [`StoreKey`].
pub struct Disk {
    dir: PathBuf,
    keys: Arc<Keys>,
    journal: Journal,
    witness: Witness,
    view: View,
    pending: Delta,
    time_floor_ms: u64,
    commits: u64,
    poisoned: bool,
    /// Released last: fields are dropped in order, and the view still writes when it is dropped.
    _lock: Lock,
}

impl Disk {
    /// Opens the store in `dir`, or makes one. Reads and verifies the whole journal.
    pub fn open(dir: &Path, key: StoreKey) -> Result<(Self, Opened), StoreError> {
        files::make_dir(&dir.join(journal::DIR)).map_err(io_error("making the store's folder"))?;
        let lock = take_lock(dir)?;
        let is_new = is_new(dir)?;
        let keys = Arc::new(if is_new { create(dir, &key)? } else { journal::unlock(dir, &key)? });
        drop(key);
        let mut witness = Witness::open(dir, &keys)?;
        let marker = read_clean_marker(dir, &keys)?;
        let mut clean = None;
        let mut seen = |at| clean = clean.or(marker.filter(|marker| *marker == at));
        let journal = Journal::open(dir, Arc::clone(&keys), witness.position, &mut seen)?;
        if journal.end() != witness.position {
            // A whole frame the witness did not cover: from now on it does, so it must be durable first.
            journal.sync()?;
            witness.write(&keys, journal.end(), witness.time_floor_ms)?;
        }
        let (view, opened) = open_view(dir, &keys, &journal, clean)?;
        let disk = Self {
            dir: dir.to_owned(),
            keys,
            journal,
            time_floor_ms: witness.time_floor_ms,
            witness,
            view,
            pending: Delta::default(),
            commits: 0,
            poisoned: false,
            _lock: lock,
        };
        Ok((disk, if is_new { Opened::New } else { opened }))
    }

    /// Deletes the view and remakes it from the journal; returns the number of commits. This is what to do
    /// after [`StoreError::View`]. What is written and not yet committed stays; unjournaled tables come back
    /// empty.
    pub fn rebuild(&mut self) -> Result<u64, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        self.view.clear()?;
        let frames = catch_up(&self.view, &self.journal, self.journal.start());
        if frames.is_err() {
            // Half a view must not be asked.
            self.view.distrust();
        }
        frames
    }

    fn check_alive(&self) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        if !self.view.is_sound() {
            return Err(StoreError::View { what: "an earlier read or write of it failed".to_owned() });
        }
        Ok(())
    }

    /// Syncs what was appended, then lets the witness say so.
    fn make_durable(&mut self) -> Result<(), StoreError> {
        // Until both are done nobody knows what is on the disk.
        self.poisoned = true;
        self.journal.sync()?;
        self.witness.write(&self.keys, self.journal.end(), self.time_floor_ms)?;
        self.poisoned = false;
        Ok(())
    }
}

impl Store for Disk {
    fn get(&self, table: Table, parent: &[u8], item: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.pending.get(table, parent, item) {
            Some(value) => Ok(value.map(<[u8]>::to_vec)),
            None => self.view.get(table, parent, item),
        }
    }

    fn scan(&self, table: Table, parent: &[u8], visit: &mut VisitItem<'_>) -> Result<(), StoreError> {
        if self.pending.scan(table, parent, visit).is_break() {
            return Ok(());
        }
        self.view.scan(table, Some(parent), &mut |parent, item, value| {
            if self.pending.get(table, parent, item).is_some() {
                ControlFlow::Continue(())
            } else {
                visit(item, value)
            }
        })
    }

    fn scan_table(&self, table: Table, visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        if self.pending.scan_table(table, visit).is_break() {
            return Ok(());
        }
        self.view.scan(table, None, &mut |parent, item, value| {
            if self.pending.get(table, parent, item).is_some() {
                return ControlFlow::Continue(());
            }
            visit(parent, item, value)
        })
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        batch.check(true)?;
        self.check_alive()?;
        if !self.pending.has_room_for(&batch) {
            self.commit()?;
        }
        self.pending.add(batch);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.check_alive()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        self.view.check_room(self.pending.size_bytes())?;
        match self.journal.append(&self.pending) {
            Ok(()) => {}
            Err(Append::Refused(error)) => return Err(error),
            Err(Append::Torn(error)) => {
                self.poisoned = true;
                return Err(error);
            }
        }
        self.make_durable()?;
        let committed = std::mem::take(&mut self.pending);
        self.commits = self.commits.saturating_add(1);
        self.view.apply(&committed, Some(self.journal.end()))
    }

    fn write_unjournaled(&mut self, batch: Batch) -> Result<(), StoreError> {
        batch.check(false)?;
        self.check_alive()?;
        let mut delta = Delta::default();
        delta.add(batch);
        self.view.check_room(delta.size_bytes())?;
        self.view.apply(&delta, None)
    }

    fn time_floor_ms(&self) -> u64 {
        self.time_floor_ms
    }

    fn raise_time_floor(&mut self, floor_ms: u64) {
        self.time_floor_ms = self.time_floor_ms.max(floor_ms);
    }

    fn stats(&self) -> Stats {
        Stats {
            journal_bytes: self.journal.end().offset,
            commits: self.commits,
            view_bytes: self.view.size_bytes(),
            pending_bytes: self.pending.size_bytes() as u64,
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        self.commit()?;
        if self.time_floor_ms != self.witness.time_floor_ms {
            self.witness.write(&self.keys, self.journal.end(), self.time_floor_ms)?;
        }
        let Self { dir, keys, journal, view, _lock, .. } = *self;
        let hash = view.close()?;
        // Last: the marker says that all of the above is on the disk.
        write_clean_marker(&dir, &keys, journal.end(), hash)
    }
}

/// Locks the folder; the system unlocks it when the process dies.
fn take_lock(dir: &Path) -> Result<Lock, StoreError> {
    let doing = "locking the store";
    let mut file =
        files::private().create(true).truncate(false).open(dir.join(LOCK)).map_err(io_error(doing))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // 20 digits hold any process id. The owner may be writing it just now.
            let _ = Read::take(&mut file, 20).read_to_string(&mut pid);
            let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
            return Err(StoreError::Locked { pid: if is_pid { pid } else { "unknown".to_owned() } });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(doing)(error)),
    }
    let mut lock = Lock(file);
    lock.0.set_len(0).map_err(io_error(doing))?;
    lock.0.write_all(std::process::id().to_string().as_bytes()).map_err(io_error(doing))?;
    Ok(lock)
}

/// The locked file. Unlocked by name and not only closed: a child that was forked and has not yet called exec
/// has the descriptor too, and would keep the lock.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // The system unlocks it too, only perhaps later.
        let _ = self.0.unlock();
    }
}

/// Whether no store was ever finished here. The witness is made last, so without it only an empty journal is
/// innocent.
fn is_new(dir: &Path) -> Result<bool, StoreError> {
    if dir.join(witness::NAME).try_exists().map_err(io_error("looking for the witness"))? {
        return Ok(false);
    }
    match std::fs::metadata(dir.join(journal::NAME)) {
        Ok(journal) if journal.len() > journal::HEADER_BYTES as u64 => Err(StoreError::Damaged {
            file: witness::NAME,
            offset: 0,
            what: "missing beside a journal with commits",
        }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("looking for the journal")(error))
        }
        _ => Ok(true),
    }
}

fn create(dir: &Path, key: &StoreKey) -> Result<Keys, StoreError> {
    let (keys, start) = journal::create(dir, key)?;
    files::sync_dir(dir).map_err(io_error("making the store's folder"))?;
    Witness::create(dir, &keys, start)?;
    Ok(keys)
}

/// Opens the view at `clean`, where the last close left it, and catches up; or remakes it.
fn open_view(
    dir: &Path,
    keys: &Arc<Keys>,
    journal: &Journal,
    clean: Option<Position>,
) -> Result<(View, Opened), StoreError> {
    // Gone for good before sled writes its first byte: should we be killed, the view is remade.
    remove_clean_marker(dir)?;
    let path = dir.join(VIEW);
    if let Some((at, view)) = clean.and_then(|at| Some((at, View::reopen(&path, Arc::clone(keys), at)?))) {
        let frames = catch_up(&view, journal, at)?;
        return Ok((view, if frames == 0 { Opened::Clean } else { Opened::CaughtUp { frames } }));
    }
    let view = View::create(&path, Arc::clone(keys))?;
    let frames = catch_up(&view, journal, journal.start())?;
    Ok((view, Opened::Rebuilt { frames }))
}

fn catch_up(view: &View, journal: &Journal, from: Position) -> Result<u64, StoreError> {
    journal.replay(from, &mut |delta, at| {
        view.check_room(delta.size_bytes())?;
        view.apply(&delta, Some(at))
    })
}

/// The position the view was closed at, if the marker is ours and the view's files are as it says.
fn read_clean_marker(dir: &Path, keys: &Keys) -> Result<Option<Position>, StoreError> {
    let mut bytes = Vec::new();
    match File::open(dir.join(CLEAN)) {
        Ok(file) => file.take(CLEAN_BYTES as u64 + 1).read_to_end(&mut bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    }
    .map_err(io_error("reading the clean marker"))?;
    let mut rest = bytes.get(CLEAN_MAGIC.len()..).unwrap_or_default();
    let (Some(at), Some(hash)) = (Position::take(&mut rest), take(&mut rest)) else {
        return Ok(None);
    };
    let is_ours = bytes == clean_marker(keys, at, hash);
    // A view that cannot be read is one that changed.
    Ok((is_ours && view::hash(&dir.join(VIEW), keys).is_ok_and(|found| found == hash)).then_some(at))
}

fn write_clean_marker(dir: &Path, keys: &Keys, at: Position, hash: [u8; 32]) -> Result<(), StoreError> {
    files::replace(dir, CLEAN, &clean_marker(keys, at, hash)).map_err(io_error("writing the clean marker"))
}

fn remove_clean_marker(dir: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(dir.join(CLEAN)) {
        Ok(()) => files::sync_dir(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(io_error("removing the clean marker"))
}

fn clean_marker(keys: &Keys, at: Position, hash: [u8; 32]) -> Vec<u8> {
    let mut bytes = CLEAN_MAGIC.to_vec();
    bytes.extend(at.to_bytes());
    bytes.extend(hash);
    bytes.extend(keys.mac(CLEAN, &bytes));
    bytes
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
