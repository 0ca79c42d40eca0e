//! The library: own records, what received ones there are, and selecting among them.

use super::reading::opening_of;
use super::rows::{
    CAME_BY, KEPT_FOR, KNOWN, LABELS, OWN, OWN_SHELF, OwnRow, RECEIVED, REPLACED, ReceivedRow, SEGMENTS,
    SOURCES, TOP,
};
use super::select::Selection;
use super::{Engine, Known, Opening, Wanted, decode_row};
use crate::command::Filter;
use crate::failure::Failure;
use crate::store::{Batch, Sealer};
use karte_protocol::encoding;
use karte_protocol::id::{Digest, GrantId, PartyId, RecordId, digest};
use karte_protocol::label::Label;
use karte_protocol::limits::SEGMENT_RECORDS_MAX;
use karte_protocol::message::{Bytes, SegmentAndKeys};
use karte_protocol::rank::ORDINARY;
use karte_protocol::seal::FileKey;
use karte_protocol::shelf::{self, Handed, Segment, Shelf};
use karte_protocol::signed::{Signed, Verified};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A record that was sealed at import and whose payload is durable.
pub struct NewRecord {
    /// What a shelf hands over for it.
    pub handed: Handed,
    /// Its label.
    pub label: Verified<Label>,
    /// The same, sealed.
    pub sealed_label: Vec<u8>,
    /// [`super::source_key`], if a fuller one from the same source may take its place one day.
    pub source: Option<Digest>,
    /// A fuller record of the same source that was here before: this one is kept, but not shown with the others.
    pub replaced_by: Option<RecordId>,
}

/// A record as the own user may see it.
pub(super) struct Seen {
    pub(super) record: RecordId,
    pub(super) label: Verified<Label>,
    pub(super) handed: Handed,
    /// The grant it came under; none for an own record.
    pub(super) grant: Option<GrantId>,
}

impl Seen {
    /// Who signed its label.
    pub(super) fn author(&self) -> PartyId {
        self.label.by().party.unwrap_or(self.label.subject)
    }
}

impl Engine {
    /// Which of these plaintexts are own records already, and what is newest of these sources.
    pub(super) fn known_of(&self, subject: PartyId, wanted: &Wanted) -> Result<Known, Failure> {
        let named = |table, name: &Digest| -> Result<Option<RecordId>, Failure> {
            let row = self.store.get(table, subject.as_bytes(), name.as_bytes())?;
            Ok(row.and_then(|id| RecordId::from_slice(&id)))
        };
        let mut known = Known::default();
        for hash in &wanted.plaintexts {
            if let Some(record) = named(KNOWN, hash)? {
                known.plaintexts.insert(*hash, record);
            }
        }
        for source in &wanted.sources {
            if let Some(record) = named(SOURCES, source)?
                && let Some(row) = self.own_row(&record)?
            {
                known.sources.insert(*source, (record, recall_label(&row.label)?.bytes));
            }
        }
        Ok(known)
    }

    /// Takes sealed records into the library and onto every shelf they belong to. Gives how many were new.
    pub(super) fn take_records(&mut self, records: Vec<NewRecord>) -> Result<u64, Failure> {
        let mut fresh = Vec::new();
        let mut twice = Vec::new();
        let mut seen = BTreeSet::new();
        for record in records {
            let (subject, hash) = (record.label.subject, record.label.hash);
            let known = self.store.get(KNOWN, subject.as_bytes(), hash.as_bytes())?.is_some();
            if known || !seen.insert((subject, hash)) {
                twice.push(record.handed.record);
            } else {
                fresh.push(record);
            }
        }
        for record in &fresh {
            let row = OwnRow {
                file_key: serde_bytes::ByteArray::new(*record.handed.file_key.expose_bytes()),
                payload_bytes: record.handed.bytes,
                label: record.label.bytes().to_vec().into(),
                label_hash: record.handed.label_hash,
                at_ms: self.now,
                from: None,
            };
            let id = record.handed.record;
            let mut batch = Batch::default();
            batch.put(LABELS, TOP, id.as_bytes(), record.sealed_label.clone());
            batch.put(OWN, TOP, id.as_bytes(), encoding::encode(&row)?);
            batch.put(
                KNOWN,
                record.label.subject.as_bytes(),
                record.label.hash.as_bytes(),
                id.as_bytes().to_vec(),
            );
            if let Some(source) = record.source.filter(|_| record.replaced_by.is_none()) {
                let subject = record.label.subject;
                batch.put(SOURCES, subject.as_bytes(), source.as_bytes(), id.as_bytes().to_vec());
            }
            for old in &record.label.replaces {
                batch.put(REPLACED, TOP, old.as_bytes(), id.as_bytes().to_vec());
            }
            if let Some(by) = record.replaced_by {
                batch.put(REPLACED, TOP, id.as_bytes(), by.as_bytes().to_vec());
            }
            self.write(batch)?;
        }
        let ids: Vec<RecordId> = fresh.iter().map(|record| record.handed.record).collect();
        self.shelve_own(fresh.iter().map(|record| record.handed.clone()).collect())?;
        self.shelve_new(&ids)?;
        if !twice.is_empty() {
            self.out.push(super::Effect::Drop(twice));
        }
        Ok(u64::try_from(fresh.len()).unwrap_or_default())
    }

