//! The model: what a set of entries means, by SPEC section 5, worked out a second time and as plainly as can be.
//!
//! For: a judge that shares no rule with the code under test. It takes decoded entries, and is told by the scenario
//! which recoveries were made with the right keys. Not for: speed, or bytes.

use karte_protocol::entry::{Act, Device, Entry};
use karte_protocol::id::{DeviceId, EntryId, GrantId, PartyId};
use karte_protocol::identity::State;
use karte_protocol::signed::Verified;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// An entry, shared by all views that hold it.
pub type Fact = Rc<Verified<Entry>>;

/// What the entries amount to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The current generation.
    pub generation: u32,
    /// Two recoveries of it with different terms.
    pub disputed: bool,
    /// Live devices.
    pub devices: BTreeSet<DeviceId>,
    /// Live stewards' devices.
    pub stewards: BTreeSet<DeviceId>,
    /// Grants that count, ended or not.
    pub grants: BTreeSet<GrantId>,
    /// Grants that ended.
    pub revoked: BTreeSet<GrantId>,
    /// For each device, up to which seq its chain is held without a gap.
    pub whole: BTreeMap<DeviceId, u64>,
    /// Devices of which two entries with one seq are held, in this generation.
    pub forked: BTreeSet<DeviceId>,
}

impl Verdict {
    /// The same, as the code under test sees it; what is not compared is left as here.
    pub fn differs(&self, state: &State) -> Option<String> {
        let devices: BTreeSet<DeviceId> = state.devices.keys().copied().collect();
        let stewards: BTreeSet<DeviceId> = state.stewards.values().flatten().copied().collect();
        let grants: BTreeSet<GrantId> = state.grants.keys().copied().collect();
        let parts = [
            ("generation", self.generation == state.generation),
            ("dispute", self.disputed == state.disputed),
            // Of a disputed generation only the dispute matters: everything is denied.
            ("devices", self.disputed || self.devices == devices),
            ("stewards", self.disputed || self.stewards == stewards),
            ("grants", self.disputed || self.grants == grants),
            ("revocations", self.disputed || self.revoked == state.revoked),
        ];
        parts.into_iter().find(|(_, same)| !same).map(|(what, _)| what.to_owned())
    }
}

/// Judges a set of entries of one party.
pub fn judge(party: PartyId, held: &[Fact], right_recoveries: &BTreeSet<EntryId>) -> Verdict {
    let (generation, disputed, beginning) = generation_of(party, held, right_recoveries);
    let entries: Vec<&Fact> = held.iter().filter(|entry| entry.by().r#gen == generation).collect();
    let first: BTreeSet<DeviceId> = beginning.iter().map(|device| device.device).collect();
    let traced = reach(&entries, first.clone(), &|_| true);
    let entries: Vec<&Fact> =
        entries.into_iter().filter(|entry| traced.contains(&entry.by().device)).collect();
    let forks = forks_of(&entries);
    let ends = ends_of(&entries, &forks);
    let counts = |entry: &Fact| ends.get(&entry.by().device).is_none_or(|end| entry.seq < *end);
    let named = reach(&entries, first, &counts);
    let mut verdict = Verdict {
        generation,
        disputed,
        whole: entries
            .iter()
            .map(|entry| entry.by().device)
            .map(|device| (device, whole(device, &entries)))
            .collect(),
        forked: forks.keys().copied().collect(),
        ..Verdict::default()
    };
    let mut stewards: BTreeMap<PartyId, BTreeSet<DeviceId>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| named.contains(&entry.by().device) && counts(entry)) {
        match &entry.act {
            Act::AddSteward { party, devices } => stewards.entry(*party).or_default().extend(devices),
            Act::Grant { .. }
                if entry.seq < verdict.whole.get(&entry.by().device).copied().unwrap_or_default() =>
            {
                verdict.grants.insert(EntryId::from(entry.id()).into());
            }
            _ => {}
        }
    }
    verdict.devices = named;
    for entry in &entries {
        match &entry.act {
            Act::Revoke { grant, .. } => drop(verdict.revoked.insert(*grant)),
            Act::RemoveDevice { device, .. } => drop(verdict.devices.remove(device)),
            Act::RemoveSteward { party } => drop(stewards.remove(party)),
            _ => {}
        }
    }
    verdict.stewards = stewards.into_values().flatten().collect();
    verdict
}

