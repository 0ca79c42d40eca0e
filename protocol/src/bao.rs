//! Verified slices: a part of a payload that proves itself against its RecordId, before the rest is there.
//!
//! A slice is a range of whole chunk groups (16 KiB) with the tree nodes that lead to the root: the encoding
//! of bao-tree 0.17. A wrong byte is found within the slice it came in, at most 1 MiB.
//!
//! Whoever serves holds an [`Outline`] of the payload, 32 bytes a MiB, and hashes each MiB once, when it is sent: that
//! gives the nodes inside it, and finds what the disk changed. A tree of all chunk groups would be 64 bytes for each 16 KiB.

use crate::id::{Digest, RecordId};
use crate::limits::SLICE_BYTES_MAX;
use bao_tree::io::outboard::EmptyOutboard;
use bao_tree::io::sync::{Outboard, ReadAt, Size, WriteAt, decode_ranges, encode_ranges};
use bao_tree::{BaoTree, BlockSize, ByteRanges, ChunkRanges, TreeNode};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use std::io;

/// Chunk groups of 16 KiB: 4,032 bytes of proof a MiB, and 64 for each level above.
const BLOCK: BlockSize = BlockSize::from_chunk_log(4);
/// One chunk group, in bytes.
const BLOCK_BYTES: usize = 16 * 1024;
/// BLAKE3 chunks in one chunk group, and in one MiB.
const BLOCK_CHUNKS: u64 = 16;
const PIECE_CHUNKS: u64 = SLICE_BYTES_MAX / blake3::CHUNK_LEN as u64;
/// What a slice holds beside payload bytes, at most: 63 nodes inside its MiB and one for each of 28 levels above
/// (a payload of 256 TiB), 64 bytes each.
const PROOF_BYTES_MAX: usize = (63 + 28) * 64;

/// Why a slice was not made or not taken.
#[derive(Debug, thiserror::Error)]
pub enum BaoError {
    /// Outside the payload, or longer than a slice may be.
    #[error("expected a slice within {bytes} bytes that starts at a whole MiB, got one at {offset}")]
    Range {
        /// Length of the payload.
        bytes: u64,
        /// Where the slice starts.
        offset: u64,
    },
    /// The bytes are not those of the record.
    #[error("the bytes from {offset} on are not those of record {}: {reason}", record.short())]
    Wrong {
        /// The record.
        record: RecordId,
        /// Where the slice starts.
        offset: u64,
        /// What the tree says.
        reason: String,
    },
    /// Reading failed.
    #[error("the payload cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// What proofs of a payload's slices are made from: the chaining value of each of its MiBs (BLAKE3, section 2.1), and
/// of all trees above. One of a payload of at most 1 MiB is empty.
#[derive(Debug)]
pub struct Outline {
    record: RecordId,
    bytes: u64,
    pieces: Levels,
}

impl Outline {
    /// Of a payload that fits one slice: nothing has to be known before.
    pub fn of_small(record: RecordId, bytes: u64) -> Self {
        Self { record, bytes, pieces: Levels::default() }
    }

    /// From the chaining values of all MiBs, in order ([`piece_value`]); refused unless they make up the record.
    pub fn of(record: RecordId, bytes: u64, pieces: Vec<ChainingValue>) -> Result<Self, BaoError> {
        if bytes <= SLICE_BYTES_MAX {
            return Ok(Self::of_small(record, bytes));
        }
        let pieces = Levels::above(pieces);
        match pieces.root() {
            Some(found) if found == root(&record) => Ok(Self { record, bytes, pieces }),
            _ => Err(BaoError::Wrong { record, offset: 0, reason: "the file was changed".into() }),
        }
    }

    /// Of which record.
    pub fn record(&self) -> RecordId {
        self.record
    }

    /// Length of the payload in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it takes in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.pieces.0.iter().map(|level| level.len().saturating_mul(blake3::OUT_LEN)).sum()
    }

