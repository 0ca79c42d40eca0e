//! What a set of entries means: who the party is, what it grants, what it has ended.
//!
//! For: one pure function from the *set* of entries to a [`State`] (SPEC rules 1 to 6). No order of arrival,
//! no server, no clock. Not for: whether a record may leave now; that is [`crate::decide`].

use crate::encoding;
use crate::entry::{Act, Device, Entry, Recover, RecoverTerms};
use crate::id::{DeviceId, Digest, EntryId, GrantId, PartyId, digest};
use crate::keys::{Recipient, verifies};
use crate::limits::LOG_BYTES_MAX;
use crate::signed::{Signed, Verified};
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
    /// A second Genesis, or a Recover without the keys that were committed.
    #[error("expected one Genesis, and recoveries signed by the committed keys")]
    NotCommitted,
    /// Signed by a device that no held entry names.
    #[error("device {0} is named by no entry of this party")]
    Untraced(DeviceId),
    /// More than one party may store.
    #[error("the log of this party is over {LOG_BYTES_MAX} bytes: only a recovery is still accepted")]
    TooLarge,
}

/// Recoveries of one generation that are kept. 16: one is right, two are a dispute, more is noise.
const RECOVERS_MAX: usize = 16;

/// A party's entries.
#[derive(Debug, Clone)]
pub struct PartyLog {
    party: PartyId,
    entries: BTreeMap<EntryId, Verified<Entry>>,
    /// Bytes of entries, by generation.
    bytes: BTreeMap<u32, usize>,
    /// What [`PartyLog::traced`] found; worked out again when an identity entry comes.
    traced: BTreeMap<u32, BTreeSet<DeviceId>>,
    /// [`PartyLog::named_devices`]; worked out together with it.
    named: BTreeSet<DeviceId>,
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
    /// For each device that forked or was removed, the first seq from which its permissions are void.
    pub ends: BTreeMap<DeviceId, u64>,
    /// The last entry of each device's chain in this generation.
    pub heads: Vec<Head>,
    /// For each device, how many entries from the beginning of its chain are held without a gap.
    pub complete: BTreeMap<DeviceId, u64>,
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

    /// Whether a permission that `device` signed at `seq` lies at or beyond that device's end. That is for good:
    /// nothing moves an end further.
    pub fn is_void(&self, device: &DeviceId, seq: u64) -> bool {
        self.ends.get(device).is_some_and(|end| seq >= *end)
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
        let bytes = BTreeMap::from([(0, genesis.bytes().len())]);
        let entries = BTreeMap::from([(genesis.id().into(), genesis)]);
        let mut log = Self { party, entries, bytes, traced: BTreeMap::new(), named: BTreeSet::new() };
        log.retrace();
        Ok(log)
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
        let generation = entry.by().r#gen;
        match &entry.act {
            Act::Genesis(_) => return Err(LogError::NotCommitted),
            Act::Recover(recover) if !self.recovers(&entry, recover) => return Err(LogError::NotCommitted),
            Act::Recover(_) if self.recovers_of(generation).len() >= RECOVERS_MAX => {
                return Err(LogError::TooLarge);
            }
            Act::Recover(_) => {}
            Act::Revoke { grant, .. }
                if wrong!(EarlyRevokeDropped) && !self.holds(&EntryId::from(*grant)) =>
            {
                return Ok(false);
            }
            _ if !self.is_traced(generation, &entry.by().device) => {
                return Err(LogError::Untraced(entry.by().device));
            }
            // The entry that passes the bound is still taken: it is what shows the dispute.
            _ if self.is_over_full(generation) => return Err(LogError::TooLarge),
            _ => {}
        }
        let names_devices = matches!(entry.act, Act::AddDevice(_) | Act::Recover(_));
        *self.bytes.entry(generation).or_default() += entry.bytes().len();
        self.entries.insert(id, entry);
        if names_devices {
            self.retrace();
        }
        Ok(true)
    }

