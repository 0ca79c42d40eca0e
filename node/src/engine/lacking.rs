//! What was handed over under a grant and is not here: in order of use, and what of it is asked for from whom.
//!
//! For: want-lists that do not overlap, from one device or several at once. Not for: rows, which keep the same for the next
//! start; nor whom to ask ([`super::sources`]).

use karte_protocol::id::{DeviceId, RecordId};
use karte_protocol::limits::WANTS_MAX;
use karte_protocol::rank::URGENT;
use karte_protocol::shelf::Handed;
use karte_protocol::time::{SECOND_MS, UnixMs};
use std::collections::BTreeMap;

/// Want-lists under way with one device under one grant. 2: it sends the second while the first becomes durable.
const LISTS_MAX: u8 = 2;
/// The same with those of urgent records.
const LISTS_URGENT_MAX: u8 = 4;
/// Payload bytes of a want-list, beyond its first record. 32 MiB: two of them keep a line of 500 Mbit/s with a second of
/// delay full, and what is left can go to another device.
const LIST_BYTES_MAX: u64 = 32 << 20;
/// Payload bytes that nobody is asked for, from which on a further device is asked. One list: below it, it would come too
/// late to help.
const SHARED_BYTES_MIN: u64 = LIST_BYTES_MAX;
/// How long a further device may take for what the first one could have brought by then, in milliseconds. 2 s.
const SLOW_AFTER_MS: i64 = 2 * SECOND_MS;

/// Its place in the order of use: its rank, then as it came.
type Place = (u8, u64, RecordId);

/// Records that are handed over and not here.
#[derive(Default)]
pub(super) struct Lacking {
    items: BTreeMap<RecordId, Item>,
    free: Free,
    asked: BTreeMap<RecordId, DeviceId>,
    lists: BTreeMap<DeviceId, Lists>,
    next: u64,
}

struct Item {
    handed: Handed,
    place: Place,
}

/// What nobody is asked for.
#[derive(Default)]
struct Free {
    places: BTreeMap<Place, u64>,
    bytes: u64,
}

impl Free {
    fn insert(&mut self, item: &Item) {
        if self.places.insert(item.place, item.handed.bytes).is_none() {
            self.bytes = self.bytes.saturating_add(item.handed.bytes);
        }
    }

    fn remove(&mut self, place: &Place) {
        if let Some(bytes) = self.places.remove(place) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    fn is_urgent(&self) -> bool {
        self.places.keys().next().is_some_and(|(rank, ..)| *rank == URGENT)
    }
}

/// Want-lists under way with a device.
#[derive(Clone, Copy)]
struct Lists {
    count: u8,
    /// When the newest of them was made.
    since_ms: UnixMs,
}

/// Which part of what is left goes to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The next ones in order of use.
    Next,
    /// The last ones: from a device that helps the one that is asked for the next.
    Last,
}

impl Lacking {
    pub(super) fn insert(&mut self, handed: Handed) {
        let record = handed.record;
        if self.items.contains_key(&record) {
            return;
        }
        let item = Item { place: (handed.rank, self.next, record), handed };
        self.next = self.next.saturating_add(1);
        self.free.insert(&item);
        self.items.insert(record, item);
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
        let lists = self.lists.get(peer).map_or(0, |lists| lists.count);
        match self.free.is_urgent() {
            true => lists < LISTS_URGENT_MAX,
            false => !self.free.places.is_empty() && lists < LISTS_MAX,
        }
    }

    /// Whether a further device can be asked to help: one list at a time, of much that is left.
    pub(super) fn may_share(&self, peer: &DeviceId) -> bool {
        self.is_much() && !self.is_asked(peer)
    }

    /// Whether more is left than the device that is asked will bring soon.
    pub(super) fn is_much(&self) -> bool {
        self.free.bytes >= SHARED_BYTES_MIN
    }

    /// The next want-list to a device: what is urgent by itself, else by rank, as much as a list may have.
    pub(super) fn ask(&mut self, peer: DeviceId, part: Part, now: UnixMs) -> (bool, Vec<Handed>) {
        let urgent = part == Part::Next && self.free.is_urgent();
        let mut bytes: u64 = 0;
        let due = |(place, size): &(&Place, &u64)| {
            let fits = bytes < LIST_BYTES_MAX;
            bytes = bytes.saturating_add(**size);
            fits && (!urgent || place.0 == URGENT)
        };
        let places = self.free.places.iter();
        let places: Vec<Place> = match part {
            Part::Next => places.take_while(due).take(WANTS_MAX).map(|(place, _)| *place).collect(),
            Part::Last => places.rev().take_while(due).take(WANTS_MAX).map(|(place, _)| *place).collect(),
        };
        let mut list = Vec::with_capacity(places.len());
        for place in places {
            self.free.remove(&place);
            self.asked.insert(place.2, peer);
            list.extend(self.items.get(&place.2).map(|item| item.handed.clone()));
        }
        let lists = self.lists.entry(peer).or_insert(Lists { count: 0, since_ms: now });
        *lists = Lists { count: lists.count.saturating_add(1), since_ms: now };
        (urgent, list)
    }

    pub(super) fn is_asked(&self, peer: &DeviceId) -> bool {
        self.lists.contains_key(peer)
    }

