//! The view: sled as a sealed, rebuildable picture of what the journal adds up to, and the unjournaled tables.
//!
//! For: lookups. Not for: truth. sled 0.34.7's flush is no fsync on Linux, after an unclean stop one flipped bit
//! silently drops later records, and a kill while opening can leave a folder that never opens. So a view is
//! used again only after a clean close, and only if every byte of its files is as the close left it
//! ([`close`](View::close) returns their hash); in every other case it is deleted and made anew.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_bytes::ByteBuf;

use super::delta::Delta;
use super::files;
use super::sealing::Keys;
use super::witness::Position;
use super::{StoreError, Table, io_error};

/// sled's page cache, in bytes. 64 MiB: a phone-sized server holds it, and rows are small.
const CACHE_BYTES: u64 = 64 << 20;
/// The journal position the view has applied. No row is here: they are longer, and table 255 is refused.
const APPLIED: &[u8] = &[u8::MAX];
/// Free space left to other files when the view is written, in bytes. 8 MiB: sled 0.34.7 may hang for ever on a
/// disk that fills under it, so a full disk is found before sled is asked; it writes segments of 512 KiB.
const FREE_BYTES_MIN: u64 = 8 << 20;
/// How much sled may write for one byte applied. 4: twice to three times was seen.
const WRITTEN_PER_BYTE: u64 = 4;

/// How long sled may take to flush and sync when it is closed. 60 s: 500 MB on a slow card. After an I/O error
/// sled 0.34.7 can wait for ever in `flush` and in `drop` (seen on a full disk), so both run in a thread that
/// is left behind when this is over.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long to wait for sled's threads to let go of its file, in steps of 1 ms. 5 s: seen below 50 ms.
const RELEASE_STEPS_MAX: u32 = 5_000;

/// The open view.
pub(super) struct View {
    /// `None` only while it is being closed or remade.
    tree: Option<sled::Db>,
    path: PathBuf,
    keys: Arc<Keys>,
    /// Whether every read and write so far went well: one that failed is asked nothing more, and not kept.
    sound: Cell<bool>,
}

impl View {
    /// Deletes what is there and starts empty.
    pub(super) fn create(path: &Path, keys: Arc<Keys>) -> Result<Self, StoreError> {
        let mut view = Self { tree: None, path: path.to_owned(), keys, sound: Cell::new(true) };
        view.clear()?;
        Ok(view)
    }

