//! SPEC section 8: the decision. A good question passes; each clause is reached by changing one thing in it.
//!

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

mod people;

use karte_protocol::consent::{Accept, Release, Status};
use karte_protocol::decide::{
    Clause, Reading, Serving, is_device_signed, is_fresh, knows, passes, read, serve,
};
use karte_protocol::entry::Act;
use karte_protocol::grant::{Bound, Condition, Onward, Opened, Reader, Scope, Window};
use karte_protocol::id::{DeviceId, GrantId, ObjectId, PartyId, RecordId, Salt};
use karte_protocol::identity::{PartyLog, State};
use karte_protocol::label::{Code, Effective, Label};
use karte_protocol::limits::{CLOCK_SKEW_MS_MAX, SESSION_MS_MAX};
use karte_protocol::signed::{Statement, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS, MINUTE_MS, UnixMs};
use people::{NOW_MS, Writer, digest_of, id_of, log_of};

/// Aiko grants to a clinic; the clinic's desk asks Aiko's phone. A steward keeps Aiko's shelves.
struct Scene {
    now_ms: UnixMs,
    phone: Writer,
    desk: Writer,
    steward: Writer,
    grant: GrantId,
    opened: Opened,
    holder: PartyLog,
    holder_status: Option<Verified<Status>>,
    holder_heard_ms: Option<UnixMs>,
    reader: PartyLog,
    reader_status: Option<Verified<Status>>,
    accept: Option<Verified<Accept>>,
    release: Verified<Release>,
    peer: DeviceId,
}

impl Scene {
    fn good() -> Self {
        let (mut phone, mut desk) = (Writer::named("Aiko's phone"), Writer::named("the clinic's desk"));
        let mut steward = Writer::named("the steward's box");
        let clinic_begins = desk.begins(&[], 1);
        let steward_begins = steward.begins(&[], 1);
        let reader = log_of([&clinic_begins]);
        let begins = phone.begins(&[], 1);
        let stewarding = phone.writes(Act::AddSteward {
            party: log_of([&steward_begins]).party(),
            devices: vec![steward.key.device()],
        });
        let granting = phone.grants("to the clinic");
        let holder = log_of([&begins, &stewarding, &granting]);
        let grant = id_of(&granting);
        let accept = signed(
            &desk,
            Accept { grant, reader: reader.party(), n: 1, recipient: desk.sealing.recipient() },
        );
        let release = signed(&desk, releasing(grant, accept.id(), phone.key.device()));
        Self {
            now_ms: NOW_MS,
            grant,
            opened: opened(holder.party(), reader.party()),
            holder_status: Some(status_of(&holder, &phone)),
            holder_heard_ms: Some(NOW_MS),
            reader_status: Some(status_of(&reader, &desk)),
            accept: Some(accept),
            release,
            peer: desk.key.device(),
            holder,
            reader,
            phone,
            desk,
            steward,
        }
    }

    /// The clause that stands against serving, if any.
    fn serving(&self) -> Option<Clause> {
        let (holder, reader) = (self.holder.state(), self.reader.state());
        self.serving_with(&holder, &reader)
    }

    fn serving_with(&self, holder: &State, reader: &State) -> Option<Clause> {
        let answer = serve(&Serving {
            now_ms: self.now_ms,
            grant: self.grant,
            opened: Some(&self.opened),
            holder: (&self.holder, holder),
            holder_status: self.holder_status.as_ref(),
            holder_heard_ms: self.holder_heard_ms,
            reader: (&self.reader, reader),
            reader_status: self.reader_status.as_ref(),
            accept: self.accept.as_ref(),
            release: &self.release,
            peer: self.peer,
            this: self.phone.key.device(),
        });
        answer.err().map(|denial| {
            assert_eq!(denial.grant, self.grant, "a denial names the grant");
            denial.clause
        })
    }

