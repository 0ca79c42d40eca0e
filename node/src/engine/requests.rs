//! Requests for access: asking others for a grant, and answering those who ask.
//!
//! For: a wish that is signed, sent (or carried as text) and answered. An approval is an ordinary grant, given by the
//! code that gives all others ([`super::giving`]), and never wider than what was asked. Not for: permission; a request
//! gives none.
//!
//! A peer asks over a greeted connection, so it is a contact. A stranger's request comes in as text only, by the own
//! user's hand, and is answered once its party is a contact.

use super::giving::view_scope;
use super::peers::Duty;
use super::rows::{ASKED, AskedRow, SENT_REQUESTS, SentRow, TOP};
use super::select::{bound, code, span_text, time_text};
use super::{Engine, decode_row, find_id};
use crate::command::{Approval, NewGrant, NewRequest};
use crate::failure::Failure;
use karte_protocol::grant::{Onward, Window};
use karte_protocol::id::{ObjectId, PartyId};
use karte_protocol::limits::{CLOCK_SKEW_MS_MAX, TEXT_BYTES_MAX};
use karte_protocol::message::{Answer, Request};
use karte_protocol::request::{self, AccessRequest, Offered};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::UnixMs;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Requests of one party that are kept. 20: a clinic asks once a visit; more is noise.
const OF_ONE_MAX: usize = 20;
/// Requests that are kept in all, each way. 1,000 of at most some 10 KB: 10 MB.
const KEPT_MAX: usize = 1_000;

/// Requests of this party, and to it.
#[derive(Default)]
pub(super) struct Requests {
    sent: BTreeMap<ObjectId, Sent>,
    asked: BTreeMap<ObjectId, Asked>,
}

struct Sent {
    row: SentRow,
    request: Verified<AccessRequest>,
}

struct Asked {
    row: AskedRow,
    request: Verified<AccessRequest>,
}

impl Engine {
    pub(super) fn load_requests(&mut self) -> Result<(), Failure> {
        for (_, bytes) in self.values(SENT_REQUESTS, TOP)? {
            let row: SentRow = decode_row(&bytes)?;
            let request = Signed::<AccessRequest>::from_bytes(row.request.to_vec()).recall()?;
            self.requests.sent.insert(request.id(), Sent { row, request });
        }
        for (_, bytes) in self.values(ASKED, TOP)? {
            let row: AskedRow = decode_row(&bytes)?;
            let request = Signed::<AccessRequest>::from_bytes(row.request.to_vec()).recall()?;
            self.requests.asked.insert(request.id(), Asked { row, request });
        }
        Ok(())
    }

    // --- asking

    /// Signs a request and lets it wait for its party.
    pub(super) fn add_request(&mut self, new: &NewRequest) -> Result<Vec<Value>, Failure> {
        self.require_clock()?;
        let to = self.find_contact(&new.contact)?;
        let subject = match new.scope.subject.as_deref() {
            None => to,
            named => self.find_subject(named)?,
        };
        let body = AccessRequest {
            to,
            subject,
            scope: super::select::scope_of(&new.scope)?,
            purpose: new.purpose.clone(),
            basis: new.basis.clone(),
            duration_ms: new.expires_ms,
            offline_ms: new.offline_ms,
            onward: if new.onward_keep { Onward::Keep } else { Onward::No },
            reason: new.reason.clone(),
            nonce: self.chance.salt(),
            at_ms: self.now,
        };
        if body.scope.is_empty() {
            return Err(Failure::usage("a request names what it is for")
                .next("Use --kind (for example --kind fhir/Observation)."));
        }
        karte_protocol::signed::Statement::check(&body).map_err(|bound| {
            Failure::usage(format!("the request cannot be sent: {bound}"))
                .next("Ask for less, in fewer words.")
        })?;
        self.make_room_to_send()?;
        let request = Verified::sign(body, self.by(), &self.keys.device)?;
        let id = request.id();
        let row = SentRow {
            request: request.bytes().to_vec().into(),
            delivered: false,
            answer: None,
            at_ms: self.now,
        };
        self.requests.sent.insert(id, Sent { row, request });
        self.save_sent(id)?;
        self.show_sent(id)
    }