    /// Appends the slice that starts at `offset`, with its proof. `piece` is the payload from there on, 1 MiB or to its
    /// end; it is hashed first, and other bytes than the record's are refused.
    pub fn slice(&self, offset: u64, piece: &[u8], encoded: &mut Vec<u8>) -> Result<(), BaoError> {
        let (record, bytes) = (self.record, self.bytes);
        let ranges = slice_ranges(bytes, offset)?;
        if piece.len() as u64 != SLICE_BYTES_MAX.min(bytes.saturating_sub(offset)) {
            return Err(BaoError::Range { bytes, offset });
        }
        let wrong = |reason: String| BaoError::Wrong { record, offset, reason };
        let inside = self.inside(offset, piece).ok_or_else(|| wrong("the file was changed".into()))?;
        let nodes = Nodes { outline: self, offset, inside: &inside };
        encoded.reserve(piece.len().saturating_add(PROOF_BYTES_MAX));
        encode_ranges(Window { offset, bytes: piece }, nodes, &ranges, encoded)
            .map_err(|error| wrong(error.to_string()))
    }

    /// The chaining values inside one MiB, if it is the one that belongs there.
    fn inside(&self, offset: u64, piece: &[u8]) -> Option<Levels> {
        if self.bytes <= BLOCK_BYTES as u64 {
            return (blake3::hash(piece) == root(&self.record)).then(Levels::default);
        }
        let starts = (offset..).step_by(BLOCK_BYTES);
        let blocks = piece.chunks(BLOCK_BYTES).zip(starts).map(|(block, start)| value_at(start, block));
        let inside = Levels::above(blocks.collect());
        let is_right = match self.pieces.0.first() {
            None => inside.root().is_some_and(|found| found == root(&self.record)),
            Some(pieces) => {
                let index = usize::try_from(offset / SLICE_BYTES_MAX).ok()?;
                inside.top() == pieces.get(index)
            }
        };
        is_right.then_some(inside)
    }
}

/// Makes an outline while a payload goes by, and with it the payload's name.
#[derive(Default)]
pub struct Outliner {
    pieces: Vec<ChainingValue>,
    hasher: blake3::Hasher,
    /// Bytes of the MiB that is being hashed.
    filled: u64,
}

impl Outliner {
    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == SLICE_BYTES_MAX {
                self.next_piece();
            }
            let room = usize::try_from(SLICE_BYTES_MAX.saturating_sub(self.filled)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.filled = self.filled.saturating_add(now.len() as u64);
            bytes = later;
        }
    }

    fn next_piece(&mut self) {
        self.pieces.push(self.hasher.finalize_non_root());
        // A new one: `reset` of blake3 1.8 forgets the counter and not the offset it began with.
        self.hasher = blake3::Hasher::new();
        self.hasher.set_input_offset((self.pieces.len() as u64).saturating_mul(SLICE_BYTES_MAX));
        self.filled = 0;
    }

    /// The outline of all bytes.
    pub fn finish(mut self) -> Outline {
        let bytes = (self.pieces.len() as u64).saturating_mul(SLICE_BYTES_MAX).saturating_add(self.filled);
        if self.pieces.is_empty() {
            return Outline::of_small(self.hasher.finalize().into(), bytes);
        }
        self.pieces.push(self.hasher.finalize_non_root());
        let pieces = Levels::above(self.pieces);
        // Two pieces at least have a root.
        let record = pieces.root().map_or_else(|| RecordId::from([0; 32]), RecordId::from);
        Outline { record, bytes, pieces }
    }
}

/// The chaining value of the MiB that starts at `offset`, of a payload longer than 1 MiB. `piece` is that MiB, or what
/// there is of the last one; never empty.
pub fn piece_value(offset: u64, piece: &[u8]) -> ChainingValue {
    value_at(offset, piece)
}

fn value_at(offset: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}

/// The hash of more than 1 MiB, from the chaining values of its MiBs; `None` for fewer than two.
pub fn hash_of(pieces: Vec<ChainingValue>) -> Option<Digest> {
    Levels::above(pieces).root().map(Digest::from)
}

/// Chaining values of equal subtrees side by side, then of each two of them, up to one over all. A last one without a
/// neighbour goes up as it is: BLAKE3's left subtrees are full, and its right edge is not.
#[derive(Debug, Default)]
struct Levels(Vec<Vec<ChainingValue>>);

impl Levels {
    fn above(lowest: Vec<ChainingValue>) -> Self {
        let mut levels = vec![lowest];
        while let Some(below) = levels.last().filter(|below| below.len() > 1) {
            let merged = below.chunks(2).filter_map(|pair| match pair {
                [left, right] => Some(merge_subtrees_non_root(left, right, Mode::Hash)),
                [alone] => Some(*alone),
                _ => None,
            });
            let merged = merged.collect();
            levels.push(merged);
        }
        Self(levels)
    }

