//! The journal: an append-only file of sealed, hash-chained frames, one for each commit. It is the authority.
//!
//! For: appending, replaying, and telling a torn tail from damage. Not for: looking anything up (the view
//! does), nor for giving space back: there is one file, and no rotation yet.
//!
//! ```text
//! header  "KARTEJNL" | version u16 | kind u16 | store id 16 | key check 32 | crc32 u32        64 bytes, LE
//! frame   "KFRM" | length u32 | crc32 u32 | previous chain 32 | nonce 24, ciphertext, tag 16
//! ```
//! `length` counts from the nonce; the crc covers length, chain and all from the nonce on; the AAD is
//! `offset u64 ‖ previous chain`; the chain is the blake3 of the header, then of each whole frame.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::delta::{DELTA_BYTES_MAX, Delta};
use super::files::{self, take};
use super::sealing::{Keys, SEAL_BYTES, StoreKey};
use super::witness::Position;
use super::{StoreError, final_error, io_error};

/// The journal's folder, and the one file in it.
pub(super) const DIR: &str = "journal";
pub(super) const NAME: &str = "journal/000001.log";

const HEADER_MAGIC: [u8; 8] = *b"KARTEJNL";
const VERSION: u16 = 1;
const KIND_JOURNAL: u16 = 1;
pub(super) const HEADER_BYTES: usize = 64;

const FRAME_MAGIC: [u8; 4] = *b"KFRM";
const HEAD_BYTES: usize = 44;
/// Longest body, in bytes: a full delta, sealed.
const BODY_BYTES_MAX: usize = DELTA_BYTES_MAX + SEAL_BYTES;
/// Longest frame, in bytes: no torn tail can be longer, because a commit waits for the one before.
const FRAME_BYTES_MAX: usize = HEAD_BYTES + BODY_BYTES_MAX;

/// The open journal.
pub(super) struct Journal {
    file: File,
    keys: Arc<Keys>,
    start: Position,
    end: Position,
    /// Makes the next write stop half way, or the next sync fail: only tests can set it.
    #[cfg(test)]
    pub(super) fault: Option<io::ErrorKind>,
}

/// Makes the keys of a new store and its journal, and says where the first frame will be.
pub(super) fn create(dir: &Path, key: &StoreKey) -> Result<(Keys, Position), StoreError> {
    let mut store_id = [0; 16];
    getrandom::fill(&mut store_id).map_err(StoreError::Random)?;
    let keys = Keys::derive(key, store_id);
    let mut header = HEADER_MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend(KIND_JOURNAL.to_le_bytes());
    header.extend(store_id);
    header.extend(keys.check());
    header.extend(crc32fast::hash(&header).to_le_bytes());
    let name = NAME.rsplit('/').next().unwrap_or(NAME);
    files::replace(&dir.join(DIR), name, &header).map_err(io_error("making the journal"))?;
    Ok((keys, start(&header)))
}

fn start(header: &[u8]) -> Position {
    Position { offset: header.len() as u64, chain: blake3::hash(header).into() }
}

/// Reads the header of an existing store and derives its keys, or says that the key is wrong.
pub(super) fn unlock(dir: &Path, key: &StoreKey) -> Result<Keys, StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    let file = File::open(dir.join(NAME)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(0, "file is missing"),
        _ => io_error("opening the journal")(error),
    })?;
    file.read_exact_at(&mut bytes, 0).map_err(|_| damaged(0, "header is cut short"))?;
    let mut rest = bytes.as_slice();
    let (store_id, check) = read_header(&mut rest)?;
    let keys = Keys::derive(key, store_id);
    if keys.check() == check { Ok(keys) } else { Err(StoreError::WrongKey) }
}

fn read_header(rest: &mut &[u8]) -> Result<([u8; 16], [u8; 32]), StoreError> {
    let cut = || damaged(0, "header is cut short");
    let crc = rest.split_last_chunk::<4>().map(|(bytes, _)| crc32fast::hash(bytes)).ok_or_else(cut)?;
    let magic: [u8; 8] = take(rest).ok_or_else(cut)?;
    let version = u16::from_le_bytes(take(rest).ok_or_else(cut)?);
    let kind = u16::from_le_bytes(take(rest).ok_or_else(cut)?);
    let store_id = take(rest).ok_or_else(cut)?;
    let check = take(rest).ok_or_else(cut)?;
    if magic != HEADER_MAGIC || kind != KIND_JOURNAL || take(rest) != Some(crc.to_le_bytes()) {
        return Err(damaged(0, "header does not match its checksum"));
    }
    if version != VERSION {
        return Err(StoreError::Version { file: NAME, expected: VERSION, got: version });
    }
    Ok((store_id, check))
}

