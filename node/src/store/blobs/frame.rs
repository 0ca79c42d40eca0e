//! Frames of packs: the head that makes each of them self-describing, and finding them again in damaged bytes.
//!
//! For: bytes in memory. Not for: files, nor for which payload counts (`packs` decides). The format is told at
//! the top of `packs`.

use super::BlobId;
use crate::store::files::take;

/// A head, in bytes: magic 3, kind 1, length 4, offset 4, name 32, check 8.
pub(super) const HEAD_BYTES: u32 = 52;
const HEAD: usize = HEAD_BYTES as usize;
const MAGIC: [u8; 3] = *b"KP1";
/// The check, in bytes. 8: what a peer puts into a payload passes for a head with a chance of 2^-64 each time.
const CHECK_BYTES: usize = 8;
/// The format this program writes, told by the first frame of each pack.
pub(super) const VERSION: u16 = 1;

/// What a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The pack begins. The name is the version, then zeros.
    Start,
    /// A payload follows, and the name is its hash.
    Payload,
    /// A frame elsewhere counts no longer. The name is a [`Target`].
    Deleted,
    /// A payload was here and is damaged; its unusable bytes were cleared away.
    Lost,
    /// Only in an index: bytes that were never acknowledged, torn in a crash. `length` counts from `offset`.
    Skip,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Start => b'S',
            Self::Payload => b'P',
            Self::Deleted => b'D',
            Self::Lost => b'L',
            Self::Skip => b'X',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Start, Self::Payload, Self::Deleted, Self::Lost, Self::Skip]
            .into_iter()
            .find(|kind| kind.to_byte() == byte)
    }
}

/// The first 52 bytes of a frame, and one record of an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Of what follows, in bytes.
    pub(super) length: u32,
    /// Where the frame begins in its pack: a head is right in one place only.
    pub(super) offset: u32,
    pub(super) name: [u8; 32],
}

impl Head {
    pub(super) fn start() -> Self {
        let mut name = [0; 32];
        name.iter_mut().zip(VERSION.to_le_bytes()).for_each(|(to, from)| *to = from);
        Self { kind: Kind::Start, length: 0, offset: 0, name }
    }

    /// The format version a start frame tells.
    pub(super) fn version(&self) -> u16 {
        take(&mut self.name.as_slice()).map(u16::from_le_bytes).unwrap_or_default()
    }

    /// Where the next frame begins.
    pub(super) fn end(&self) -> u64 {
        let head = if self.kind == Kind::Skip { 0 } else { u64::from(HEAD_BYTES) };
        u64::from(self.offset) + head + u64::from(self.length)
    }

    pub(super) fn to_bytes(self, key: &[u8; 32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend(MAGIC);
        bytes.push(self.kind.to_byte());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.offset.to_le_bytes());
        bytes.extend(self.name);
        bytes.extend(check(key, &bytes));
        bytes
    }

    /// The head at the front of `bytes`, if its check is right.
    pub(super) fn read(bytes: &[u8], key: &[u8; 32]) -> Option<Self> {
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let (told, found) = bytes.get(..HEAD)?.split_last_chunk::<CHECK_BYTES>()?;
        if check(key, told) != *found {
            return None;
        }
        let mut rest = told.get(MAGIC.len()..)?;
        let [kind] = take(&mut rest)?;
        Some(Self {
            kind: Kind::from_byte(kind)?,
            length: u32::from_le_bytes(take(&mut rest)?),
            offset: u32::from_le_bytes(take(&mut rest)?),
            name: take(&mut rest)?,
        })
    }
}

/// The frame a deletion is about: no other frame, before or after, is touched by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Target {
    /// The tag of its pack.
    pub(super) pack: u32,
    pub(super) offset: u32,
    /// The first bytes of the payload's name.
    pub(super) id: [u8; 24],
}

impl Target {
    pub(super) fn new(pack: u32, offset: u32, id: &BlobId) -> Self {
        Self { pack, offset, id: id.first_chunk().copied().unwrap_or_default() }
    }

    pub(super) fn to_name(self) -> [u8; 32] {
        let bytes = self.pack.to_le_bytes().into_iter().chain(self.offset.to_le_bytes()).chain(self.id);
        let mut name = [0; 32];
        name.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        name
    }

    pub(super) fn from_name(name: &[u8; 32]) -> Self {
        let mut rest = name.as_slice();
        Self {
            pack: take(&mut rest).map(u32::from_le_bytes).unwrap_or_default(),
            offset: take(&mut rest).map(u32::from_le_bytes).unwrap_or_default(),
            id: take(&mut rest).unwrap_or_default(),
        }
    }
}

/// What lies in a stretch of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// A frame; `false`: its head is right, its payload is not or is cut off.
    Frame(Head, bool),
    /// Bytes that are no frame, from here to there.
    Hole(u64, u64),
}

/// All of `bytes`, which begin at `base` of their pack, in order. Behind damage it looks for the next head.
pub(super) fn scan(bytes: &[u8], base: u64, key: &[u8; 32]) -> Vec<Piece> {
    let (mut pieces, mut at, mut hole) = (Vec::new(), 0usize, None);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let here = base + at as u64;
        let Some(head) = frame_at(rest, here, key) else {
            hole.get_or_insert(here);
            at += to_next_magic(rest);
            continue;
        };
        if let Some(from) = hole.take() {
            pieces.push(Piece::Hole(from, here));
        }
        let body = rest.get(HEAD..HEAD.saturating_add(head.length as usize));
        pieces.push(Piece::Frame(head, body.is_some_and(|body| is_right(&head, body))));
        at = at.saturating_add(HEAD).saturating_add(body.map_or(0, <[u8]>::len));
        if body.is_none() {
            // Cut off: what is left of it is a hole, unless whole frames lie in it.
            hole = Some(base + at as u64).filter(|_| at < bytes.len());
        }
    }
    pieces.extend(hole.map(|from| Piece::Hole(from, base + bytes.len() as u64)));
    pieces
}

/// Whether the bytes behind a head are those it names.
pub(super) fn is_right(head: &Head, body: &[u8]) -> bool {
    head.kind != Kind::Payload || *blake3::hash(body).as_bytes() == head.name
}

fn frame_at(bytes: &[u8], here: u64, key: &[u8; 32]) -> Option<Head> {
    Head::read(bytes, key).filter(|head| u64::from(head.offset) == here && head.kind != Kind::Skip)
}

fn to_next_magic(bytes: &[u8]) -> usize {
    let behind = bytes.get(1..).unwrap_or_default();
    behind.windows(MAGIC.len()).position(|window| window == MAGIC).map_or(bytes.len(), |skip| skip + 1)
}

fn check(key: &[u8; 32], bytes: &[u8]) -> [u8; CHECK_BYTES] {
    blake3::keyed_hash(key, bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}
