//! What only payloads on a disk suffer: kills, power cuts, torn tails, flipped bits, missing files, full disks.

#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::super::contract::{blobs_contract, checked, content, finished};
use super::frame::{Head, Kind};
use super::*;

/// Everything small, so that few payloads fill and roll packs.
pub(super) const TINY: Limits = Limits {
    packed_bytes: 300,
    pack_bytes: 4096,
    gc_floor_bytes: 1024,
    incoming_count: 3,
    incoming_bytes: 1000,
    incoming_age: Duration::from_secs(3600),
};
/// Below this many bytes a pack has only its first frame.
pub(super) const START_BYTES: u64 = 52;

pub(super) fn open(dir: &Path) -> DiskBlobs {
    DiskBlobs::open_with(dir, TINY).unwrap()
}

/// Bytes that no other `n` has.
pub(super) fn bytes(n: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) fn name(bytes: &[u8]) -> BlobId {
    blake3::hash(bytes).into()
}

/// Files of packs with this extension, by name.
pub(super) fn pack_files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|its| its == extension)).collect();
    paths.sort();
    paths
}

pub(super) fn both_files(dir: &Path) -> Vec<PathBuf> {
    [pack_files(dir, "pack"), pack_files(dir, "index")].concat()
}

/// Whether bytes lie anywhere in the folder.
pub(super) fn lies_in(dir: &Path, needle: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => lies_in(&path, needle),
        false => fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle),
    })
}

pub(super) fn put_all(blobs: &DiskBlobs, payloads: &[Vec<u8>]) {
    for payload in payloads {
        finished(blobs, payload);
    }
}

/// The payload, or what a damaged one says.
pub(super) fn read(blobs: &DiskBlobs, id: &BlobId) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(mut reader) = blobs.open(id)? else { return Ok(None) };
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    Ok(Some(bytes))
}

#[test]
fn tiny_packs_keep_the_contract() {
    let dir = TempDir::new().unwrap();
    blobs_contract(&open(dir.path()));
}

