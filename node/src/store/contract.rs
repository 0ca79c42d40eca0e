//! The contract: what every [`Store`] and every [`Blobs`] does, told once and run on disk and in memory.

#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;

use super::*;

const GRANTS: Table = Table(1);
const LABELS: Table = Table(2);
const STATUSES: Table = Table(0x80);

type Rows = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

/// One batch with one put.
pub(super) fn put(table: Table, parent: &str, item: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(table, parent.as_bytes(), item.as_bytes(), value.into());
    batch
}

pub(super) fn text(store: &dyn Store, table: Table, parent: &str, item: &str) -> Option<String> {
    store
        .get(table, parent.as_bytes(), item.as_bytes())
        .unwrap()
        .map(|value| String::from_utf8(value).unwrap())
}

fn items(store: &dyn Store, parent: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut visit = |item: &[u8], value: &[u8]| {
        found.push(format!("{}={}", String::from_utf8_lossy(item), String::from_utf8_lossy(value)));
        ControlFlow::Continue(())
    };
    store.scan(GRANTS, parent.as_bytes(), &mut visit).unwrap();
    found.sort();
    found
}

fn rows(store: &dyn Store, table: Table) -> Rows {
    let mut found = Rows::new();
    let mut visit = |parent: &[u8], item: &[u8], value: &[u8]| {
        assert!(found.insert((parent.into(), item.into()), value.into()).is_none(), "a row is visited once");
        ControlFlow::Continue(())
    };
    store.scan_table(table, &mut visit).unwrap();
    found
}

/// All of it, on stores that `fresh` makes empty.
pub(super) fn store_contract(fresh: &mut dyn FnMut() -> Box<dyn Store>) {
    written_rows_are_seen_before_and_after_commit(&mut *fresh());
    delete_all_takes_its_parent_only(&mut *fresh());
    the_last_operation_wins(&mut *fresh());
    random_batches_agree_with_a_map(&mut *fresh());
    a_broken_scan_stops(&mut *fresh());
    bounds_are_refused_by_name(&mut *fresh());
    table_kinds_are_kept_apart(&mut *fresh());
    the_time_floor_only_rises(&mut *fresh());
    a_full_group_is_committed_early(&mut *fresh());
    what_is_abandoned_was_never_there(&mut *fresh());
    an_urgent_batch_finds_room_in_a_full_group(&mut *fresh());
    fresh().close().unwrap();
}

fn written_rows_are_seen_before_and_after_commit(store: &mut dyn Store) {
    assert_eq!(text(store, GRANTS, "mary", "clinic"), None);
    store.write(put(GRANTS, "mary", "clinic", "ct")).unwrap();
    for _ in ["before", "after"] {
        assert_eq!(text(store, GRANTS, "mary", "clinic").as_deref(), Some("ct"));
        assert_eq!(items(store, "mary"), ["clinic=ct"]);
        assert_eq!(rows(store, GRANTS).len(), 1);
        store.commit().unwrap();
    }
    assert_eq!(text(store, LABELS, "mary", "clinic"), None, "tables are apart");
    assert_eq!(text(store, GRANTS, "mar", "yclinic"), None, "parent and item are apart");
    store.commit().unwrap();
    assert_eq!(store.stats().commits, 1, "a commit with nothing written does nothing");
    store.write(put(GRANTS, "mary", "", "")).unwrap();
    store.commit().unwrap();
    assert_eq!(text(store, GRANTS, "mary", "").as_deref(), Some(""), "an empty value is a value");
}

