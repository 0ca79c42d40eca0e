//! What there is to tell the other devices of the party, numbered.
//!
//! The feed holds places, not things: what is told is looked up when it is asked for, so a thing that changed twice
//! is told once. A place that changes moves to the end. Whoever asks keeps the number up to which it has taken, in
//! the same commit as what it took: a lost answer is asked for again, and what comes twice changes nothing.

use super::super::rows::{DEVICE_CURSOR, DEVICES, FEED, OWN_SHELF, RECEIPTS, RELEASES, SEGMENTS, TOP};
use super::super::{Batch, Engine};
use crate::failure::Failure;
use karte_protocol::encoding;
use karte_protocol::id::{DeviceId, GrantId, ObjectId, PartyId};
use karte_protocol::limits::MESSAGE_BYTES_MAX;
use karte_protocol::message::Response;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Bytes of items in one answer: the rest of a MiB is for the envelope, and one item beyond always fits.
const ITEMS_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

/// Where something lies that the other devices are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(in super::super) enum Place {
    Library,
    Contact { party: PartyId },
    Given { grant: GrantId },
    Received { grant: GrantId },
    Segment { device: DeviceId, seq: u64 },
    Release { grant: GrantId, id: ObjectId },
    Receipt { grant: GrantId, id: ObjectId },
}

#[derive(Default)]
pub(super) struct Feed {
    places: BTreeMap<u64, Place>,
    numbers: BTreeMap<Place, u64>,
}

impl Feed {
    /// One more than the last number. It never falls: a place only moves up.
    pub(super) fn end(&self) -> u64 {
        self.places.last_key_value().map_or(0, |(number, _)| number + 1)
    }

    fn put(&mut self, number: u64, place: Place) {
        self.places.insert(number, place);
        self.numbers.insert(place, number);
    }
}

impl Engine {
    pub(super) fn load_feed(&mut self) -> Result<(), Failure> {
        self.own.feed = Feed::default();
        for (number, place) in self.rows::<Place>(FEED, TOP)? {
            if let Ok(number) = number.try_into().map(u64::from_be_bytes) {
                self.own.feed.put(number, place);
            }
        }
        if !self.own.feed.places.is_empty() {
            let told = &self.own.feed.numbers;
            let untold = self.segment_places()?.into_iter().filter(|place| !told.contains_key(place));
            self.own.untold = untold.collect();
        }
        Ok(())
    }

    /// Something changed that the other devices are to know. A party of one device keeps no feed.
    pub(in super::super) fn touch(&mut self, place: Place) -> Result<(), Failure> {
        if self.other_devices().is_empty() && self.own.feed.places.is_empty() {
            return Ok(());
        }
        let number = self.own.feed.end();
        let mut batch = Batch::default();
        if let Some(before) = self.own.feed.numbers.get(&place).copied() {
            self.own.feed.places.remove(&before);
            batch.delete(FEED, TOP, &before.to_be_bytes());
        }
        self.own.feed.put(number, place);
        batch.put(FEED, TOP, &number.to_be_bytes(), encoding::encode(&place)?);
        self.write(batch)
    }

    /// A second device comes: everything that is here already is to be told.
    pub(super) fn begin_feed(&mut self) -> Result<(), Failure> {
        if !self.own.feed.places.is_empty() {
            return Ok(());
        }
        let mut places = vec![Place::Library];
        places.extend(self.contacts.keys().map(|party| Place::Contact { party: *party }));
        places.extend(self.given.keys().map(|grant| Place::Given { grant: *grant }));
        places.extend(self.got.keys().map(|grant| Place::Received { grant: *grant }));
        places.extend(self.segment_places()?);
        for table in [RELEASES, RECEIPTS] {
            self.store.scan_table(table, &mut |grant, id, _| {
                if let (Some(grant), Some(id)) = (GrantId::from_slice(grant), ObjectId::from_slice(id)) {
                    places.push(match table {
                        RELEASES => Place::Release { grant, id },
                        _ => Place::Receipt { grant, id },
                    });
                }
                ControlFlow::Continue(())
            })?;
        }
        for (number, place) in (0_u64..).zip(places) {
            self.own.feed.put(number, place);
            let mut batch = Batch::default();
            batch.put(FEED, TOP, &number.to_be_bytes(), encoding::encode(&place)?);
            self.write(batch)?;
        }
        Ok(())
    }

    fn segment_places(&self) -> Result<Vec<Place>, Failure> {
        let this = self.device();
        let mut places = Vec::new();
        self.store.scan_table(SEGMENTS, &mut |parent, seq, _| {
            let device = match parent.strip_prefix(OWN_SHELF) {
                Some([]) => Some(this),
                Some(device) => DeviceId::from_slice(device),
                None => None,
            };
            if let (Some(device), Ok(seq)) = (device, seq.try_into().map(u64::from_be_bytes)) {
                places.push(Place::Segment { device, seq });
            }
            ControlFlow::Continue(())
        })?;
        // A chain is taken in its order.
        places.sort();
        Ok(places)
    }

    pub(in super::super) fn feed_end(&self) -> u64 {
        self.own.feed.end()
    }

    /// How far this device has taken what another one tells.
    pub(in super::super) fn cursor_of(&self, device: &DeviceId) -> Result<u64, Failure> {
        Ok(self.row(DEVICES, device.as_bytes(), DEVICE_CURSOR)?.unwrap_or_default())
    }

    pub(super) fn set_cursor(&mut self, device: &DeviceId, next: u64) -> Result<(), Failure> {
        if self.cursor_of(device)? == next {
            return Ok(());
        }
        self.put(DEVICES, device.as_bytes(), DEVICE_CURSOR, &next)
    }

    /// The answer to a device of the own party that asks what there is from a number on.
    pub(super) fn told_to(&self, device: &DeviceId, from: u64) -> Result<Response, Failure> {
        let there = self.own.feed.end();
        // Who asks beyond the end knows of more than this device does any more: it begins anew.
        let from = if from > there { 0 } else { from };
        let (mut items, mut bytes, mut next) = (Vec::new(), 0, there);
        // Its keys open what follows, and its place may have moved behind that.
        let library = self.own.feed.numbers.get(&Place::Library).is_some_and(|number| *number >= from);
        if library {
            items.extend(self.item_of(&Place::Library, device)?);
        }
        for (number, place) in self.own.feed.places.range(from..) {
            if *place == Place::Library {
                continue;
            }
            if bytes >= ITEMS_BYTES_MAX {
                next = *number;
                break;
            }
            if let Some(item) = self.item_of(place, device)? {
                bytes += encoding::encode(&item)?.len();
                items.push(item);
            }
        }
        Ok(Response::Own { items, next, there })
    }
}
