//! SPEC rule 2 and what follows from it: whoever holds the same entries comes to the same state, in whatever order and
//! however often they came; and a fork gains nothing at any moment of any order.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

mod people;

use karte_protocol::entry::{Act, Entry, Recover, RecoverTerms};
use karte_protocol::id::{DeviceId, EntryId, PartyId};
use karte_protocol::identity::{LogError, PartyLog, State};
use karte_protocol::signed::Verified;
use people::{Writer, granting, id_of, log_of, recovery, revoking};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Entries = Vec<Verified<Entry>>;

/// A log and its state, carried along as a node does: followed if that can be, else worked out anew.
struct Node {
    log: PartyLog,
    state: State,
    followed: usize,
    /// What no held entry names yet; the node offers it again.
    waiting: Entries,
}

impl Node {
    fn of(genesis: &Verified<Entry>) -> Self {
        let log = PartyLog::start(genesis.clone()).expect("begins");
        Self { state: log.state(), log, followed: 0, waiting: vec![] }
    }

    fn takes(&mut self, entry: &Verified<Entry>) {
        self.waiting.push(entry.clone());
        loop {
            let before = self.waiting.len();
            for entry in std::mem::take(&mut self.waiting) {
                match self.log.add(entry.clone()) {
                    Ok(true) => self.comes_to(&entry.id().into()),
                    Ok(false) => {}
                    Err(LogError::Untraced(_) | LogError::NotCommitted) => self.waiting.push(entry),
                    Err(error) => panic!("{error}"),
                }
            }
            if self.waiting.len() == before {
                return;
            }
        }
    }

    fn comes_to(&mut self, new: &EntryId) {
        let before = self.state.clone();
        if self.log.follow(&mut self.state, new) {
            self.followed += 1;
        } else {
            assert_eq!(self.state, before, "what does not follow is left as it was");
            self.state = self.log.state();
        }
        assert_eq!(self.state, self.log.state(), "the state that followed is the one worked out anew");
    }
}

// --- any order, any repetition

/// What a device of the story does next.
#[derive(Debug, Clone)]
enum Deed {
    Grants,
    Revokes(usize),
    /// Two entries in one place; it goes on from the second.
    Forks,
    Removes(usize, u64),
    AddsSteward(u8),
    RemovesSteward(u8),
    /// The tablet is named, by whoever comes to it first.
    AddsTablet,
    ShowsFork,
}

fn deeds() -> impl Strategy<Value = Vec<(usize, Deed)>> {
    let deed = prop_oneof![
        6 => Just(Deed::Grants),
        3 => any::<usize>().prop_map(Deed::Revokes),
        1 => Just(Deed::Forks),
        1 => (0..3usize, 0..5u64).prop_map(|(device, last)| Deed::Removes(device, last)),
        1 => (0..2u8).prop_map(Deed::AddsSteward),
        1 => (0..2u8).prop_map(Deed::RemovesSteward),
        2 => Just(Deed::AddsTablet),
        1 => Just(Deed::ShowsFork),
    ];
    proptest::collection::vec((0..3usize, deed), 0..16)
}