    /// How many entries are held.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Carries a state over to the log as it is with one entry more, `new`, and says whether it could: if so `state`
    /// is what [`PartyLog::state`] gives now, if not it is as it was. It can for what comes all the time: a Grant or a
    /// Revoke at the end of a whole chain of a live device. So a chain that comes in order costs no recomputation.
    pub fn follow(&self, state: &mut State, new: &EntryId) -> bool {
        // A rule that is broken on purpose is broken in the whole computation, not in this short cut.
        #[cfg(feature = "variants")]
        if crate::variants::is_any_chosen() {
            return false;
        }
        let Some(entry) = self.get(new) else {
            return false;
        };
        let device = entry.by().device;
        let is_plain = entry.by().r#gen == state.generation
            && !entry.act.is_identity()
            && !state.disputed
            && !self.is_over_full(state.generation)
            && state.devices.contains_key(&device)
            && !state.forks.contains_key(&device);
        let head = state.heads.iter_mut().find(|head| head.device == device);
        let (Some(head), Some(complete)) = (head.filter(|_| is_plain), state.complete.get_mut(&device))
        else {
            return false;
        };
        // Nothing lies between the beginning and this entry, and nothing beside or above it.
        let continues = entry.prev == Some(head.id) && head.seq.checked_add(1) == Some(entry.seq);
        if !continues || *complete != entry.seq {
            return false;
        }
        (head.seq, head.id, *complete) = (entry.seq, *new, entry.seq + 1);
        match entry.act {
            // A live device has no end: neither a fork nor a removal of it is held.
            Act::Grant { commitment } => drop(state.grants.insert((*new).into(), commitment)),
            Act::Revoke { grant, .. } => drop(state.revoked.insert(grant)),
            _ => {}
        }
        true
    }

    /// An entry by its id.
    pub fn get(&self, id: &EntryId) -> Option<&Verified<Entry>> {
        self.entries.get(id)
    }

    /// Whether the entry is held.
    pub fn holds(&self, id: &EntryId) -> bool {
        self.entries.contains_key(id)
    }