    /// The clause that stands against reading, if any.
    fn reading(&self) -> Option<Clause> {
        let holder = self.holder.state();
        let answer = read(&Reading {
            now_ms: self.now_ms,
            grant: self.grant,
            opened: &self.opened,
            holder: &holder,
            holder_heard_ms: self.holder_heard_ms,
        });
        answer.err().map(|denial| denial.clause)
    }

    /// Signs the release again with one thing changed.
    fn release_with(&mut self, change: impl FnOnce(&mut Release)) {
        let mut release: Release = (*self.release).clone();
        change(&mut release);
        self.release = signed(&self.desk, release);
    }

    fn accept_with(&mut self, change: impl FnOnce(&mut Accept)) {
        let mut accept: Accept = (**self.accept.as_ref().expect("accepted")).clone();
        change(&mut accept);
        let accept = signed(&self.desk, accept);
        self.release_with(|release| release.accept = accept.id());
        self.accept = Some(accept);
    }

    fn reader_status_with(&mut self, change: impl FnOnce(&mut Status)) {
        let mut status: Status = (**self.reader_status.as_ref().expect("held")).clone();
        change(&mut status);
        self.reader_status = Some(signed(&self.desk, status));
    }

    fn holder_status_with(&mut self, change: impl FnOnce(&mut Status)) {
        let mut status: Status = (**self.holder_status.as_ref().expect("held")).clone();
        change(&mut status);
        self.holder_status = Some(signed(&self.phone, status));
    }
}

fn signed<T: Statement>(writer: &Writer, body: T) -> Verified<T> {
    Verified::sign(body, writer.by(), &writer.key).expect("signs")
}

fn status_of(log: &PartyLog, signer: &Writer) -> Verified<Status> {
    let state = log.state();
    let status = Status {
        of: log.party(),
        r#gen: state.generation,
        heads: state.heads,
        identity: state.identity,
        issued_ms: NOW_MS,
        lease_ms: HOUR_MS,
    };
    signed(signer, status)
}

fn releasing(grant: GrantId, accept: ObjectId, to: DeviceId) -> Release {
    Release {
        grant,
        accept,
        to,
        purpose: "TREAT".into(),
        staff: "Dr. Sato".into(),
        since: 0,
        nonce: Salt::from([7; 32]),
        at_ms: NOW_MS,
    }
}

fn opened(subject: PartyId, reader: PartyId) -> Opened {
    Opened {
        reader: Reader::Party(reader),
        subject,
        scope_hash: digest_of("scope"),
        purpose: "TREAT".into(),
        basis: "consent".into(),
        not_before_ms: NOW_MS - DAY_MS,
        not_after_ms: NOW_MS + 90 * DAY_MS,
        offline_ms: 7 * DAY_MS,
        onward: Onward::No,
        conditions: vec![],
    }
}

#[test]
fn the_good_question_passes() {
    let scene = Scene::good();
    assert_eq!(scene.serving(), None);
    assert_eq!(scene.reading(), None);
}

#[test]
fn not_counting_when_no_opening_is_held() {
    let scene = Scene::good();
    let (holder, reader) = (scene.holder.state(), scene.reader.state());
    let answer = serve(&Serving {
        now_ms: scene.now_ms,
        grant: scene.grant,
        opened: None,
        holder: (&scene.holder, &holder),
        holder_status: scene.holder_status.as_ref(),
        holder_heard_ms: scene.holder_heard_ms,
        reader: (&scene.reader, &reader),
        reader_status: scene.reader_status.as_ref(),
        accept: scene.accept.as_ref(),
        release: &scene.release,
        peer: scene.peer,
        this: scene.phone.key.device(),
    });
    assert_eq!(answer.map_err(|denial| denial.clause), Err(Clause::NotCounting));
}

#[test]
fn not_counting_when_the_log_does_not_hold_the_grant() {
    let mut scene = Scene::good();
    scene.grant = GrantId::from([1; 32]);
    assert_eq!(scene.serving(), Some(Clause::NotCounting));
    assert_eq!(scene.reading(), Some(Clause::NotCounting));
}

