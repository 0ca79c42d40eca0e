//! Rows: what the engine keeps in the store, and under which names.
//!
//! Every row is canonical CBOR of one of these structs; the store seals them. Rows of received records are
//! sealed once more under a key of their grant's reading key, so that they die with it.

use crate::store::Table;
use karte_protocol::entry::RecoverTerms;
use karte_protocol::grant::Opening;
use karte_protocol::id::{DeviceId, Digest, GrantId, ObjectId, PartyId, RecordId, Salt};
use karte_protocol::keys::Recipient;
use karte_protocol::message::{Answer, Bytes};
use karte_protocol::own::INVITE_SECRET_BYTES;
use karte_protocol::rank::ORDINARY;
use karte_protocol::recovery::Approval;
use karte_protocol::seal::{FILE_KEY_BYTES, FileKey};
use karte_protocol::shelf::Handed;
use karte_protocol::time::UnixMs;
use serde::{Deserialize, Serialize};

/// party → entry id → COSE bytes.
pub(super) const ENTRIES: Table = Table(1);
/// "" → party → [`ContactRow`].
pub(super) const CONTACTS: Table = Table(2);
/// "" → grant → [`GivenRow`].
pub(super) const GIVEN: Table = Table(3);
/// "" → grant → [`GotRow`].
pub(super) const GOT: Table = Table(4);
/// "" → record → [`OwnRow`].
pub(super) const OWN: Table = Table(5);
/// "" → own record → sealed label; grant → received record → sealed label.
pub(super) const LABELS: Table = Table(6);
/// subject → plaintext hash → record id.
pub(super) const KNOWN: Table = Table(7);
/// grant → record → segment number (8 bytes, big-endian). The holder's side.
pub(super) const SHELVED: Table = Table(8);
/// grant, or "own" → segment number → CBOR of `SegmentAndKeys`.
pub(super) const SEGMENTS: Table = Table(9);
/// grant → record → [`ReceivedRow`], sealed under the grant. The reader's side.
pub(super) const RECEIVED: Table = Table(10);
/// record → grant → "". Which grants a received record came under.
pub(super) const CAME_BY: Table = Table(11);
/// grant → release id → COSE bytes. The audit of the holder.
pub(super) const RELEASES: Table = Table(12);
/// grant → receipt id → COSE bytes. Of readers, at the holder; own ones, at the reader.
pub(super) const RECEIPTS: Table = Table(13);
/// party → receipt id → grant. Own receipts that the holder has not confirmed.
pub(super) const OUTBOX: Table = Table(14);
/// "" → number → [`RefusalRow`]. Requests that were denied, for the holder's own user.
pub(super) const REFUSALS: Table = Table(15);
/// "" → name → value. What is there once.
pub(super) const META: Table = Table(16);
/// "" → party → COSE bytes of its newest passing device-signed Status, at most some minutes old. Journaled, unlike
/// what the design page says: after a power cut a reader goes on reading within its offline limit.
pub(super) const HEARD: Table = Table(18);
/// record → grant → "". Under which ended grant a record was readable, to say so; ids only.
pub(super) const GONE: Table = Table(17);

/// "" → record → "". Records whose payload or label was found lost, until they are back.
pub(super) const LOST: Table = Table(19);
/// subject → [`source_key`] → the newest record of that source.
pub(super) const SOURCES: Table = Table(20);
/// "" → record → the record that took its place.
pub(super) const REPLACED: Table = Table(21);
/// "" → blake3 of its secret → [`InviteRow`]. Invitations of new devices, until they run out.
pub(super) const INVITES: Table = Table(22);
/// "" → number (8 bytes, big-endian) → [`super::devices::Place`]. What other devices of this party are to be told.
pub(super) const FEED: Table = Table(23);
/// What is known of single devices: device → name → value ([`DEVICE_ADDRESSES`], …). Beside them [`PENDING`] →
/// record → [`ReceivedRow`]: own records that another device has and this one lacks; and [`FORGOTTEN`] → party →
/// when the contact was removed.
pub(super) const DEVICES: Table = Table(24);
/// "" → holder → [`KeepingRow`]. For whom this node is a steward.
pub(super) const KEEPING: Table = Table(25);
/// holder → grant → [`KeptRow`].
pub(super) const KEPT: Table = Table(26);
/// grant, or holder: its own shelf → segment number → CBOR of `SegmentAndKeys`.
pub(super) const KEPT_SEGMENTS: Table = Table(27);
/// grant, or holder: its own shelf → record → "".
pub(super) const KEPT_SHELVED: Table = Table(28);
/// holder → record → [`KeptRecordRow`].
pub(super) const KEPT_RECORDS: Table = Table(29);
/// record → holder → "".
pub(super) const KEPT_FOR: Table = Table(30);
/// "" → request id → [`SentRow`]. Requests of this party.
pub(super) const SENT_REQUESTS: Table = Table(31);
/// "" → request id → [`AskedRow`]. Requests to this party.
pub(super) const ASKED: Table = Table(32);
/// "" → party → [`KeptKeyRow`]. Recovery keys that are kept here for other parties.
pub(super) const KEPT_KEYS: Table = Table(34);
/// "" → party → [`KeeperRow`]. Whom this party asked to keep a recovery key for it.
pub(super) const KEEPERS: Table = Table(35);
/// The highest table.
pub(super) const TABLE_MAX: u8 = 35;

