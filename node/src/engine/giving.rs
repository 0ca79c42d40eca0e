//! Grants this party gave: offer, shelve, release, serve, revoke.

use super::library::recall_label;
use super::rows::{GIVEN, GivenRow, LABELS, RELEASES, SEGMENTS, SHELVED, TOP};
use super::select::{code_text, scope_of, span_text, time_text};
use super::{Effect, Engine, RequestId, Serving, StreamId, decode_row, find_id};
use crate::command::{Filter, NewGrant};
use crate::failure::Failure;
use crate::store::Batch;
use karte_protocol::consent::{Accept, Release};
use karte_protocol::decide::{self, Clause, Denial};
use karte_protocol::encoding;
use karte_protocol::entry::Act;
use karte_protocol::grant::{self, Onward, OpenGrant, Opened, Opening, Reader, Scope};
use karte_protocol::id::{DeviceId, GrantId, PartyId, RecordId, Salt, digest};
use karte_protocol::keys::Recipient;
use karte_protocol::label::Label;
use karte_protocol::limits::{MESSAGE_BYTES_MAX, SEGMENT_RECORDS_MAX, TEXT_BYTES_MAX, WANTS_MAX};
use karte_protocol::message::{Bytes, Fetch, Frame, Response, SegmentAndKeys};
use karte_protocol::seal;
use karte_protocol::shelf::{self, Chain, Handed, Segment, Shelf, ShelfHead};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::{HOUR_MS, MINUTE_MS, UnixMs};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of segments in one answer: the rest of a MiB is for the envelope.
const SEGMENTS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;

