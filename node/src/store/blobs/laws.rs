//! Laws of payloads on a disk, tried with random crashes and random damage.

#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use super::super::contract::{checked, content, finished};
use super::tests::{START_BYTES, both_files, bytes, lies_in, name, open, put_all, read};
use super::*;

/// What happens to a folder.
#[derive(Clone, Debug)]
enum Step {
    Put(u32),
    Delete(Index),
    Sync,
    Gc,
    Kill,
    /// How much of what was not synced survives, and a seed for damage in it.
    PowerCut(Index, Option<Index>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..60u32).prop_map(Step::Put),
        4 => any::<Index>().prop_map(Step::Delete),
        3 => Just(Step::Sync),
        1 => Just(Step::Gc),
        1 => Just(Step::Kill),
        2 => (any::<Index>(), proptest::option::of(any::<Index>())).prop_map(|(kept, hurt)| Step::PowerCut(kept, hurt)),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A folder and what must be in it.
struct Model {
    dir: TempDir,
    blobs: Option<DiskBlobs>,
    /// Every payload ever put.
    known: BTreeMap<BlobId, Vec<u8>>,
    now: BTreeSet<BlobId>,
    /// Put or deleted since the last sync: a crash may leave either.
    open: BTreeSet<BlobId>,
    synced: BTreeMap<PathBuf, u64>,
}

impl Model {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let blobs = Some(open(dir.path()));
        let (known, now) = (BTreeMap::new(), BTreeSet::new());
        Self { dir, blobs, known, now, open: BTreeSet::new(), synced: BTreeMap::new() }
    }

    fn blobs(&self) -> &DiskBlobs {
        self.blobs.as_ref().unwrap()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(n) => {
                let payload = bytes(*n, 20 + (*n as usize * 37) % 400);
                let id = finished(self.blobs(), &payload);
                self.known.insert(id, payload);
                self.now.insert(id);
                self.open.insert(id);
            }
            Step::Delete(which) if !self.known.is_empty() => {
                let id = *which.get(&self.known.keys().copied().collect::<Vec<_>>());
                self.blobs().delete(&id).unwrap();
                self.now.remove(&id);
                self.open.insert(id);
            }
            Step::Delete(_) => {}
            Step::Sync => {
                self.blobs().sync().unwrap();
                self.is_synced();
            }
            Step::Gc => {
                self.blobs().gc().unwrap();
                self.is_synced();
                for (id, payload) in &self.known {
                    assert!(
                        self.now.contains(id) || !lies_in(self.dir.path(), &payload[..16]),
                        "really deleted"
                    );
                }
                let stats = self.blobs().stats().unwrap();
                assert!(stats.reclaimable_bytes * 10 <= stats.live_bytes + 10 * 52, "{stats:?}");
            }
            Step::Kill => self.reopen(),
            Step::PowerCut(kept, hurt) => {
                self.blobs = None;
                self.cut(kept, *hurt);
                self.reopen();
            }
        }
        self.agrees();
    }

    fn is_synced(&mut self) {
        self.open.clear();
        let lengths =
            both_files(self.dir.path()).into_iter().map(|path| (fs::metadata(&path).unwrap().len(), path));
        self.synced = lengths.map(|(length, path)| (path, length)).collect();
    }

    fn cut(&self, kept: &Index, hurt: Option<Index>) {
        for path in both_files(self.dir.path()) {
            let synced = self.synced.get(&path).copied().unwrap_or(START_BYTES) as usize;
            let mut all = fs::read(&path).unwrap();
            assert!(all.len() >= synced, "what is synced is never cut");
            all.truncate(synced + kept.index(all.len() - synced + 1));
            if let Some(at) = hurt.filter(|_| all.len() > synced).map(|hurt| hurt.index(all.len() - synced)) {
                all[synced + at..].iter_mut().take(64).for_each(|byte| *byte = 0);
            }
            fs::write(path, all).unwrap();
        }
    }

    /// What is there now decides about what was under way; all else must be as it was.
    fn reopen(&mut self) {
        self.blobs = None;
        self.blobs = Some(open(self.dir.path()));
        for id in std::mem::take(&mut self.open) {
            match content(self.blobs(), &id) {
                Some(_) => self.now.insert(id),
                None => self.now.remove(&id),
            };
        }
        // Whatever was found is durable from here on.
        self.blobs().sync().unwrap();
        self.is_synced();
    }

    fn agrees(&self) {
        for (id, payload) in &self.known {
            let expected = self.now.contains(id).then_some(payload);
            assert_eq!(content(self.blobs(), id).as_ref(), expected);
            assert_eq!(self.blobs().len(id).unwrap(), expected.map(|payload| payload.len() as u64));
        }
        let (named, sums) = checked(self.blobs());
        assert!(named.is_empty() && sums.unnamed_bytes == 0, "a crash is no damage");
        let mut durable = BTreeSet::new();
        let mut visit = |id: &BlobId, _| {
            assert!(durable.insert(*id), "visited once");
            ControlFlow::Continue(())
        };
        self.blobs().list(&mut visit).unwrap();
        assert!(durable.is_subset(&self.now));
        assert!(self.now.iter().all(|id| durable.contains(id) || self.open.contains(id)));
    }
}

/// What happens to a file.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Zero(Index),
    Truncate(Index),
    Remove,
}

fn damage() -> impl Strategy<Value = (Index, Damage)> {
    let damage = prop_oneof![
        4 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        4 => any::<Index>().prop_map(Damage::Zero),
        3 => any::<Index>().prop_map(Damage::Truncate),
        1 => Just(Damage::Remove),
    ];
    (any::<Index>(), damage)
}

