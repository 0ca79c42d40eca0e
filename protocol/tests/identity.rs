//! SPEC section 5: what a set of entries means. Every test is named for its law.
//!

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

mod people;

use karte_protocol::encoding;
use karte_protocol::entry::{Act, Entry, Genesis, Recover, RecoverTerms};
use karte_protocol::id::{DeviceId, GrantId, PartyId};
use karte_protocol::identity::{LogError, PartyLog, State};
use karte_protocol::keys::RecoverySeed;
use karte_protocol::limits::LOG_BYTES_MAX;
use karte_protocol::signed::Verified;
use people::{Repeating, Writer, digest_of, granting, id_of, log_of, recovery, revoking};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What a state lets happen: live devices, live stewards, and grants that count and are not revoked.
#[derive(Debug, PartialEq)]
struct Authority {
    devices: BTreeSet<DeviceId>,
    stewards: BTreeSet<(PartyId, DeviceId)>,
    grants: BTreeSet<GrantId>,
}

impl Authority {
    fn of(state: &State) -> Self {
        let nothing = Self { devices: BTreeSet::new(), stewards: BTreeSet::new(), grants: BTreeSet::new() };
        if state.disputed {
            return nothing;
        }
        Self {
            devices: state.devices.keys().copied().collect(),
            stewards: state
                .stewards
                .iter()
                .flat_map(|(party, devices)| devices.iter().map(|device| (*party, *device)))
                .collect(),
            grants: state.grants.keys().filter(|grant| !state.revoked.contains(grant)).copied().collect(),
        }
    }

    fn is_within(&self, other: &Self) -> bool {
        self.devices.is_subset(&other.devices)
            && self.stewards.is_subset(&other.stewards)
            && self.grants.is_subset(&other.grants)
    }
}

/// What a device of the story does next.
#[derive(Debug, Clone)]
enum Deed {
    Grants,
    Revokes(usize),
    Forks,
    Removes(usize, u64),
    AddsSteward(u8),
    RemovesSteward(u8),
}

fn deeds() -> impl Strategy<Value = Vec<(usize, Deed)>> {
    let deed = prop_oneof![
        4 => Just(Deed::Grants),
        2 => any::<usize>().prop_map(Deed::Revokes),
        1 => Just(Deed::Forks),
        1 => (0..2usize, 0..6u64).prop_map(|(device, last)| Deed::Removes(device, last)),
        1 => (0..3u8).prop_map(Deed::AddsSteward),
        1 => (0..3u8).prop_map(Deed::RemovesSteward),
    ];
    proptest::collection::vec((0..3usize, deed), 0..14)
}

/// A phone begins, names a laptop and a tablet, and then the three do what `deeds` says. Removed and forked
/// devices go on signing, as thieves do. The phone itself is neither removed nor forks: it stands for the owner.
fn story(deeds: &[(usize, Deed)]) -> Vec<Verified<Entry>> {
    let mut phone = Writer::named("phone");
    let mut entries = vec![phone.begins(&[], 1)];
    let mut laptop = Writer::named("laptop");
    let mut tablet = Writer::named("tablet");
    entries.push(phone.adds(&mut laptop));
    entries.push(phone.adds(&mut tablet));
    let others = [laptop.key.device(), tablet.key.device()];
    let mut writers = [phone, laptop, tablet];
    for (step, (writer, deed)) in deeds.iter().enumerate() {
        let grants: Vec<&Verified<Entry>> =
            entries.iter().filter(|entry| matches!(entry.act, Act::Grant { .. })).collect();
        let steward = |n: u8| PartyId::from([n; 32]);
        let act = match deed {
            Deed::Grants | Deed::Forks => granting(&format!("grant {step}")),
            Deed::Revokes(which) if grants.is_empty() => granting(&format!("{which}")),
            Deed::Revokes(which) => revoking(grants[which % grants.len()]),
            Deed::Removes(device, last_valid_seq) => {
                Act::RemoveDevice { device: others[*device], last_valid_seq: *last_valid_seq }
            }
            Deed::AddsSteward(n) => {
                Act::AddSteward { party: steward(*n), devices: vec![DeviceId::from([*n; 32])] }
            }
            Deed::RemovesSteward(n) => Act::RemoveSteward { party: steward(*n) },
        };
        if matches!(deed, Deed::Forks) && *writer > 0 {
            entries.push(writers[*writer].would_write(granting(&format!("other branch {step}"))));
        }
        entries.push(writers[*writer].writes(act));
    }
    entries
}

