//! What only the disk can suffer: kills, torn tails, flipped bits, wrong keys, full disks, second processes.

#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use std::io;

use super::super::contract::{blobs_contract, put, store_contract, text};
use super::super::open::CLEAN;
use super::super::survey::segment_path;
use super::super::{DiskBlobs, Opened, StoreKey, witness};
use super::*;

const VIEW: &str = "view";

pub(super) const T: Table = Table(3);
pub(super) const FLEETING: Table = Table(0x83);

pub(super) fn key() -> StoreKey {
    StoreKey::new([9; 32])
}

pub(super) fn open(dir: &Path) -> (Disk, Opened) {
    let (mut disk, opened) = Disk::open(dir, key()).unwrap();
    disk.recent_bytes = 1 << 10;
    (disk, opened)
}

/// A store with `count` commits, dropped as by a kill; and where each commit's frame ends.
pub(super) fn committed(count: u8) -> (TempDir, Vec<u64>) {
    let dir = TempDir::new().unwrap();
    let (mut disk, opened) = open(dir.path());
    assert_eq!(opened, Opened::New);
    let ends = (0..count).map(|n| {
        disk.write(put(T, "mary", &n.to_string(), "value")).unwrap();
        disk.commit().unwrap();
        disk.stats().journal_bytes
    });
    let ends = ends.collect();
    (dir, ends)
}

pub(super) fn count(disk: &Disk) -> u8 {
    let mut count = 0;
    disk.scan(T, b"mary", &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    (0..count).for_each(|n| assert!(text(disk, T, "mary", &n.to_string()).is_some(), "a prefix, no gaps"));
    count
}

pub(super) fn journal_file(dir: &Path) -> PathBuf {
    segment_path(dir, 1)
}

pub(super) fn witness_files(dir: &Path) -> [Vec<u8>; 2] {
    witness::NAMES.map(|name| fs::read(dir.join(name)).unwrap())
}

pub(super) fn put_witness_files(dir: &Path, files: &[Vec<u8>; 2]) {
    witness::NAMES.iter().zip(files).for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
}

/// Opens, commits each item by itself, and drops as by a kill.
pub(super) fn commit(dir: &Path, items: &[&str]) {
    let (mut disk, _) = open(dir);
    for item in items {
        disk.write(put(T, "mary", item, "value")).unwrap();
        disk.commit().unwrap();
    }
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

pub(super) fn flip(file: &Path, at: u64) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at as usize] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

#[test]
fn disk_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let mut n = 0;
    store_contract(&mut || {
        n += 1;
        Box::new(open(&dir.path().join(n.to_string())).0)
    });
    let blobs = DiskBlobs::open(dir.path()).unwrap();
    blobs_contract(&blobs);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "nothing is left over");
}

/// A clock in 2099 was committed once. The floor that its user lowers stays low, whichever witness file is lost.
#[test]
fn a_floor_that_was_lowered_stays_low() {
    const IN_2099: u64 = 4_080_000_000_000;
    for lost in ["", "witness.0", "witness.1"] {
        let (dir, _) = committed(1);
        let (mut disk, _) = open(dir.path());
        disk.raise_time_floor(IN_2099);
        disk.write(put(T, "mary", "1", "in 2099")).unwrap();
        disk.commit().unwrap();
        disk.lower_time_floor(99).unwrap();
        drop(disk);
        if !lost.is_empty() {
            fs::remove_file(dir.path().join(lost)).unwrap();
        }
        let (disk, _) = open(dir.path());
        assert_eq!((count(&disk), disk.time_floor_ms()), (2, 99), "without {lost:?}");
    }
}