/// Where the version of the rows is kept, in [`META`].
pub(super) const VERSION_ROW: &[u8] = b"version of rows";
/// The version of the rows. 2: recovery keys; 3: ranks. To be raised when a row changes so that an older karte would misread or
/// refuse it as damage. A folder without the row is of version 1.
pub(super) const VERSION: u32 = 3;

/// In [`DEVICES`]: [`AddressRow`], by the device's own Hello.
pub(super) const DEVICE_ADDRESSES: &[u8] = b"addresses";
/// In [`DEVICES`]: how far this device has taken what that one tells: a number.
pub(super) const DEVICE_CURSOR: &[u8] = b"cursor";
/// In [`DEVICES`]: how far that device's chain of the own shelf is held: segments, and the last one.
pub(super) const DEVICE_SHELF: &[u8] = b"shelf";
/// In [`DEVICES`]: when a device of the own party was last heard.
pub(super) const DEVICE_HEARD: &[u8] = b"heard";
/// A parent in [`DEVICES`]; no device has so short a name.
pub(super) const PENDING: &[u8] = b"pending";
/// A parent in [`DEVICES`].
pub(super) const FORGOTTEN: &[u8] = b"forgotten";

/// The parent of rows that have none.
pub(super) const TOP: &[u8] = b"";
/// The parent of the own shelf's segments: of this device's chain; of another's, its id follows.
pub(super) const OWN_SHELF: &[u8] = b"own";

/// Where another device's chain of the own shelf is kept.
pub(super) fn own_shelf_of(device: &DeviceId) -> Vec<u8> {
    [OWN_SHELF, device.as_bytes()].concat()
}

/// Where one holder device's chain of a received shelf is kept.
pub(super) fn shelf_of(grant: &GrantId, device: &DeviceId) -> Vec<u8> {
    [grant.as_bytes(), device.as_bytes().as_slice()].concat()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ContactRow {
    pub alias: String,
    /// COSE bytes of its newest card.
    pub card: Bytes,
    /// `known` by the own user's word, or `pending`: it knocked.
    pub known: bool,
    pub since_ms: UnixMs,
    /// When its own user last decided about it: of two devices' decisions the later counts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed_ms: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddressRow {
    pub addresses: Vec<String>,
    /// When the card said so, by that device's clock.
    pub at_ms: UnixMs,
}

/// Its secret is sealed with the store like every row.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InviteRow {
    pub secret: serde_bytes::ByteArray<INVITE_SECRET_BYTES>,
    pub until_ms: UnixMs,
    /// The one device it let in. Kept until it runs out, so that an answer that was lost is given again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<DeviceId>,
}

/// How far one holder device's chain of a received shelf is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChainRow {
    pub device: DeviceId,
    pub segments: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ObjectId>,
    /// When its newest ShelfHead was issued; an older one is a rollback.
    pub head_ms: UnixMs,
}

