//! The view: sled as a sealed, rebuildable picture of what the journal adds up to, and the unjournaled tables.
//!
//! For: lookups. Not for: truth. sled 0.34.7's flush is no fsync on Linux, after an unclean stop one flipped bit
//! silently drops later records, and a kill while opening can leave a folder that never opens. So a view is
//! used again only after a clean close, and only if every byte of its files is as the close left it
//! ([`close`](View::close) returns their hash); in every other case it is deleted and made anew.
//!
//! A sum of the tags of all journaled rows ([`Totals`]) is kept beside it. Whoever reads all rows, to write a
//! base or another view, compares: a row that sled dropped, or an older one that it brought back, shows.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_bytes::ByteBuf;

use super::applier::{self, Applying};
use super::delta::Delta;
use super::files;
use super::files::take;
use super::format::Position;
use super::sealing::{Keys, ROW_BYTES};
use super::{StoreError, Table, io_error};

/// sled's page cache, in bytes. 16 MiB: some 30,000 rows; a phone-sized server holds it beside a large import.
const CACHE_BYTES: u64 = 16 << 20;
/// The journal position the view has applied. No row is here: they are longer, and table 255 is refused.
const APPLIED: &[u8] = &[u8::MAX];
/// Free space left to other files when the view is written, in bytes. 8 MiB: sled 0.34.7 may hang for ever on a
/// disk that fills under it, so a full disk is found before sled is asked; it writes segments of 512 KiB.
pub(super) const FREE_BYTES_MIN: u64 = 8 << 20;
/// How much sled may write for one byte applied. 4: twice to three times was seen.
const WRITTEN_PER_BYTE: u64 = 4;

/// How long sled may take to flush and sync when it is closed. 60 s: 500 MB on a slow card. After an I/O error
/// sled 0.34.7 can wait for ever in `flush` and in `drop` (seen on a full disk), so both run in a thread that
/// is left behind when this is over.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long to wait for sled's threads to let go of its file, in steps of 1 ms. 5 s: seen below 50 ms.
const RELEASE_STEPS_MAX: u32 = 5_000;

/// The highest number of a view that this process used. A number is used once: sled deletes the folder of a view that
/// was not closed, and may do so late, in a thread of its own.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A number that no view of this process had, above `last`.
pub(super) fn fresh_number(last: u64) -> u64 {
    LAST_NUMBER.fetch_max(last, Ordering::Relaxed);
    LAST_NUMBER.fetch_add(1, Ordering::Relaxed).saturating_add(1)
}

/// What all journaled rows add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Totals {
    pub(super) rows: u64,
    /// Sealed, with their names.
    pub(super) bytes: u64,
    /// The wrapping sum of their tags. Each authenticates value and name, so no row can be lost, doubled or
    /// replaced by an older one without another sum.
    pub(super) tags: u128,
}

impl Totals {
    /// `rows ‖ bytes ‖ tags`.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.rows.to_le_bytes().to_vec();
        bytes.extend(self.bytes.to_le_bytes());
        bytes.extend(self.tags.to_le_bytes());
        bytes
    }

    pub(super) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (rows, size) = (u64::from_le_bytes(take(bytes)?), u64::from_le_bytes(take(bytes)?));
        Some(Self { rows, bytes: size, tags: u128::from_le_bytes(take(bytes)?) })
    }

    pub(super) fn of(name: &[u8], sealed: &[u8]) -> Self {
        if !is_journaled(name) {
            return Self::default();
        }
        let tag = sealed.last_chunk::<16>().map_or(0, |tag| u128::from_le_bytes(*tag));
        Self { rows: 1, bytes: (name.len() as u64).saturating_add(sealed.len() as u64), tags: tag }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.rows = self.rows.wrapping_add(other.rows);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.tags = self.tags.wrapping_add(other.tags);
    }

    /// Wraps, so that differences can be added in any order.
    pub(super) fn take_away(&mut self, other: Self) {
        self.rows = self.rows.wrapping_sub(other.rows);
        self.bytes = self.bytes.wrapping_sub(other.bytes);
        self.tags = self.tags.wrapping_sub(other.tags);
    }
}