    fn make_room_to_send(&mut self) -> Result<(), Failure> {
        if self.requests.sent.len() < KEPT_MAX {
            return Ok(());
        }
        let now = self.now;
        let ended = self
            .requests
            .sent
            .iter()
            .filter(|(_, sent)| state_of(sent.row.answer.as_ref(), &sent.request, now) != WAITING);
        let Some(oldest) = ended.min_by_key(|(_, sent)| sent.row.at_ms).map(|(id, _)| *id) else {
            return Err(Failure::failed(format!("{KEPT_MAX} requests wait for an answer already"))
                .next("Each ends by itself after 30 days."));
        };
        self.requests.sent.remove(&oldest);
        self.delete(SENT_REQUESTS, TOP, oldest.as_bytes())
    }

    fn save_sent(&mut self, id: ObjectId) -> Result<(), Failure> {
        match self.requests.sent.get(&id).map(|sent| sent.row.clone()) {
            Some(row) => self.put(SENT_REQUESTS, TOP, id.as_bytes(), &row),
            None => Ok(()),
        }
    }

    pub(super) fn ask_delivered(&mut self, id: ObjectId) -> Result<(), Failure> {
        if let Some(sent) = self.requests.sent.get_mut(&id) {
            sent.row.delivered = true;
        }
        self.save_sent(id)
    }

    /// What became of a request of ours. Only the party that was asked can say so, and only once.
    pub(super) fn take_verdict(
        &mut self,
        from: PartyId,
        id: ObjectId,
        answer: Answer,
    ) -> Result<bool, Failure> {
        if matches!(&answer, Answer::Declined { reason } if reason.len() > TEXT_BYTES_MAX) {
            return Ok(false);
        }
        let open = |sent: &&mut Sent| sent.request.to == from && sent.row.answer.is_none();
        let Some(sent) = self.requests.sent.get_mut(&id).filter(open) else {
            // Not ours any more, or answered: said again it changes nothing, and is not said a third time.
            return Ok(true);
        };
        let word = if matches!(answer, Answer::Approved { .. }) { "approved" } else { "declined" };
        sent.row.answer = Some(answer);
        sent.row.delivered = true;
        self.save_sent(id)?;
        let name = self.name_of(from);
        self.notice(format!("{name} {word} request {}", id.short()));
        Ok(true)
    }

    // --- being asked

    /// A contact's request. Sent again it is the same one. False: it is not kept, and the peer learns no more than that.
    pub(super) fn take_ask(&mut self, from: PartyId, bytes: &[u8]) -> Result<bool, Failure> {
        let Ok(request) = Signed::<AccessRequest>::from_bytes(bytes).verify() else {
            return Ok(false);
        };
        if self.requests.asked.contains_key(&request.id()) {
            return Ok(request.is_by(from));
        }
        if self.check_ask(from, &request).is_err() || !self.make_room_for(from)? {
            return Ok(false);
        }
        self.keep_asked(from, request)?;
        Ok(true)
    }

    /// A request that came as text, perhaps of a stranger: its card then waits among the pending contacts.
    pub(super) fn take_request(&mut self, text: &str) -> Result<Vec<Value>, Failure> {
        let asked = request::from_text(text)?;
        let (from, request) = (asked.from.log.party(), asked.request);
        if from == self.me.party {
            return Err(Failure::usage("that is a request of this node's own")
                .next("Give it to the party that it asks."));
        }
        let id = request.id();
        if !self.requests.asked.contains_key(&id) {
            // Before the card is kept, and once more: it may tell that a device was ended.
            self.check_ask(from, &request)?;
            self.meet(asked.from)?;
            self.check_ask(from, &request)?;
            if !self.contacts.contains_key(&from) {
                return Err(Failure::failed("too many strangers wait here already")
                    .next("`karte contact list` shows them, `karte contact remove` makes room."));
            }
            if !self.make_room_for(from)? {
                return Err(Failure::failed(format!(
                    "too many requests of {} wait here",
                    self.name_of(from)
                ))
                .next("Answer some: `karte request list`, then `karte request decline ID`."));
            }
            self.keep_asked(from, request)?;
        }
        self.show_asked(id)
    }

    /// That a request is for this party, timely, and of a device that its party has not ended as far as is known.
    fn check_ask(&self, from: PartyId, request: &Verified<AccessRequest>) -> Result<(), Failure> {
        if request.to != self.me.party {
            return Err(Failure::usage(format!("this request is for another party: {}", request.to))
                .next("Compare it with `karte status`, and give it to that party."));
        }
        let device = &request.by().device;
        let ended = self.logs.get(&from).is_some_and(|held| !held.state.has_device(device));
        if !request.is_by(from) || ended {
            return Err(Failure::refused("the request is signed by a device that its party has ended")
                .next("Ask for a new one."));
        }
        if request.at_ms > self.now.saturating_add(CLOCK_SKEW_MS_MAX) {
            return Err(Failure::failed(format!(
                "the request was made at {}, and the clock of this machine says {}",
                time_text(request.at_ms),
                time_text(self.now)
            ))
            .next("One of the two clocks is wrong: set it, then try again."));
        }
        if self.now >= request.ends_ms() {
            return Err(Failure::refused(format!("the request ended at {}", time_text(request.ends_ms())))
                .next("Ask for a new one."));
        }
        Ok(())
    }

