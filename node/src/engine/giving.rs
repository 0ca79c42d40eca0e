//! Grants this party gave: offer, shelve, revoke. Serving them is [`super::serving`]'s.

use super::devices::Place;
use super::library::recall_label;
use super::rows::{GIVEN, GivenRow, SEGMENTS, SHELVED, TOP};
use super::select::{code_text, scope_of, span_text, time_text};
use super::{Effect, Engine, RequestId, find_id};
use crate::command::{Filter, NewGrant};
use crate::failure::Failure;
use crate::store::Batch;
use karte_protocol::consent::Accept;
use karte_protocol::encoding;
use karte_protocol::entry::Act;
use karte_protocol::grant::{self, Onward, OpenGrant, Opened, Opening, Reader, Scope};
use karte_protocol::id::{GrantId, PartyId, RecordId, Salt, digest};
use karte_protocol::keys::Recipient;
use karte_protocol::label::Label;
use karte_protocol::limits::{SEGMENT_RECORDS_MAX, TEXT_BYTES_MAX};
use karte_protocol::message::{Bytes, Response, SegmentAndKeys};
use karte_protocol::rank::{Use, ranks};
use karte_protocol::seal;
use karte_protocol::shelf::{self, Chain, Handed, Segment, Shelf, ShelfHead};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::{HOUR_MS, UnixMs};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How often a reader may replace its acceptance of one grant, in milliseconds. Once an hour.
const REPLACE_EVERY_MS: i64 = HOUR_MS;
/// The state of a grant that its holder's recovery ended.
const RECOVERED: &str = "ended by recovery";
/// The state of a grant that lies beyond the end of the device that signed it.
const VOID: &str = "void";

/// How long a standing return grant counts, in milliseconds. 366 days, the longest there is: the next session after
/// it gives a new one.
const RETURN_FOR_MS: i64 = 366 * 24 * HOUR_MS;
/// How long its reader, whose own data it is, may be without word from this party. 90 days.
const RETURN_OFFLINE_MS: i64 = 90 * 24 * HOUR_MS;

/// A grant this party gave.
pub(super) struct Given {
    pub(super) row: GivenRow,
    pub(super) open: OpenGrant,
    pub(super) accept: Option<Verified<Accept>>,
    /// When an acceptance last replaced another, since this node was started.
    replaced_ms: UnixMs,
}

impl Given {
    /// The same permission in another generation.
    fn says_the_same(&self, old: &Self) -> bool {
        let (one, other) = (&self.open.opened, &old.open.opened);
        self.open.scope == old.open.scope
            && one.reader == other.reader
            && one.subject == other.subject
            && one.purpose == other.purpose
            && one.basis == other.basis
            && one.onward == other.onward
            && one.not_after_ms == other.not_after_ms
    }

    /// One that nobody has accepted yet.
    pub(super) fn fresh(row: GivenRow, open: OpenGrant) -> Self {
        Self { row, open, accept: None, replaced_ms: UnixMs::MIN }
    }

    fn covers(&self, record: &RecordId, label: &Label) -> bool {
        let covers = |scope| is_covered(self.open.opened.subject, scope, &self.row.exclude, record, label);
        self.open.scope.as_ref().is_some_and(covers)
    }
}

/// Whether a record goes under a grant: the one answer for grants that are given and for those that would be.
fn is_covered(subject: PartyId, scope: &Scope, exclude: &[String], record: &RecordId, label: &Label) -> bool {
    let in_scope = scope.covers(record, label) || wrong!(SendsOutsideScope);
    label.subject == subject && in_scope && !is_held_back(exclude, label)
}

impl Engine {
    pub(super) fn load_given(&mut self) -> Result<(), Failure> {
        for (_, row) in self.rows::<GivenRow>(GIVEN, TOP)? {
            let open = row.opening.verify()?;
            let accept = match &row.accept {
                Some(bytes) => Some(Signed::<Accept>::from_bytes(bytes.to_vec()).verify()?),
                None => None,
            };
            self.given.insert(open.id(), Given { row, open, accept, replaced_ms: UnixMs::MIN });
        }
        Ok(())
    }

    /// When acceptances were replaced was told by a clock that was wrong.
    pub(super) fn forget_replacements(&mut self) {
        for given in self.given.values_mut() {
            given.replaced_ms = UnixMs::MIN;
        }
    }