/// A phone begins and names a laptop, and one of them perhaps a tablet; then all go on, removed or forked or not. In
/// the end a recovery, perhaps, with a life after it.
fn story(deeds: &[(usize, Deed)], recovers: bool) -> Entries {
    let words = recovery("words");
    let mut phone = Writer::named("phone");
    let mut entries = vec![phone.begins(&[&words], 1)];
    let party = phone.party.expect("it has begun");
    let mut laptop = Writer::named("laptop");
    entries.push(phone.adds(&mut laptop));
    let mut writers = [phone, laptop, Writer::named("tablet")];
    let mut fork: Option<(DeviceId, Vec<u8>, Vec<u8>)> = None;
    for (step, (who, deed)) in deeds.iter().enumerate() {
        // Who is not named writes nothing.
        let who = if writers[*who].party.is_some() { *who } else { 0 };
        let grants: Vec<_> = entries.iter().filter(|entry| matches!(entry.act, Act::Grant { .. })).collect();
        let act = match deed {
            Deed::Revokes(which) if !grants.is_empty() => revoking(grants[which % grants.len()]),
            Deed::Grants | Deed::Forks | Deed::Revokes(_) => granting(&format!("grant {step}")),
            Deed::Removes(device, last_valid_seq) => {
                Act::RemoveDevice { device: writers[*device].key.device(), last_valid_seq: *last_valid_seq }
            }
            Deed::AddsSteward(n) => {
                Act::AddSteward { party: PartyId::from([*n; 32]), devices: vec![DeviceId::from([*n; 32])] }
            }
            Deed::RemovesSteward(n) => Act::RemoveSteward { party: PartyId::from([*n; 32]) },
            Deed::AddsTablet => Act::AddDevice(writers[2].device()),
            Deed::ShowsFork => match &fork {
                Some((device, one, other)) => {
                    Act::Fork { device: *device, one: one.clone(), other: other.clone() }
                }
                None => granting(&format!("grant {step}")),
            },
        };
        let other = matches!(deed, Deed::Forks)
            .then(|| writers[who].would_write(granting(&format!("other branch {step}"))));
        let entry = writers[who].writes(act);
        if let Some(other) = other {
            let device = writers[who].key.device();
            fork = Some((device, entry.bytes().to_vec(), other.bytes().to_vec()));
            entries.push(other);
        }
        if matches!(deed, Deed::AddsTablet) && writers[2].party.is_none() {
            writers[2].joins(&entry, party);
        }
        entries.push(entry);
    }
    if recovers {
        let mut new_phone = Writer::named("new phone");
        entries.push(recovering(&mut new_phone, party, &words));
        entries.extend((0..3).map(|n| new_phone.grants(&format!("of the new life {n}"))));
        let last = entries.last().expect("a grant").clone();
        entries.push(new_phone.revokes(&last));
    }
    entries
}

fn recovering(
    device: &mut Writer,
    party: PartyId,
    words: &karte_protocol::keys::RecoverySeed,
) -> Verified<Entry> {
    (device.party, device.generation) = (Some(party), 1);
    let terms = RecoverTerms {
        party,
        r#gen: 1,
        devices: vec![device.device()],
        next_recovery: vec![recovery("next words").commitment()],
        threshold: 1,
    };
    device.writes(Act::Recover(Recover::sign(terms, &[words]).expect("signs")))
}

