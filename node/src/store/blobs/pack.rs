//! One pack: its two files, appending to it, and what is in it when it is opened.
//!
//! For: making, appending, syncing, and surveying a pack that may be torn or damaged. Not for: which of its
//! frames count, which all packs together tell (`packs`).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{HEAD_BYTES, Head, Kind, Piece, Target, VERSION, scan};
use super::{Failed, remove};
use crate::store::{StoreError, files, io_error};

/// Most of a pack or an index that is looked at, in bytes. 64 MiB: four times the largest this program writes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Longest payload that is copied behind its head, in bytes. 16 KiB: a second write costs as much.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// What is read again alone after an error, in bytes: a page.
const PAGE_BYTES: usize = 4096;

/// A pack's number and salt, which are its file name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    number: u32,
    salt: [u8; 16],
}

impl Name {
    /// `000001-<salt in hex>`; the extension is not looked at.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let (number, salt) = path.file_stem()?.to_str()?.split_once('-')?;
        let is_plain = number.len() >= 6 && number.bytes().all(|byte| byte.is_ascii_digit());
        // Twice the 16 bytes are a hash's hex, which is read strictly.
        let salt = blake3::Hash::from_hex(format!("{salt}{salt}")).ok()?;
        let salt = *salt.as_bytes().first_chunk()?;
        Some(Self { number: number.parse().ok().filter(|_| is_plain)?, salt })
    }

    /// What places and deletions call the pack: the first bytes of its salt.
    pub(super) fn tag(&self) -> u32 {
        self.salt.first_chunk().copied().map(u32::from_le_bytes).unwrap_or_default()
    }

    fn path(&self, dir: &Path, extension: &str) -> PathBuf {
        let salt: String = self.salt.iter().map(|byte| format!("{byte:02x}")).collect();
        dir.join(format!("{:06}-{salt}.{extension}", self.number))
    }
}

/// A frame that an opened pack has.
pub(super) struct Found {
    pub(super) head: Head,
    /// Whether all of it is there. Its payload is verified when it is read.
    pub(super) is_whole: bool,
}

pub(super) struct Pack {
    name: Name,
    key: [u8; 32],
    path: PathBuf,
    index_path: PathBuf,
    /// Open when it was used lately; always while anything waits for a sync.
    pub(super) file: Option<Arc<File>>,
    /// Where the next frame goes.
    pub(super) end: u64,
    /// Frames that begin before it are durable.
    pub(super) durable_end: u64,
    /// Heads the index does not have yet.
    unindexed: Vec<Head>,
    index_end: u64,
    /// What its frames say is deleted, anywhere.
    pub(super) deletions: Vec<Target>,
    /// Frames that count, heads included, in bytes.
    pub(super) live_bytes: u64,
    /// Bytes where neither pack nor index tell what was there.
    pub(super) hole_bytes: u64,
    /// Nothing is appended any more.
    pub(super) is_closed: bool,
}

impl Pack {
    /// Makes an empty pack, durably. Nothing is left of one that fails.
    pub(super) fn create(
        dir: &Path,
        number: u32,
        is_taken: &dyn Fn(u32) -> bool,
    ) -> Result<Self, StoreError> {
        let mut name = Name { number, salt: [0; 16] };
        // Drawn again until the tag is new: one draw, but for one time in millions.
        loop {
            getrandom::fill(&mut name.salt).map_err(StoreError::Random)?;
            if !is_taken(name.tag()) {
                break;
            }
        }
        let mut pack = Self::new(dir, name);
        let made = pack.make(dir);
        if made.is_err() {
            pack.unmake();
        }
        made.map_err(io_error("making a pack"))?;
        Ok(pack)
    }

    fn new(dir: &Path, name: Name) -> Self {
        Self {
            name,
            key: blake3::derive_key("karte pack 1 frame check", &name.salt),
            path: name.path(dir, "pack"),
            index_path: name.path(dir, "index"),
            file: None,
            end: 0,
            durable_end: 0,
            unindexed: Vec::new(),
            index_end: 0,
            deletions: Vec::new(),
            live_bytes: 0,
            hole_bytes: 0,
            is_closed: false,
        }
    }

    fn make(&mut self, dir: &Path) -> io::Result<()> {
        // The index first: with it, what lies behind its last record is known to be unacknowledged.
        let start = Head::start();
        let index = files::private().create_new(true).open(&self.index_path)?;
        index.write_all_at(&start.to_bytes(&self.key), 0)?;
        index.sync_all()?;
        let file = files::private().create_new(true).open(&self.path)?;
        file.write_all_at(&start.to_bytes(&self.key), 0)?;
        file.sync_all()?;
        files::sync_dir(dir)?;
        self.file = Some(Arc::new(file));
        self.end = start.end();
        self.durable_end = self.end;
        self.index_end = u64::from(HEAD_BYTES);
        Ok(())
    }

