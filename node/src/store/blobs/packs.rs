//! Packs: where small payloads lie together, so that one wait for the disk serves a whole group of them.
//!
//! For: putting, reading, deleting and listing packed payloads. Not for: large payloads (`disk` keeps them as
//! files), giving space back (`gc`), nor for who may read what. Payloads are ciphertext before they come here;
//! nothing else is written but their hashes and lengths.
//!
//! ```text
//! packs/000001-<salt>.pack    frames, one behind the other, at most 16 MiB
//! packs/reserve               64 KiB of zeros, given up so that a deletion finds room on a full disk
//! packs/000001-<salt>.index   the heads of the same frames, in any order
//!
//! frame   head 52 | payload                                             integers are little endian
//! head    "KP1" | kind u8 | length u32 | offset u32 | name 32 | check 8
//! ```
//! `salt` is 16 random bytes in hex, and the pack's *tag* is its first 4 as a u32; numbers only rise. `length`
//! is that of the payload behind the head, `offset` that of the head in its pack. `check` is the first 8 bytes
//! of `blake3_keyed(derive_key("karte pack 1 frame check", salt), the 44 bytes before it)`: a payload cannot
//! contain bytes that pass for a frame, because who made it does not know the salt. Kinds:
//!
//! ```text
//! 'S' start     the first frame; name = version u16 (1), zeros; no payload
//! 'P' payload   name = blake3 of the payload, which follows
//! 'D' deleted   name = tag u32 | offset u32 | first 24 bytes of a payload's name: the frame there counts no
//!               longer, whether it comes before or after this one; no payload
//! 'L' lost      name = blake3 of a payload that was here and was damaged; no payload
//! 'X' skipped   only in an index: `length` bytes from `offset` on were torn in a crash and never acknowledged
//! ```
//! A payload is there while a 'P' frame with its name is not deleted. What counts is a set: no order of packs
//! and frames matters, and two frames with one name are one payload.
//!
//! **Durable.** A sync waits for the pack (`fdatasync`), then appends the new heads to the index and waits for
//! it. So the index tells only of frames that are durable, and an acknowledged frame is in both.
//!
//! **Opening** reads the indexes. They cover a pack without gaps, and only what lies behind the last record, or
//! in a gap that a damaged record left, is looked for in the pack itself: a head with a right check at its own
//! offset, from byte to byte until one is found. Behind the last record, whole frames are taken in and the rest
//! is what a crash tore: it is cut off. Frames the index tells of and the pack is too short for are lost, and
//! known by name. A pack without an index is scanned as one gap; an index without a pack names what is lost.
//!
//! **Reading** verifies: a payload is handed out only when it hashes to its name.
//!
//! **Deleting** appends a 'D' frame. The bytes go when `gc` rewrites the pack.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::frame::{HEAD_BYTES, Kind, Target};
use super::pack::{Group, Name, Pack};
use super::{BlobId, Failed, Limits, damaged, hex, lock, remove};
use crate::store::{StoreError, files, io_error};

/// Packs kept open for reading. 64: far below any limit of open files; a pack is opened again in 5 us.
const OPEN_PACKS_MAX: usize = 64;

/// Packs synced at the same time. 8: a large group of payloads fills two or three.
const SYNCS_MAX: usize = 8;

/// Space set aside for deletions.
const RESERVE: &str = "reserve";
/// Its size, in bytes. 64 KiB: some 600 deletions in pack and index, after which a `gc` makes room.
const RESERVE_BYTES: usize = 64 << 10;

/// Where a payload lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// Known to be damaged.
    pub(super) is_lost: bool,
}

impl Place {
    pub(super) fn frame_bytes(&self) -> u64 {
        u64::from(HEAD_BYTES) + u64::from(self.length)
    }

    /// The same frame, in whatever state.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        (self.pack, self.offset) == (other.pack, other.offset)
    }
}

/// All packs of a folder. Syncing and rewriting are for one thread at a time, which the caller sees to.
pub(super) struct Packs {
    pub(super) dir: PathBuf,
    pub(super) limits: Limits,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// By tag.
    pub(super) packs: BTreeMap<u32, Pack>,
    pub(super) found: HashMap<BlobId, Place>,
    /// Further frames of the same payloads, as a rewrite that was interrupted leaves them.
    pub(super) copies: HashMap<BlobId, Vec<Place>>,
    /// Where frames are appended.
    pub(super) active: Option<u32>,
    opened: VecDeque<u32>,
    last_number: u32,
}

