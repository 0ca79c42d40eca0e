//! The devices that the node knows: those of its contacts, its own others, and the relays that it uses.
//!
//! For: a few places in this room treat them differently: they have slots of their own, and only what they say about
//! addresses is listened to. Not for: why they are known; the runtime says who, this room asks no further.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use libp2p::PeerId;

/// Shared by the behaviours of one swarm. std's lock, not tokio's: nothing awaits under it.
#[derive(Clone, Default)]
pub(crate) struct Known(Arc<RwLock<Peers>>);

#[derive(Default)]
struct Peers {
    /// As the runtime said last.
    told: HashSet<PeerId>,
    /// Relays of the settings.
    relays: HashSet<PeerId>,
}

impl Known {
    pub(crate) fn new(relays: impl IntoIterator<Item = PeerId>) -> Self {
        let peers = Peers { told: HashSet::new(), relays: relays.into_iter().collect() };
        Self(Arc::new(RwLock::new(peers)))
    }

    /// Replaces who is known.
    pub(crate) fn replace(&self, told: HashSet<PeerId>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).told = told;
    }

    /// Whether this is a relay that we use and nobody whom the node knows.
    pub(crate) fn is_only_relay(&self, peer: &PeerId) -> bool {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        peers.relays.contains(peer) && !peers.told.contains(peer)
    }

    /// Whether this is a device that the node knows, or a relay that it uses.
    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        peers.told.contains(peer) || peers.relays.contains(peer)
    }
}