/// The entries after the Genesis, in any order, some of them more than once.
fn shuffled(entries: Entries) -> impl Strategy<Value = (Entries, Entries)> {
    let rest = entries[1..].to_vec();
    let again = proptest::sample::subsequence(rest.clone(), 0..=rest.len());
    let order = again.prop_flat_map(move |again| Just([&rest[..], &again].concat()).prop_shuffle());
    (Just(entries), order)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Rule 2, and index = recomputation: at every step of every order the state that a node carries along is the one
    /// worked out anew, and in the end it is that of the set.
    #[test]
    fn every_order_and_repetition_comes_to_the_same_state(
        (entries, order) in (deeds(), any::<bool>())
            .prop_flat_map(|(deeds, recovers)| shuffled(story(&deeds, recovers)))
    ) {
        let mut node = Node::of(&entries[0]);
        for entry in &order {
            node.takes(entry);
        }
        prop_assert_eq!(&node.state, &log_of(&entries).state());
        prop_assert!(node.waiting.is_empty(), "all that was signed in the story is traced");
    }

    /// Monotony: a denial that a device writes into a place of its chain where it has written already, a fork, adds no
    /// authority, whatever that does to its permissions.
    #[test]
    fn a_denial_written_as_a_fork_never_adds_authority(
        deeds in deeds(), recovers in any::<bool>(), which in any::<prop::sample::Index>(), kind in 0..3u8
    ) {
        let entries = story(&deeds, recovers);
        let place = &entries[1 + which.index(entries.len() - 1)];
        prop_assume!(!matches!(place.act, Act::Recover(_)));
        let grant = entries.iter().rev().find(|entry| matches!(entry.act, Act::Grant { .. }));
        let act = match (kind, grant) {
            (0, Some(grant)) => revoking(grant),
            (1, _) => Act::RemoveSteward { party: PartyId::from([0; 32]) },
            _ => Act::RemoveDevice { device: Writer::named("laptop").key.device(), last_valid_seq: 0 },
        };
        let writers = ["phone", "laptop", "tablet", "new phone"].map(Writer::named);
        let mut writer = writers
            .into_iter()
            .find(|writer| writer.key.device() == place.by().device)
            .expect("one of the four wrote it");
        (writer.party, writer.generation) = (place.by().party, place.by().r#gen);
        (writer.seq, writer.prev) = (place.seq, place.prev);
        let denial = writer.would_write(act);
        let before = authority(&log_of(&entries).state());
        let after = authority(&log_of(entries.iter().chain([&denial])).state());
        prop_assert!(after.is_subset(&before), "{:?} added {:?}", denial.act, after.difference(&before));
    }
}

/// What a state lets happen, as texts: live devices, live stewards' devices, grants that count and are not revoked.
fn authority(state: &State) -> BTreeSet<String> {
    if state.disputed {
        return BTreeSet::new();
    }
    let devices = state.devices.keys().map(|device| format!("device {device}"));
    let stewards = state.stewards.values().flatten().map(|device| format!("steward {device}"));
    let grants = state.grants.keys().filter(|grant| !state.revoked.contains(grant));
    devices.chain(stewards).chain(grants.map(|grant| format!("grant {grant}"))).collect()
}

/// Monotony has this one border, which SPEC names: the entry that was missing makes what lies behind it count.
#[test]
fn a_denial_that_fills_a_gap_lets_the_grants_behind_it_count() {
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[], 1);
    let before = phone.grants("before");
    let denial = phone.revokes(&before);
    let behind = phone.grants("behind");
    let gapped = log_of([&genesis, &before, &behind]).state();
    assert!(!gapped.grants.contains_key(&id_of(&behind)));
    let whole = log_of([&genesis, &before, &behind, &denial]).state();
    assert!(whole.grants.contains_key(&id_of(&behind)) && whole.revoked.contains(&id_of(&before)));
}

/// What makes 100,000 entries cheap: a chain that comes in order never makes a node work out its state anew.
#[test]
fn a_chain_that_comes_in_order_is_followed() {
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[], 1);
    let mut node = Node::of(&genesis);
    for n in 0..20 {
        let grant = phone.grants(&format!("{n}"));
        node.takes(&grant);
        node.takes(&phone.revokes(&grant));
    }
    assert_eq!(node.followed, 40);
    let behind_a_gap = {
        let _missing = phone.grants("missing");
        phone.grants("behind")
    };
    node.takes(&behind_a_gap);
    assert_eq!(node.followed, 40, "behind a gap there is nothing to follow");
    assert!(!node.state.grants.contains_key(&id_of(&behind_a_gap)));
}

/// A short cut that forgot to ask whether the device is live would let a stolen one grant after its removal.
#[test]
fn what_a_removed_device_goes_on_to_sign_is_not_followed() {
    let (mut phone, mut laptop) = (Writer::named("phone"), Writer::named("laptop"));
    let mut node = Node::of(&phone.begins(&[], 1));
    node.takes(&phone.adds(&mut laptop));
    let before = laptop.grants("before");
    node.takes(&before);
    node.takes(&phone.removes(&laptop, 0));
    let followed = node.followed;
    let beyond = laptop.grants("beyond");
    node.takes(&beyond);
    node.takes(&laptop.revokes(&before));
    assert_eq!(node.followed, followed, "its chain is whole, and it is live no more");
    assert!(!node.state.grants.contains_key(&id_of(&beyond)));
    assert!(node.state.revoked.contains(&id_of(&before)), "what it denies counts all the same");
}

