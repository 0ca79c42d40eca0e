//! Device keys and libp2p's peer ids, which are two spellings of the same ed25519 public key.
//!
//! For: callers name peers by `DeviceKey` and never see a `PeerId`. Not for: trust in a key.

use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};

use super::NetError;

/// The ed25519 public key of a device.
pub type DeviceKey = [u8; 32];

/// What stands before the key in a peer id: identity multihash, 36 bytes, protobuf `{type: ed25519, 32 bytes}`.
/// <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>
const ED25519_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The peer id of a device; an error if the bytes are no point on the curve.
pub fn peer_id_of(device: &DeviceKey) -> Result<PeerId, NetError> {
    let key = ed25519::PublicKey::try_from_bytes(device).map_err(|_| NetError::NotDevice)?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// What stands behind `/p2p/` in an address of this device; none if the bytes are no key.
pub fn peer_text(device: &DeviceKey) -> Option<String> {
    peer_id_of(device).ok().map(|peer| peer.to_string())
}

/// The device behind a peer id; `None` if its key is not ed25519.
pub fn device_of(peer: &PeerId) -> Option<DeviceKey> {
    peer.to_bytes().strip_prefix(&ED25519_PREFIX)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;

    #[test]
    fn a_peer_id_is_its_device_key() {
        let peer = Keypair::generate_ed25519().public().to_peer_id();
        let device = device_of(&peer).expect("an ed25519 peer has a device key");
        assert_eq!(peer_id_of(&device).expect("a generated key is on the curve"), peer);
    }

    #[test]
    fn other_key_types_are_no_devices() {
        assert_eq!(device_of(&PeerId::random()), None, "a hashed key hides its type");
    }
}
