//! The invariants. Each is a function with the name it is told by; each looks at what the last step may have changed.
//!
//! The judge knows what was sent and what lies in the rows of a node, and draws its own conclusions ([`super::model`]).

use super::model::{Verdict, judge};
use super::node::Node;
use super::plan::{NAMES, STEWARD};
use super::world::{Heard, Meant, World};
use karte_node::engine::{Effect, Input, Serving};
use karte_node::store::{Store, Table};
use karte_protocol::consent::{Accept, Release, Status};
use karte_protocol::entry::{Act, Entry};
use karte_protocol::id::{DeviceId, Digest, EntryId, GrantId, PartyId, RecordId};
use karte_protocol::limits::{CLOCK_SKEW_MS_MAX, SESSION_MS_MAX};
use karte_protocol::message::{Fetch, Keep, Request, Response};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::UnixMs;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::rc::Rc;

/// party → entry id → COSE bytes, in every node's store.
const ENTRIES: Table = Table(1);
/// "" → grant → what its reader keeps of it.
const GOT: Table = Table(4);
/// "" → grant → what its holder keeps of it.
const GIVEN: Table = Table(3);
/// grant → release id → COSE bytes, in a holder's store.
const RELEASES: Table = Table(12);

impl World {
    // --- what a node is told

    /// Notes what an input brings, before the engine sees it.
    pub fn hears(&mut self, at: usize, input: &Input) -> Heard {
        let mut heard =
            Heard { label: "", entries: false, own_log: BTreeSet::new(), stream: None, status_of: None };
        match input {
            Input::Command(..) => (heard.label, heard.entries) = ("command", true),
            Input::Records(..) => heard.label = "records",
            Input::Listening(_) => heard.label = "listening",
            Input::Connected { .. } => heard.label = "connected",
            Input::Disconnected(_) => heard.label = "disconnected",
            Input::DialFailed(..) => heard.label = "dial failed",
            Input::Request(peer, id, body) => {
                heard.label = "request";
                if let Ok(request) = Request::from_bytes(body) {
                    self.hears_request(at, *peer, &request, &mut heard);
                    self.nodes[at].view.unanswered.insert(*id, (*peer, request));
                }
            }
            Input::Answered(peer, duty, answer) => self.hears_answer(at, *peer, *duty, answer, &mut heard),
            Input::FetchAsked(peer, stream, body) => {
                heard.label = "fetch asked";
                heard.stream = Some((*stream, Fetch::from_bytes(body).ok().map(|fetch| (*peer, fetch))));
            }
            Input::MayServe(stream) => (heard.label, heard.stream) = ("may serve", Some((*stream, None))),
            Input::ServeEnded(_) => heard.label = "serve ended",
            Input::Arrived(..) => heard.label = "arrived",
            Input::FetchEnded(..) => heard.label = "fetch ended",
            Input::Tick => heard.label = "tick",
            _ => heard.label = "other",
        }
        heard
    }

    fn hears_request(&mut self, at: usize, peer: DeviceId, request: &Request, heard: &mut Heard) {
        match request {
            Request::Hello(hello) => {
                heard.entries = true;
                heard.status_of = self.hears_status(at, &hello.status);
            }
            Request::Status { status } => heard.status_of = self.hears_status(at, status),
            Request::Entries { .. } | Request::Offer { .. } => heard.entries = true,
            Request::Accept { accept } => self.hears_accept(at, accept),
            Request::Keep(keep) => {
                heard.entries = true;
                if let Keep::Grant { accept, .. } = keep {
                    self.hears_accept(at, accept);
                }
            }
            Request::Release { .. } | Request::Log { .. } | Request::Segments { .. } => {}
            Request::News { .. } | Request::Receipts { .. } | Request::Served { .. } => {}
            Request::Keeping | Request::RecoveryKey | Request::Openings { .. } => {}
            Request::Ask { .. } | Request::Answer { .. } | Request::Join { .. } | Request::Own { .. } => {}
        }
        let _ = peer;
    }

