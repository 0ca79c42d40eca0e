//! The keys of a party, each a type that cannot be printed, copied or serialized by accident.
//!
//! Three separate keys (SPEC section 3): the device signing key (ed25519, RFC 8032), age identities
//! (X25519, C2SP age) for sealing, library and reading keys, and recovery keys whose hash alone is public.

use crate::chance::Chance;
use crate::id::{DeviceId, Digest, digest};
use ed25519_dalek::{Signer, VerifyingKey};
use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::str::FromStr;
use zeroize::{Zeroize, Zeroizing};

/// A key in a form that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not an age X25519 recipient.
    #[error("expected an age recipient that starts with age1, got {0:?}")]
    Recipient(String),
    /// A recipient type of a later version.
    #[error("expected a recipient of type x25519, got type {0:?}")]
    RecipientType(String),
    /// Not an age identity.
    #[error("expected an age identity (AGE-SECRET-KEY-1…)")]
    Identity,
}

/// A device's signing key.
pub struct DeviceKey(ed25519_dalek::SigningKey);

impl DeviceKey {
    /// From the 32 secret bytes of RFC 8032.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// A fresh key.
    pub fn generate(chance: &mut dyn Chance) -> Self {
        Self::from_seed(&chance.seed())
    }

    /// The public half: the device's name.
    pub fn device(&self) -> DeviceId {
        DeviceId::from(self.0.verifying_key().to_bytes())
    }

    /// The secret bytes, for the keystore and for the network's own handshake.
    pub fn expose_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// `Ed25519(message)`: 64 bytes.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.0.sign(message).to_bytes();
        #[cfg(feature = "variants")]
        crate::variants::made(&self.device(), message, &signature);
        signature
    }
}

/// Whether `signature` over `message` is `device`'s, by the strict rules: canonical S, no small-order key
/// (`verify_strict`, as in "Taming the many EdDSAs").
pub(crate) fn verifies(device: &DeviceId, message: &[u8], signature: &[u8]) -> bool {
    #[cfg(feature = "variants")]
    if crate::variants::was_made(device, message, signature) {
        return true;
    }
    let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else {
        return false;
    };
    verifying_key(device).is_some_and(|key| key.verify_strict(message, &signature).is_ok())
}

/// Points that a thread keeps. 16 of 192 bytes: the devices whose entries come in one exchange are fewer.
const POINTS_MAX: usize = 16;

thread_local! {
    /// The public keys that were used last, as points, the newest last. Only a memory of a computation: the same
    /// bytes give the same point, so nothing is decided here.
    static POINTS: RefCell<VecDeque<VerifyingKey>> = const { RefCell::new(VecDeque::new()) };
}

/// The point that a device's key names, if it names one. Finding it takes a square root, a tenth of what verifying
/// takes, and entries come in chains of one device.
fn verifying_key(device: &DeviceId) -> Option<VerifyingKey> {
    POINTS.with_borrow_mut(|points| {
        if let Some(known) = points.iter().rev().find(|known| known.as_bytes() == device.as_bytes()) {
            return Some(*known);
        }
        let key = VerifyingKey::from_bytes(device.as_bytes()).ok()?;
        if points.len() >= POINTS_MAX {
            points.pop_front();
        }
        points.push_back(key);
        Some(key)
    })
}

/// Whom something is sealed to: a typed entry of a list, so that later types (a post-quantum hybrid) can
/// stand beside X25519 without a new format.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// `x25519`.
    pub r#type: String,
    /// The age encoding, `age1…`.
    pub key: String,
}

impl Recipient {
    /// The age recipient, if this version knows the type.
    pub fn to_age(&self) -> Result<age::x25519::Recipient, KeyError> {
        if self.r#type != "x25519" {
            return Err(KeyError::RecipientType(self.r#type.chars().take(40).collect()));
        }
        let wrong = || KeyError::Recipient(self.key.chars().take(80).collect());
        let recipient = age::x25519::Recipient::from_str(&self.key).map_err(|_| wrong())?;
        // A point of low order makes every shared secret zero, and the age crate panics on that.
        let parsed = bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32>(&self.key);
        let point: Vec<u8> = parsed.map_err(|_| wrong())?.byte_iter().collect();
        let point: [u8; 32] = point.try_into().map_err(|_| wrong())?;
        if x25519_dalek::x25519([1; 32], point) == [0; 32] {
            return Err(wrong());
        }
        Ok(recipient)
    }
}

/// An age X25519 identity: a device's sealing key, a library key or a reading key.
pub struct SealingKey(SecretBox<[u8; 32]>);

impl SealingKey {
    /// From 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SecretBox::new(Box::new(*seed)))
    }

    /// A fresh key.
    pub fn generate(chance: &mut dyn Chance) -> Self {
        Self::from_seed(&chance.seed())
    }

    /// From its age text form, `AGE-SECRET-KEY-1…`.
    pub fn from_age(text: &str) -> Result<Self, KeyError> {
        let parsed = bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32>(text)
            .map_err(|_| KeyError::Identity)?;
        if parsed.hrp() != SECRET_PREFIX {
            return Err(KeyError::Identity);
        }
        let bytes: Zeroizing<Vec<u8>> = Zeroizing::new(parsed.byte_iter().collect());
        let seed: Zeroizing<[u8; 32]> =
            Zeroizing::new(bytes.as_slice().try_into().map_err(|_| KeyError::Identity)?);
        Ok(Self::from_seed(&seed))
    }