    /// Removes the files of a pack nobody knows of yet; what stays is found empty or double at the next open.
    pub(super) fn unmake(&self) {
        let _ = remove(&self.path);
        let _ = remove(&self.index_path);
    }

    pub(super) fn paths(&self) -> [PathBuf; 2] {
        [self.path.clone(), self.index_path.clone()]
    }

    pub(super) fn tag(&self) -> u32 {
        self.name.tag()
    }

    pub(super) fn number(&self) -> u32 {
        self.name.number
    }

    /// Both files, in bytes.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.end.saturating_add(self.index_end)
    }

    /// Bytes of deleted payloads, and of what never became one.
    pub(super) fn dead_bytes(&self) -> u64 {
        let heads = u64::from(HEAD_BYTES).saturating_mul(self.deletions.len() as u64 + 1);
        self.end.saturating_sub(self.live_bytes).saturating_sub(heads)
    }

    pub(super) fn is_waiting_for_sync(&self) -> bool {
        !self.unindexed.is_empty()
    }

    /// Its file, opened if it has to be.
    pub(super) fn handle(&mut self) -> io::Result<Arc<File>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let file = files::private().open(&self.path).or_else(|_| File::open(&self.path))?;
        Ok(Arc::clone(self.file.insert(Arc::new(file))))
    }

    /// Appends a frame and returns where it begins. After an error the pack is as before.
    pub(super) fn append(&mut self, kind: Kind, name: [u8; 32], body: &[u8]) -> io::Result<u32> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let offset = u32::try_from(self.end).map_err(too_large)?;
        let length = u32::try_from(body.len()).map_err(too_large)?;
        let head = Head { kind, length, offset, name };
        let mut first = head.to_bytes(&self.key);
        let mut rest = body;
        if body.len() <= COPIED_BYTES_MAX {
            first.extend_from_slice(body);
            rest = &[];
        }
        let file = self.handle()?;
        let behind = self.end.saturating_add(first.len() as u64);
        if let Err(error) = file.write_all_at(&first, self.end).and_then(|()| file.write_all_at(rest, behind))
        {
            // Whether or not this works: the next frame goes there.
            let _ = file.set_len(self.end);
            return Err(error);
        }
        self.end = head.end();
        self.unindexed.push(head);
        if kind == Kind::Deleted {
            self.deletions.push(Target::from_name(&name));
        }
        Ok(offset)
    }

    /// What a sync needs to work on without holding the state: then [`synced`](Self::synced) is called.
    pub(super) fn group(&mut self) -> io::Result<Group> {
        Ok(Group {
            tag: self.tag(),
            file: self.handle()?,
            index_path: self.index_path.clone(),
            index_end: self.index_end,
            records: self.unindexed.iter().flat_map(|head| head.to_bytes(&self.key)).collect(),
            count: self.unindexed.len(),
            end: self.end,
        })
    }

    /// The group is on the disk.
    pub(super) fn synced(&mut self, group: &Group) {
        self.durable_end = self.durable_end.max(group.end);
        self.index_end = group.index_end.saturating_add(group.records.len() as u64);
        drop(self.unindexed.drain(..group.count.min(self.unindexed.len())));
    }

    /// Opens a pack, and says what is in it. What a crash tore off its end is cut away.
    pub(super) fn load(dir: &Path, name: Name) -> Result<(Self, Vec<Found>), StoreError> {
        let mut pack = Self::new(dir, name);
        let found = pack.survey().map_err(io_error("opening a pack"))?;
        if let Some(got) = found
            .iter()
            .filter(|found| found.head.kind == Kind::Start)
            .map(|found| found.head.version())
            .find(|version| *version != VERSION)
        {
            return Err(StoreError::Version { file: "pack".into(), expected: VERSION, got });
        }
        pack.deletions.extend(
            found
                .iter()
                .filter(|found| found.head.kind == Kind::Deleted)
                .map(|found| Target::from_name(&found.head.name)),
        );
        // Few packs are read soon.
        pack.file = pack.file.take().filter(|_| pack.is_waiting_for_sync());
        Ok((pack, found))
    }

    fn survey(&mut self) -> io::Result<Vec<Found>> {
        let length = match self.handle() {
            Ok(file) => file.metadata()?.len(),
            // What the index says was in it is lost, and named.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        self.is_closed = length > FILE_BYTES_MAX;
        let length = length.min(FILE_BYTES_MAX);
        let indexed = self.read_index()?;
        let has_index = indexed.first().is_some_and(|head| head.kind == Kind::Start);
        let (mut found, mut at) = (Vec::with_capacity(indexed.len()), 0);
        for head in indexed {
            let offset = u64::from(head.offset);
            if offset < at {
                continue;
            }
            if offset > at {
                self.survey_gap(at, offset.min(length), &mut found);
            }
            at = head.end();
            found.push(Found { head, is_whole: at <= length });
        }
        self.end = at.max(length);
        if at > length {
            self.is_closed = true;
        } else if has_index {
            self.survey_tail(at, length, &mut found)?;
        } else {
            self.survey_gap(at, length, &mut found);
            self.is_closed = true;
        }
        self.durable_end = self.end;
        Ok(found)
    }

    /// The index's heads, by offset. Its damaged records are left out: the pack itself is asked instead.
    fn read_index(&mut self) -> io::Result<Vec<Head>> {
        let mut bytes = Vec::new();
        match File::open(&self.index_path) {
            Ok(file) => {
                self.index_end = file.metadata()?.len();
                // What an error hides is in the pack too.
                let _ = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // A torn last record is written over.
        self.index_end -= self.index_end % u64::from(HEAD_BYTES);
        let records = bytes.chunks_exact(HEAD_BYTES as usize);
        let mut heads: Vec<_> = records.filter_map(|record| Head::read(record, &self.key)).collect();
        heads.sort_by_key(|head| head.offset);
        Ok(heads)
    }

    /// Bytes the index should have told about: what is there is taken in, what is damaged is named.
    fn survey_gap(&mut self, from: u64, to: u64, found: &mut Vec<Found>) {
        let (bytes, _) = self.region(from, to);
        for piece in scan(&bytes, from, &self.key) {
            match piece {
                Piece::Hole(from, to) => self.hole_bytes = self.hole_bytes.saturating_add(to - from),
                Piece::Frame(head, is_whole) => {
                    self.unindexed.push(head);
                    found.push(Found { head, is_whole });
                }
            }
        }
    }

    /// Bytes behind all that was ever acknowledged: what is whole is taken in, the rest was torn in a crash.
    fn survey_tail(&mut self, from: u64, to: u64, found: &mut Vec<Found>) -> io::Result<()> {
        let (bytes, is_read) = self.region(from, to);
        let mut at = from;
        for piece in scan(&bytes, from, &self.key) {
            let Piece::Frame(head, true) = piece else { continue };
            if u64::from(head.offset) > at {
                self.skip(at, head.offset);
            }
            at = head.end();
            self.unindexed.push(head);
            found.push(Found { head, is_whole: true });
        }
        if at > from {
            // Counted from now on, so it must be durable first.
            self.handle()?.sync_data()?;
        }
        if at < to && is_read && !self.is_closed && self.handle()?.set_len(at).is_ok() {
            self.end = at;
        }
        self.is_closed |= self.end > at;
        Ok(())
    }

    fn skip(&mut self, from: u64, to: u32) {
        let offset = u32::try_from(from).unwrap_or(to);
        self.unindexed.push(Head {
            kind: Kind::Skip,
            length: to.saturating_sub(offset),
            offset,
            name: [0; 32],
        });
    }

    /// A stretch of the file, and whether all of it could be read: pages that cannot are zeros.
    fn region(&mut self, from: u64, to: u64) -> (Vec<u8>, bool) {
        let length = usize::try_from(to.saturating_sub(from).min(FILE_BYTES_MAX)).unwrap_or_default();
        let mut bytes = vec![0; length];
        let Ok(file) = self.handle() else { return (bytes, false) };
        if file.read_exact_at(&mut bytes, from).is_ok() {
            return (bytes, true);
        }
        for (page, at) in bytes.chunks_mut(PAGE_BYTES).zip((from..).step_by(PAGE_BYTES)) {
            if file.read_exact_at(page, at).is_err() {
                page.fill(0);
            }
        }
        (bytes, false)
    }
}

/// The frames of one pack that a sync makes durable.
pub(super) struct Group {
    pub(super) tag: u32,
    file: Arc<File>,
    index_path: PathBuf,
    index_end: u64,
    records: Vec<u8>,
    count: usize,
    end: u64,
}

impl Group {
    /// Two waits: for the frames, then for the index, which so never tells of a frame that is not durable.
    pub(super) fn sync(&self) -> Result<(), Failed> {
        let doing = "syncing a pack";
        self.file.sync_data().map_err(Failed::unknown(doing))?;
        let index = files::private().create(true).truncate(false).open(&self.index_path);
        let index = index.map_err(Failed::known(doing))?;
        index.write_all_at(&self.records, self.index_end).map_err(Failed::known(doing))?;
        index.sync_data().map_err(Failed::unknown(doing))
    }
}