// --- two branches, three nodes

/// A laptop that was copied, and two copies that go on from one place.
struct Forked {
    /// What everybody holds before: all but the branches.
    held: Entries,
    branches: [Entries; 2],
    /// The phone's proof, made of the first entries of both.
    proof: Verified<Entry>,
    laptop: DeviceId,
    kept: Verified<Entry>,
    thief: DeviceId,
    steward: DeviceId,
}

fn forked() -> Forked {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let genesis = phone.begins(&[], 1);
    let adding = phone.adds(&mut laptop);
    let (first, second) = (phone.grants("first"), phone.grants("second"));
    let watched = PartyId::from([7; 32]);
    let stewarding = phone.writes(Act::AddSteward { party: watched, devices: vec![DeviceId::from([7; 32])] });
    let kept = laptop.grants("before the fork");
    let mut copy = Writer::named("laptop");
    (copy.party, copy.seq, copy.prev) = (laptop.party, laptop.seq, laptop.prev);
    let (mut thief, steward) = (Writer::named("thief"), DeviceId::from([9; 32]));
    let one = vec![
        laptop.grants("on one branch"),
        laptop.revokes(&first),
        laptop.writes(Act::AddSteward { party: PartyId::from([9; 32]), devices: vec![steward] }),
    ];
    let other = vec![
        copy.adds(&mut thief),
        copy.revokes(&second),
        copy.writes(Act::RemoveSteward { party: watched }),
    ];
    let proof = phone.writes(Act::Fork {
        device: laptop.key.device(),
        one: one[0].bytes().to_vec(),
        other: other[0].bytes().to_vec(),
    });
    Forked {
        held: vec![genesis, adding, first, second, stewarding, kept.clone()],
        branches: [one, other],
        proof,
        laptop: laptop.key.device(),
        kept,
        thief: thief.key.device(),
        steward,
    }
}

impl Forked {
    /// What must hold of whoever holds `entries`, at any moment.
    fn check(&self, state: &State, log: &PartyLog) {
        let holds = |entry: &Verified<Entry>| log.holds(&entry.id().into());
        let [one, other] = &self.branches;
        let twice = (0..one.len()).find(|at| holds(&one[*at]) && holds(&other[*at]));
        let void_from = if holds(&self.proof) { Some(0) } else { twice };
        let fork = void_from.map(|at| one[at].seq);
        assert_eq!(state.forks.get(&self.laptop).copied(), fork, "the fork shows as soon as it is held");
        assert!(state.has_device(&self.laptop), "it can still deny");
        assert!(state.grants.contains_key(&id_of(&self.kept)), "what lies before the fork stays");
        for entry in one.iter().chain(other).filter(|entry| holds(entry)) {
            let is_void = fork.is_some_and(|fork| entry.seq >= fork);
            match &entry.act {
                Act::Revoke { grant, .. } => assert!(state.revoked.contains(grant), "both branches deny"),
                Act::RemoveSteward { party } => assert!(!state.stewards.contains_key(party)),
                // What is not void counts; else these could not fail.
                Act::Grant { .. } => assert_eq!(state.grants.contains_key(&id_of(entry)), !is_void),
                Act::AddDevice(_) => assert_eq!(state.has_device(&self.thief), !is_void),
                Act::AddSteward { .. } => assert_eq!(state.has_steward_device(&self.steward), !is_void),
                other => panic!("{other:?} is on no branch"),
            }
        }
    }

    /// The states that a node goes through which takes `order` after what everybody holds.
    fn lives(&self, order: &[&Verified<Entry>]) -> Vec<(BTreeSet<EntryId>, State)> {
        let mut node = Node::of(&self.held[0]);
        self.held[1..].iter().for_each(|entry| node.takes(entry));
        let moments = order.iter().map(|entry| {
            node.takes(entry);
            self.check(&node.state, &node.log);
            let held = node.log.in_order().iter().map(|entry| entry.id().into()).collect();
            (held, node.state.clone())
        });
        moments.collect()
    }
}

