//! Own records that another device of the party has: their keys come with its chain of the own shelf, payload and
//! label on a stream.

use super::super::peers::Duty;
use super::super::rows::{
    DEVICE_SHELF, DEVICES, KNOWN, LABELS, OWN, OwnRow, PENDING, REPLACED, ReceivedRow, SEGMENTS, SOURCES,
    TOP, own_shelf_of,
};
use super::super::{Arrival, Effect, Engine, Expected, FetchEnd, Serving, source_key};
use super::Place;
use crate::failure::Failure;
use crate::store::Batch;
use karte_protocol::encoding;
use karte_protocol::id::{DeviceId, GrantId, ObjectId, PartyId, RecordId};
use karte_protocol::label::Label;
use karte_protocol::limits::WANTS_MAX;
use karte_protocol::message::{Fetch, SegmentAndKeys, Want};
use karte_protocol::shelf::{self, Handed, Segment, Shelf};
use karte_protocol::signed::{Signed, Verified};
use std::collections::BTreeSet;

/// What stands in the place of a grant when own devices fetch from each other: the id of the party's Genesis, which
/// is no Grant's.
fn own_fetch_of(party: PartyId) -> GrantId {
    GrantId::from(*party.as_bytes())
}

impl Engine {
    pub(super) fn load_missing(&mut self) -> Result<(), Failure> {
        let rows = self.rows::<ReceivedRow>(DEVICES, PENDING)?;
        let missing = rows.into_iter().filter_map(|(record, row)| {
            let record = RecordId::from_slice(&record)?;
            Some((record, row.handed(record)))
        });
        self.own.missing = missing.collect();
        Ok(())
    }

    pub(in super::super) fn own_fetch(&self) -> GrantId {
        own_fetch_of(self.me.party)
    }

    // --- the own shelf

    /// A segment of another own device's chain. Out of its turn it is passed over: chains are told in order.
    pub(super) fn take_own_segment(&mut self, both: SegmentAndKeys) -> Result<(), Failure> {
        let Ok(segment) = Signed::<Segment>::from_bytes(both.segment.to_vec()).verify() else {
            return Ok(());
        };
        let device = segment.by().device;
        let ours = segment.is_by(self.me.party)
            && device != self.device()
            && self.mine().log.named_devices().contains(&device)
            && matches!(segment.shelf, Shelf::Own { .. });
        let end: Option<(u64, ObjectId)> = self.row(DEVICES, device.as_bytes(), DEVICE_SHELF)?;
        let (seq, prev) = end.map_or((0, None), |(seq, id)| (seq, Some(id)));
        if !ours || segment.seq != seq || segment.prev != prev {
            return Ok(());
        }
        let handed = match shelf::open_keys(&segment, &both.keys, &self.library_keys()) {
            Ok(handed) => handed,
            Err(error) => {
                tracing::warn!(%error, device = %device.short(), seq, "keys of own records do not open here");
                vec![]
            }
        };
        let mut batch = Batch::default();
        batch.put(SEGMENTS, &own_shelf_of(&device), &seq.to_be_bytes(), encoding::encode(&both)?);
        batch.put(DEVICES, device.as_bytes(), DEVICE_SHELF, encoding::encode(&(seq + 1, segment.id()))?);
        let mut missing = Vec::new();
        for item in handed {
            if self.own_row(&item.record)?.is_none() {
                let row = ReceivedRow::pending(&item, self.now);
                batch.put(DEVICES, PENDING, item.record.as_bytes(), encoding::encode(&row)?);
                missing.push(item);
            }
        }
        self.write(batch)?;
        self.own.missing.extend(missing.into_iter().map(|item| (item.record, item)));
        self.own.untold.insert(Place::Segment { device, seq });
        Ok(())
    }

    /// Segments of other devices go on to a third when their records are here: it would ask in vain before.
    pub(super) fn tell_segments_on(&mut self) -> Result<(), Failure> {
        let awaited = |record: &RecordId| !self.own.absent.values().any(|absent| absent.contains(record));
        if self.own.missing.keys().any(awaited) {
            return Ok(());
        }
        std::mem::take(&mut self.own.untold).into_iter().try_for_each(|place| self.touch(place))
    }

    // --- asking

    /// Whether there is something to fetch from this device, and nothing under way: one stream at a time.
    pub(super) fn may_fetch_own(&self, peer: &DeviceId) -> bool {
        let busy = self.peers.values().any(|state| state.outstanding.contains(&Duty::OwnFetch));
        let absent = self.own.absent.get(peer);
        let due = |record: &RecordId| absent.is_none_or(|absent| !absent.contains(record));
        !busy && self.own.missing.keys().any(due)
    }

    pub(in super::super) fn start_own_fetch(&mut self, peer: DeviceId) -> bool {
        let absent = self.own.absent.get(&peer);
        let due = |item: &&Handed| absent.is_none_or(|absent| !absent.contains(&item.record));
        let handed: Vec<&Handed> = self.own.missing.values().filter(due).take(WANTS_MAX).collect();
        let wants = handed.iter().map(|item| Want { record: item.record, from: 0, label: true }).collect();
        let expected = handed.into_iter().cloned().map(Expected::from).collect();
        let (grant, accept) = (self.own_fetch(), ObjectId::from(*self.me.party.as_bytes()));
        let fetch = Fetch { grant, accept, wants, back: false, keep: false, urgent: false };
        self.out.push(Effect::Fetch(peer, fetch, expected));
        true
    }