#[test]
fn a_group_of_small_payloads_lies_in_one_pack_and_is_found_again() {
    let dir = TempDir::new().unwrap();
    let blobs = DiskBlobs::open(dir.path()).unwrap();
    let ids: Vec<_> = (0..256).map(|n| finished(&blobs, &bytes(n, 1200))).collect();
    blobs.sync().unwrap();
    assert_eq!(both_files(dir.path()).len(), 2, "a pack and its index");
    let stats = blobs.stats().unwrap();
    assert!(stats.overhead_bytes * 5 < stats.live_bytes, "{stats:?}");
    drop(blobs);
    let blobs = DiskBlobs::open(dir.path()).unwrap();
    for (n, id) in (0..).zip(&ids) {
        assert_eq!(content(&blobs, id), Some(bytes(n, 1200)));
    }
    use std::os::unix::fs::PermissionsExt;
    for path in both_files(dir.path()) {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn large_payloads_are_files_named_as_b3sum_says() {
    let dir = TempDir::new().unwrap();
    let blobs = DiskBlobs::open(dir.path()).unwrap();
    let large = bytes(1, 1_200_000);
    let id = finished(&blobs, &large);
    let path = dir.path().join("payloads").join(&hex(&id)[..2]).join(hex(&id));
    assert!(!path.exists(), "before its sync a file has no name that a crash could leave on half a payload");
    blobs.sync().unwrap();
    assert_eq!(fs::read(&path).unwrap(), large);
    let lost = finished(&blobs, &bytes(2, 1_200_000));
    blobs.partial(&[5; 32]).unwrap().write_at(0, b"part").unwrap();
    drop(blobs);
    let blobs = DiskBlobs::open(dir.path()).unwrap();
    assert_eq!(content(&blobs, &id), Some(large.clone()));
    assert_eq!(content(&blobs, &lost), None);
    assert_eq!(blobs.partial(&[5; 32]).unwrap().len_bytes(), 4, "a part outlives a restart");

    fs::write(&path, bytes(3, 1_200_000)).unwrap();
    assert_eq!(checked(&blobs).0, BTreeSet::from([id]));
    assert_eq!(blobs.len(&id).unwrap(), None, "damaged is as good as not here: it is fetched again");
    assert!(matches!(blobs.open(&id), Err(StoreError::WrongHash { expected, .. }) if expected == hex(&id)));
    finished(&blobs, &large);
    blobs.sync().unwrap();
    assert_eq!(content(&blobs, &id), Some(large));
    assert!(checked(&blobs).0.is_empty());
}

#[test]
fn folders_from_before_packs_are_read_as_they_are() {
    let dir = TempDir::new().unwrap();
    let old: Vec<_> = (0..3).map(|n| bytes(n, 200)).collect();
    for payload in &old {
        let name = hex(&name(payload));
        fs::create_dir_all(dir.path().join("payloads").join(&name[..2])).unwrap();
        fs::write(dir.path().join("payloads").join(&name[..2]).join(&name), payload).unwrap();
    }
    fs::write(dir.path().join("payloads/notes.txt"), "not ours").unwrap();
    let blobs = open(dir.path());
    for payload in &old {
        assert_eq!(content(&blobs, &name(payload)).as_ref(), Some(payload));
        assert_eq!(finished(&blobs, payload), name(payload));
    }
    blobs.sync().unwrap();
    assert_eq!(blobs.stats().unwrap().files, 3);
    assert_eq!(blobs.stats().unwrap().payloads, 3, "what is here as a file is not packed again");
    // A damaged one is replaced, by a packed one.
    let id = name(&old[0]);
    fs::write(dir.path().join("payloads").join(&hex(&id)[..2]).join(hex(&id)), b"wrong").unwrap();
    finished(&blobs, &old[0]);
    blobs.sync().unwrap();
    assert_eq!(content(&blobs, &id).as_ref(), Some(&old[0]));
    old.iter().for_each(|payload| blobs.delete(&name(payload)).unwrap());
    blobs.gc().unwrap();
    assert!(old.iter().all(|payload| !lies_in(dir.path(), &payload[..32])));
}

#[test]
fn parts_left_by_broken_fetches_are_bounded() {
    let dir = TempDir::new().unwrap();
    let blobs = open(dir.path());
    let held = blobs.partial(&[0; 32]).unwrap();
    for n in 1..7u8 {
        blobs.partial(&[n; 32]).unwrap().write_at(0, &[n; 10]).unwrap();
        let path = dir.path().join("incoming").join(hex(&[n; 32]));
        let modified = SystemTime::now() - Duration::from_secs(100 - u64::from(n));
        fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }
    let reclaimed = blobs.gc().unwrap();
    assert_eq!((reclaimed.partials, reclaimed.bytes), (3, 30), "the oldest beyond three");
    blobs.partial(&[6; 32]).unwrap().write_at(10, &[6; 2000]).unwrap();
    assert_eq!(blobs.gc().unwrap().partials, 3, "too many bytes in all");
    drop(held);
    blobs.partial(&[8; 32]).unwrap().write_at(0, b"old").unwrap();
    for id in [[0; 32], [8; 32]] {
        let file = fs::File::options().write(true).open(dir.path().join("incoming").join(hex(&id))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    }
    drop(blobs);
    let blobs = open(dir.path());
    assert_eq!(blobs.stats().unwrap().incoming_bytes, 0, "too old, at open");
}

#[test]
fn a_payload_that_looks_like_frames_is_only_a_payload() {
    let dir = TempDir::new().unwrap();
    let blobs = open(dir.path());
    let victim = finished(&blobs, b"victim");
    let smuggled = bytes(1, 20);
    let mut hostile = Vec::new();
    for (kind, name) in [(Kind::Payload, name(&smuggled)), (Kind::Deleted, victim)] {
        hostile.extend(
            Head { kind, length: 20, offset: 52 + 58 + 52 + hostile.len() as u32, name }.to_bytes(&[0; 32]),
        );
        hostile.extend(&smuggled);
    }
    finished(&blobs, &hostile);
    blobs.sync().unwrap();
    drop(blobs);
    // Its head is gone, so that what is inside is looked through.
    let path = pack_files(dir.path(), "pack").remove(0);
    let mut pack = fs::read(&path).unwrap();
    pack[52 + 58] ^= 1;
    fs::write(&path, pack).unwrap();
    fs::remove_file(pack_files(dir.path(), "index").remove(0)).unwrap();
    let blobs = open(dir.path());
    assert_eq!(content(&blobs, &victim).as_deref(), Some(b"victim".as_slice()));
    assert_eq!(content(&blobs, &name(&smuggled)), None);
    assert!(checked(&blobs).1.unnamed_bytes > 0, "pack and index damaged: nobody knows the name any more");
}

/// A rewrite that was cut off just before it removed the old packs leaves every payload twice.
#[test]
fn an_interrupted_rewrite_leaves_one_truth() {
    let dir = TempDir::new().unwrap();
    let blobs = open(dir.path());
    let all: Vec<_> = (0..30).map(|n| bytes(n, 200)).collect();
    put_all(&blobs, &all);
    blobs.sync().unwrap();
    blobs.delete(&name(&all[0])).unwrap();
    blobs.sync().unwrap();
    let before: Vec<_> =
        both_files(dir.path()).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    assert!(blobs.gc().unwrap().packs > 0);
    drop(blobs);
    before.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    // No sync may clear the copies away before they are deleted.
    let open = |dir: &Path| DiskBlobs::open_with(dir, Limits { gc_floor_bytes: u64::MAX, ..TINY }).unwrap();
    let blobs = open(dir.path());
    assert_eq!(content(&blobs, &name(&all[0])), None);
    assert!(all[1..].iter().all(|payload| content(&blobs, &name(payload)).as_ref() == Some(payload)));
    assert_eq!(blobs.stats().unwrap().payloads, 29);
    blobs.delete(&name(&all[1])).unwrap();
    blobs.sync().unwrap();
    drop(blobs);
    let blobs = open(dir.path());
    assert_eq!(content(&blobs, &name(&all[1])), None, "both are deleted");
    blobs.gc().unwrap();
    assert!(!lies_in(dir.path(), &all[1][..32]));
    assert!(all[2..].iter().all(|payload| content(&blobs, &name(payload)).as_ref() == Some(payload)));
    let stats = blobs.stats().unwrap();
    assert_eq!(stats.payloads, 28);
    assert!(stats.reclaimable_bytes <= 2 * START_BYTES, "notes of two deletions: {stats:?}");
}

#[test]
fn what_a_full_disk_refused_is_synced_once_there_is_room() {
    let dir = TempDir::new().unwrap();
    let blobs = open(dir.path());
    let first = finished(&blobs, b"first");
    blobs.sync().unwrap();
    let index = pack_files(dir.path(), "index").remove(0);
    let aside = dir.path().join("aside");
    fs::rename(&index, &aside).unwrap();
    std::os::unix::fs::symlink("/dev/full", &index).unwrap();
    let second = finished(&blobs, b"second");
    assert!(matches!(blobs.sync(), Err(StoreError::Full { .. })));
    let mut durable = BTreeSet::new();
    let mut visit = |id: &BlobId, _| {
        durable.insert(*id);
        ControlFlow::Continue(())
    };
    blobs.list(&mut visit).unwrap();
    assert_eq!(durable, BTreeSet::from([first]), "nothing is said to be durable that may not be");
    assert!(content(&blobs, &second).is_some(), "and nothing is lost");
    fs::rename(&aside, &index).unwrap();
    blobs.sync().unwrap();
    drop(blobs);
    assert_eq!(content(&open(dir.path()), &second).as_deref(), Some(b"second".as_slice()));
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    finished(&open(dir.path()), b"payload");
    let path = pack_files(dir.path(), "pack").remove(0);
    let salt = path.file_stem().unwrap().to_str().unwrap().split_once('-').unwrap().1.to_owned();
    let salt: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&salt[2 * at..2 * at + 2], 16).unwrap()).collect();
    let key = blake3::derive_key("karte pack 1 frame check", &salt);
    let mut start = Head::start();
    start.name[0] = 2;
    for path in both_files(dir.path()) {
        let mut bytes = fs::read(&path).unwrap();
        bytes[..52].copy_from_slice(&start.to_bytes(&key));
        fs::write(path, bytes).unwrap();
    }
    let refused = DiskBlobs::open_with(dir.path(), TINY).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Version { ref file, expected: 1, got: 2 }) if file == "pack"));
}

/// With much deleted, syncs alone keep the folder small.
#[test]
fn dead_bytes_stay_bounded_without_asking() {
    let dir = TempDir::new().unwrap();
    let blobs = open(dir.path());
    for n in 0..400u32 {
        finished(&blobs, &bytes(n, 250));
        if n >= 40 {
            blobs.delete(&name(&bytes(n - 40, 250))).unwrap();
        }
        blobs.sync().unwrap();
    }
    let stats = blobs.stats().unwrap();
    assert_eq!(stats.payloads, 40);
    assert!(stats.reclaimable_bytes <= TINY.gc_floor_bytes + TINY.pack_bytes, "{stats:?}");
    let on_disk: u64 = both_files(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(on_disk, stats.overhead_bytes + stats.live_bytes, "what is told is what is there");
}