/// Rule 6.
fn generation_of<'a>(
    party: PartyId,
    held: &'a [Fact],
    right: &BTreeSet<EntryId>,
) -> (u32, bool, &'a [Device]) {
    let genesis = held.iter().find(|entry| entry.id().as_bytes() == party.as_bytes());
    let mut beginning: &[Device] = match genesis.map(|entry| &entry.act) {
        Some(Act::Genesis(genesis)) => &genesis.devices,
        _ => &[],
    };
    let mut generation = 0;
    loop {
        let next: Vec<&karte_protocol::entry::RecoverTerms> = held
            .iter()
            .filter(|entry| entry.by().r#gen == generation + 1 && right.contains(&entry.id().into()))
            .filter_map(|entry| match &entry.act {
                Act::Recover(recover) => Some(&recover.terms),
                _ => None,
            })
            .collect();
        let Some(one) = next.first() else { return (generation, false, beginning) };
        generation += 1;
        beginning = &one.devices;
        if next.iter().any(|other| other != one) {
            return (generation, true, beginning);
        }
    }
}

/// Devices that are named by one of `known`, by entries that count.
fn reach(
    entries: &[&Fact],
    mut known: BTreeSet<DeviceId>,
    counts: &dyn Fn(&Fact) -> bool,
) -> BTreeSet<DeviceId> {
    loop {
        let more: BTreeSet<DeviceId> = entries
            .iter()
            .filter(|entry| known.contains(&entry.by().device) && counts(entry))
            .filter_map(|entry| match &entry.act {
                Act::AddDevice(device) if !known.contains(&device.device) => Some(device.device),
                _ => None,
            })
            .collect();
        if more.is_empty() {
            return known;
        }
        known.extend(more);
    }
}

/// Rule 4: seen here, or shown by a proof.
fn forks_of(entries: &[&Fact]) -> BTreeMap<DeviceId, u64> {
    let mut at: BTreeMap<(DeviceId, u64), BTreeSet<EntryId>> = BTreeMap::new();
    for entry in entries {
        at.entry((entry.by().device, entry.seq)).or_default().insert(entry.id().into());
        if let Act::Fork { device, one, other } = &entry.act {
            let both = [one, other].map(|bytes| {
                karte_protocol::signed::Signed::<Entry>::from_bytes(bytes.clone()).verify().ok()
            });
            if let [Some(one), Some(other)] = both
                && one.seq == other.seq
                && one.by() == other.by()
                && one.by().device == *device
            {
                at.entry((*device, one.seq))
                    .or_default()
                    .extend([EntryId::from(one.id()), other.id().into()]);
            }
        }
    }
    let mut forks: BTreeMap<DeviceId, u64> = BTreeMap::new();
    for ((device, seq), _) in at.into_iter().filter(|(_, ids)| ids.len() > 1) {
        forks.entry(device).or_insert(seq);
    }
    forks
}

/// Rules 4 and 5.
fn ends_of(entries: &[&Fact], forks: &BTreeMap<DeviceId, u64>) -> BTreeMap<DeviceId, u64> {
    let mut ends = forks.clone();
    for entry in entries {
        if let Act::RemoveDevice { device, last_valid_seq } = entry.act {
            let end = ends.entry(device).or_insert(u64::MAX);
            *end = (*end).min(last_valid_seq.saturating_add(1));
        }
    }
    ends
}

/// Rule 1: how many entries of a chain link to its naming without a gap.
fn whole(device: DeviceId, entries: &[&Fact]) -> u64 {
    let chain: Vec<&&Fact> = entries.iter().filter(|entry| entry.by().device == device).collect();
    let names = |prev: Option<EntryId>| {
        entries.iter().any(|entry| {
            prev == Some(entry.id().into())
                && match &entry.act {
                    Act::AddDevice(named) => named.device == device,
                    Act::Genesis(genesis) => genesis.devices.iter().any(|named| named.device == device),
                    Act::Recover(recover) => recover.terms.devices.iter().any(|named| named.device == device),
                    _ => false,
                }
        })
    };
    let mut links: BTreeSet<EntryId> = BTreeSet::new();
    for seq in 0.. {
        let next: BTreeSet<EntryId> = chain
            .iter()
            .filter(|entry| entry.seq == seq)
            .filter(|entry| match (&entry.act, seq) {
                (Act::Genesis(_) | Act::Recover(_), 0) => true,
                (_, 0) => names(entry.prev),
                _ => entry.prev.is_some_and(|prev| links.contains(&prev)),
            })
            .map(|entry| entry.id().into())
            .collect();
        if next.is_empty() {
            return seq;
        }
        links = next;
    }
    0
}