fn is_denial(entry: &Verified<Entry>) -> bool {
    matches!(entry.act, Act::Revoke { .. } | Act::RemoveDevice { .. } | Act::RemoveSteward { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rule 2: the state is the same for every order of adding.
    #[test]
    fn state_is_the_same_for_every_order_of_adding(
        (entries, shuffled) in deeds().prop_flat_map(|deeds| {
            let entries = story(&deeds);
            (Just(entries.clone()), Just(entries).prop_shuffle())
        })
    ) {
        prop_assert_eq!(log_of(&entries).state(), log_of(&shuffled).state());
    }

    /// Rule 2: adding an entry a second time changes nothing.
    #[test]
    fn adding_twice_is_adding_once(deeds in deeds()) {
        let entries = story(&deeds);
        let twice: Vec<_> = entries.iter().chain(&entries).cloned().collect();
        prop_assert_eq!(log_of(&entries).state(), log_of(&twice).state());
    }

    /// Monotony: a denial written at the end of any device's chain never adds authority.
    #[test]
    fn adding_a_denial_never_adds_authority(deeds in deeds()) {
        let entries = story(&deeds);
        for end in 3..entries.len() {
            if is_denial(&entries[end]) {
                let before = Authority::of(&log_of(&entries[..end]).state());
                let after = Authority::of(&log_of(&entries[..=end]).state());
                prop_assert!(after.is_within(&before), "{:?} added authority", entries[end].act);
            }
        }
    }

    /// Finality: a revocation that is held ends its grant, whatever else is held or missing.
    #[test]
    fn a_held_revocation_is_final(deeds in deeds(), kept in proptest::collection::vec(any::<bool>(), 17)) {
        let entries = story(&deeds);
        let subset: Vec<_> = entries
            .iter()
            .enumerate()
            .filter(|(at, _)| *at < 3 || kept[*at % kept.len()])
            .map(|(_, entry)| entry)
            .collect();
        let state = log_of(subset.iter().copied()).state();
        for entry in subset {
            if let Act::Revoke { grant, .. } = &entry.act {
                prop_assert!(!Authority::of(&state).grants.contains(grant));
            }
        }
    }

    /// Rule 4: a fork voids the device's grants from the fork on, and no revocation on either branch.
    /// Whoever lacks any entries, names how far it holds each chain, and adds what it is given, holds all.
    #[test]
    fn what_lies_beyond_the_ends_makes_a_log_whole(
        deeds in deeds(), kept in proptest::collection::vec(any::<bool>(), 17)
    ) {
        let entries = story(&deeds);
        let whole = log_of(&entries);
        let mut part = log_of(&entries[..1]);
        for (entry, kept) in entries.iter().skip(1).zip(kept) {
            if kept {
                drop(part.add(entry.clone()));
            }
        }
        let beyond: Vec<_> = whole.beyond(&part.held_ends()).into_iter().cloned().collect();
        for entry in beyond {
            drop(part.add(entry));
        }
        prop_assert_eq!(part.state().complete, whole.state().complete);
        prop_assert!(whole.beyond(&whole.held_ends()).len() <= entries.len());
    }

    #[test]
    fn a_fork_voids_grants_from_there_on_and_never_revocations(before in 1..5usize, after in 0..5usize) {
        let mut phone = Writer::named("phone");
        let mut laptop = Writer::named("laptop");
        let mut entries = vec![phone.begins(&[], 1), phone.adds(&mut laptop)];
        let first = phone.grants("of the phone");
        let second = phone.grants("another of the phone");
        let kept: Vec<_> = (0..before).map(|n| laptop.grants(&format!("kept {n}"))).collect();
        let fork_seq = laptop.seq;
        let other_branch = laptop.would_write(revoking(&first));
        let mut void = vec![laptop.grants("void at the fork")];
        void.extend((0..after).map(|n| laptop.grants(&format!("void {n}"))));
        let later = laptop.revokes(&second);
        entries.extend([first.clone(), second.clone(), other_branch, later]);
        entries.extend(kept.iter().chain(&void).cloned());

        let state = log_of(&entries).state();
        prop_assert_eq!(state.forks.get(&laptop.key.device()), Some(&fork_seq));
        prop_assert!(kept.iter().all(|grant| state.grants.contains_key(&id_of(grant))));
        prop_assert!(void.iter().all(|grant| !state.grants.contains_key(&id_of(grant))));
        prop_assert!(state.revoked.contains(&id_of(&first)), "the revocation on the one branch counts");
        prop_assert!(state.revoked.contains(&id_of(&second)), "the revocation on the other branch counts");
    }

    /// Rule 5: a removal voids the device's grants beyond `last_valid_seq` and keeps those before.
    #[test]
    fn a_removal_voids_grants_beyond_the_last_valid_seq(grants in 1..6u64, last_valid_seq in 0..8u64) {
        let mut phone = Writer::named("phone");
        let mut laptop = Writer::named("laptop");
        let mut entries = vec![phone.begins(&[], 1), phone.adds(&mut laptop)];
        let granted: Vec<_> = (0..grants).map(|n| laptop.grants(&format!("{n}"))).collect();
        entries.extend(granted.iter().cloned());
        entries.push(phone.removes(&laptop, last_valid_seq));

        let state = log_of(&entries).state();
        prop_assert!(!state.has_device(&laptop.key.device()));
        for grant in &granted {
            prop_assert_eq!(state.grants.contains_key(&id_of(grant)), grant.seq <= last_valid_seq);
        }
    }

    /// Rule 1: a grant behind a gap does not count, and counts once the gap is filled.
    #[test]
    fn a_grant_counts_exactly_when_its_chain_is_complete(length in 2..7usize, gap in 0..6usize) {
        let gap = gap % (length - 1);
        let mut phone = Writer::named("phone");
        let mut entries = vec![phone.begins(&[], 1)];
        let chain: Vec<_> = (0..length).map(|n| phone.grants(&format!("{n}"))).collect();
        entries.extend(chain.iter().enumerate().filter(|(at, _)| *at != gap).map(|(_, entry)| entry.clone()));

        let gapped = log_of(&entries).state();
        for (at, grant) in chain.iter().enumerate() {
            prop_assert_eq!(gapped.grants.contains_key(&id_of(grant)), at < gap);
        }
        entries.push(chain[gap].clone());
        prop_assert_eq!(log_of(&entries).state().grants.len(), length);
    }
}

#[test]
fn a_party_begins_only_with_a_genesis_of_one_of_its_devices() {
    let mut phone = Writer::named("phone");
    let laptop = Writer::named("laptop");
    let of = |devices| {
        Act::Genesis(Genesis {
            salt: karte_protocol::chance::Chance::salt(&mut Repeating::from_seed("salt")),
            devices,
            next_recovery: vec![],
            threshold: 1,
        })
    };
    let not_its_own = phone.would_write(of(vec![laptop.device()]));
    assert_eq!(PartyLog::start(not_its_own).err(), Some(LogError::NotGenesis));
    let own = of(vec![phone.device()]);
    assert!(PartyLog::start(phone.would_write(own.clone())).is_ok());
    phone.seq = 1;
    assert_eq!(PartyLog::start(phone.would_write(own.clone())).err(), Some(LogError::NotGenesis));
    phone.seq = 0;
    phone.party = Some(PartyId::from([1; 32]));
    assert_eq!(PartyLog::start(phone.would_write(own)).err(), Some(LogError::NotGenesis));
    assert_eq!(PartyLog::start(phone.would_write(granting("x"))).err(), Some(LogError::NotGenesis));
}

#[test]
fn entries_of_other_parties_and_of_devices_nobody_named_are_not_taken() {
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[], 1);
    let mut log = log_of([&genesis]);
    let mut stranger = Writer::named("stranger");
    stranger.joins(&genesis, log.party());
    let unnamed = stranger.grants("stolen");
    assert_eq!(log.add(unnamed), Err(LogError::Untraced(stranger.key.device())));
    phone.party = Some(PartyId::from([9; 32]));
    let other = phone.grants("elsewhere");
    assert_eq!(log.add(other), Err(LogError::OtherParty { expected: log.party() }));
}

/// Rule 1: who the devices are needs identity entries alone, whatever lies between them.
#[test]
fn identity_needs_no_complete_chain() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let genesis = phone.begins(&[], 1);
    let between = phone.grants("not shown to a stranger");
    let adding = phone.adds(&mut laptop);
    let all = log_of([&genesis, &between, &adding]);
    let shown = log_of(all.identity_entries());
    assert!(!shown.holds(&between.id().into()));
    assert_eq!(shown.state().devices, all.state().devices);
    assert_eq!(shown.state().identity, all.state().identity);
}

