//! Sealed labels that arrive: opened, and traced to their author.
//!
//! For: everything that can be said of a label without knowing more than its key, so that it can be said on any thread.
//! Not for: scope and rows.

use karte_protocol::entry::Entry;
use karte_protocol::id::{DeviceId, Digest, PartyId, RecordId, digest};
use karte_protocol::identity::PartyLog;
use karte_protocol::label::{self, Label};
use karte_protocol::seal;
use karte_protocol::shelf::Handed;
use karte_protocol::signed::{Signed, Verified};
use std::collections::{BTreeMap, BTreeSet};

/// Authors that are remembered. 64: a study has one, a patient's whole chart some dozen.
const AUTHORS_MAX: usize = 64;

/// A record that is here and durable.
pub struct Arrival {
    /// The record.
    pub record: RecordId,
    /// Its sealed label, as it came.
    pub label: Vec<u8>,
    /// What [`judge`] said of it, if it was asked already.
    pub judged: Option<Result<Verified<Label>, String>>,
}

impl From<(RecordId, Vec<u8>)> for Arrival {
    fn from((record, label): (RecordId, Vec<u8>)) -> Self {
        Self { record, label, judged: None }
    }
}

impl Arrival {
    /// The label, judged now if it was not before.
    pub(super) fn judge(
        &mut self,
        handed: &Handed,
        authors: &mut Authors,
    ) -> Result<Verified<Label>, String> {
        self.judged.take().unwrap_or_else(|| judge(handed, &self.label, authors))
    }
}

/// Whose labels were traced lately: a label carries its author's identity entries, and those of one author are the same
/// bytes a thousand times over.
#[derive(Default)]
pub(crate) struct Authors(BTreeMap<Digest, (PartyId, BTreeSet<DeviceId>)>);

impl Authors {
    /// The party whose identity entries name the device that signed the label.
    fn author_of(&mut self, label: &Verified<Label>, identity: &[Vec<u8>]) -> Option<PartyId> {
        let mut hasher = blake3::Hasher::new();
        for entry in identity {
            hasher.update(&(entry.len() as u64).to_le_bytes()).update(entry);
        }
        let key = Digest::from(hasher.finalize());
        if !self.0.contains_key(&key) {
            if self.0.len() >= AUTHORS_MAX {
                self.0.clear();
            }
            self.0.insert(key, named_by(identity)?);
        }
        let (party, devices) = self.0.get(&key)?;
        devices.contains(&label.by().device).then_some(*party)
    }
}

/// The party whose identity entries name the device that signed the label.
pub(crate) fn author_of(label: &Verified<Label>, identity: &[Vec<u8>]) -> Option<PartyId> {
    Authors::default().author_of(label, identity)
}

/// The party that identity entries are of, and its devices by them.
fn named_by(identity: &[Vec<u8>]) -> Option<(PartyId, BTreeSet<DeviceId>)> {
    let mut entries = identity.iter().map(|bytes| Signed::<Entry>::from_bytes(bytes.clone()).verify());
    let mut log = PartyLog::start(entries.next()?.ok()?).ok()?;
    for entry in entries {
        log.add(entry.ok()?).ok()?;
    }
    Some((log.party(), log.state().devices.keys().copied().collect()))
}

/// Opens a label that came with a record, and believes it: it is the one that was handed over, of a device of its
/// author, and names the payload's length.
pub(crate) fn judge(
    handed: &Handed,
    sealed: &[u8],
    authors: &mut Authors,
) -> Result<Verified<Label>, String> {
    if digest(sealed) != handed.label_hash {
        return Err("its label is not the one that was handed over".into());
    }
    let opened = label::open_label(sealed, &handed.file_key).map_err(|error| error.to_string())?;
    authors
        .author_of(&opened.label, &opened.identity)
        .filter(|author| opened.label.is_by(*author))
        .ok_or("its author's signature cannot be traced")?;
    if seal::payload_bytes(opened.label.bytes) != handed.bytes {
        return Err("its length is not the one its label names".into());
    }
    Ok(opened.label)
}
