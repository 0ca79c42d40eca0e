//! What nodes say to each other: control messages (request and response) and the frames of a payload stream.
//!
//! Canonical CBOR like everything signed; at most 1 MiB a message, 2 MiB a frame. Signed objects travel as
//! their COSE bytes and are verified by whoever takes them out.

use crate::encoding::{self, EncodingError};
use crate::entry::Device;
use crate::id::{Digest, GrantId, ObjectId, PartyId, RecordId};
use crate::identity::Head;
use crate::keys::Recipient;
use crate::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::own::OwnItem;
use crate::time::UnixMs;
use serde::{Deserialize, Serialize};

/// COSE bytes of a signed object, or an age file.
pub type Bytes = serde_bytes::ByteBuf;

/// Bytes of objects in one message, with what CBOR writes before each. 64 KiB less than a message: room for all else.
const PARTS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;
/// What CBOR writes before a byte string of at most 4 GiB, in bytes (RFC 8949, section 3).
const PART_HEAD_BYTES: usize = 5;

/// How many objects of these lengths, from the first on, fit into one message.
pub fn fitting(lengths: impl IntoIterator<Item = usize>) -> usize {
    let mut left = PARTS_BYTES_MAX;
    let mut fits = |length: usize| match left.checked_sub(length.saturating_add(PART_HEAD_BYTES)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    lengths.into_iter().take_while(|length| fits(*length)).count()
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Opens every connection, dialler first.
    Hello(Hello),
    /// Entries of a log that the other may need.
    Entries {
        /// Whose log.
        of: PartyId,
        /// Its entries, in an order that can be added.
        entries: Vec<Bytes>,
    },
    /// The entries of a log that the asker lacks.
    Log {
        /// Whose log.
        of: PartyId,
        /// Heads the asker holds.
        have: Vec<Head>,
    },
    /// Will you keep a recovery key for my party?
    RecoveryKey,
    /// The openings of my party's grants to yours, which my party has lost.
    Openings {
        /// Only of grants with a greater id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<GrantId>,
    },
    /// A new device that was invited; answered without a Hello.
    Join {
        /// The device that asks, and whom to seal to for it.
        device: Device,
        /// [`crate::own::join_proof`] under the invitation's secret.
        proof: Digest,
    },
    /// Between devices of one party: what the other has to tell.
    Own {
        /// Number of the first item that is wanted.
        from: u64,
        /// One more than the number of the asker's own last item.
        there: u64,
    },
    /// A fresh Status.
    Status {
        /// The signed Status.
        status: Bytes,
    },
    /// A grant for the other party.
    Offer {
        /// The grant.
        grant: GrantId,
        /// Its Opening, age-sealed to the reader's devices.
        opening: Bytes,
    },
    /// Yes to a grant.
    Accept {
        /// The signed Accept.
        accept: Bytes,
    },
    /// A session under a grant.
    Release {
        /// The signed Release.
        release: Bytes,
    },
    /// Segments of a shelf in the running session.
    Segments {
        /// The grant.
        grant: GrantId,
        /// The first segment wanted.
        from: u64,
    },
    /// The shelf has grown: come and fetch.
    News {
        /// The grant.
        grant: GrantId,
        /// The signed ShelfHead.
        head: Bytes,
        /// What it grew by, if that is little: the next segments in order, so that they need not be asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        segments: Vec<SegmentAndKeys>,
    },
    /// A wish for a grant.
    Ask {
        /// The signed [`crate::request::AccessRequest`].
        request: Bytes,
    },
    /// What became of a wish.
    Answer {
        /// The request.
        request: ObjectId,
        /// Yes or no.
        answer: Answer,
    },
    /// What the steward keeps for the asker, and how much it would keep.
    Keeping,
    /// Something for a steward to keep.
    Keep(Keep),
    /// What a steward was asked and told in the holder's absence.
    Served {
        /// Signed Releases that opened a session at the steward.
        releases: Vec<Bytes>,
        /// Signed Receipts that readers left there.
        receipts: Vec<Bytes>,
    },
    /// What was done with records.
    Receipts {
        /// Signed Receipts, oldest first.
        receipts: Vec<Bytes>,
    },
}

/// What a holder hands to its steward: ciphertext, and statements that prove themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Keep {
    /// A grant that was accepted. Another acceptance than the one kept begins its shelf anew.
    Grant {
        /// The Opening without scope and scope salt, age-sealed to the steward's devices.
        opening: Bytes,
        /// The signed Accept that counts.
        accept: Bytes,
        /// The reader's identity entries as the holder holds them, signed, in an order that can be added.
        reader: Vec<Bytes>,
    },
    /// More of a grant's shelf.
    Shelf {
        /// The grant.
        grant: GrantId,
        /// The signed ShelfHead.
        head: Bytes,
        /// Segments in order, from the first that the steward lacks.
        segments: Vec<KeptSegment>,
    },
    /// More of the holder's own shelf: for its next device, or its recovery.
    Own {
        /// The signed Library that counts.
        library: Bytes,
        /// Segments in order, from the first that the steward lacks.
        segments: Vec<KeptSegment>,
    },
}