fn delete_all_takes_its_parent_only(store: &mut dyn Store) {
    for item in ["a", "b"] {
        store.write(put(GRANTS, "mary", item, "1")).unwrap();
        store.write(put(GRANTS, "john", item, "1")).unwrap();
    }
    store.commit().unwrap();
    let mut batch = Batch::new();
    batch.delete_all(GRANTS, b"mary").put(GRANTS, b"mary", b"c", b"2".to_vec());
    store.write(batch).unwrap();
    for _ in ["before", "after"] {
        assert_eq!(items(store, "mary"), ["c=2"]);
        assert_eq!(items(store, "john"), ["a=1", "b=1"]);
        assert_eq!(rows(store, GRANTS).len(), 3);
        assert_eq!(text(store, GRANTS, "mary", "a"), None);
        store.commit().unwrap();
    }
}

fn the_last_operation_wins(store: &mut dyn Store) {
    let mut batch = Batch::new();
    batch.put(GRANTS, b"p", b"i", b"1".to_vec()).delete(GRANTS, b"p", b"i");
    batch.put(GRANTS, b"p", b"j", b"1".to_vec()).put(GRANTS, b"p", b"j", b"2".to_vec());
    batch.put(GRANTS, b"q", b"j", b"1".to_vec()).delete_all(GRANTS, b"q");
    store.write(batch).unwrap();
    for _ in ["before", "after"] {
        assert_eq!(items(store, "p"), ["j=2"]);
        assert_eq!(items(store, "q"), [""; 0]);
        store.commit().unwrap();
    }
}

/// A store holds what a map would hold after the same operations, committed or not.
fn random_batches_agree_with_a_map(store: &mut dyn Store) {
    let (mut map, mut seed) = (Rows::new(), 7u64);
    let mut chance = |of: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % of
    };
    for _ in 0..400 {
        let mut batch = Batch::new();
        for _ in 0..chance(6) {
            let (parent, item) = (vec![b'p', chance(4) as u8], vec![chance(9) as u8]);
            match chance(8) {
                0 => {
                    batch.delete_all(GRANTS, &parent);
                    map.retain(|(its_parent, _), _| *its_parent != parent);
                }
                1 | 2 => {
                    batch.delete(GRANTS, &parent, &item);
                    map.remove(&(parent, item));
                }
                _ => {
                    let value = chance(u64::MAX).to_le_bytes().to_vec();
                    batch.put(GRANTS, &parent, &item, value.clone());
                    map.insert((parent, item), value);
                }
            }
        }
        store.write(batch).unwrap();
        if chance(5) == 0 {
            store.commit().unwrap();
        }
        assert_eq!(rows(store, GRANTS), map);
    }
}

fn a_broken_scan_stops(store: &mut dyn Store) {
    for item in ["committed", "also"] {
        store.write(put(GRANTS, "p", item, "")).unwrap();
    }
    for _ in ["before", "after"] {
        let mut seen = 0;
        store
            .scan(GRANTS, b"p", &mut |_, _| {
                seen += 1;
                ControlFlow::Break(())
            })
            .unwrap();
        store
            .scan_table(GRANTS, &mut |_, _, _| {
                seen += 1;
                ControlFlow::Break(())
            })
            .unwrap();
        assert_eq!(seen, 2, "one visit each");
        store.commit().unwrap();
    }
}

fn bounds_are_refused_by_name(store: &mut dyn Store) {
    let long = vec![b'x'; NAME_BYTES_MAX + 1];
    let mut batches = [Batch::new(), Batch::new(), Batch::new(), Batch::new()];
    batches[0].put(GRANTS, &long, b"", Vec::new());
    batches[1].delete(GRANTS, b"", &long);
    batches[2].put(GRANTS, b"", b"", vec![0; VALUE_BYTES_MAX + 1]);
    (0..9).for_each(|item| {
        batches[3].put(GRANTS, b"", &[item], vec![0; VALUE_BYTES_MAX]);
    });
    for (batch, name) in batches.into_iter().zip(["parent", "item", "value", "batch"]) {
        let refused = store.write(batch);
        assert!(matches!(refused, Err(StoreError::TooLarge { what, .. }) if what == name), "{name}");
    }
    assert_eq!(rows(store, GRANTS).len(), 0, "a refused batch leaves nothing");
}

