//! Events on their way to a reader that may be slow.
//!
//! For: the event loop never waits for its reader, and never grows without bound. Requests and streams are
//! offered only when there is room. `Connected`, `Disconnected`, `Listening` and `AddressesChanged` are never lost,
//! but a `Connected` not yet told is taken back when its peer leaves: the waiting list then holds at most one
//! `Disconnected` and one `Connected` per connected peer, each listen address once, and one `AddressesChanged`.
//! Not for: waking the reader of one particular peer.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::{DeviceKey, NetEvent};

/// The sending side of the event channel, and what did not fit into it yet.
pub(crate) struct Outbox {
    sender: mpsc::Sender<NetEvent>,
    waiting: VecDeque<NetEvent>,
}

impl Outbox {
    pub(crate) fn new(sender: mpsc::Sender<NetEvent>) -> Self {
        Self { sender, waiting: VecDeque::new() }
    }

    /// Whether `offer` would succeed: nothing may overtake what waits.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.sender.capacity() > 0
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands over an event that may be lost; says whether it was taken.
    pub(crate) fn offer(&self, event: NetEvent) -> bool {
        self.waiting.is_empty() && self.sender.try_send(event).is_ok()
    }

    /// Hands over an event that must arrive.
    pub(crate) fn tell(&mut self, event: NetEvent) {
        let is_told = self.waiting.iter().any(|told| match (told, &event) {
            (NetEvent::Listening(told), NetEvent::Listening(address)) => told == address,
            (NetEvent::AddressesChanged, NetEvent::AddressesChanged) => true,
            _ => false,
        });
        if !is_told {
            self.waiting.push_back(event);
            self.flush_now();
        }
    }

    /// Tells that a peer left, or takes back that it came.
    pub(crate) fn tell_disconnected(&mut self, peer: DeviceKey) {
        let untold = self
            .waiting
            .iter()
            .position(|event| matches!(event, NetEvent::Connected { peer: came, .. } if *came == peer));
        match untold {
            Some(index) => drop(self.waiting.remove(index)),
            None => self.tell(NetEvent::Disconnected { peer }),
        }
    }

    /// Waits for room and hands over one waiting event. Dropping this future is safe.
    pub(crate) async fn flush_one(&mut self) {
        match self.sender.reserve().await {
            Ok(permit) => {
                if let Some(event) = self.waiting.pop_front() {
                    permit.send(event);
                }
            }
            // Nobody reads any more.
            Err(_) => self.waiting.clear(),
        }
    }

    /// Hands over as much as fits without waiting.
    pub(crate) fn flush_now(&mut self) {
        while let Ok(permit) = self.sender.try_reserve() {
            match self.waiting.pop_front() {
                Some(event) => permit.send(event),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(peer: DeviceKey) -> NetEvent {
        NetEvent::Connected { peer, address: "/ip4/127.0.0.1/tcp/1".parse().expect("valid"), dialled: true }
    }

    #[tokio::test]
    async fn comings_and_goings_are_told_in_order_and_bounded() {
        let (sender, mut reader) = mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        let (ada, ben) = ([1; 32], [2; 32]);
        outbox.tell(came(ada));
        outbox.tell_disconnected(ada);
        for _ in 0..1000 {
            outbox.tell(came(ben));
            outbox.tell_disconnected(ben);
            outbox.tell(came(ada));
            outbox.tell_disconnected(ada);
        }
        assert_eq!(outbox.waiting.len(), 1, "only ada's leaving still waits");
        assert!(!outbox.has_room(), "nothing overtakes what waits");
        assert!(matches!(reader.recv().await, Some(NetEvent::Connected { peer, .. }) if peer == ada));
        outbox.flush_one().await;
        assert!(matches!(reader.recv().await, Some(NetEvent::Disconnected { peer }) if peer == ada));
        assert!(outbox.has_room());
    }
}