/// A segment as a steward keeps it: what its keys say of the payloads, without the keys, stands beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptSegment {
    /// The signed Segment.
    pub segment: Bytes,
    /// Its keys, an age file that the steward cannot open.
    pub keys: Bytes,
    /// The segment's records, in its order.
    pub records: Vec<KeptRecord>,
}

/// What a steward must know of a record to fetch and check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptRecord {
    /// The record.
    pub record: RecordId,
    /// Length of its payload in bytes.
    pub bytes: u64,
    /// blake3 of its sealed label.
    pub label_hash: Digest,
}

/// What a steward keeps for the asker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keeping {
    /// Most bytes of payloads that it keeps.
    pub quota_bytes: u64,
    /// Bytes of payloads that it has listed, here or on their way.
    pub used_bytes: u64,
    /// Until when it keeps them.
    pub until_ms: UnixMs,
    /// Records that are listed and have not come yet.
    pub missing: u64,
    /// Grants that it keeps, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<KeptGrant>,
    /// The signed Library that it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<Bytes>,
    /// Segments of the own shelf that it keeps.
    pub segments: u64,
}

/// How much of a grant a steward keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptGrant {
    /// The grant.
    pub grant: GrantId,
    /// The Accept it keeps.
    pub accept: ObjectId,
    /// What it holds of the reader's identity: [`crate::identity::State::identity`].
    pub reader: Digest,
    /// Segments of the shelf.
    pub segments: u64,
    /// Whether it has the ShelfHead that names them all.
    pub head: bool,
}

/// The opening of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The signed Card, with the own identity entries in it.
    pub card: Bytes,
    /// A fresh signed Status.
    pub status: Bytes,
}