    fn hears_accept(&mut self, at: usize, bytes: &[u8]) {
        let accept = Signed::<Accept>::from_bytes(bytes.to_vec()).verify().ok();
        self.nodes[at].view.accepts.extend(accept);
    }

    fn hears_answer(
        &mut self,
        at: usize,
        _peer: DeviceId,
        duty: karte_node::engine::Duty,
        answer: &Result<Vec<u8>, String>,
        heard: &mut Heard,
    ) {
        use karte_node::engine::Duty;
        heard.label = if answer.is_ok() { "answered" } else { "unanswered" };
        heard.entries = matches!(duty, Duty::Hello | Duty::Log | Duty::OwnLog | Duty::Steward(_));
        let Ok(body) = answer else { return };
        match Response::from_bytes(body) {
            Ok(Response::Hello(hello)) => heard.status_of = self.hears_status(at, &hello.status),
            Ok(Response::Session { status, .. }) => heard.status_of = self.hears_status(at, &status),
            Ok(Response::Entries { entries, .. }) if duty == Duty::OwnLog => {
                let entries =
                    entries.into_iter().map(|bytes| Signed::<Entry>::from_bytes(bytes.into_vec()).verify());
                heard.own_log = entries.flatten().map(|entry| entry.id().into()).collect();
            }
            _ => {}
        }
    }

    /// A Status that is post-dated when it comes is none (rule 7).
    fn hears_status(&mut self, at: usize, bytes: &[u8]) -> Option<PartyId> {
        let status = Signed::<Status>::from_bytes(bytes).verify().ok()?;
        let of = status.of;
        if status.issued_ms <= self.clock(at) + CLOCK_SKEW_MS_MAX {
            self.nodes[at].view.statuses.push(status);
        }
        Some(of)
    }

    // --- what a node holds

    /// After a commit: what lies in the rows now.
    pub fn committed(&mut self, at: usize, heard: &Heard) {
        let commits = self.nodes[at].store.stats().commits;
        if commits == self.nodes[at].commits {
            return;
        }
        self.nodes[at].commits = commits;
        self.nodes[at].floor_ms = self.nodes[at].floor_ms.max(self.clock(at));
        if heard.entries {
            self.look_at_rows(at, &heard.own_log);
        }
    }

    /// After a start: everything is compared.
    pub fn started(&mut self, at: usize) {
        self.nodes[at].commits = self.nodes[at].store.stats().commits;
        self.look_at_rows(at, &BTreeSet::new());
        let held: Vec<PartyId> = self.nodes[at].view.held.keys().copied().collect();
        held.into_iter().for_each(|party| self.index_is_recomputation(at, party));
        self.acknowledged_is_there(at);
    }

    fn look_at_rows(&mut self, at: usize, own_log: &BTreeSet<EntryId>) {
        let mut fresh: Vec<(PartyId, Vec<u8>)> = Vec::new();
        let mut count = 0;
        let view = &self.nodes[at].view;
        self.nodes[at].store.visit(ENTRIES, &mut |party, item, bytes| {
            count += 1;
            if let (Some(party), Some(id)) = (PartyId::from_slice(party), EntryId::from_slice(item))
                && !view.held.get(&party).is_some_and(|held| held.contains_key(&id))
            {
                fresh.push((party, bytes.to_vec()));
            }
            ControlFlow::Continue(())
        });
        let before: usize = view.held.values().map(std::collections::BTreeMap::len).sum();
        if count < before + fresh.len() {
            self.breaks("durability", format!("{} holds {count} entries and held {before}", NAMES[at]));
        }
        let (me, device) = (self.nodes[at].party, self.nodes[at].device());
        let mut changed = BTreeSet::new();
        for (party, bytes) in fresh {
            let Ok(entry) = Signed::<Entry>::from_bytes(bytes).verify() else { continue };
            let fact = self.fact(entry);
            if party == me && fact.by().device == device && own_log.contains(&fact.id().into()) {
                self.nodes[at].view.is_rolled_back = true;
            }
            self.nodes[at].view.held.entry(party).or_default().insert(fact.id().into(), fact.clone());
            changed.insert(party);
            self.never_two_with_one_seq(&fact);
        }
        for party in changed {
            let held: Vec<_> = self.nodes[at]
                .view
                .held
                .get(&party)
                .into_iter()
                .flat_map(|held| held.values().cloned())
                .collect();
            let verdict = judge(party, &held, &self.right);
            self.nodes[at].view.verdicts.insert(party, Rc::new(verdict));
            self.index_is_recomputation(at, party);
            self.no_key_after_the_end(at, party);
        }
    }

