//! What a set of entries means: who the party is, what it grants, what it has ended.
//!
//! For: one pure function from the *set* of entries to a [`State`] (SPEC rules 1 to 6). No order of arrival,
//! no server, no clock. Not for: whether a record may leave now; that is [`crate::decide`].

use crate::encoding;
use crate::entry::{Act, Device, Entry, Recover};
use crate::id::{DeviceId, Digest, EntryId, GrantId, PartyId, digest};
use crate::keys::{Recipient, verifies};
use crate::limits::LOG_BYTES_MAX;
use crate::signed::Verified;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Why an entry does not belong in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The first entry is no Genesis.
    #[error("expected a Genesis as the first entry")]
    NotGenesis,
    /// The entry of another party.
    #[error("expected an entry of {expected}")]
    OtherParty {
        /// Whose log this is.
        expected: PartyId,
    },
    /// Signed by a device that no held entry names.
    #[error("device {0} is named by no entry of this party")]
    Untraced(DeviceId),
    /// More than one party may store.
    #[error("the log of this party is over {LOG_BYTES_MAX} bytes: only a recovery is still accepted")]
    TooLarge,
}

/// A party's entries.
#[derive(Debug, Clone)]
pub struct PartyLog {
    party: PartyId,
    entries: BTreeMap<EntryId, Verified<Entry>>,
    bytes: usize,
}

/// The last entry of a device's chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The device.
    pub device: DeviceId,
    /// Position of its last entry.
    pub seq: u64,
    /// That entry.
    pub id: EntryId,
}

/// What the entries amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The party.
    pub party: PartyId,
    /// The current generation.
    pub generation: u32,
    /// Two different recoveries of one generation, or a log over its bound: everything is denied.
    pub disputed: bool,
    /// Live devices and whom to seal to for them.
    pub devices: BTreeMap<DeviceId, Vec<Recipient>>,
    /// Live stewards and their devices.
    pub stewards: BTreeMap<PartyId, BTreeSet<DeviceId>>,
    /// Grants that count, revoked or not, with their commitments.
    pub grants: BTreeMap<GrantId, Digest>,
    /// Grants that ended.
    pub revoked: BTreeSet<GrantId>,
    /// Devices that forked, and from which seq on their permissions are void.
    pub forks: BTreeMap<DeviceId, u64>,
    /// The last entry of each device's chain in this generation.
    pub heads: Vec<Head>,
    /// blake3 of the sorted identity entry ids.
    pub identity: Digest,
}

impl State {
    /// Whether `device` is a live device of this party.
    pub fn has_device(&self, device: &DeviceId) -> bool {
        self.devices.contains_key(device)
    }

    /// Whether `device` belongs to a live steward of this party.
    pub fn has_steward_device(&self, device: &DeviceId) -> bool {
        self.stewards.values().any(|devices| devices.contains(device))
    }

    /// Everybody to seal to so that every live device can open.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.devices.values().flatten().cloned().collect()
    }
}

impl PartyLog {
    /// Begins with a Genesis, signed by one of the devices it names.
    pub fn start(genesis: Verified<Entry>) -> Result<Self, LogError> {
        let Act::Genesis(body) = &genesis.act else {
            return Err(LogError::NotGenesis);
        };
        let by = genesis.by();
        let names_signer = body.devices.iter().any(|device| device.device == by.device);
        if !names_signer || by.party.is_some() || by.r#gen != 0 || genesis.seq != 0 || genesis.prev.is_some()
        {
            return Err(LogError::NotGenesis);
        }
        let party = PartyId::from(*genesis.id().as_bytes());
        let bytes = genesis.bytes().len();
        Ok(Self {
            party,
            entries: BTreeMap::from([(genesis.id().into(), genesis)]),
            bytes,
        })
    }

    /// The party.
    pub fn party(&self) -> PartyId {
        self.party
    }