    /// Takes a received record into the own library: same payload, same author's signature.
    pub(super) fn adopt(&mut self, seen: &Seen) -> Result<bool, Failure> {
        let known =
            self.store.get(KNOWN, seen.label.subject.as_bytes(), seen.label.hash.as_bytes())?.is_some();
        let grant = seen.grant.unwrap_or_else(|| GrantId::from([0; 32]));
        let label = self.store.get(LABELS, grant.as_bytes(), seen.record.as_bytes())?;
        let Some(label) = label.filter(|label| digest(label) == seen.handed.label_hash) else {
            return Ok(false);
        };
        if known || self.store.get(OWN, TOP, seen.record.as_bytes())?.is_some() {
            return Ok(false);
        }
        let row = OwnRow {
            file_key: serde_bytes::ByteArray::new(*seen.handed.file_key.expose_bytes()),
            payload_bytes: seen.handed.bytes,
            label: seen.label.bytes().to_vec().into(),
            label_hash: seen.handed.label_hash,
            at_ms: self.now,
            from: seen.grant,
        };
        // Not noted as known by its hash: nobody has compared that hash with the plaintext yet, and a false one
        // would keep the true document out.
        let mut batch = Batch::default();
        batch.put(OWN, TOP, seen.record.as_bytes(), encoding::encode(&row)?);
        batch.put(LABELS, TOP, seen.record.as_bytes(), label);
        self.write(batch)?;
        self.shelve_own(vec![seen.handed.clone()])?;
        self.shelve_new(&[seen.record])?;
        Ok(true)
    }

    /// Hands new records to the own devices and the recovery identity, through the own shelf.
    fn shelve_own(&mut self, handed: Vec<Handed>) -> Result<(), Failure> {
        for part in handed.chunks(SEGMENT_RECORDS_MAX) {
            let Some(published) = self.published_library()? else {
                return Ok(());
            };
            let (number, library) = (published.n, published.recipient.clone());
            let (seq, prev) = self.own_shelf_end()?;
            let keys = shelf::seal_keys(part, &[library])?;
            let segment = Segment {
                shelf: Shelf::Own { library: number },
                seq,
                prev,
                records: part.iter().map(|item| item.record).collect(),
                withdrawn: vec![],
                keys_hash: digest(&keys),
            };
            let signed = Verified::sign(segment, self.by(), &self.keys.device)?;
            let id = signed.id();
            let both = SegmentAndKeys { segment: Bytes::from(signed.bytes().to_vec()), keys: keys.into() };
            let mut batch = Batch::default();
            batch.put(SEGMENTS, OWN_SHELF, &seq.to_be_bytes(), encoding::encode(&both)?);
            batch.put(super::rows::META, TOP, b"own shelf", encoding::encode(&(seq + 1, id))?);
            self.write(batch)?;
            self.touch(super::devices::Place::Segment { device: self.device(), seq })?;
        }
        Ok(())
    }

    pub(super) fn own_shelf_end(&self) -> Result<(u64, Option<karte_protocol::id::ObjectId>), Failure> {
        let end: Option<(u64, karte_protocol::id::ObjectId)> =
            self.row(super::rows::META, TOP, b"own shelf")?;
        Ok(end.map_or((0, None), |(seq, id)| (seq, Some(id))))
    }

    pub(super) fn own_row(&self, record: &RecordId) -> Result<Option<OwnRow>, Failure> {
        self.row(OWN, TOP, record.as_bytes())
    }