/// How often a reader may replace its acceptance of one grant, in milliseconds. Once an hour.
const REPLACE_EVERY_MS: i64 = HOUR_MS;
/// The state of a grant that its holder's recovery ended.
const RECOVERED: &str = "ended by recovery";
/// Releases of one connection in one minute. 60: a person syncs less, a program needs no more.
const RELEASES_A_MINUTE_MAX: u32 = 60;

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
    fn covers(&self, record: &RecordId, label: &Label) -> bool {
        label.subject == self.open.opened.subject
            && (self.open.scope.as_ref().is_some_and(|scope| scope.covers(record, label))
                || wrong!(SendsOutsideScope))
            && !is_held_back(&self.row.exclude, label)
    }
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

    fn save_given(&mut self, id: GrantId) -> Result<(), Failure> {
        match self.given.get(&id).map(|given| given.row.clone()) {
            Some(row) => self.put(GIVEN, TOP, id.as_bytes(), &row),
            None => Ok(()),
        }
    }

    // --- the own user

    pub(super) fn give(&mut self, new: &NewGrant) -> Result<Vec<Value>, Failure> {
        let reader = self.find_contact(&new.contact)?;
        let subject = self.find_subject(new.scope.subject.as_deref())?;
        let scope = self.scope_of_grant(new)?;
        let (opening, opened) = self.draft(new, reader, subject, &scope)?;
        opened.check()?;
        if new.dry_run {
            return self.preview(new, subject, &scope);
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
            at_ms: self.now,
        };
        self.given.insert(id, Given { row, open, accept: None, replaced_ms: UnixMs::MIN });
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

    /// Grants that only a recovery has ended.
    pub(super) fn recovered_from(&self) -> Vec<GrantId> {
        let ended =
            |(id, given): &(&GrantId, &Given)| self.standing(**id, &given.open.opened) == Some(RECOVERED);
        self.given.iter().filter(ended).map(|(id, _)| *id).collect()
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

    /// Which records a grant would cover, without signing anything.
    fn preview(&self, new: &NewGrant, subject: PartyId, scope: &Scope) -> Result<Vec<Value>, Failure> {
        let mut views = Vec::new();
        let mut bytes = 0;
        self.each_own(&mut |record, label, row| {
            if label.subject == subject
                && scope.covers(&record, &label)
                && !is_held_back(&new.exclude, &label)
            {
                bytes += label.bytes;
                let seen = super::library::Seen { record, handed: row.handed(record), label, grant: None };
                views.push((seen.label.effective.map(|time| time.start_ms), record, self.view_record(&seen)));
            }
        })?;
        views.sort_by_key(|view| (view.0, view.1));
        let mut views: Vec<Value> = views.into_iter().map(|(_, _, view)| view).collect();
        views.push(json!({ "dry_run": true, "records": views.len(), "bytes": bytes }));
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
            object.insert("shelved".into(), json!(self.shelved_count(id)));
        }
        view
    }

    /// Why a grant that was given counts no more; none while it does.
    pub(super) fn standing(&self, id: GrantId, opened: &Opened) -> Option<&'static str> {
        let state = &self.mine().state;
        let given = self.given.get(&id).map(|given| given.open.entry.by().r#gen);
        match () {
            () if state.revoked.contains(&id) => Some("revoked"),
            () if self.now >= opened.not_after_ms => Some("expired"),
            () if given.is_some_and(|generation| generation < state.generation) => Some(RECOVERED),
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
        let mut handed: BTreeMap<GrantId, Vec<Handed>> = BTreeMap::new();
        self.each_own(&mut |record, label, row| {
            for id in &live {
                if self.given.get(id).is_some_and(|given| given.covers(&record, &label)) {
                    handed.entry(*id).or_default().push(row.handed(record));
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
                handed.push(row.handed(record));
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
                .map(|(record, _, row)| row.handed(*record))
                .collect();
            self.put_on_shelf(id, handed)?;
        }
        Ok(())
    }

    fn put_on_shelf(&mut self, id: GrantId, handed: Vec<Handed>) -> Result<(), Failure> {
        let mut fresh = Vec::new();
        for item in handed {
            if self.store.get(SHELVED, id.as_bytes(), item.record.as_bytes())?.is_none() {
                fresh.push(item);
            }
        }
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
        self.shelve(id)?;
        let name = self.name_of(from);
        self.notice(format!("{name} accepted grant {}", id.short()));
        Ok(true)
    }

    /// A reader's request for a session. The Release is kept before anything is said: it is the audit.
    pub(super) fn release(
        &mut self,
        peer: DeviceId,
        from: PartyId,
        bytes: &[u8],
    ) -> Result<Response, Failure> {
        let Ok(release) = Signed::<Release>::from_bytes(bytes).verify() else {
            self.refuse(from, None, "a release whose signature is wrong")?;
            return Ok(Response::Denied);
        };
        let id = release.grant;
        if !self.may_ask_again(peer) {
            return Ok(Response::Denied);
        }
        let unseen = self.store.get(RELEASES, id.as_bytes(), release.id().as_bytes())?.is_none();
        let fresh = (unseen || wrong!(ReleaseReplayed)) && decide::is_fresh(&release, self.now);
        let decision = if fresh {
            self.may_release(peer, from, &release)
        } else {
            Err(Denial { grant: id, clause: Clause::Request })
        };
        if let Err(denial) = decision {
            self.refuse(from, Some(id), &denial.clause.to_string())?;
            return Ok(Response::Denied);
        }
        let Some(head) = self.shelf_head(id)? else {
            return Ok(Response::Denied);
        };
        self.put_bytes(RELEASES, id.as_bytes(), release.id().as_bytes(), release.bytes().to_vec())?;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.told.insert(id, head.chains.iter().map(|chain| chain.segments).sum());
            state.serving.insert(id, release);
        }
        let status = self.own_status()?;
        Ok(Response::Session { status: status.bytes().to_vec().into(), head: head.bytes().to_vec().into() })
    }

    /// Counts releases, each of which is a row for ever.
    fn may_ask_again(&mut self, peer: DeviceId) -> bool {
        let minute = self.now / MINUTE_MS;
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        if state.releases.0 != minute {
            state.releases = (minute, 0);
        }
        state.releases.1 += 1;
        state.releases.1 <= RELEASES_A_MINUTE_MAX
    }

    /// SPEC rule 7, with what is held now.
    fn may_release(
        &mut self,
        peer: DeviceId,
        from: PartyId,
        release: &Verified<Release>,
    ) -> Result<(), Denial> {
        let grant = release.grant;
        let unknown = Denial { grant, clause: Clause::NotCounting };
        if self.is_clock_behind() {
            return Err(Denial { grant, clause: Clause::Clock });
        }
        // The own Status is renewed when its lease runs low; this device is the holder's only one.
        self.own_status().map_err(|_| Denial { grant, clause: Clause::HolderStatus })?;
        let given = self.given.get(&grant).ok_or(unknown.clone())?;
        if given.open.reader() != from {
            return Err(unknown);
        }
        let reader = self.logs.get(&from).ok_or(unknown)?;
        let mine = self.mine();
        decide::serve(&decide::Serving {
            now_ms: self.now,
            grant,
            opened: Some(&given.open.opened),
            holder: (&mine.log, &mine.state),
            holder_status: self.latest.get(&self.me.party),
            holder_heard_ms: self.heard_ms(self.me.party),
            reader: (&reader.log, &reader.state),
            reader_status: self.latest.get(&from),
            accept: given.accept.as_ref(),
            release,
            peer,
            this: self.device(),
        })
    }

    /// Whether the running session of a peer under a grant still stands; if not, it ends here.
    fn session_stands(&mut self, peer: DeviceId, grant: GrantId) -> Result<(), Denial> {
        let none = Denial { grant, clause: Clause::Request };
        let state = self.peers.get(&peer).ok_or(none.clone())?;
        let (from, release) = match (state.party, state.serving.get(&grant)) {
            (Some(from), Some(release)) => (from, release.clone()),
            _ => return Err(none),
        };
        let decision = self.may_release(peer, from, &release);
        if decision.is_err()
            && let Some(state) = self.peers.get_mut(&peer)
        {
            state.serving.remove(&grant);
        }
        decision
    }

    pub(super) fn segments(
        &mut self,
        peer: DeviceId,
        grant: GrantId,
        from: u64,
    ) -> Result<Response, Failure> {
        if let Err(denial) = self.session_stands(peer, grant) {
            self.refuse_peer(peer, Some(grant), &denial.clause.to_string())?;
            if wrong!(DeniedDiffers) && self.given.contains_key(&grant) {
                return Ok(Response::Segments { segments: vec![] });
            }
            return Ok(Response::Denied);
        }
        let end = self.given.get(&grant).map_or(0, |given| given.row.segments);
        let mut segments = Vec::new();
        let mut bytes = 0;
        for seq in from..end {
            let Some(row) = self.store.get(SEGMENTS, grant.as_bytes(), &seq.to_be_bytes())? else {
                break;
            };
            bytes += row.len() + 16;
            if bytes > SEGMENTS_BYTES_MAX && !segments.is_empty() {
                break;
            }
            segments.push(decode_row::<SegmentAndKeys>(&row)?);
        }
        Ok(Response::Segments { segments })
    }

    /// A reader's want-list on a stream.
    pub(super) fn fetch_asked(
        &mut self,
        peer: DeviceId,
        stream: StreamId,
        body: &[u8],
    ) -> Result<(), Failure> {
        let names_each_once = |fetch: &Fetch| {
            let records: BTreeSet<&RecordId> = fetch.wants.iter().map(|want| &want.record).collect();
            records.len() == fetch.wants.len() && records.len() <= WANTS_MAX
        };
        let fetch = Fetch::from_bytes(body).ok().filter(names_each_once);
        let Some(fetch) = fetch else {
            self.out.push(Effect::Finish(stream, Frame::Denied));
            return Ok(());
        };
        if fetch.back {
            return self.asked_back(peer, stream, &fetch);
        }
        if let Err(denial) = self.session_stands(peer, fetch.grant) {
            self.refuse_peer(peer, Some(fetch.grant), &denial.clause.to_string())?;
            self.out.push(Effect::Finish(stream, Frame::Denied));
            return Ok(());
        }
        let mut items = Vec::new();
        for want in &fetch.wants {
            items.push(self.serving_of(fetch.grant, want)?);
        }
        self.streams.insert(stream, (peer, fetch.grant));
        self.out.push(Effect::Serve(stream, items));
        Ok(())
    }

    /// The holder asks its reader for what it has lost.
    fn asked_back(&mut self, peer: DeviceId, stream: StreamId, fetch: &Fetch) -> Result<(), Failure> {
        match self.giving_back(peer, fetch)? {
            Some(items) => {
                self.streams.insert(stream, (peer, fetch.grant));
                self.out.push(Effect::Serve(stream, items));
            }
            None => self.out.push(Effect::Finish(stream, Frame::Denied)),
        }
        Ok(())
    }

    /// What is sent for one want; a record that is not on the shelf is announced with length 0 and no label,
    /// exactly like one that does not exist.
    fn serving_of(&self, grant: GrantId, want: &karte_protocol::message::Want) -> Result<Serving, Failure> {
        let record = want.record;
        let shelved = self.store.get(SHELVED, grant.as_bytes(), record.as_bytes())?.is_some();
        let row = if shelved { self.own_row(&record)? } else { None };
        let Some(row) = row else {
            return Ok(Serving { record, payload_bytes: 0, from: 0, label: None });
        };
        let label = if want.label { self.store.get(LABELS, TOP, record.as_bytes())? } else { None };
        Ok(Serving { record, payload_bytes: row.payload_bytes, from: want.from, label })
    }

    /// Decided again after each batch of a stream, about one MiB. (Not yet also every second, as rule 7 asks.)
    pub(super) fn may_serve(&mut self, stream: StreamId) -> Result<(), Failure> {
        let go = match self.streams.get(&stream).copied() {
            Some((peer, grant)) if self.got.contains_key(&grant) => self.may_give_back(peer, grant),
            Some((peer, grant)) => self.session_stands(peer, grant).is_ok(),
            None => false,
        };
        if !go {
            self.streams.remove(&stream);
        }
        self.out.push(Effect::Go(stream, go));
        Ok(())
    }

    /// Cuts every stream and session under a grant.
    fn end_serving(&mut self, grant: GrantId) {
        for peer in self.peers.values_mut() {
            peer.serving.remove(&grant);
        }
        let cut: Vec<StreamId> =
            self.streams.iter().filter(|(_, (_, of))| *of == grant).map(|(stream, _)| *stream).collect();
        for stream in cut {
            self.streams.remove(&stream);
            self.out.push(Effect::Go(stream, false));
        }
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
        let bytes = response.to_bytes()?;
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

fn view_scope(scope: &Scope) -> Value {
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