    /// Adds an entry; false if it was here already. What it means is worked out by [`PartyLog::state`], so the
    /// order of adding does not matter as long as a device's naming comes before its entries.
    pub fn add(&mut self, entry: Verified<Entry>) -> Result<bool, LogError> {
        let id = entry.id().into();
        if self.entries.contains_key(&id) {
            return Ok(false);
        }
        if !entry.is_by(self.party) {
            return Err(LogError::OtherParty { expected: self.party });
        }
        let is_recover = matches!(entry.act, Act::Recover(_));
        if !is_recover && !self.traced(entry.by().r#gen).contains(&entry.by().device) {
            return Err(LogError::Untraced(entry.by().device));
        }
        if !is_recover && self.bytes + entry.bytes().len() > LOG_BYTES_MAX {
            return Err(LogError::TooLarge);
        }
        self.bytes += entry.bytes().len();
        self.entries.insert(id, entry);
        Ok(true)
    }

    /// An entry by its id.
    pub fn get(&self, id: &EntryId) -> Option<&Verified<Entry>> {
        self.entries.get(id)
    }

    /// Whether the entry is held.
    pub fn holds(&self, id: &EntryId) -> bool {
        self.entries.contains_key(id)
    }

    /// All entries, in an order in which [`PartyLog::add`] takes them: identity first, each device's chain in its order.
    pub fn in_order(&self) -> Vec<&Verified<Entry>> {
        let mut entries: Vec<&Verified<Entry>> = self.entries.values().collect();
        entries.sort_by_key(|entry| {
            (
                !matches!(entry.act, Act::Genesis(_)),
                entry.by().r#gen,
                !entry.act.is_identity(),
                entry.seq,
            )
        });
        entries
    }

    /// Identity entries alone, in that order.
    pub fn identity_entries(&self) -> Vec<&Verified<Entry>> {
        self.in_order()
            .into_iter()
            .filter(|entry| entry.act.is_identity())
            .collect()
    }

    /// What the entries amount to.
    pub fn state(&self) -> State {
        let (generation, disputed) = self.generation();
        let traced = self.traced(generation);
        let chains = self.chains(generation);
        let forks = forks(&chains);
        let ends = self.ends(generation, &traced, &forks);
        let mut state = State {
            party: self.party,
            generation,
            disputed: disputed || self.bytes > LOG_BYTES_MAX,
            devices: BTreeMap::new(),
            stewards: BTreeMap::new(),
            grants: BTreeMap::new(),
            revoked: BTreeSet::new(),
            forks,
            heads: heads(&chains),
            identity: self.identity_digest(),
        };
        self.count_devices(&mut state, &ends);
        self.count_denials(&mut state, &traced);
        self.count_grants(&mut state, &chains, &ends);
        state
    }

    /// The highest generation with a valid beginning, and whether two recoveries compete for one.
    fn generation(&self) -> (u32, bool) {
        let mut generation = 0;
        loop {
            match self.recovers_of(generation + 1).len() {
                0 => return (generation, false),
                1 => generation += 1,
                _ => return (generation + 1, true),
            }
        }
    }

    fn recovers_of(&self, generation: u32) -> Vec<&Verified<Entry>> {
        let Some((commitments, threshold)) = self.committed_before(generation) else {
            return vec![];
        };
        self.entries
            .values()
            .filter(|entry| entry.by().r#gen == generation)
            .filter(|entry| match &entry.act {
                Act::Recover(recover) => self.recovers(entry, recover, generation, &commitments, threshold),
                _ => false,
            })
            .collect()
    }

    fn committed_before(&self, generation: u32) -> Option<(Vec<Digest>, u8)> {
        self.entries.values().find_map(|entry| match &entry.act {
            Act::Genesis(genesis) if generation == 1 => {
                Some((genesis.next_recovery.clone(), genesis.threshold))
            }
            Act::Recover(recover) if generation > 1 && recover.terms.r#gen == generation - 1 => {
                Some((recover.terms.next_recovery.clone(), recover.terms.threshold))
            }
            _ => None,
        })
    }

    fn recovers(
        &self,
        entry: &Verified<Entry>,
        recover: &Recover,
        generation: u32,
        commitments: &[Digest],
        threshold: u8,
    ) -> bool {
        let terms = &recover.terms;
        let fits = terms.party == self.party
            && terms.r#gen == generation
            && entry.seq == 0
            && terms
                .devices
                .iter()
                .any(|device| device.device == entry.by().device);
        let Ok(signed) = encoding::encode(terms) else {
            return false;
        };
        let signers: BTreeSet<&DeviceId> = recover
            .reveals
            .iter()
            .zip(&recover.signatures)
            .filter(|(key, _)| commitments.contains(&digest(key.as_bytes())))
            .filter(|(key, signature)| verifies(key, &signed, signature))
            .map(|(key, _)| key)
            .collect();
        fits && threshold > 0 && signers.len() >= usize::from(threshold)
    }