#[test]
fn a_clean_close_is_opened_as_it_was() {
    let (dir, _) = committed(3);
    let (mut disk, opened) = open(dir.path());
    assert_eq!(opened, Opened::Rebuilt { frames: 3 }, "dropped without close, nothing committed is lost");
    assert_eq!(count(&disk), 3);
    disk.write_unjournaled(put(FLEETING, "mary", "status", "fresh")).unwrap();
    disk.raise_time_floor(77);
    disk.write(put(T, "mary", "3", "written, committed by close")).unwrap();
    Box::new(disk).close().unwrap();

    let (disk, opened) = open(dir.path());
    assert_eq!((opened, count(&disk), disk.time_floor_ms()), (Opened::Clean, 4, 77));
    assert_eq!(text(&disk, FLEETING, "mary", "status").as_deref(), Some("fresh"));
    drop(disk);
    let (mut disk, opened) = open(dir.path());
    assert_eq!(opened, Opened::Rebuilt { frames: 4 }, "the marker is used once");
    assert_eq!(text(&disk, FLEETING, "mary", "status"), None, "a crash loses what is not journaled");
    disk.write(put(T, "mary", "4", "pending")).unwrap();
    assert_eq!(disk.rebuild().unwrap(), 4);
    assert_eq!(count(&disk), 5, "a rebuild keeps what is pending");
}

/// The folder of the only view.
fn the_view(dir: &Path) -> PathBuf {
    let views: Vec<_> = fs::read_dir(dir.join(VIEW)).unwrap().map(|view| view.unwrap().path()).collect();
    assert_eq!(views.len(), 1, "{views:?}");
    views[0].clone()
}

#[test]
fn a_view_that_is_not_as_it_was_closed_is_remade() {
    let (dir, _) = committed(3);
    Box::new(open(dir.path()).0).close().unwrap();
    let copied = TempDir::new().unwrap();
    type Harm<'a> = (&'a str, &'a dyn Fn(&Path));
    let harm: [Harm<'_>; 6] = [
        ("view deleted", &|dir| fs::remove_dir_all(dir.join(VIEW)).unwrap()),
        ("marker deleted", &|dir| fs::remove_file(dir.join(CLEAN)).unwrap()),
        ("marker damaged", &|dir| flip(&dir.join(CLEAN), 50)),
        ("half a snapshot", &|dir| fs::write(the_view(dir).join("snap.7.generating"), "x").unwrap()),
        ("bit flipped", &|dir| flip(&the_view(dir).join("db"), 200)),
        ("garbage", &|dir| fs::write(the_view(dir).join("conf"), "garbage").unwrap()),
    ];
    for (name, harm) in harm {
        let dir_now = copied.path().join(name);
        copy(dir.path(), &dir_now);
        harm(&dir_now);
        let (disk, opened) = open(&dir_now);
        assert_eq!((opened, count(&disk)), (Opened::Rebuilt { frames: 3 }, 3), "{name}");
    }
}

#[test]
fn an_older_view_with_its_marker_is_caught_up() {
    let (dir, _) = committed(3);
    Box::new(open(dir.path()).0).close().unwrap();
    let older = TempDir::new().unwrap();
    copy(dir.path(), older.path());
    let (mut disk, _) = open(dir.path());
    disk.write(put(T, "mary", "3", "later")).unwrap();
    Box::new(disk).close().unwrap();
    fs::remove_dir_all(dir.path().join(VIEW)).unwrap();
    copy(&older.path().join(VIEW), &dir.path().join(VIEW));
    fs::copy(older.path().join(CLEAN), dir.path().join(CLEAN)).unwrap();
    let (disk, opened) = open(dir.path());
    assert_eq!((opened, count(&disk)), (Opened::CaughtUp { frames: 1 }, 4));
}

