//! Recovery by keys committed in advance: what people hand each other, and what it is worth (SPEC rule 6).

mod people;

use karte_protocol::entry::{Act, Recover, RecoverTerms};
use karte_protocol::id::PartyId;
use karte_protocol::identity::PartyLog;
use karte_protocol::keys::RecoverySeed;
use karte_protocol::limits::RECOVERY_TEXT_BYTES_MAX;
use karte_protocol::recovery::{Approval, KeyNote, RecoveryError, RecoveryRequest, RecoveryText};
use people::{Writer, id_of, log_of, recovery};

/// Two of three keys; the log of a party that committed to them, and the terms of its new phone.
fn two_of_three() -> ([RecoverySeed; 3], PartyLog, Writer, RecoverTerms) {
    let keys = [recovery("words"), recovery("the clinic's"), recovery("her sister's")];
    let genesis = Writer::named("phone").begins(&[&keys[0], &keys[1], &keys[2]], 2);
    let log = log_of([&genesis]);
    let mut phone = Writer::named("new phone");
    let terms = terms_of(&mut phone, log.party(), &keys);
    (keys, log, phone, terms)
}

fn terms_of(phone: &mut Writer, party: PartyId, keys: &[RecoverySeed]) -> RecoverTerms {
    (phone.party, phone.generation) = (Some(party), 1);
    RecoverTerms {
        party,
        r#gen: 1,
        devices: vec![phone.device()],
        next_recovery: keys.iter().map(RecoverySeed::commitment).collect(),
        threshold: 2,
    }
}

/// The generation after a recovery by these approvals.
fn generation_after(log: &PartyLog, phone: &mut Writer, terms: &RecoverTerms, approvals: &[Approval]) -> u32 {
    let mut log = log.clone();
    let signed = approvals.iter().map(|approval| (&approval.key, &approval.signature[..]));
    let entry = phone.would_write(Act::Recover(Recover::assemble(terms.clone(), signed)));
    let _ = log.add(entry);
    log.state().generation
}

/// Approvals made apart and put together recover exactly when enough of the committed keys made them.
#[test]
fn approvals_put_together_recover_exactly_at_the_threshold() {
    let (keys, log, mut phone, terms) = two_of_three();
    let by = |seed: &RecoverySeed| Approval::sign(&terms, seed, None).expect("signs");
    let [words, clinic, sister] = [by(&keys[0]), by(&keys[1]), by(&keys[2])];
    let stranger = by(&recovery("a stranger's"));
    let mut after = |approvals: &[&Approval]| {
        let approvals: Vec<Approval> = approvals.iter().map(|approval| (*approval).clone()).collect();
        generation_after(&log, &mut phone, &terms, &approvals)
    };
    for two in [[&words, &clinic], [&clinic, &sister], [&sister, &words]] {
        assert_eq!(after(&two), 1, "any two of three");
    }
    assert_eq!(after(&[&words]), 0, "one of three");
    assert_eq!(after(&[&words, &words]), 0, "one, twice");
    assert_eq!(after(&[&words, &stranger]), 0, "one, and one that was not committed");
    assert!(log.approves(&terms, &words.key, &words.signature));
    assert!(!log.approves(&terms, &stranger.key, &stranger.signature));
    let mut others = terms.clone();
    others.threshold = 1;
    assert!(!log.approves(&others, &words.key, &words.signature), "an approval is of its terms alone");
}

/// What people compare by voice differs whenever anything that is signed differs.
#[test]
fn another_device_has_another_check_code() {
    let (keys, log, _, terms) = two_of_three();
    let thief = terms_of(&mut Writer::named("a thief's phone"), log.party(), &keys);
    assert_ne!(terms.check_code().expect("a code"), thief.check_code().expect("a code"));
    assert!(terms.check_code().expect("a code").iter().all(|word| *word < 2048));
}

