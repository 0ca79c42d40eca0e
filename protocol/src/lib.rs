//! What Karte nodes sign, seal and say to each other.
//!
//! For: bytes and rules. Every signed object, the sealing of records, the identity log, the decision whether
//! a record may leave. Pure functions over values; time and chance are arguments.
//!
//! Not for: sockets, disks, clocks, user interfaces. `Cargo.toml` names no tokio, libp2p or sled, so the
//! compiler keeps that seam. The bytes are specified in `SPEC.md`.

#![deny(missing_docs)]

/// Whether the simulator has chosen this wrong variant; `false` at compile time without the feature `variants`.
#[cfg(feature = "variants")]
macro_rules! wrong {
    ($variant:ident) => {
        crate::variants::is_chosen(crate::variants::Variant::$variant)
    };
}
#[cfg(not(feature = "variants"))]
macro_rules! wrong {
    ($variant:ident) => {
        false
    };
}

pub mod backup;
pub mod bao;
pub mod card;
pub mod chance;
pub mod consent;
pub mod decide;
pub mod encoding;
pub mod entry;
pub mod grant;
pub mod id;
pub mod identity;
pub mod keys;
pub mod label;
pub mod limits;
pub mod message;
pub mod own;
pub mod rank;
pub mod recovery;
pub mod request;
pub mod seal;
pub mod shelf;
pub mod signed;
mod stream;
pub mod time;
#[cfg(feature = "variants")]
pub mod variants;