fn is_journaled(name: &[u8]) -> bool {
    name.len() == ROW_BYTES && name.first().is_some_and(|table| Table(*table).is_journaled())
}

/// A row as sled has it.
pub(super) struct Row<'a> {
    pub(super) name: &'a [u8],
    pub(super) sealed: &'a [u8],
}

impl Row<'_> {
    pub(super) fn is_journaled(&self) -> bool {
        is_journaled(self.name)
    }
}

/// The open view.
pub(super) struct View {
    /// `None` only while it is being closed or remade.
    tree: Option<sled::Db>,
    path: PathBuf,
    keys: Arc<Keys>,
    totals: Cell<Totals>,
    /// Whether every read and write so far went well: one that failed is asked nothing more, and not kept.
    sound: Cell<bool>,
    /// Its size when rows were last brought in: asking sled takes as long as appending a commit.
    seen_bytes: Cell<u64>,
}

impl View {
    /// Deletes what is there and starts empty.
    pub(super) fn create(path: &Path, keys: Arc<Keys>) -> Result<Self, StoreError> {
        files::remove_all(path).map_err(io_error("deleting the view"))?;
        files::make_dir(path).map_err(io_error("making the view"))?;
        check_room(path, 0)?;
        let tree = Some(open_sled(path)?);
        let (totals, sound, seen_bytes) = (Cell::default(), Cell::new(true), Cell::default());
        Ok(Self { tree, path: path.to_owned(), keys, totals, sound, seen_bytes })
    }

    /// Closes it and deletes everything.
    pub(super) fn destroy(mut self) -> Result<(), StoreError> {
        // An unsound sled may still be there in its thread: it knows its file by descriptor, not by name.
        self.sound.set(false);
        self.release(None);
        // Such a one also holds the file's space until it is cut.
        if let Ok(file) = files::private().open(self.path.join("db")) {
            file.set_len(0).map_err(io_error("deleting the view"))?;
        }
        files::remove_all(&self.path).map_err(io_error("deleting the view"))
    }

    /// Opens the view as it was closed at `at`; `None` if it is not that.
    pub(super) fn reopen(path: &Path, keys: Arc<Keys>, at: Position, totals: Totals) -> Option<Self> {
        let tree = open_sled(path).ok();
        let (totals, sound) = (Cell::new(totals), Cell::new(true));
        let view = Self { tree, path: path.to_owned(), keys, totals, sound, seen_bytes: Cell::default() };
        view.seen_bytes.set(view.size_bytes());
        let applied = view.tree().ok()?.get(APPLIED).ok()??;
        let applied = view.keys.view.open(APPLIED, &applied)?;
        (applied.as_slice() == at.to_bytes()).then_some(view)
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals.get()
    }

    pub(super) fn get(
        &self,
        table: Table,
        parent: &[u8],
        item: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let name = self.keys.row_name(table, parent, item);
        let Some(sealed) = self.checked(self.tree()?.get(&name).map_err(unreadable))? else {
            return Ok(None);
        };
        let (_, _, value) = self.checked(self.open_row(&name, &sealed))?;
        Ok(Some(value.into_vec()))
    }