    /// Visits every own record.
    pub(super) fn each_own(
        &self,
        visit: &mut dyn FnMut(RecordId, Verified<Label>, &OwnRow),
    ) -> Result<(), Failure> {
        let mut failed = None;
        self.store.scan(OWN, TOP, &mut |item, value| {
            let seen = decode_row::<OwnRow>(value).and_then(|row| Ok((recall_label(&row.label)?, row)));
            match (RecordId::from_slice(item), seen) {
                (Some(record), Ok((label, row))) => visit(record, label, &row),
                (_, Err(failure)) => {
                    failed = Some(failure);
                    return ControlFlow::Break(());
                }
                (None, _) => {}
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(()), Err)
    }

    // --- rows of received records, sealed under their grant

    /// The key that everything under a grant is sealed with here; gone when the reading key is gone.
    fn grant_sealer(&self, grant: &GrantId) -> Option<Sealer> {
        self.ring.reading(grant).map(|key| Sealer::new(&key.derive("karte v1 received rows")))
    }

    pub(super) fn put_received(
        &mut self,
        grant: GrantId,
        record: RecordId,
        row: &ReceivedRow,
    ) -> Result<(), Failure> {
        let Some(sealer) = self.grant_sealer(&grant) else {
            return Ok(());
        };
        let sealed = sealer.seal(record.as_bytes(), &zeroize::Zeroizing::new(encoding::encode(row)?))?;
        let mut batch = Batch::default();
        batch.put(RECEIVED, grant.as_bytes(), record.as_bytes(), sealed);
        batch.put(CAME_BY, record.as_bytes(), grant.as_bytes(), vec![]);
        self.write(batch)
    }

    pub(super) fn received_row(
        &self,
        grant: &GrantId,
        record: &RecordId,
    ) -> Result<Option<ReceivedRow>, Failure> {
        let Some(sealer) = self.grant_sealer(grant) else {
            return Ok(None);
        };
        let sealed = self.store.get(RECEIVED, grant.as_bytes(), record.as_bytes())?;
        let plain = sealed.and_then(|sealed| sealer.open(record.as_bytes(), &sealed));
        plain.map(|bytes| decode_row(&bytes)).transpose()
    }

    pub(super) fn each_received(
        &self,
        grant: &GrantId,
        visit: &mut dyn FnMut(RecordId, ReceivedRow),
    ) -> Result<(), Failure> {
        let Some(sealer) = self.grant_sealer(grant) else {
            return Ok(());
        };
        self.store.scan(RECEIVED, grant.as_bytes(), &mut |item, value| {
            let row = sealer.open(item, value).and_then(|plain| decode_row(&plain).ok());
            if let (Some(record), Some(row)) = (RecordId::from_slice(item), row) {
                visit(record, row);
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// Whether anything still needs a payload.
    pub fn needs(&self, record: &RecordId) -> Result<bool, Failure> {
        if self.store.get(OWN, TOP, record.as_bytes())?.is_some() {
            return Ok(true);
        }
        let came = !self.values(CAME_BY, record.as_bytes())?.is_empty();
        Ok(came || !self.values(KEPT_FOR, record.as_bytes())?.is_empty())
    }

    // --- selecting

    /// Every record that the own user may see now: own ones, and received ones whose grant still lets them be read.
    pub(super) fn each_seen(&self, visit: &mut dyn FnMut(Seen)) -> Result<(), Failure> {
        self.each_own(&mut |record, label, row| {
            visit(Seen { record, label, handed: row.handed(record), grant: None });
        })?;
        for grant in self.readable_grants() {
            self.each_received(&grant, &mut |record, row| {
                if let Some(seen) = seen_of(grant, record, &row) {
                    visit(seen);
                }
            })?;
        }
        Ok(())
    }

    /// Own records, and received ones that have arrived: a label is kept when its payload is here.
    pub(super) fn count_records(&self) -> Result<(u64, u64), Failure> {
        let (mut own, mut received) = (0, 0);
        self.store.scan(OWN, TOP, &mut |_, _| {
            own += 1;
            ControlFlow::Continue(())
        })?;
        for grant in self.readable_grants() {
            self.store.scan(LABELS, grant.as_bytes(), &mut |_, _| {
                received += 1;
                ControlFlow::Continue(())
            })?;
        }
        Ok((own, received))
    }

    pub(super) fn show_records(&self, filter: &Filter) -> Result<Vec<Value>, Failure> {
        Ok(self.selected(filter)?.iter().map(|seen| self.view_record(seen)).collect())
    }

    /// The records a filter selects, oldest first; each once, and without those that another took the place of
    /// unless the filter asks for them.
    pub(super) fn selected(&self, filter: &Filter) -> Result<Vec<Seen>, Failure> {
        let selection = Selection::of(self, filter)?;
        let mut replaced = BTreeSet::new();
        if !filter.replaced {
            for (record, _) in self.values(REPLACED, TOP)? {
                replaced.extend(RecordId::from_slice(&record));
            }
        }
        let mut found = Vec::new();
        let mut own = BTreeSet::new();
        self.each_seen(&mut |seen| {
            if !filter.replaced && seen.grant.is_some() {
                replaced.extend(seen.label.replaces.iter().copied());
            }
            if !selection.takes(&seen) {
                return;
            }
            // Own records come first: one that was adopted is shown once, as the own one it is now.
            if seen.grant.is_none() {
                own.insert(seen.record);
            } else if own.contains(&seen.record) {
                return;
            }
            found.push(seen);
        })?;
        found.retain(|seen| !replaced.contains(&seen.record));
        found.sort_by_key(|seen| (seen.label.effective.map(|time| time.start_ms), seen.record));
        Ok(found)
    }

    /// What a record's label says and who can see it; permission to read an own one along with it. Reading a received
    /// one would have to be told to its holder, so that is left to opening it.
    pub(super) fn show_record(&self, id: &str) -> Result<(Value, Option<Opening>), Failure> {
        let seen = self.find_record(id)?;
        let mut view = self.view_record(&seen);
        if let Some(object) = view.as_object_mut() {
            let extra = json!({
                "full_url": seen.label.full_url,
                "source_id": seen.label.source_id,
                "profiles": seen.label.profiles,
                "sensitivity": seen.label.sensitivity,
                "urgency": seen.label.urgency,
                "payload_bytes": seen.handed.bytes,
                "readers": self.readers_of(&seen.record)?,
                "group": seen.label.group,
                "replaces": seen.label.replaces.iter().map(RecordId::to_hex).collect::<Vec<_>>(),
                "derived_from": seen.label.derived_from.iter().map(RecordId::to_hex).collect::<Vec<_>>(),
            });
            object.extend(extra.as_object().cloned().unwrap_or_default());
        }
        let own = seen.grant.is_none().then(|| opening_of(&seen, vec![]));
        Ok((view, own))
    }

    /// One record by its id or the beginning of it; an own one before a received one.
    pub(super) fn find_record(&self, id: &str) -> Result<Seen, Failure> {
        let mut found: Vec<Seen> = Vec::new();
        let text = id.trim().to_ascii_lowercase();
        if text.len() < 4 {
            return Err(Failure::usage(format!("expected at least 4 characters of a record id, got {id:?}")));
        }
        if let Ok(record) = text.parse::<RecordId>()
            && let Some(row) = self.own_row(&record)?
        {
            let label = recall_label(&row.label)?;
            return Ok(Seen { record, label, handed: row.handed(record), grant: None });
        }
        self.each_seen(&mut |seen| {
            let is_new = found.iter().all(|other| other.record != seen.record);
            if is_new && seen.record.to_hex().starts_with(&text) {
                found.push(seen);
            }
        })?;
        if found.len() > 1 {
            return Err(Failure::usage(format!("{text} names {} records", found.len()))
                .next("Give more characters of the id."));
        }
        found.pop().ok_or_else(|| {
            Failure::refused(format!("there is no record {text} that may be opened here"))
                .next("`karte record list` shows what there is; `karte grant list` which grants ended.")
        })
    }

    pub(super) fn view_record(&self, seen: &Seen) -> Value {
        let Seen { record, label, grant, .. } = seen;
        let codes: Vec<String> = label.codes.iter().map(super::select::code_text).collect();
        let author = seen.author();
        json!({
            "id": record.to_hex(),
            "kind": label.kind,
            "title": label.title,
            "categories": label.categories,
            "codes": codes,
            "effective": label.effective.map(super::select::effective_text),
            "bytes": label.bytes,
            "media_type": label.media_type,
            "subject": label.subject.to_string(),
            "subject_name": self.name_of(label.subject),
            "author": author.to_string(),
            "author_name": self.name_of(author),
            "grant": grant.map(|grant| grant.to_hex()),
        })
    }
}

/// A label from an own row: its signature was checked before the row was written, and the store authenticates rows.
pub(super) fn recall_label(bytes: &Bytes) -> Result<Verified<Label>, Failure> {
    Ok(Signed::<Label>::from_bytes(bytes.to_vec()).recall()?)
}

pub(super) fn seen_of(grant: GrantId, record: RecordId, row: &ReceivedRow) -> Option<Seen> {
    if row.quarantine.is_some() {
        return None;
    }
    let label = recall_label(row.label.as_ref()?).ok()?;
    let handed = Handed {
        record,
        bytes: row.payload_bytes,
        file_key: FileKey::from_bytes(&row.file_key),
        label_hash: row.label_hash,
        rank: ORDINARY,
    };
    Some(Seen { record, label, handed, grant: Some(grant) })
}
