//! Urgent records first: what is long rests while something urgent goes to the same device.
//!
//! For: streams to one device, which share its line. Not for: which records are urgent; the reader said so with its list,
//! and can delay nobody's transfers but its own.

use super::lock;
use karte_protocol::id::DeviceId;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::Notify;

/// Longest rest at a time. 2 s: whoever calls everything urgent, or does not take what it asked for, gets on all the same.
const REST_MAX: Duration = Duration::from_secs(2);

/// Urgent lists under way, by device.
#[derive(Default)]
pub(super) struct Rush {
    urgent: Mutex<HashMap<DeviceId, usize>>,
    ended: Notify,
}

/// The part that one want-list has in it, until it is dropped.
pub(super) struct Share<'a> {
    rush: &'a Rush,
    peer: DeviceId,
    urgent: bool,
}

impl Rush {
    pub(super) fn join(&self, peer: DeviceId, urgent: bool) -> Share<'_> {
        if urgent {
            *lock(&self.urgent).entry(peer).or_default() += 1;
        }
        Share { rush: self, peer, urgent }
    }
}

impl Share<'_> {
    /// Waits while something urgent goes to the same device, at most 2 s. Dropping this future is safe.
    pub(super) async fn my_turn(&self) {
        if self.urgent {
            return;
        }
        let turn = async {
            loop {
                let mut ended = std::pin::pin!(self.rush.ended.notified());
                // Before looking, so that no end is missed in between.
                ended.as_mut().enable();
                if !lock(&self.rush.urgent).contains_key(&self.peer) {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(REST_MAX, turn).await;
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        if !self.urgent {
            return;
        }
        let mut urgent = lock(&self.rush.urgent);
        if let Some(lists) = urgent.get_mut(&self.peer) {
            *lists -= 1;
            if *lists == 0 {
                urgent.remove(&self.peer);
            }
        }
        drop(urgent);
        self.rush.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn what_is_long_rests_while_something_urgent_goes_to_the_same_device() {
        let (rush, here, there) =
            (Arc::new(Rush::default()), DeviceId::from([1; 32]), DeviceId::from([2; 32]));
        let urgent = rush.join(here, true);
        rush.join(there, false).my_turn().await;
        let went = Arc::new(AtomicBool::new(false));
        let resting = tokio::spawn({
            let (rush, went) = (rush.clone(), went.clone());
            async move {
                rush.join(here, false).my_turn().await;
                went.store(true, Ordering::SeqCst);
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!went.load(Ordering::SeqCst), "it rests");
        drop(urgent);
        resting.await.expect("it goes on");
    }
}