    /// A grant of this party that somebody else still held.
    pub(super) fn take_given_back(&mut self, row: GivenRow) -> Result<(), Failure> {
        let open = row.opening.verify()?;
        let id = open.id();
        self.given.insert(id, Given::fresh(row, open));
        self.save_given(id)
    }

    /// Keeps the row, and tells the other own devices of it.
    pub(super) fn save_given(&mut self, id: GrantId) -> Result<(), Failure> {
        match self.given.get(&id).map(|given| given.row.clone()) {
            Some(row) => {
                self.put(GIVEN, TOP, id.as_bytes(), &row)?;
                self.touch(Place::Given { grant: id })
            }
            None => Ok(()),
        }
    }

    // --- the own user

    pub(super) fn give(&mut self, new: &NewGrant) -> Result<Vec<Value>, Failure> {
        let reader = self.find_contact(&new.contact)?;
        let subject = self.find_subject(new.scope.subject.as_deref())?;
        let scope = self.scope_of_grant(new)?;
        self.give_scope(new, reader, subject, scope)
    }

    /// The same with reader, subject and scope found; what `new` says of them is not looked at.
    pub(super) fn give_scope(
        &mut self,
        new: &NewGrant,
        reader: PartyId,
        subject: PartyId,
        scope: Scope,
    ) -> Result<Vec<Value>, Failure> {
        let (opening, opened) = self.draft(new, reader, subject, &scope)?;
        opened.check()?;
        if new.dry_run {
            return self.preview(subject, &scope, &new.exclude);
        }
        self.sign_grant(opening, opened, scope, new.exclude.clone())
    }

    fn sign_grant(
        &mut self,
        (salt, scope_salt): (Salt, Salt),
        opened: Opened,
        scope: Scope,
        exclude: Vec<String>,
    ) -> Result<Vec<Value>, Failure> {
        let entry = self.append(Act::Grant { commitment: grant::commitment(&salt, &opened)? })?;
        let opening = Opening {
            entry: entry.bytes().to_vec(),
            salt,
            opened,
            scope_salt: Some(scope_salt),
            scope: Some(scope),
        };
        let open = opening.verify()?;
        let id = open.id();
        let row = GivenRow {
            opening,
            exclude,
            delivered: false,
            accept: None,
            segments: 0,
            last: None,
            handed_back: false,
            at_ms: self.now,
        };
        self.given.insert(id, Given::fresh(row, open));
        self.save_given(id)?;
        Ok(vec![self.view_given(id)])
    }

    /// The standing return grant: what this party writes about a contact, of one kind, goes home to it by itself.
    /// One that counts already is kept.
    pub(super) fn give_back(&mut self, contact: &str, kind: &str) -> Result<Vec<Value>, Failure> {
        let to = self.find_contact(contact)?;
        let standing = self.given.iter().find(|(id, given)| {
            let opened = &given.open.opened;
            let covers = |scope: &Scope| {
                let plain = scope.categories.is_empty() && scope.codes.is_empty() && scope.window.is_none();
                plain && scope.kinds.iter().any(|covered| grant::kind_is_below(kind, covered))
            };
            given.open.reader() == to
                && opened.subject == to
                && self.standing(**id, opened).is_none()
                && given.open.scope.as_ref().is_some_and(covers)
                && given.row.exclude.is_empty()
        });
        if let Some(id) = standing.map(|(id, _)| *id) {
            return Ok(vec![self.view_given(id)]);
        }
        let scope =
            Filter { kinds: vec![kind.to_owned()], subject: Some(contact.to_owned()), ..Filter::default() };
        self.give(&NewGrant {
            contact: contact.to_owned(),
            scope,
            purpose: "PATRQT".into(),
            basis: "consent".into(),
            onward_keep: true,
            expires_ms: RETURN_FOR_MS,
            offline_ms: RETURN_OFFLINE_MS,
            ..NewGrant::default()
        })
    }

    /// Grants that only a recovery has ended: not revoked in an older generation, and not given again since.
    pub(super) fn recovered_from(&self) -> Vec<GrantId> {
        let revoked = self.mine().log.ever_revoked();
        let counting: Vec<&Given> = self.counting().iter().filter_map(|id| self.given.get(id)).collect();
        let is_given_again = |old: &Given| counting.iter().any(|given| given.says_the_same(old));
        let ended = |(id, given): &(&GrantId, &Given)| {
            self.standing(**id, &given.open.opened) == Some(RECOVERED)
                && !revoked.contains(*id)
                && !is_given_again(given)
        };
        self.given.iter().filter(ended).map(|(id, _)| *id).collect()
    }

