//! The one door through which foreign statements come in: [`Signed`] → [`Verified`].
//!
//! A signed object is exactly `D2 84 43 A10127 A0 bstr(payload) 5840 sig`: a tagged COSE_Sign1 (RFC 9052
//! section 4.2) with protected header `{1: -8}` (EdDSA), no unprotected header and empty AAD. A receiver
//! rebuilds these bytes and compares, so that one object has one encoding and one id.

use crate::encoding::{self, EncodingError};
use crate::id::{DeviceId, ObjectId, PartyId};
use crate::keys::{DeviceKey, verifies};
use crate::limits::SIGNED_BYTES_MAX;
use coset::{CborSerializable, TaggedCborSerializable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

/// The version of every object in this crate.
pub const VERSION: u8 = 1;

/// Why a foreign object was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Over the bound.
    #[error("expected a signed object of at most {SIGNED_BYTES_MAX} bytes, got {0}")]
    TooLarge(usize),
    /// Not the one form of COSE_Sign1 that we write.
    #[error("expected a tagged COSE_Sign1 in its one canonical form: {0}")]
    NotCose(String),
    /// The payload is not canonical CBOR of this kind.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// A statement of another kind.
    #[error("expected a {expected}, got a {got:?}")]
    Kind {
        /// The kind this place takes.
        expected: &'static str,
        /// The kind the payload names.
        got: String,
    },
    /// A statement of another version of the protocol.
    #[error("expected version {VERSION}, got {0}")]
    Version(u8),
    /// The signature is not the named device's.
    #[error("the signature is not that of the device it names")]
    Signature,
    /// A field over its bound.
    #[error("{0}")]
    Bound(&'static str),
}

/// What can be signed. `KIND` is part of the signed bytes: kinds are never interchangeable.
pub trait Statement: Serialize + DeserializeOwned {
    /// The name of the kind in the payload.
    const KIND: &'static str;

    /// Bounds beyond the shape, checked before anybody sees the value.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// Who signs: a device, in a generation of a party. Genesis alone omits the party, for its id is its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct By {
    /// The signer's party.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub party: Option<PartyId>,
    /// The party's generation, from 0; each recovery adds one.
    pub r#gen: u32,
    /// The signing device.
    pub device: DeviceId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload<T> {
    version: u8,
    kind: String,
    by: By,
    body: T,
}

/// A statement as it came: not yet checked, and good for nothing but [`Signed::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    bytes: Vec<u8>,
    kind: PhantomData<T>,
}

/// A statement whose signature is that of the device it names. Whether that device may say so is a question
/// for [`crate::identity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    bytes: Vec<u8>,
    id: ObjectId,
    by: By,
    body: T,
}

impl<T: Statement> Signed<T> {
    /// Takes foreign bytes; nothing is believed yet.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), kind: PhantomData }
    }

    /// Checks form, kind, version, bounds and signature.
    pub fn verify(self) -> Result<Verified<T>, SignedError> {
        self.open(true)
    }

    /// The same without the signature: for bytes that this node verified when it took them in, and that come
    /// back from its own authenticated store. Never for what a peer or a file brings.
    pub fn recall(self) -> Result<Verified<T>, SignedError> {
        self.open(false)
    }

    fn open(self, checks_signature: bool) -> Result<Verified<T>, SignedError> {
        if self.bytes.len() > SIGNED_BYTES_MAX {
            return Err(SignedError::TooLarge(self.bytes.len()));
        }
        let cose = coset::CoseSign1::from_tagged_slice(&self.bytes)
            .map_err(|error| SignedError::NotCose(error.to_string()))?;
        let payload_bytes = cose.payload.as_deref().unwrap_or_default();
        if envelope(payload_bytes.to_vec(), cose.signature.clone())? != self.bytes {
            return Err(SignedError::NotCose("other headers or lengths than ours".into()));
        }
        let payload = decode_payload::<T>(payload_bytes)?;
        if checks_signature && !verifies(&payload.by.device, &to_be_signed(payload_bytes)?, &cose.signature) {
            return Err(SignedError::Signature);
        }
        Ok(Verified {
            id: blake3::hash(payload_bytes).into(),
            by: payload.by,
            body: payload.body,
            bytes: self.bytes,
        })
    }
}

