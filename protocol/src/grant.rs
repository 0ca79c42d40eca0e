//! Grants: who may read what of whom, for which purpose, until when.
//!
//! The log holds a commitment only; the [`Opening`] that reveals it goes age-sealed to the reader and to the
//! holder's own devices, and without its scope to stewards.

use crate::encoding::{self, EncodingError};
use crate::entry::{Act, Entry};
use crate::id::{Digest, GrantId, PartyId, RecordId, Salt, digest};
use crate::label::{Code, Label};
use crate::limits::{GRANT_MS_MAX, LIST_ITEMS_MAX, SIGNED_BYTES_MAX};
use crate::signed::{Signed, SignedError, Verified};
use crate::time::UnixMs;
use serde::{Deserialize, Serialize};

/// What a grant says once it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opened {
    /// Who may read.
    pub reader: Reader,
    /// Whose records: exactly one party.
    pub subject: PartyId,
    /// `blake3(dag-cbor [scope_salt, scope])`.
    pub scope_hash: Digest,
    /// HL7 v3 PurposeOfUse code: `TREAT`, `ETREAT`, `HRESCH`.
    pub purpose: String,
    /// Why this is lawful: `consent`, `vital-interest`, `legal-duty`, `contract`. Never merged with the purpose.
    pub basis: String,
    /// Begins to count, inclusive.
    pub not_before_ms: UnixMs,
    /// Ends to count, exclusive. At most 366 days after `not_before_ms`.
    pub not_after_ms: UnixMs,
    /// How long a reader may read on, and a steward serve on, without fresh word from the holder.
    pub offline_ms: i64,
    /// What the reader may do with it afterwards.
    pub onward: Onward,
    /// Further conditions. One that this version does not know means deny.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Who may read. A later version adds roles and federations; a version that does not know the tag cannot
/// decode the opening, and so denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reader {
    /// One party.
    Party(PartyId),
}

/// What a reader may do beyond reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Onward {
    /// Read while the grant counts.
    No,
    /// Take into its own records.
    Keep,
}

/// A condition of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Which records. Every list that is not empty must match, explicit records too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Kinds; a prefix (`fhir`) covers all below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// FHIR category codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// Codes; an empty system matches any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<Code>,
    /// Effective time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Exactly these records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordId>,
}

/// A window of effective time: a record lies in it when it *began* in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Inclusive beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Bound>,
    /// Exclusive end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Bound>,
}

/// One bound of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Bound {
    /// A moment, the same everywhere.
    Instant(UnixMs),
    /// A calendar date and time as the clock on the wall showed it where the record was made: what a person
    /// means by "2015". Milliseconds of that wall clock.
    Local(UnixMs),
}

impl Scope {
    /// Whether a record with this label is in the scope.
    pub fn covers(&self, record: &RecordId, label: &Label) -> bool {
        if !self.records.is_empty() && !self.records.contains(record) {
            return false;
        }
        self.covers_kind(&label.kind)
            && any_or_empty(&self.categories, |category| label.categories.contains(category))
            && any_or_empty(&self.codes, |code| label.codes.iter().any(|has| code.matches(has)))
            && self.window.is_none_or(|window| window.covers(label))
    }

    /// Whether the scope says anything. An empty one is refused: nobody means "everything" by saying nothing.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty() && self.records.is_empty()
    }

    fn covers_kind(&self, kind: &str) -> bool {
        any_or_empty(&self.kinds, |prefix| kind_is_below(kind, prefix))
    }
}