/// Rule 1: a device's own chain is complete only if it begins after the entry that names it.
#[test]
fn a_chain_that_does_not_begin_at_its_naming_does_not_count() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let genesis = phone.begins(&[], 1);
    let adding = phone.adds(&mut laptop);
    laptop.prev = Some(genesis.id().into());
    let grant = laptop.grants("after the wrong entry");
    assert!(log_of([&genesis, &adding, &grant]).state().grants.is_empty());
}

/// Rule 3: a denial counts although its device was removed before it, although its chain has a gap, and
/// before its grant is known.
#[test]
fn a_denial_counts_under_any_traced_device_void_or_gapped_or_early() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let genesis = phone.begins(&[], 1);
    let adding = phone.adds(&mut laptop);
    let grant = phone.grants("early");
    let removing = phone.removes(&laptop, 0);
    let missing = laptop.grants("missing");
    let revoke = laptop.revokes(&grant);
    let without_grant = log_of([&genesis, &adding, &removing, &revoke]);
    assert!(!without_grant.holds(&missing.id().into()));
    assert!(without_grant.state().revoked.contains(&id_of(&grant)), "before its grant is known");
    let with_grant = log_of([&genesis, &adding, &grant, &removing, &revoke]);
    let state = with_grant.state();
    assert!(state.grants.contains_key(&id_of(&grant)));
    assert!(Authority::of(&state).grants.is_empty(), "void and gapped, and it counts");
}