impl Journal {
    /// Opens the file and verifies all of it: what the witness covers must be whole, what lies behind it is
    /// kept while whole and cut off where it is torn. `seen` is told the end of every frame.
    pub(super) fn open(
        dir: &Path,
        keys: Arc<Keys>,
        witness: Position,
        seen: &mut dyn FnMut(Position),
    ) -> Result<Self, StoreError> {
        let file = files::private().open(dir.join(NAME)).map_err(io_error("opening the journal"))?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(io_error("reading the journal"))?;
        let start = start(&header);
        #[cfg(test)]
        let mut journal = Self { file, keys, start, end: start, fault: None };
        #[cfg(not(test))]
        let mut journal = Self { file, keys, start, end: start };
        journal.end = journal.verify(witness, seen)?;
        journal.cut_tail()?;
        Ok(journal)
    }

    pub(super) fn start(&self) -> Position {
        self.start
    }

    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// Writes one frame behind the last. Not durable until `sync`; when it fails for lack of space and the
    /// torn frame could be taken back, the error is `Full` and the journal is as before.
    pub(super) fn append(&mut self, delta: &Delta) -> Result<(), Append> {
        let plain = delta.encode().ok_or(Append::Refused(StoreError::TooLarge {
            what: "commit",
            expected: DELTA_BYTES_MAX,
            got: delta.size_bytes(),
        }))?;
        let plain = zeroize::Zeroizing::new(plain);
        let frame = self.frame(&plain).map_err(Append::Refused)?;
        if let Err(error) = self.write_all(&frame) {
            let taken_back = self.file.set_len(self.end.offset).is_ok();
            return Err(match io_error("writing the journal")(error) {
                error @ StoreError::Full { .. } if taken_back => Append::Refused(error),
                error => Append::Torn(error),
            });
        }
        self.end = Position {
            offset: self.end.offset.saturating_add(frame.len() as u64),
            chain: blake3::hash(&frame).into(),
        };
        Ok(())
    }

    /// Makes all frames durable. After an error nobody knows which of them are.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        #[cfg(test)]
        if let Some(kind) = self.fault {
            return Err(final_error("syncing the journal")(kind.into()));
        }
        self.file.sync_data().map_err(final_error("syncing the journal"))
    }

    /// Opens the frames behind `from` in order.
    pub(super) fn replay(
        &self,
        from: Position,
        apply: &mut dyn FnMut(Delta, Position) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let (mut reader, mut at, mut frames) = (self.reader(from.offset)?, from, 0u64);
        while at.offset < self.end.offset {
            let frame = self.read(&mut reader)?.map_err(|what| damaged(at.offset, what))?;
            let plain =
                self.open_frame(&frame, at.offset).ok_or(damaged(at.offset, "frame does not open"))?;
            let delta = Delta::decode(&plain).ok_or(damaged(at.offset, "frame is not a list of changes"))?;
            at = frame.end(at);
            apply(delta, at)?;
            frames = frames.saturating_add(1);
        }
        Ok(frames)
    }

    fn frame(&self, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let body = self.keys.journal.seal(&self.end.to_bytes(), plain)?;
        let too_large = StoreError::TooLarge { what: "frame", expected: BODY_BYTES_MAX, got: body.len() };
        let Some(length) = u32::try_from(body.len()).ok().filter(|_| body.len() <= BODY_BYTES_MAX) else {
            return Err(too_large);
        };
        let mut frame = Vec::with_capacity(HEAD_BYTES.saturating_add(body.len()));
        frame.extend(FRAME_MAGIC);
        frame.extend(length.to_le_bytes());
        frame.extend(crc(length, &self.end.chain, &body).to_le_bytes());
        frame.extend(self.end.chain);
        frame.extend(body);
        Ok(frame)
    }

    fn write_all(&self, frame: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(kind) = self.fault.filter(|kind| *kind == io::ErrorKind::StorageFull) {
            self.file.write_all_at(frame.split_at(frame.len() / 2).0, self.end.offset)?;
            return Err(kind.into());
        }
        self.file.write_all_at(frame, self.end.offset)
    }

    /// Walks the frames to the first that is not whole. Within the witness that is damage; behind it, a tail.
    fn verify(&self, witness: Position, seen: &mut dyn FnMut(Position)) -> Result<Position, StoreError> {
        let length = self.length()?;
        let mut reader = self.reader(self.start.offset)?;
        let mut at = self.start;
        seen(at);
        loop {
            if at.offset == witness.offset && at.chain != witness.chain {
                return Err(damaged(at.offset, "frames before it are not those the witness saw"));
            }
            let covered = at.offset < witness.offset;
            if at.offset >= length {
                let short = covered.then(|| damaged(at.offset, "journal is shorter than the witness says"));
                return short.map_or(Ok(at), Err);
            }
            let frame = match self.read(&mut reader)? {
                Ok(frame) if frame.previous == at.chain => frame,
                Ok(_) if covered => return Err(damaged(at.offset, "frame does not follow the one before")),
                Err(what) if covered => return Err(damaged(at.offset, what)),
                _ => return Ok(at),
            };
            let end = frame.end(at);
            if covered && end.offset > witness.offset {
                return Err(damaged(at.offset, "frame passes the length the witness says"));
            }
            // The witness's MAC covers the chain, so frames before it need not be opened here.
            if !covered && self.open_frame(&frame, at.offset).is_none() {
                return Ok(at);
            }
            at = end;
            seen(at);
        }
    }

    /// Cuts off what lies behind the last whole frame: the one commit that was under way and never
    /// acknowledged. A whole frame in there would show that a commit behind the damage had been made, and so
    /// that the witness is stale: then the store refuses.
    fn cut_tail(&self) -> Result<(), StoreError> {
        let at = self.end.offset;
        let tail_bytes = self.length()?.saturating_sub(at);
        if tail_bytes == 0 {
            return Ok(());
        }
        if tail_bytes > FRAME_BYTES_MAX as u64 {
            return Err(damaged(at, "more unreadable bytes than one commit can leave"));
        }
        let mut tail = Vec::new();
        self.reader(at)?.read_to_end(&mut tail).map_err(io_error("reading the journal"))?;
        let starts = tail.windows(FRAME_MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == FRAME_MAGIC);
        for (skip, _) in starts {
            let mut rest = tail.get(skip..).unwrap_or_default();
            let Ok(frame) = self.read(&mut rest)? else {
                continue;
            };
            if self.open_frame(&frame, at.saturating_add(skip as u64)).is_some() {
                return Err(damaged(at, "a whole frame lies behind an unreadable one"));
            }
        }
        self.file.set_len(at).map_err(io_error("cutting the torn tail"))?;
        self.file.sync_all().map_err(io_error("cutting the torn tail"))
    }

    fn length(&self) -> Result<u64, StoreError> {
        Ok(self.file.metadata().map_err(io_error("reading the journal"))?.len())
    }

    fn reader(&self, offset: u64) -> Result<BufReader<File>, StoreError> {
        let mut file = self.file.try_clone().map_err(io_error("reading the journal"))?;
        file.seek(SeekFrom::Start(offset)).map_err(io_error("reading the journal"))?;
        // 1 MiB: few system calls for small frames.
        Ok(BufReader::with_capacity(1 << 20, file))
    }

    /// Reads one frame; the inner error says why there is none.
    fn read(&self, reader: &mut impl Read) -> Result<Result<Frame, &'static str>, StoreError> {
        match read_frame(reader) {
            Ok(frame) => Ok(frame),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Err("frame is cut short")),
            Err(error) => Err(io_error("reading the journal")(error)),
        }
    }

    fn open_frame(&self, frame: &Frame, offset: u64) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let aad = Position { offset, chain: frame.previous }.to_bytes();
        self.keys.journal.open(&aad, &frame.body)
    }
}

