//! Labels: what a record is, signed by its author and sealed beside the payload.

use crate::encoding::{self, EncodingError};
use crate::id::{Digest, PartyId, RecordId};
use crate::limits::{
    LIST_ITEMS_MAX, RECORD_BYTES_MAX, SEALED_LABEL_BYTES_MAX, TEXT_BYTES_MAX, TITLE_BYTES_MAX,
};
use crate::seal::{self, FileKey, SealError, Sealed};
use crate::signed::{Signed, SignedError, Statement, Verified};
use crate::time::{MINUTE_MS, UnixMs};
use serde::{Deserialize, Serialize};

/// What a record is. Everything a scope can select by, and what a reader needs to check what it opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Whom the record is about.
    pub subject: PartyId,
    /// `fhir/Observation`, `dicom/CT`, `daily/steps`, `document/pdf`.
    pub kind: String,
    /// FHIR category codes: `laboratory`, `vital-signs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// What was measured or done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<Code>,
    /// When it was true of the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<Effective>,
    /// A few words for a list.
    pub title: String,
    /// IANA media type of the plaintext.
    pub media_type: String,
    /// Length of the plaintext in bytes.
    pub bytes: u64,
    /// blake3 of the plaintext. `open` shows nothing before this matches.
    pub hash: Digest,
    /// A Bundle entry's `fullUrl`, so that references among a bundle's records can be followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_url: Option<String>,
    /// `ResourceType/id` as the source calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// FHIR `meta.profile`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Records this one takes the place of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<RecordId>,
    /// Records this one was made from (a preview, a translation).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derived_from: Vec<RecordId>,
    /// HL7 Confidentiality or sensitivity codes: `R`, `V`, `HIV`, `PSY`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensitivity: Vec<String>,
    /// FHIR request priority: `routine`, `urgent`, `asap`, `stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgency: Option<String>,
    /// The larger thing this record is a part of, and where in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// The urgent case this record belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<Digest>,
}

/// A code in a code system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// `http://loinc.org`; may be empty when the source names none.
    pub system: String,
    /// `2160-0`.
    pub code: String,
}

/// When a record is about: from `start_ms` to `end_ms` (exclusive), as written with `offset_min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effective {
    /// Its beginning, in milliseconds since the epoch.
    pub start_ms: UnixMs,
    /// Its end, exclusive; a bare date ends a day later, an instant at its start.
    pub end_ms: UnixMs,
    /// Minutes east of UTC of the clock it was written by.
    pub offset_min: i16,
}

impl Label {
    /// A label that says what every label says, and nothing else yet.
    pub fn new(subject: PartyId, kind: &str, title: &str, media_type: &str, sealed: &Sealed) -> Self {
        Self {
            subject,
            kind: kind.to_owned(),
            categories: vec![],
            codes: vec![],
            effective: None,
            title: title.to_owned(),
            media_type: media_type.to_owned(),
            bytes: sealed.plaintext_bytes,
            hash: sealed.plaintext_hash,
            full_url: None,
            source_id: None,
            profiles: vec![],
            replaces: vec![],
            derived_from: vec![],
            sensitivity: vec![],
            urgency: None,
            group: None,
            case: None,
        }
    }
}

impl Effective {
    /// The beginning as the clock on the wall showed it, in milliseconds.
    pub fn local_start_ms(&self) -> UnixMs {
        self.start_ms.saturating_add(i64::from(self.offset_min) * MINUTE_MS)
    }
}

/// The study and series a record is a slice of, or any other ordered whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Study Instance UID (DICOM 0020,000D), or the name of another whole.
    pub study: String,
    /// Series Instance UID (0020,000E).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// SOP Instance UID (0008,0018).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Order within the series, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
}

impl Statement for Label {
    const KIND: &'static str = "label";

    fn check(&self) -> Result<(), &'static str> {
        let lists = [
            self.categories.len(),
            self.codes.len(),
            self.profiles.len(),
            self.replaces.len(),
            self.derived_from.len(),
            self.sensitivity.len(),
        ];
        if lists.iter().any(|items| *items > LIST_ITEMS_MAX) {
            return Err("expected at most 500 items in a list of a label");
        }
        if self.bytes > RECORD_BYTES_MAX {
            return Err("expected a record of at most 256 TiB");
        }
        if self.title.len() > TITLE_BYTES_MAX {
            return Err("expected a title of at most 200 bytes");
        }
        if self.kind.is_empty() || self.kind.len() > TEXT_BYTES_MAX {
            return Err("expected a kind of 1 to 500 bytes");
        }
        Ok(())
    }
}

/// What is sealed under the label key: the label, and the author's identity entries so that its signature
/// can be traced by somebody who never met the author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inside {
    #[serde(with = "serde_bytes")]
    label: Vec<u8>,
    identity: Vec<serde_bytes::ByteBuf>,
}

/// A label that was opened and whose signature is good.
#[derive(Debug, Clone)]
pub struct OpenedLabel {
    /// The label and who signed it.
    pub label: Verified<Label>,
    /// COSE bytes of the author's identity entries, unverified.
    pub identity: Vec<Vec<u8>>,
}

/// Why a label was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Wrong shape inside.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// The label within is not the author's.
    #[error(transparent)]
    Signed(#[from] SignedError),
}

/// Seals a label once, under the key derived from its record's file key.
pub fn seal_label(
    label: &Verified<Label>,
    identity: &[Vec<u8>],
    file_key: &FileKey,
) -> Result<Vec<u8>, LabelError> {
    let inside = Inside {
        label: label.bytes().to_vec(),
        identity: identity.iter().cloned().map(serde_bytes::ByteBuf::from).collect(),
    };
    Ok(seal::seal_under(&encoding::encode(&inside)?, &file_key.label_key())?)
}

/// Opens a sealed label and checks its signature.
pub fn open_label(sealed: &[u8], file_key: &FileKey) -> Result<OpenedLabel, LabelError> {
    read_inside(&seal::open_under(sealed, &file_key.label_key(), SEALED_LABEL_BYTES_MAX)?)
}

/// Reads what was sealed (`label-inside` in SPEC), and checks the label's signature.
pub fn read_inside(bytes: &[u8]) -> Result<OpenedLabel, LabelError> {
    let inside: Inside = encoding::decode(bytes, SEALED_LABEL_BYTES_MAX)?;
    let label = Signed::<Label>::from_bytes(inside.label).verify()?;
    Ok(OpenedLabel { label, identity: inside.identity.into_iter().map(|entry| entry.into_vec()).collect() })
}