impl Packs {
    pub(super) fn open(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        let mut state = State::default();
        let mut frames = Vec::new();
        for name in names(dir).map_err(io_error("opening the packs"))? {
            let (pack, found) = Pack::load(dir, name)?;
            let tells = |kind| matches!(kind, Kind::Payload | Kind::Deleted | Kind::Lost);
            if pack.is_closed && pack.hole_bytes == 0 && !found.iter().any(|found| tells(found.head.kind)) {
                // Making it was interrupted.
                pack.unmake();
                continue;
            }
            state.last_number = state.last_number.max(pack.number());
            frames.extend(found.into_iter().map(|found| (pack.tag(), found)));
            if state.packs.insert(pack.tag(), pack).is_some() {
                return Err(StoreError::Damaged {
                    file: "packs".into(),
                    offset: 0,
                    what: "two packs with one tag",
                });
            }
        }
        let deleted: HashSet<Target> = state.packs.values().flat_map(|pack| pack.deletions.clone()).collect();
        state.found.reserve(frames.len());
        for (tag, found) in frames {
            let head = found.head;
            let is_lost = head.kind == Kind::Lost || !found.is_whole;
            let place = Place { pack: tag, offset: head.offset, length: head.length, is_lost };
            let counts = matches!(head.kind, Kind::Payload | Kind::Lost);
            if counts && !deleted.contains(&Target::new(tag, head.offset, &head.name)) {
                state.take_in(head.name, place);
            }
        }
        state.close_targets(&deleted);
        let packs = Self { dir: dir.to_owned(), limits, state: Mutex::new(state) };
        packs.keep_reserve();
        Ok(packs)
    }

