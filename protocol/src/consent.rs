//! The statements around a grant: freshness, acceptance, release, receipt, library.

use crate::id::{DeviceId, Digest, GrantId, ObjectId, PartyId, RecordId, Salt};
use crate::identity::Head;
use crate::keys::Recipient;
use crate::limits::{DEVICES_MAX, LEASE_MS_MAX, RECEIPT_RECORDS_MAX, TEXT_BYTES_MAX};
use crate::signed::Statement;
use crate::time::UnixMs;
use serde::{Deserialize, Serialize};

/// "These are all heads of this log, as of now": freshness, apart from permission. Signed by a device of the
/// party or by a named steward. Short-lived; no entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Whose log.
    pub of: PartyId,
    /// Its generation.
    pub r#gen: u32,
    /// The last entry of every device's chain.
    pub heads: Vec<Head>,
    /// blake3 of the sorted identity entry ids.
    pub identity: Digest,
    /// When it was said.
    pub issued_ms: UnixMs,
    /// For how long it may be relied upon to serve; at most 24 h.
    pub lease_ms: i64,
}

impl Statement for Status {
    const KIND: &'static str = "status";
    fn check(&self) -> Result<(), &'static str> {
        if self.lease_ms <= 0 || self.lease_ms > LEASE_MS_MAX {
            return Err("expected a lease of more than 0 and at most 24 hours");
        }
        if self.heads.len() > DEVICES_MAX {
            return Err("expected at most 64 heads");
        }
        Ok(())
    }
}

/// A reader's yes to a grant, with the fresh key that everything under it is sealed to. Highest `n` wins,
/// then the smallest id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// The grant.
    pub grant: GrantId,
    /// The reader.
    pub reader: PartyId,
    /// Counts up when the reader accepts anew.
    pub n: u32,
    /// The reading key's public half.
    pub recipient: Recipient,
}

impl Statement for Accept {
    const KIND: &'static str = "accept";
}

/// A reader's signed request, and the holder's audit entry. Opens a session of at most one hour for the
/// connection it came by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The grant.
    pub grant: GrantId,
    /// The acceptance it is asked under.
    pub accept: ObjectId,
    /// The device that is asked: a Release for one holder device is none for another.
    pub to: DeviceId,
    /// Purpose of this use, HL7 v3 PurposeOfUse.
    pub purpose: String,
    /// Who asks at the reader, in its own words.
    pub staff: String,
    /// Segments that the asker has already: the next ones may come with the session, or are asked for by number.
    pub since: u64,
    /// Never the same twice.
    pub nonce: Salt,
    /// The reader's clock.
    pub at_ms: UnixMs,
}

impl Statement for Release {
    const KIND: &'static str = "release";
    fn check(&self) -> Result<(), &'static str> {
        check_texts(&[&self.purpose, &self.staff])
    }
}

/// What a reader did with records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A person or program was shown the plaintext.
    Opened,
    /// Reading under the grant stopped; the reading key is gone.
    Stopped,
    /// Keys, segments and payloads of the grant were deleted.
    Deleted,
    /// Kept under a law that requires it, which the record says.
    Kept,
}

/// A reader's signed statement about records, chained per grant. Accepted also after a Revoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The grant.
    pub grant: GrantId,
    /// The acceptance.
    pub accept: ObjectId,
    /// What was done.
    pub what: Deed,
    /// To which records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordId>,
    /// By whom at the reader, in its own words.
    pub staff: String,
    /// What for.
    pub purpose: String,
    /// When.
    pub at_ms: UnixMs,
    /// Position in the chain of receipts of this grant, from 0.
    pub seq: u64,
    /// The receipt before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<ObjectId>,
}

impl Statement for Receipt {
    const KIND: &'static str = "receipt";
    fn check(&self) -> Result<(), &'static str> {
        if self.records.len() > RECEIPT_RECORDS_MAX {
            return Err("expected at most 1,000 records in a receipt");
        }
        check_texts(&[&self.purpose, &self.staff])
    }
}

/// The key of a party's own shelf, for all its live devices and its recovery. Highest `n` wins, then the
/// smallest id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Library {
    /// Counts up at every change.
    pub n: u32,
    /// The public half that own segments are sealed to.
    pub recipient: Recipient,
    /// An age file of all library identities (text form, one a line) to all live devices and the recovery identity.
    #[serde(with = "serde_bytes")]
    pub wraps: Vec<u8>,
}

impl Statement for Library {
    const KIND: &'static str = "library";
}

fn check_texts(texts: &[&String]) -> Result<(), &'static str> {
    if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err("expected texts of at most 500 bytes");
    }
    Ok(())
}