fn table_kinds_are_kept_apart(store: &mut dyn Store) {
    store.write_unjournaled(put(STATUSES, "mary", "phone", "fresh")).unwrap();
    assert_eq!(text(store, STATUSES, "mary", "phone").as_deref(), Some("fresh"));
    assert_eq!(rows(store, STATUSES).len(), 1);
    for (table, journaled) in [(STATUSES, true), (Table(255), true), (GRANTS, false), (Table(255), false)] {
        let batch = put(table, "p", "i", "v");
        let refused = if journaled { store.write(batch) } else { store.write_unjournaled(batch) };
        assert!(matches!(refused, Err(StoreError::WrongTable { .. })), "table {} {journaled}", table.0);
    }
}

fn the_time_floor_only_rises(store: &mut dyn Store) {
    store.raise_time_floor(50);
    store.raise_time_floor(40);
    assert_eq!(store.time_floor_ms(), 50);
    store.lower_time_floor(60).unwrap();
    assert_eq!(store.time_floor_ms(), 50, "lowering does not raise");
    store.lower_time_floor(45).unwrap();
    assert_eq!(store.time_floor_ms(), 45, "unless it is lowered by name");
}

fn a_full_group_is_committed_early(store: &mut dyn Store) {
    for parent in 0..5u8 {
        let mut batch = Batch::new();
        (0..7).for_each(|item| {
            batch.put(LABELS, &[parent], &[item], vec![item; VALUE_BYTES_MAX]);
        });
        store.write(batch).unwrap();
        assert!(store.stats().pending_bytes <= 2 * BATCH_BYTES_MAX as u64);
    }
    store.commit().unwrap();
    assert_eq!(rows(store, LABELS).len(), 35);
}

fn what_is_abandoned_was_never_there(store: &mut dyn Store) {
    store.write(put(GRANTS, "mary", "clinic", "committed")).unwrap();
    store.commit().unwrap();
    let mut batch = put(GRANTS, "mary", "clinic", "abandoned");
    batch.put(GRANTS, b"mary", b"partner", b"abandoned".to_vec()).delete_all(LABELS, b"mary");
    store.write(batch).unwrap();
    store.abandon();
    for _ in ["at once", "and after the next commit"] {
        assert_eq!(items(store, "mary"), ["clinic=committed"]);
        assert_eq!(store.stats().pending_bytes, 0);
        store.write(put(GRANTS, "john", "clinic", "goes on")).unwrap();
        store.commit().unwrap();
    }
    assert_eq!(items(store, "john"), ["clinic=goes on"]);
}

fn an_urgent_batch_finds_room_in_a_full_group(store: &mut dyn Store) {
    for parent in 0..2u8 {
        let mut batch = Batch::new();
        (0..7).for_each(|item| {
            batch.put(LABELS, &[parent], &[item], vec![item; VALUE_BYTES_MAX]);
        });
        batch.put(LABELS, &[parent], &[7], vec![7; VALUE_BYTES_MAX - 4096]);
        store.write(batch).unwrap();
    }
    let mut batch = put(GRANTS, "mary", "revoke", "now");
    batch.put(GRANTS, b"mary", b"why", vec![b'x'; 64 << 10]);
    assert!(batch.urgent().is_urgent());
    store.write(batch).unwrap();
    assert_eq!(store.stats().commits, 0, "it joins the group and is not kept waiting for it");
    store.commit().unwrap();
    assert_eq!(
        (text(store, GRANTS, "mary", "revoke").as_deref(), rows(store, LABELS).len()),
        (Some("now"), 16)
    );
}

