//! Devices of one party among themselves: the invitation of a new one, and what live ones tell each other.
//!
//! For: shapes, the invitation's text, the proof of having it. Not for: who may speak; that is [`crate::identity`]'s
//! to say, and what a device does with an item is the node's.

use crate::card::{self, CardError, Introduced};
use crate::encoding::{self, EncodingError};
use crate::entry::Device;
use crate::grant::Opening;
use crate::id::{Digest, PartyId, digest};
use crate::keys::Recipient;
use crate::limits::{INVITE_CHARS_MAX, SIGNED_BYTES_MAX};
use crate::message::Bytes;
use crate::time::UnixMs;
use base64::Engine;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an invitation's secret. 32: the key of a blake3 keyed hash.
pub const INVITE_SECRET_BYTES: usize = 32;
const PREFIX: &str = "karte-invite:";

/// Lets one new device join a party, once. It holds a secret, so it does not print.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// COSE bytes of the inviting device's card: whom to call, and what the party is.
    pub card: Bytes,
    /// Known to the inviter and to whoever was given the text.
    pub secret: serde_bytes::ByteArray<INVITE_SECRET_BYTES>,
    /// Until when it is answered, by the inviter's clock; exclusive.
    pub until_ms: UnixMs,
}

impl Drop for Invite {
    fn drop(&mut self) {
        self.secret.as_mut_slice().zeroize();
    }
}

/// Why an invitation was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Not an invitation.
    #[error("expected an invitation that starts with {PREFIX} and has at most {INVITE_CHARS_MAX} characters")]
    NotInvite,
    /// Damaged.
    #[error("the invitation is damaged: {0}")]
    Damaged(String),
    /// The card in it.
    #[error(transparent)]
    Card(#[from] CardError),
}

impl Invite {
    /// The text form, to be given to the new device alone.
    pub fn to_text(&self) -> Result<Zeroizing<String>, EncodingError> {
        let bytes = Zeroizing::new(encoding::encode(self)?);
        let body = Zeroizing::new(base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(&bytes));
        Ok(Zeroizing::new(format!("{PREFIX}{}", *body)))
    }

    /// Reads the text form and checks the card in it. Whitespace is passed over.
    pub fn from_text(text: &str) -> Result<(Self, Introduced), InviteError> {
        let text: Zeroizing<String> = Zeroizing::new(text.split_whitespace().collect());
        if text.len() > INVITE_CHARS_MAX {
            return Err(InviteError::NotInvite);
        }
        let body = text.strip_prefix(PREFIX).ok_or(InviteError::NotInvite)?;
        let damaged = |reason: String| InviteError::Damaged(reason);
        let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(body).map(Zeroizing::new);
        let bytes = bytes.map_err(|error| damaged(error.to_string()))?;
        let invite: Self =
            encoding::decode(&bytes, SIGNED_BYTES_MAX).map_err(|error| damaged(error.to_string()))?;
        let introduced = card::introduce(&invite.card)?;
        Ok((invite, introduced))
    }

    /// Names the invitation without giving it away: `blake3(secret)`.
    pub fn name(&self) -> Digest {
        digest(self.secret.as_slice())
    }
}

/// Shows that whoever asks for `device` was given the secret: `blake3.keyed_hash(secret, canonical device)`.
pub fn join_proof(
    secret: &[u8; INVITE_SECRET_BYTES],
    device: &Device,
) -> Result<blake3::Hash, EncodingError> {
    Ok(blake3::keyed_hash(secret, &encoding::encode(device)?))
}

/// Compared in constant time: how much of a guess was right is nobody's to learn.
pub fn proves(secret: &[u8; INVITE_SECRET_BYTES], device: &Device, proof: &Digest) -> bool {
    join_proof(secret, device).is_ok_and(|expected| expected == blake3::Hash::from_bytes(*proof.as_bytes()))
}

/// One thing that a live device of a party tells another. Each is whole by itself and may come twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OwnItem {
    /// A contact as the own user wants it; of two the later.
    Contact {
        /// The party.
        party: PartyId,
        /// COSE bytes of its newest card. Absent: it was removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        card: Option<Bytes>,
        /// What it is called here.
        alias: String,
        /// When this was decided.
        at_ms: UnixMs,
    },
    /// A grant this party gave.
    Given {
        /// Whole.
        opening: Opening,
        /// What is held back without a word.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
        /// COSE bytes of the Accept that counts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accept: Option<Bytes>,
        /// Its reader has the offer.
        delivered: bool,
        /// When it was given.
        at_ms: UnixMs,
    },
    /// A grant this party received.
    Received {
        /// Whole.
        opening: Opening,
        /// What became of it.
        state: ReceivedState,
        /// COSE bytes of the party's own Accept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accept: Option<Bytes>,
        /// The reading key of that Accept: 32 bytes in an age file to the device that asks, and to nobody else.
        /// Made for the answer and never kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Bytes>,
        /// What arrives about the own party becomes its own.
        adopt: bool,
        /// Why it ended, in words.
        ended: String,
        /// When it came.
        at_ms: UnixMs,
    },
    /// A segment of the own shelf, of whichever device.
    Segment {
        /// The signed Segment.
        segment: Bytes,
        /// Its keys, age-sealed to the library key.
        keys: Bytes,
    },
    /// The library statement that counts.
    Library {
        /// The signed Library.
        library: Bytes,
        /// Whom it is sealed to beside the live devices: recovery keys.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        recovery: Vec<Recipient>,
    },
    /// A Release that a device of this party answered.
    Release {
        /// Signed by the reader.
        release: Bytes,
    },
    /// A Receipt, of a reader or of this party as one.
    Receipt {
        /// Signed by the reader.
        receipt: Bytes,
    },
}

/// What became of a grant that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceivedState {
    /// Nobody has answered it.
    Offered,
    /// Its user said no.
    Declined,
    /// Its user said yes.
    Accepted,
    /// It is over.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::OsChance;
    use crate::keys::{DeviceKey, SealingKey};

    #[test]
    fn a_proof_is_for_one_secret_and_one_device() {
        let sealing = SealingKey::generate(&mut OsChance).recipient();
        let named = |seed: u8| Device {
            device: DeviceKey::from_seed(&[seed; 32]).device(),
            recipients: vec![sealing.clone()],
        };
        let proof = Digest::from(join_proof(&[7; 32], &named(1)).unwrap());
        assert!(proves(&[7; 32], &named(1), &proof));
        assert!(!proves(&[8; 32], &named(1), &proof), "another invitation");
        assert!(!proves(&[7; 32], &named(2), &proof), "another device");
        assert!(!proves(&[7; 32], &named(1), &Digest::from([0; 32])));
    }

    #[test]
    fn what_is_no_invitation_is_refused() {
        for text in ["", "karte:abc", "karte-invite:", "karte-invite:%%%", "karte-invite:oA"] {
            assert!(Invite::from_text(text).is_err(), "{text:?} was taken for an invitation");
        }
        let long = format!("{PREFIX}{}", "a".repeat(INVITE_CHARS_MAX));
        assert!(matches!(Invite::from_text(&long), Err(InviteError::NotInvite)));
    }
}
