//! seal → store: the findings of a group become sealed records, on all cores.
//!
//! For: hashing, leaving out what is known, sealing, and payloads that are written and not yet durable. Not for: making
//! them so, or their rows ([`super::settle`]).

use super::Node;
use super::cores::on_enough;
use super::outlines::{ALONE_BYTES_MAX, hash_of_file};
use crate::engine::{Answer, Input, Known, NewRecord, Wanted, author_of, source_key};
use crate::failure::Failure;
use crate::import::{Body, Facts, Finding};
use karte_protocol::id::{Digest, PartyId, RecordId, digest};
use karte_protocol::label::{Code, Effective, Group, Label, seal_label};
use karte_protocol::limits::SLICE_BYTES_MAX;
use karte_protocol::rank::ORDINARY;
use karte_protocol::seal::{Sealed, seal_held, seal_large};
use karte_protocol::shelf::Handed;
use karte_protocol::signed::{Signed, Verified};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// The bytes of a finding that stand in memory while its group is sealed. A longer file is read when its turn comes,
/// twice: to be hashed, and to be sealed.
pub(super) fn held_bytes(body: &Body) -> u64 {
    match body {
        Body::Memory(bytes) => bytes.len() as u64,
        Body::File(_, bytes) if *bytes <= ALONE_BYTES_MAX => *bytes,
        Body::File(..) => 0,
    }
}

fn body_bytes(body: &Body) -> u64 {
    match body {
        Body::Memory(bytes) => bytes.len() as u64,
        Body::File(_, bytes) => *bytes,
    }
}

/// What came of a group.
pub(super) struct SealedGroup {
    /// The new ones. Their payloads are written.
    pub(super) records: Vec<NewRecord>,
    /// What is known once they are in the library.
    pub(super) known: Known,
    /// Findings that could be read, new or not.
    pub(super) found: u64,
    /// Origins of those that could not be sealed, and why.
    pub(super) refused: Vec<(String, String)>,
}

/// Seals groups of findings about one subject.
pub(super) struct Sealing<'a> {
    pub(super) node: &'a Node,
    pub(super) subject: PartyId,
    pub(super) urgency: Option<String>,
}

/// A finding and blake3 of its bytes.
struct Hashed {
    hash: Digest,
    finding: Finding,
    /// The bytes of a file that is not read again.
    held: Option<Zeroizing<Vec<u8>>>,
    /// The label it was exported with, once that has been found true.
    proven: Option<Verified<Label>>,
}

impl Hashed {
    fn source(&self) -> Option<Digest> {
        let facts = &self.finding.facts;
        let id = facts.source_id.as_deref().filter(|_| facts.replaces_same_source)?;
        Some(source_key(&facts.kind, id))
    }
}

/// What can be sealed now, and what has to wait because it names a record of this wave: one that it was made from,
/// or an earlier state of the same source.
fn next_wave(group: Vec<Hashed>) -> (Vec<Hashed>, Vec<Hashed>) {
    let unsealed: BTreeSet<[u8; 32]> = group.iter().map(|one| *one.hash.as_bytes()).collect();
    let mut sources = BTreeSet::new();
    let waits = |one: &Hashed, sources: &mut BTreeSet<Digest>| {
        one.finding.facts.derived_from.iter().any(|hash| unsealed.contains(hash))
            || one.source().is_some_and(|source| !sources.insert(source))
    };
    let (later, now): (Vec<_>, Vec<_>) = group.into_iter().partition(|one| waits(one, &mut sources));
    // Two that are made from each other: neither can name the other, so neither waits.
    if now.is_empty() { (later, now) } else { (now, later) }
}

