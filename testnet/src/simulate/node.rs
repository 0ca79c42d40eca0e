//! A node of a simulated world: an engine, the folder it lies in, and what the judge knows of it.

use super::model::{Fact, Verdict};
use super::plan::Moment;
use crate::shared::{Rows, SharedStore};
use crate::world::SeededChance;
use karte_node::engine::{self, Engine, Policy};
use karte_node::failure::Failure;
use karte_node::keystore::{Keyring, Keys, KeystoreError};
use karte_protocol::consent::{Accept, Release, Status};
use karte_protocol::id::{DeviceId, EntryId, GrantId, ObjectId, PartyId, RecordId};
use karte_protocol::keys::SealingKey;
use karte_protocol::message::Request;
use karte_protocol::signed::Verified;
use karte_protocol::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// A keystore file that outlives its engine. Writes are durable at once, as the product's are.
#[derive(Default)]
pub struct Ring {
    local: BTreeMap<GrantId, SealingKey>,
    file: Arc<Mutex<BTreeMap<GrantId, [u8; 32]>>>,
}

impl Ring {
    /// Reads the file again.
    pub fn opened(&self) -> Self {
        let local =
            self.keys().into_iter().map(|(grant, seed)| (grant, SealingKey::from_seed(&seed))).collect();
        Self { local, file: self.file.clone() }
    }

    /// What the file holds.
    pub fn keys(&self) -> BTreeMap<GrantId, [u8; 32]> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A file with these keys.
    pub fn of(keys: BTreeMap<GrantId, [u8; 32]>) -> Self {
        Self { local: BTreeMap::new(), file: Arc::new(Mutex::new(keys)) }
    }
}

impl Keyring for Ring {
    fn reading(&self, grant: &GrantId) -> Option<&SealingKey> {
        self.local.get(grant)
    }
    fn held(&self) -> Vec<GrantId> {
        self.local.keys().copied().collect()
    }
    fn keep(&mut self, grant: GrantId, key: SealingKey) -> Result<(), KeystoreError> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).insert(grant, *key.expose_seed());
        self.local.insert(grant, key);
        Ok(())
    }
    fn destroy(&mut self, grant: &GrantId) -> Result<(), KeystoreError> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).remove(grant);
        self.local.remove(grant);
        Ok(())
    }
    // The recovery seed lies in the keys alone.
    fn take_out_recovery(&mut self) -> Result<(), KeystoreError> {
        Ok(())
    }
}

/// A copy of a node's folder.
pub struct Copied {
    /// Its rows.
    pub rows: Rows,
    /// Its reading keys.
    pub ring: BTreeMap<GrantId, [u8; 32]>,
    /// The keys in its keystore.
    pub keys: Arc<Keys>,
    /// Its time floor.
    pub floor_ms: UnixMs,
    /// When it was made.
    pub at_ms: UnixMs,
    /// It remembers that it is an older copy.
    pub is_rolled_back: bool,
}

/// What the judge knows that a node holds or was told.
#[derive(Default)]
pub struct View {
    /// Entries in its rows.
    pub held: BTreeMap<PartyId, BTreeMap<EntryId, Fact>>,
    /// What they amount to, by the model.
    pub verdicts: BTreeMap<PartyId, Rc<Verdict>>,
    /// Statuses that reached it and were not post-dated then.
    pub statuses: Vec<Verified<Status>>,
    /// Acceptances that reached it.
    pub accepts: Vec<Verified<Accept>>,
    /// Requests that it has not answered: one that overtakes the answer to a Hello waits for that.
    pub unanswered: BTreeMap<u64, (DeviceId, Request)>,
    /// Sessions it opened.
    pub sessions: BTreeMap<(DeviceId, GrantId), Verified<Release>>,
    /// Releases that opened one.
    pub used: BTreeSet<ObjectId>,
    /// Grants and revocations that its user was told are done.
    pub acknowledged: BTreeSet<(GrantId, bool)>,
    /// It has met somebody who holds entries of this device that it does not know.
    pub is_rolled_back: bool,
}

/// A node.
pub struct Node {
    /// What it is called, and its address.
    pub name: &'static str,
    /// Its party.
    pub party: PartyId,
    /// COSE bytes of its Genesis.
    pub genesis: Vec<u8>,
    /// The keys of the device that runs.
    pub keys: Arc<Keys>,
    /// None while it is down.
    pub engine: Option<Engine>,
    /// Its rows.
    pub store: SharedStore,
    /// Its reading keys.
    pub ring: Ring,
    /// Payloads on its disk.
    pub blobs: BTreeSet<RecordId>,
    /// Its clock, as milliseconds beside the true time.
    pub off_ms: i64,
    /// A crash that waits for its moment, and for how long it is down then.
    pub crash: Option<(Moment, i64)>,
    /// Copies of its folder.
    pub copies: Vec<Copied>,
    /// Its clock at the last commit that wrote.
    pub floor_ms: UnixMs,
    /// Commits of its store that were seen.
    pub commits: u64,
    /// What the judge knows.
    pub view: View,
    starts: u64,
    policy: Policy,
}

impl Node {
    /// A new party with one device.
    pub fn born(seed: u64, name: &'static str, policy: Policy, now: UnixMs) -> Result<Self, Failure> {
        let mut chance = SeededChance::new(&format!("{seed} {name}"));
        let keys = Arc::new(Keys::generate(&mut chance));
        let birth = engine::birth(&keys, &mut chance, now)?;
        let mut node = Self {
            name,
            party: birth.party,
            genesis: birth.genesis,
            keys,
            engine: None,
            store: SharedStore::default(),
            ring: Ring::default(),
            blobs: BTreeSet::new(),
            off_ms: 0,
            crash: None,
            copies: vec![],
            floor_ms: 0,
            commits: 0,
            view: View::default(),
            starts: seed << 16,
            policy,
        };
        node.start(now, false)?;
        Ok(node)
    }

    /// Starts the engine on the folder as it is.
    pub fn start(&mut self, clock: UnixMs, copied: bool) -> Result<(), Failure> {
        self.starts += 1;
        self.ring = self.ring.opened();
        let parts = engine::Parts {
            keys: self.keys.clone(),
            ring: Box::new(self.ring.opened()),
            store: Box::new(self.store.clone()),
            chance: Box::new(SeededChance::new(&format!("{} {}", self.name, self.starts))),
            genesis: self.genesis.clone(),
            name: self.name.into(),
            kind: "patient".into(),
            policy: self.policy,
            copied,
            started: "clean",
        };
        self.engine = Some(Engine::open(parts, clock)?);
        Ok(())
    }

    /// The device that runs.
    pub fn device(&self) -> DeviceId {
        self.keys.device.device()
    }

    /// The folder as it is.
    pub fn copied(&self, at_ms: UnixMs) -> Copied {
        Copied {
            rows: self.store.copy(),
            ring: self.ring.keys(),
            keys: self.keys.clone(),
            floor_ms: self.floor_ms,
            at_ms,
            is_rolled_back: self.view.is_rolled_back,
        }
    }
}