    /// Keeps a payload, unless its right bytes are here already. Durable only after a sync.
    pub(super) fn put(&self, id: BlobId, bytes: &[u8]) -> Result<(), StoreError> {
        match self.read(&id) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) | Err(StoreError::WrongHash { .. }) => {}
            // Unreadable is as good as damaged to who brings the bytes again.
            Err(_) => self.mark_lost(&id, None),
        }
        let mut state = lock(&self.state);
        let old = state.found.get(&id).copied();
        if old.is_some_and(|place| !place.is_lost) {
            return Ok(());
        }
        let (pack, offset) = self.append(&mut state, Kind::Payload, id, bytes)?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        state.forget(&id);
        state.take_in(id, Place { pack, offset, length, is_lost: false });
        if let Some(old) = old {
            // Should this fail, the damaged frame is known as a copy, and deleted with it.
            if self.append_deletion(&mut state, Target::new(old.pack, old.offset, &id)).is_err() {
                state.copies.entry(id).or_default().push(old);
            }
        }
        Ok(())
    }

    /// A payload, verified; or an error that names it.
    pub(super) fn read(&self, id: &BlobId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut state = lock(&self.state);
        let Some(place) = state.found.get(id).copied() else {
            return Ok(None);
        };
        if place.is_lost {
            return Err(damaged(id, "no whole payload"));
        }
        // Opened under the lock, so that no rewrite removes it in between.
        let file = state.file(place.pack);
        drop(state);
        match file.and_then(|file| read_body(&file, &place)) {
            Ok(bytes) if blake3::hash(&bytes).as_bytes() == id => Ok(Some(bytes)),
            Ok(bytes) => {
                self.mark_lost(id, Some(place));
                Err(damaged(id, &hex(blake3::hash(&bytes).as_bytes())))
            }
            Err(error) if is_missing(&error) => {
                self.mark_lost(id, Some(place));
                Err(damaged(id, "no whole payload"))
            }
            Err(error) => Err(io_error("reading a payload")(error)),
        }
    }

    /// Appends a payload to `buffer`, unverified; whether there is one of at most `bytes_max` bytes.
    pub(super) fn read_into(
        &self,
        id: &BlobId,
        bytes_max: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let mut state = lock(&self.state);
        let place = state.found.get(id).copied();
        let Some(place) = place.filter(|place| !place.is_lost && u64::from(place.length) <= bytes_max) else {
            return Ok(false);
        };
        let file = state.file(place.pack);
        drop(state);
        file.and_then(|file| append_body(&file, &place, buffer)).map_err(io_error("reading a payload"))?;
        Ok(true)
    }

    /// The length of a payload that is not known to be damaged.
    pub(super) fn len(&self, id: &BlobId) -> Option<u64> {
        lock(&self.state).found.get(id).filter(|place| !place.is_lost).map(|place| place.length.into())
    }

    pub(super) fn has(&self, id: &BlobId) -> bool {
        lock(&self.state).found.contains_key(id)
    }

    /// Deletes a payload. After an error it is still there.
    pub(super) fn delete(&self, id: &BlobId) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let places = state.copies.get(id).into_iter().flatten().chain(state.found.get(id));
        for place in places.copied().collect::<Vec<_>>() {
            self.append_deletion(&mut state, Target::new(place.pack, place.offset, id))?;
        }
        state.forget(id);
        state.copies.remove(id);
        Ok(())
    }

    /// Every durable payload, the damaged ones too.
    pub(super) fn list(&self) -> Vec<(BlobId, u64)> {
        let state = lock(&self.state);
        let is_durable = |place: &Place| {
            state.packs.get(&place.pack).is_some_and(|pack| u64::from(place.offset) < pack.durable_end)
        };
        let durable = state.found.iter().filter(|(_, place)| is_durable(place));
        durable.map(|(id, place)| (*id, place.length.into())).collect()
    }

    /// Names in the order they lie on the disk.
    pub(super) fn in_order(&self) -> Vec<(Place, BlobId)> {
        let mut all: Vec<_> = lock(&self.state).found.iter().map(|(id, place)| (*place, *id)).collect();
        all.sort_unstable();
        all
    }

    /// Makes every frame appended before durable.
    pub(super) fn sync(&self) -> Result<(), Failed> {
        let mut groups: Vec<Group> = Vec::new();
        for pack in lock(&self.state).packs.values_mut().filter(|pack| pack.is_waiting_for_sync()) {
            groups.push(pack.group().map_err(Failed::known("syncing a pack"))?);
        }
        sync_all(&groups)?;
        for group in groups {
            if let Some(pack) = lock(&self.state).packs.get_mut(&group.tag) {
                pack.synced(&group);
            }
        }
        Ok(())
    }

    pub(super) fn damaged(&self) -> u64 {
        lock(&self.state).found.values().filter(|place| place.is_lost).count() as u64
    }

    /// Sets space aside for deletions, if there is any: on a full disk they are what makes room.
    pub(super) fn keep_reserve(&self) {
        let path = self.dir.join(RESERVE);
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == RESERVE_BYTES as u64) {
            return;
        }
        let file = files::private().create(true).truncate(true).open(&path);
        if file.and_then(|file| file.write_all_at(&[0; RESERVE_BYTES], 0)).is_err() {
            let _ = remove(&path);
        }
    }

    /// Notes that a frame counts no longer. On a full disk the reserve is given up for it.
    pub(super) fn append_deletion(&self, state: &mut State, target: Target) -> Result<(), StoreError> {
        let noted = self.append(state, Kind::Deleted, target.to_name(), &[]);
        if matches!(noted, Err(StoreError::Full { .. })) && remove(&self.dir.join(RESERVE)).unwrap_or(false) {
            return self.append(state, Kind::Deleted, target.to_name(), &[]).map(|_| ());
        }
        noted.map(|_| ())
    }

    fn mark_lost(&self, id: &BlobId, seen: Option<Place>) {
        if let Some(place) = lock(&self.state).found.get_mut(id)
            && seen.is_none_or(|seen| seen.is_at(place))
        {
            place.is_lost = true;
        }
    }

    /// Appends to the active pack, or to the next one when that is full.
    pub(super) fn append(
        &self,
        state: &mut State,
        kind: Kind,
        name: [u8; 32],
        body: &[u8],
    ) -> Result<(u32, u32), StoreError> {
        let needed = u64::from(HEAD_BYTES) + body.len() as u64;
        let has_room =
            |pack: &Pack, end_max: u64| !pack.is_closed && pack.end.saturating_add(needed) <= end_max;
        let full = self.limits.pack_bytes;
        let active = state.active.filter(|tag| state.packs.get(tag).is_some_and(|pack| has_room(pack, full)));
        // One that a rewrite or the last run left half empty is filled before another is begun.
        let half_empty = || state.packs.values().find(|pack| has_room(pack, full / 2)).map(Pack::tag);
        let tag = match active.or_else(half_empty) {
            Some(tag) => tag,
            None => {
                let pack = self.create(state)?;
                let tag = pack.tag();
                state.packs.insert(tag, pack);
                tag
            }
        };
        state.active = Some(tag);
        let pack = state.packs.get_mut(&tag).ok_or(StoreError::Poisoned)?;
        let appended = pack.append(kind, name, body).map_err(io_error("writing a payload"));
        // Whatever ails it, the next one goes elsewhere; a full disk is no pack's fault.
        pack.is_closed |= matches!(appended, Err(StoreError::Io { .. }));
        Ok((tag, appended?))
    }

    /// A new pack, which the state does not hold yet.
    pub(super) fn create(&self, state: &mut State) -> Result<Pack, StoreError> {
        let number = state.last_number.checked_add(1).ok_or(StoreError::TooLarge {
            what: "number of packs",
            expected: u32::MAX as usize,
            got: u32::MAX as usize,
        })?;
        let targets: HashSet<u32> =
            state.packs.values().flat_map(|pack| &pack.deletions).map(|target| target.pack).collect();
        let is_taken = |tag| state.packs.contains_key(&tag) || targets.contains(&tag);
        let pack = Pack::create(&self.dir, number, &is_taken)?;
        state.last_number = number;
        Ok(pack)
    }
}