    /// A new connection: it may have by now what it lacked before.
    pub(in super::super) fn forget_absent(&mut self, peer: &DeviceId) {
        self.own.absent.remove(peer);
    }

    /// Payloads of own records are here and durable. The label must be the one that the shelf names, and its author's.
    pub(in super::super) fn own_arrived(
        &mut self,
        peer: DeviceId,
        records: Vec<Arrival>,
    ) -> Result<(), Failure> {
        let mut fresh = Vec::new();
        for mut arrival in records {
            let record = arrival.record;
            let Some(handed) = self.own.missing.get(&record).cloned() else {
                self.drop_if_unneeded(vec![record])?;
                continue;
            };
            match arrival.judge(&handed, &mut self.authors) {
                Ok(label) => {
                    self.keep_own_record(&handed, &label, arrival.label)?;
                    self.own.missing.remove(&record);
                    self.delete(DEVICES, PENDING, record.as_bytes())?;
                    fresh.push(record);
                }
                Err(reason) => {
                    // Another device may have the true one.
                    self.own.absent.entry(peer).or_default().insert(record);
                    self.notice(format!("record {} was not taken: {reason}", record.short()));
                }
            }
        }
        self.shelve_new(&fresh)?;
        self.tell_segments_on()
    }

    fn keep_own_record(
        &mut self,
        handed: &Handed,
        label: &Verified<Label>,
        sealed: Vec<u8>,
    ) -> Result<(), Failure> {
        let record = handed.record;
        let row = OwnRow {
            file_key: serde_bytes::ByteArray::new(*handed.file_key.expose_bytes()),
            payload_bytes: handed.bytes,
            label: label.bytes().to_vec().into(),
            label_hash: handed.label_hash,
            at_ms: self.now,
            from: None,
        };
        let (subject, hash) = (label.subject, label.hash);
        let twin = self.store.get(KNOWN, subject.as_bytes(), hash.as_bytes())?;
        let twin = twin.and_then(|id| RecordId::from_slice(&id)).filter(|twin| *twin != record);
        let mut batch = Batch::default();
        batch.put(LABELS, TOP, record.as_bytes(), sealed);
        batch.put(OWN, TOP, record.as_bytes(), encoding::encode(&row)?);
        // Brought in on two devices: one document, and the smaller id shows, everywhere the same.
        let shown = twin.map_or(record, |twin| twin.min(record));
        batch.put(KNOWN, subject.as_bytes(), hash.as_bytes(), shown.as_bytes().to_vec());
        if let Some(twin) = twin {
            batch.put(REPLACED, TOP, twin.max(record).as_bytes(), shown.as_bytes().to_vec());
        }
        for old in &label.replaces {
            batch.put(REPLACED, TOP, old.as_bytes(), record.as_bytes().to_vec());
        }
        if let Some(id) = &label.source_id {
            let source = source_key(&label.kind, id);
            if self.is_fuller(subject, source.as_bytes(), label)? {
                batch.put(SOURCES, subject.as_bytes(), source.as_bytes(), record.as_bytes().to_vec());
            }
        }
        self.write(batch)?;
        self.no_longer_lost(&record)
    }

    /// Whether a record is the newest of its source by what is here.
    fn is_fuller(&self, subject: PartyId, source: &[u8], label: &Label) -> Result<bool, Failure> {
        let held = self.store.get(SOURCES, subject.as_bytes(), source)?;
        let Some(held) = held.and_then(|id| RecordId::from_slice(&id)) else { return Ok(true) };
        let Some(row) = self.own_row(&held)? else { return Ok(true) };
        let bytes = super::super::library::recall_label(&row.label)?.bytes;
        Ok(label.replaces.contains(&held) || label.bytes > bytes)
    }

    pub(in super::super) fn own_fetch_ended(&mut self, peer: DeviceId, missing: &[RecordId], end: &FetchEnd) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.outstanding.remove(&Duty::OwnFetch);
            if *end != FetchEnd::Whole {
                state.pause(Duty::OwnFetch, self.now);
            }
        }
        let absent: BTreeSet<RecordId> = missing.iter().copied().collect();
        self.own.absent.entry(peer).or_default().extend(absent);
    }

    // --- giving

    /// Whether a connected device may have own records: a live one of this party, greeted as such.
    pub(in super::super) fn may_give_own(&self, peer: DeviceId) -> bool {
        let greeted = self.peers.get(&peer).is_some_and(|state| state.party == Some(self.me.party));
        greeted && self.is_own_device(&peer) && self.is_sound()
    }

    pub(in super::super) fn giving_own(
        &self,
        peer: DeviceId,
        fetch: &Fetch,
    ) -> Result<Option<Vec<Serving>>, Failure> {
        if !self.may_give_own(peer) || fetch.back {
            return Ok(None);
        }
        let mut items = Vec::new();
        for want in &fetch.wants {
            let record = want.record;
            let Some(row) = self.own_row(&record)? else {
                items.push(Serving { record, payload_bytes: 0, from: 0, label: None });
                continue;
            };
            let label = if want.label { self.store.get(LABELS, TOP, record.as_bytes())? } else { None };
            items.push(Serving { record, payload_bytes: row.payload_bytes, from: want.from, label });
        }
        Ok(Some(items))
    }
}
