//! People: contacts and their cards, logs of entries, statuses.

use super::devices::Place;
use super::rows::{CONTACTS, ContactRow, DEVICES, ENTRIES, FORGOTTEN, META, TOP};
use super::select::time_text;
use super::{Effect, Engine, Held};
use crate::failure::Failure;
use karte_protocol::card::{self, Card, Introduced};
use karte_protocol::consent::Library;
use karte_protocol::entry::{Act, Entry};
use karte_protocol::id::{DeviceId, EntryId, PartyId};
use karte_protocol::identity::{Head, PartyLog};
use karte_protocol::limits::{CARD_CHARS_MAX, CLOCK_SKEW_MS_MAX, NAME_BYTES_MAX, SIGNED_BYTES_MAX};
use karte_protocol::message::{self, Bytes, Hello};
use karte_protocol::signed::{Signed, SignedError, Verified};
use karte_protocol::time::UnixMs;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Pending contacts that are kept. Strangers may knock; they may not fill the disk.
const PENDING_MAX: usize = 100;
/// Contacts that are taken by the settings alone. 10,000: a large clinic's patients.
const WELCOME_MAX: usize = 10_000;
/// Longest alias made from a card's name, in bytes; a number may follow.
const ALIAS_BYTES_MAX: usize = 80;
/// Identity entries in the card of a Hello, in bytes: the rest of a signed object is for names, addresses and signature.
const CARD_IDENTITY_BYTES_MAX: usize = SIGNED_BYTES_MAX - 8 * 1024;

/// A party this node knows of.
pub(super) struct Contact {
    pub(super) row: ContactRow,
    pub(super) card: Verified<Card>,
}