impl State {
    /// Counts a frame. A whole one goes before a damaged one; what else there is, is a copy.
    pub(super) fn take_in(&mut self, id: BlobId, place: Place) {
        let other = match self.found.get(&id).copied() {
            Some(old) if !old.is_lost || place.is_lost => Some(place),
            old => {
                self.forget(&id);
                if let Some(pack) = self.packs.get_mut(&place.pack) {
                    pack.live_bytes = pack.live_bytes.saturating_add(place.frame_bytes());
                }
                self.found.insert(id, place);
                old
            }
        };
        if let Some(copy) = other {
            self.copies.entry(id).or_default().push(copy);
        }
    }

    /// Counts a payload's frame no longer.
    pub(super) fn forget(&mut self, id: &BlobId) {
        if let Some(place) = self.found.remove(id)
            && let Some(pack) = self.packs.get_mut(&place.pack)
        {
            pack.live_bytes = pack.live_bytes.saturating_sub(place.frame_bytes());
        }
    }

    /// A deletion of a frame that was torn off in a crash must not meet one appended in its place.
    fn close_targets(&mut self, deleted: &HashSet<Target>) {
        for target in deleted {
            if let Some(pack) = self.packs.get_mut(&target.pack) {
                pack.is_closed |= pack.end <= u64::from(target.offset);
            }
        }
    }

    fn file(&mut self, tag: u32) -> io::Result<Arc<File>> {
        let pack = self.packs.get_mut(&tag).ok_or(io::ErrorKind::NotFound)?;
        if pack.file.is_none() {
            self.opened.push_back(tag);
        }
        let file = pack.handle()?;
        if self.opened.len() > OPEN_PACKS_MAX
            && let Some(oldest) = self.opened.pop_front()
            && self.active != Some(oldest)
            && let Some(pack) = self.packs.get_mut(&oldest)
            && !pack.is_waiting_for_sync()
        {
            pack.file = None;
        }
        Ok(file)
    }
}

/// Waits for several packs at the same time: none needs another.
fn sync_all(groups: &[Group]) -> Result<(), Failed> {
    if let [only] = groups {
        return only.sync();
    }
    let ended = |_| Err(Failed::unknown("syncing a pack")(io::Error::other("a syncing thread ended badly")));
    groups.chunks(SYNCS_MAX).try_for_each(|some| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|group| scope.spawn(|| group.sync())).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(ended))
        })
    })
}

pub(super) fn read_body(file: &File, place: &Place) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    append_body(file, place, &mut bytes)?;
    Ok(bytes)
}

fn append_body(file: &File, place: &Place, buffer: &mut Vec<u8>) -> io::Result<()> {
    let start = buffer.len();
    buffer.resize(start.saturating_add(place.length as usize), 0);
    let body = buffer.get_mut(start..).unwrap_or_default();
    file.read_exact_at(body, u64::from(place.offset) + u64::from(HEAD_BYTES))
}

pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
}

/// The packs of a folder, by number. A pack or an index alone counts too.
fn names(dir: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_ours = path.extension().is_some_and(|extension| extension == "pack" || extension == "index");
        names.extend(Name::parse(&path).filter(|_| is_ours));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Makes the removal of packs durable.
pub(super) fn sync_names(dir: &Path) -> Result<(), Failed> {
    files::sync_dir(dir).map_err(Failed::unknown("syncing the folder of packs"))
}
