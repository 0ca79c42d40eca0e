//! Damage of every kind, compaction killed between any two steps, old formats: nothing is lost in silence.

#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::contract::{put, text};
use super::super::{Gravity, Opened, Store, witness};
use super::tests::witness_files;
use super::tests::{T, commit, committed, copy, count, flip, journal_file, key, open, put_witness_files};
use super::*;

fn zero(file: &Path, from: u64, until: u64) {
    let mut bytes = fs::read(file).unwrap();
    bytes[from as usize..until as usize].fill(0);
    fs::write(file, bytes).unwrap();
}

/// Refused by name, said by `check`, opened by `salvage`; returns what the salvage said and what is there now.
fn salvaged(dir: &Path, offset: u64) -> (super::super::Salvage, Vec<String>) {
    let before = Disk::check(dir, key()).unwrap();
    assert!(before.loses(), "{before:?}");
    let refused = Disk::open(dir, key()).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Damaged { offset: at, .. }) if at == offset), "{refused:?}");
    assert_eq!(Disk::check(dir, key()).unwrap(), before, "a refusal changes nothing");
    let salvage = Disk::salvage(dir, key()).unwrap();
    assert!(!Disk::check(dir, key()).unwrap().loses());
    let again = Disk::salvage(dir, key()).unwrap();
    assert!(!again.loses() && again.moved_to.is_none(), "a salvaged store is whole");
    let (disk, _) = open(dir);
    (salvage, items(&disk))
}

fn items(disk: &Disk) -> Vec<String> {
    let mut found = Vec::new();
    disk.scan(T, b"mary", &mut |item, _| {
        found.push(String::from_utf8(item.to_vec()).unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    found.sort();
    found
}

/// Whatever one bit flips, nothing is lost and nothing stays wrong.
#[test]
fn a_flipped_bit_anywhere_is_turned_back() {
    let (dir, _) = committed(3);
    let whole = TempDir::new().unwrap();
    copy(dir.path(), whole.path());
    let names = ["journal/000001.log", witness::NAMES[0], witness::NAMES[1]];
    for name in names {
        let file = dir.path().join(name);
        for at in (0..fs::metadata(&file).unwrap().len()).step_by(7) {
            flip(&file, at);
            let (disk, opened) = open(dir.path());
            assert!(
                matches!(&opened, Opened::Repaired { what } if what.len() == 1),
                "{name} {at}: {opened:?}"
            );
            assert_eq!(count(&disk), 3, "{name} at {at}");
            drop(disk);
            assert_eq!(open(dir.path()).1, Opened::Rebuilt { frames: 3 }, "mended for good");
        }
    }
    // The rest of the folder can always be made again.
    assert_eq!(fs::read(dir.path().join(names[0])).unwrap(), fs::read(whole.path().join(names[0])).unwrap());
}

/// The bug this guards against: a damaged frame in the middle taken for a torn tail, and all behind it lost.
#[test]
fn what_cannot_be_mended_is_refused_and_salvaged_to_the_frame() {
    let (dir, ends) = committed(4);
    let now = TempDir::new().unwrap();
    let fresh = |name: &str| {
        let to = now.path().join(name);
        copy(dir.path(), &to);
        to
    };
    let at = fresh("a page of zeros");
    zero(&journal_file(&at), ends[0] + 10, ends[1] + 3);
    let (salvage, items) = salvaged(&at, ends[0]);
    assert_eq!(items, ["0", "3"]);
    assert_eq!(salvage.missing.len(), 1);
    assert_eq!(salvage.missing[0].commits, Some(2..=3));
    assert!(salvage.loses() && salvage.may_resurrect && !salvage.tail_unknown, "{salvage:?}");
    assert!(salvage.moved_to.unwrap().join("000001.log").exists());

    let at = fresh("cut short");
    fs::write(journal_file(&at), &fs::read(journal_file(dir.path())).unwrap()[..ends[2] as usize]).unwrap();
    let (salvage, items) = salvaged(&at, ends[2]);
    assert_eq!((items.len(), salvage.missing[0].commits.clone()), (3, Some(4..=4)));

    let at = fresh("cut within a frame");
    fs::write(journal_file(&at), &fs::read(journal_file(dir.path())).unwrap()[..ends[2] as usize + 9])
        .unwrap();
    let (salvage, items) = salvaged(&at, ends[2]);
    assert_eq!((items.len(), salvage.missing[0].commits.clone()), (3, Some(4..=4)));

    let at = fresh("a frame taken out");
    let bytes = fs::read(journal_file(dir.path())).unwrap();
    let cut = [&bytes[..ends[0] as usize], &bytes[ends[1] as usize..]].concat();
    fs::write(journal_file(&at), cut).unwrap();
    // Frames prove their places, so those that have moved are lost too.
    assert_eq!(salvaged(&at, ends[0]).1, ["0"]);

    let at = fresh("no journal");
    fs::remove_file(journal_file(&at)).unwrap();
    assert_eq!(salvaged(&at, 0).1.len(), 0);

    let at = fresh("no witness");
    witness::NAMES.iter().for_each(|name| fs::remove_file(at.join(name)).unwrap());
    let (salvage, items) = salvaged(&at, 0);
    assert!(salvage.tail_unknown && salvage.loses() && salvage.missing.is_empty(), "{salvage:?}");
    assert_eq!(items.len(), 4);

    let at = fresh("a header of zeros");
    zero(&journal_file(&at), 0, 100);
    let (disk, opened) = open(&at);
    assert!(matches!(opened, Opened::Repaired { .. }));
    assert_eq!(count(&disk), 4, "what a header says follows from the frames");
    for name in witness::NAMES {
        let at = fresh(name);
        zero(&at.join(name), 0, 184);
        let (disk, opened) = open(&at);
        assert!(matches!(opened, Opened::Repaired { .. }));
        assert_eq!(count(&disk), 4, "one witness is enough");
    }
}

#[test]
fn a_stale_witness_does_not_make_damage_a_torn_tail() {
    let (dir, ends) = committed(1);
    let stale = witness_files(dir.path());
    commit(dir.path(), &["1", "2", "3"]);
    put_witness_files(dir.path(), &stale);
    let path = journal_file(dir.path());
    let full = fs::read(&path).unwrap();
    zero(&path, ends[0], ends[0] + 60);
    let refused = Disk::open(dir.path(), key()).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Damaged { offset, .. }) if offset == ends[0]), "{refused:?}");
    fs::write(&path, full).unwrap();
    assert_eq!(count(&open(dir.path()).0), 4, "with a whole journal an old witness is brought up");
}

