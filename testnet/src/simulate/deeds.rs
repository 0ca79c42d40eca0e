//! Deeds: what a step of a plan does to the world.

use super::node::{Copied, Ring, View};
use super::plan::{Deed, Inside, Moment, NAMES, STEWARD};
use super::world::{Event, Meant, Weather, World, Written, sync};
use crate::shared::{Rows, SharedStore};
use karte_node::command::{Command, Filter, NewGrant};
use karte_node::engine::{self, Answer, Input, NewRecord, Opening};
use karte_node::keystore::Keys;
use karte_node::store::Table;
use karte_protocol::card;
use karte_protocol::chance::Chance;
use karte_protocol::consent::{Accept, Release, Status};
use karte_protocol::entry::{Act, Entry};
use karte_protocol::id::{EntryId, GrantId, digest};
use karte_protocol::keys::SealingKey;
use karte_protocol::label::{Code, Effective, Label, seal_label};
use karte_protocol::limits::LEASE_MS_MAX;
use karte_protocol::message::{Hello, Request};
use karte_protocol::rank::ORDINARY;
use karte_protocol::seal::{open_checked, seal};
use karte_protocol::shelf::Handed;
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::{HOUR_MS, MINUTE_MS, SECOND_MS};
use serde_json::Value;
use std::sync::Arc;

/// Tables that a backup leaves out: received rows, which grants they came under, Statuses, sources, what is replaced,
/// what is kept for others.
const NOT_IN_A_BACKUP: [u8; 11] = [10, 11, 18, 20, 21, 25, 26, 27, 28, 29, 30];

impl World {
    /// Does a deed.
    pub fn do_deed(&mut self, deed: Deed) {
        match deed {
            Deed::Writes { who, about, vital } => self.writes(who, about, vital),
            Deed::Grants { holder, reader, offline_ms, expires_ms, labs_only } => {
                self.gives(holder, reader, offline_ms, expires_ms, labs_only);
            }
            Deed::Accepts { reader, nth } => self.answers_an_offer(reader, nth, true),
            Deed::Declines { reader, nth } => self.answers_an_offer(reader, nth, false),
            Deed::Syncs { who, with } => self.syncs(who, with),
            Deed::Opens { who, nth } => self.opens(who, nth),
            Deed::Revokes { holder, nth } => self.revokes(holder, nth),
            Deed::Crashes { who, moment, down_ms } => {
                self.nodes[who].crash = Some((moment, down_ms));
                if moment == Moment::Idle && self.nodes[who].engine.is_some() {
                    self.crash(who);
                }
            }
            Deed::Copies { who } => {
                let copy = self.nodes[who].copied(self.now);
                self.nodes[who].copies.push(copy);
                self.story.tell(self.now, format!("{}'s folder is copied", NAMES[who]));
            }
            Deed::Restores { who, nth, noticed } => self.restores(who, nth, noticed),
            Deed::ClockJumps { who, by_ms, for_ms } => {
                self.nodes[who].off_ms += by_ms;
                let what = format!("{}'s clock jumps by {} min", NAMES[who], by_ms / MINUTE_MS);
                self.story.tell(self.now, what);
                self.after(for_ms, Event::ClockBack(who, by_ms));
            }
            Deed::Cut { one, other, for_ms } => {
                let what = format!("{} and {} are cut off from each other", NAMES[one], NAMES[other]);
                self.bad_weather((one, other), for_ms, &what, |weather| weather.cut = true);
                if let Some(conn) = self.conn(one, other) {
                    self.close(conn);
                }
            }
            Deed::Loses { one, other, percent, for_ms } => {
                let what = format!("{percent} % is lost between {} and {}", NAMES[one], NAMES[other]);
                self.bad_weather((one, other), for_ms, &what, |weather| weather.loss = percent);
            }
            Deed::Slow { one, other, most_ms, for_ms } => {
                let what = format!("the way between {} and {} is slow", NAMES[one], NAMES[other]);
                self.bad_weather((one, other), for_ms, &what, |weather| weather.delay_ms = most_ms);
            }
            Deed::Doubles { one, other, for_ms } => {
                let what = format!("requests between {} and {} come twice", NAMES[one], NAMES[other]);
                self.bad_weather((one, other), for_ms, &what, |weather| weather.doubles = true);
            }
            Deed::Enrols { patient } => self.enrols(patient),
            Deed::Appoints { patient } => self.appoints(patient),
            Deed::Phone { patient, at, theft, nth } => self.steals(patient, at, theft, nth),
            Deed::RemovesPhone { patient, keeps } => self.removes_phone(patient, keeps),
            Deed::Recovers { patient } => self.recovers(patient),
            Deed::Insider { clinic, patient, inside, nth } => self.insider(clinic, patient, inside, nth),
        }
    }