#[test]
fn disputed_when_the_holder_is() {
    let scene = Scene::good();
    let (mut holder, reader) = (scene.holder.state(), scene.reader.state());
    holder.disputed = true;
    assert_eq!(scene.serving_with(&holder, &reader), Some(Clause::Disputed));
}

#[test]
fn revoked_once_the_revocation_is_held() {
    let mut scene = Scene::good();
    let revoke = scene.phone.writes(Act::Revoke { grant: scene.grant, reason: String::new() });
    scene.holder.add(revoke).expect("adds");
    assert_eq!(scene.serving(), Some(Clause::Revoked));
    assert_eq!(scene.reading(), Some(Clause::Revoked));
}

#[test]
fn not_yet_before_its_beginning_and_from_its_beginning_on() {
    let mut scene = Scene::good();
    scene.opened.not_before_ms = NOW_MS + 1;
    let not_yet = Some(Clause::NotYet { not_before_ms: NOW_MS + 1, now_ms: NOW_MS });
    assert_eq!(scene.serving(), not_yet);
    assert_eq!(scene.reading(), not_yet);
    scene.opened.not_before_ms = NOW_MS;
    assert_eq!(scene.serving(), None, "the beginning is inclusive");
}

#[test]
fn expired_from_its_end_on() {
    let mut scene = Scene::good();
    scene.opened.not_after_ms = NOW_MS;
    assert_eq!(scene.serving(), Some(Clause::Expired), "the end is exclusive");
    assert_eq!(scene.reading(), Some(Clause::Expired));
    scene.opened.not_after_ms = NOW_MS + 1;
    assert_eq!(scene.serving(), None);
}

#[test]
fn a_condition_that_is_not_known_denies() {
    let mut scene = Scene::good();
    scene.opened.conditions.push(Condition { name: "witness".into(), value: "two".into() });
    assert_eq!(scene.serving(), Some(Clause::Condition("witness".into())));
    assert_eq!(scene.reading(), Some(Clause::Condition("witness".into())));
}

#[test]
fn another_purpose_is_denied() {
    let mut scene = Scene::good();
    scene.release_with(|release| release.purpose = "HRESCH".into());
    let purpose = Clause::Purpose { granted: "TREAT".into(), asked: "HRESCH".into() };
    assert_eq!(scene.serving(), Some(purpose));
    assert_eq!(scene.reading(), None, "reading asks nobody");
}

#[test]
fn not_accepted_without_an_acceptance() {
    let mut scene = Scene::good();
    scene.accept = None;
    assert_eq!(scene.serving(), Some(Clause::NotAccepted));
}

#[test]
fn not_accepted_by_an_acceptance_of_another_grant_or_reader() {
    let mut scene = Scene::good();
    scene.accept_with(|accept| accept.grant = GrantId::from([1; 32]));
    assert_eq!(scene.serving(), Some(Clause::NotAccepted));
    let mut scene = Scene::good();
    scene.accept_with(|accept| accept.reader = PartyId::from([1; 32]));
    assert_eq!(scene.serving(), Some(Clause::NotAccepted));
}

#[test]
fn not_accepted_when_asked_under_another_acceptance() {
    let mut scene = Scene::good();
    scene.release_with(|release| release.accept = ObjectId::from([1; 32]));
    assert_eq!(scene.serving(), Some(Clause::NotAccepted));
}

#[test]
fn not_accepted_by_a_device_that_is_not_the_readers() {
    let mut scene = Scene::good();
    let mut stranger = Writer::named("stranger");
    stranger.party = scene.desk.party;
    let accept = (**scene.accept.as_ref().expect("accepted")).clone();
    let accept = signed(&stranger, accept);
    // The id is that of the payload, and the payload names the stranger, so the release is asked anew.
    scene.release_with(|release| release.accept = accept.id());
    scene.accept = Some(accept);
    assert_eq!(scene.serving(), Some(Clause::NotAccepted));
}