    /// Room for one more request, by dropping the oldest that is over; false if all of them still wait.
    fn make_room_for(&mut self, from: PartyId) -> Result<bool, Failure> {
        let of_it = self.requests.asked.values().filter(|asked| asked.row.from == from).count();
        let whose = match () {
            () if of_it >= OF_ONE_MAX => Some(from),
            () if self.requests.asked.len() >= KEPT_MAX => None,
            () => return Ok(true),
        };
        let now = self.now;
        let over = self.requests.asked.iter().filter(|(_, asked)| {
            let over = match &asked.row.answer {
                Some(_) => asked.row.told || now >= asked.request.ends_ms(),
                None => now >= asked.request.ends_ms(),
            };
            over && whose.is_none_or(|party| party == asked.row.from)
        });
        let Some(oldest) = over.min_by_key(|(_, asked)| asked.row.at_ms).map(|(id, _)| *id) else {
            return Ok(false);
        };
        self.requests.asked.remove(&oldest);
        self.delete(ASKED, TOP, oldest.as_bytes())?;
        Ok(true)
    }

    fn keep_asked(&mut self, from: PartyId, request: Verified<AccessRequest>) -> Result<(), Failure> {
        let id = request.id();
        let row = AskedRow {
            request: request.bytes().to_vec().into(),
            from,
            answer: None,
            told: false,
            at_ms: self.now,
        };
        self.requests.asked.insert(id, Asked { row, request });
        self.save_asked(id)?;
        let name = self.name_of(from);
        self.notice(format!("{name} asks to read records: `karte request show {}`", id.short()));
        Ok(())
    }

    fn save_asked(&mut self, id: ObjectId) -> Result<(), Failure> {
        match self.requests.asked.get(&id).map(|asked| asked.row.clone()) {
            Some(row) => self.put(ASKED, TOP, id.as_bytes(), &row),
            None => Ok(()),
        }
    }

    pub(super) fn answer_delivered(&mut self, id: ObjectId) -> Result<(), Failure> {
        if let Some(asked) = self.requests.asked.get_mut(&id) {
            asked.row.told = true;
        }
        self.save_asked(id)
    }

    // --- answering

    /// Gives what was asked, or less of it. A dry run tells which records that would be, and signs nothing.
    pub(super) fn approve(&mut self, approval: &Approval) -> Result<Vec<Value>, Failure> {
        let id = self.find_asked(&approval.id)?;
        let (from, request) = self.open_ask(id)?;
        let mut offered = request.wish();
        self.narrow(&mut offered, approval)?;
        request.allows(&offered)?;
        offered.scope.check()?;
        let subject = self.find_subject(Some(&request.subject.to_string()))?;
        if !approval.dry_run {
            self.find_contact(&from.to_string())?;
        }
        let terms = NewGrant {
            exclude: approval.exclude.clone(),
            purpose: request.purpose.clone(),
            basis: request.basis.clone(),
            onward_keep: offered.onward == Onward::Keep,
            expires_ms: offered.duration_ms,
            offline_ms: offered.offline_ms,
            dry_run: approval.dry_run,
            ..NewGrant::default()
        };
        let mut views = self.give_scope(&terms, from, subject, offered.scope)?;
        if approval.dry_run {
            return Ok(views);
        }
        let grant = views.first().and_then(|view| view.get("id")?.as_str()?.parse().ok());
        let Some(grant) = grant else { return Ok(views) };
        self.answer_ask(id, Answer::Approved { grant })?;
        if let Some(view) = views.first_mut().and_then(Value::as_object_mut) {
            view.insert("request".into(), json!(id.to_hex()));
        }
        Ok(views)
    }