/// A commit cut off at any byte, before the witness knew of it, leaves the commits before it.
#[test]
fn a_torn_tail_is_cut_off_at_every_byte() {
    let (dir, ends) = committed(2);
    let witness = witness_files(dir.path());
    commit(dir.path(), &["2"]);
    let path = journal_file(dir.path());
    let full = fs::read(&path).unwrap();
    for length in ends[1]..=full.len() as u64 {
        for zeros in [0, 50] {
            let mut torn = full[..length as usize].to_vec();
            torn.resize(torn.len() + zeros, 0);
            // One commit in 256 ends with a zero: then zeros behind the cut make it whole again.
            let expected = if torn.starts_with(&full) { 3 } else { 2 };
            fs::write(&path, torn).unwrap();
            put_witness_files(dir.path(), &witness);
            let (mut disk, opened) = open(dir.path());
            assert_eq!(count(&disk), expected, "cut at byte {length}");
            assert_eq!(opened, Opened::Rebuilt { frames: expected.into() }, "a torn tail is no damage");
            if length % 50 == 0 {
                disk.write(put(T, "mary", &expected.to_string(), "again")).unwrap();
                disk.commit().unwrap();
                drop(disk);
                assert_eq!(count(&open(dir.path()).0), expected + 1, "the journal goes on");
            }
        }
    }
}

#[test]
fn a_wrong_key_is_not_taken_for_damage() {
    let (dir, _) = committed(1);
    let refused = Disk::open(dir.path(), StoreKey::new([8; 32])).map(|_| ());
    assert!(matches!(refused, Err(StoreError::WrongKey)), "{refused:?}");
    assert_eq!(count(&open(dir.path()).0), 1);
}

#[test]
fn a_second_open_says_who_has_it() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    let refused = Disk::open(dir.path(), key()).map(|_| ());
    let us = std::process::id().to_string();
    assert!(matches!(&refused, Err(StoreError::Locked { pid }) if *pid == us), "{refused:?}");
    drop(first);
    open(dir.path());
}

#[test]
fn nothing_readable_is_on_the_disk() {
    let dir = TempDir::new().unwrap();
    let (mut disk, _) = open(dir.path());
    disk.write(put(T, "PARENT-mary", "ITEM-dialysis", &"VALUE-creatinine".repeat(20_000))).unwrap();
    disk.commit().unwrap();
    disk.write_unjournaled(put(FLEETING, "PARENT-john", "ITEM-ct", "VALUE-lung")).unwrap();
    Box::new(disk).close().unwrap();
    let mut files = 0;
    let mut folders = vec![dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = fs::read(entry.path()).unwrap();
            for marker in ["PARENT-", "ITEM-", "VALUE-", "mary", "john", "creatinine"] {
                let found = bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
                assert!(!found, "{marker} in {:?}", entry.path());
            }
            files += 1;
        }
    }
    assert!(files >= 6, "journal, witness, marker, lock, view");
}

#[test]
fn a_full_disk_can_be_tried_again_and_a_failed_sync_poisons() {
    let (dir, _) = committed(1);
    let (mut disk, _) = open(dir.path());
    disk.write(put(T, "mary", "1", "kept")).unwrap();
    disk.journal.fault = Some(io::ErrorKind::StorageFull);
    assert!(matches!(disk.commit(), Err(StoreError::Full { .. })));
    disk.journal.fault = None;
    disk.commit().unwrap();

    disk.write(put(T, "mary", "2", "unknown")).unwrap();
    disk.journal.fault = Some(io::ErrorKind::Other);
    assert!(matches!(disk.commit(), Err(StoreError::Io { .. })));
    disk.journal.fault = None;
    assert!(matches!(disk.commit(), Err(StoreError::Poisoned)));
    assert!(matches!(disk.write(put(T, "mary", "3", "")), Err(StoreError::Poisoned)));
    assert_eq!(count(&disk), 3, "it can still be read");
    drop(disk);
    assert!(count(&open(dir.path()).0) >= 2, "what was committed is there");
}