    /// Grants that count now.
    pub(super) fn counting(&self) -> Vec<GrantId> {
        let counts = |(id, given): &(&GrantId, &Given)| self.standing(**id, &given.open.opened).is_none();
        self.given.iter().filter(counts).map(|(id, _)| *id).collect()
    }

    /// The same grant again, from now until the same end, signed by this device.
    pub(super) fn regrant(&mut self, old: GrantId) -> Result<Vec<Value>, Failure> {
        let Some(given) = self.given.get(&old) else { return Ok(vec![]) };
        let Some(scope) = given.open.scope.clone() else { return Ok(vec![]) };
        let (mut opened, exclude) = (given.open.opened.clone(), given.row.exclude.clone());
        let (salt, scope_salt) = (self.chance.salt(), self.chance.salt());
        opened.scope_hash = grant::scope_hash(&scope_salt, &scope)?;
        opened.not_before_ms = self.now;
        opened.check()?;
        self.sign_grant((salt, scope_salt), opened, scope, exclude)
    }

    /// Live grants with a shelf, and how many segments it has.
    pub(super) fn live_shelves(&self) -> Vec<(GrantId, u64)> {
        let live = self.given.iter().filter(|(id, _)| self.shelves(**id));
        live.map(|(id, given)| (*id, given.row.segments)).collect()
    }

    pub(super) fn is_given_to(&self, id: &GrantId, reader: PartyId) -> bool {
        self.given.get(id).is_some_and(|given| given.open.reader() == reader) && self.shelves(*id)
    }

    pub(super) fn accept_of_given(&self, id: &GrantId) -> Option<karte_protocol::id::ObjectId> {
        Some(self.given.get(id)?.accept.as_ref()?.id())
    }

    fn scope_of_grant(&self, new: &NewGrant) -> Result<Scope, Failure> {
        let mut scope = scope_of(&new.scope)?;
        for id in &new.records {
            scope.records.push(self.find_record(id)?.record);
        }
        if scope.is_empty() {
            return Err(Failure::usage("a grant names what it covers")
                .next("Use --kind (for example --kind fhir/Observation) or --record ID."));
        }
        scope.check()?;
        Ok(scope)
    }

    fn draft(
        &mut self,
        new: &NewGrant,
        reader: PartyId,
        subject: PartyId,
        scope: &Scope,
    ) -> Result<((Salt, Salt), Opened), Failure> {
        let (salt, scope_salt) = (self.chance.salt(), self.chance.salt());
        let opened = Opened {
            reader: Reader::Party(reader),
            subject,
            scope_hash: grant::scope_hash(&scope_salt, scope)?,
            purpose: new.purpose.clone(),
            basis: new.basis.clone(),
            not_before_ms: self.now,
            not_after_ms: self.now.saturating_add(new.expires_ms),
            offline_ms: new.offline_ms,
            onward: if new.onward_keep { Onward::Keep } else { Onward::No },
            conditions: vec![],
        };
        Ok(((salt, scope_salt), opened))
    }

    /// Which records a grant would cover now, without signing anything: each of them, oldest first, then how many.
    pub(super) fn preview(
        &self,
        subject: PartyId,
        scope: &Scope,
        exclude: &[String],
    ) -> Result<Vec<Value>, Failure> {
        let mut views = Vec::new();
        let mut bytes = 0;
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        self.each_own(&mut |record, label, row| {
            if is_covered(subject, scope, exclude, &record, &label) {
                bytes += label.bytes;
                *kinds.entry(label.kind.clone()).or_default() += 1;
                let seen = super::library::Seen { record, handed: row.handed(record), label, grant: None };
                views.push((seen.label.effective.map(|time| time.start_ms), record, self.view_record(&seen)));
            }
        })?;
        views.sort_by_key(|view| (view.0, view.1));
        let mut views: Vec<Value> = views.into_iter().map(|(_, _, view)| view).collect();
        views.push(json!({ "dry_run": true, "records": views.len(), "bytes": bytes, "kinds": kinds }));
        Ok(views)
    }