/// A store that was closed clean has everything twice.
#[test]
fn a_journal_is_written_again_from_a_clean_view() {
    let (dir, ends) = committed(4);
    Box::new(open(dir.path()).0).close().unwrap();
    let now = TempDir::new().unwrap();
    type Harm<'a> = &'a dyn Fn(&Path);
    let harm: [Harm<'_>; 3] = [
        &|at| zero(&journal_file(at), 0, ends[2]),
        &|at| fs::remove_file(journal_file(at)).unwrap(),
        &|at| fs::write(journal_file(at), "").unwrap(),
    ];
    for (n, harm) in harm.into_iter().enumerate() {
        let at = now.path().join(n.to_string());
        copy(dir.path(), &at);
        harm(&at);
        let health = Disk::check(&at, key()).unwrap();
        assert!(health.findings.iter().any(|found| found.gravity == Gravity::Repairable), "{health:?}");
        let (mut disk, opened) = open(&at);
        assert!(matches!(&opened, Opened::Repaired { what } if !what.is_empty()), "{opened:?}");
        assert_eq!(count(&disk), 4);
        disk.write(put(T, "mary", "4", "goes on")).unwrap();
        disk.commit().unwrap();
        drop(disk);
        let (disk, opened) = open(&at);
        assert_eq!((count(&disk), opened), (5, Opened::Rebuilt { frames: 2 }), "a base and a commit");
    }
}