/// What became of a request for access. It is not signed: a yes is worth nothing without the grant, and the connection
/// says who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// A grant was given, perhaps a narrower one.
    Approved {
        /// It is offered like any other.
        grant: GrantId,
    },
    /// No.
    Declined {
        /// Why, at most 500 bytes; may be empty.
        reason: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// The other's Hello.
    Hello(Hello),
    /// Taken and durable.
    Done,
    /// Entries that were asked for.
    Entries {
        /// In an order that can be added.
        entries: Vec<Bytes>,
        /// Whether there are more than fitted.
        more: bool,
    },
    /// A key is kept for the asker's party.
    RecoveryKey {
        /// `blake3(recovery public key)`.
        commitment: Digest,
    },
    /// Openings of the asker's grants.
    Openings {
        /// Openings, each age-sealed to the live devices of the asker's party; by rising grant id.
        openings: Vec<Bytes>,
        /// Whether there are more than fitted.
        more: bool,
    },
    /// A session is open.
    Session {
        /// The holder's signed Status.
        status: Bytes,
        /// The signed ShelfHead.
        head: Bytes,
        /// The segments beyond those that the Release names, if that is little, as with [`Request::News`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        segments: Vec<SegmentAndKeys>,
    },
    /// Segments with their keys.
    Segments {
        /// In order.
        segments: Vec<SegmentAndKeys>,
    },
    /// What a steward keeps for the asker.
    Keeping(Keeping),
    /// A steward cannot take what was handed to it: it would be more than it said it keeps.
    Full {
        /// Most bytes of payloads that it keeps.
        quota_bytes: u64,
        /// Bytes that it keeps already.
        used_bytes: u64,
    },
    /// The new device belongs to the party.
    Joined {
        /// The party's signed identity entries, in an order that can be added.
        entries: Vec<Bytes>,
        /// The signed Library, sealed to the new device too.
        library: Bytes,
        /// Whom the library is sealed to beside the live devices: recovery keys.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        recovery: Vec<Recipient>,
    },
    /// What a device of the same party has to tell.
    Own {
        /// In the order of their numbers.
        items: Vec<OwnItem>,
        /// Where to go on asking.
        next: u64,
        /// One more than the number of the last item there is.
        there: u64,
    },
    /// No: the same bytes for absent, not granted, revoked, expired and badly signed.
    Denied,
}

/// A segment and the age file beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentAndKeys {
    /// The signed Segment.
    pub segment: Bytes,
    /// Its keys, age-sealed to the reading key.
    pub keys: Bytes,
}

/// A frame from whoever opened a payload stream: the reader, or a holder that asks back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// The grant. Between devices of one party: the id of the party's Genesis, and the same in `accept`.
    pub grant: GrantId,
    /// The acceptance.
    pub accept: ObjectId,
    /// What is wanted, in the order it is wanted.
    pub wants: Vec<Want>,
    /// Asked by the grant's holder of its reader: own ciphertext that the holder has lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
    /// Asked between a holder and its steward: `grant` and `accept` then name the AddSteward entry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
    /// What is wanted does not wait: whoever serves lets other streams to the asker rest meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub urgent: bool,
}

/// One record wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Want {
    /// The record.
    pub record: RecordId,
    /// Bytes of its payload that are here already: a whole number of MiB.
    pub from: u64,
    /// Whether its label is wanted too.
    pub label: bool,
}

/// A frame to the reader on a payload stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Frame {
    /// The sealed label of a record.
    Label {
        /// The record.
        record: RecordId,
        /// Sealed under its label key.
        label: Bytes,
    },
    /// A slice of a payload with its proof ([`crate::bao`]). Its encoding is the next frame, as it is and not in CBOR, so
    /// that a MiB is neither copied nor encoded twice to be compared.
    Slice {
        /// The record.
        record: RecordId,
        /// Where it starts.
        offset: u64,
    },
    /// This record will not come: it is not on the shelf, or not here any more.
    Missing {
        /// The record.
        record: RecordId,
    },
    /// Everything asked for was sent.
    End,
    /// No.
    Denied,
}

macro_rules! on_the_wire {
    ($name:ident, $max:expr) => {
        impl $name {
            /// Canonical bytes.
            pub fn to_bytes(&self) -> Result<Vec<u8>, EncodingError> {
                let bytes = encoding::encode(self)?;
                if bytes.len() > $max {
                    return Err(EncodingError::TooLarge { max: $max, got: bytes.len() });
                }
                Ok(bytes)
            }

            /// All or nothing.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, EncodingError> {
                encoding::decode(bytes, $max)
            }
        }
    };
}
on_the_wire!(Request, MESSAGE_BYTES_MAX);
on_the_wire!(Response, MESSAGE_BYTES_MAX);
on_the_wire!(Fetch, MESSAGE_BYTES_MAX);
on_the_wire!(Frame, FRAME_BYTES_MAX);