    pub(super) fn revoke(&mut self, id: &str, reason: &str) -> Result<Vec<Value>, Failure> {
        if reason.len() > TEXT_BYTES_MAX {
            return Err(Failure::usage("expected a reason of at most 500 bytes"));
        }
        let id = self.find_given(id)?;
        if !self.mine().state.revoked.contains(&id) {
            self.append(Act::Revoke { grant: id, reason: reason.to_owned() })?;
        }
        self.end_serving(id);
        Ok(vec![self.view_given(id)])
    }

    fn find_given(&self, text: &str) -> Result<GrantId, Failure> {
        find_id("grant", text, self.given.keys().map(|id| (id.to_hex(), *id)))
    }

    pub(super) fn grant_cose(&self, text: &str) -> Result<Vec<u8>, Failure> {
        let id = self.find_grant(text)?;
        let opening = self.given.get(&id).map(|given| &given.row.opening);
        let opening = opening.or_else(|| self.got.get(&id).map(|got| &got.row.opening));
        Ok(opening.map(|opening| opening.entry.clone()).unwrap_or_default())
    }

    pub(super) fn view_given(&self, id: GrantId) -> Value {
        let Some(given) = self.given.get(&id) else {
            return Value::Null;
        };
        let mut view = self.view_grant(id, &given.open.opened, given.open.scope.as_ref(), self.me.party);
        let state = match self.standing(id, &given.open.opened) {
            Some(ended) => ended,
            None if given.accept.is_some() => "active",
            None if given.row.delivered => "offered",
            None => "waiting",
        };
        if let Some(object) = view.as_object_mut() {
            object.insert("state".into(), json!(state));
            object.insert("direction".into(), json!("given"));
            object.insert("exclude".into(), json!(given.row.exclude));
            if given.row.handed_back {
                let note = "handed back by its reader: what you held back from it without a word (--exclude) is not known any more";
                object.insert("note".into(), json!(note));
            }
            object.insert("shelved".into(), json!(self.shelved_count(id)));
        }
        view
    }

    /// Why a grant that was given counts no more; none while it does.
    pub(super) fn standing(&self, id: GrantId, opened: &Opened) -> Option<&'static str> {
        let state = &self.mine().state;
        let entry = self.given.get(&id).map(|given| &given.open.entry);
        let given = entry.map(|entry| entry.by().r#gen);
        let is_void = entry.is_some_and(|entry| state.is_void(&entry.by().device, entry.seq));
        match () {
            () if state.revoked.contains(&id) => Some("revoked"),
            () if self.now >= opened.not_after_ms => Some("expired"),
            () if given.is_some_and(|generation| generation < state.generation) => Some(RECOVERED),
            () if is_void => Some(VOID),
            () => None,
        }
    }

    /// What both sides see of a grant.
    pub(super) fn view_grant(
        &self,
        id: GrantId,
        opened: &Opened,
        scope: Option<&Scope>,
        holder: PartyId,
    ) -> Value {
        let Reader::Party(reader) = opened.reader;
        json!({
            "id": id.to_hex(),
            "direction": "",
            "state": "",
            "reader": reader.to_string(),
            "reader_name": self.name_of(reader),
            "holder": holder.to_string(),
            "holder_name": self.name_of(holder),
            "subject": opened.subject.to_string(),
            "subject_name": self.name_of(opened.subject),
            "scope": scope.map(view_scope),
            "purpose": opened.purpose,
            "basis": opened.basis,
            "onward": if opened.onward == Onward::Keep { "keep" } else { "no" },
            "not_before": time_text(opened.not_before_ms),
            "not_after": time_text(opened.not_after_ms),
            "offline": span_text(opened.offline_ms),
        })
    }

    fn shelved_count(&self, id: GrantId) -> usize {
        self.values(SHELVED, id.as_bytes()).map(|rows| rows.len()).unwrap_or_default()
    }

    /// Which readers a record has been handed to, under grants that still count.
    pub(super) fn readers_of(&self, record: &RecordId) -> Result<Vec<String>, Failure> {
        let mut readers = BTreeSet::new();
        for (id, given) in &self.given {
            let live = self.standing(*id, &given.open.opened).is_none();
            if live && self.store.get(SHELVED, id.as_bytes(), record.as_bytes())?.is_some() {
                readers.insert(self.name_of(given.open.reader()));
            }
        }
        Ok(readers.into_iter().collect())
    }

