//! Canonical CBOR (dag-cbor): one byte string for one value, in both directions.
//!
//! A receiver decodes, encodes again and compares, so that nothing which two readers could understand
//! differently is ever accepted. Unknown fields are refused, absent is never null, there are no floats.
//! Source: RFC 8949 section 4.2.1; the dag-cbor codec of IPLD.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not the canonical encoding of the value expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// Over the bound of this kind of object.
    #[error("expected at most {max} bytes, got {got}")]
    TooLarge {
        /// Bytes allowed.
        max: usize,
        /// Bytes given.
        got: usize,
    },
    /// Not CBOR of this shape.
    #[error("expected {what}: {reason}")]
    Malformed {
        /// The type expected.
        what: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// CBOR of this shape, but not in its one canonical form.
    #[error("expected the canonical encoding of {what}, got another one")]
    NotCanonical {
        /// The type expected.
        what: &'static str,
    },
    /// A value that has no encoding (an own bug or an absurd size).
    #[error("{what} cannot be encoded: {reason}")]
    Unencodable {
        /// The type given.
        what: &'static str,
        /// What the encoder says.
        reason: String,
    },
}

/// Encodes canonically.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodingError> {
    serde_ipld_dagcbor::to_vec(value)
        .map_err(|error| EncodingError::Unencodable { what: short_name::<T>(), reason: error.to_string() })
}

/// Decodes all or nothing: at most `max` bytes, no leftover, and only the canonical form.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, EncodingError> {
    if bytes.len() > max {
        return Err(EncodingError::TooLarge { max, got: bytes.len() });
    }
    let value: T = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|error| EncodingError::Malformed { what: short_name::<T>(), reason: error.to_string() })?;
    if encode(&value)? != bytes {
        return Err(EncodingError::NotCanonical { what: short_name::<T>() });
    }
    Ok(value)
}

fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    let end = name.find('<').unwrap_or(name.len());
    let head = name.get(..end).unwrap_or(name);
    head.rsplit("::").next().unwrap_or(head)
}
