//! The signed list of what a part of a backup holds.
//!
//! For: the shape. What a backup is made of, and how it is read, is the node's.

use crate::id::{Digest, ObjectId};
use crate::signed::Statement;
use crate::time::UnixMs;
use serde::{Deserialize, Serialize};

/// "This part of a backup holds exactly this." Signed by the device that made it; no entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupList {
    /// Number of the part, from 1. Each part adds to the ones before.
    pub part: u32,
    /// The list of the part before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<ObjectId>,
    /// blake3 of the list: `dag-cbor [[name, bytes, blake3]..]`, in the order in which things lie in the part.
    pub list: Digest,
    /// When the part was made, by the clock of that device.
    pub at_ms: UnixMs,
}

impl Statement for BackupList {
    const KIND: &'static str = "backup-list";
}