    // --- shelving

    /// In scope, not yet shelved: for every live grant, at start, in one pass over the records.
    pub(super) fn shelve_all(&mut self) -> Result<(), Failure> {
        if !self.is_sound() {
            return Ok(());
        }
        let live: Vec<GrantId> = self.given.keys().copied().filter(|id| self.shelves(*id)).collect();
        if live.is_empty() {
            return Ok(());
        }
        let mut handed: BTreeMap<GrantId, Vec<(Use, Handed)>> = BTreeMap::new();
        self.each_own(&mut |record, label, row| {
            for id in &live {
                if self.given.get(id).is_some_and(|given| given.covers(&record, &label)) {
                    handed.entry(*id).or_default().push((Use::of(&label), row.handed(record)));
                }
            }
        })?;
        handed.into_iter().try_for_each(|(id, handed)| self.put_on_shelf(id, handed))
    }

    /// Whether records go on the shelf of a grant now: it was accepted and has not ended.
    fn shelves(&self, id: GrantId) -> bool {
        self.given
            .get(&id)
            .is_some_and(|given| given.accept.is_some() && self.standing(id, &given.open.opened).is_none())
    }

    /// Everything in the scope of one grant that is not yet on its shelf.
    pub(super) fn shelve(&mut self, id: GrantId) -> Result<(), Failure> {
        let Some(given) = self.given.get(&id).filter(|given| given.accept.is_some()) else {
            return Ok(());
        };
        if self.standing(id, &given.open.opened).is_some() {
            return Ok(());
        }
        let mut handed = Vec::new();
        self.each_own(&mut |record, label, row| {
            if given.covers(&record, &label) {
                handed.push((Use::of(&label), row.handed(record)));
            }
        })?;
        self.put_on_shelf(id, handed)
    }

    /// New own records onto every shelf they belong to.
    pub(super) fn shelve_new(&mut self, records: &[RecordId]) -> Result<(), Failure> {
        let mut loaded = Vec::new();
        for record in records {
            if let Some(row) = self.own_row(record)? {
                loaded.push((*record, recall_label(&row.label)?, row));
            }
        }
        for id in self.given.keys().copied().collect::<Vec<_>>() {
            let Some(given) = self.given.get(&id).filter(|given| given.accept.is_some()) else {
                continue;
            };
            if self.standing(id, &given.open.opened).is_some() {
                continue;
            }
            let handed = loaded
                .iter()
                .filter(|(record, label, _)| given.covers(record, label))
                .map(|(record, label, row)| (Use::of(label), row.handed(*record)))
                .collect();
            self.put_on_shelf(id, handed)?;
        }
        Ok(())
    }

    /// In order of use, by rank and then as they came.
    fn put_on_shelf(&mut self, id: GrantId, handed: Vec<(Use, Handed)>) -> Result<(), Failure> {
        // Rule 9: only denials are signed then. What waits goes on its shelves when the clock is right.
        if self.is_clock_behind() {
            return Ok(());
        }
        let (mut uses, mut fresh) = (Vec::new(), Vec::new());
        for (of, item) in handed {
            if self.store.get(SHELVED, id.as_bytes(), item.record.as_bytes())?.is_none() {
                uses.push(of);
                fresh.push(item);
            }
        }
        fresh.iter_mut().zip(ranks(&uses)).for_each(|(item, rank)| item.rank = rank);
        fresh.sort_by_key(|item| item.rank);
        for part in fresh.chunks(SEGMENT_RECORDS_MAX) {
            self.put_segment(id, part)?;
        }
        Ok(())
    }

