//! What the parts in a folder hold, so that a later backup adds only what is new.
//!
//! For: the node that writes them; it is sealed under a key of its store. Not for restoring: parts speak for themselves,
//! and a backup whose index is lost is whole.

use super::{Row, damaged, part_path};
use crate::failure::Failure;
use crate::keystore::Keys;
use crate::store::Sealer;
use karte_protocol::encoding;
use karte_protocol::id::{ObjectId, PartyId, RecordId};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const FILE: &str = "index";
const AAD: &[u8] = b"karte v1 backup index";
/// Largest index, in bytes. 1 GiB: ten million rows of some 100 bytes.
const INDEX_BYTES_MAX: usize = 1 << 30;

pub(super) type Key = (u8, ByteBuf, ByteBuf);
/// The beginning of the blake3 of a value: enough to see that it changed.
pub(super) type Mark = [u8; 16];

#[derive(Default)]
pub(super) struct Index {
    pub(super) parts: Vec<Part>,
    pub(super) rows: BTreeMap<Key, Mark>,
    pub(super) payloads: BTreeSet<RecordId>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// Length of its age file.
    pub(super) bytes: u64,
    /// Its signed list.
    pub(super) list: ObjectId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u8,
    party: PartyId,
    parts: Vec<Part>,
    rows: Vec<(u8, ByteBuf, ByteBuf, ByteArray<16>)>,
    payloads: Vec<RecordId>,
}

pub(super) fn mark(value: &[u8]) -> Mark {
    let hash: [u8; 32] = blake3::hash(value).into();
    let mut mark = [0; 16];
    mark.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    mark
}

pub(super) fn key(row: &Row) -> Key {
    (row.0, row.1.clone(), row.2.clone())
}

impl Index {
    /// Opens it, and sees that its parts are there.
    pub(super) fn open(folder: &Path, keys: &Keys, party: PartyId) -> Result<Self, Failure> {
        let next = "Choose another folder: this one stays as it is.";
        let sealed = match std::fs::read(folder.join(FILE)) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let others = part_path(folder, 1).exists();
                return match others {
                    true => Err(Failure::usage("the folder holds parts of a backup and no index").next(next)),
                    false => Ok(Self::default()),
                };
            }
            Err(error) => return Err(super::not_written(error)),
        };
        let form = sealer(keys)
            .open(AAD, &sealed)
            .and_then(|plain| encoding::decode::<Form>(&plain, INDEX_BYTES_MAX).ok())
            .filter(|form| form.version == super::VERSION && form.party == party)
            .ok_or_else(|| Failure::usage("the folder holds a backup of another node").next(next))?;
        for (number, part) in (1..).zip(&form.parts) {
            let found = std::fs::metadata(part_path(folder, number)).map(|found| found.len()).unwrap_or(0);
            if found != part.bytes {
                return Err(damaged(format!(
                    "part {number} of the backup in this folder is not what was written"
                ))
                .next(next));
            }
        }
        Ok(Self {
            parts: form.parts,
            rows: form.rows.into_iter().map(|(t, p, i, mark)| ((t, p, i), mark.into_array())).collect(),
            payloads: form.payloads.into_iter().collect(),
        })
    }

    /// Replaces it.
    pub(super) fn save(self, folder: &Path, keys: &Keys, party: PartyId) -> Result<(), Failure> {
        let form = Form {
            version: super::VERSION,
            party,
            parts: self.parts,
            rows: self.rows.into_iter().map(|((t, p, i), mark)| (t, p, i, ByteArray::new(mark))).collect(),
            payloads: self.payloads.into_iter().collect(),
        };
        let plain = zeroize::Zeroizing::new(encoding::encode(&form)?);
        let sealed = sealer(keys).seal(AAD, &plain)?;
        crate::keystore::replace_file(&folder.join(FILE), &sealed).map_err(super::not_written)
    }
}

fn sealer(keys: &Keys) -> Sealer {
    Sealer::new(&blake3::derive_key("karte v1 backup index key", keys.store.as_ref()))
}