    /// Devices whose naming traces by signatures to the beginning of `generation`, void or not (rule 3).
    fn traced(&self, generation: u32) -> BTreeSet<DeviceId> {
        let mut traced: BTreeSet<DeviceId> = self
            .first_devices(generation)
            .iter()
            .map(|device| device.device)
            .collect();
        loop {
            let before = traced.len();
            for entry in self.of_generation(generation) {
                if let Act::AddDevice(device) = &entry.act
                    && traced.contains(&entry.by().device)
                {
                    traced.insert(device.device);
                }
            }
            if traced.len() == before {
                return traced;
            }
        }
    }

    fn first_devices(&self, generation: u32) -> &[Device] {
        self.entries
            .values()
            .find_map(|entry| match &entry.act {
                Act::Genesis(genesis) if generation == 0 => Some(genesis.devices.as_slice()),
                Act::Recover(recover) if generation > 0 && recover.terms.r#gen == generation => {
                    Some(recover.terms.devices.as_slice())
                }
                _ => None,
            })
            .unwrap_or_default()
    }

    fn of_generation(&self, generation: u32) -> impl Iterator<Item = &Verified<Entry>> {
        self.entries
            .values()
            .filter(move |entry| entry.by().r#gen == generation)
    }

    fn chains(&self, generation: u32) -> Chains<'_> {
        let mut chains = Chains::new();
        for entry in self.of_generation(generation) {
            chains
                .entry(entry.by().device)
                .or_default()
                .entry(entry.seq)
                .or_default()
                .push(entry);
        }
        chains
    }

    /// For each device, the first seq from which its permissions are void: a fork (rule 4) or a removal (rule 5).
    fn ends(
        &self,
        generation: u32,
        traced: &BTreeSet<DeviceId>,
        forks: &BTreeMap<DeviceId, u64>,
    ) -> BTreeMap<DeviceId, u64> {
        let mut ends = forks.clone();
        for entry in self
            .of_generation(generation)
            .filter(|entry| traced.contains(&entry.by().device))
        {
            if let Act::RemoveDevice {
                device,
                last_valid_seq,
            } = entry.act
            {
                let end = last_valid_seq.saturating_add(1);
                ends.entry(device)
                    .and_modify(|at| *at = end.min(*at))
                    .or_insert(end);
            }
        }
        ends
    }

    /// Live devices: named by a device that itself counts, and not removed. Needs no complete chain, because a
    /// stranger who is shown identity entries alone must come to the same answer (rule 1).
    fn count_devices(&self, state: &mut State, ends: &BTreeMap<DeviceId, u64>) {
        let mut named: BTreeMap<DeviceId, Vec<Recipient>> = self
            .first_devices(state.generation)
            .iter()
            .map(|device| (device.device, device.recipients.clone()))
            .collect();
        loop {
            let before = named.len();
            for entry in self.of_generation(state.generation) {
                if let Act::AddDevice(device) = &entry.act
                    && named.contains_key(&entry.by().device)
                    && before_end(entry, ends)
                {
                    named
                        .entry(device.device)
                        .or_insert_with(|| device.recipients.clone());
                }
            }
            if named.len() == before {
                break;
            }
        }
        for entry in self.of_generation(state.generation) {
            if let Act::AddSteward { party, devices } = &entry.act
                && named.contains_key(&entry.by().device)
                && before_end(entry, ends)
            {
                state.stewards.entry(*party).or_default().extend(devices);
            }
        }
        state.devices = named;
    }

    /// Denials count under any traced device, void or gapped; nothing can void them (rule 3).
    fn count_denials(&self, state: &mut State, traced: &BTreeSet<DeviceId>) {
        for entry in self
            .of_generation(state.generation)
            .filter(|entry| traced.contains(&entry.by().device))
        {
            match &entry.act {
                Act::RemoveDevice { device, .. } => {
                    state.devices.remove(device);
                }
                Act::RemoveSteward { party } => {
                    state.stewards.remove(party);
                }
                Act::Revoke { grant, .. } => {
                    state.revoked.insert(*grant);
                }
                _ => {}
            }
        }
    }

    /// Grants count only if their chain to the beginning is complete (rule 1) and they lie before the end of
    /// their device (rules 4 and 5).
    fn count_grants(&self, state: &mut State, chains: &Chains<'_>, ends: &BTreeMap<DeviceId, u64>) {
        for (device, chain) in chains {
            let complete = self.complete_until(*device, chain, state.generation);
            for entry in chain.range(..complete).flat_map(|(_, entries)| entries) {
                if let Act::Grant { commitment } = entry.act
                    && before_end(entry, ends)
                    && state.is_or_was_named(device, ends)
                {
                    state.grants.insert(EntryId::from(entry.id()).into(), commitment);
                }
            }
        }
    }

    /// The first seq that is missing or does not link.
    fn complete_until(&self, device: DeviceId, chain: &Chain<'_>, generation: u32) -> u64 {
        let mut next = 0;
        let mut links: BTreeSet<EntryId> = BTreeSet::new();
        while let Some(entries) = chain.get(&next) {
            let linked: BTreeSet<EntryId> = entries
                .iter()
                .filter(|entry| match (next, entry.prev) {
                    (0, prev) => self.begins_chain(entry, prev, device, generation),
                    (_, Some(prev)) => links.contains(&prev),
                    (_, None) => false,
                })
                .map(|entry| entry.id().into())
                .collect();
            if linked.is_empty() {
                return next;
            }
            links = linked;
            next += 1;
        }
        next
    }

    fn begins_chain(
        &self,
        entry: &Verified<Entry>,
        prev: Option<EntryId>,
        device: DeviceId,
        generation: u32,
    ) -> bool {
        let names = |devices: &[Device]| devices.iter().any(|named| named.device == device);
        match (
            &entry.act,
            prev.and_then(|prev| self.get(&prev))
                .map(|named_by| &named_by.act),
        ) {
            (Act::Genesis(_), None) => generation == 0,
            (Act::Recover(_), _) => generation > 0,
            (_, Some(Act::Genesis(genesis))) => names(&genesis.devices),
            (_, Some(Act::Recover(recover))) => names(&recover.terms.devices),
            (_, Some(Act::AddDevice(named))) => named.device == device,
            _ => false,
        }
    }

    fn identity_digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (id, entry) in &self.entries {
            if entry.act.is_identity() {
                hasher.update(id.as_bytes());
            }
        }
        hasher.finalize().into()
    }
}