impl Sealing<'_> {
    /// Seals what is new. `recent` is what is known of a group that may not be in the library yet.
    pub(super) fn seal_group(&self, group: Vec<Finding>, recent: &Known) -> Result<SealedGroup, Failure> {
        let (mut hashed, mut refused) = (Vec::with_capacity(group.len()), Vec::new());
        let looked_at = on_enough(&group, |one| body_bytes(&one.bytes), look_at)?;
        for (finding, looked_at) in group.into_iter().zip(looked_at) {
            match looked_at {
                Ok((hash, held, proven)) => hashed.push(Hashed { hash, finding, held, proven }),
                Err(reason) => refused.push((finding.origin, reason)),
            }
        }
        let found = hashed.len() as u64;
        let mut known = self.ask_known(&hashed)?;
        // It is newer than anything the engine had when it answered.
        known.plaintexts.extend(&recent.plaintexts);
        known.sources.extend(&recent.sources);
        let mut seen = BTreeSet::new();
        hashed.retain(|one| !known.plaintexts.contains_key(&one.hash) && seen.insert(one.hash));
        let (mut records, mut fresh) = (Vec::with_capacity(hashed.len()), Known::default());
        while !hashed.is_empty() {
            let (now, later) = next_wave(hashed);
            let bytes = |one: &Hashed| body_bytes(&one.finding.bytes);
            let wave = on_enough(&now, bytes, |one| self.seal_one(one, &known))?;
            for (one, record) in now.iter().zip(wave) {
                let record = record?;
                let id = record.handed.record;
                fresh.plaintexts.insert(one.hash, id);
                if let Some(source) = record.source.filter(|_| record.replaced_by.is_none()) {
                    fresh.sources.insert(source, (id, record.label.bytes));
                }
                records.push(record);
            }
            known.plaintexts.extend(&fresh.plaintexts);
            known.sources.extend(&fresh.sources);
            hashed = later;
        }
        Ok(SealedGroup { records, known: fresh, found, refused })
    }

    fn ask_known(&self, hashed: &[Hashed]) -> Result<Known, Failure> {
        let derived = hashed.iter().flat_map(|one| &one.finding.facts.derived_from);
        let plaintexts =
            hashed.iter().map(|one| one.hash).chain(derived.map(|hash| Digest::from(*hash))).collect();
        let sources = hashed.iter().filter_map(Hashed::source).collect();
        let (subject, wanted) = (self.subject, Wanted { plaintexts, sources });
        match self.node.ask_blocking(|ticket| Input::AreKnown(ticket, subject, wanted))? {
            Answer::Known(known) => Ok(known),
            _ => Ok(Known::default()),
        }
    }

    fn seal_one(&self, one: &Hashed, known: &Known) -> Result<NewRecord, Failure> {
        let finding = &one.finding;
        let sealed = self.seal_payload(one)?;
        let shared = &self.node.shared;
        if let (Some(label), Some(proof)) = (&one.proven, &finding.facts.proof) {
            let sealed_label = seal_label(label, &proof.identity, &sealed.file_key)?;
            return Ok(new_record(sealed, label.clone(), sealed_label, None, None));
        }
        let source = one.source();
        let earlier = source.and_then(|source| known.sources.get(&source)).copied();
        // The longer one is the fuller day; of two that differ and are as long, the one that comes later.
        let (replaces, replaced_by) = match earlier {
            Some((record, bytes)) if bytes > sealed.plaintext_bytes => (None, Some(record)),
            Some((record, _)) => (Some(record), None),
            None => (None, None),
        };
        let derived = finding.facts.derived_from.iter();
        let label = Label {
            replaces: replaces.into_iter().collect(),
            derived_from: derived
                .filter_map(|hash| known.plaintexts.get(&Digest::from(*hash)).copied())
                .collect(),
            urgency: self.urgency.clone(),
            ..label_of(self.subject, &finding.facts, &sealed)
        };
        let (by, identity) = shared.signs();
        let label = Verified::sign(label, by, &shared.keys.device)?;
        let sealed_label = seal_label(&label, &identity, &sealed.file_key)?;
        Ok(new_record(sealed, label, sealed_label, source, replaced_by))
    }

    fn seal_payload(&self, one: &Hashed) -> Result<Sealed, Failure> {
        let in_memory = match (&one.held, &one.finding.bytes) {
            (Some(bytes), _) => Ok(bytes.as_slice()),
            (None, Body::Memory(bytes)) => Ok(bytes.as_slice()),
            (None, Body::File(path, _)) => Err(path),
        };
        let sealed = match in_memory {
            Ok(bytes) if bytes.len() as u64 <= ALONE_BYTES_MAX => self.seal_whole(bytes, one.hash)?,
            Ok(bytes) => self.seal_in_pieces(bytes)?,
            Err(path) => self.seal_in_pieces(File::open(path).map_err(not_read)?)?,
        };
        if sealed.payload_bytes > SLICE_BYTES_MAX {
            self.node.shared.outlines.keep(sealed.outline.clone());
        }
        Ok(sealed)
    }

    fn seal_whole(&self, plaintext: &[u8], hash: Digest) -> Result<Sealed, Failure> {
        let (sealed, payload) = seal_held(plaintext, hash)?;
        self.node.shared.blobs.put(sealed.record.as_bytes(), &payload)?;
        Ok(sealed)
    }

    fn seal_in_pieces(&self, plaintext: impl Read) -> Result<Sealed, Failure> {
        let mut writer = self.node.shared.blobs.create_unhashed()?;
        let sealed = seal_large(plaintext, &mut writer)?;
        writer.finish_as(sealed.record.as_bytes())?;
        Ok(sealed)
    }
}