    /// Closes, deletes everything, and opens an empty view in its place.
    pub(super) fn clear(&mut self) -> Result<(), StoreError> {
        // An unsound sled may still be there in its thread: it knows its file by descriptor, not by name.
        self.release();
        self.sound.set(false);
        // Such a one also holds the file's space until it is cut.
        if let Ok(file) = files::private().open(self.path.join("db")) {
            file.set_len(0).map_err(io_error("deleting the view"))?;
        }
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("deleting the view")(error));
            }
            _ => {}
        }
        files::make_dir(&self.path).map_err(io_error("making the view"))?;
        self.check_room(0)?;
        self.tree = Some(open_sled(&self.path)?);
        self.sound.set(true);
        Ok(())
    }

    /// Opens the view as it was closed at `at`; `None` if it is not that.
    pub(super) fn reopen(path: &Path, keys: Arc<Keys>, at: Position) -> Option<Self> {
        let tree = open_sled(path).ok();
        let view = Self { tree, path: path.to_owned(), keys, sound: Cell::new(true) };
        let applied = view.tree().ok()?.get(APPLIED).ok()??;
        let applied = view.keys.view.open(APPLIED, &applied)?;
        (applied.as_slice() == at.to_bytes()).then_some(view)
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

    /// Applies a delta as one sled batch, and the journal position it brings the view to.
    pub(super) fn apply(&self, delta: &Delta, at: Option<Position>) -> Result<(), StoreError> {
        let applied =
            self.batch(delta, at).and_then(|batch| self.tree()?.apply_batch(batch).map_err(unreadable));
        self.checked(applied)
    }

    fn batch(&self, delta: &Delta, at: Option<Position>) -> Result<sled::Batch, StoreError> {
        let mut batch = sled::Batch::default();
        for (table, parent, changes) in delta.parents() {
            if changes.cleared {
                for name in self.tree()?.scan_prefix(self.keys.parent_name(table, parent)).keys() {
                    batch.remove(name.map_err(unreadable)?);
                }
            }
            for (item, value) in &changes.items {
                let name = self.keys.row_name(table, parent, item);
                match value {
                    Some(value) => batch.insert(name.as_slice(), self.seal_row(&name, parent, item, value)?),
                    None => batch.remove(name),
                }
            }
        }
        if let Some(at) = at {
            batch.insert(APPLIED, self.keys.view.seal(APPLIED, &at.to_bytes())?);
        }
        Ok(batch)
    }

    /// Refuses, with nothing changed, when the disk might fill while `bytes` more are applied.
    pub(super) fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        let doing = "looking for free space";
        let disk = rustix::fs::statvfs(&self.path).map_err(|error| io_error(doing)(error.into()))?;
        let needed = (bytes as u64).saturating_mul(WRITTEN_PER_BYTE).saturating_add(FREE_BYTES_MIN);
        if disk.f_bavail.saturating_mul(disk.f_frsize) < needed {
            return Err(StoreError::Full { doing: "making room for the next commit" });
        }
        Ok(())
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.tree().ok().and_then(|tree| tree.size_on_disk().ok()).unwrap_or(0)
    }

    pub(super) fn is_sound(&self) -> bool {
        self.sound.get()
    }

    /// Makes every later use fail until the view is remade.
    pub(super) fn distrust(&self) {
        self.sound.set(false);
    }

    /// Flushes, closes and syncs, in this order, and returns the hash of all files: what `reopen` expects.
    pub(super) fn close(mut self) -> Result<[u8; 32], StoreError> {
        self.tree()?;
        // sled writes once more when dropped, so files are synced and hashed after.
        if !self.release() {
            return Err(unreadable("sled did not close it"));
        }
        let (path, keys) = (&self.path, &self.keys);
        sync_all(path).and_then(|()| hash(path, keys)).map_err(io_error("syncing the view"))
    }

    /// Flushes and drops sled, and waits until its threads have dropped it too; whether all of that went well.
    /// An unsound one is not waited for.
    fn release(&mut self) -> bool {
        let Some(tree) = self.tree.take() else { return true };
        let is_sound = self.sound.get();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let closer = std::thread::Builder::new().name("view-close".to_owned()).spawn(move || {
            let flushed = is_sound && tree.flush().is_ok();
            drop(tree);
            // Nobody listens any more when it took too long.
            let _ = tell.send(flushed);
        });
        closer.is_ok() && is_sound && told.recv_timeout(CLOSE_TIME_MAX) == Ok(true) && self.is_let_go()
    }

    fn is_let_go(&self) -> bool {
        for _ in 0..RELEASE_STEPS_MAX {
            // sled locks this file for as long as it lives.
            match File::open(self.path.join("db")).map(|file| file.try_lock()) {
                Ok(Err(std::fs::TryLockError::WouldBlock)) => std::thread::sleep(Duration::from_millis(1)),
                _ => return true,
            }
        }
        false
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

    /// A row's value: `[parent, item, value]` in dag-cbor, sealed with its name as AAD.
    fn seal_row(&self, name: &[u8], parent: &[u8], item: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let bytes = serde_bytes::Bytes::new;
        let row =
            serde_ipld_dagcbor::to_vec(&(bytes(parent), bytes(item), bytes(value))).map_err(unreadable)?;
        self.keys.view.seal(name, &zeroize::Zeroizing::new(row))
    }

    fn open_row(&self, name: &[u8], sealed: &[u8]) -> Result<(ByteBuf, ByteBuf, ByteBuf), StoreError> {
        let plain = self.keys.view.open(name, sealed).ok_or_else(|| unreadable("a row does not open"))?;
        serde_ipld_dagcbor::from_slice(&plain).map_err(unreadable)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.release();
    }
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
        .temporary(false)
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

fn unreadable(what: impl std::fmt::Display) -> StoreError {
    StoreError::View { what: what.to_string() }
}