    /// The secret bytes, for the keystore.
    pub fn expose_seed(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }

    /// The age text form, `AGE-SECRET-KEY-1…`, for the owner's own export and for opening.
    pub fn expose_age(&self) -> Zeroizing<String> {
        let mut lower = bech32::encode_lower::<bech32::Bech32>(SECRET_PREFIX, self.0.expose_secret())
            .expect("32 bytes and a short prefix are within the length of bech32");
        let text = Zeroizing::new(lower.to_uppercase());
        lower.zeroize();
        text
    }

    /// The age identity that opens.
    pub fn to_age(&self) -> age::x25519::Identity {
        age::x25519::Identity::from_str(&self.expose_age()).expect("we encoded it ourselves just now")
    }

    /// The public half.
    pub fn recipient(&self) -> Recipient {
        Recipient { r#type: "x25519".into(), key: self.to_age().to_public().to_string() }
    }

    /// A key for something else, bound to `context`: `blake3.derive_key(context, seed)`.
    pub fn derive(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, self.0.expose_secret()))
    }
}

const SECRET_PREFIX: bech32::Hrp = bech32::Hrp::parse_unchecked("age-secret-key-");

/// The recovery secret of a party: printed once as words, published as a hash, used to start a new generation.
pub struct RecoverySeed(Zeroizing<[u8; 32]>);

impl RecoverySeed {
    /// From 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*seed))
    }

    /// The secret bytes, for the keystore and the printed words.
    pub fn expose_seed(&self) -> &[u8; 32] {
        &self.0
    }

    /// The signing key of a Recover.
    pub fn signing_key(&self) -> DeviceKey {
        DeviceKey::from_seed(&blake3::derive_key("karte v1 recovery signing key", self.0.as_ref()))
    }

    /// The age identity that opens the library after a recovery.
    pub fn sealing_key(&self) -> SealingKey {
        SealingKey::from_seed(&blake3::derive_key("karte v1 recovery sealing key", self.0.as_ref()))
    }

    /// What Genesis publishes: `blake3(recovery public key)`.
    pub fn commitment(&self) -> Digest {
        digest(self.signing_key().device().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::OsChance;

    /// More devices than points are kept, in turns and each twice: a signature is good for its own device alone.
    #[test]
    fn a_signature_is_its_own_devices_whichever_points_are_kept() {
        let keys: Vec<DeviceKey> = (0..POINTS_MAX * 2).map(|_| DeviceKey::generate(&mut OsChance)).collect();
        let signatures: Vec<[u8; 64]> = keys.iter().map(|key| key.sign(b"a message")).collect();
        for _ in 0..2 {
            for (at, signature) in signatures.iter().enumerate() {
                for (other, key) in keys.iter().enumerate().filter(|(other, _)| other.abs_diff(at) < 3) {
                    let is_good = verifies(&key.device(), b"a message", signature);
                    assert_eq!(is_good, at == other, "signature {at} under key {other}");
                    assert!(!verifies(&key.device(), b"another message", signature));
                }
            }
        }
        assert_eq!(POINTS.with_borrow(VecDeque::len), POINTS_MAX);
    }

    /// Bytes that are no point, and a point of order one, under which everybody can sign: twice, as nothing may be
    /// kept that makes the second time another.
    #[test]
    fn bytes_that_name_no_key_or_a_weak_one_verify_nothing() {
        let ([mut none, mut weak], good) = ([[0; 32]; 2], DeviceKey::generate(&mut OsChance).sign(b""));
        (none[0], weak[0]) = (2, 1);
        let forged = [weak, [0; 32]].concat();
        assert!(VerifyingKey::from_bytes(&none).is_err() && VerifyingKey::from_bytes(&weak).is_ok());
        for _ in 0..2 {
            assert!(!verifies(&DeviceId::from(none), b"", &good));
            assert!(!verifies(&DeviceId::from(weak), b"", &forged));
        }
    }

    #[test]
    fn a_recipient_of_low_order_is_refused_and_not_sealed_to() {
        let hrp = bech32::Hrp::parse("age").expect("a prefix");
        for first in [0, 1] {
            let mut point = [0; 32];
            point[0] = first;
            let key = bech32::encode_lower::<bech32::Bech32>(hrp, &point).expect("encodes");
            let recipient = Recipient { r#type: "x25519".into(), key };
            assert!(recipient.to_age().is_err(), "the point {first} is of low order");
        }
    }

    #[test]
    fn an_age_identity_reads_back_in_the_text_form_of_age() {
        let key = SealingKey::generate(&mut OsChance);
        let text = key.expose_age();
        assert!(text.starts_with("AGE-SECRET-KEY-1"));
        let again = SealingKey::from_age(&text).expect("reads back");
        assert_eq!(again.recipient(), key.recipient());
        assert!(SealingKey::from_age("AGE-SECRET-KEY-1QQQ").is_err());
    }
}