/// A finding's hash, its bytes if it is a file that is read only once, and the label it was exported with.
type LookedAt = (Digest, Option<Zeroizing<Vec<u8>>>, Option<Verified<Label>>);

fn look_at(finding: &Finding) -> Result<LookedAt, String> {
    let read = match &finding.bytes {
        Body::Memory(bytes) => Ok((digest(bytes), None)),
        Body::File(path, bytes) => read_and_hash(path, *bytes),
    };
    let (hash, held) = read.map_err(|error| format!("it cannot be read: {error}"))?;
    Ok((hash, held, proven(finding, &hash)?))
}

fn read_and_hash(path: &Path, bytes: u64) -> std::io::Result<(Digest, Option<Zeroizing<Vec<u8>>>)> {
    if bytes <= ALONE_BYTES_MAX {
        // One more than there should be, so that its end is met without growing.
        let room = usize::try_from(bytes).unwrap_or_default().saturating_add(1);
        let mut held = Zeroizing::new(Vec::with_capacity(room));
        File::open(path)?.take(ALONE_BYTES_MAX.saturating_add(1)).read_to_end(&mut held)?;
        if held.len() as u64 <= ALONE_BYTES_MAX {
            return Ok((digest(&held), Some(held)));
        }
        // It grew since it was listed.
    }
    Ok((hash_of_file(path)?, None))
}

fn new_record(
    sealed: Sealed,
    label: Verified<Label>,
    sealed_label: Vec<u8>,
    source: Option<Digest>,
    replaced_by: Option<RecordId>,
) -> NewRecord {
    let handed = Handed {
        record: sealed.record,
        bytes: sealed.payload_bytes,
        file_key: sealed.file_key,
        label_hash: digest(&sealed_label),
        rank: ORDINARY,
    };
    NewRecord { handed, label, sealed_label, source, replaced_by }
}

/// The label a finding was exported with: signed by a device of the party whose identity came along, and about these
/// bytes.
fn proven(finding: &Finding, hash: &Digest) -> Result<Option<Verified<Label>>, String> {
    let Some(proof) = &finding.facts.proof else { return Ok(None) };
    let label = Signed::<Label>::from_bytes(proof.label.clone())
        .verify()
        .map_err(|error| format!("its label does not hold: {error}"))?;
    let author = author_of(&label, &proof.identity);
    if author.is_none() || label.by().party != author {
        return Err("its author's signature cannot be traced".into());
    }
    if label.hash != *hash {
        return Err("its bytes are not those its author signed".into());
    }
    Ok(Some(label))
}

fn label_of(subject: PartyId, facts: &Facts, sealed: &Sealed) -> Label {
    Label {
        categories: facts.categories.clone(),
        codes: facts
            .codes
            .iter()
            .map(|code| Code { system: code.system.clone(), code: code.code.clone() })
            .collect(),
        effective: facts.effective.map(|time| Effective {
            start_ms: time.start_ms,
            end_ms: time.end_ms,
            offset_min: time.offset_min,
        }),
        full_url: facts.full_url.clone(),
        source_id: facts.source_id.clone(),
        profiles: facts.profiles.clone(),
        sensitivity: facts.sensitivity.clone(),
        group: facts.group.as_ref().map(|group| Group {
            study: group.study.clone(),
            series: group.series.clone(),
            instance: group.instance.clone(),
            position: group.position,
        }),
        ..Label::new(subject, &facts.kind, &facts.title, &facts.media_type, sealed)
    }
}

fn not_read(error: std::io::Error) -> Failure {
    Failure::failed(format!("a file cannot be read any more: {error}"))
}
