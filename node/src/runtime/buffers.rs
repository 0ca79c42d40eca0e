//! Buffers that go round between the thread that fills them and the task that empties them.
//!
//! For: no new megabyte for every megabyte that moves: the system would map and clear each of them. Not for: limiting how
//! much is under way, which the queues do.

use super::lock;
use std::sync::{Arc, Mutex};

/// Buffers kept for the next use. 4: what a queue between two sides holds.
const KEPT_MAX: usize = 4;

/// The buffers; clones share them.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// One, perhaps with old bytes in it.
    pub(super) fn take(&self) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_default()
    }

    /// For the next who asks.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = lock(&self.0);
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    }
}