    /// All entries, in an order in which [`PartyLog::add`] takes them: each generation's beginning, then whoever
    /// names a device before that device speaks, then each chain in its order.
    pub fn in_order(&self) -> Vec<&Verified<Entry>> {
        let mut rest: Vec<&Verified<Entry>> = self.entries.values().collect();
        rest.sort_by_key(|entry| {
            let begins = matches!(entry.act, Act::Genesis(_) | Act::Recover(_));
            (entry.by().r#gen, !begins, !entry.act.is_identity(), entry.seq)
        });
        let mut ordered = Vec::with_capacity(rest.len());
        let mut named: BTreeSet<(u32, DeviceId)> = BTreeSet::new();
        while !rest.is_empty() {
            let before = rest.len();
            rest.retain(|entry| {
                let generation = entry.by().r#gen;
                let devices = match &entry.act {
                    Act::Genesis(genesis) => genesis.devices.as_slice(),
                    Act::Recover(recover) => recover.terms.devices.as_slice(),
                    _ if !named.contains(&(generation, entry.by().device)) => return true,
                    Act::AddDevice(device) => std::slice::from_ref(device),
                    _ => &[],
                };
                named.extend(devices.iter().map(|device| (generation, device.device)));
                ordered.push(*entry);
                false
            });
            if rest.len() == before {
                // Nothing that `add` took is left over; this only keeps the loop from spinning.
                ordered.append(&mut rest);
            }
        }
        ordered
    }

    /// Identity entries alone, in that order.
    pub fn identity_entries(&self) -> Vec<&Verified<Entry>> {
        self.in_order().into_iter().filter(|entry| entry.act.is_identity()).collect()
    }

    /// The entry of the current generation that names a device: what its chain begins behind. Of several the smallest.
    pub fn naming(&self, device: &DeviceId) -> Option<EntryId> {
        let (generation, _) = self.generation();
        let names = |entry: &&Verified<Entry>| match &entry.act {
            Act::Genesis(genesis) => genesis.devices.iter().any(|named| named.device == *device),
            Act::Recover(recover) => recover.terms.devices.iter().any(|named| named.device == *device),
            Act::AddDevice(named) => named.device == *device,
            _ => false,
        };
        self.of_generation(generation).filter(names).map(|entry| entry.id().into()).min()
    }

    /// The entries that show a device to be of this party, and no more: Genesis, the recoveries, and who named the device,
    /// who named that one, and so on.
    pub fn shows(&self, device: &DeviceId) -> BTreeSet<EntryId> {
        let begins = |entry: &&Verified<Entry>| matches!(entry.act, Act::Genesis(_) | Act::Recover(_));
        let mut needed: BTreeSet<EntryId> =
            self.entries.values().filter(begins).map(|entry| entry.id().into()).collect();
        let mut device = *device;
        while let Some(naming) = self.naming(&device) {
            if !needed.insert(naming) {
                break;
            }
            let Some(by) = self.get(&naming).map(|entry| entry.by().device) else { break };
            device = by;
        }
        needed
    }

    /// Two entries of one device and one seq, if such are held: the proof of a fork.
    pub fn forked_pair(&self, device: &DeviceId) -> Option<(&Verified<Entry>, &Verified<Entry>)> {
        let (generation, _) = self.generation();
        let chains = self.chains(generation);
        let (_, twice) = chains.get(device)?.iter().find(|(_, entries)| entries.len() > 1)?;
        Some((*twice.first()?, *twice.get(1)?))
    }

    /// The entry of the current generation that names a steward; of several the one with the smallest id. Whether it
    /// counts, [`State::stewards`] says.
    pub fn names_steward(&self, steward: PartyId) -> Option<EntryId> {
        let (generation, _) = self.generation();
        let names = |act: &Act| matches!(act, Act::AddSteward { party, .. } if *party == steward);
        let mut found = self.entries.iter().filter(|(_, entry)| entry.by().r#gen == generation);
        found.find(|(_, entry)| names(&entry.act)).map(|(id, _)| *id)
    }

    /// Whether a RemoveSteward of the current generation ends this steward.
    pub fn removes_steward(&self, steward: PartyId) -> bool {
        let (generation, _) = self.generation();
        let removes = |act: &Act| matches!(act, Act::RemoveSteward { party } if *party == steward);
        self.of_generation(generation).any(|entry| removes(&entry.act))
    }

    /// The devices that held entries of any generation name, live or not, those of competing recoveries among them.
    pub fn named_devices(&self) -> &BTreeSet<DeviceId> {
        &self.named
    }

    /// How far each chain of every generation is held without a gap: what to say when asking for more.
    pub fn held_ends(&self) -> Vec<Head> {
        let generations: BTreeSet<u32> = self.entries.values().map(|entry| entry.by().r#gen).collect();
        let mut ends = Vec::new();
        for generation in generations {
            for (device, chain) in self.chains(generation) {
                let last = self.complete_until(device, &chain, generation).checked_sub(1);
                let held = last.and_then(|seq| Some((seq, chain.get(&seq)?)));
                let smallest = held.and_then(|(seq, entries)| {
                    Some((seq, entries.iter().map(|entry| EntryId::from(entry.id())).min()?))
                });
                ends.extend(smallest.map(|(seq, id)| Head { device, seq, id }));
            }
        }
        ends
    }

    /// Entries beyond what somebody holds who names `have` (its [`PartyLog::held_ends`]), in an order that
    /// [`PartyLog::add`] takes. Of a chain whose named end is not held here only the last entry is given, and what
    /// lies above that end: who is merely ahead knows it, who has forked does not.
    pub fn beyond(&self, have: &[Head]) -> Vec<&Verified<Entry>> {
        let mut until: BTreeMap<(u32, DeviceId), u64> = BTreeMap::new();
        let mut unknown: BTreeMap<DeviceId, u64> = BTreeMap::new();
        for head in have {
            match self.get(&head.id).filter(|entry| entry.by().device == head.device) {
                Some(entry) => drop(until.insert((entry.by().r#gen, head.device), entry.seq)),
                None => drop(unknown.insert(head.device, head.seq)),
            }
        }
        let mut last: BTreeMap<(u32, DeviceId), u64> = BTreeMap::new();
        let mut seen: BTreeSet<(u32, DeviceId, u64)> = BTreeSet::new();
        let mut forked: BTreeMap<(u32, DeviceId), u64> = BTreeMap::new();
        for entry in self.entries.values() {
            let chain = (entry.by().r#gen, entry.by().device);
            let end = last.entry(chain).or_default();
            *end = entry.seq.max(*end);
            if !seen.insert((chain.0, chain.1, entry.seq)) {
                forked.entry(chain).and_modify(|at| *at = entry.seq.min(*at)).or_insert(entry.seq);
            }
        }
        let is_beyond = |entry: &&Verified<Entry>| {
            let chain = (entry.by().r#gen, entry.by().device);
            // Which branch of a fork the other holds, its end does not say: both are given.
            if forked.get(&chain).is_some_and(|fork| entry.seq >= *fork) {
                return true;
            }
            match (until.get(&chain), unknown.get(&chain.1)) {
                (Some(seq), _) => entry.seq > *seq,
                (None, Some(seq)) => entry.seq > *seq || last.get(&chain) == Some(&entry.seq),
                (None, None) => true,
            }
        };
        self.in_order().into_iter().filter(is_beyond).collect()
    }

    /// What the entries amount to.
    pub fn state(&self) -> State {
        let (generation, disputed) = self.generation();
        let chains = self.chains(generation);
        let forks = self.forks(generation, &chains);
        let ends = self.ends(generation, &forks);
        let mut state = State {
            party: self.party,
            generation,
            disputed: disputed || self.is_over_full(generation),
            devices: BTreeMap::new(),
            stewards: BTreeMap::new(),
            grants: BTreeMap::new(),
            revoked: BTreeSet::new(),
            forks,
            ends: ends.clone(),
            heads: heads(&chains),
            complete: self.complete(&chains, generation),
            identity: self.identity_digest(),
        };
        self.count_devices(&mut state, &ends);
        self.count_grants(&mut state, &chains, &ends);
        if wrong!(OldGenerationLives) {
            let old = self.entries.values().filter(|entry| entry.by().r#gen < generation);
            state.grants.extend(old.filter_map(|entry| match entry.act {
                Act::Grant { commitment } => Some((EntryId::from(entry.id()).into(), commitment)),
                _ => None,
            }));
        }
        // Denials last: nothing above may bring back what they end.
        self.count_denials(&mut state);
        state
    }

    /// The highest generation with a valid beginning, and whether two recoveries compete for it.
    fn generation(&self) -> (u32, bool) {
        let mut generation = 0;
        loop {
            let terms: BTreeSet<Digest> =
                self.recovers_of(generation + 1).iter().filter_map(|entry| terms_digest(entry)).collect();
            match terms.len() {
                0 => return (generation, false),
                1 => generation += 1,
                _ if wrong!(DisputeIgnored) => return (generation + 1, false),
                _ => return (generation + 1, true),
            }
        }
    }

    /// Valid beginnings of a generation after the first. All that is in the log was checked when it was added.
    fn recovers_of(&self, generation: u32) -> Vec<&Verified<Entry>> {
        self.of_generation(generation).filter(|entry| matches!(entry.act, Act::Recover(_))).collect()
    }

    /// What the beginning of a generation says: its first devices and how it can be recovered. Of two recoveries
    /// that compete, the one with the smaller id; everything is denied then.
    fn beginning(&self, generation: u32) -> Option<Beginning<'_>> {
        let of_genesis = || match self.entries.get(&EntryId::from(self.party)).map(|entry| &entry.act) {
            Some(Act::Genesis(genesis)) => Some(Beginning {
                devices: &genesis.devices,
                next_recovery: &genesis.next_recovery,
                threshold: genesis.threshold,
            }),
            _ => None,
        };
        let of_recover = || match self.recovers_of(generation).first().map(|entry| &entry.act) {
            Some(Act::Recover(recover)) => Some(Beginning {
                devices: &recover.terms.devices,
                next_recovery: &recover.terms.next_recovery,
                threshold: recover.terms.threshold,
            }),
            _ => None,
        };
        if generation == 0 { of_genesis() } else { of_recover() }
    }

    /// The commitments that a generation made for the next recovery, and how many of them must sign.
    pub(crate) fn committed(&self, generation: u32) -> (&[Digest], u8) {
        self.beginning(generation)
            .map_or((&[], 0), |beginning| (beginning.next_recovery, beginning.threshold))
    }

    /// The current generation.
    pub(crate) fn state_generation(&self) -> u32 {
        self.generation().0
    }

    /// Grants that a held Revoke of any generation ended. [`State::revoked`] speaks of the current one alone: all
    /// grants of older ones are over anyway, but whoever gives them again must not give back what was revoked.
    pub fn ever_revoked(&self) -> BTreeSet<GrantId> {
        let revoked = self.entries.values().filter_map(|entry| match entry.act {
            Act::Revoke { grant, .. } => Some(grant),
            _ => None,
        });
        revoked.collect()
    }

    /// Rule 6: signed by as many of the keys committed in the generation before as it asked for.
    fn recovers(&self, entry: &Verified<Entry>, recover: &Recover) -> bool {
        let RecoverTerms { party, r#gen: generation, devices, .. } = &recover.terms;
        let before = generation.checked_sub(1).and_then(|before| self.beginning(before));
        let (Some(before), Ok(signed)) = (before, encoding::encode(&recover.terms)) else {
            return false;
        };
        // Its first device and no other signs the entry, so that one recovery is one chain.
        let fits = *party == self.party
            && *generation == entry.by().r#gen
            && entry.seq == 0
            && devices.first().is_some_and(|device| device.device == entry.by().device);
        let signers: BTreeSet<&DeviceId> = recover
            .reveals
            .iter()
            .zip(&recover.signatures)
            .filter(|(key, _)| before.next_recovery.contains(&digest(key.as_bytes())))
            .filter(|(key, signature)| verifies(key, &signed, signature))
            .map(|(key, _)| key)
            .collect();
        let enough = wrong!(RecoverWithoutThreshold) || signers.len() >= usize::from(before.threshold);
        fits && before.threshold > 0 && enough
    }

    /// Devices whose naming traces by signatures to the beginning of their generation, void or not (rule 3).
    fn retrace(&mut self) {
        let generations: BTreeSet<u32> = self.entries.values().map(|entry| entry.by().r#gen).collect();
        self.traced =
            generations.into_iter().map(|generation| (generation, self.trace(generation))).collect();
        let competing = self.entries.values().filter_map(|entry| match &entry.act {
            Act::Recover(recover) => Some(recover.terms.devices.iter().map(|device| device.device)),
            _ => None,
        });
        self.named = self.traced.values().flatten().copied().chain(competing.flatten()).collect();
    }

    fn trace(&self, generation: u32) -> BTreeSet<DeviceId> {
        let mut traced: BTreeSet<DeviceId> =
            self.first_devices(generation).iter().map(|device| device.device).collect();
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

    fn is_traced(&self, generation: u32, device: &DeviceId) -> bool {
        self.traced.get(&generation).is_some_and(|traced| traced.contains(device))
    }

    fn is_over_full(&self, generation: u32) -> bool {
        self.bytes.get(&generation).is_some_and(|bytes| *bytes > LOG_BYTES_MAX)
    }

    fn first_devices(&self, generation: u32) -> &[Device] {
        self.beginning(generation).map_or(&[], |beginning| beginning.devices)
    }

    fn of_generation(&self, generation: u32) -> impl Iterator<Item = &Verified<Entry>> {
        self.entries.values().filter(move |entry| entry.by().r#gen == generation)
    }

    fn chains(&self, generation: u32) -> Chains<'_> {
        let mut chains = Chains::new();
        for entry in self.of_generation(generation) {
            chains.entry(entry.by().device).or_default().entry(entry.seq).or_default().push(entry);
        }
        chains
    }

    /// For each device, the first seq from which its permissions are void: a fork (rule 4) or a removal (rule 5).
    fn ends(&self, generation: u32, forks: &BTreeMap<DeviceId, u64>) -> BTreeMap<DeviceId, u64> {
        let mut ends = forks.clone();
        if wrong!(LastValidSeqIgnored) {
            return ends;
        }
        for entry in self.of_generation(generation) {
            if let Act::RemoveDevice { device, last_valid_seq } = entry.act {
                let end = last_valid_seq.saturating_add(1);
                ends.entry(device).and_modify(|at| *at = end.min(*at)).or_insert(end);
            }
        }
        ends
    }

    /// Devices with two entries of one seq, seen here or shown by a proof, and the first such seq (rule 4).
    fn forks(&self, generation: u32, chains: &Chains<'_>) -> BTreeMap<DeviceId, u64> {
        if wrong!(ForkIgnored) {
            return BTreeMap::new();
        }
        let seen = chains.iter().filter_map(|(device, chain)| {
            let fork = chain.iter().find(|(_, entries)| entries.len() > 1)?;
            Some((*device, *fork.0))
        });
        let shown = self.of_generation(generation).filter_map(|entry| match &entry.act {
            Act::Fork { device, one, other } => self.proven_fork(generation, *device, one, other),
            _ => None,
        });
        let mut forks: BTreeMap<DeviceId, u64> = BTreeMap::new();
        for (device, seq) in seen.chain(shown) {
            forks.entry(device).and_modify(|at| *at = seq.min(*at)).or_insert(seq);
        }
        forks
    }

    fn proven_fork(
        &self,
        generation: u32,
        device: DeviceId,
        one: &[u8],
        other: &[u8],
    ) -> Option<(DeviceId, u64)> {
        let open = |bytes: &[u8]| Signed::<Entry>::from_bytes(bytes).verify().ok();
        let (one, other) = (open(one)?, open(other)?);
        let is_the_devices = |entry: &Verified<Entry>| {
            entry.by().device == device && entry.by().r#gen == generation && entry.is_by(self.party)
        };
        let proves =
            is_the_devices(&one) && is_the_devices(&other) && one.seq == other.seq && one.id() != other.id();
        proves.then_some((device, one.seq))
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
                    named.entry(device.device).or_insert_with(|| device.recipients.clone());
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
    fn count_denials(&self, state: &mut State) {
        for entry in self.of_generation(state.generation) {
            if wrong!(VoidDenialsIgnored) && !before_end(entry, &state.forks) {
                continue;
            }
            match &entry.act {
                Act::RemoveDevice { device, .. } if !wrong!(RemovalIgnored) => {
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

    /// Grants count only if their chain to the beginning is complete (rule 1), their device was itself counted,
    /// and they lie before its end (rules 4 and 5).
    fn count_grants(&self, state: &mut State, chains: &Chains<'_>, ends: &BTreeMap<DeviceId, u64>) {
        for (device, chain) in chains.iter().filter(|(device, _)| state.devices.contains_key(*device)) {
            let complete = state.complete.get(device).copied().unwrap_or_default();
            let complete = if wrong!(GapTolerated) { u64::MAX } else { complete };
            for entry in chain.range(..complete).flat_map(|(_, entries)| entries) {
                if let Act::Grant { commitment } = entry.act
                    && before_end(entry, ends)
                {
                    state.grants.insert(EntryId::from(entry.id()).into(), commitment);
                }
            }
        }
    }

    fn complete(&self, chains: &Chains<'_>, generation: u32) -> BTreeMap<DeviceId, u64> {
        chains
            .iter()
            .map(|(device, chain)| (*device, self.complete_until(*device, chain, generation)))
            .collect()
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
        match (&entry.act, prev.and_then(|prev| self.get(&prev)).map(|named_by| &named_by.act)) {
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

/// What the first entry of a generation says.
struct Beginning<'a> {
    devices: &'a [Device],
    next_recovery: &'a [Digest],
    threshold: u8,
}

fn terms_digest(entry: &Verified<Entry>) -> Option<Digest> {
    match &entry.act {
        Act::Recover(recover) => encoding::encode(&recover.terms).ok().map(|bytes| digest(&bytes)),
        _ => None,
    }
}

type Chain<'a> = BTreeMap<u64, Vec<&'a Verified<Entry>>>;
type Chains<'a> = BTreeMap<DeviceId, Chain<'a>>;

fn before_end(entry: &Verified<Entry>, ends: &BTreeMap<DeviceId, u64>) -> bool {
    ends.get(&entry.by().device).is_none_or(|end| entry.seq < *end)
}

fn heads(chains: &Chains<'_>) -> Vec<Head> {
    chains
        .iter()
        .filter_map(|(device, chain)| {
            let (seq, entries) = chain.last_key_value()?;
            // Of a fork at the very end the smaller id is named; both are held by whoever holds this one's proof.
            let id = entries.iter().map(|entry| EntryId::from(entry.id())).min()?;
            Some(Head { device: *device, seq: *seq, id })
        })
        .collect()
}