/// Compaction killed between any two of its steps leaves the same rows.
#[test]
fn compaction_may_be_killed_at_any_step() {
    let (dir, _) = committed(4);
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    let mut disk = open(&before).0;
    for n in 0..40 {
        disk.write(put(T, "mary", &(n % 4).to_string(), &n.to_string())).unwrap();
        disk.commit().unwrap();
    }
    drop(disk);
    copy(&before, &after);
    let mut disk = open(&after).0;
    let old = disk.stats();
    disk.compact().unwrap();
    assert_eq!(count(&disk), 4);
    let new = disk.stats();
    assert!(new.journal_bytes < old.journal_bytes / 4 && new.reclaimable_bytes < old.reclaimable_bytes);
    drop(disk);
    let steps = [
        (true, [&before, &before], "before the witness"),
        (true, [&after, &before], "between its files"),
        (true, [&before, &after], "between its files, the other first"),
        (true, [&after, &after], "before the old segments go"),
        (false, [&after, &after], "at the end"),
    ];
    for (has_old, witness_of, name) in steps {
        let at = dir.path().join(name);
        copy(&after, &at);
        if has_old {
            copy(&before.join("journal"), &at.join("journal"));
        }
        for (name, from) in witness::NAMES.iter().zip(witness_of) {
            fs::copy(from.join(name), at.join(name)).unwrap();
        }
        for round in 0..2 {
            let (disk, opened) = open(&at);
            assert!(matches!(opened, Opened::Rebuilt { .. }), "{name}: {opened:?}");
            assert_eq!(count(&disk), 4, "{name}, start {round}");
            assert_eq!(text(&disk, T, "mary", "3").as_deref(), Some("39"), "{name}");
            let kept = fs::read_dir(at.join("journal")).unwrap().count() as u64;
            assert_eq!(kept, disk.stats().segments, "{name}: strays are deleted");
        }
    }
}

fn golden(name: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let local = from.join("src/store/golden").join(name);
    let from =
        if local.exists() { local } else { Path::new(file!()).parent().unwrap().join("golden").join(name) };
    let at = dir.path().join("store");
    copy(&from, &at);
    (dir, at)
}