    /// Visits the rows of one parent, or of a whole table without one.
    pub(super) fn scan(
        &self,
        table: Table,
        parent: Option<&[u8]>,
        visit: &mut super::VisitRow<'_>,
    ) -> Result<(), StoreError> {
        let prefix = parent.map_or(vec![table.0], |parent| self.keys.parent_name(table, parent));
        for row in self.tree()?.scan_prefix(prefix) {
            let (name, sealed) = self.checked(row.map_err(unreadable))?;
            let (parent, item, value) = self.checked(self.open_row(&name, &sealed))?;
            if visit(&parent, &item, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Applies a delta, and returns when that is done. Not all or nothing: a view that was not closed clean is never
    /// opened again.
    pub(super) fn apply(&self, delta: &Delta) -> Result<(), StoreError> {
        self.finish(applier::apply_by_two(&self.keys, self.tree()?, delta))
    }

    /// The same, in a thread: [`finish`](Self::finish) must hear of its end. One at a time, and nothing else is
    /// written meanwhile.
    pub(super) fn start_applying(&self, rows: Delta) -> Result<Applying, StoreError> {
        Ok(Applying::start(&self.keys, self.tree()?, rows))
    }

    /// Takes over by how much applying a delta has changed the totals.
    pub(super) fn finish(&self, applied: Result<Totals, StoreError>) -> Result<(), StoreError> {
        let difference = self.checked(applied)?;
        let mut totals = self.totals.get();
        totals.add(difference);
        self.totals.set(totals);
        self.seen_bytes.set(self.size_bytes());
        Ok(())
    }

    /// Says which journal position it is at, before a clean close.
    fn mark(&self, at: Position) -> Result<(), StoreError> {
        let sealed = self.keys.view.seal(APPLIED, &at.to_bytes())?;
        let marked = self.tree()?.insert(APPLIED, sealed).map_err(unreadable);
        self.checked(marked).map(|_| ())
    }

    /// Takes over a row of another view of the same store.
    pub(super) fn take_row(&self, row: &Row<'_>) -> Result<(), StoreError> {
        let old = self.checked(self.tree()?.insert(row.name, row.sealed).map_err(unreadable))?;
        let mut totals = self.totals.get();
        totals.take_away(old.map_or(Totals::default(), |old| Totals::of(row.name, &old)));
        totals.add(Totals::of(row.name, row.sealed));
        self.totals.set(totals);
        Ok(())
    }

    /// Visits every row of every table, and fails if they are not those that were written.
    pub(super) fn rows(
        &self,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut seen = Totals::default();
        for row in self.tree()?.iter() {
            let (name, sealed) = self.checked(row.map_err(unreadable))?;
            if name.as_ref() != APPLIED {
                seen.add(Totals::of(&name, &sealed));
                visit(&Row { name: &name, sealed: &sealed })?;
            }
        }
        let as_written = seen == self.totals.get();
        self.checked(as_written.then_some(()).ok_or_else(|| unreadable("its rows are not those written")))
    }

    /// Refuses when the disk might fill while `bytes` more are applied.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        check_room(&self.path, bytes)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.tree().ok().and_then(|tree| tree.size_on_disk().ok()).unwrap_or(0)
    }

    /// The size once everything written has reached the file: before that it may be less than half.
    pub(super) fn settled_bytes(&self) -> Result<u64, StoreError> {
        self.checked(self.tree()?.flush().map_err(unreadable))?;
        self.seen_bytes.set(self.size_bytes());
        Ok(self.seen_bytes())
    }

    /// The size as of the last rows that were brought in.
    pub(super) fn seen_bytes(&self) -> u64 {
        self.seen_bytes.get()
    }

    pub(super) fn is_sound(&self) -> bool {
        self.sound.get()
    }

    /// Makes every later use fail until the view is remade.
    pub(super) fn distrust(&self) {
        self.sound.set(false);
    }

    /// Marks, flushes, closes and syncs, in this order, and returns the hash of all files: what `reopen` expects.
    pub(super) fn close(mut self, at: Position) -> Result<[u8; 32], StoreError> {
        self.mark(at)?;
        // Out of the way of sled, which deletes what lies under the name it knows.
        let kept = self.path.with_extension("closed");
        // sled writes once more when dropped, so files are synced and hashed after.
        if !self.release(Some(&kept)) {
            return Err(unreadable("sled did not close it"));
        }
        std::fs::rename(&kept, &self.path).map_err(io_error("keeping the view"))?;
        let (path, keys) = (&self.path, &self.keys);
        sync_all(path).and_then(|()| hash(path, keys)).map_err(io_error("syncing the view"))
    }

    /// Drops sled, which deletes its folder, unless that is flushed and renamed to `keep` before; and waits until
    /// its threads have dropped it too. Whether all of that went well. An unsound one is not waited for.
    fn release(&mut self, keep: Option<&Path>) -> bool {
        let Some(tree) = self.tree.take() else { return true };
        let is_sound = self.sound.get();
        let renaming = keep.filter(|_| is_sound).map(|keep| (self.path.clone(), keep.to_owned()));
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let closer = std::thread::Builder::new().name("view-close".to_owned()).spawn(move || {
            let kept =
                renaming.is_none_or(|(from, to)| tree.flush().is_ok() && std::fs::rename(from, to).is_ok());
            drop(tree);
            // Nobody listens any more when it took too long.
            let _ = tell.send(kept);
        });
        let released = closer.is_ok() && is_sound && told.recv_timeout(CLOSE_TIME_MAX) == Ok(true);
        released && is_let_go(keep.unwrap_or(&self.path))
    }

    fn tree(&self) -> Result<&sled::Db, StoreError> {
        let tree = self.tree.as_ref().filter(|_| self.is_sound());
        tree.ok_or_else(|| unreadable("an earlier read or write of it failed"))
    }

    fn checked<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            self.distrust();
        }
        result
    }

