//! Verified slices: a part of a payload that proves itself against its RecordId, before the rest is there.
//!
//! A slice is a range of whole chunk groups (16 KiB) with the tree nodes that lead to the root: the encoding
//! of bao-tree 0.17. A wrong byte is found within the slice it came in, at most 1 MiB.

use crate::id::RecordId;
use crate::limits::SLICE_BYTES_MAX;
use bao_tree::io::outboard::{EmptyOutboard, PreOrderMemOutboard};
use bao_tree::io::sync::{ReadAt, Size, WriteAt, decode_ranges, encode_ranges_validated};
use bao_tree::{BaoTree, BlockSize, ByteRanges, ChunkRanges};
use std::io;

/// Chunk groups of 16 KiB: 4,032 bytes of proof a MiB, and 64 for each level above.
const BLOCK: BlockSize = BlockSize::from_chunk_log(4);

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

/// The tree of a payload, to make slices from: 64 bytes for each 16 KiB.
pub struct Tree {
    record: RecordId,
    bytes: u64,
    outboard: PreOrderMemOutboard,
}

impl Tree {
    /// Hashes the payload once.
    pub fn of(record: RecordId, bytes: u64, payload: impl io::Read) -> Result<Self, BaoError> {
        let tree = BaoTree::new(bytes, BLOCK);
        let size = usize::try_from(tree.outboard_size()).map_err(|_| BaoError::Range { bytes, offset: 0 })?;
        let mut outboard = PreOrderMemOutboard { root: root(&record), tree, data: vec![0; size] };
        let found = bao_tree::io::sync::outboard(payload, tree, &mut outboard)?;
        if found != root(&record) {
            return Err(BaoError::Wrong { record, offset: 0, reason: "the file was changed".into() });
        }
        Ok(Self { record, bytes, outboard })
    }

    /// The slice of at most 1 MiB that starts at `offset`, with its proof. `payload` is the whole payload.
    pub fn slice(&self, offset: u64, payload: impl ReadAt + Size) -> Result<Vec<u8>, BaoError> {
        let ranges = slice_ranges(self.bytes, offset)?;
        let mut encoded = Vec::new();
        encode_ranges_validated(payload, &self.outboard, &ranges, &mut encoded)
            .map_err(|error| BaoError::Wrong { record: self.record, offset, reason: error.to_string() })?;
        Ok(encoded)
    }
}

/// Checks a slice against the record's name and gives its plain payload bytes.
pub fn verify_slice(record: RecordId, bytes: u64, offset: u64, encoded: &[u8]) -> Result<Vec<u8>, BaoError> {
    let ranges = slice_ranges(bytes, offset)?;
    let tree = BaoTree::new(bytes, BLOCK);
    let mut target = At { offset, bytes: Vec::new() };
    let mut rest = encoded;
    decode_ranges(&mut rest, &ranges, &mut target, EmptyOutboard { tree, root: root(&record) })
        .map_err(|error| BaoError::Wrong { record, offset, reason: error.to_string() })?;
    if !rest.is_empty() {
        return Err(BaoError::Wrong { record, offset, reason: format!("{} bytes too many", rest.len()) });
    }
    Ok(target.bytes)
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

/// A window of a file in memory: what is written at `offset` lands at its beginning.
struct At {
    offset: u64,
    bytes: Vec<u8>,
}

impl WriteAt for At {
    fn write_at(&mut self, pos: u64, buf: &[u8]) -> io::Result<usize> {
        let outside = || io::Error::other("a slice wrote outside itself");
        let start =
            usize::try_from(pos.checked_sub(self.offset).ok_or_else(outside)?).map_err(|_| outside())?;
        let end = start.checked_add(buf.len()).ok_or_else(outside)?;
        if end as u64 > SLICE_BYTES_MAX {
            return Err(outside());
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(start..end).ok_or_else(outside)?.copy_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(bytes: usize) -> (RecordId, Vec<u8>) {
        let payload: Vec<u8> = (0..=250u8).cycle().take(bytes).collect();
        (blake3::hash(&payload).into(), payload)
    }

    #[test]
    fn slices_of_every_size_come_back_whole_and_refuse_a_changed_byte() {
        for bytes in [1, 1024, 16 * 1024, 16 * 1024 + 1, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 77] {
            let (record, payload) = payload(bytes);
            let tree = Tree::of(record, bytes as u64, &payload[..]).expect("hashes");
            let mut joined = Vec::new();
            for offset in (0..bytes as u64).step_by(1 << 20) {
                let mut slice = tree.slice(offset, &payload[..]).expect("encodes");
                joined.extend(verify_slice(record, bytes as u64, offset, &slice).expect("verifies"));
                let middle = slice.len() / 2;
                slice[middle] ^= 1;
                assert!(verify_slice(record, bytes as u64, offset, &slice).is_err(), "{bytes} at {offset}");
            }
            assert_eq!(joined, payload, "{bytes} bytes");
        }
    }
}