    /// Whether any device is asked for something.
    pub(super) fn is_under_way(&self) -> bool {
        !self.lists.is_empty()
    }

    /// Devices that still have what `idle` could have brought by now: nothing else is left to ask for, and they are slow.
    pub(super) fn slow(&self, idle: &DeviceId, now: UnixMs) -> Vec<DeviceId> {
        if self.is_asked(idle) || !self.free.places.is_empty() {
            return vec![];
        }
        let slow = self.lists.iter().filter(|(_, lists)| now >= lists.since_ms.saturating_add(SLOW_AFTER_MS));
        slow.map(|(device, _)| *device).collect()
    }

    /// One of a device's lists ended. False: none is under way, and this is the last word of an earlier connection.
    pub(super) fn list_ended(&mut self, peer: &DeviceId) -> bool {
        let Some(lists) = self.lists.get_mut(peer) else { return false };
        lists.count = lists.count.saturating_sub(1);
        if lists.count == 0 {
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
        for (record, _) in self.asked.extract_if(.., |_, asked| asked == peer) {
            if let Some(item) = self.items.get(&record) {
                self.free.insert(item);
            }
        }
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
        assert_eq!(names(&lacking.ask(near, Part::Next, 0).1), [5, 9, 3]);
        assert!(!lacking.may_ask(&far), "nobody is asked for what another was asked for");
        lacking.insert(handed(4, ORDINARY));
        assert_eq!(names(&lacking.ask(near, Part::Next, 0).1), [4]);
        lacking.insert(handed(6, ORDINARY));
        assert!(!lacking.may_ask(&near), "two lists are enough");
        assert!(lacking.may_ask(&far));
        lacking.insert(handed(7, URGENT));
        assert!(lacking.may_ask(&near), "but not for what is urgent");
        let (urgent, list) = lacking.ask(near, Part::Next, 0);
        assert_eq!((urgent, names(&list)), (true, vec![7]));
    }

    #[test]
    fn what_a_device_did_not_bring_is_asked_for_again() {
        let (near, far) = (DeviceId::from([1; 32]), DeviceId::from([2; 32]));
        let mut lacking = Lacking::default();
        (1..=3).for_each(|n| lacking.insert(handed(n, ORDINARY)));
        assert_eq!(lacking.ask(near, Part::Next, 0).1.len(), 3);
        assert!(lacking.remove(&[2; 32].into()).is_some());
        lacking.forget(&near);
        assert_eq!(names(&lacking.ask(far, Part::Next, 0).1), [1, 3]);
        assert!(!lacking.list_ended(&near), "the last word of an earlier connection");
        assert!(lacking.list_ended(&far));
        assert!(lacking.may_ask(&near), "an ended list leaves nothing asked for");
        assert_eq!((lacking.len(), lacking.bytes()), (2, 20));
    }

    fn of_mebibytes(n: u8, mebibytes: u64) -> Handed {
        Handed { bytes: mebibytes << 20, ..handed(n, ORDINARY) }
    }

    #[test]
    fn much_is_shared_and_the_helper_begins_at_the_end() {
        let (near, far) = (DeviceId::from([1; 32]), DeviceId::from([2; 32]));
        let mut lacking = Lacking::default();
        (1..=10).for_each(|n| lacking.insert(of_mebibytes(n, 10)));
        assert_eq!(names(&lacking.ask(near, Part::Next, 0).1), [1, 2, 3, 4], "until a list has its 32 MiB");
        assert!(lacking.may_share(&far));
        assert_eq!(names(&lacking.ask(far, Part::Last, 0).1), [10, 9, 8, 7]);
        assert!(!lacking.may_share(&far), "one list at a time, and 20 MiB are not much");
        assert_eq!(names(&lacking.ask(near, Part::Next, 0).1), [5, 6]);
        assert!(!lacking.may_ask(&near));
        lacking.release(&far);
        assert!(lacking.is_much(), "what a device did not bring is left again");
        assert_eq!(lacking.free.bytes, lacking.free.places.values().sum::<u64>());
    }

    #[test]
    fn a_record_larger_than_a_list_is_a_list() {
        let near = DeviceId::from([1; 32]);
        let mut lacking = Lacking::default();
        lacking.insert(of_mebibytes(1, 2_000));
        assert_eq!(names(&lacking.ask(near, Part::Next, 0).1), [1]);
    }

    #[test]
    fn who_is_slow_is_relieved_by_who_is_idle() {
        let (near, far) = (DeviceId::from([1; 32]), DeviceId::from([2; 32]));
        let mut lacking = Lacking::default();
        (1..=8).for_each(|n| lacking.insert(of_mebibytes(n, 10)));
        lacking.ask(far, Part::Last, 1_000);
        lacking.ask(near, Part::Next, 1_000);
        assert!(lacking.slow(&near, 9_000).is_empty(), "it has a list itself");
        (1..=4).for_each(|n| drop(lacking.remove(&[n; 32].into())));
        assert!(lacking.list_ended(&near));
        assert!(lacking.slow(&near, 2_999).is_empty(), "not yet");
        assert_eq!(lacking.slow(&near, 3_000), [far]);
        lacking.forget(&far);
        assert_eq!(names(&lacking.ask(near, Part::Next, 3_000).1), [5, 6, 7, 8]);
    }
}