/// Rule 3: also a removal of a steward counts under a device that was removed.
#[test]
fn a_removed_steward_stays_removed() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let steward = PartyId::from([5; 32]);
    let adds = |n: u8| Act::AddSteward { party: steward, devices: vec![DeviceId::from([n; 32])] };
    let mut entries = vec![phone.begins(&[], 1), phone.adds(&mut laptop), phone.writes(adds(1))];
    assert!(log_of(&entries).state().has_steward_device(&DeviceId::from([1; 32])));
    entries.push(phone.removes(&laptop, 0));
    entries.push(laptop.writes(Act::RemoveSteward { party: steward }));
    assert!(log_of(&entries).state().stewards.is_empty());
    entries.push(phone.writes(adds(2)));
    assert!(log_of(&entries).state().stewards.is_empty(), "there is no order, so no second time");
}

/// Rules 4 and 5 hold for AddDevice and AddSteward as for Grant.
#[test]
fn a_void_device_names_nobody() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let mut thief = Writer::named("thief");
    let mut entries = vec![phone.begins(&[], 1), phone.adds(&mut laptop)];
    entries.push(laptop.grants("before"));
    entries.push(phone.removes(&laptop, 0));
    entries.push(laptop.adds(&mut thief));
    entries.push(
        laptop.writes(Act::AddSteward { party: PartyId::from([5; 32]), devices: vec![thief.key.device()] }),
    );
    entries.push(thief.grants("everything to me"));
    let state = log_of(&entries).state();
    assert!(!state.has_device(&thief.key.device()));
    assert!(!state.has_steward_device(&thief.key.device()));
    assert_eq!(state.grants.len(), 1, "the one before the removal");
}