    fn put_segment(&mut self, id: GrantId, handed: &[Handed]) -> Result<(), Failure> {
        let Some(given) = self.given.get(&id) else {
            return Ok(());
        };
        let Some(accept) = given.accept.clone() else {
            return Ok(());
        };
        let (seq, prev) = (given.row.segments, given.row.last);
        let keys = match shelf::seal_keys(handed, std::slice::from_ref(&accept.recipient)) {
            Ok(keys) => keys,
            Err(error) => {
                self.notice(format!("grant {} cannot be sealed to its reader: {error}", id.short()));
                return Ok(());
            }
        };
        let segment = Segment {
            shelf: Shelf::Granted { grant: id, accept: accept.id() },
            seq,
            prev,
            records: handed.iter().map(|item| item.record).collect(),
            withdrawn: vec![],
            keys_hash: digest(&keys),
        };
        let signed = Verified::sign(segment, self.by(), &self.keys.device)?;
        let both = SegmentAndKeys { segment: Bytes::from(signed.bytes().to_vec()), keys: keys.into() };
        let Some(given) = self.given.get_mut(&id) else { return Ok(()) };
        given.row.segments = seq + 1;
        given.row.last = Some(signed.id());
        // One batch: a segment that is not counted, or a record marked without its segment, would never arrive.
        let mut batch = Batch::default();
        batch.put(SEGMENTS, id.as_bytes(), &seq.to_be_bytes(), encoding::encode(&both)?);
        for item in handed {
            batch.put(SHELVED, id.as_bytes(), item.record.as_bytes(), seq.to_be_bytes().to_vec());
        }
        batch.put(GIVEN, TOP, id.as_bytes(), encoding::encode(&given.row)?);
        self.write(batch)
    }

    pub(super) fn shelf_head(&self, id: GrantId) -> Result<Option<Verified<ShelfHead>>, Failure> {
        let Some(given) = self.given.get(&id) else {
            return Ok(None);
        };
        let Some(accept) = &given.accept else {
            return Ok(None);
        };
        let chain = Chain { device: self.device(), segments: given.row.segments, last: given.row.last };
        let head = ShelfHead { grant: id, accept: accept.id(), chains: vec![chain], issued_ms: self.now };
        Ok(Some(Verified::sign(head, self.by(), &self.keys.device)?))
    }

    // --- the reader's side of the wire

    /// The opening of a grant, sealed to its reader's devices.
    pub(super) fn offer_of(&self, id: GrantId) -> Result<Option<Vec<u8>>, Failure> {
        let Some(given) = self.given.get(&id) else {
            return Ok(None);
        };
        let Some(reader) = self.logs.get(&given.open.reader()) else {
            return Ok(None);
        };
        let bytes = encoding::encode(&given.row.opening)?;
        let to: Vec<Recipient> =
            reader.state.recipients().into_iter().filter(|recipient| recipient.to_age().is_ok()).collect();
        match seal::seal_to(&bytes, &to) {
            Ok(sealed) if !to.is_empty() => Ok(Some(sealed)),
            _ => {
                tracing::warn!(grant = %id.short(), "no device of the reader can be sealed to");
                Ok(None)
            }
        }
    }

    pub(super) fn offer_delivered(&mut self, id: GrantId) -> Result<(), Failure> {
        if let Some(given) = self.given.get_mut(&id) {
            given.row.delivered = true;
        }
        self.save_given(id)
    }