    /// The subtree over units `from..to`, of which the last may be missing at the right edge.
    fn value(&self, from: u64, to: u64) -> Option<ChainingValue> {
        let level = to.checked_sub(from)?.checked_next_power_of_two()?.trailing_zeros();
        let index = usize::try_from(from >> level).ok()?;
        self.0.get(level as usize)?.get(index).copied()
    }

    /// The one over all.
    fn top(&self) -> Option<&ChainingValue> {
        self.0.last()?.first()
    }

    /// The hash of all, if that is two subtrees at least.
    fn root(&self) -> Option<blake3::Hash> {
        match self.0.get(self.0.len().checked_sub(2)?)?.as_slice() {
            [left, right] => Some(merge_subtrees_root(left, right, Mode::Hash)),
            _ => None,
        }
    }
}

/// The nodes above and inside one MiB, as bao-tree asks for them.
struct Nodes<'a> {
    outline: &'a Outline,
    offset: u64,
    inside: &'a Levels,
}

impl Outboard for Nodes<'_> {
    fn root(&self) -> blake3::Hash {
        root(&self.outline.record)
    }

    fn tree(&self) -> BaoTree {
        BaoTree::new(self.outline.bytes, BLOCK)
    }

    fn load(&self, node: TreeNode) -> io::Result<Option<(blake3::Hash, blake3::Hash)>> {
        let chunks = node.chunk_range();
        let (from, to) = (chunks.start.0, chunks.end.0.min(self.tree().chunks().0));
        let middle = from.midpoint(chunks.end.0);
        let inside = middle.saturating_sub(from) < PIECE_CHUNKS;
        let (levels, unit, first) = match inside {
            true => (self.inside, BLOCK_CHUNKS, self.offset / BLOCK_BYTES as u64),
            false => (&self.outline.pieces, PIECE_CHUNKS, 0),
        };
        let value = |from: u64, to: u64| {
            let from = (from / unit).checked_sub(first)?;
            levels.value(from, to.div_ceil(unit).checked_sub(first)?)
        };
        let pair = value(from, middle).zip(value(middle, to));
        Ok(pair.map(|(left, right)| (left.into(), right.into())))
    }
}

/// A part of a payload in memory, read at the offsets of the whole.
struct Window<'a> {
    offset: u64,
    bytes: &'a [u8],
}

impl ReadAt for Window<'_> {
    fn read_at(&self, pos: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = pos.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        let rest = start.and_then(|start| self.bytes.get(start..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        let (to, from) = (buffer.get_mut(..count), rest.get(..count));
        if let (Some(to), Some(from)) = (to, from) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }
}

impl Size for Window<'_> {
    fn size(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.offset.saturating_add(self.bytes.len() as u64)))
    }
}

/// Checks a slice against the record's name; `plain` then holds its payload bytes and nothing else.
pub fn verify_slice(
    record: RecordId,
    bytes: u64,
    offset: u64,
    encoded: &[u8],
    plain: &mut Vec<u8>,
) -> Result<(), BaoError> {
    let ranges = slice_ranges(bytes, offset)?;
    let tree = BaoTree::new(bytes, BLOCK);
    plain.clear();
    let mut rest = encoded;
    decode_ranges(
        &mut rest,
        &ranges,
        At { offset, bytes: plain },
        EmptyOutboard { tree, root: root(&record) },
    )
    .map_err(|error| BaoError::Wrong { record, offset, reason: error.to_string() })?;
    if !rest.is_empty() {
        return Err(BaoError::Wrong { record, offset, reason: format!("{} bytes too many", rest.len()) });
    }
    Ok(())
}

fn root(record: &RecordId) -> blake3::Hash {
    blake3::Hash::from_bytes(*record.as_bytes())
}

fn slice_ranges(bytes: u64, offset: u64) -> Result<ChunkRanges, BaoError> {
    let aligned = offset.is_multiple_of(SLICE_BYTES_MAX);
    if !aligned || (offset >= bytes && bytes > 0) {
        return Err(BaoError::Range { bytes, offset });
    }
    let end = bytes.min(offset.saturating_add(SLICE_BYTES_MAX));
    Ok(bao_tree::io::round_up_to_chunks(&ByteRanges::from(offset..end)))
}