#[test]
fn not_accepted_by_a_disputed_reader() {
    let scene = Scene::good();
    let (holder, mut reader) = (scene.holder.state(), scene.reader.state());
    reader.disputed = true;
    assert_eq!(scene.serving_with(&holder, &reader), Some(Clause::NotAccepted));
}

#[test]
fn the_request_is_the_connected_devices() {
    let mut scene = Scene::good();
    scene.peer = scene.steward.key.device();
    assert_eq!(scene.serving(), Some(Clause::Request));
}

#[test]
fn the_request_is_to_this_device_and_for_this_grant() {
    let mut scene = Scene::good();
    scene.release_with(|release| release.to = DeviceId::from([1; 32]));
    assert_eq!(scene.serving(), Some(Clause::Request));
    let mut scene = Scene::good();
    scene.release_with(|release| release.grant = GrantId::from([1; 32]));
    assert_eq!(scene.serving(), Some(Clause::Request));
}

#[test]
fn the_request_is_of_now() {
    let at = |age_ms: i64| {
        let mut scene = Scene::good();
        scene.release_with(|release| release.at_ms = NOW_MS - age_ms);
        (scene.serving(), is_fresh(&scene.release, NOW_MS))
    };
    assert_eq!(at(-CLOCK_SKEW_MS_MAX), (None, true));
    assert_eq!(at(-CLOCK_SKEW_MS_MAX - 1), (Some(Clause::Request), false));
    assert_eq!(at(CLOCK_SKEW_MS_MAX), (None, true));
    assert_eq!(at(CLOCK_SKEW_MS_MAX + 1), (None, false), "a session that was opened goes on");
    assert_eq!(at(SESSION_MS_MAX + CLOCK_SKEW_MS_MAX), (None, false));
    assert_eq!(at(SESSION_MS_MAX + CLOCK_SKEW_MS_MAX + 1), (Some(Clause::Request), false));
}

#[test]
fn the_reader_shows_a_live_status_of_the_identity_that_is_held() {
    let mut scene = Scene::good();
    scene.reader_status = None;
    assert_eq!(scene.serving(), Some(Clause::ReaderStatus), "missing");
    let changed = |change: fn(&mut Status)| {
        let mut scene = Scene::good();
        scene.reader_status_with(change);
        scene.serving()
    };
    let denied = Some(Clause::ReaderStatus);
    assert_eq!(changed(|status| status.identity = digest_of("another")), denied);
    assert_eq!(changed(|status| status.of = PartyId::from([1; 32])), denied);
    assert_eq!(changed(|status| status.issued_ms = NOW_MS - HOUR_MS - 1), denied, "its lease ran out");
    assert_eq!(changed(|status| status.issued_ms = NOW_MS + CLOCK_SKEW_MS_MAX + 1), denied, "post-dated");
    assert_eq!(changed(|status| status.issued_ms = NOW_MS - HOUR_MS), None, "the lease is inclusive");
}