    /// Grants to this reader are offered once more: its new device has not had them.
    pub(super) fn offer_again(&mut self, to: PartyId) -> Result<(), Failure> {
        let theirs = self.given.iter().filter(|(_, given)| given.open.reader() == to && given.row.delivered);
        for id in theirs.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(given) = self.given.get_mut(&id) {
                given.row.delivered = false;
            }
            self.save_given(id)?;
        }
        Ok(())
    }

    /// A reader's yes. Highest n wins, then the smallest id; a newer one begins a new shelf.
    pub(super) fn take_accept(&mut self, from: PartyId, bytes: &[u8]) -> Result<bool, Failure> {
        let Ok(accept) = Signed::<Accept>::from_bytes(bytes).verify() else {
            return Ok(false);
        };
        let Some(given) = self.given.get(&accept.grant) else {
            return Ok(false);
        };
        let Some(reader) = self.logs.get(&from) else {
            return Ok(false);
        };
        let is_the_readers = given.open.reader() == from
            && accept.reader == from
            && accept.is_by(from)
            && reader.state.has_device(&accept.by().device);
        let ended = self.standing(accept.grant, &given.open.opened).is_some();
        if !(is_the_readers || wrong!(StrangersAccept)) || ended || accept.recipient.to_age().is_err() {
            return Ok(false);
        }
        // An acceptance of a device that its party has ended serves nobody any more, however high its number.
        let held = given
            .accept
            .as_ref()
            .filter(|held| wrong!(StrangersAccept) || reader.state.has_device(&held.by().device));
        let wins = held.is_none_or(|held| {
            (accept.n, std::cmp::Reverse(accept.id())) > (held.n, std::cmp::Reverse(held.id()))
        });
        if !wins {
            return Ok(true);
        }
        if held.is_some() && self.now < given.replaced_ms.saturating_add(REPLACE_EVERY_MS) {
            // Each new acceptance means a whole new shelf.
            return Ok(false);
        }
        let id = accept.grant;
        self.put_accept(accept)?;
        let name = self.name_of(from);
        self.notice(format!("{name} accepted grant {}", id.short()));
        Ok(true)
    }

    /// A reader's yes that another own device took. It was checked there; whether its signer is live is asked again
    /// with every decision.
    pub(super) fn take_told_accept(&mut self, accept: Verified<Accept>) -> Result<(), Failure> {
        let Some(given) = self.given.get(&accept.grant) else { return Ok(()) };
        let reader = given.open.reader();
        let is_the_readers = accept.reader == reader && accept.is_by(reader);
        let ended = self.standing(accept.grant, &given.open.opened).is_some();
        if !is_the_readers || ended || accept.recipient.to_age().is_err() {
            return Ok(());
        }
        let lives = |held: &Verified<Accept>| {
            self.logs.get(&reader).is_none_or(|log| log.state.has_device(&held.by().device))
        };
        let wins = given.accept.as_ref().filter(|held| lives(held)).is_none_or(|held| {
            (accept.n, std::cmp::Reverse(accept.id())) > (held.n, std::cmp::Reverse(held.id()))
        });
        if wins { self.put_accept(accept) } else { Ok(()) }
    }

    /// The acceptance that counts from now on: a new shelf begins under it.
    fn put_accept(&mut self, accept: Verified<Accept>) -> Result<(), Failure> {
        let (id, now) = (accept.grant, self.now);
        self.delete_all(SHELVED, id.as_bytes())?;
        self.delete_all(SEGMENTS, id.as_bytes())?;
        if let Some(given) = self.given.get_mut(&id) {
            given.row.accept = Some(accept.bytes().to_vec().into());
            given.row.delivered = true;
            given.row.segments = 0;
            given.row.last = None;
            given.accept = Some(accept);
            given.replaced_ms = now;
        }
        self.save_given(id)?;
        self.shelve(id)
    }

    /// Whether a party was ever named reader by this one: it may follow the log (rule 12).
    pub(super) fn was_ever_reader(&self, party: PartyId) -> bool {
        self.given.values().any(|given| given.open.reader() == party)
    }

    /// Offers and news that a party has not had yet.
    pub(super) fn offers_due(&self, to: PartyId) -> Vec<GrantId> {
        self.given
            .iter()
            .filter(|(id, given)| {
                given.open.reader() == to
                    && !given.row.delivered
                    && self.standing(**id, &given.open.opened).is_none()
            })
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn reply(&mut self, id: RequestId, response: &Response) -> Result<(), Failure> {
        let bytes = response.to_bytes().or_else(|error| {
            tracing::warn!(%error, "not answered");
            Response::Denied.to_bytes()
        })?;
        self.out.push(Effect::Reply(id, bytes));
        Ok(())
    }
}

/// Whether the holder keeps a record back by its kind, a category, a code or a sensitivity. Nobody is told.
fn is_held_back(exclude: &[String], label: &Label) -> bool {
    exclude.iter().any(|word| {
        grant::kind_is_below(&label.kind, word)
            || label.categories.contains(word)
            || label.sensitivity.contains(word)
            || label.codes.iter().any(|code| code.code == *word || code_text(code) == *word)
    })
}

pub(super) fn view_scope(scope: &Scope) -> Value {
    let bound = |bound: grant::Bound| match bound {
        grant::Bound::Instant(at) => time_text(at),
        grant::Bound::Local(at) => {
            time_text(at).trim_end_matches('Z').trim_end_matches("T00:00:00").to_owned()
        }
    };
    json!({
        "kinds": scope.kinds,
        "categories": scope.categories,
        "codes": scope.codes.iter().map(code_text).collect::<Vec<_>>(),
        "from": scope.window.and_then(|window| window.from).map(bound),
        "until": scope.window.and_then(|window| window.until).map(bound),
        "records": scope.records.iter().map(RecordId::to_hex).collect::<Vec<_>>(),
    })
}
