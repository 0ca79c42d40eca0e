//! Rows on their way into the view: seen at once, never lost, whatever becomes of the thread.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::super::Opened;
use super::super::contract::{put, text};
use super::super::view::{Totals, unreadable};
use super::tests::{FLEETING, T, open};
use super::*;

/// All rows of the table, as text.
fn rows(disk: &Disk) -> BTreeMap<(String, String), String> {
    let mut rows = BTreeMap::new();
    disk.scan_table(T, &mut |parent, item, value| {
        let [parent, item, value] =
            [parent, item, value].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(rows.insert((parent, item), value), None, "a row is visited once");
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

fn of_parent(disk: &Disk, parent: &str) -> Vec<String> {
    let mut items = Vec::new();
    disk.scan(T, parent.as_bytes(), &mut |item, value| {
        items.push(format!("{}={}", String::from_utf8_lossy(item), String::from_utf8_lossy(value)));
        ControlFlow::Continue(())
    })
    .unwrap();
    items.sort();
    items
}

fn commit(disk: &mut Disk, batch: Batch) {
    disk.write(batch).unwrap();
    disk.commit().unwrap();
}

#[test]
fn rows_under_way_hide_the_view_and_are_hidden_by_newer_ones() {
    let dir = TempDir::new().unwrap();
    let mut disk = open(dir.path()).0;
    for (parent, item) in [("mary", "a"), ("mary", "b"), ("karl", "c")] {
        commit(&mut disk, put(T, parent, item, "old"));
    }
    disk.apply_recent().unwrap();
    let mut batch = Batch::new();
    batch.delete_all(T, b"mary").put(T, b"mary", b"b", b"new".to_vec()).delete(T, b"karl", b"c");
    batch.put(T, b"anna", b"d", b"new".to_vec());
    let mut under_way = Delta::default();
    under_way.add(batch);
    let (held, thread) = Applying::held(under_way);
    disk.applying = Some(held);
    assert_eq!((text(&disk, T, "mary", "a"), text(&disk, T, "karl", "c")), (None, None));
    assert_eq!(of_parent(&disk, "mary"), ["b=new"]);
    assert_eq!(rows(&disk).len(), 2, "{:?}", rows(&disk));
    // Committed later, and written later still.
    commit(&mut disk, put(T, "mary", "b", "newer"));
    disk.write(put(T, "karl", "c", "newest")).unwrap();
    let mut batch = Batch::new();
    batch.delete(T, b"anna", b"d");
    disk.write(batch).unwrap();
    assert_eq!(
        (of_parent(&disk, "mary"), of_parent(&disk, "karl")),
        (vec!["b=newer".into()], vec!["c=newest".into()])
    );
    assert_eq!((text(&disk, T, "anna", "d"), rows(&disk).len()), (None, 2));
    thread.send(Ok(Totals::default())).unwrap();
}

#[test]
fn a_thread_that_fails_costs_a_view_and_no_row() {
    for dies in [false, true] {
        let dir = TempDir::new().unwrap();
        let mut disk = open(dir.path()).0;
        commit(&mut disk, put(T, "mary", "a", "1"));
        let before = disk.view_number;
        let (held, thread) = Applying::held(std::mem::take(&mut disk.recent));
        disk.applying = Some(held);
        commit(&mut disk, put(T, "mary", "b", "2"));
        assert_eq!((disk.view_number, disk.applying.is_some()), (before, true), "commits do not wait for it");
        if !dies {
            thread.send(Err(unreadable("an error of sled"))).unwrap();
        }
        drop(thread);
        assert_eq!(of_parent(&disk, "mary"), ["a=1", "b=2"], "before anybody has heard of it");
        commit(&mut disk, put(T, "mary", "c", "3"));
        assert_eq!(of_parent(&disk, "mary"), ["a=1", "b=2", "c=3"]);
        assert_ne!(disk.view_number, before, "the view was remade");
        disk.compact().unwrap();
        Box::new(disk).close().unwrap();
        assert_eq!(of_parent(&open(dir.path()).0, "mary"), ["a=1", "b=2", "c=3"]);
    }
}

#[test]
fn commits_wait_for_a_thread_that_too_many_rows_wait_for() {
    let dir = TempDir::new().unwrap();
    let mut disk = open(dir.path()).0;
    commit(&mut disk, put(T, "mary", "a", "1"));
    let (held, thread) = Applying::held(std::mem::take(&mut disk.recent));
    disk.applying = Some(held);
    let thread = std::thread::spawn(move || {
        // Longer than twenty commits take. Where they take longer still, the test sees less and passes.
        std::thread::sleep(std::time::Duration::from_secs(1));
        thread.send(Ok(Totals::default()))
    });
    for n in 0..20 {
        let value = "x".repeat(disk.recent_bytes / 2);
        commit(&mut disk, put(T, "mary", &n.to_string(), &value));
        assert!(disk.recent.size_bytes() <= 2 * disk.recent_bytes, "{}", disk.recent.size_bytes());
    }
    thread.join().unwrap().unwrap();
}

/// Commits, overwrites and deletions, with a thread at work most of the time, against a map.
#[test]
fn a_store_whose_view_is_always_behind_is_a_map() {
    let dir = TempDir::new().unwrap();
    let mut disk = open(dir.path()).0;
    let mut model = BTreeMap::new();
    let mut seen_under_way = 0;
    for n in 0..600u32 {
        let (parent, item) = (format!("p{}", n * 7 % 11), format!("i{}", n * 13 % 17));
        let mut batch = Batch::new();
        if n % 29 == 0 {
            batch.delete_all(T, parent.as_bytes());
            model.retain(|(its, _), _| *its != parent);
        } else if n % 5 == 0 {
            batch.delete(T, parent.as_bytes(), item.as_bytes());
            model.remove(&(parent, item));
        } else {
            let value = format!("{n:0>90}");
            batch.put(T, parent.as_bytes(), item.as_bytes(), value.clone().into_bytes());
            model.insert((parent, item), value);
        }
        disk.write(batch).unwrap();
        disk.write_unjournaled(put(FLEETING, "x", &(n % 50).to_string(), &n.to_string())).unwrap();
        disk.commit().unwrap();
        seen_under_way += u32::from(disk.applying.is_some());
        assert!(disk.waiting_bytes() < 6 * disk.recent_bytes as u64, "memory has a bound");
        if n % 23 == 0 {
            assert_eq!(rows(&disk), model, "after commit {n}");
        }
        if n == 300 {
            // Killed with rows under way.
            drop(disk);
            disk = open(dir.path()).0;
        }
    }
    assert!(seen_under_way > 20, "{seen_under_way}");
    disk.compact().unwrap();
    assert_eq!(rows(&disk), model);
    assert_eq!(text(&disk, FLEETING, "x", "49").as_deref(), Some("599"));
    Box::new(disk).close().unwrap();
    let (disk, opened) = open(dir.path());
    assert_eq!((rows(&disk), opened), (model, Opened::Clean));
}