    /// A row's parent, item and value.
    pub(super) fn open_row(
        &self,
        name: &[u8],
        sealed: &[u8],
    ) -> Result<(ByteBuf, ByteBuf, ByteBuf), StoreError> {
        let plain = self.keys.view.open(name, sealed).ok_or_else(|| unreadable("a row does not open"))?;
        serde_ipld_dagcbor::from_slice(&plain).map_err(unreadable)
    }
}

/// Refuses when the disk might fill while `bytes` more are applied.
pub(super) fn check_room(path: &Path, bytes: u64) -> Result<(), StoreError> {
    let needed = bytes.saturating_mul(WRITTEN_PER_BYTE).saturating_add(FREE_BYTES_MIN);
    if super::reserve::free_bytes(path) < needed {
        return Err(StoreError::Full { doing: "making room for the next commit" });
    }
    Ok(())
}

impl Drop for View {
    fn drop(&mut self) {
        self.release(None);
    }
}

/// Whether sled has closed the files under `path`: it locks one for as long as it lives.
fn is_let_go(path: &Path) -> bool {
    for _ in 0..RELEASE_STEPS_MAX {
        match File::open(path.join("db")).map(|file| file.try_lock()) {
            Ok(Err(std::fs::TryLockError::WouldBlock)) => std::thread::sleep(Duration::from_millis(1)),
            _ => return true,
        }
    }
    false
}

fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        // No flusher thread: the journal is durable already, and close flushes.
        .flush_every_ms(None)
        // The default path through sled; LowSpace rewrites segments more to save space we can rebuild.
        .mode(sled::Mode::HighThroughput)
        .use_compression(false)
        // Syncs nothing by itself: a view that was not closed is of no use, and `close` syncs what it keeps. Else
        // sled 0.34.7 panics where the last sync fails, in its own `drop`.
        .temporary(true)
        .print_profile_on_drop(false)
        .open()
        .map_err(unreadable)
}

/// `blake3_keyed(mac, (path, length, blake3(content))*)` of all files under the view, by path.
pub(super) fn hash(path: &Path, keys: &Keys) -> io::Result<[u8; 32]> {
    let mut listing = Vec::new();
    walk(path, &mut |file, is_dir| {
        if !is_dir {
            let name = file.strip_prefix(path).unwrap_or(file).as_os_str().as_encoded_bytes();
            listing.extend((name.len() as u64).to_le_bytes());
            listing.extend_from_slice(name);
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(file)?)?;
            listing.extend_from_slice(hasher.finalize().as_bytes());
        }
        Ok(())
    })?;
    Ok(keys.mac("view", &listing))
}

/// Copies the files of a view that is closed.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    files::make_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn sync_all(path: &Path) -> io::Result<()> {
    walk(path, &mut |file, _| File::open(file)?.sync_all())
}

/// Visits files and folders by name, a folder after what is in it.
fn walk(path: &Path, visit: &mut dyn FnMut(&Path, bool) -> io::Result<()>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() { walk(&entry.path(), visit)? } else { visit(&entry.path(), false)? }
    }
    visit(path, true)
}

pub(super) fn unreadable(what: impl std::fmt::Display) -> StoreError {
    StoreError::View { what: what.to_string() }
}