impl<T: Statement> Verified<T> {
    /// Signs `body`. The result went through the same check as a foreign one.
    pub fn sign(body: T, by: By, key: &DeviceKey) -> Result<Self, SignedError> {
        let payload = Payload { version: VERSION, kind: T::KIND.to_owned(), by, body };
        let payload_bytes = encoding::encode(&payload)?;
        let signature = key.sign(&to_be_signed(&payload_bytes)?).to_vec();
        Signed::<T>::from_bytes(envelope(payload_bytes, signature)?).verify()
    }
}

impl<T> Verified<T> {
    /// The tagged COSE_Sign1 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `blake3(payload)`, without the signature: two signatures of one statement are one object.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Who signed.
    pub fn by(&self) -> By {
        self.by
    }

    /// Whether `party`'s device signed.
    pub fn is_by(&self, party: PartyId) -> bool {
        self.by.party == Some(party)
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.body
    }
}

fn decode_payload<T: Statement>(bytes: &[u8]) -> Result<Payload<T>, SignedError> {
    // Kind and version first, so that a wrong kind is named as such and not as a missing field.
    let head: Head = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|error| EncodingError::Malformed { what: T::KIND, reason: error.to_string() })?;
    if head.version != VERSION {
        return Err(SignedError::Version(head.version));
    }
    if head.kind != T::KIND {
        return Err(SignedError::Kind { expected: T::KIND, got: head.kind.chars().take(40).collect() });
    }
    let payload: Payload<T> = encoding::decode(bytes, SIGNED_BYTES_MAX)?;
    payload.body.check().map_err(SignedError::Bound)?;
    Ok(payload)
}

#[derive(Deserialize)]
struct Head {
    version: u8,
    kind: String,
}

fn to_be_signed(payload: &[u8]) -> Result<Vec<u8>, SignedError> {
    // Sig_structure of RFC 9052 section 4.4, with the protected header as we write it.
    let protected = protected()?;
    Ok(coset::sig_structure_data(coset::SignatureContext::CoseSign1, protected, None, &[], payload))
}

fn envelope(payload: Vec<u8>, signature: Vec<u8>) -> Result<Vec<u8>, SignedError> {
    if signature.len() != 64 {
        return Err(SignedError::NotCose(format!(
            "expected a signature of 64 bytes, got {}",
            signature.len()
        )));
    }
    coset::CoseSign1 { protected: protected()?, payload: Some(payload), signature, ..Default::default() }
        .to_tagged_vec()
        .map_err(|error| SignedError::NotCose(error.to_string()))
}

fn protected() -> Result<coset::ProtectedHeader, SignedError> {
    let header = coset::HeaderBuilder::new().algorithm(coset::iana::Algorithm::EdDSA).build();
    // Through its own bytes, so that the encoding is the one that is compared.
    let bytes = header.clone().to_vec().map_err(|error| SignedError::NotCose(error.to_string()))?;
    Ok(coset::ProtectedHeader { original_data: Some(bytes), header })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::OsChance;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        text: String,
    }
    impl Statement for Note {
        const KIND: &'static str = "note";
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Other {
        text: String,
    }
    impl Statement for Other {
        const KIND: &'static str = "other";
    }

    fn note() -> Verified<Note> {
        let key = DeviceKey::generate(&mut OsChance);
        let by = By { party: None, r#gen: 0, device: key.device() };
        Verified::sign(Note { text: "hello".into() }, by, &key).expect("signs")
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let note = note();
        assert_eq!(note.bytes()[..7], [0xd2, 0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0]);
        let signature = &note.bytes()[note.bytes().len() - 66..];
        assert_eq!(signature[..2], [0x58, 0x40]);
    }

    #[test]
    fn every_bit_flip_and_every_truncation_is_refused() {
        let bytes = note().bytes().to_vec();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Signed::<Note>::from_bytes(flipped).verify().is_err(), "bit {bit} flipped was accepted");
        }
        for length in 0..bytes.len() {
            assert!(
                Signed::<Note>::from_bytes(&bytes[..length]).verify().is_err(),
                "{length} bytes accepted"
            );
        }
        let longer = [bytes, vec![0]].concat();
        assert!(Signed::<Note>::from_bytes(longer).verify().is_err(), "a trailing byte was accepted");
    }

    #[test]
    fn a_kind_is_never_taken_for_another() {
        let refused = Signed::<Other>::from_bytes(note().bytes()).verify();
        assert_eq!(refused, Err(SignedError::Kind { expected: "other", got: "note".into() }));
    }
}