    /// What the own user says replaces what was asked, list by list; whether that is narrower is judged afterwards.
    fn narrow(&self, offered: &mut Offered, approval: &Approval) -> Result<(), Failure> {
        let (scope, by) = (&mut offered.scope, &approval.scope);
        if !by.kinds.is_empty() {
            scope.kinds = by.kinds.clone();
        }
        if !by.categories.is_empty() {
            scope.categories = by.categories.clone();
        }
        if !by.codes.is_empty() {
            scope.codes = by.codes.iter().map(|text| code(text)).collect();
        }
        if by.from.is_some() || by.until.is_some() {
            let was = scope.window.unwrap_or(Window { from: None, until: None });
            let from = by.from.as_deref().map(bound).transpose()?;
            let until = by.until.as_deref().map(bound).transpose()?;
            scope.window = Some(Window { from: from.or(was.from), until: until.or(was.until) });
        }
        if !approval.records.is_empty() {
            scope.records.clear();
        }
        for record in &approval.records {
            scope.records.push(self.find_record(record)?.record);
        }
        offered.duration_ms = approval.expires_ms.unwrap_or(offered.duration_ms);
        offered.offline_ms = approval.offline_ms.unwrap_or(offered.offline_ms);
        Ok(())
    }

    pub(super) fn decline_request(&mut self, id: &str, reason: &str) -> Result<Vec<Value>, Failure> {
        if reason.len() > TEXT_BYTES_MAX {
            return Err(Failure::usage("expected a reason of at most 500 bytes"));
        }
        let id = self.find_asked(id)?;
        self.open_ask(id)?;
        self.answer_ask(id, Answer::Declined { reason: reason.to_owned() })?;
        self.show_asked(id)
    }

    /// A request that waits for the own user's word.
    fn open_ask(&self, id: ObjectId) -> Result<(PartyId, AccessRequest), Failure> {
        let unknown = || Failure::usage(format!("there is no request {}", id.short()));
        let asked = self.requests.asked.get(&id).ok_or_else(unknown)?;
        match &asked.row.answer {
            Some(Answer::Approved { grant }) => {
                Err(Failure::usage(format!("it was approved already, with grant {}", grant.short()))
                    .next(format!("`karte grant revoke {}` ends that grant.", grant.short())))
            }
            Some(Answer::Declined { .. }) => Err(Failure::usage("it was declined already")
                .next("`karte grant add` gives a grant without being asked.")),
            None if self.now >= asked.request.ends_ms() => {
                Err(Failure::refused(format!("the request ended at {}", time_text(asked.request.ends_ms())))
                    .next("Ask for a new one, or give a grant by `karte grant add`."))
            }
            None => Ok((asked.row.from, (*asked.request).clone())),
        }
    }

    fn answer_ask(&mut self, id: ObjectId, answer: Answer) -> Result<(), Failure> {
        if let Some(asked) = self.requests.asked.get_mut(&id) {
            asked.row.answer = Some(answer);
        }
        self.save_asked(id)
    }

    fn find_asked(&self, text: &str) -> Result<ObjectId, Failure> {
        find_id("request", text, self.requests.asked.keys().map(|id| (id.to_hex(), *id)))
    }

    // --- what is due

    pub(super) fn request_duties(&self, party: PartyId) -> Vec<Duty> {
        let asks = self.requests.sent.iter().filter(|(_, sent)| {
            let waits = state_of(sent.row.answer.as_ref(), &sent.request, self.now) == WAITING;
            sent.request.to == party && !sent.row.delivered && waits
        });
        let answers =
            self.requests.asked.iter().filter(|(_, asked)| {
                asked.row.from == party && asked.row.answer.is_some() && !asked.row.told
            });
        asks.map(|(id, _)| Duty::Ask(*id)).chain(answers.map(|(id, _)| Duty::Answer(*id))).collect()
    }

    pub(super) fn ask_message(&self, id: ObjectId) -> Option<Request> {
        let sent = self.requests.sent.get(&id)?;
        Some(Request::Ask { request: sent.row.request.clone() })
    }

    pub(super) fn answer_message(&self, id: ObjectId) -> Option<Request> {
        let answer = self.requests.asked.get(&id)?.row.answer.clone()?;
        Some(Request::Answer { request: id, answer })
    }

    // --- the own user's view

    /// All requests, both ways, oldest first.
    pub(super) fn list_requests(&self) -> Vec<Value> {
        let sent = self.requests.sent.values().map(|sent| (sent.row.at_ms, self.view_sent(sent)));
        let asked = self.requests.asked.values().map(|asked| (asked.row.at_ms, self.view_asked(asked)));
        let mut views: Vec<(UnixMs, Value)> = sent.chain(asked).collect();
        views.sort_by_key(|(at_ms, _)| *at_ms);
        views.into_iter().map(|(_, view)| view).collect()
    }

