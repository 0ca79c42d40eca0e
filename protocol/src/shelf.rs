//! Shelves: append-only chains of signed segments that hand over file keys.
//!
//! ```text
//! segment  = signed { shelf, seq, prev, records (<= 1,000), withdrawn, keys_hash }     open list of ids
//! keys     = age file to the shelf's recipient: [ { record, bytes, file_key, label_hash, rank } … ]
//! ```
//! One key agreement a segment, not one a record. One shelf per (grant, accept, holder device); a party's own
//! shelf is sealed to its library key and hands its whole library to its own devices and its recovery.

use crate::encoding::{self, EncodingError};
use crate::id::{DeviceId, Digest, GrantId, ObjectId, RecordId, digest};
use crate::keys::{Recipient, SealingKey};
use crate::limits::{DEVICES_MAX, RECORD_BYTES_MAX, SEGMENT_KEYS_BYTES_MAX, SEGMENT_RECORDS_MAX};
use crate::rank::ORDINARY;
use crate::seal::{self, FILE_KEY_BYTES, FileKey, SealError};
use crate::signed::Statement;
use crate::time::UnixMs;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Which shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Shelf {
    /// A reader's, under a grant it accepted.
    Granted {
        /// The grant.
        grant: GrantId,
        /// The acceptance whose reading key it is sealed to.
        accept: ObjectId,
    },
    /// The party's own, sealed to its library key number `library`.
    Own {
        /// [`crate::consent::Library::n`].
        library: u32,
    },
}

/// One link of a shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Which shelf.
    pub shelf: Shelf,
    /// Position, from 0.
    pub seq: u64,
    /// The segment before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<ObjectId>,
    /// Records that this segment adds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordId>,
    /// Records that are no longer handed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<RecordId>,
    /// blake3 of the age file beside it.
    pub keys_hash: Digest,
}

impl Statement for Segment {
    const KIND: &'static str = "segment";
    fn check(&self) -> Result<(), &'static str> {
        if self.records.len() + self.withdrawn.len() > SEGMENT_RECORDS_MAX {
            return Err("expected at most 1,000 records in a segment");
        }
        Ok(())
    }
}

/// Completeness as of a moment: all chains of a shelf and their last segments. A reader refuses an older one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShelfHead {
    /// The grant.
    pub grant: GrantId,
    /// The acceptance.
    pub accept: ObjectId,
    /// One chain per holder device.
    pub chains: Vec<Chain>,
    /// When it was said.
    pub issued_ms: UnixMs,
}

/// The end of one device's chain of segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// The holder's device.
    pub device: DeviceId,
    /// Segments in the chain.
    pub segments: u64,
    /// The last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ObjectId>,
}

impl Statement for ShelfHead {
    const KIND: &'static str = "shelf-head";
    fn check(&self) -> Result<(), &'static str> {
        if self.chains.len() > DEVICES_MAX {
            return Err("expected at most 64 chains");
        }
        Ok(())
    }
}

/// What a shelf hands over for one record.
#[derive(Clone)]
pub struct Handed {
    /// The record.
    pub record: RecordId,
    /// Length of its payload in bytes.
    pub bytes: u64,
    /// What opens it.
    pub file_key: FileKey,
    /// blake3 of its sealed label.
    pub label_hash: Digest,
    /// Order of use: what has a lower one is fetched first ([`crate::rank`]).
    pub rank: u8,
}

/// The encoded form of [`Handed`]. Lives only between decoding and [`FileKey`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HandedWire {
    record: RecordId,
    bytes: u64,
    file_key: serde_bytes::ByteArray<FILE_KEY_BYTES>,
    label_hash: Digest,
    /// Absent: ordinary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rank: Option<u8>,
}

/// Why a segment's keys were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The age file is not the one the segment names.
    #[error("the keys of segment {seq} are not the ones it was signed with")]
    KeysHash {
        /// Position of the segment.
        seq: u64,
    },
    /// Open list and keys differ.
    #[error("segment {seq} lists {listed} records and hands over {handed} keys")]
    Mismatch {
        /// Position of the segment.
        seq: u64,
        /// Records in the open list.
        listed: usize,
        /// Keys in the age file.
        handed: usize,
    },
    /// A payload longer than a record may be.
    #[error("segment {seq} names a payload that is longer than a record may be")]
    Length {
        /// Position of the segment.
        seq: u64,
    },
    /// Does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Wrong shape inside.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
}

/// Seals the keys of a segment. Its hash goes into [`Segment::keys_hash`].
pub fn seal_keys(handed: &[Handed], to: &[Recipient]) -> Result<Vec<u8>, ShelfError> {
    let wire: Vec<HandedWire> = handed
        .iter()
        .map(|item| HandedWire {
            record: item.record,
            bytes: item.bytes,
            file_key: serde_bytes::ByteArray::new(*item.file_key.expose_bytes()),
            label_hash: item.label_hash,
            rank: Some(item.rank).filter(|rank| *rank != ORDINARY),
        })
        .collect();
    let plaintext = Zeroizing::new(encoding::encode(&wire)?);
    Ok(seal::seal_to(&plaintext, to)?)
}

/// Opens the keys of a segment with any of `keys`, and compares them with its open list.
pub fn open_keys(segment: &Segment, sealed: &[u8], keys: &[&SealingKey]) -> Result<Vec<Handed>, ShelfError> {
    if digest(sealed) != segment.keys_hash {
        return Err(ShelfError::KeysHash { seq: segment.seq });
    }
    read_keys(segment, &seal::open_with(sealed, keys, SEGMENT_KEYS_BYTES_MAX)?)
}

/// Reads what was sealed beside a segment (`segment-keys` in SPEC), and compares it with the segment's open list.
pub fn read_keys(segment: &Segment, plaintext: &[u8]) -> Result<Vec<Handed>, ShelfError> {
    let wire: Vec<HandedWire> = encoding::decode(plaintext, SEGMENT_KEYS_BYTES_MAX)?;
    if !wire.iter().map(|item| &item.record).eq(&segment.records) {
        return Err(ShelfError::Mismatch {
            seq: segment.seq,
            listed: segment.records.len(),
            handed: wire.len(),
        });
    }
    // There is one way to say it.
    if wire.iter().any(|item| item.rank == Some(ORDINARY)) {
        return Err(EncodingError::NotCanonical { what: "rank" }.into());
    }
    // A payload is longer than its plaintext by less than a thousandth.
    if wire.iter().any(|item| item.bytes > 2 * RECORD_BYTES_MAX) {
        return Err(ShelfError::Length { seq: segment.seq });
    }
    Ok(wire
        .into_iter()
        .map(|item| Handed {
            record: item.record,
            bytes: item.bytes,
            file_key: FileKey::from_bytes(&item.file_key.into_array()),
            label_hash: item.label_hash,
            rank: item.rank.unwrap_or(ORDINARY),
        })
        .collect())
}
