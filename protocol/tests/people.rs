//! The cast of the protocol's tests: devices that write entries, out of chance that repeats.
//!
//! For: every test file beside this one (`mod people;`). Not for: rules; each test file states its own.

#![allow(
    dead_code,
    clippy::panic,
    reason = "each test file uses a part of the cast, and this one is a test file too"
)]

use karte_protocol::chance::Chance;
use karte_protocol::entry::{Act, Device, Entry, Genesis};
use karte_protocol::id::{Digest, EntryId, GrantId, PartyId};
use karte_protocol::identity::{LogError, PartyLog};
use karte_protocol::keys::{DeviceKey, RecoverySeed, SealingKey};
use karte_protocol::signed::{By, Verified};
use karte_protocol::time::UnixMs;

/// 2026-01-01T00:00:00Z. No test reads a clock.
pub(crate) const NOW_MS: UnixMs = 1_767_225_600_000;

/// Chance that repeats: the blake3 output stream of a seed.
pub(crate) struct Repeating(blake3::OutputReader);

impl Repeating {
    pub(crate) fn from_seed(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }
}

impl Chance for Repeating {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill(out);
    }
}

/// A device that writes its chain, honestly or not.
pub(crate) struct Writer {
    pub(crate) key: DeviceKey,
    pub(crate) sealing: SealingKey,
    pub(crate) party: Option<PartyId>,
    pub(crate) generation: u32,
    pub(crate) seq: u64,
    pub(crate) prev: Option<EntryId>,
}

impl Writer {
    /// A device of nobody yet; the same name gives the same keys.
    pub(crate) fn named(name: &str) -> Self {
        let mut chance = Repeating::from_seed(name);
        Self {
            key: DeviceKey::generate(&mut chance),
            sealing: SealingKey::generate(&mut chance),
            party: None,
            generation: 0,
            seq: 0,
            prev: None,
        }
    }

    pub(crate) fn device(&self) -> Device {
        Device { device: self.key.device(), recipients: vec![self.sealing.recipient()] }
    }

    pub(crate) fn by(&self) -> By {
        By { party: self.party, r#gen: self.generation, device: self.key.device() }
    }

    /// Begins a party that `recovery` may recover.
    pub(crate) fn begins(&mut self, recovery: &[&RecoverySeed], threshold: u8) -> Verified<Entry> {
        let genesis = self.writes(Act::Genesis(Genesis {
            salt: Repeating::from_seed("salt of the party").salt(),
            devices: vec![self.device()],
            next_recovery: recovery.iter().map(|seed| seed.commitment()).collect(),
            threshold,
        }));
        self.party = Some(PartyId::from(*genesis.id().as_bytes()));
        genesis
    }

    /// Starts its chain after the entry that names it.
    pub(crate) fn joins(&mut self, naming: &Verified<Entry>, party: PartyId) {
        self.party = Some(party);
        self.generation = naming.by().r#gen;
        self.seq = 0;
        self.prev = Some(naming.id().into());
    }

    /// Its next entry.
    pub(crate) fn writes(&mut self, act: Act) -> Verified<Entry> {
        let entry = self.would_write(act);
        self.seq += 1;
        self.prev = Some(entry.id().into());
        entry
    }

    /// An entry in its next place that it does not go on from: the second one there is a fork.
    pub(crate) fn would_write(&self, act: Act) -> Verified<Entry> {
        let entry = Entry { seq: self.seq, prev: self.prev, at_ms: NOW_MS, act };
        Verified::sign(entry, self.by(), &self.key).expect("signs")
    }

    /// A grant told apart by `word`.
    pub(crate) fn grants(&mut self, word: &str) -> Verified<Entry> {
        self.writes(granting(word))
    }

    pub(crate) fn revokes(&mut self, grant: &Verified<Entry>) -> Verified<Entry> {
        self.writes(revoking(grant))
    }

    pub(crate) fn adds(&mut self, other: &mut Writer) -> Verified<Entry> {
        let naming = self.writes(Act::AddDevice(other.device()));
        other.joins(&naming, self.party.expect("the party has begun"));
        naming
    }

    pub(crate) fn removes(&mut self, other: &Writer, last_valid_seq: u64) -> Verified<Entry> {
        self.writes(Act::RemoveDevice { device: other.key.device(), last_valid_seq })
    }
}

pub(crate) fn granting(word: &str) -> Act {
    Act::Grant { commitment: digest_of(word) }
}

pub(crate) fn revoking(grant: &Verified<Entry>) -> Act {
    Act::Revoke { grant: id_of(grant), reason: String::new() }
}

pub(crate) fn digest_of(word: &str) -> Digest {
    karte_protocol::id::digest(word.as_bytes())
}

pub(crate) fn id_of(grant: &Verified<Entry>) -> GrantId {
    EntryId::from(grant.id()).into()
}

pub(crate) fn recovery(name: &str) -> RecoverySeed {
    RecoverySeed::from_seed(&Repeating::from_seed(name).seed())
}

/// A log of `entries` as they come, `entries[0]` being the Genesis or not: what no held entry names yet waits,
/// as a node lets it wait.
pub(crate) fn log_of<'a>(entries: impl IntoIterator<Item = &'a Verified<Entry>>) -> PartyLog {
    let mut waiting: Vec<&Verified<Entry>> = entries.into_iter().collect();
    let genesis = waiting
        .iter()
        .find(|entry| matches!(entry.act, Act::Genesis(_)) && entry.by().party.is_none())
        .expect("a Genesis is among them");
    let mut log = PartyLog::start((*genesis).clone()).expect("begins");
    loop {
        let before = waiting.len();
        waiting.retain(|entry| match log.add((*entry).clone()) {
            Ok(_) => false,
            Err(LogError::Untraced(_) | LogError::NotCommitted) => true,
            Err(error) => panic!("{error}"),
        });
        if waiting.len() == before {
            return log;
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_cast() {
    assert_eq!(Writer::named("phone").device(), Writer::named("phone").device());
    assert_ne!(Writer::named("phone").device(), Writer::named("laptop").device());
}