    pub(super) fn show_request(&self, id: &str) -> Result<Vec<Value>, Failure> {
        let all = self.requests.sent.keys().chain(self.requests.asked.keys());
        let id = find_id("request", id, all.map(|id| (id.to_hex(), *id)))?;
        if self.requests.sent.contains_key(&id) { self.show_sent(id) } else { self.show_asked(id) }
    }

    /// One of ours, with the text that carries it where no connection does.
    fn show_sent(&self, id: ObjectId) -> Result<Vec<Value>, Failure> {
        let Some(sent) = self.requests.sent.get(&id) else { return Ok(vec![]) };
        let mut view = self.view_sent(sent);
        // One that is too long for a text still goes over a connection.
        if let (Some(object), Ok(text)) =
            (view.as_object_mut(), request::to_text(&self.card()?, &sent.request))
        {
            object.insert("text".into(), json!(text));
        }
        Ok(vec![view])
    }

    /// One to us, with how many records it would be now.
    fn show_asked(&self, id: ObjectId) -> Result<Vec<Value>, Failure> {
        let Some(asked) = self.requests.asked.get(&id) else { return Ok(vec![]) };
        let mut view = self.view_asked(asked);
        let covered = self.preview(asked.request.subject, &asked.request.scope, &[])?;
        if let (Some(object), Some(sum)) = (view.as_object_mut(), covered.last()) {
            for name in ["records", "bytes", "kinds"] {
                object.insert(format!("would_cover_{name}"), sum.get(name).cloned().unwrap_or_default());
            }
        }
        Ok(vec![view])
    }

    fn view_sent(&self, sent: &Sent) -> Value {
        let mut view = self.view_request(&sent.request, self.me.party, sent.row.answer.as_ref());
        if let Some(object) = view.as_object_mut() {
            object.insert("direction".into(), json!("sent"));
            object.insert("contact".into(), json!(self.acquaintance(sent.request.to)));
            object.insert("delivered".into(), json!(sent.row.delivered));
        }
        view
    }

    fn view_asked(&self, asked: &Asked) -> Value {
        let mut view = self.view_request(&asked.request, asked.row.from, asked.row.answer.as_ref());
        if let Some(object) = view.as_object_mut() {
            object.insert("direction".into(), json!("received"));
            object.insert("contact".into(), json!(self.acquaintance(asked.row.from)));
            object.insert("told".into(), json!(asked.row.told));
        }
        view
    }

    /// Whether the other party is a contact.
    fn acquaintance(&self, party: PartyId) -> &'static str {
        match self.contacts.get(&party) {
            Some(contact) if contact.row.known => "known",
            Some(_) => "pending",
            None => "unknown",
        }
    }

    fn view_request(
        &self,
        request: &Verified<AccessRequest>,
        from: PartyId,
        answer: Option<&Answer>,
    ) -> Value {
        let (grant, said) = match answer {
            Some(Answer::Approved { grant }) => (Some(grant.to_hex()), ""),
            Some(Answer::Declined { reason }) => (None, reason.as_str()),
            None => (None, ""),
        };
        json!({
            "id": request.id().to_hex(),
            "direction": "",
            "state": state_of(answer, request, self.now),
            "from": from.to_string(),
            "from_name": self.name_of(from),
            "to": request.to.to_string(),
            "to_name": self.name_of(request.to),
            "contact": "",
            "subject": request.subject.to_string(),
            "subject_name": self.name_of(request.subject),
            "scope": view_scope(&request.scope),
            "purpose": request.purpose,
            "basis": request.basis,
            "onward": if request.onward == Onward::Keep { "keep" } else { "no" },
            "expires": span_text(request.duration_ms),
            "offline": span_text(request.offline_ms),
            "reason": request.reason,
            "at": time_text(request.at_ms),
            "answer_by": time_text(request.ends_ms()),
            "answer": said,
            "grant": grant,
        })
    }
}

/// The state of a request nobody has answered yet and that can still be answered.
const WAITING: &str = "waiting";

fn state_of(answer: Option<&Answer>, request: &AccessRequest, now: UnixMs) -> &'static str {
    match answer {
        Some(Answer::Approved { .. }) => "approved",
        Some(Answer::Declined { .. }) => "declined",
        None if now >= request.ends_ms() => "expired",
        None => WAITING,
    }
}