fn hurt(paths: &[PathBuf], (which, damage): &(Index, Damage)) {
    let path = which.get(paths);
    let mut bytes = fs::read(path).unwrap_or_default();
    if bytes.is_empty() {
        return;
    }
    match damage {
        Damage::Flip(at, bit) => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        // A page, on the scale of these packs.
        Damage::Zero(at) => bytes
            .chunks_mut(512)
            .nth(at.index(fs::metadata(path).unwrap().len() as usize) / 512)
            .into_iter()
            .for_each(|page| page.fill(0)),
        Damage::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Remove => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

/// Forty payloads in several packs, ten of them deleted; closed.
fn peopled(dir: &Path) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let blobs = open(dir);
    let all: Vec<_> = (0..40).map(|n| bytes(n, 100 + n as usize * 4)).collect();
    for (n, payload) in all.iter().enumerate() {
        finished(&blobs, payload);
        if n % 7 == 0 {
            blobs.sync().unwrap();
        }
    }
    let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(n, _)| n % 4 == 1);
    gone.iter().for_each(|(_, payload)| blobs.delete(&name(payload)).unwrap());
    blobs.sync().unwrap();
    let strip = |numbered: Vec<(usize, Vec<u8>)>| numbered.into_iter().map(|(_, payload)| payload).collect();
    (strip(left), strip(gone))
}

/// Payloads that are not what they should be; never wrong bytes.
fn unreadable(blobs: &DiskBlobs, left: &[Vec<u8>]) -> BTreeSet<BlobId> {
    let is_right = |payload: &Vec<u8>| match read(blobs, &name(payload)) {
        Ok(Some(found)) => {
            assert_eq!(found, *payload, "wrong bytes are never handed out");
            true
        }
        Ok(None) => false,
        Err(StoreError::WrongHash { expected, .. }) => {
            assert_eq!(expected, hex(&name(payload)));
            false
        }
        Err(other) => panic!("{other}"),
    };
    left.iter().filter(|payload| !is_right(payload)).map(|payload| name(payload)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Nothing acknowledged is lost, nothing deleted comes back, and what was under way is there or not.
    #[test]
    fn crashes_leave_what_was_synced(steps in steps()) {
        let mut model = Model::new();
        steps.iter().for_each(|step| model.step(step));
    }

    /// Damage in one file loses only the payloads it hits, each of them named; deleted ones stay deleted; and
    /// all is well again when the damaged ones were put again.
    #[test]
    fn damage_in_one_file_is_named_exactly(damage in damage()) {
        let dir = TempDir::new().unwrap();
        let (left, gone) = peopled(dir.path());
        hurt(&both_files(dir.path()), &damage);
        let blobs = open(dir.path());
        let (named, _) = checked(&blobs);
        prop_assert_eq!(&named, &unreadable(&blobs, &left));
        prop_assert!(named.iter().all(|id| blobs.len(id).unwrap().is_none()));
        prop_assert!(gone.iter().all(|payload| matches!(read(&blobs, &name(payload)), Ok(None))));
        if matches!(damage.1, Damage::Flip(..)) {
            prop_assert!(named.len() <= 1, "a bit is in one payload");
        }
        let blobs = match named.len() % 2 {
            // Names outlive a rewrite.
            1 => {
                blobs.gc().unwrap();
                drop(blobs);
                open(dir.path())
            }
            _ => blobs,
        };
        prop_assert_eq!(&checked(&blobs).0, &named);
        put_all(&blobs, &left);
        blobs.sync().unwrap();
        drop(blobs);
        let blobs = open(dir.path());
        prop_assert!(unreadable(&blobs, &left).is_empty());
        blobs.gc().unwrap();
        let (named, sums) = checked(&blobs);
        prop_assert!(named.is_empty() && sums.unnamed_bytes == 0 && sums.payloads == 30);
        prop_assert!(gone.iter().all(|payload| !lies_in(dir.path(), &payload[..32])));
    }

    /// Whatever lies on the disk: no panic, no wrong bytes, and what comes next is kept.
    #[test]
    fn any_damage_leaves_a_folder_that_works(many in proptest::collection::vec(damage(), 1..8)) {
        let dir = TempDir::new().unwrap();
        let (left, _) = peopled(dir.path());
        many.iter().for_each(|damage| hurt(&both_files(dir.path()), damage));
        let blobs = open(dir.path());
        let (named, _) = checked(&blobs);
        prop_assert!(named.is_subset(&unreadable(&blobs, &left)) || !named.is_empty());
        put_all(&blobs, &left);
        blobs.gc().unwrap();
        drop(blobs);
        let blobs = open(dir.path());
        prop_assert!(unreadable(&blobs, &left).is_empty());
    }

    /// Any bytes as pack and index.
    #[test]
    fn foreign_bytes_are_no_panic(pack in proptest::collection::vec(any::<u8>(), 0..400), index in proptest::collection::vec(any::<u8>(), 0..400)) {
        let dir = TempDir::new().unwrap();
        drop(open(dir.path()));
        let stem = dir.path().join("packs").join(format!("000007-{}", "ab".repeat(16)));
        fs::write(stem.with_extension("pack"), pack).unwrap();
        fs::write(stem.with_extension("index"), index).unwrap();
        fs::write(dir.path().join("packs/000008-zz.pack"), "").unwrap();
        let blobs = open(dir.path());
        let id = finished(&blobs, b"works");
        blobs.gc().unwrap();
        prop_assert_eq!(content(&blobs, &id), Some(b"works".to_vec()));
    }
}