fn recovering(
    device: &mut Writer,
    party: PartyId,
    generation: u32,
    signers: &[&RecoverySeed],
) -> Verified<Entry> {
    device.party = Some(party);
    device.generation = generation;
    let terms = RecoverTerms {
        party,
        r#gen: generation,
        devices: vec![device.device()],
        next_recovery: vec![recovery("next words").commitment()],
        threshold: 1,
    };
    let bytes = encoding::encode(&terms).expect("encodes");
    let sign = |seed: &&RecoverySeed| {
        use ed25519_dalek::Signer;
        let key = ed25519_dalek::SigningKey::from_bytes(&seed.signing_key().expose_seed());
        serde_bytes::ByteBuf::from(key.sign(&bytes).to_bytes().to_vec())
    };
    device.writes(Act::Recover(Recover {
        terms,
        reveals: signers.iter().map(|seed| seed.signing_key().device()).collect(),
        signatures: signers.iter().map(sign).collect(),
    }))
}

/// Rule 6: a recovery by the committed keys opens a new generation and ends all older grants and devices.
#[test]
fn a_recovery_opens_a_generation_and_ends_all_older_grants() {
    let words = recovery("words");
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[&words], 1);
    let grant = phone.grants("old");
    let party = log_of([&genesis]).party();
    let mut new_phone = Writer::named("new phone");
    let recover = recovering(&mut new_phone, party, 1, &[&words]);
    let new_grant = new_phone.grants("new");
    let state = log_of([&genesis, &grant, &recover, &new_grant]).state();
    assert_eq!(state.generation, 1);
    assert_eq!(state.devices.keys().collect::<Vec<_>>(), [&new_phone.key.device()]);
    assert_eq!(state.grants.keys().collect::<Vec<_>>(), [&id_of(&new_grant)]);
    assert!(!state.disputed);
}

/// Rule 6: only the keys that were committed, and as many as the threshold says, recover.
#[test]
fn a_recovery_needs_as_many_committed_keys_as_the_threshold_says() {
    let (one, two, other) = (recovery("one"), recovery("two"), recovery("other"));
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[&one, &two], 2);
    let party = log_of([&genesis]).party();
    let generation_after = |signers: &[&RecoverySeed]| {
        let recover = recovering(&mut Writer::named("new phone"), party, 1, signers);
        log_of([&genesis, &recover]).state().generation
    };
    assert_eq!(generation_after(&[&one, &two]), 1);
    assert_eq!(generation_after(&[&one]), 0, "one of two");
    assert_eq!(generation_after(&[&one, &one]), 0, "the same one twice");
    assert_eq!(generation_after(&[&one, &other]), 0, "one that was not committed");
}

/// Rule 6: two different recoveries of one generation mean that everything is denied.
#[test]
fn two_recoveries_of_one_generation_are_a_dispute() {
    let words = recovery("words");
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[&words], 1);
    let party = log_of([&genesis]).party();
    let one = recovering(&mut Writer::named("new phone"), party, 1, &[&words]);
    let other = recovering(&mut Writer::named("other phone"), party, 1, &[&words]);
    let state = log_of([&genesis, &one, &other]).state();
    assert!(state.disputed);
    assert!(Authority::of(&state).grants.is_empty());
}

#[test]
fn a_device_that_was_never_counted_gains_nothing_by_forking() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let mut thief = Writer::named("thief");
    let mut entries = vec![phone.begins(&[], 1), phone.adds(&mut laptop), laptop.grants("before")];
    entries.push(phone.removes(&laptop, 0));
    entries.push(laptop.adds(&mut thief));
    let stolen = thief.grants("everything to me");
    entries.push(stolen.clone());
    entries.push(thief.would_write(granting("a fork")));
    entries.push(thief.grants("the other branch"));
    assert!(!log_of(&entries).state().grants.contains_key(&id_of(&stolen)));
}