/// The first 66 bits, 11 at a time.
#[test]
fn the_check_code_is_the_beginning_of_the_digest() {
    let (_, _, _, terms) = two_of_three();
    let digest = terms.digest().expect("a digest");
    let bits: String = digest.as_bytes().iter().map(|byte| format!("{byte:08b}")).collect();
    let code: String =
        terms.check_code().expect("a code").iter().map(|word| format!("{word:011b}")).collect();
    assert_eq!(code, bits.chars().take(66).collect::<String>());
}

/// Texts read back as they were, with line breaks in them; changed ones give no other meaning.
#[test]
fn texts_read_back_and_changed_ones_do_not() {
    let (keys, log, _, terms) = two_of_three();
    let request = RecoveryRequest::new("Hana", terms.clone(), &log);
    let text = request.to_text().expect("a text");
    let wrapped: String = text
        .chars()
        .enumerate()
        .map(|(at, c)| if at % 60 == 59 { format!("{c}\n ") } else { c.into() })
        .collect();
    assert_eq!(RecoveryRequest::from_text(&wrapped).expect("reads"), request);
    assert_eq!(request.log().expect("a log").state(), log.state());
    let approval = Approval::sign(&terms, &keys[0], None).expect("signs");
    let text = approval.to_text().expect("a text");
    assert_eq!(Approval::from_text(&text).expect("reads"), approval);
    assert!(matches!(RecoveryRequest::from_text(&text), Err(RecoveryError::Other { .. })));
    assert!(matches!(
        Approval::from_text(&" ".repeat(3 * RECOVERY_TEXT_BYTES_MAX)),
        Err(RecoveryError::Other { .. })
    ));
    for at in Approval::PREFIX.len()..text.len() {
        let swapped: String = text
            .chars()
            .enumerate()
            .map(|(n, c)| if n == at { if c == 'A' { 'B' } else { 'A' } } else { c })
            .collect();
        if let Ok(changed) = Approval::from_text(&swapped) {
            let counts = log.approves(&terms, &changed.key, &changed.signature)
                && terms.digest().expect("a digest") == changed.terms;
            assert!(!counts || changed == approval, "nothing else counts, changed at {at}");
        }
    }
    let note = KeyNote::new(log.party(), keys[0].commitment());
    assert_eq!(KeyNote::from_text(&note.to_text().expect("a text")).expect("reads"), note);
}

/// A request names one party: that of the entries in it.
#[test]
fn a_request_with_another_partys_entries_is_refused() {
    let (_, _, _, terms) = two_of_three();
    let other = log_of([&Writer::named("somebody else").begins(&[], 0)]);
    assert!(RecoveryRequest::new("Hana", terms, &other).log().is_err());
}

/// A Revoke is not forgotten with its generation: whoever gives grants again must know it.
#[test]
fn what_was_revoked_before_a_recovery_stays_known() {
    let (keys, _, _, _) = two_of_three();
    let mut old = Writer::named("phone");
    let genesis = old.begins(&[&keys[0], &keys[1], &keys[2]], 2);
    let (kept, ended) = (old.grants("kept"), old.grants("ended"));
    let revoke = old.revokes(&ended);
    let mut log = log_of([&genesis, &kept, &ended, &revoke]);
    let mut phone = Writer::named("new phone");
    let terms = terms_of(&mut phone, log.party(), &keys);
    let approvals: Vec<Approval> =
        keys.iter().take(2).map(|seed| Approval::sign(&terms, seed, None).expect("signs")).collect();
    let signed = approvals.iter().map(|approval| (&approval.key, &approval.signature[..]));
    log.add(phone.writes(Act::Recover(Recover::assemble(terms.clone(), signed)))).expect("two of three");
    assert!(log.state().revoked.is_empty(), "the state speaks of this generation");
    assert_eq!(log.ever_revoked().into_iter().collect::<Vec<_>>(), [id_of(&ended)]);
    assert_eq!(log.recovery_set(), (&terms.next_recovery[..], 2));
}