impl State {
    /// A removed device's earlier grants stay; a device that was never counted has none.
    fn is_or_was_named(&self, device: &DeviceId, ends: &BTreeMap<DeviceId, u64>) -> bool {
        self.devices.contains_key(device) || ends.contains_key(device)
    }
}

type Chain<'a> = BTreeMap<u64, Vec<&'a Verified<Entry>>>;
type Chains<'a> = BTreeMap<DeviceId, Chain<'a>>;

fn before_end(entry: &Verified<Entry>, ends: &BTreeMap<DeviceId, u64>) -> bool {
    ends.get(&entry.by().device).is_none_or(|end| entry.seq < *end)
}

fn forks(chains: &Chains<'_>) -> BTreeMap<DeviceId, u64> {
    chains
        .iter()
        .filter_map(|(device, chain)| {
            let fork = chain.iter().find(|(_, entries)| entries.len() > 1)?;
            Some((*device, *fork.0))
        })
        .collect()
}

fn heads(chains: &Chains<'_>) -> Vec<Head> {
    chains
        .iter()
        .filter_map(|(device, chain)| {
            let (seq, entries) = chain.last_key_value()?;
            // Of a fork at the very end the smaller id is named; both are held by whoever holds this one's proof.
            let id = entries.iter().map(|entry| EntryId::from(entry.id())).min()?;
            Some(Head {
                device: *device,
                seq: *seq,
                id,
            })
        })
        .collect()
}