    fn bad_weather(
        &mut self,
        pair: (usize, usize),
        for_ms: i64,
        what: &str,
        make: impl FnOnce(&mut Weather),
    ) {
        let until_ms = self.now + for_ms;
        let mut weather = Weather { pair, until_ms, cut: false, loss: 0, delay_ms: 0, doubles: false };
        make(&mut weather);
        self.weather.retain(|old| old.until_ms > self.now);
        self.weather.push(weather);
        self.story.tell(self.now, format!("{what}, for {} h", for_ms / HOUR_MS));
    }

    fn items(&mut self, at: usize, command: Command) -> Option<Vec<Value>> {
        match self.command(at, command)? {
            Ok(Answer::Items(items)) => Some(items),
            _ => None,
        }
    }

    // --- what users do

    fn writes(&mut self, who: usize, about: usize, vital: bool) {
        let Some(engine) = &self.nodes[who].engine else { return };
        let text = format!("value {} of {}", self.records.len(), NAMES[about]);
        let mut payload = Vec::new();
        let sealed = seal(text.as_bytes(), &mut payload).expect("memory takes a payload");
        let subject = self.nodes[about].party;
        let at_ms = self.clock(who);
        let label = Label {
            categories: vec![if vital { "vital-signs" } else { "laboratory" }.into()],
            codes: vec![Code { system: "http://loinc.org".into(), code: "2160-0".into() }],
            effective: Some(Effective { start_ms: at_ms, end_ms: at_ms, offset_min: 0 }),
            ..Label::new(subject, "fhir/Observation", &text, "text/plain", &sealed)
        };
        let label =
            Verified::sign(label, engine.signer(), &self.nodes[who].keys.device).expect("a label is signed");
        let sealed_label =
            seal_label(&label, &engine.identity(), &sealed.file_key).expect("a label is sealed");
        let id = sealed.record;
        let handed = Handed {
            record: id,
            bytes: sealed.payload_bytes,
            file_key: sealed.file_key,
            label_hash: digest(&sealed_label),
            rank: ORDINARY,
        };
        let plain = (sealed.plaintext_bytes, sealed.plaintext_hash);
        self.records.push(Written { id, subject, vital, text, payload, plain });
        self.nodes[who].blobs.insert(id);
        let ticket = self.number();
        let new = NewRecord { handed, label, sealed_label, source: None, replaced_by: None };
        self.feed(who, Input::Records(ticket, vec![new]));
        let what = if vital { "a vital sign" } else { "a laboratory value" };
        self.story.tell(self.now, format!("{} writes {what} about {}", NAMES[who], NAMES[about]));
    }

    fn gives(&mut self, holder: usize, reader: usize, offline_ms: i64, expires_ms: i64, labs_only: bool) {
        let is_write_back = super::plan::CLINICS.contains(&holder);
        let subject = if is_write_back { reader } else { holder };
        let categories = if labs_only { vec!["laboratory".to_owned()] } else { vec![] };
        let scope = Filter {
            kinds: vec!["fhir".into()],
            categories,
            subject: is_write_back.then(|| NAMES[subject].to_owned()),
            ..Filter::default()
        };
        let new = NewGrant {
            contact: NAMES[reader].into(),
            scope,
            purpose: "TREAT".into(),
            basis: "consent".into(),
            expires_ms,
            offline_ms,
            ..NewGrant::default()
        };
        let from_ms = self.clock(holder);
        let generation = match &self.nodes[holder].engine {
            Some(engine) => engine.signer().r#gen,
            None => return,
        };
        let answered = self.items(holder, Command::GrantAdd(new));
        let told = answered.and_then(|items| items.first()?.get("id")?.as_str()?.parse::<GrantId>().ok());
        if let Some(id) = told {
            self.nodes[holder].view.acknowledged.insert((id, false));
        }
        // A node that was killed before it could say so may have given it all the same.
        let Some(id) = told.or_else(|| self.unknown_grant(holder)) else { return };
        self.grants.push(Meant {
            id,
            holder: self.nodes[holder].party,
            generation,
            reader: self.nodes[reader].party,
            subject: self.nodes[subject].party,
            labs_only,
            from_ms,
            until_ms: from_ms + expires_ms,
            offline_ms,
        });
        let what = format!(
            "{} gives {} grant {} for {} h, offline {} min",
            NAMES[holder],
            NAMES[reader],
            id.short(),
            expires_ms / HOUR_MS,
            offline_ms / MINUTE_MS
        );
        self.story.tell(self.now, what);
    }