fn is_golden(disk: &Disk) {
    assert_eq!(items(disk), ["10", "11", "2", "3", "5", "6", "8", "9"]);
    assert_eq!(text(disk, T, "mary", "10").as_deref(), Some("value 10"));
    let mut gone = 0;
    disk.scan(Table(4), b"gone", &mut |_, _| {
        gone += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((gone, disk.time_floor_ms()), (0, 1011));
}

/// A store written by the first format opens, is of the present format from then on, and goes on.
#[test]
fn a_store_of_format_1_is_migrated() {
    let (_dir, at) = golden("v1");
    assert!(!Disk::check(&at, key()).unwrap().loses());
    let (mut disk, opened) = open(&at);
    assert_eq!(opened, Opened::Migrated { from: 1, frames: 12 });
    is_golden(&disk);
    assert!(!at.join("witness").exists() && !at.join("journal/000001.log").exists());
    disk.write(put(T, "john", "1", "later")).unwrap();
    disk.commit().unwrap();
    drop(disk);
    let (disk, opened) = open(&at);
    assert_eq!(opened, Opened::Rebuilt { frames: 2 });
    is_golden(&disk);

    let (_dir, at) = golden("v1");
    flip(&at.join("journal/000001.log"), 700);
    is_golden(&open(&at).0);
    let (_dir, at) = golden("v1");
    zero(&at.join("journal/000001.log"), 700, 705);
    assert!(matches!(Disk::open(&at, key()).map(|_| ()), Err(StoreError::Damaged { .. })));
    let salvage = Disk::salvage(&at, key()).unwrap();
    assert!(salvage.loses() && salvage.kept_frames == 11, "{salvage:?}");
    assert_eq!(text(&open(&at).0, T, "mary", "11").as_deref(), Some("value 11"));
}

/// The bytes of format 2 are what they were when it was written down.
#[test]
fn a_store_of_format_2_is_read() {
    let (_dir, at) = golden("v2");
    let health = Disk::check(&at, key()).unwrap();
    assert_eq!((health.version, health.loses(), health.segments), (2, false, 1));
    is_golden(&open(&at).0);
}

/// Writes `golden/v2`. Only to be run when a new format is made.
#[test]
#[ignore = "writes the fixture"]
fn write_golden() {
    let to = PathBuf::from(std::env::var_os("KARTE_GOLDEN").expect("where to write"));
    let (mut disk, _) = open(&to);
    for n in 0..12u8 {
        let mut batch = put(T, "mary", &n.to_string(), &format!("value {n}"));
        if n % 3 == 0 {
            batch.delete(T, b"mary", n.saturating_sub(2).to_string().as_bytes());
        }
        if n == 7 {
            batch.delete_all(Table(4), b"gone");
        } else if n < 7 {
            batch.put(Table(4), b"gone", &[n], vec![n; 20]);
        }
        disk.raise_time_floor(1000 + u64::from(n));
        disk.write(batch).unwrap();
        disk.commit().unwrap();
        if n == 8 {
            disk.compact().unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, u16),
    Delete(u8, u8),
    Clear(u8),
    Commit,
    Abandon,
    Compact,
    Crash,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..4u8, 0..12u8, 0..2000u16).prop_map(|(p, i, v)| Step::Put(p, i, v)),
        3 => (0..4u8, 0..12u8).prop_map(|(p, i)| Step::Delete(p, i)),
        1 => (0..4u8).prop_map(Step::Clear),
        5 => Just(Step::Commit),
        1 => Just(Step::Abandon),
        1 => Just(Step::Compact),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
    ]
}

type Model = BTreeMap<(u8, u8), u16>;

fn rows(disk: &Disk) -> Model {
    let mut found = Model::new();
    disk.scan_table(T, &mut |parent, item, value| {
        let n = u16::from_le_bytes([value[0], value[1]]);
        assert_eq!(value.len(), 2 + usize::from(n % 600));
        assert!(found.insert((parent[0], item[0]), n).is_none());
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// After any crash the store is what a map was at the last commit that was acknowledged.
    #[test]
    fn a_store_is_a_map_at_its_last_commit(steps in proptest::collection::vec(step(), 1..120)) {
        let dir = TempDir::new().unwrap();
        let (mut model, mut acknowledged) = (Model::new(), Model::new());
        let mut disk = open(dir.path()).0;
        for step in steps {
            let mut batch = Batch::new();
            match step {
                Step::Put(p, i, n) => {
                    let mut value = n.to_le_bytes().to_vec();
                    value.resize(2 + usize::from(n % 600), 7);
                    batch.put(T, &[p], &[i], value);
                    model.insert((p, i), n);
                }
                Step::Delete(p, i) => {
                    batch.delete(T, &[p], &[i]);
                    model.remove(&(p, i));
                }
                Step::Clear(p) => {
                    batch.delete_all(T, &[p]);
                    model.retain(|key, _| key.0 != p);
                }
                Step::Commit => {
                    disk.commit().unwrap();
                    acknowledged = model.clone();
                }
                Step::Abandon => {
                    disk.abandon();
                    model = acknowledged.clone();
                }
                Step::Compact => disk.compact().unwrap(),
                Step::Crash => {
                    drop(disk);
                    disk = open(dir.path()).0;
                    model = acknowledged.clone();
                }
                Step::Close => {
                    Box::new(disk).close().unwrap();
                    acknowledged = model.clone();
                    let (reopened, opened) = open(dir.path());
                    prop_assert_eq!(opened, Opened::Clean);
                    disk = reopened;
                }
            }
            disk.write(batch).unwrap();
            prop_assert_eq!(rows(&disk), model.clone());
        }
    }
}

/// Bytes that somebody put behind a full segment: the next one says that they are nothing of ours.
#[test]
fn bytes_behind_a_full_segment_are_cut_off() {
    let (dir, _) = committed(60);
    let mut disk = open(dir.path()).0;
    // Full in every build, also where a segment has room for more than a test writes.
    disk.journal.rotate().unwrap();
    disk.write(put(T, "mary", "60", "value")).unwrap();
    disk.commit().unwrap();
    drop(disk);
    let whole = fs::read(journal_file(dir.path())).unwrap();
    for extra in [1, 3000] {
        fs::write(journal_file(dir.path()), [whole.clone(), vec![0xA5; extra]].concat()).unwrap();
        let health = Disk::check(dir.path(), key()).unwrap();
        assert!(!health.loses(), "{health:?}");
        let (disk, opened) = open(dir.path());
        assert!(matches!(opened, Opened::Repaired { ref what } if what.len() == 1), "{opened:?}");
        assert_eq!(count(&disk), 61);
        drop(disk);
        assert_eq!(fs::read(journal_file(dir.path())).unwrap(), whole);
    }
    // The last frame of the segment is none of these.
    let lost = [&whole[..whole.len() - 30], &[0xA5; 30]].concat();
    fs::write(journal_file(dir.path()), &lost).unwrap();
    assert!(matches!(Disk::open(dir.path(), key()), Err(StoreError::Damaged { .. })));
    assert_eq!(fs::read(journal_file(dir.path())).unwrap(), lost);
}

fn all_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_dir() { all_files(&entry.path(), found) } else { found.push(entry.path()) }
    }
    found.sort();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever is damaged, in whatever file: the store opens with every acknowledged row, or it refuses, and
    /// then salvaging opens it and says that something is lost if, and only if, a row is missing or stale.
    #[test]
    fn damage_never_passes_in_silence(
        commits in 1..60u16, compact_at in 0..80u16, close in any::<bool>(),
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(),
        kind in 0..5u8, length in 1..5000usize,
    ) {
        let dir = TempDir::new().unwrap();
        let home = dir.path().join("store");
        let (mut model, mut disk) = (Model::new(), open(&home).0);
        for n in 0..commits {
            let (p, i) = ((n % 3) as u8, (n % 17) as u8);
            let mut value = n.to_le_bytes().to_vec();
            value.resize(2 + usize::from(n % 600), 7);
            let mut batch = Batch::new();
            batch.put(T, &[p], &[i], value);
            model.insert((p, i), n);
            disk.write(batch).unwrap();
            disk.commit().unwrap();
            if n == compact_at {
                disk.compact().unwrap();
            }
        }
        if close { Box::new(disk).close().unwrap() } else { drop(disk) }
        let mut files = vec![];
        all_files(&home, &mut files);
        files.retain(|file| !file.ends_with("reserve") && !file.ends_with("lock"));
        let file = &files[file.index(files.len())];
        let mut bytes = fs::read(file).unwrap();
        let from = at.index(bytes.len().max(1));
        match kind {
            0 if !bytes.is_empty() => bytes[from] ^= 4,
            1 => bytes.iter_mut().skip(from).take(length).for_each(|byte| *byte = 0),
            2 => bytes.truncate(from),
            3 => bytes.extend(vec![0xA5; length]),
            _ => {}
        }
        if kind == 4 { fs::remove_file(file).unwrap() } else { fs::write(file, bytes).unwrap() }
        let health = Disk::check(&home, key()).unwrap();
        match Disk::open(&home, key()) {
            Ok((disk, _)) => {
                prop_assert!(!health.loses(), "{:?}", health);
                prop_assert_eq!(rows(&disk), model);
            }
            Err(StoreError::Damaged { .. }) => {
                prop_assert!(health.loses(), "{:?}", health);
                let salvage = Disk::salvage(&home, key()).unwrap();
                let (mut disk, _) = open(&home);
                prop_assert!(salvage.loses(), "{:?} {:?}", salvage, file);
                let found = rows(&disk);
                prop_assert!(found.keys().all(|key| model.contains_key(key)));
                disk.write(put(Table(9), "a", "b", "goes on")).unwrap();
                disk.commit().unwrap();
                drop(disk);
                prop_assert_eq!(rows(&open(&home).0), found);
            }
            Err(error) => prop_assert!(false, "{error} {file:?}"),
        }
    }
}