#[test]
fn removing_a_device_that_was_never_counted_adds_no_authority() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let mut thief = Writer::named("thief");
    let mut entries = vec![phone.begins(&[], 1), phone.adds(&mut laptop), laptop.grants("before")];
    entries.push(phone.removes(&laptop, 0));
    entries.push(laptop.adds(&mut thief));
    entries.push(thief.grants("everything to me"));
    let before = Authority::of(&log_of(&entries).state());
    entries.push(phone.removes(&thief, 9));
    let after = Authority::of(&log_of(&entries).state());
    assert!(after.is_within(&before));
}

#[test]
fn a_recover_without_committed_keys_names_no_devices() {
    let words = recovery("words");
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[&words], 1);
    let party = log_of([&genesis]).party();
    let mut new_phone = Writer::named("new phone");
    let recover = recovering(&mut new_phone, party, 1, &[&words]);
    // A stranger makes Recovers until one has a smaller id than the real one, which takes a few.
    let forged = (0..64)
        .map(|n| recovering(&mut Writer::named(&format!("thief {n}")), party, 1, &[]))
        .find(|forged| forged.id() < recover.id())
        .expect("one of 64 is smaller");
    let state = log_of([&genesis, &recover, &forged]).state();
    assert!(!state.has_device(&forged.by().device), "a stranger became a device");
    assert!(state.has_device(&new_phone.key.device()), "the owner was put out");
}

#[test]
fn a_stranger_changes_nothing_of_a_party() {
    let words = recovery("words");
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[&words], 1);
    let before = log_of([&genesis]).state();
    // generation 0, so that its head is named among those of the owner's devices
    let mut thief = Writer::named("thief");
    let mut forged = recovering(&mut thief, before.party, 0, &[]);
    let after = log_of([&genesis, &forged]).state();
    assert_eq!(after.identity, before.identity, "every Status of the owner now misses this identity");
    assert_eq!(after.heads, before.heads, "every Status made here names a head that nobody else holds");
    forged = recovering(&mut Writer::named("thief"), before.party, 1, &[]);
    assert_eq!(log_of([&genesis, &forged]).state(), before);
}

#[test]
fn a_second_genesis_replaces_nothing() {
    let words = recovery("words");
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let entries = [phone.begins(&[&words], 1), phone.adds(&mut laptop)];
    let thief = Writer::named("thief");
    let thiefs_words = recovery("the thief's words");
    // The thief has the laptop and tries salts until the id is smaller than that of the real Genesis.
    let second = (0..64)
        .map(|n| {
            laptop.would_write(Act::Genesis(Genesis {
                salt: karte_protocol::id::Salt::from([n; 32]),
                devices: vec![thief.device()],
                next_recovery: vec![thiefs_words.commitment()],
                threshold: 1,
            }))
        })
        .find(|second| second.id() < entries[0].id())
        .expect("one of 64 is smaller");
    let party = log_of(&entries).party();
    let mut new_phone = Writer::named("new phone");
    let recover = recovering(&mut new_phone, party, 1, &[&words]);
    let mut thiefs_phone = Writer::named("thief's phone");
    let taken = recovering(&mut thiefs_phone, party, 1, &[&thiefs_words]);
    let held = [&entries[0], &entries[1], &second];
    assert!(!log_of(held).state().has_device(&thief.key.device()), "a stranger became a device");
    let state = log_of(held.into_iter().chain([&taken])).state();
    assert_eq!(state.generation, 0, "the thief's words recovered the party");
    let state = log_of(held.into_iter().chain([&recover])).state();
    assert_eq!(state.generation, 1, "the owner's words no longer recover it");
}

#[test]
fn in_order_is_an_order_that_add_takes() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let mut tablet = Writer::named("tablet");
    let entries = [phone.begins(&[], 1), phone.adds(&mut laptop), laptop.adds(&mut tablet)];
    let log = log_of(&entries);
    let mut again = PartyLog::start(entries[0].clone()).expect("begins");
    for entry in log.in_order() {
        assert_eq!(again.add(entry.clone()).err(), None);
    }
}