    /// A grant of a node's own device that lies in its rows, and that nobody has been told of.
    fn unknown_grant(&self, holder: usize) -> Option<GrantId> {
        let (party, device) = (self.nodes[holder].party, self.nodes[holder].device());
        let held = self.held(holder, party)?;
        let grants = held.values().filter(|fact| matches!(fact.act, Act::Grant { .. }));
        let own = grants.filter(|fact| fact.by().device == device);
        own.map(|fact| GrantId::from(EntryId::from(fact.id()))).find(|id| self.meant(*id).is_none())
    }

    fn answers_an_offer(&mut self, reader: usize, nth: u64, yes: bool) {
        let Some(items) = self.items(reader, Command::GrantList) else { return };
        let offered: Vec<String> = items
            .iter()
            .filter(|item| item["state"] == "offered" && item["direction"] == "received")
            .filter_map(|item| item["id"].as_str().map(str::to_owned))
            .collect();
        let Some(id) = offered.get(Self::nth(nth, offered.len())).cloned() else { return };
        let word = if yes { "accepts" } else { "declines" };
        self.story
            .tell(self.now, format!("{} {word} grant {}", NAMES[reader], id.get(..12).unwrap_or_default()));
        let command = match yes {
            true => Command::GrantAccept { id, adopt: false },
            false => Command::GrantDecline { id },
        };
        let _ = self.command(reader, command);
    }

    fn syncs(&mut self, who: usize, with: usize) {
        if self.nodes[who].engine.is_none() {
            return;
        }
        self.story.tell(self.now, format!("{} syncs with {}", NAMES[who], NAMES[with]));
        let _ = self.command(who, sync(with));
        // Whoever has a steward brings it what is new.
        let haven = self.nodes[STEWARD].device();
        for at in [who, with] {
            let own = self.verdict(at, self.nodes[at].party);
            if own.is_some_and(|own| own.stewards.contains(&haven)) {
                let _ = self.command(at, sync(STEWARD));
            }
        }
        // A daemon is told every second that time passed; here often enough for what waits to be tried again.
        for later in [10 * SECOND_MS, 70 * SECOND_MS] {
            for at in [who, with] {
                self.after(later, Event::Feed(at, None, Box::new(Input::Tick)));
            }
        }
    }

    fn opens(&mut self, who: usize, nth: u64) {
        let here: Vec<usize> = (0..self.records.len())
            .filter(|number| self.nodes[who].blobs.contains(&self.records[*number].id))
            .collect();
        let Some(number) = here.get(Self::nth(nth, here.len())).copied() else { return };
        let record = self.records[number].id;
        let command = Command::RecordOpen { id: record.to_hex(), age: false, staff: "doctor".into() };
        match self.command(who, command) {
            Some(Ok(Answer::Open(opening))) => self.opened(who, number, &opening),
            Some(Err(failure)) => {
                let what =
                    format!("{} may not open value {number}: {}", NAMES[who], plain_reason(&failure.message));
                self.story.tell(self.now, what);
            }
            _ => {}
        }
    }

    fn opened(&mut self, who: usize, number: usize, opening: &Opening) {
        let Some(grant) = opening.grant else { return };
        self.story.tell(self.now, format!("{} opens value {number} under {}", NAMES[who], grant.short()));
        let written = &self.records[number];
        let mut plain = Vec::new();
        let whole = open_checked(written.payload.as_slice(), &opening.file_key, written.plain, &mut plain);
        if whole.is_err() || plain != written.text.as_bytes() {
            return self.breaks("plaintext", format!("{} opens something else than was written", NAMES[who]));
        }
        self.opened += 1;
        let record = written.id;
        self.reads(who, grant, &record);
    }

    fn revokes(&mut self, holder: usize, nth: u64) {
        let party = self.nodes[holder].party;
        let given: Vec<GrantId> =
            self.grants.iter().filter(|meant| meant.holder == party).map(|meant| meant.id).collect();
        let Some(grant) = given.get(Self::nth(nth, given.len())).copied() else { return };
        let command = Command::GrantRevoke { id: grant.to_hex(), reason: "no more".into() };
        if self.items(holder, command).is_some() {
            self.nodes[holder].view.acknowledged.insert((grant, true));
            self.story.tell(self.now, format!("{} revokes {}", NAMES[holder], grant.short()));
        }
    }

