//! Recovering a lost party with keys that it committed to in advance (SPEC sections 5 and 10, rule 6).
//!
//! For: the three texts that travel between people, by mail, by QR code or read aloud: a key's commitment, a request,
//! an approval. Not for: whether a recovery counts; that is [`crate::identity`]'s alone, so nothing in these texts is
//! believed for being there.

use crate::card;
use crate::encoding::{self, EncodingError};
use crate::entry::{Entry, Recover, RecoverTerms};
use crate::id::{DeviceId, Digest, PartyId, digest};
use crate::identity::{LogError, PartyLog};
use crate::keys::{RecoverySeed, verifies};
use crate::limits::{NAME_BYTES_MAX, RECOVERY_TEXT_BYTES_MAX};
use crate::signed::{Signed, SignedError};
use base64::Engine;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

const VERSION: u8 = 1;
/// Words of a check code. 6 of 11 bits: whoever wants other terms with the same code tries 2^66 of them.
pub const CHECK_WORDS: usize = 6;

/// Why a text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// Something else.
    #[error("expected a text that starts with {expected} and has at most {RECOVERY_TEXT_BYTES_MAX} bytes")]
    Other {
        /// How it begins.
        expected: &'static str,
    },
    /// Changed on the way.
    #[error("the text is damaged: {0}")]
    Damaged(String),
    /// Of a later version of the protocol.
    #[error("expected a text of version {VERSION}, got {0}")]
    Version(u8),
    /// A field over its bound.
    #[error("{0}")]
    Bound(&'static str),
    /// The entries in it make up no party, or another one.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An entry in it is not signed as it should be.
    #[error(transparent)]
    Signed(#[from] SignedError),
}

impl From<EncodingError> for RecoveryError {
    fn from(error: EncodingError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A text that travels between people: `prefix ‖ base64url(canonical CBOR)`, without padding.
pub trait RecoveryText: Serialize + DeserializeOwned {
    /// How it begins.
    const PREFIX: &'static str;

    /// Its version of the protocol.
    fn version(&self) -> u8;

    /// Bounds beyond the shape.
    fn check(&self) -> Result<(), RecoveryError>;

    /// Writes it.
    fn to_text(&self) -> Result<String, RecoveryError> {
        let bytes = encoding::encode(self)?;
        Ok(format!("{}{}", Self::PREFIX, base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Reads it. Blanks and line breaks, as a mail program adds them, are passed over.
    fn from_text(text: &str) -> Result<Self, RecoveryError> {
        let other = RecoveryError::Other { expected: Self::PREFIX };
        // Blanks count too: what is longer is no text of ours, however much of it is air.
        if text.len() > 2 * RECOVERY_TEXT_BYTES_MAX {
            return Err(other);
        }
        let text: String = text.split_whitespace().collect();
        let Some(body) = text.strip_prefix(Self::PREFIX).filter(|_| text.len() <= RECOVERY_TEXT_BYTES_MAX)
        else {
            return Err(other);
        };
        let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|error| RecoveryError::Damaged(error.to_string()))?;
        let value: Self = encoding::decode(&bytes, RECOVERY_TEXT_BYTES_MAX)?;
        if value.version() != VERSION {
            return Err(RecoveryError::Version(value.version()));
        }
        value.check()?;
        Ok(value)
    }
}

/// "I keep a key for this party": the hash of its public half, for the party to commit to. No secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyNote {
    version: u8,
    /// Whose recovery it is for.
    pub party: PartyId,
    /// `blake3(recovery public key)`.
    pub commitment: Digest,
}

impl KeyNote {
    /// A note.
    pub fn new(party: PartyId, commitment: Digest) -> Self {
        Self { version: VERSION, party, commitment }
    }
}

impl RecoveryText for KeyNote {
    const PREFIX: &'static str = "karte-key:";

    fn version(&self) -> u8 {
        self.version
    }

    fn check(&self) -> Result<(), RecoveryError> {
        Ok(())
    }
}

/// A new device asks the keepers of recovery keys to approve its terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryRequest {
    version: u8,
    /// What the party is called, in the words of whoever asks: to be compared with what its keeper knows.
    pub name: String,
    /// What is to be signed.
    pub terms: RecoverTerms,
    /// COSE bytes of the party's identity entries as the asker holds them, Genesis first.
    pub identity: Vec<ByteBuf>,
}

impl RecoveryRequest {
    /// Asks for `terms`, on top of `log`.
    pub fn new(name: &str, terms: RecoverTerms, log: &PartyLog) -> Self {
        let identity = log.identity_entries().iter().map(|entry| ByteBuf::from(entry.bytes())).collect();
        Self { version: VERSION, name: name.to_owned(), terms, identity }
    }

    /// The party's log, as its entries show it.
    pub fn log(&self) -> Result<PartyLog, RecoveryError> {
        let mut entries =
            self.identity.iter().map(|bytes| Signed::<Entry>::from_bytes(bytes.to_vec()).verify());
        let genesis = entries.next().ok_or(LogError::NotGenesis)??;
        let mut log = PartyLog::start(genesis)?;
        for entry in entries {
            log.add(entry?)?;
        }
        if log.party() != self.terms.party {
            return Err(LogError::OtherParty { expected: self.terms.party }.into());
        }
        Ok(log)
    }
}

impl RecoveryText for RecoveryRequest {
    const PREFIX: &'static str = "karte-recover:";

    fn version(&self) -> u8 {
        self.version
    }

    fn check(&self) -> Result<(), RecoveryError> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control)
        {
            return Err(RecoveryError::Bound("expected a name of 1 to 100 bytes without control characters"));
        }
        Ok(())
    }
}

/// A keeper's yes to the terms of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    version: u8,
    /// blake3 of the canonical terms.
    pub terms: Digest,
    /// The recovery public key whose hash was committed.
    pub key: DeviceId,
    /// `Ed25519(canonical terms)` by it.
    pub signature: ByteBuf,
    /// The signed card of whoever approves, so that the new device can reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<ByteBuf>,
}