/// Writes a payload and returns its name.
pub(super) fn finished(blobs: &dyn Blobs, bytes: &[u8]) -> BlobId {
    let mut writer = blobs.create().unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub(super) fn content(blobs: &dyn Blobs, id: &BlobId) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    blobs.open(id).unwrap()?.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

/// All of it, on blobs that are empty.
pub(super) fn blobs_contract(blobs: &dyn Blobs) {
    payloads_are_named_by_their_hash(blobs);
    a_partial_is_resumed(blobs);
    wrong_partials_are_refused_by_name(blobs);
    sizes_and_checks_follow_what_is_there(blobs);
    threads_share_a_sync(blobs);
}

fn listed(blobs: &dyn Blobs) -> BTreeMap<BlobId, u64> {
    let mut found = BTreeMap::new();
    let mut visit = |id: &BlobId, len_bytes| {
        found.insert(*id, len_bytes);
        ControlFlow::Continue(())
    };
    blobs.list(&mut visit).unwrap();
    found
}

fn payloads_are_named_by_their_hash(blobs: &dyn Blobs) {
    let ct = vec![7; 200_000];
    let id = finished(blobs, &ct);
    assert_eq!(id, *blake3::hash(&ct).as_bytes());
    for _ in ["before the sync", "after", "after the second"] {
        assert_eq!(content(blobs, &id), Some(ct.clone()));
        assert_eq!(blobs.len(&id).unwrap(), Some(200_000));
        assert_eq!(finished(blobs, &ct), id, "the same payload again is the same");
        blobs.sync().unwrap();
    }
    assert_eq!(listed(blobs), BTreeMap::from([(id, 200_000)]));
    let mut reader = blobs.open(&id).unwrap().unwrap();
    reader.seek(SeekFrom::Start(199_999)).unwrap();
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 1);
    drop(blobs.create().unwrap());

    let unsynced = finished(blobs, b"unsynced");
    for id in [&id, &unsynced, &[0; 32]] {
        blobs.delete(id).unwrap();
        assert_eq!(content(blobs, id), None);
        assert_eq!(blobs.len(id).unwrap(), None);
    }
    blobs.sync().unwrap();
    assert_eq!(listed(blobs), BTreeMap::new());
}

fn a_partial_is_resumed(blobs: &dyn Blobs) {
    let id = *blake3::hash(b"first second").as_bytes();
    let mut partial = blobs.partial(&id).unwrap();
    partial.write_at(0, b"first ").unwrap();
    assert!(matches!(blobs.partial(&id), Err(StoreError::Busy)), "one receiver at a time");
    drop(partial);
    assert_eq!(content(blobs, &id), None, "a part is not shown");
    let mut partial = blobs.partial(&id).unwrap();
    assert_eq!(partial.len_bytes(), 6, "the connection may break, the part stays");
    partial.write_at(6, b"second").unwrap();
    partial.complete(12).unwrap();
    assert_eq!(content(blobs, &id).as_deref(), Some(b"first second".as_slice()));
    blobs.sync().unwrap();
    assert_eq!(content(blobs, &id).as_deref(), Some(b"first second".as_slice()));
    assert_eq!(blobs.partial(&id).unwrap().len_bytes(), 0);
    blobs.delete(&id).unwrap();
}

fn wrong_partials_are_refused_by_name(blobs: &dyn Blobs) {
    let id = *blake3::hash(b"right").as_bytes();
    let mut partial = blobs.partial(&id).unwrap();
    assert!(matches!(partial.write_at(3, b"x"), Err(StoreError::WrongOffset { expected: 0, got: 3 })));
    partial.write_at(0, b"wrong").unwrap();
    assert!(matches!(partial.complete(6), Err(StoreError::WrongOffset { expected: 6, got: 5 })));
    let partial = blobs.partial(&id).unwrap();
    assert_eq!(partial.len_bytes(), 5, "at a wrong length the part is kept");
    assert!(matches!(partial.complete(5), Err(StoreError::WrongHash { .. })));
    let mut partial = blobs.partial(&id).unwrap();
    assert_eq!(partial.len_bytes(), 0, "with a wrong hash it is dropped");
    partial.write_at(0, b"r").unwrap();
    partial.discard().unwrap();
    assert_eq!(blobs.partial(&id).unwrap().len_bytes(), 0);
}