#[test]
fn a_fork_proof_voids_as_the_two_entries_do() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let mut tablet = Writer::named("tablet");
    let mut entries = vec![phone.begins(&[], 1), phone.adds(&mut laptop)];
    let one = laptop.would_write(granting("to one"));
    let other = laptop.grants("to the other");
    entries.push(laptop.adds(&mut tablet));
    entries.push(phone.writes(Act::Fork {
        device: laptop.key.device(),
        one: one.bytes().to_vec(),
        other: other.bytes().to_vec(),
    }));
    let state = log_of(&entries).state();
    assert_eq!(state.forks.get(&laptop.key.device()), Some(&0));
    assert!(!state.has_device(&tablet.key.device()), "named after the fork");
}

#[test]
fn a_full_log_denies_everything() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let genesis = phone.begins(&[], 1);
    let adding = phone.adds(&mut laptop);
    let grant = phone.grants("to a clinic");
    let mut log = log_of([&genesis, &adding, &grant]);
    let large = |laptop: &mut Writer| {
        laptop.writes(Act::Fork { device: laptop.key.device(), one: vec![0; 32_000], other: vec![0; 32_000] })
    };
    // Large entries until none fits, then small ones until none fits: a revocation is no smaller.
    while log.add(large(&mut laptop)).is_ok() {}
    while log.add(laptop.grants("filling")).is_ok() {}
    let _ = log.add(phone.revokes(&grant));
    let held: usize = log.in_order().iter().map(|entry| entry.bytes().len()).sum();
    assert!(held > LOG_BYTES_MAX - 1_000, "{held} bytes: the log is full");
    let grants = Authority::of(&log.state()).grants;
    assert!(grants.is_empty(), "the revocation found no room, and the grant lives on");
}

#[test]
fn a_grant_entry_is_found_by_its_commitment() {
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[], 1);
    let grant = phone.grants("to a clinic");
    let state = log_of([&genesis, &grant]).state();
    assert_eq!(state.grants.get(&id_of(&grant)), Some(&digest_of("to a clinic")));
}

/// A copy that went on by itself is shown an entry of its own device that it does not hold.
#[test]
fn a_log_that_has_forked_is_shown_the_other_branch() {
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[], 0);
    let mut copy = Writer { key: Writer::named("phone").key, ..Writer::named("phone") };
    (copy.party, copy.seq, copy.prev) = (phone.party, phone.seq, phone.prev);
    let true_log = log_of(&[genesis.clone(), phone.writes(granting("one")), phone.writes(granting("two"))]);
    let rest: Vec<_> = (0..5).map(|n| copy.writes(granting(&format!("copy {n}")))).collect();
    let copied = log_of(&[vec![genesis], rest].concat());
    let shown = true_log.beyond(&copied.held_ends());
    assert!(
        shown.iter().any(|entry| !copied.holds(&entry.id().into())),
        "an unknown entry of its own device"
    );
    assert!(shown.len() <= 1, "and no more than one, however far the copy went");
    let ahead = true_log.beyond(&true_log.held_ends());
    assert!(ahead.is_empty(), "who holds all is sent nothing: {ahead:?}");
}

#[test]
fn a_recover_that_the_seeds_sign_is_taken() {
    let seed = recovery("words");
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[&seed], 1);
    let mut log = log_of(&[genesis]);
    let mut fresh = Writer::named("new phone");
    (fresh.party, fresh.generation) = (phone.party, 1);
    let terms = RecoverTerms {
        party: log.party(),
        r#gen: 1,
        devices: vec![fresh.device()],
        next_recovery: vec![recovery("next words").commitment()],
        threshold: 1,
    };
    let entry = fresh.writes(Act::Recover(Recover::sign(terms, &[&seed]).expect("signs")));
    assert_eq!(log.add(entry), Ok(true));
    assert_eq!(log.state().generation, 1);
}