impl Engine {
    /// Takes up what the store holds. The signatures of entries were checked when these rows were written, by this node
    /// or by the restore of a backup; the store's seals and chain show that they are those rows.
    pub(super) fn load_people(&mut self) -> Result<(), Failure> {
        let mut verified: Vec<(PartyId, Verified<Entry>)> = Vec::new();
        let mut newer = None;
        self.store.scan_table(ENTRIES, &mut |party, _, bytes| {
            match (PartyId::from_slice(party), Signed::<Entry>::from_bytes(bytes).recall()) {
                (Some(party), Ok(entry)) => verified.push((party, entry)),
                // Passed over, a denial could be among what is not read.
                (_, Err(SignedError::Version(got))) => newer = Some(got),
                _ => {}
            }
            std::ops::ControlFlow::Continue(())
        })?;
        if let Some(got) = newer {
            let what =
                "a log in this folder was written by a newer karte: expected entries of version 1, got";
            return Err(Failure::failed(format!("{what} {got}"))
                .next("Open it with the version of karte that wrote it, or a later one."));
        }
        // In the order in which a log takes them: beginnings, identity, then each chain.
        verified.sort_by_key(|(_, entry)| {
            (entry.by().party.is_some(), entry.by().r#gen, !entry.act.is_identity(), entry.seq)
        });
        let mut logs: BTreeMap<PartyId, PartyLog> = BTreeMap::new();
        loop {
            let before = verified.len();
            verified.retain(|(party, entry)| !taken(&mut logs, *party, entry));
            // A device that another one named may itself have named a third: its naming waits for a further round.
            if verified.is_empty() || verified.len() == before {
                break;
            }
        }
        self.logs.extend(logs.into_iter().map(|(party, log)| (party, Held::of(log))));
        for party in self.logs.keys().copied().collect::<Vec<_>>() {
            self.note_stewards(party);
        }
        for (party, row) in self.rows::<ContactRow>(CONTACTS, TOP)? {
            let Some(party) = PartyId::from_slice(&party) else {
                continue;
            };
            if let Ok(introduced) = card::introduce(&row.card) {
                self.contacts.insert(party, Contact { row, card: introduced.card });
            }
        }
        self.load_heard()
    }

    // --- cards

    /// The own card, fresh.
    pub(super) fn card(&self) -> Result<Verified<Card>, Failure> {
        self.card_with(CARD_IDENTITY_BYTES_MAX, self.card_addresses())
    }

    /// A card whose identity entries, beside those that show this device, take at most `identity_bytes`.
    fn card_with(&self, identity_bytes: usize, addresses: Vec<String>) -> Result<Verified<Card>, Failure> {
        let card = Card {
            name: self.me.name.clone(),
            kind: self.me.kind.clone(),
            addresses,
            identity: card::identity_within(&self.mine().log, &self.device(), identity_bytes),
            // Of two cards of one moment the one with the later addresses is the later one.
            at_ms: self.now.max(self.near.moved_ms()),
        };
        Ok(Verified::sign(card, self.by(), &self.keys.device)?)
    }

    /// The own card as a text that can be taken in: of a party with many entries or addresses only as much as fits. The
    /// greeting brings the rest.
    fn card_text(&self) -> Result<(Verified<Card>, String), Failure> {
        let mut addresses = self.card_addresses();
        let mut card = self.card()?;
        loop {
            let text = card::to_text(&card);
            if text.len() <= CARD_CHARS_MAX || (card.identity.len() <= 1 && addresses.is_empty()) {
                return Ok((card, text));
            }
            let brief = self.card_with(0, addresses.clone())?;
            if brief.identity.len() == card.identity.len() {
                addresses.pop();
            }
            card = self.card_with(0, addresses.clone())?;
        }
    }

    /// The own addresses, and where the stewards are: at most 8 in all.
    fn card_addresses(&self) -> Vec<String> {
        let stewards = self.steward_addresses();
        let own = self.addresses.iter().take(8 - stewards.len().min(8));
        own.chain(&stewards).cloned().collect()
    }

    pub(super) fn show_card(&self) -> Result<Vec<Value>, Failure> {
        let (card, text) = self.card_text()?;
        Ok(vec![json!({
            "party": self.me.party.to_string(),
            "name": self.me.name,
            "kind": self.me.kind,
            "device": self.device().to_hex(),
            "addresses": card.addresses,
            "card": text,
        })])
    }

    /// What opens a connection.
    pub(super) fn hello(&mut self) -> Result<Hello, Failure> {
        // Who may be behind its own log does not say where that log ends: a copy, or a device that has been without
        // its siblings for too long.
        let status = match self.is_sound() && self.may_vouch() {
            true => self.own_status()?.bytes().to_vec(),
            false => vec![],
        };
        Ok(Hello { card: self.card()?.bytes().to_vec().into(), status: status.into() })
    }

    // --- contacts

    pub(super) fn add_contact(&mut self, text: &str, alias: Option<String>) -> Result<Vec<Value>, Failure> {
        let introduced = if text.trim_start().starts_with("karte:") {
            card::from_text(text)?
        } else {
            let party = self.find_contact_or_pending(text)?;
            let row = self.contacts.get(&party).map(|contact| contact.row.card.clone());
            card::introduce(&row.unwrap_or_default())?
        };
        let party = introduced.log.party();
        if party == self.me.party {
            return Err(Failure::usage("that is this node's own card")
                .next("Give it to the other side, and add the card they give you."));
        }
        let alias = match alias {
            Some(wish) => self.wished_alias(&wish, party)?,
            None => self.alias_for(&introduced.card.name, party),
        };
        self.learn_party(&introduced)?;
        self.keep_addresses(&introduced.card)?;
        self.keep_contact(party, introduced.card, alias, true)?;
        self.greet_known(party)?;
        Ok(vec![self.view_contact(party)])
    }

    /// An alias that the own user wishes: theirs to mend if it cannot be.
    fn wished_alias(&self, wish: &str, party: PartyId) -> Result<String, Failure> {
        let alias = wish.trim();
        if alias.is_empty() || alias.len() > NAME_BYTES_MAX || alias.chars().any(char::is_control) {
            return Err(Failure::usage("expected an alias of 1 to 100 bytes").next("Use --as NAME."));
        }
        if is_reserved(alias) || self.is_taken(alias, party) {
            return Err(
                Failure::usage(format!("the alias {alias} is taken")).next("Use --as with another name.")
            );
        }
        Ok(alias.to_owned())
    }

    /// An alias made from the name on a card. A stranger chose that name, so this never fails.
    fn alias_for(&self, name: &str, party: PartyId) -> String {
        let base = alias_from(name);
        let numbered = (2..).map(|n| format!("{base}-{n}"));
        std::iter::once(base.clone())
            .chain(numbered)
            .find(|alias| !self.is_taken(alias, party))
            .unwrap_or(base)
    }

    fn is_taken(&self, alias: &str, by_other_than: PartyId) -> bool {
        self.contacts.iter().any(|(party, contact)| *party != by_other_than && contact.row.alias == alias)
    }

    fn keep_contact(
        &mut self,
        party: PartyId,
        card: Verified<Card>,
        alias: String,
        known: bool,
    ) -> Result<(), Failure> {
        let held = self.contacts.get(&party).map(|contact| &contact.row);
        let since_ms = held.map_or(self.now, |row| row.since_ms);
        let decided = held.is_none_or(|row| row.alias != alias || row.known != known);
        let changed_ms = if decided { self.now } else { held.map_or(0, |row| row.changed_ms) };
        let row = ContactRow { alias, card: card.bytes().to_vec().into(), known, since_ms, changed_ms };
        self.put_contact(party, row, card)?;
        // A card that is fresher reaches the other own devices by the contact itself.
        if decided && known {
            self.delete(DEVICES, FORGOTTEN, party.as_bytes())?;
            self.touch(Place::Contact { party })?;
        }
        Ok(())
    }

    fn put_contact(&mut self, party: PartyId, row: ContactRow, card: Verified<Card>) -> Result<(), Failure> {
        self.put(CONTACTS, TOP, party.as_bytes(), &row)?;
        self.contacts.insert(party, Contact { row, card });
        Ok(())
    }

    /// A contact as another own device decided it, at `at_ms`.
    pub(super) fn keep_told_contact(
        &mut self,
        party: PartyId,
        introduced: Introduced,
        alias: &str,
        at_ms: UnixMs,
    ) -> Result<(), Failure> {
        self.learn_party(&introduced)?;
        self.keep_addresses(&introduced.card)?;
        let alias = self.wished_alias(alias, party).unwrap_or_else(|_| self.alias_for(alias, party));
        let held = self.contacts.remove(&party);
        let card = match held.filter(|held| held.row.known && held.card.at_ms > introduced.card.at_ms) {
            Some(fresher) => fresher.card,
            None => introduced.card,
        };
        let bytes = card.bytes().to_vec().into();
        let row = ContactRow { alias, card: bytes, known: true, since_ms: at_ms, changed_ms: at_ms };
        self.put_contact(party, row, card)?;
        self.delete(DEVICES, FORGOTTEN, party.as_bytes())?;
        self.touch(Place::Contact { party })?;
        self.greet_known(party)
    }

    /// A contact is removed, here or by another own device.
    pub(super) fn forget_contact(&mut self, party: PartyId, at_ms: UnixMs) -> Result<(), Failure> {
        self.contacts.remove(&party);
        self.delete(CONTACTS, TOP, party.as_bytes())?;
        self.forget_greeting(party);
        if self.other_devices().is_empty() {
            return Ok(());
        }
        self.put(DEVICES, FORGOTTEN, party.as_bytes(), &at_ms)?;
        self.touch(Place::Contact { party })
    }

    pub(super) fn remove_contact(&mut self, text: &str) -> Result<Vec<Value>, Failure> {
        let party = self.find_contact_or_pending(text)?;
        if self.has_live_grants_with(party) {
            return Err(Failure::refused(format!(
                "{} still has live grants with this node",
                self.name_of(party)
            ))
            .next("End them first: `karte grant list`, then `karte grant revoke ID`."));
        }
        if self.mine().state.stewards.contains_key(&party) {
            return Err(Failure::refused(format!("{} is a steward of this party", self.name_of(party)))
                .next("`karte steward remove` ends that first."));
        }
        if self.steward.keeping.contains_key(&party) {
            return Err(Failure::refused(format!("this node keeps for {}", self.name_of(party)))
                .next("`karte steward offer CONTACT --end` ends that first, and deletes what is kept."));
        }
        let view = self.view_contact(party);
        self.forget_contact(party, self.now)?;
        Ok(vec![view])
    }

    pub(super) fn show_contacts(&self) -> Vec<Value> {
        self.contacts.keys().map(|party| self.view_contact(*party)).collect()
    }

    fn view_contact(&self, party: PartyId) -> Value {
        let Some(contact) = self.contacts.get(&party) else {
            return json!({ "party": party.to_string() });
        };
        json!({
            "alias": contact.row.alias,
            "name": contact.card.name,
            "kind": contact.card.kind,
            "party": party.to_string(),
            "state": if contact.row.known { "known" } else { "pending" },
            "connected": self.greeted_device(party).is_some(),
            "addresses": contact.card.addresses,
            "standing": self.standing_of(party),
        })
    }

    /// What there is to say of a contact's log; nothing while all is as it began.
    fn standing_of(&self, party: PartyId) -> Option<String> {
        let state = &self.logs.get(&party)?.state;
        if state.disputed {
            return Some("disputed: two recoveries compete, everything of it is denied; ask in person, a new card is a new party".into());
        }
        let when = super::select::time_text(self.recovered_ms(party)?);
        Some(format!(
            "in generation {} since {when}: recovered, or its recovery keys changed",
            state.generation
        ))
    }

    /// A contact's own card as it was last met, to be given to whoever has lost theirs.
    pub(super) fn show_contact_card(&self, text: &str) -> Result<Vec<Value>, Failure> {
        let party = self.find_contact(text)?;
        let card = self.contacts.get(&party).map(|contact| card::to_text(&contact.card));
        Ok(vec![json!({ "alias": self.name_of(party), "party": party.to_string(), "card": card })])
    }

    /// A keeper who approved a recovery becomes a contact: its card came with its signature.
    pub(super) fn take_keeper(&mut self, introduced: Introduced) -> Result<(), Failure> {
        let party = introduced.log.party();
        if party == self.me.party || self.is_known(party) {
            return Ok(());
        }
        let alias = self.alias_for(&introduced.card.name, party);
        self.learn_party(&introduced)?;
        self.keep_contact(party, introduced.card, alias, true)?;
        self.greet_known(party)
    }

    /// A known contact by alias, party id or the beginning of it.
    pub(super) fn find_contact(&self, text: &str) -> Result<PartyId, Failure> {
        let party = self.find_contact_or_pending(text)?;
        if self.is_known(party) {
            return Ok(party);
        }
        Err(Failure::refused(format!("{text} has knocked but is not a contact yet"))
            .next(format!("`karte contact add {text}` makes it one.")))
    }

    pub(super) fn find_contact_or_pending(&self, text: &str) -> Result<PartyId, Failure> {
        let text = text.trim();
        let by_alias = self.contacts.iter().find(|(_, contact)| contact.row.alias == text);
        let mut by_id =
            self.contacts.keys().filter(|party| text.len() >= 10 && party.to_string().starts_with(text));
        match (by_alias, by_id.next(), by_id.next()) {
            (Some((party, _)), _, _) => Ok(*party),
            (None, Some(party), None) => Ok(*party),
            (None, Some(_), Some(_)) => Err(Failure::usage(format!("{text} names more than one contact"))),
            (None, None, _) => Err(Failure::usage(format!("there is no contact {text:?}"))
                .next("`karte contact list` shows all; `karte contact add CARD` adds one.")),
        }
    }

    /// A contact or the own party (`me`).
    pub(super) fn find_subject(&self, text: Option<&str>) -> Result<PartyId, Failure> {
        match text {
            None | Some("me") => Ok(self.me.party),
            Some(own) if own == self.me.party.to_string() => Ok(self.me.party),
            Some(text) => self.find_contact_or_pending(text),
        }
    }

    pub(super) fn is_known(&self, party: PartyId) -> bool {
        self.contacts.get(&party).is_some_and(|contact| contact.row.known)
    }

    /// What to call a party on a screen.
    pub(super) fn name_of(&self, party: PartyId) -> String {
        if party == self.me.party {
            return self.me.name.clone();
        }
        match self.contacts.get(&party) {
            Some(contact) => contact.row.alias.clone(),
            None => party.to_string().chars().take(16).collect(),
        }
    }

    /// A party that dialled: a known contact is learned from; a stranger becomes a pending contact, within
    /// bounds, or a known one if the settings say so. True if it may go on.
    pub(super) fn meet(&mut self, introduced: Introduced) -> Result<bool, Failure> {
        let party = introduced.log.party();
        if party == self.me.party {
            return self.meet_own(introduced);
        }
        if self.is_known(party) {
            self.learn_party(&introduced)?;
            let signer = introduced.card.by().device;
            if !self.logs.get(&party).is_some_and(|held| held.state.has_device(&signer)) {
                // A device that was removed: its card leaves out the entry that removed it.
                self.farewell(signer, party);
                return Ok(false);
            }
            self.keep_addresses(&introduced.card)?;
            self.refresh_card(party, introduced.card)?;
            return Ok(true);
        }
        if self.is_guest(party) {
            // A reader for whom something is kept, or a steward: heard, and no contact.
            self.learn_party(&introduced)?;
            let signer = introduced.card.by().device;
            return Ok(self.logs.get(&party).is_some_and(|held| held.state.has_device(&signer)));
        }
        if self.contacts.contains_key(&party) && !self.policy.accept_contacts {
            // It waits already; knocking again writes nothing.
            return Ok(false);
        }
        let kept =
            self.contacts.values().filter(|contact| contact.row.known == self.policy.accept_contacts).count();
        let (known, most) = match self.policy.accept_contacts {
            true => (true, WELCOME_MAX),
            false => (false, PENDING_MAX),
        };
        if kept >= most {
            tracing::warn!(most, "a stranger knocked and was not kept");
            return Ok(false);
        }
        let alias = self.alias_for(&introduced.card.name, party);
        let hint = if known { "is a contact now" } else { "knocked: `karte contact add` lets it in" };
        self.notice(format!("{alias} {hint}"));
        if known {
            self.learn_party(&introduced)?;
            self.keep_addresses(&introduced.card)?;
        }
        self.keep_contact(party, introduced.card, alias, known)?;
        Ok(known)
    }

    fn refresh_card(&mut self, party: PartyId, card: Verified<Card>) -> Result<(), Failure> {
        let Some(contact) = self.contacts.get(&party) else {
            return Ok(());
        };
        let changed = !card.addresses.is_empty()
            && (contact.card.addresses != card.addresses
                || contact.card.name != card.name
                || contact.card.identity != card.identity);
        // Two of one moment: entries only ever come to a party, so the one with more of them is the later.
        let order = |card: &Verified<Card>| (card.at_ms, card.identity.len());
        let timely =
            order(&card) > order(&contact.card) && card.at_ms <= self.now.saturating_add(CLOCK_SKEW_MS_MAX);
        if changed && timely {
            let alias = contact.row.alias.clone();
            self.keep_contact(party, card, alias, true)?;
            if self.mine().state.stewards.contains_key(&party) {
                self.card_changed();
            }
        }
        Ok(())
    }

    fn learn_party(&mut self, introduced: &Introduced) -> Result<(), Failure> {
        let party = introduced.log.party();
        let entries: Vec<Verified<Entry>> = introduced.log.in_order().into_iter().cloned().collect();
        if let Some(genesis) = entries.first().filter(|_| !self.logs.contains_key(&party)) {
            if let Ok(log) = PartyLog::start(genesis.clone()) {
                self.logs.insert(party, Held::of(log));
            }
            let id = EntryId::from(genesis.id());
            self.put_bytes(ENTRIES, party.as_bytes(), id.as_bytes(), genesis.bytes().to_vec())?;
        }
        self.take_entries(party, entries).map(drop)
    }

    // --- logs

    /// Takes entries of a log we follow, and acts on what they end.
    /// Says whether any was new.
    pub(super) fn take_entries(
        &mut self,
        of: PartyId,
        entries: Vec<Verified<Entry>>,
    ) -> Result<bool, Failure> {
        let mut news = Vec::new();
        for entry in entries {
            let bytes = Bytes::from(entry.bytes().to_vec());
            if self.take_entry(of, entry)? {
                news.push(bytes);
            }
        }
        if !news.is_empty() {
            let before = self.generation_of(of);
            self.refresh(of);
            self.tell_of_recovery(of, before)?;
            self.recheck_status(of)?;
            // Passed on before it ends what it ends here: afterwards nobody shares this log any more.
            self.forward(of, &news);
            self.honour_ends(of)?;
            self.settle_kept(of)?;
            self.leave_ended_devices(of);
        }
        Ok(!news.is_empty())
    }

    pub(super) fn verify_entries(entries: &[Bytes]) -> Vec<Verified<Entry>> {
        entries.iter().filter_map(|bytes| Signed::<Entry>::from_bytes(bytes.to_vec()).verify().ok()).collect()
    }

    /// Entries of a log beyond what a peer holds, in an order it can add; and whether more are left.
    pub(super) fn entries_beyond(&self, of: PartyId, have: &[Head]) -> (Vec<Bytes>, bool) {
        let Some(held) = self.logs.get(&of) else {
            return (vec![], false);
        };
        let beyond = held.log.beyond(have);
        let entries = in_one_message(&beyond);
        let more = entries.len() < beyond.len();
        (entries, more)
    }

    /// How far each chain of a party is held without a gap.
    pub(super) fn ends_of(&self, party: PartyId) -> Vec<Head> {
        self.logs.get(&party).map(|held| held.log.held_ends()).unwrap_or_default()
    }

    // --- library

    /// The library statement that counts.
    pub(super) fn published_library(&self) -> Result<Option<Verified<Library>>, Failure> {
        match self.store.get(META, TOP, b"library")? {
            Some(bytes) => Ok(Some(Signed::<Library>::from_bytes(bytes).verify()?)),
            None => Ok(None),
        }
    }

    // --- the own user's view

    pub(super) fn show_status(&self) -> Result<Vec<Value>, Failure> {
        let records = self.count_records()?;
        let stats = self.store.stats();
        Ok(vec![json!({
            "party": self.me.party.to_string(),
            "name": self.me.name,
            "kind": self.me.kind,
            "device": self.device().to_hex(),
            "version": env!("CARGO_PKG_VERSION"),
            "daemon": self.policy.live,
            "listening": self.addresses,
            "peers": self.show_peers().len(),
            "contacts": self.contacts.values().filter(|contact| contact.row.known).count(),
            "pending": self.contacts.values().filter(|contact| !contact.row.known).count(),
            "records": records.0 + records.1,
            "own": records.0,
            "received": records.1,
            "grants": self.given.len() + self.got.len(),
            "journal_bytes": stats.journal_bytes,
            "started": self.started,
            "standing": self.show_standing(),
            "clock": if self.is_clock_behind() { "behind" } else { "right" },
            "standing_next": self.require_sound().err().map(|failure| {
                format!("{}. {}", failure.message, failure.next.unwrap_or_default())
            }),
            "recovery": self.recovery_summary(),
            "keeping": self.keeping_summary(),
            "devices": self.mine().state.devices.len(),
            "devices_forked": self.mine().state.forks.keys().map(DeviceId::to_hex).collect::<Vec<_>>(),
            "vouches": self.is_sound() && self.may_vouch(),
            "synced": self.own_heard_ms().filter(|_| !self.other_devices().is_empty()).map(time_text),
            "to_fetch": self.records_to_fetch(),
        })])
    }

    pub(super) fn dial(&mut self, party: PartyId) -> bool {
        if party == self.me.party {
            return self.dial_own();
        }
        let (Some(held), Some(contact)) = (self.logs.get(&party), self.contacts.get(&party)) else {
            return false;
        };
        let devices: Vec<DeviceId> = held.state.devices.keys().copied().collect();
        let mut addresses = super::steward::own_addresses(&contact.card.addresses);
        let at = devices.iter().map(|device| (*device, self.addresses_of(device)));
        let at: BTreeMap<_, _> = at.filter(|(_, addresses)| !addresses.is_empty()).collect();
        for more in at.values().flatten() {
            if !addresses.contains(more) {
                addresses.push(more.clone());
            }
        }
        if addresses.is_empty() {
            return false;
        }
        self.out.push(Effect::Dial { party, devices, addresses, at });
        true
    }
}

/// Entries for one message: as many as fit, from the first.
pub(super) fn in_one_message(entries: &[&Verified<Entry>]) -> Vec<Bytes> {
    let many = message::fitting(entries.iter().map(|entry| entry.bytes().len()));
    entries.iter().take(many).map(|entry| Bytes::from(entry.bytes().to_vec())).collect()
}

/// Puts a kept entry into its log, or begins that; false if something it needs is not there yet.
fn taken(logs: &mut BTreeMap<PartyId, PartyLog>, party: PartyId, entry: &Verified<Entry>) -> bool {
    match logs.get_mut(&party) {
        Some(_) if wrong!(RevocationForgotten) && is_revoke(entry) => true,
        Some(log) => log.add(entry.clone()).is_ok(),
        None => PartyLog::start(entry.clone()).map(|log| logs.insert(party, log)).is_ok(),
    }
}

fn is_revoke(entry: &Entry) -> bool {
    matches!(entry.act, Act::Revoke { .. })
}

/// `Sakura Clinic` → `sakura-clinic`.
fn alias_from(name: &str) -> String {
    let words: Vec<String> = name
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let mut alias = words.join("-");
    while alias.len() > ALIAS_BYTES_MAX {
        alias.pop();
    }
    match alias {
        alias if alias.is_empty() => "contact".into(),
        alias if is_reserved(&alias) => format!("contact-{alias}"),
        alias => alias,
    }
}

/// Words that name something else on the command line.
fn is_reserved(alias: &str) -> bool {
    alias == "me" || alias.starts_with("karte1") || alias.starts_with("karte:")
}