/// The ids a check names, and what it came to.
pub(super) fn checked(blobs: &dyn Blobs) -> (BTreeSet<BlobId>, Checked) {
    let mut named = BTreeSet::new();
    let mut visit = |check| {
        if let Check::Damaged(id) = check {
            assert!(named.insert(id), "an id is named once");
        }
        ControlFlow::Continue(())
    };
    let checked = blobs.check(&mut visit).unwrap();
    (named, checked)
}

fn sizes_and_checks_follow_what_is_there(blobs: &dyn Blobs) {
    blobs.gc().unwrap();
    assert_eq!((blobs.stats().unwrap().payloads, blobs.stats().unwrap().live_bytes), (0, 0));
    let (small, large) = (finished(blobs, b"small"), finished(blobs, &vec![3; 200_000]));
    for _ in ["staged", "synced"] {
        let stats = blobs.stats().unwrap();
        assert_eq!((stats.payloads, stats.live_bytes, stats.damaged), (2, 200_005, 0));
        blobs.sync().unwrap();
    }
    let (named, sums) = checked(blobs);
    assert!(named.is_empty() && sums.is_complete);
    assert_eq!((sums.payloads, sums.bytes, sums.damaged, sums.unnamed_bytes), (2, 200_005, 0, 0));
    assert!(!blobs.check(&mut |_| ControlFlow::Break(())).unwrap().is_complete);
    for _ in ["deleted", "deleted again"] {
        let mut reader = blobs.open(&small).unwrap().unwrap();
        [small, large].iter().for_each(|id| blobs.delete(id).unwrap());
        blobs.gc().unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"small", "who has it open reads on");
        assert_eq!(content(blobs, &small), None);
        assert_eq!(blobs.stats().unwrap().reclaimable_bytes, 0);
        finished(blobs, b"small");
        assert_eq!(
            content(blobs, &small).as_deref(),
            Some(b"small".as_slice()),
            "what was deleted may come again"
        );
        blobs.sync().unwrap();
        assert!(listed(blobs).contains_key(&small));
    }
    blobs.delete(&small).unwrap();
    blobs.sync().unwrap();
}

fn threads_share_a_sync(blobs: &dyn Blobs) {
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            scope.spawn(move || {
                for n in 0..10u8 {
                    let id = finished(blobs, &[thread / 2, n]);
                    blobs.sync().unwrap();
                    assert!(listed(blobs).contains_key(&id), "after its sync a payload is durable");
                }
            });
        }
    });
    assert_eq!(listed(blobs).len(), 20);
}

#[test]
fn memory_keeps_the_contract() {
    store_contract(&mut || Box::new(Memory::new()));
    blobs_contract(&MemoryBlobs::new());
}

#[test]
fn memory_forgets_in_a_crash_what_was_not_committed() {
    let mut store = Memory::new();
    store.raise_time_floor(5);
    store.write(put(GRANTS, "mary", "clinic", "committed")).unwrap();
    store.commit().unwrap();
    store.raise_time_floor(9);
    store.write(put(GRANTS, "mary", "clinic", "written")).unwrap();
    store.write_unjournaled(put(STATUSES, "mary", "phone", "fresh")).unwrap();
    let store = store.crash();
    assert_eq!(text(&store, GRANTS, "mary", "clinic").as_deref(), Some("committed"));
    assert_eq!(text(&store, STATUSES, "mary", "phone"), None);
    assert_eq!(store.time_floor_ms(), 5);

    let blobs = MemoryBlobs::new();
    let synced = finished(&blobs, b"synced");
    blobs.sync().unwrap();
    let lost = finished(&blobs, b"lost");
    let blobs = blobs.crash();
    assert!(content(&blobs, &synced).is_some() && content(&blobs, &lost).is_none());
}