/// All ways to lay two rows into one without changing the order in either.
fn interleavings<'a, T>(one: &'a [T], other: &'a [T]) -> Vec<Vec<&'a T>> {
    let begin = |first: &'a T, rest: Vec<Vec<&'a T>>| {
        rest.into_iter().map(|row| [vec![first], row].concat()).collect::<Vec<_>>()
    };
    match (one, other) {
        ([], row) | (row, []) => vec![row.iter().collect()],
        ([a, one_rest @ ..], [b, other_rest @ ..]) => {
            [begin(a, interleavings(one_rest, other)), begin(b, interleavings(one, other_rest))].concat()
        }
    }
}

fn permutations<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    (0..items.len())
        .flat_map(|at| {
            let rest = [&items[..at], &items[at + 1..]].concat();
            permutations(&rest).into_iter().map(move |row| [vec![items[at]], row].concat())
        })
        .collect()
}

/// Exhaustive: each of three nodes takes the two branches in any of their interleavings. At every moment every node
/// stands by [`Forked::check`], two that hold the same say the same, and in the end all three agree.
#[test]
fn all_interleavings_of_two_branches_over_three_nodes_agree() {
    let forked = forked();
    let orders = interleavings(&forked.branches[0], &forked.branches[1]);
    assert_eq!(orders.len(), 20, "six over three");
    let lives: Vec<_> = orders.iter().map(|order| forked.lives(order)).collect();
    let whole = log_of(forked.held.iter().chain(forked.branches.iter().flatten())).state();
    let mut worlds = 0;
    for (a, b, c) in triples(lives.len()) {
        let nodes = [&lives[a], &lives[b], &lives[c]];
        for moment in 0..orders[0].len() {
            let [one, two, three] = nodes.map(|life| &life[moment]);
            for (left, right) in [(one, two), (two, three), (one, three)] {
                assert!(left.0 != right.0 || left.1 == right.1, "same entries, another state");
            }
        }
        assert!(nodes.iter().all(|life| life.last().is_some_and(|(_, state)| *state == whole)));
        worlds += 1;
    }
    println!("{worlds} worlds of three nodes");
    assert_eq!(worlds, 8_000);
}

fn triples(count: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..count).flat_map(move |a| (0..count).flat_map(move |b| (0..count).map(move |c| (a, b, c))))
}

/// The same with gaps, and with the phone's proof among the entries: any of 5,040 orders.
#[test]
fn all_orders_of_two_branches_and_their_proof_agree() {
    let forked = forked();
    let items: Vec<&Verified<Entry>> = forked.branches.iter().flatten().chain([&forked.proof]).collect();
    let mut seen: BTreeMap<BTreeSet<EntryId>, State> = BTreeMap::new();
    let orders = permutations(&items);
    for order in &orders {
        for (held, state) in forked.lives(order) {
            let first = seen.entry(held).or_insert_with(|| state.clone());
            assert_eq!(*first, state, "same entries, another state");
        }
    }
    println!("{} orders, {} sets of entries", orders.len(), seen.len());
    assert_eq!((orders.len(), seen.len()), (5_040, 127));
}

/// Rule 6: two recoveries of one generation deny everything at everybody, whichever came first and whatever else.
#[test]
fn two_recoveries_deny_everything_in_every_order() {
    let words = recovery("words");
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[&words], 1);
    let party = phone.party.expect("it has begun");
    let (mut new, mut other) = (Writer::named("new phone"), Writer::named("other phone"));
    let entries = [
        phone.grants("old"),
        recovering(&mut new, party, &words),
        new.grants("new"),
        recovering(&mut other, party, &words),
        other.grants("other"),
    ];
    for order in permutations(&entries.iter().collect::<Vec<_>>()) {
        let mut node = Node::of(&genesis);
        order.iter().for_each(|entry| node.takes(entry));
        assert!(node.state.disputed && authority(&node.state).is_empty());
    }
}