/// Whether `kind` is `prefix` or lies below it: `fhir/Observation` is below `fhir`.
pub fn kind_is_below(kind: &str, prefix: &str) -> bool {
    kind.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn any_or_empty<T>(list: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

impl Code {
    /// Whether `has` is this code; an empty system here matches any.
    pub fn matches(&self, has: &Code) -> bool {
        self.code == has.code && (self.system.is_empty() || self.system == has.system)
    }
}

impl Window {
    /// Whether the record began in the window. A record without a time lies in no window.
    pub fn covers(&self, label: &Label) -> bool {
        let Some(effective) = label.effective else {
            return false;
        };
        let at = |bound: Bound| match bound {
            Bound::Instant(ms) => (effective.start_ms, ms),
            Bound::Local(ms) => (effective.local_start_ms(), ms),
        };
        let after_from = self.from.map(at).is_none_or(|(start, from)| start >= from);
        let before_until = self.until.map(at).is_none_or(|(start, until)| start < until);
        after_from && before_until
    }
}

/// Everything that reveals a grant. Travels age-sealed; a steward's lacks scope and scope salt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// COSE bytes of the Grant entry.
    #[serde(with = "serde_bytes")]
    pub entry: Vec<u8>,
    /// Blinds the commitment.
    pub salt: Salt,
    /// The grant.
    pub opened: Opened,
    /// Blinds the scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_salt: Option<Salt>,
    /// The scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// An opening whose hashes were recomputed and whose entry is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenGrant {
    /// The signed entry.
    pub entry: Verified<Entry>,
    /// The grant.
    pub opened: Opened,
    /// The scope, unless this is a steward's copy.
    pub scope: Option<Scope>,
}

/// Why an opening does not reveal a grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Wrong shape.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// The entry is not signed.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The entry is something else.
    #[error("expected a Grant entry")]
    NotGrant,
    /// What is shown is not what was signed.
    #[error("the grant shown is not the one that was signed")]
    Commitment,
    /// The scope shown is not the one that was signed.
    #[error("the scope shown is not the one that was signed")]
    Scope,
    /// A field outside its bounds.
    #[error("{0}")]
    Bound(&'static str),
}

/// `blake3(dag-cbor [salt, opened])`: what the log shows of a grant.
pub fn commitment(salt: &Salt, opened: &Opened) -> Result<Digest, EncodingError> {
    Ok(digest(&encoding::encode(&(salt, opened))?))
}

/// `blake3(dag-cbor [scope_salt, scope])`.
pub fn scope_hash(salt: &Salt, scope: &Scope) -> Result<Digest, EncodingError> {
    Ok(digest(&encoding::encode(&(salt, scope))?))
}

impl Opening {
    /// What a steward is shown: who may read, for what and until when, and nothing of the scope.
    pub fn for_steward(&self) -> Self {
        Self { scope_salt: None, scope: None, ..self.clone() }
    }

    /// Recomputes every hash that it can, and checks the entry's signature and the grant's bounds.
    pub fn verify(&self) -> Result<OpenGrant, GrantError> {
        let entry = Signed::<Entry>::from_bytes(self.entry.clone()).verify()?;
        let Act::Grant { commitment: signed } = entry.act else {
            return Err(GrantError::NotGrant);
        };
        if commitment(&self.salt, &self.opened)? != signed {
            return Err(GrantError::Commitment);
        }
        self.opened.check()?;
        match (&self.scope_salt, &self.scope) {
            (Some(salt), Some(scope)) => {
                if scope_hash(salt, scope)? != self.opened.scope_hash {
                    return Err(GrantError::Scope);
                }
                scope.check()?;
            }
            (None, None) => {}
            // One without the other cannot be compared, so it shows nothing.
            _ => return Err(GrantError::Scope),
        }
        Ok(OpenGrant { entry, opened: self.opened.clone(), scope: self.scope.clone() })
    }
}

impl OpenGrant {
    /// The grant's name.
    pub fn id(&self) -> GrantId {
        crate::id::EntryId::from(self.entry.id()).into()
    }

    /// Who signed it.
    pub fn holder(&self) -> Option<PartyId> {
        self.entry.by().party
    }

    /// The party that may read.
    pub fn reader(&self) -> PartyId {
        let Reader::Party(party) = self.opened.reader;
        party
    }
}

impl Opened {
    /// Bounds of its fields.
    pub fn check(&self) -> Result<(), GrantError> {
        let life = self.not_after_ms.saturating_sub(self.not_before_ms);
        if life <= 0 || life > GRANT_MS_MAX {
            return Err(GrantError::Bound("expected a grant that ends after it begins, within 366 days"));
        }
        if self.offline_ms < 0 || self.offline_ms > GRANT_MS_MAX {
            return Err(GrantError::Bound("expected an offline limit from 0 to 366 days"));
        }
        let codes = [&self.purpose, &self.basis];
        if codes.iter().any(|code| code.is_empty() || code.len() > 60) {
            return Err(GrantError::Bound("expected a purpose and a basis of 1 to 60 bytes"));
        }
        Ok(())
    }
}

impl Scope {
    /// Bounds of its lists.
    pub fn check(&self) -> Result<(), GrantError> {
        let lists = [self.kinds.len(), self.categories.len(), self.codes.len(), self.records.len()];
        if lists.iter().any(|items| *items > LIST_ITEMS_MAX) {
            return Err(GrantError::Bound("expected at most 500 items in a list of a scope"));
        }
        if self.is_empty() {
            return Err(GrantError::Bound("expected a scope that names kinds or records"));
        }
        Ok(())
    }
}

/// The largest opening, in bytes of CBOR. 256 KiB: a signed entry and a scope, with room.
pub const OPENING_BYTES_MAX: usize = 4 * SIGNED_BYTES_MAX;
