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
        let Envelope { counted, payload: payload_bytes, signature } = Envelope::take_apart(&self.bytes)
            .ok_or_else(|| SignedError::NotCose("other headers or lengths than ours".into()))?;
        let payload = decode_payload::<T>(payload_bytes)?;
        if checks_signature && !verifies(&payload.by.device, &[TO_BE_SIGNED, counted].concat(), signature) {
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

/// What comes before the payload: tag 18, an array of 4, the protected header `{1: -8}`, no unprotected one.
const ENVELOPE: &[u8] = &[0xd2, 0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0];
/// What comes before the signature: a byte string of 64 bytes.
const SIGNATURE: &[u8] = &[0x58, 0x40];
/// What comes before the payload in the Sig_structure of RFC 9052 section 4.4: an array of 4, the context, the
/// protected header, no external data.
const TO_BE_SIGNED: &[u8] = b"\x84\x6aSignature1\x43\xa1\x01\x27\x40";

/// The parts of a signed object. There is one form, so it is compared and not parsed: what `coset` writes and
/// this takes apart are judged against each other at every signing, and in the tests below.
struct Envelope<'a> {
    /// The payload as a byte string, with its length in front.
    counted: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8; 64],
}

impl<'a> Envelope<'a> {
    fn take_apart(bytes: &'a [u8]) -> Option<Self> {
        let (rest, signature) = bytes.strip_prefix(ENVELOPE)?.split_last_chunk()?;
        let counted = rest.strip_suffix(SIGNATURE)?;
        Some(Self { counted, payload: content(counted)?, signature })
    }
}

/// What is in the byte string that `bytes` is, if its length is right and in its shortest form (RFC 8949 section
/// 4.2.1). Two bytes of length hold all that [`SIGNED_BYTES_MAX`] lets in.
fn content(bytes: &[u8]) -> Option<&[u8]> {
    let (length, content) = match bytes {
        [head @ 0x40..=0x57, content @ ..] => (usize::from(*head - 0x40), content),
        [0x58, length @ 24..=0xff, content @ ..] => (usize::from(*length), content),
        [0x59, high @ 1..=0xff, low, content @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), content)
        }
        _ => return None,
    };
    (content.len() == length).then_some(content)
}

fn decode_payload<T: Statement>(bytes: &[u8]) -> Result<Payload<T>, SignedError> {
    let payload = match encoding::decode::<Payload<T>>(bytes, SIGNED_BYTES_MAX) {
        Ok(payload) if payload.version == VERSION && payload.kind == T::KIND => payload,
        other => return Err(why_not::<T>(bytes, other.err())),
    };
    payload.body.check().map_err(SignedError::Bound)?;
    Ok(payload)
}

/// Kind and version come first, so that a wrong kind is named as such and not as a missing field.
fn why_not<T: Statement>(bytes: &[u8], error: Option<EncodingError>) -> SignedError {
    match serde_ipld_dagcbor::from_slice::<Head>(bytes) {
        Err(error) => EncodingError::Malformed { what: T::KIND, reason: error.to_string() }.into(),
        Ok(head) if head.version != VERSION => SignedError::Version(head.version),
        Ok(Head { kind, .. }) => match error {
            Some(error) if kind == T::KIND => error.into(),
            _ => SignedError::Kind { expected: T::KIND, got: kind.chars().take(40).collect() },
        },
    }
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

    /// What the specification says, in the words of coset: it parses, and written again it is the same.
    fn as_coset_has_it(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let cose = coset::CoseSign1::from_tagged_slice(bytes).ok()?;
        let payload = cose.payload.unwrap_or_default();
        let again = envelope(payload.clone(), cose.signature.clone()).ok()?;
        (again == bytes).then_some((payload, cose.signature))
    }

    fn as_we_have_it(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let parts = Envelope::take_apart(bytes)?;
        Some((parts.payload.to_vec(), parts.signature.to_vec()))
    }

    #[test]
    fn the_envelope_is_the_one_that_coset_writes_whatever_the_length() {
        for length in [0, 1, 23, 24, 255, 256, 257, 4_000, 65_462] {
            let payload: Vec<u8> = (0..=255).cycle().take(length).collect();
            let bytes = envelope(payload.clone(), vec![7; 64]).expect("writes");
            assert_eq!(as_we_have_it(&bytes), Some((payload.clone(), vec![7; 64])), "{length} bytes");
            let counted = Envelope::take_apart(&bytes).expect("our form").counted;
            assert_eq!([TO_BE_SIGNED, counted].concat(), to_be_signed(&payload).expect("encodes"));
        }
    }

    /// Every byte of the frame around the payload takes every value; both readers say the same.
    #[test]
    fn an_envelope_is_taken_exactly_when_coset_reads_and_writes_it_so() {
        for length in [0, 5, 23, 24, 30, 255, 256, 300] {
            let good = envelope(vec![0x61; length], vec![7; 64]).expect("writes");
            let frame = (0..10).chain(good.len() - 67..good.len() - 62);
            for (at, value) in frame.flat_map(|at| (0..=255).map(move |value| (at, value))) {
                let mut bytes = good.clone();
                bytes[at] = value;
                assert_eq!(as_we_have_it(&bytes), as_coset_has_it(&bytes), "{length}: {at} is {value:#x}");
            }
            for until in 0..good.len() {
                assert_eq!(as_we_have_it(&good[..until]), None, "{until} bytes of {}", good.len());
            }
        }
    }

    /// The heads that CBOR has for a byte string of this length, the shortest first.
    fn heads(length: u16) -> Vec<Vec<u8>> {
        let [high, low] = length.to_be_bytes();
        let mut heads = vec![];
        heads.extend((length < 24).then(|| vec![0x40 + low]));
        heads.extend((high == 0).then(|| vec![0x58, low]));
        heads.push(vec![0x59, high, low]);
        heads.push(vec![0x5a, 0, 0, high, low]);
        heads.push(vec![0x5b, 0, 0, 0, 0, 0, 0, high, low]);
        heads
    }

    /// Else its signer could make two objects of one payload, both with a good signature.
    #[test]
    fn a_length_that_is_written_longer_than_it_must_be_is_refused() {
        for length in [0, 1, 23, 24, 255, 256, 4_000] {
            let payload = vec![0x61; usize::from(length)];
            for (nth, head) in heads(length).into_iter().enumerate() {
                let bytes = [ENVELOPE, &head, &payload, SIGNATURE, &[7; 64]].concat();
                let read = coset::CoseSign1::from_tagged_slice(&bytes).expect("others read it");
                assert_eq!(read.payload, Some(payload.clone()));
                assert_eq!(as_we_have_it(&bytes).is_some(), nth == 0, "{length} bytes after {head:x?}");
            }
        }
    }

    #[test]
    fn a_kind_is_never_taken_for_another() {
        let refused = Signed::<Other>::from_bytes(note().bytes()).verify();
        assert_eq!(refused, Err(SignedError::Kind { expected: "other", got: "note".into() }));
    }
}