    /// **Index = recomputation**: what an engine makes of a log is what the model makes of the rows.
    fn index_is_recomputation(&mut self, at: usize, party: PartyId) {
        let Some(verdict) = self.verdict(at, party) else { return };
        let state = self.nodes[at].engine.as_ref().and_then(|engine| engine.state_of(party));
        let Some(state) = state else { return };
        if let Some(what) = verdict.differs(state) {
            let who = self.node_of(party).map_or("a stranger", |of| NAMES[of]);
            self.breaks("index", format!("{} is wrong about the {what} of {who}", NAMES[at]));
        }
    }

    /// **No self-equivocation**: an honest device never signs two entries with one seq.
    fn never_two_with_one_seq(&mut self, fact: &super::model::Fact) {
        let by = fact.by();
        if self.may_fork.contains(&by.device) {
            return;
        }
        let same =
            |other: &super::model::Fact| other.by() == by && other.seq == fact.seq && other.id() != fact.id();
        if self.facts.values().any(same) {
            let who = by.party.and_then(|party| self.node_of(party)).map_or("a stranger", |of| NAMES[of]);
            self.breaks("self-equivocation", format!("{who} signed two entries with seq {}", fact.seq));
        }
    }

    /// **No reading key after the end of a grant**, once its end is held.
    fn no_key_after_the_end(&mut self, at: usize, party: PartyId) {
        let Some(verdict) = self.verdict(at, party) else { return };
        for grant in self.nodes[at].ring.keys().into_keys() {
            let Some(meant) = self.meant(grant).filter(|meant| meant.holder == party) else { continue };
            if verdict.revoked.contains(&grant) || meant.generation < verdict.generation {
                self.breaks(
                    "no key after the end",
                    format!("{} keeps the key of {}", NAMES[at], grant.short()),
                );
            }
        }
    }

    /// **Durability**: what a user or a peer was told is done is there after a crash.
    fn acknowledged_is_there(&mut self, at: usize) {
        let Node { view, party, .. } = &self.nodes[at];
        let held = view.held.get(party);
        let revoked: BTreeSet<GrantId> = held
            .into_iter()
            .flat_map(|held| held.values())
            .filter_map(|fact| match &fact.act {
                Act::Revoke { grant, .. } => Some(*grant),
                _ => None,
            })
            .collect();
        let is_there = |(grant, is_end): &&(GrantId, bool)| match is_end {
            true => revoked.contains(grant),
            false => held.is_some_and(|held| held.contains_key(&EntryId::from(*grant))),
        };
        if let Some((grant, _)) = view.acknowledged.iter().find(|one| !is_there(one)) {
            let what = format!("{} forgot what it said of {}", NAMES[at], grant.short());
            self.breaks("durability", what);
        }
    }

    // --- what a node says