fn is_zero(ms: &UnixMs) -> bool {
    *ms == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenRow {
    pub opening: Opening,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The reader has confirmed the offer.
    pub delivered: bool,
    /// COSE bytes of the Accept that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Bytes>,
    pub segments: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ObjectId>,
    /// Handed back by its reader after everything was lost: what was held back from it is not known any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed_back: bool,
    pub at_ms: UnixMs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GotState {
    Offered,
    Accepted,
    Declined,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GotRow {
    pub opening: Opening,
    pub holder: PartyId,
    pub state: GotState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Bytes>,
    /// The holder has confirmed the acceptance.
    pub delivered: bool,
    pub adopt: bool,
    /// Of the one chain there was before a holder could have several devices; moved into `chains` at the next start.
    pub segments: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ObjectId>,
    pub head_ms: UnixMs,
    /// By holder device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<ChainRow>,
    /// This device's own chain of receipts: how many, and the last.
    pub receipts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_last: Option<ObjectId>,
    /// Why it ended, in words.
    pub ended: String,
    pub at_ms: UnixMs,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnRow {
    pub file_key: serde_bytes::ByteArray<FILE_KEY_BYTES>,
    pub payload_bytes: u64,
    pub label: Bytes,
    pub label_hash: Digest,
    pub at_ms: UnixMs,
    /// The grant it was adopted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<GrantId>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReceivedRow {
    pub file_key: serde_bytes::ByteArray<FILE_KEY_BYTES>,
    pub payload_bytes: u64,
    pub label_hash: Digest,
    /// COSE bytes, once label and payload are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Bytes>,
    /// Outside the grant's scope, or of an author whose signature cannot be traced: kept from sight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
    pub at_ms: UnixMs,
    /// Order of use, while it is not here. Absent: ordinary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentRow {
    /// COSE bytes of the request.
    pub request: Bytes,
    /// The other side has it.
    pub delivered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    pub at_ms: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedRow {
    /// COSE bytes of the request.
    pub request: Bytes,
    pub from: PartyId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// The asker has confirmed the answer.
    pub told: bool,
    pub at_ms: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefusalRow {
    pub at_ms: UnixMs,
    pub party: PartyId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    pub reason: String,
}

impl GotRow {
    /// One that nobody has answered yet.
    pub(super) fn offered(opening: Opening, holder: PartyId, at_ms: UnixMs) -> Self {
        Self {
            opening,
            holder,
            state: GotState::Offered,
            accept: None,
            delivered: false,
            adopt: false,
            segments: 0,
            last: None,
            head_ms: 0,
            chains: vec![],
            receipts: 0,
            receipt_last: None,
            ended: String::new(),
            at_ms,
        }
    }

    /// How far a holder device's chain is here.
    pub(super) fn chain(&self, device: DeviceId) -> ChainRow {
        let found = self.chains.iter().find(|chain| chain.device == device).cloned();
        found.unwrap_or(ChainRow { device, segments: 0, last: None, head_ms: 0 })
    }

    pub(super) fn keep_chain(&mut self, chain: ChainRow) {
        self.chains.retain(|held| held.device != chain.device);
        self.chains.push(chain);
    }

    /// A new acceptance begins every shelf anew.
    pub(super) fn forget_chains(&mut self) {
        (self.segments, self.last, self.head_ms) = (0, None, 0);
        self.chains.clear();
    }
}

/// A recovery key for another party. Not the key: it is made of a library key of this party whenever it is needed, so
/// that every own device and every backup has it, and the salt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptKeyRow {
    /// When that party asked; absent if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_ms: Option<UnixMs>,
    /// The own user said yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<KeptKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptKey {
    pub salt: Salt,
    /// The library key it is made of, by its public half.
    pub library: Recipient,
    pub at_ms: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeeperRow {
    pub asked_ms: UnixMs,
    /// What it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<Digest>,
}

/// What the own user was told about the keys that the party has committed to: who keeps which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySetRow {
    pub keys: Vec<NamedKey>,
    /// The sealing key of the printed words; the library is sealed to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words_to: Option<Recipient>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedKey {
    pub commitment: Digest,
    /// `words`, an alias, or `key`.
    pub keeper: String,
}

/// A recovery that waits for approvals. Journaled: nothing of it is lost by a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PendingRow {
    pub terms: RecoverTerms,
    pub approvals: Vec<Approval>,
    /// The set that the terms commit to, if it is a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<KeySetRow>,
    pub at_ms: UnixMs,
}

/// What this node said that it keeps for a holder, and the holder's own shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeepingRow {
    pub quota_bytes: u64,
    pub until_ms: UnixMs,
    pub since_ms: UnixMs,
    /// COSE bytes of the holder's Library.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<Bytes>,
    pub segments: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ObjectId>,
}

/// A grant that is kept for its holder. Once it has ended only its reader is left: who may still ask for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptRow {
    pub reader: PartyId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<Opening>,
    /// COSE bytes of the Accept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Bytes>,
    /// COSE bytes of the newest ShelfHead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Bytes>,
    pub segments: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ObjectId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptRecordRow {
    pub bytes: u64,
    pub label_hash: Digest,
    /// The sealed label, once it and the payload are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Bytes>,
}

/// What a steward of this party last said that it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StewardRow {
    pub quota_bytes: u64,
    pub used_bytes: u64,
    pub until_ms: UnixMs,
    pub missing: u64,
    pub told_ms: UnixMs,
    /// It could not take all that it was handed.
    pub full: bool,
}

impl OwnRow {
    pub(super) fn handed(&self, record: RecordId) -> Handed {
        Handed {
            record,
            bytes: self.payload_bytes,
            file_key: FileKey::from_bytes(&self.file_key),
            label_hash: self.label_hash,
            rank: ORDINARY,
        }
    }
}

impl ReceivedRow {
    pub(super) fn pending(handed: &Handed, at_ms: UnixMs) -> Self {
        Self {
            file_key: serde_bytes::ByteArray::new(*handed.file_key.expose_bytes()),
            payload_bytes: handed.bytes,
            label_hash: handed.label_hash,
            label: None,
            quarantine: None,
            at_ms,
            rank: Some(handed.rank).filter(|rank| *rank != ORDINARY),
        }
    }

    pub(super) fn handed(&self, record: RecordId) -> Handed {
        Handed {
            record,
            bytes: self.payload_bytes,
            file_key: FileKey::from_bytes(&self.file_key),
            label_hash: self.label_hash,
            rank: self.rank.unwrap_or(ORDINARY),
        }
    }
}