/// A window of a file in memory: what is written at `offset` lands at its beginning. A slice is decoded from its
/// beginning to its end, so each write continues the one before.
struct At<'a> {
    offset: u64,
    bytes: &'a mut Vec<u8>,
}

impl WriteAt for At<'_> {
    fn write_at(&mut self, pos: u64, buf: &[u8]) -> io::Result<usize> {
        let end = self.bytes.len().saturating_add(buf.len());
        if pos.checked_sub(self.offset) != Some(self.bytes.len() as u64) || end as u64 > SLICE_BYTES_MAX {
            return Err(io::Error::other("a slice wrote outside itself"));
        }
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::io::outboard::PreOrderMemOutboard;

    const MIB: usize = 1 << 20;

    fn payload(bytes: usize) -> (RecordId, Vec<u8>) {
        let payload: Vec<u8> = (0..=250u8).cycle().take(bytes).collect();
        (blake3::hash(&payload).into(), payload)
    }

    fn outline(record: RecordId, payload: &[u8]) -> Outline {
        let pieces = payload.chunks(MIB).zip((0..).step_by(MIB));
        let pieces = pieces.map(|(piece, offset)| piece_value(offset, piece)).collect();
        Outline::of(record, payload.len() as u64, pieces).expect("the values make up the record")
    }

    #[test]
    fn slices_of_every_size_come_back_whole_and_refuse_a_changed_byte() {
        for bytes in [1, 1024, 16 * 1024, 16 * 1024 + 1, MIB, MIB + 1, 3 * MIB + 77, 5 * MIB, 8 * MIB] {
            let (record, payload) = payload(bytes);
            let outline = outline(record, &payload);
            let mut joined: Vec<u8> = Vec::new();
            for (piece, offset) in payload.chunks(MIB).zip((0..).step_by(MIB)) {
                let (mut slice, mut plain) = (Vec::new(), Vec::new());
                outline.slice(offset, piece, &mut slice).expect("encodes");
                verify_slice(record, bytes as u64, offset, &slice, &mut plain).expect("verifies");
                joined.extend(plain.iter());
                let middle = slice.len() / 2;
                slice[middle] ^= 1;
                let refused = verify_slice(record, bytes as u64, offset, &slice, &mut plain);
                assert!(refused.is_err(), "{bytes} at {offset}");
            }
            assert_eq!(joined, payload, "{bytes} bytes");
        }
    }

    /// An outline gives byte for byte what bao-tree gives with a tree of all chunk groups.
    #[test]
    fn slices_are_those_of_bao_tree() {
        for bytes in
            [1, 16 * 1024 + 1, 700_001, MIB, MIB + 1, 2 * MIB, 2 * MIB + 5, 7 * MIB + 20_000, 9 * MIB]
        {
            let (record, payload) = payload(bytes);
            let outline = outline(record, &payload);
            let mut outliner = Outliner::default();
            payload.chunks(70_000).for_each(|part| outliner.update(part));
            let made = outliner.finish();
            assert_eq!((made.record(), made.bytes()), (record, bytes as u64), "made as it goes by");
            assert_eq!(made.pieces.0, outline.pieces.0, "{bytes} bytes");
            let whole = PreOrderMemOutboard::create(&payload, BLOCK);
            for (piece, offset) in payload.chunks(MIB).zip((0..).step_by(MIB)) {
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                outline.slice(offset, piece, &mut ours).expect("encodes");
                let ranges = slice_ranges(bytes as u64, offset).expect("within");
                encode_ranges(payload.as_slice(), &whole, &ranges, &mut theirs).expect("encodes");
                assert!(ours == theirs, "{bytes} bytes at {offset}");
            }
        }
    }

    #[test]
    fn what_the_disk_changed_is_not_sent() {
        let (record, mut payload) = payload(3 * MIB);
        let outline = outline(record, &payload);
        payload[MIB + 7] ^= 1;
        let mut out = Vec::new();
        assert!(outline.slice(0, &payload[..MIB], &mut out).is_ok());
        assert!(matches!(
            outline.slice(MIB as u64, &payload[MIB..2 * MIB], &mut out),
            Err(BaoError::Wrong { offset, .. }) if offset == MIB as u64
        ));
        let mut pieces: Vec<_> = vec![[1; 32]; 3];
        assert!(Outline::of(record, 3 << 20, pieces.clone()).is_err(), "other values");
        pieces.clear();
        assert!(Outline::of(record, 3 << 20, pieces).is_err(), "no values");
    }
}