    // --- what happens to folders

    fn restores(&mut self, who: usize, nth: u64, noticed: bool) {
        let count = self.nodes[who].copies.len();
        if count == 0 {
            return;
        }
        let copy = self.nodes[who].copies.swap_remove(Self::nth(nth, count));
        self.stop(who);
        let age_h = (self.now - copy.at_ms) / HOUR_MS;
        let word = if noticed { ", and notices" } else { "" };
        self.story.tell(self.now, format!("{} starts from a copy that is {age_h} h old{word}", NAMES[who]));
        self.may_fork.insert(copy.keys.device.device());
        self.take_folder(who, copy);
        self.start(who, noticed);
    }

    fn take_folder(&mut self, who: usize, copy: Copied) {
        let node = &mut self.nodes[who];
        node.store = SharedStore::of_time(copy.rows, u64::try_from(copy.floor_ms).unwrap_or_default());
        node.ring = Ring::of(copy.ring);
        node.keys = copy.keys;
        node.floor_ms = copy.floor_ms;
        let statuses = std::mem::take(&mut node.view.statuses);
        let accepts = std::mem::take(&mut node.view.accepts);
        let is_rolled_back = copy.is_rolled_back;
        node.view = View { statuses, accepts, is_rolled_back, ..View::default() };
    }

    /// A new device, from a backup of now, with the printed words.
    fn recovers(&mut self, patient: usize) {
        if self.nodes[patient].engine.is_none() {
            return;
        }
        let Some(seed) = self.nodes[patient].keys.recovery.seed() else { return };
        let mut chance = self.chance("recovery");
        let keys = Keys::generate(&mut chance);
        let rows = backup_of(self.nodes[patient].store.copy());
        let mut store = SharedStore::of(rows);
        let clock = self.clock(patient);
        if engine::recover(&mut store, &self.nodes[patient].genesis, &keys, &[&seed], clock).is_err() {
            return;
        }
        store.visit(Table(1), &mut |_, _, bytes| {
            let entry = Signed::<Entry>::from_bytes(bytes).verify();
            if let Ok(entry) = entry
                && matches!(entry.act, Act::Recover(_))
                && entry.by().device == keys.device.device()
            {
                self.right.insert(EntryId::from(entry.id()));
            }
            std::ops::ControlFlow::Continue(())
        });
        self.stop(patient);
        self.story.tell(self.now, format!("{} recovers with the printed words", NAMES[patient]));
        let floor_ms = self.nodes[patient].floor_ms;
        let copy = Copied {
            rows: store.copy(),
            ring: std::collections::BTreeMap::new(),
            keys: Arc::new(keys),
            floor_ms,
            at_ms: self.now,
            is_rolled_back: false,
        };
        self.take_folder(patient, copy);
        self.start(patient, false);
    }

    // --- inside a clinic

    fn insider(&mut self, clinic: usize, patient: usize, inside: Inside, nth: u64) {
        let Some(requests) = self.insiders_requests(clinic, patient, inside, nth) else { return };
        let what = format!("an insider of {} calls {}: {inside:?}", NAMES[clinic], NAMES[patient]);
        self.story.tell(self.now, what);
        if let Some(conn) = self.conn(clinic, patient) {
            self.close(conn);
        }
        let device = self.nodes[clinic].device();
        if inside != Inside::Stays {
            return self.calls(patient, device, requests);
        }
        self.feed(patient, Input::Connected { peer: device, address: "somewhere".into(), dialled: false });
        let count = requests.len();
        for (number, request) in requests.into_iter().enumerate() {
            let Ok(body) = request.to_bytes() else { continue };
            let id = self.number();
            let later = if number + 1 == count { 2 * HOUR_MS } else { SECOND_MS };
            self.after(later, Event::Feed(patient, None, Box::new(Input::Request(device, id, body))));
        }
        self.after(3 * HOUR_MS, Event::HangsUp(clinic, patient));
    }

