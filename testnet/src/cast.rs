//! Who is in the stories of a small world, and what they usually do, so that a test says only what is special in it.

use crate::world::{Draft, World};
use karte_node::command::{Command, Filter, NewGrant};
use karte_node::engine::Policy;
use karte_node::failure::Failure;
use karte_protocol::time::{DAY_MS, UnixMs};

/// A patient's daemon: its user decides.
pub const DAEMON: Policy = Policy { accept_contacts: false, accept_grants: false, adopt: false, live: true };
/// A clinic's daemon: it takes whoever knocks and whatever is offered.
pub const CLINIC: Policy = Policy { accept_contacts: true, accept_grants: true, adopt: false, live: true };

/// Acts only when told to, as `karte sync` without a daemon.
pub const BY_HAND: Policy = Policy { live: false, ..CLINIC };

/// A laboratory value: creatinine, by its LOINC code.
pub fn lab(text: &str, at_ms: UnixMs) -> Draft<'_> {
    Draft { kind: "fhir/Observation", category: "laboratory", code: "2160-0", at_ms, text }
}

/// All records.
pub fn list() -> Command {
    Command::RecordList(Filter::default())
}

/// Exchanges everything with a contact.
pub fn sync(contact: &str) -> Command {
    Command::Sync { contact: Some(contact.into()), staff: "nurse Lim".into() }
}

/// Opens a record.
pub fn open(id: impl ToString) -> Command {
    Command::RecordOpen { id: id.to_string(), age: false, staff: "Dr Sato".into() }
}

/// All observations, for 90 days, and 7 without a word from the holder.
pub fn observations_to(contact: &str) -> NewGrant {
    NewGrant {
        contact: contact.into(),
        scope: Filter { kinds: vec!["fhir/Observation".into()], ..Filter::default() },
        purpose: "TREAT".into(),
        basis: "consent".into(),
        expires_ms: 90 * DAY_MS,
        offline_ms: 7 * DAY_MS,
        ..NewGrant::default()
    }
}

impl World {
    /// One takes another's card, under its name, and they meet.
    pub fn introduce(&mut self, one: &str, other: &str) -> Result<(), Failure> {
        self.take_card(one, other)?;
        self.items(one, sync(other)).map(drop)
    }

    /// One takes another's card, under its name: it may come in from now on.
    pub fn take_card(&mut self, one: &str, other: &str) -> Result<(), Failure> {
        let shown = self.items(other, Command::Card)?;
        let card = shown.first().and_then(|item| item["card"].as_str()).unwrap_or_default().to_owned();
        self.items(one, Command::ContactAdd { card, alias: Some(other.into()) }).map(drop)
    }
}
