//! What was handed over under a grant and is not here: in order of use, and what of it is asked for from whom.
//!
//! For: want-lists that do not overlap, from one device or several. Not for: rows, which keep the same for the next start.

use karte_protocol::id::{DeviceId, RecordId};
use karte_protocol::limits::WANTS_MAX;
use karte_protocol::rank::URGENT;
use karte_protocol::shelf::Handed;
use std::collections::{BTreeMap, BTreeSet};

/// Want-lists under way with one device under one grant. 2: it sends the second while the first becomes durable.
const LISTS_MAX: u8 = 2;
/// The same with those of urgent records.
const LISTS_URGENT_MAX: u8 = 4;

/// Records that are handed over and not here.
#[derive(Default)]
pub(super) struct Lacking {
    items: BTreeMap<RecordId, Item>,
    /// What nobody is asked for: by rank, then as it came.
    free: BTreeSet<(u8, u64, RecordId)>,
    asked: BTreeMap<RecordId, DeviceId>,
    lists: BTreeMap<DeviceId, u8>,
    next: u64,
}

struct Item {
    handed: Handed,
    place: (u8, u64, RecordId),
}

impl Lacking {
    pub(super) fn insert(&mut self, handed: Handed) {
        let record = handed.record;
        if self.items.contains_key(&record) {
            return;
        }
        let place = (handed.rank, self.next, record);
        self.next = self.next.saturating_add(1);
        self.free.insert(place);
        self.items.insert(record, Item { handed, place });
    }

    /// It came, or will not.
    pub(super) fn remove(&mut self, record: &RecordId) -> Option<Handed> {
        let item = self.items.remove(record)?;
        self.free.remove(&item.place);
        self.asked.remove(record);
        Some(item.handed)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.items.values().map(|item| item.handed.bytes).sum()
    }

    /// Whether a device can be asked for more now.
    pub(super) fn may_ask(&self, peer: &DeviceId) -> bool {
        let lists = self.lists.get(peer).copied().unwrap_or_default();
        match self.free.first() {
            Some((URGENT, ..)) => lists < LISTS_URGENT_MAX,
            Some(_) => lists < LISTS_MAX,
            None => false,
        }
    }

    /// The next want-list to a device: what is urgent by itself, else all by rank.
    pub(super) fn ask(&mut self, peer: DeviceId) -> (bool, Vec<Handed>) {
        let urgent = self.free.first().is_some_and(|(rank, ..)| *rank == URGENT);
        let due = self.free.iter().take_while(|(rank, ..)| !urgent || *rank == URGENT).take(WANTS_MAX);
        let places: Vec<_> = due.copied().collect();
        let mut list = Vec::with_capacity(places.len());
        for place in places {
            self.free.remove(&place);
            self.asked.insert(place.2, peer);
            list.extend(self.items.get(&place.2).map(|item| item.handed.clone()));
        }
        *self.lists.entry(peer).or_default() += 1;
        (urgent, list)
    }

    pub(super) fn is_asked(&self, peer: &DeviceId) -> bool {
        self.lists.contains_key(peer)
    }

    /// One of a device's lists ended. False: none is under way, and this is the last word of an earlier connection.
    pub(super) fn list_ended(&mut self, peer: &DeviceId) -> bool {
        let Some(lists) = self.lists.get_mut(peer) else { return false };
        *lists = lists.saturating_sub(1);
        if *lists == 0 {
            self.forget(peer);
        }
        true
    }

    /// The connection to a device is over, and what it was asked for.
    pub(super) fn forget(&mut self, peer: &DeviceId) {
        self.lists.remove(peer);
        self.release(peer);
    }

    /// What a device was asked for is nobody's again. The ends of its lists are still to come.
    pub(super) fn release(&mut self, peer: &DeviceId) {
        let theirs = self.asked.extract_if(.., |_, asked| asked == peer);
        let freed = theirs.filter_map(|(record, _)| self.items.get(&record).map(|item| item.place));
        self.free.extend(freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use karte_protocol::rank::{ORDINARY, PREVIEW};
    use karte_protocol::seal::FileKey;

    fn handed(n: u8, rank: u8) -> Handed {
        let file_key = FileKey::from_bytes(&[n; 16]);
        Handed { record: [n; 32].into(), bytes: 10, file_key, label_hash: [n; 32].into(), rank }
    }

    fn names(list: &[Handed]) -> Vec<u8> {
        list.iter().map(|item| item.record.as_bytes()[0]).collect()
    }

    #[test]
    fn what_is_urgent_goes_alone_and_first_then_previews_then_as_it_came() {
        let (near, far) = (DeviceId::from([1; 32]), DeviceId::from([2; 32]));
        let mut lacking = Lacking::default();
        for (n, rank) in [(9, ORDINARY), (3, ORDINARY), (5, PREVIEW)] {
            lacking.insert(handed(n, rank));
        }
        assert_eq!(names(&lacking.ask(near).1), [5, 9, 3]);
        assert!(!lacking.may_ask(&far), "nobody is asked for what another was asked for");
        lacking.insert(handed(4, ORDINARY));
        assert_eq!(names(&lacking.ask(near).1), [4]);
        lacking.insert(handed(6, ORDINARY));
        assert!(!lacking.may_ask(&near), "two lists are enough");
        assert!(lacking.may_ask(&far));
        lacking.insert(handed(7, URGENT));
        assert!(lacking.may_ask(&near), "but not for what is urgent");
        let (urgent, list) = lacking.ask(near);
        assert_eq!((urgent, names(&list)), (true, vec![7]));
    }

    #[test]
    fn what_a_device_did_not_bring_is_asked_for_again() {
        let (near, far) = (DeviceId::from([1; 32]), DeviceId::from([2; 32]));
        let mut lacking = Lacking::default();
        (1..=3).for_each(|n| lacking.insert(handed(n, ORDINARY)));
        assert_eq!(lacking.ask(near).1.len(), 3);
        assert!(lacking.remove(&[2; 32].into()).is_some());
        lacking.forget(&near);
        assert_eq!(names(&lacking.ask(far).1), [1, 3]);
        assert!(!lacking.list_ended(&near), "the last word of an earlier connection");
        assert!(lacking.list_ended(&far));
        assert!(lacking.may_ask(&near), "an ended list leaves nothing asked for");
        assert_eq!((lacking.len(), lacking.bytes()), (2, 20));
    }
}