    /// Looks at effects before they travel.
    pub fn says(&mut self, at: usize, heard: &Heard, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Reply(id, body) => {
                    if let Some((peer, request)) = self.nodes[at].view.unanswered.remove(id) {
                        self.replies(at, peer, &request, body);
                    }
                }
                Effect::Serve(stream, items, _) => {
                    if let Some((of, Some((peer, fetch)))) = &heard.stream
                        && of == stream
                    {
                        self.streams_to(at, *peer, fetch, items);
                    }
                }
                Effect::Go(stream, true) => {
                    if let Some((peer, grant)) = self.reader_of(*stream) {
                        self.serves(at, peer, grant);
                    }
                }
                Effect::Request(_, duty, _) => {
                    let asks = *duty == karte_node::engine::Duty::OwnLog;
                    if self.nodes[at].view.is_rolled_back && !asks {
                        self.breaks("old copy", format!("{} goes on as an older copy: {duty:?}", NAMES[at]));
                    }
                }
                _ => {}
            }
        }
        if let Some(of) = heard.status_of {
            self.staleness_is_bounded(at, of);
        }
        if heard.label == "tick" {
            for patient in super::plan::PATIENTS {
                self.staleness_is_bounded(at, self.nodes[patient].party);
            }
        }
    }

    fn replies(&mut self, at: usize, peer: DeviceId, request: &Request, body: &[u8]) {
        let Ok(response) = Response::from_bytes(body) else {
            return self.breaks("silence", format!("{} answers what nobody can read", NAMES[at]));
        };
        let is_denied = response == Response::Denied;
        if is_denied && Response::Denied.to_bytes().ok().as_deref() != Some(body) {
            self.breaks("silence", format!("{} has two ways to say no", NAMES[at]));
        }
        match (request, &response) {
            (Request::Release { release }, Response::Session { .. }) => {
                let Ok(release) = Signed::<Release>::from_bytes(release.to_vec()).verify() else {
                    return self.breaks("authority", format!("{} believes a bad signature", NAMES[at]));
                };
                self.opens_a_session(at, peer, release);
            }
            (Request::Segments { grant, .. }, Response::Segments { segments }) => {
                match segments.is_empty() && self.why_not_serve(at, peer, *grant).is_some() {
                    true => self.breaks("silence", format!("{} says no in other words", NAMES[at])),
                    false => self.serves(at, peer, *grant),
                }
            }
            (Request::Log { of, .. }, Response::Entries { entries, .. }) if *of == self.nodes[at].party => {
                self.log_is_for_readers(at, peer, entries.len());
            }
            (Request::Accept { accept }, Response::Done) => self.accept_is_the_readers(at, peer, accept),
            (Request::Entries { of, entries }, Response::Done) => self.taken_is_there(at, *of, entries),
            _ => {}
        }
    }

    /// **Authority**: only the reader of a grant accepts it.
    fn accept_is_the_readers(&mut self, at: usize, peer: DeviceId, bytes: &[u8]) {
        let Ok(accept) = Signed::<Accept>::from_bytes(bytes.to_vec()).verify() else { return };
        let (reader, asker) = (self.meant(accept.grant).map(|meant| meant.reader), self.party_of(peer));
        if reader.is_none() || reader != asker || !reader.is_some_and(|reader| accept.is_by(reader)) {
            self.breaks("authority", format!("{} takes a stranger's Accept", NAMES[at]));
        }
    }

    fn opens_a_session(&mut self, at: usize, peer: DeviceId, release: Verified<Release>) {
        let clock = self.clock(at);
        if !self.nodes[at].view.used.insert(release.id()) {
            self.breaks("authority", format!("{} opens two sessions with one Release", NAMES[at]));
        }
        if (clock - release.at_ms).abs() > CLOCK_SKEW_MS_MAX {
            self.breaks("authority", format!("{} opens a session with an old Release", NAMES[at]));
        }
        let grant = release.grant;
        self.nodes[at].view.sessions.insert((peer, grant), release);
        let is_the_stewards = self.meant(grant).is_some_and(|meant| meant.holder != self.nodes[at].party);
        self.stood_in += u64::from(is_the_stewards);
        self.serves(at, peer, grant);
    }

    /// Sessions end with their connection.
    pub fn disconnects(&mut self, at: usize, peer: DeviceId) {
        self.nodes[at].view.sessions.retain(|(device, _), _| *device != peer);
    }

    /// **Rule 12**: a log beyond identity entries is open to those who ever were its readers.
    fn log_is_for_readers(&mut self, at: usize, peer: DeviceId, entries: usize) {
        let me = self.nodes[at].party;
        let asker = self.party_of(peer);
        let is_reader = self.grants.iter().any(|meant| meant.holder == me && Some(meant.reader) == asker);
        let is_steward = self.verdict(at, me).is_some_and(|verdict| verdict.stewards.contains(&peer));
        if !is_reader && !is_steward && asker != Some(me) {
            self.breaks("log", format!("{} shows {entries} entries of its log to a stranger", NAMES[at]));
        }
    }

    /// **Durability**: entries that a peer was told are taken are in the rows.
    fn taken_is_there(&mut self, at: usize, of: PartyId, entries: &[karte_protocol::message::Bytes]) {
        // In a dispute everything is denied, and devices of one of the two beginnings are not traced.
        if self.verdict(at, of).is_some_and(|verdict| verdict.disputed) {
            return;
        }
        for bytes in entries {
            let Ok(entry) = Signed::<Entry>::from_bytes(bytes.to_vec()).verify() else { continue };
            let id = EntryId::from(entry.id());
            let held = self.nodes[at].view.held.get(&of);
            let is_named = held.is_some_and(|held| held.values().any(|fact| names(fact, &entry)));
            let begins = matches!(entry.act, Act::Genesis(_) | Act::Recover(_));
            if is_named && !begins && !held.is_some_and(|held| held.contains_key(&id)) {
                self.breaks("durability", format!("{} said that it took an entry, and did not", NAMES[at]));
            }
        }
    }

    /// **Authority, audit and bounded staleness** at the server.
    fn serves(&mut self, at: usize, peer: DeviceId, grant: GrantId) {
        if let Some((invariant, why)) = self.why_not_serve(at, peer, grant) {
            self.breaks(invariant, format!("{} serves under {}: {why}", NAMES[at], grant.short()));
        }
    }

    fn why_not_serve(&self, at: usize, peer: DeviceId, grant: GrantId) -> Option<(&'static str, String)> {
        let no = |why: &str| Some(("authority", why.to_owned()));
        let (me, clock) = (&self.nodes[at], self.clock(at));
        let Some(release) = me.view.sessions.get(&(peer, grant)) else {
            return no("nobody asked with a Release");
        };
        let Some(meant) = self.meant(grant) else { return no("nobody gave that grant") };
        if let Some(why) = self.why_not_in_the_name_of(at, &meant, clock) {
            return Some(why);
        }
        if let Some(why) = self.why_not_standing(at, &meant, clock) {
            return Some(why);
        }
        if me.view.is_rolled_back {
            return Some(("old copy", "it is an older copy".into()));
        }
        let age_ms = clock - release.at_ms;
        if release.purpose != "TREAT" || release.to != me.device() || release.by().device != peer {
            return no("the Release is for something else");
        }
        if age_ms > SESSION_MS_MAX + CLOCK_SKEW_MS_MAX {
            return Some(("bounded staleness", "the session is over".into()));
        }
        let reader = self.verdict(at, meant.reader)?;
        if reader.disputed || !reader.devices.contains(&peer) {
            return no("the asker is no device of the reader");
        }
        let accepted = me.view.accepts.iter().any(|accept| {
            accept.id() == release.accept
                && accept.grant == grant
                && accept.is_by(meant.reader)
                && reader.devices.contains(&accept.by().device)
        });
        if !accepted {
            return no("its reader did not accept it");
        }
        let identity = self.identity_of(at, meant.reader);
        let is_fresh = me.view.statuses.iter().any(|status| {
            status.of == meant.reader
                && status.identity == identity
                && (reader.devices.contains(&status.by().device)
                    || reader.stewards.contains(&status.by().device))
                && clock <= status.issued_ms + status.lease_ms
        });
        if !is_fresh {
            return Some(("bounded staleness", "the reader's Status has run out".into()));
        }
        let row = me.store.get(RELEASES, grant.as_bytes(), release.id().as_bytes());
        match row {
            Ok(Some(_)) => None,
            _ => Some(("audit", "the Release is not kept".into())),
        }
    }

    /// **Authority and bounded staleness** at a steward: the holder named it, and was heard within the grant's limit.
    fn why_not_in_the_name_of(
        &self,
        at: usize,
        meant: &Meant,
        clock: UnixMs,
    ) -> Option<(&'static str, String)> {
        let me = &self.nodes[at];
        if meant.holder == me.party {
            return None;
        }
        let named = self.verdict(at, meant.holder)?;
        if !named.stewards.contains(&me.device()) {
            return Some(("authority", "it is not its grant".into()));
        }
        let is_heard = |heard_ms: UnixMs| clock <= heard_ms + meant.offline_ms;
        match self.heard_of_ms(at, meant).is_some_and(is_heard) {
            true => None,
            false => {
                Some(("bounded staleness", "the steward has not heard the holder within its limit".into()))
            }
        }
    }

    /// What begins to go out on a stream, and to whom.
    fn streams_to(&mut self, at: usize, peer: DeviceId, fetch: &Fetch, items: &[Serving]) {
        match (fetch.back, fetch.keep) {
            (false, false) => {
                self.serves(at, peer, fetch.grant);
                self.serves_what_is_granted(at, fetch.grant, items);
            }
            (false, true) => self.hands_over_between_holder_and_steward(at, peer),
            _ => {}
        }
    }

    /// **Authority**: without a grant, records go from a holder to its live steward, and from there back to the holder.
    fn hands_over_between_holder_and_steward(&mut self, at: usize, peer: DeviceId) {
        let me = self.nodes[at].party;
        let is_steward = self.verdict(at, me).is_some_and(|own| own.stewards.contains(&peer));
        let is_holder = self
            .party_of(peer)
            .filter(|_| at == STEWARD)
            .and_then(|holder| self.verdict(at, holder))
            .is_some_and(|holder| holder.devices.contains(&peer) && !holder.disputed);
        if !is_steward && !is_holder {
            self.breaks("authority", format!("{} hands records over without a grant", NAMES[at]));
        }
    }

    /// **Authority**: what goes out is in the scope.
    fn serves_what_is_granted(&mut self, at: usize, grant: GrantId, items: &[Serving]) {
        // A steward cannot see the scope: what a rogue has put on its shelf it serves as it stands.
        let is_rogues =
            |meant: &Meant| self.rogue.is_some_and(|rogue| self.nodes[rogue].party == meant.holder);
        let Some(meant) = self.meant(grant).filter(|meant| !is_rogues(meant)) else { return };
        let outside = items
            .iter()
            .filter(|item| item.payload_bytes > 0)
            .find(|item| !self.is_in_scope(&meant, &item.record));
        if let Some(item) = outside {
            let what = format!("{} serves {}, which is outside the scope", NAMES[at], item.record.short());
            self.breaks("authority", what);
        }
    }

    /// **Authority and bounded staleness** at the reader.
    pub fn reads(&mut self, at: usize, grant: GrantId, record: &RecordId) {
        let clock = self.clock(at);
        let Some(meant) = self.meant(grant) else {
            return self.breaks("authority", format!("{} opens under a grant nobody gave", NAMES[at]));
        };
        let mut why = self.why_not_standing(at, &meant, clock);
        if why.is_none() && !self.is_in_scope(&meant, record) {
            why = Some(("authority", "it is outside the scope".into()));
        }
        if why.is_none() && !self.nodes[at].ring.keys().contains_key(&grant) {
            why = Some(("no key after the end", "its key is gone".into()));
        }
        let heard_ms = self.heard_of_ms(at, &meant);
        if why.is_none() && heard_ms.is_none_or(|heard_ms| clock > heard_ms + meant.offline_ms) {
            why = Some(("bounded staleness", "its holder was not heard for longer than its limit".into()));
        }
        if let Some((invariant, why)) = why {
            self.breaks(invariant, format!("{} opens under {}: {why}", NAMES[at], grant.short()));
        }
    }

    /// The grant itself, by all that this node holds; and its clock (rule 9).
    fn why_not_standing(&self, at: usize, meant: &Meant, clock: UnixMs) -> Option<(&'static str, String)> {
        let no = |why: &str| Some(("authority", why.to_owned()));
        if clock + CLOCK_SKEW_MS_MAX < self.nodes[at].floor_ms {
            return Some(("time floor", "its clock stands below its time floor".into()));
        }
        let Some(holder) = self.verdict(at, meant.holder) else { return no("its holder is unknown") };
        match () {
            () if holder.disputed => no("its holder is disputed"),
            () if holder.revoked.contains(&meant.id) => Some(("finality", "it was revoked".into())),
            () if !holder.grants.contains(&meant.id) => no("it does not count"),
            () if clock < meant.from_ms => no("it has not begun"),
            () if clock >= meant.until_ms => no("it has expired"),
            () => None,
        }
    }

    /// **Bounded staleness**: an engine never takes a party for heard later than it was.
    fn staleness_is_bounded(&mut self, at: usize, of: PartyId) {
        if of == self.nodes[at].party {
            return;
        }
        let Some(heard_ms) = self.nodes[at].engine.as_ref().and_then(|engine| engine.heard_ms(of)) else {
            return;
        };
        if self.heard_ms(at, of).is_none_or(|known_ms| heard_ms > known_ms) {
            let who = self.node_of(of).map_or("a stranger", |of| NAMES[of]);
            self.breaks(
                "bounded staleness",
                format!("{} believes a word of {who} that does not pass", NAMES[at]),
            );
        }
    }

    /// When a device of a party last said that all heads are held, by what reached this node.
    fn heard_ms(&self, at: usize, of: PartyId) -> Option<UnixMs> {
        self.heard_by(at, of, |_| true)
    }

    /// When one that knew of the grant did.
    fn heard_of_ms(&self, at: usize, meant: &Meant) -> Option<UnixMs> {
        let given = self.facts.get(&EntryId::from(meant.id))?;
        let reaches = |status: &Verified<Status>| {
            status.heads.iter().any(|head| head.device == given.by().device && head.seq >= given.seq)
        };
        self.heard_by(at, meant.holder, reaches)
    }

    fn heard_by(&self, at: usize, of: PartyId, knows: impl Fn(&Verified<Status>) -> bool) -> Option<UnixMs> {
        let verdict = self.verdict(at, of)?;
        let held = self.held(at, of)?;
        let passes = |status: &&Verified<Status>| {
            status.of == of
                && status.is_by(of)
                && status.r#gen == verdict.generation
                && !verdict.disputed
                && verdict.devices.contains(&status.by().device)
                && status.heads.iter().all(|head| {
                    held.contains_key(&head.id)
                        && verdict.whole.get(&head.device).is_some_and(|whole| head.seq < *whole)
                })
        };
        self.nodes[at]
            .view
            .statuses
            .iter()
            .filter(passes)
            .filter(|status| knows(status))
            .map(|status| status.issued_ms)
            .max()
    }

    // --- lookups

    /// What the model makes of a party by what a node holds.
    pub fn verdict(&self, at: usize, party: PartyId) -> Option<Rc<Verdict>> {
        self.nodes[at].view.verdicts.get(&party).cloned()
    }

    /// A grant as it was meant.
    pub fn meant(&self, grant: GrantId) -> Option<Meant> {
        self.grants.iter().find(|meant| meant.id == grant).cloned()
    }

    /// Which party a device belongs to, by any entry that names it.
    pub fn party_of(&self, device: DeviceId) -> Option<PartyId> {
        if let Some(at) = self.devices.get(&device) {
            return Some(self.nodes[*at].party);
        }
        self.facts.values().find(|fact| fact.by().device == device).and_then(|fact| fact.by().party)
    }

    fn is_in_scope(&self, meant: &Meant, record: &RecordId) -> bool {
        let written = self.records.iter().find(|written| written.id == *record);
        written.is_some_and(|written| written.subject == meant.subject && !(meant.labs_only && written.vital))
    }

    /// blake3 of the sorted ids of the identity entries that a node holds of a party.
    pub fn identity_of(&self, at: usize, party: PartyId) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (id, fact) in self.held(at, party).into_iter().flatten() {
            if !matches!(fact.act, Act::Grant { .. } | Act::Revoke { .. }) {
                hasher.update(id.as_bytes());
            }
        }
        hasher.finalize().into()
    }

    /// **Convergence**: after healing and quiet, whoever follows a sound log holds what its party holds.
    pub fn all_agree(&mut self) {
        for patient in super::plan::PATIENTS {
            let party = self.nodes[patient].party;
            let sound = self.verdict(patient, party).is_some_and(|verdict| {
                verdict.devices.contains(&self.nodes[patient].device()) && !verdict.disputed
            });
            if !sound || self.nodes[patient].view.is_rolled_back {
                continue;
            }
            for clinic in super::plan::CLINICS {
                self.agrees(patient, clinic, party);
            }
        }
    }

    fn agrees(&mut self, patient: usize, clinic: usize, party: PartyId) {
        let reader = self.nodes[clinic].party;
        // A party tells its log to those it knows as readers: a grant that only a lost folder knew of makes none.
        let is_known = |meant: &&Meant| {
            let row = self.nodes[patient].store.get(GIVEN, b"", meant.id.as_bytes());
            meant.holder == party && meant.reader == reader && matches!(row, Ok(Some(_)))
        };
        // Nor does an entry whose offer never came: who was not offered a grant does not read under it.
        let is_offered = |meant: &Meant| {
            matches!(self.nodes[clinic].store.get(GOT, b"", meant.id.as_bytes()), Ok(Some(_)))
        };
        let follows = self.grants.iter().filter(is_known).any(is_offered);
        // Who holds the removal of the device that calls does not let it in.
        let lets_in = self
            .verdict(clinic, party)
            .is_some_and(|verdict| verdict.devices.contains(&self.nodes[patient].device()));
        let sound = self
            .verdict(clinic, reader)
            .is_some_and(|verdict| verdict.devices.contains(&self.nodes[clinic].device()));
        if !follows || !lets_in || !sound || self.nodes[clinic].view.is_rolled_back {
            return;
        }
        // Of a generation that has ended nothing counts, and nobody asks for what is missing of it.
        // Known to fail, and left out: chains of devices that may have forked. A Status names one branch, so that who
        // holds that one does not ask for the other; `PartyLog::beyond` gives nothing below a named end, so that a
        // fork hides once its device went on; and engines sign no proof of a fork yet (rule 4).
        let Some(home) = self.verdict(patient, party) else { return };
        let counts = |fact: &super::model::Fact| {
            fact.by().r#gen >= home.generation && !self.may_fork.contains(&fact.by().device)
        };
        let ids = |at: usize| -> BTreeSet<EntryId> {
            let held = self.held(at, party).into_iter().flatten();
            held.filter(|(_, fact)| counts(fact)).map(|(id, _)| *id).collect()
        };
        let (home, there) = (ids(patient), ids(clinic));
        if home != there {
            let (lacks, more) = (home.difference(&there).count(), there.difference(&home).count());
            let what =
                format!("{} lacks {lacks} entries of {} and has {more} more", NAMES[clinic], NAMES[patient]);
            self.breaks("convergence", what);
        }
    }
}

/// Whether an entry names the device of another in its generation.
fn names(fact: &Verified<Entry>, entry: &Verified<Entry>) -> bool {
    let device = entry.by().device;
    match &fact.act {
        Act::Genesis(genesis) => {
            entry.by().r#gen == 0 && genesis.devices.iter().any(|named| named.device == device)
        }
        Act::AddDevice(named) => fact.by().r#gen == entry.by().r#gen && named.device == device,
        Act::Recover(recover) => {
            entry.by().r#gen == recover.terms.r#gen
                && recover.terms.devices.iter().any(|named| named.device == device)
        }
        _ => false,
    }
}