/// A group that the disk has no room for stands in nobody's way: it can be given up, or an urgent batch takes
/// it along on what the reserve keeps.
#[test]
fn an_urgent_batch_is_recorded_from_the_reserve() {
    let (dir, _) = committed(1);
    let (mut disk, _) = open(dir.path());
    assert_eq!(disk.stats().reserve_bytes, super::super::reserve::BYTES);
    let allocated = {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(dir.path().join("reserve")).unwrap().blocks() * 512
    };
    assert!(allocated >= super::super::reserve::BYTES, "really allocated");
    disk.write(put(T, "mary", "1", "given up")).unwrap();
    disk.journal.fault = Some(io::ErrorKind::StorageFull);
    assert!(matches!(disk.commit(), Err(StoreError::Full { .. })));
    assert_eq!(disk.stats().reserve_bytes, super::super::reserve::BYTES, "not for ordinary groups");
    disk.abandon();
    disk.commit().unwrap();
    assert_eq!(count(&disk), 1);
    // The disk has room again only once something was given back to it.
    disk.journal.room_after = Some(dir.path().join("reserve"));
    let mut batch = put(T, "mary", "1", "revoked");
    batch.urgent();
    disk.write(batch).unwrap();
    disk.commit().unwrap();
    assert_eq!(text(&disk, T, "mary", "1").as_deref(), Some("revoked"));
    drop(disk);
    let (disk, _) = open(dir.path());
    assert_eq!(count(&disk), 2);
    assert_eq!(disk.stats().reserve_bytes, super::super::reserve::BYTES, "made again when there is room");
}

#[test]
fn a_copied_folder_is_noticed_and_a_renamed_one_is_not() {
    let (dir, _) = committed(2);
    let (from, copied, renamed) =
        (dir.path().join("from"), dir.path().join("copied"), dir.path().join("renamed"));
    drop(open(&from));
    assert!(!open(&from).0.is_copy());
    copy(&from, &copied);
    fs::rename(&from, &renamed).unwrap();
    assert!(!open(&renamed).0.is_copy());
    let (mut disk, _) = open(&copied);
    assert!(disk.is_copy());
    disk.adopt_copy().unwrap();
    assert!(!disk.is_copy());
    drop(disk);
    assert!(!open(&copied).0.is_copy());
}

/// A child writes and says what was committed; it is killed at some moment, again and again.
#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    if let Some(dir) = std::env::var_os("KARTE_STORE_TEST_CHILD") {
        return write_until_killed(Path::new(&dir));
    }
    let dir = TempDir::new().unwrap();
    let mut acknowledged: u64 = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["a_killed_process_loses_nothing_it_acknowledged", "--nocapture"])
            .env("KARTE_STORE_TEST_CHILD", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(3 + 17 * round));
            child.kill().unwrap();
            child.wait().unwrap();
        });
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.rsplit("committed ").next().and_then(|n| n.parse().ok()) {
                acknowledged = n;
            }
        }
        killer.join().unwrap();
        if round % 3 == 0 {
            continue; // Two children in a row: the second opens what the first left.
        }
        let (disk, _) = open(dir.path());
        let found = last(&disk);
        assert!(found >= acknowledged, "found {found}, acknowledged {acknowledged}");
        (1..=found).for_each(|n| assert!(text(&disk, T, "mary", &n.to_string()).is_some(), "{n} of {found}"));
        if round % 2 == 0 {
            Box::new(disk).close().unwrap();
        }
    }
    assert!(acknowledged > 0, "the children came to write");
}

fn last(store: &dyn Store) -> u64 {
    text(store, T, "last", "").map_or(0, |n| n.parse().unwrap())
}

fn write_until_killed(dir: &Path) {
    let (mut disk, _) = open(dir);
    for n in last(&disk) + 1.. {
        let mut batch = put(T, "mary", &n.to_string(), &"x".repeat(n as usize % 3000));
        batch.put(T, b"last", b"", n.to_string().into());
        disk.write(batch).unwrap();
        if n % 3 == 0 {
            disk.commit().unwrap();
            println!("\ncommitted {n}");
        }
    }
}