/// What became of a frame that could not be appended.
pub(super) enum Append {
    /// The journal is as before: it can be tried again.
    Refused(StoreError),
    /// Part of it may be in the file.
    Torn(StoreError),
}

/// A frame as read, with its checksum right; not yet opened.
struct Frame {
    previous: [u8; 32],
    body: Vec<u8>,
    length: u64,
    chain: [u8; 32],
}

impl Frame {
    fn end(&self, at: Position) -> Position {
        Position { offset: at.offset.saturating_add(self.length), chain: self.chain }
    }
}

fn read_frame(reader: &mut impl Read) -> io::Result<Result<Frame, &'static str>> {
    let mut head = [0; HEAD_BYTES];
    reader.read_exact(&mut head)?;
    let Some((magic, length, crc32, previous)) = read_head(&head) else {
        return Ok(Err("frame is cut short"));
    };
    if magic != FRAME_MAGIC {
        return Ok(Err("expected the start of a frame"));
    }
    if length as usize > BODY_BYTES_MAX {
        return Ok(Err("frame is longer than any commit"));
    }
    let mut body = Vec::new();
    if reader.take(length.into()).read_to_end(&mut body)? < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if crc(length, &previous, &body) != crc32 {
        return Ok(Err("frame does not match its checksum"));
    }
    let chain = blake3::Hasher::new().update(&head).update(&body).finalize().into();
    let length = (HEAD_BYTES as u64).saturating_add(length.into());
    Ok(Ok(Frame { previous, body, length, chain }))
}

fn read_head(mut head: &[u8]) -> Option<([u8; 4], u32, u32, [u8; 32])> {
    let rest = &mut head;
    Some((take(rest)?, u32::from_le_bytes(take(rest)?), u32::from_le_bytes(take(rest)?), take(rest)?))
}

fn crc(length: u32, previous: &[u8; 32], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(previous);
    hasher.update(body);
    hasher.finalize()
}

fn damaged(offset: u64, what: &'static str) -> StoreError {
    StoreError::Damaged { file: NAME, offset, what }
}