#[test]
fn the_holders_status_is_live_and_all_its_heads_are_held() {
    let mut scene = Scene::good();
    scene.holder_status = None;
    assert_eq!(scene.serving(), Some(Clause::HolderStatus), "missing");
    let changed = |change: fn(&mut Status)| {
        let mut scene = Scene::good();
        scene.holder_status_with(change);
        scene.serving()
    };
    let denied = Some(Clause::HolderStatus);
    assert_eq!(changed(|status| status.issued_ms = NOW_MS - HOUR_MS - 1), denied, "its lease ran out");
    assert_eq!(changed(|status| status.issued_ms = NOW_MS + CLOCK_SKEW_MS_MAX + 1), denied, "post-dated");
    assert_eq!(changed(|status| status.of = PartyId::from([1; 32])), denied);
    assert_eq!(changed(|status| status.r#gen = 1), denied);
    assert_eq!(changed(|status| status.heads[0].id = digest_id("unheld")), denied, "a head is missing");
}

fn digest_id(word: &str) -> karte_protocol::id::EntryId {
    karte_protocol::id::EntryId::from(*digest_of(word).as_bytes())
}

#[test]
fn a_stewards_status_serves_but_is_no_word_of_the_holder() {
    let mut scene = Scene::good();
    let status = status_of(&scene.holder, &scene.steward);
    let state = scene.holder.state();
    assert!(passes(&status, &scene.holder, &state, NOW_MS));
    assert!(!is_device_signed(&status, &state));
    scene.holder_status = Some(status);
    assert_eq!(scene.serving(), None);
    let stranger = status_of(&scene.holder, &scene.desk);
    assert!(!passes(&stranger, &scene.holder, &state, NOW_MS));
}

#[test]
fn offline_when_the_holder_was_not_heard_for_too_long() {
    let mut scene = Scene::good();
    scene.holder_heard_ms = Some(NOW_MS - 7 * DAY_MS);
    assert_eq!(scene.serving(), None, "the limit is inclusive");
    assert_eq!(scene.reading(), None);
    scene.holder_heard_ms = Some(NOW_MS - 7 * DAY_MS - 1);
    assert_eq!(scene.serving(), Some(Clause::Offline));
    assert_eq!(scene.reading(), Some(Clause::Offline));
    scene.holder_heard_ms = None;
    assert_eq!(scene.serving(), Some(Clause::Offline), "never heard");
    assert_eq!(scene.reading(), Some(Clause::Offline));
}

/// `NotShelved` and `KeyGone` are the caller's to say: `serve` and `read` look at neither shelf nor keys.
#[test]
fn who_signed_a_status_knows_what_lies_before_the_ends_it_names() {
    let mut scene = Scene::good();
    let granting = scene.holder.get(&scene.grant.into()).cloned().expect("the grant is held");
    let status = |log: &PartyLog, by: &Writer| status_of(log, by);
    assert!(knows(&status(&scene.holder, &scene.phone), &granting));
    let revoking = scene.phone.revokes(&granting);
    let longer = log_of(scene.holder.in_order().into_iter().chain([&revoking]));
    assert!(knows(&status(&longer, &scene.phone), &granting), "an end behind it will do");
    // A second device that was named before the grant was given, and has not met the first since.
    let mut second = Writer::named("Aiko's laptop");
    let begins = scene.holder.in_order().into_iter().take(2).cloned().collect::<Vec<_>>();
    second.joins(&begins[0], scene.holder.party());
    assert!(!knows(&status(&log_of(&begins), &second), &granting), "its chain ends below the grant");
}

#[test]
fn every_clause_has_its_own_sentence() {
    let sentences: std::collections::BTreeSet<String> = [
        Clause::NotCounting,
        Clause::Disputed,
        Clause::Revoked,
        Clause::NotYet { not_before_ms: 1, now_ms: 0 },
        Clause::Expired,
        Clause::Condition("x".into()),
        Clause::Purpose { granted: "a".into(), asked: "b".into() },
        Clause::NotAccepted,
        Clause::Request,
        Clause::ReaderStatus,
        Clause::HolderStatus,
        Clause::Offline,
        Clause::NotShelved,
        Clause::KeyGone,
    ]
    .map(|clause| clause.to_string())
    .into();
    assert_eq!(sentences.len(), 14);
}

#[test]
fn a_reader_whom_the_grant_does_not_name_is_denied() {
    let mut scene = Scene::good();
    scene.opened.reader = Reader::Party(PartyId::from([1; 32]));
    assert!(scene.serving().is_some());
}

#[test]
fn a_status_does_not_pass_while_entries_below_its_heads_are_missing() {
    let mut scene = Scene::good();
    let missing = scene.phone.writes(Act::Revoke { grant: scene.grant, reason: String::new() });
    let later = scene.phone.grants("later");
    scene.holder.add(later).expect("adds");
    let status = status_of(&scene.holder, &scene.phone);
    assert!(!scene.holder.holds(&missing.id().into()));
    scene.holder_status = Some(status);
    assert_eq!(scene.serving(), Some(Clause::HolderStatus));
}

fn label() -> Label {
    Label {
        subject: PartyId::from([1; 32]),
        kind: "fhir/Observation".into(),
        categories: vec!["laboratory".into()],
        codes: vec![Code { system: "http://loinc.org".into(), code: "2160-0".into() }],
        // 2016-01-01T00:30 on the wall in Tokyo, while in UTC it is still 2015
        effective: Some(Effective {
            start_ms: 1_451_575_800_000,
            end_ms: 1_451_575_800_000,
            offset_min: 540,
        }),
        title: "Creatinine".into(),
        media_type: "application/fhir+json".into(),
        bytes: 1,
        hash: digest_of("plaintext"),
        full_url: None,
        source_id: None,
        profiles: vec![],
        replaces: vec![],
        derived_from: vec![],
        sensitivity: vec![],
        urgency: None,
        group: None,
        case: None,
    }
}

fn covered(scope: &Scope) -> bool {
    scope.covers(&RecordId::from([2; 32]), &label())
}

fn kinds(kinds: &[&str]) -> Scope {
    Scope { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), ..Scope::default() }
}

#[test]
fn a_kind_covers_itself_and_what_is_below_it() {
    assert!(covered(&kinds(&["fhir"])));
    assert!(covered(&kinds(&["fhir/Observation"])));
    assert!(covered(&kinds(&["dicom", "fhir"])), "one of the list is enough");
    assert!(!covered(&kinds(&["fhir/Obs"])), "a prefix ends at a slash");
    assert!(!covered(&kinds(&["fhir/"])));
    assert!(!covered(&kinds(&["dicom"])));
}

#[test]
fn every_list_that_is_not_empty_must_match() {
    let mut scope = kinds(&["fhir"]);
    scope.categories = vec!["laboratory".into(), "vital-signs".into()];
    assert!(covered(&scope));
    scope.codes = vec![Code { system: String::new(), code: "2160-0".into() }];
    assert!(covered(&scope), "an empty system matches any");
    scope.codes[0].system = "http://snomed.info/sct".into();
    assert!(!covered(&scope));
    scope.codes.clear();
    scope.records = vec![RecordId::from([2; 32])];
    assert!(covered(&scope));
    scope.records = vec![RecordId::from([3; 32])];
    assert!(!covered(&scope), "a list of records narrows like every other");
}

#[test]
fn a_scope_that_names_neither_kinds_nor_records_is_refused() {
    assert!(Scope::default().check().is_err());
    assert!(kinds(&["fhir"]).check().is_ok());
}

#[test]
fn a_record_lies_in_the_window_in_which_it_began() {
    let start_ms = label().effective.expect("it has a time").start_ms;
    let window = |from, until| {
        let mut scope = kinds(&["fhir"]);
        scope.window = Some(Window { from, until });
        covered(&scope)
    };
    assert!(window(None, None));
    assert!(window(Some(Bound::Instant(start_ms)), None), "from is inclusive");
    assert!(!window(None, Some(Bound::Instant(start_ms))), "until is exclusive");
    // "2016" begins at midnight: on the wall in Tokyo it had begun, as a moment in UTC it had not
    let new_year_ms = 1_451_606_400_000;
    assert!(window(Some(Bound::Local(new_year_ms)), None));
    assert!(!window(Some(Bound::Instant(new_year_ms)), None));
    assert!(!window(None, Some(Bound::Local(new_year_ms))));
    assert!(window(None, Some(Bound::Instant(new_year_ms))));
    assert!(window(Some(Bound::Local(start_ms + 540 * MINUTE_MS)), None));
    assert!(!window(Some(Bound::Local(start_ms + 540 * MINUTE_MS + 1)), None));
}

#[test]
fn a_record_without_a_time_lies_in_no_window() {
    let mut timeless = label();
    timeless.effective = None;
    assert!(!Window { from: None, until: None }.covers(&timeless));
}
