//! Names of things: 32-byte values with a type each, so that one can never be passed for another.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A text that is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Wrong number of hexadecimal digits.
    #[error("expected {expected} hexadecimal digits, got {got:?}")]
    Hex {
        /// Digits that belong there.
        expected: usize,
        /// The text given.
        got: String,
    },
    /// Not bech32m, or with another prefix.
    #[error("expected a party id that starts with karte1, got {0:?}")]
    Party(String),
}

macro_rules! name_of_32_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first twelve hexadecimal digits: enough to tell things apart on a screen.
            pub fn short(&self) -> String {
                hex(&self.0).chars().take(12).collect()
            }

            /// Lower-case hexadecimal.
            pub fn to_hex(&self) -> String {
                hex(&self.0)
            }

            /// From a slice of exactly 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                <[u8; 32]>::try_from(bytes).ok().map(Self)
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(*hash.as_bytes())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes: serde_bytes::ByteArray<32> = Deserialize::deserialize(deserializer)?;
                Ok(Self(bytes.into_array()))
            }
        }
    };
}

macro_rules! shown_as_hex {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                unhex(text).map(Self)
            }
        }
    };
}

name_of_32_bytes!(
    /// A party: blake3 of its Genesis payload. Shown as `karte1…` (bech32m, BIP 350).
    PartyId
);
name_of_32_bytes!(
    /// An entry of a consent log: blake3 of its signed payload.
    EntryId
);
name_of_32_bytes!(
    /// A grant: the [`EntryId`] of its Grant entry.
    GrantId
);
name_of_32_bytes!(
    /// A record: blake3 of its payload (ciphertext). `b3sum` of the payload file prints it.
    RecordId
);
name_of_32_bytes!(
    /// Any other signed object: blake3 of its signed payload.
    ObjectId
);
name_of_32_bytes!(
    /// A device: its ed25519 public key (RFC 8032), which is also its libp2p peer id.
    DeviceId
);
name_of_32_bytes!(
    /// blake3 of something that is not one of the above.
    Digest
);
name_of_32_bytes!(
    /// Random bytes that blind a commitment.
    Salt
);
shown_as_hex!(EntryId);
shown_as_hex!(GrantId);
shown_as_hex!(RecordId);
shown_as_hex!(ObjectId);
shown_as_hex!(DeviceId);
shown_as_hex!(Digest);

impl From<EntryId> for GrantId {
    fn from(entry: EntryId) -> Self {
        Self(entry.0)
    }
}

impl From<GrantId> for EntryId {
    fn from(grant: GrantId) -> Self {
        Self(grant.0)
    }
}

impl From<PartyId> for EntryId {
    /// A party's Genesis.
    fn from(party: PartyId) -> Self {
        Self(party.0)
    }
}

impl From<ObjectId> for EntryId {
    fn from(object: ObjectId) -> Self {
        Self(object.0)
    }
}

/// `blake3(bytes)`.
pub fn digest(bytes: &[u8]) -> Digest {
    blake3::hash(bytes).into()
}

const PARTY_PREFIX: bech32::Hrp = bech32::Hrp::parse_unchecked("karte");

impl fmt::Display for PartyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<bech32::Bech32m, _>(f, PARTY_PREFIX, &self.0).map_err(|_| fmt::Error)
    }
}

impl FromStr for PartyId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Party(text.chars().take(80).collect());
        let parsed = bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32m>(text)
            .map_err(|_| wrong())?;
        if parsed.hrp() != PARTY_PREFIX {
            return Err(wrong());
        }
        let bytes: Vec<u8> = parsed.byte_iter().collect();
        // The last character has spare bits: only the one text that we would write ourselves is a name.
        Self::from_slice(&bytes)
            .filter(|party| party.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(wrong)
    }
}

/// Lower-case hexadecimal of any bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Result<[u8; 32], IdError> {
    blake3::Hash::from_hex(text)
        .map(|hash| *hash.as_bytes())
        .map_err(|_| IdError::Hex { expected: 64, got: text.chars().take(80).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_id_reads_back_and_refuses_a_slip_of_the_pen() {
        let party = PartyId::from([7; 32]);
        let text = party.to_string();
        assert!(text.starts_with("karte1"), "{text}");
        assert_eq!(text.parse(), Ok(party));
        let slipped = text.replacen('q', "p", 1);
        assert!(slipped.parse::<PartyId>().is_err());
        assert!("karte1".parse::<PartyId>().is_err());
    }
}