impl Approval {
    /// Signs terms with a recovery key.
    pub fn sign(
        terms: &RecoverTerms,
        seed: &RecoverySeed,
        card: Option<&[u8]>,
    ) -> Result<Self, EncodingError> {
        let bytes = encoding::encode(terms)?;
        let key = seed.signing_key();
        Ok(Self {
            version: VERSION,
            terms: digest(&bytes),
            key: key.device(),
            signature: ByteBuf::from(key.sign(&bytes)),
            card: card.map(ByteBuf::from),
        })
    }

    /// The card beside it, if it is one.
    pub fn introduced(&self) -> Option<card::Introduced> {
        card::introduce(self.card.as_ref()?).ok()
    }
}

impl RecoveryText for Approval {
    const PREFIX: &'static str = "karte-approval:";

    fn version(&self) -> u8 {
        self.version
    }

    fn check(&self) -> Result<(), RecoveryError> {
        if self.signature.len() != 64 {
            return Err(RecoveryError::Bound("expected a signature of 64 bytes"));
        }
        Ok(())
    }
}

impl RecoverTerms {
    /// blake3 of the canonical terms: what approvals name.
    pub fn digest(&self) -> Result<Digest, EncodingError> {
        Ok(digest(&encoding::encode(self)?))
    }

    /// The check code: the first 66 bits of [`RecoverTerms::digest`], 11 at a time, as places in a list of 2,048 words.
    pub fn check_code(&self) -> Result<[u16; CHECK_WORDS], EncodingError> {
        let digest = self.digest()?;
        let mut bits =
            digest.as_bytes().iter().flat_map(|byte| (0..8).rev().map(move |bit| (byte >> bit) & 1));
        let mut word = || (0..11).fold(0, |word, _| (word << 1) | u16::from(bits.next().unwrap_or_default()));
        Ok(std::array::from_fn(|_| word()))
    }
}

impl Recover {
    /// Puts approvals together. Whether they are enough, and of the right keys, only the log says (rule 6).
    pub fn assemble<'a>(
        terms: RecoverTerms,
        approvals: impl Iterator<Item = (&'a DeviceId, &'a [u8])>,
    ) -> Self {
        let (reveals, signatures) =
            approvals.map(|(key, signature)| (*key, ByteBuf::from(signature))).unzip();
        Self { terms, reveals, signatures }
    }
}

impl PartyLog {
    /// The commitments that the current generation made for the next recovery, and how many of them must sign.
    pub fn recovery_set(&self) -> (&[Digest], u8) {
        self.committed(self.state_generation())
    }

    /// Whether a signature is one of those that rule 6 counts for these terms.
    pub fn approves(&self, terms: &RecoverTerms, key: &DeviceId, signature: &[u8]) -> bool {
        let before = terms.r#gen.checked_sub(1).map(|before| self.committed(before).0).unwrap_or_default();
        let signed = encoding::encode(terms);
        before.contains(&digest(key.as_bytes()))
            && signed.is_ok_and(|signed| verifies(key, &signed, signature))
    }
}