    fn insiders_requests(
        &mut self,
        clinic: usize,
        patient: usize,
        inside: Inside,
        nth: u64,
    ) -> Option<Vec<Request>> {
        let hello = self.insiders_hello(clinic, patient, inside == Inside::OldStatus)?;
        let (me, holder) = (self.nodes[clinic].party, self.nodes[patient].party);
        if inside == Inside::Pries {
            let log = Request::Log { of: holder, have: vec![] };
            let others: Vec<GrantId> = self.grants.iter().map(|meant| meant.id).collect();
            let grant = others.get(Self::nth(nth, others.len())).copied();
            let asks = grant.map(|grant| Request::Segments { grant, from: 0 });
            let absent = Request::Segments { grant: GrantId::from([9; 32]), from: 0 };
            return Some([Some(hello), Some(log), asks, Some(absent)].into_iter().flatten().collect());
        }
        let theirs = inside == Inside::AcceptsOthers;
        let fitting: Vec<GrantId> = self
            .grants
            .iter()
            .filter(|meant| meant.holder == holder && (meant.reader == me) != theirs)
            .map(|meant| meant.id)
            .collect();
        // The newest are the likeliest to count.
        let late: Vec<GrantId> = fitting.iter().rev().take(3).copied().collect();
        let grant = *late.get(Self::nth(nth, late.len()))?;
        let by = self.nodes[clinic].engine.as_ref()?.signer();
        let keys = self.nodes[clinic].keys.clone();
        let mut requests = vec![hello];
        let accept = match theirs {
            true => {
                let mut chance = self.chance("insider");
                let recipient = SealingKey::generate(&mut chance).recipient();
                let accept = Accept { grant, reader: me, n: 7, recipient };
                let accept = Verified::sign(accept, by, &keys.device).ok()?;
                requests.push(Request::Accept { accept: accept.bytes().to_vec().into() });
                accept.id()
            }
            false => {
                let accepts = &self.nodes[patient].view.accepts;
                accepts.iter().rev().find(|accept| accept.grant == grant && accept.is_by(me))?.id()
            }
        };
        let to = if inside == Inside::OtherDevice { STEWARD } else { patient };
        let purpose = if inside == Inside::OtherPurpose { "HRESCH" } else { "TREAT" };
        let mut chance = self.chance("nonce");
        let release = Release {
            grant,
            accept,
            to: self.nodes[to].device(),
            purpose: purpose.into(),
            staff: "insider".into(),
            since: 0,
            nonce: chance.salt(),
            at_ms: self.clock(patient),
        };
        let release = Verified::sign(release, by, &keys.device).ok()?;
        let release = Request::Release { release: release.bytes().to_vec().into() };
        if inside == Inside::Replays {
            requests.push(release.clone());
        }
        requests.extend([release, Request::Segments { grant, from: 0 }]);
        Some(requests)
    }

    /// A greeting with the clinic's own card, and a Status: a fresh one, or the oldest that the patient has heard.
    fn insiders_hello(&mut self, clinic: usize, patient: usize, old: bool) -> Option<Request> {
        let items = self.items(clinic, Command::Card)?;
        let card = card::from_text(items.first()?.get("card")?.as_str()?).ok()?.card;
        let (party, device) = (self.nodes[clinic].party, self.nodes[clinic].device());
        let heard = &self.nodes[patient].view.statuses;
        let oldest = heard.iter().find(|status| status.of == party && status.by().device == device);
        let status = match oldest.filter(|_| old) {
            Some(status) => status.bytes().to_vec(),
            None => {
                let state = self.nodes[clinic].engine.as_ref()?.state_of(party)?;
                let status = Status {
                    of: party,
                    r#gen: state.generation,
                    heads: state.heads.clone(),
                    identity: state.identity,
                    issued_ms: self.clock(patient),
                    lease_ms: LEASE_MS_MAX,
                };
                let by = By { party: Some(party), r#gen: state.generation, device };
                Verified::sign(status, by, &self.nodes[clinic].keys.device).ok()?.bytes().to_vec()
            }
        };
        Some(Request::Hello(Hello { card: card.bytes().to_vec().into(), status: status.into() }))
    }
}

/// The rows that a backup holds (`engine/snapshot.rs`).
fn backup_of(rows: Rows) -> Rows {
    let kept = |(table, parent, item, _): &(Table, Vec<u8>, Vec<u8>, Vec<u8>)| match table.0 {
        table if NOT_IN_A_BACKUP.contains(&table) => false,
        6 => parent.is_empty(),
        9 => parent == b"own",
        16 => !matches!(item.as_slice(), b"addresses" | b"standing" | b"recovery under way"),
        _ => true,
    };
    rows.into_iter().filter(kept).collect()
}

/// A failure's sentence without ids that differ from run to run.
fn plain_reason(message: &str) -> String {
    let words = message.split(' ').filter(|word| word.len() < 30);
    words.collect::<Vec<_>>().join(" ")
}
