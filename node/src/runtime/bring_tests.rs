//! Sealing a group while the one before is made durable: what must wait, and what must be known.

use super::*;
use crate::clock::Clock;
use crate::engine::{Engine, Parts as EngineParts, Policy, birth};
use crate::import::{Body, Facts};
use crate::keystore::{Keys, MemoryKeyring};
use crate::runtime::{Parts, Running};
use crate::store::{
    BlobId, BlobStats, BlobWriter, Blobs, Check, Checked, Memory, MemoryBlobs, Partial, ReadSeek, Reclaimed,
    StoreError, UnhashedWriter,
};
use karte_protocol::chance::OsChance;
use std::sync::{Arc, Condvar, Mutex};

/// What a sync does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Waits,
    Works,
    Fails,
}

/// Payloads whose syncs wait until told otherwise.
struct Gated {
    memory: MemoryBlobs,
    disk: Mutex<Disk>,
    told: Condvar,
}

impl Gated {
    fn new(disk: Disk) -> Arc<Self> {
        Arc::new(Self { memory: MemoryBlobs::new(), disk: Mutex::new(disk), told: Condvar::new() })
    }

    fn now(&self, disk: Disk) {
        *self.disk.lock().unwrap() = disk;
        self.told.notify_all();
    }
}

impl Blobs for Gated {
    fn create(&self) -> Result<Box<dyn BlobWriter>, StoreError> {
        self.memory.create()
    }
    fn create_unhashed(&self) -> Result<Box<dyn UnhashedWriter>, StoreError> {
        self.memory.create_unhashed()
    }
    fn put(&self, id: &BlobId, bytes: &[u8]) -> Result<(), StoreError> {
        self.memory.put(id, bytes)
    }
    fn sync(&self) -> Result<(), StoreError> {
        let disk = self.disk.lock().unwrap();
        match *self.told.wait_while(disk, |disk| *disk == Disk::Waits).unwrap() {
            Disk::Fails => Err(StoreError::Poisoned),
            _ => self.memory.sync(),
        }
    }
    fn open(&self, id: &BlobId) -> Result<Option<Box<dyn ReadSeek + Send>>, StoreError> {
        self.memory.open(id)
    }
    fn read(&self, id: &BlobId, bytes_max: u64, buffer: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.memory.read(id, bytes_max, buffer)
    }
    fn len(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        self.memory.len(id)
    }
    fn delete(&self, id: &BlobId) -> Result<(), StoreError> {
        self.memory.delete(id)
    }
    fn list(&self, visit: &mut dyn FnMut(&BlobId, u64) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.memory.list(visit)
    }
    fn partial(&self, id: &BlobId) -> Result<Box<dyn Partial>, StoreError> {
        self.memory.partial(id)
    }
    fn stats(&self) -> Result<BlobStats, StoreError> {
        self.memory.stats()
    }
    fn check(&self, visit: &mut dyn FnMut(Check) -> ControlFlow<()>) -> Result<Checked, StoreError> {
        self.memory.check(visit)
    }
    fn gc(&self) -> Result<Reclaimed, StoreError> {
        self.memory.gc()
    }
}

struct At(i64);

impl Clock for At {
    fn now_ms(&self) -> i64 {
        self.0
    }
}

const NOW_MS: i64 = 1_780_000_000_000;

fn start(blobs: Arc<Gated>) -> Running {
    let keys = Arc::new(Keys::generate(&mut OsChance));
    let genesis = birth(&keys, &mut OsChance, NOW_MS).unwrap().genesis;
    let parts = EngineParts {
        keys,
        ring: Box::new(MemoryKeyring::default()),
        store: Box::new(Memory::new()),
        chance: Box::new(OsChance),
        genesis,
        name: "hana".into(),
        kind: "patient".into(),
        policy: Policy::default(),
        copied: false,
        started: "new",
    };
    Running::start(Parts {
        engine: Engine::open(parts, NOW_MS).unwrap(),
        blobs,
        clock: Arc::new(At(NOW_MS)),
        network: None,
        announce: vec![],
        home: std::path::PathBuf::new(),
        accept: [false; 3],
    })
    .unwrap()
}

/// A day of steps, of which a later import brings more.
fn day(text: &str) -> Finding {
    let facts = Facts {
        kind: "wearable/steps".into(),
        title: "steps".into(),
        media_type: "text/plain".into(),
        source_id: Some("2026-03-01".into()),
        replaces_same_source: true,
        ..Facts::default()
    };
    Finding { bytes: Body::Memory(text.into()), facts, origin: "steps".into() }
}

fn own_records(node: &Node) -> u64 {
    match node.ask_blocking(Input::Counts).unwrap() {
        Answer::Items(items) => items[0]["own"].as_u64().unwrap(),
        _ => panic!("expected counts"),
    }
}

/// Runs on a thread that may block, as an import does.
async fn brings(disk: Disk, story: impl FnOnce(Bringing<'_>, &Gated) + Send + 'static) {
    let blobs = Gated::new(disk);
    let running = start(blobs.clone());
    let node = running.node.clone();
    let told = tokio::task::spawn_blocking(move || {
        let (out, _outs) = mpsc::channel(64);
        let subject = node.party();
        story(Bringing::new(Sealing { node: &node, subject, urgency: None }, &out), &blobs);
    });
    told.await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_in_no_library_before_its_payloads_are_durable() {
    brings(Disk::Waits, |mut hana, disk| {
        let node = hana.sealing.node;
        hana.group = vec![day("9 steps")];
        assert!(hana.close().is_continue(), "it is taken, and settles behind");
        for _ in 0..20 {
            assert_eq!(own_records(node), 0, "the disk has not answered");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        disk.now(Disk::Works);
        hana.finish().unwrap();
        assert_eq!((own_records(node), hana.summary.taken), (1, 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_knows_the_one_before_that_is_not_durable_yet() {
    brings(Disk::Waits, |mut hana, disk| {
        hana.group = vec![day("9 steps")];
        assert!(hana.close().is_continue());
        // The engine knows nothing of it.
        let fuller = hana.seal(vec![day("9 steps"), day("1,009 steps")]).unwrap();
        assert_eq!(fuller.records.len(), 1, "the same bytes again are known");
        assert_eq!(fuller.records[0].label.replaces.len(), 1, "a fuller day takes the place of the last");
        disk.now(Disk::Works);
        assert!(hana.settling().unwrap().add(fuller));
        hana.finish().unwrap();
        assert_eq!((hana.summary.found, hana.summary.taken), (3, 2));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_group_that_failed_none_follows() {
    brings(Disk::Fails, |mut hana, disk| {
        let node = hana.sealing.node;
        hana.group = vec![day("9 steps")];
        assert!(hana.close().is_continue());
        let next = hana.seal(vec![day("1,009 steps")]).unwrap();
        let settling = hana.settling().unwrap();
        // It fails in its own time; then nobody takes the next.
        assert!(!settling.add(next));
        disk.now(Disk::Works);
        assert!(hana.finish().is_err());
        assert_eq!(own_records(node), 0);
    })
    .await;
}
