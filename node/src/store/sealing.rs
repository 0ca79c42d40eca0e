//! Keys and sealing: what makes the folder unreadable without the [`StoreKey`].
//!
//! For: sub keys, sealed bytes, secret names of rows, and the MAC of small files. Not for: records, which are
//! age files sealed before they come here, nor for hiding how many rows there are and how long.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{StoreError, Table};

/// XChaCha20's nonce, in bytes: long enough to be drawn at random for every message.
const NONCE_BYTES: usize = 24;
/// Poly1305's tag, in bytes.
const TAG_BYTES: usize = 16;
/// What sealing adds, in bytes.
pub(super) const SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;
/// A row's secret name, in bytes: table, 16 for the parent, 16 for the item. 128 bits under a secret key: no
/// two rows meet by accident or by design.
pub(super) const ROW_BYTES: usize = 33;

/// The secret a store is sealed under. No Debug, Display, Serialize or Copy; zeroized when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct StoreKey([u8; 32]);

impl StoreKey {
    /// Takes over 32 secret bytes, which the caller should zeroize.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }
}

/// The sub keys of one store.
///
/// `blake3::derive_key("karte store 1 <use>", StoreKey ‖ store id)`: a key used for two stores gives two sets.
pub(super) struct Keys {
    pub(super) store_id: [u8; 16],
    pub(super) journal: Sealer,
    pub(super) view: Sealer,
    row: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 32]>,
}

impl Keys {
    pub(super) fn derive(key: &StoreKey, store_id: [u8; 16]) -> Self {
        let mut material = Zeroizing::new([0u8; 48]);
        for (to, from) in material.iter_mut().zip(key.0.iter().chain(&store_id)) {
            *to = *from;
        }
        let sub = |context| Zeroizing::new(blake3::derive_key(context, material.as_slice()));
        Self {
            store_id,
            journal: Sealer::new(&sub("karte store 1 journal")),
            view: Sealer::new(&sub("karte store 1 view")),
            row: sub("karte store 1 row"),
            mac: sub("karte store 1 mac"),
        }
    }

    /// Proves in the journal's header which key the store was made with, so that a wrong key is not taken for
    /// damage.
    pub(super) fn check(&self) -> [u8; 32] {
        self.mac("check", &self.store_id)
    }

    /// `blake3_keyed(mac, name ‖ 0 ‖ bytes)`: of a small file, named so that none passes for another.
    pub(super) fn mac(&self, name: &str, bytes: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.mac);
        hasher.update(name.as_bytes()).update(&[0]).update(bytes);
        hasher.finalize().into()
    }

    /// The secret name of a parent, a prefix of those of its rows: `table ‖ H(0, table, parent)[..16]`.
    pub(super) fn parent_name(&self, table: Table, parent: &[u8]) -> Vec<u8> {
        let mut name = Vec::with_capacity(ROW_BYTES);
        name.push(table.0);
        name.extend(self.short_hash(0, table, parent, &[]));
        name
    }

    /// The secret name of a row: `parent name ‖ H(1, table, parent, item)[..16]`.
    pub(super) fn row_name(&self, table: Table, parent: &[u8], item: &[u8]) -> Vec<u8> {
        let mut name = self.parent_name(table, parent);
        name.extend(self.short_hash(1, table, parent, item));
        name
    }

    fn short_hash(&self, level: u8, table: Table, parent: &[u8], item: &[u8]) -> impl Iterator<Item = u8> {
        let mut hasher = blake3::Hasher::new_keyed(&self.row);
        hasher.update(&[level, table.0]);
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.update(&(parent.len() as u64).to_le_bytes()).update(parent).update(item);
        let hash: [u8; 32] = hasher.finalize().into();
        hash.into_iter().take(16)
    }
}

/// `nonce ‖ XChaCha20-Poly1305(key, nonce, aad, plain)`, the nonce random.
/// <https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-xchacha-03>
pub(crate) struct Sealer(XChaCha20Poly1305);

impl Sealer {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        // The cipher zeroizes its own copy when dropped.
        Self(XChaCha20Poly1305::new(key.into()))
    }

    pub(crate) fn seal(&self, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut sealed = Vec::with_capacity(plain.len().saturating_add(SEAL_BYTES));
        self.seal_onto(&mut sealed, aad, plain)?;
        Ok(sealed)
    }

    /// Seals behind what is there already. After an error it is not to be used.
    pub(super) fn seal_onto(&self, onto: &mut Vec<u8>, aad: &[u8], plain: &[u8]) -> Result<(), StoreError> {
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(StoreError::Random)?;
        onto.reserve_exact(plain.len().saturating_add(SEAL_BYTES));
        onto.extend_from_slice(&nonce);
        let start = onto.len();
        onto.extend_from_slice(plain);
        let (_, body) = onto.split_at_mut(start);
        // Fails only beyond 256 GiB, and every caller is bounded far below.
        let tag = self
            .0
            .encrypt_in_place_detached(XNonce::from_slice(&nonce), aad, body)
            .map_err(|_| StoreError::TooLarge { what: "message", expected: usize::MAX, got: plain.len() })?;
        onto.extend_from_slice(&tag);
        Ok(())
    }

    /// The plaintext, or `None` when key, AAD or bytes are not those that were sealed.
    pub(crate) fn open(&self, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        let mut plain = Zeroizing::new(body.to_vec());
        self.0.decrypt_in_place_detached(XNonce::from_slice(nonce), aad, &mut plain, tag.into()).ok()?;
        Some(plain)
    }
}
