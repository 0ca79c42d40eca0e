//! Entries: what a party says about itself and its permissions, one hash chain per device.
//!
//! For: the shapes. What a set of entries means is [`crate::identity`]'s.

use crate::encoding::{self, EncodingError};
use crate::id::{DeviceId, Digest, EntryId, GrantId, PartyId, Salt};
use crate::keys::{Recipient, RecoverySeed};
use crate::limits::{DEVICES_MAX, TEXT_BYTES_MAX};
use crate::signed::Statement;
use crate::time::UnixMs;
use serde::{Deserialize, Serialize};

/// One link of a device's chain.
///
/// Genesis and Recover are their signer's seq 0; another device starts at 0 with `prev` = the entry that
/// names it. Genesis alone has no `prev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Position in the device's chain, from 0.
    pub seq: u64,
    /// The entry before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<EntryId>,
    /// The signer's clock. Informative: no rule orders by it.
    pub at_ms: UnixMs,
    /// What is said.
    pub act: Act,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// The party begins. Its id is the hash of this entry's payload.
    Genesis(Genesis),
    /// A further device.
    AddDevice(Device),
    /// A device ends; what it signed up to `last_valid_seq` stays.
    RemoveDevice {
        /// The device that ends.
        device: DeviceId,
        /// Its last entry that still counts.
        last_valid_seq: u64,
    },
    /// A party that keeps payloads, shelves and log while this one is offline. It reads nothing, grants nothing.
    AddSteward {
        /// The steward.
        party: PartyId,
        /// Its devices.
        devices: Vec<DeviceId>,
    },
    /// A steward ends.
    RemoveSteward {
        /// The steward.
        party: PartyId,
    },
    /// A new generation, signed by keys committed in advance.
    Recover(Recover),
    /// Proof that a device signed two entries with one seq: the COSE bytes of both.
    Fork {
        /// The device.
        device: DeviceId,
        /// One entry.
        #[serde(with = "serde_bytes")]
        one: Vec<u8>,
        /// The other.
        #[serde(with = "serde_bytes")]
        other: Vec<u8>,
    },
    /// A permission, blinded: `blake3(dag-cbor [salt, opened])`. Its reader and scope stay in the Opening.
    Grant {
        /// The commitment.
        commitment: Digest,
    },
    /// The end of a permission. Never sealed: anybody can honour it.
    Revoke {
        /// What ends.
        grant: GrantId,
        /// Why, in the holder's words; may be empty.
        reason: String,
    },
}

/// The beginning of a party.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Makes two parties of one device differ.
    pub salt: Salt,
    /// The first devices; the signer is one of them.
    pub devices: Vec<Device>,
    /// `blake3` of each recovery public key. Empty: this party cannot be recovered.
    pub next_recovery: Vec<Digest>,
    /// How many of those keys must sign a Recover.
    pub threshold: u8,
}

/// A device of a party.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its signing key.
    pub device: DeviceId,
    /// Whom to seal offers for this device to.
    pub recipients: Vec<Recipient>,
}

/// A new generation of a party.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recover {
    /// What the recovery keys sign.
    pub terms: RecoverTerms,
    /// The recovery public keys whose hashes were committed.
    pub reveals: Vec<DeviceId>,
    /// `Ed25519(dag-cbor terms)` by each of `reveals`, in that order.
    pub signatures: Vec<serde_bytes::ByteBuf>,
}

/// What a recovery decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverTerms {
    /// The party.
    pub party: PartyId,
    /// The generation that begins.
    pub r#gen: u32,
    /// Its first devices; the first of them signs the entry.
    pub devices: Vec<Device>,
    /// Commitments of the next recovery.
    pub next_recovery: Vec<Digest>,
    /// How many of those must sign.
    pub threshold: u8,
}

impl Recover {
    /// Signs `terms` with recovery keys: `Ed25519(dag-cbor terms)` by each (SPEC rule 6).
    pub fn sign(terms: RecoverTerms, seeds: &[&RecoverySeed]) -> Result<Self, EncodingError> {
        let signed = encoding::encode(&terms)?;
        let keys: Vec<_> = seeds.iter().map(|seed| seed.signing_key()).collect();
        Ok(Self {
            terms,
            reveals: keys.iter().map(|key| key.device()).collect(),
            signatures: keys.iter().map(|key| serde_bytes::ByteBuf::from(key.sign(&signed))).collect(),
        })
    }
}

impl Act {
    /// Whether this ends something: such an entry is recorded also when the disk has hardly any room left.
    pub fn is_denial(&self) -> bool {
        matches!(
            self,
            Act::Revoke { .. } | Act::RemoveDevice { .. } | Act::RemoveSteward { .. } | Act::Recover(_)
        )
    }

    /// Whether this is about who the party is: such entries go to everybody who meets it.
    pub fn is_identity(&self) -> bool {
        !matches!(self, Act::Grant { .. } | Act::Revoke { .. })
    }
}

impl Statement for Entry {
    const KIND: &'static str = "entry";

    fn check(&self) -> Result<(), &'static str> {
        match &self.act {
            Act::Genesis(genesis) => check_devices(&genesis.devices),
            Act::Recover(recover) => check_devices(&recover.terms.devices),
            Act::AddDevice(device) => check_devices(std::slice::from_ref(device)),
            Act::AddSteward { devices, .. } if devices.len() > DEVICES_MAX => {
                Err("expected at most 64 devices of a steward")
            }
            Act::Revoke { reason, .. } if reason.len() > TEXT_BYTES_MAX => {
                Err("expected a reason of at most 500 bytes")
            }
            _ => Ok(()),
        }
    }
}

fn check_devices(devices: &[Device]) -> Result<(), &'static str> {
    if devices.is_empty() || devices.len() > DEVICES_MAX {
        return Err("expected 1 to 64 devices");
    }
    if devices.iter().any(|device| device.recipients.is_empty() || device.recipients.len() > 8) {
        return Err("expected 1 to 8 recipients for each device");
    }
    Ok(())
}
