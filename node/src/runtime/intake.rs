//! The writing side of a download: slices are verified, written, and put together.
//!
//! For: one thread that owns what is half here. Not for: the stream and the syncs ([`super::fetch`]).

use super::Node;
use super::buffers::Buffers;
use super::fetch::{Frames, Of};
use crate::engine::{Arrival, Expected, FetchEnd, Input};
use crate::store::{Blobs, Partial, StoreError};
use karte_protocol::bao::verify_slice;
use karte_protocol::id::RecordId;
use karte_protocol::limits::SLICE_BYTES_MAX;
use karte_protocol::message::{Fetch, Frame, Want};
use karte_protocol::shelf::Handed;
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc as threads;
use std::time::Duration;
use tokio::sync::mpsc;

/// Labels held while their payloads are on the way, in bytes. 16 MiB: a label goes right before its payload, and whoever
/// sends labels alone must not fill the memory.
const LABELS_HELD_BYTES_MAX: usize = 16 << 20;

/// How often a part is asked for that another download has not let go of: for a second.
const CLAIM_TRIES: u32 = 20;
const CLAIM_EVERY: Duration = Duration::from_millis(50);

/// What came of a list.
pub(super) enum Done {
    /// A record that is whole: its payload is written, and not yet synced.
    Whole(Box<(Arrival, Option<Handed>)>),
    /// The list ended; these records did not come.
    Ended(Vec<RecordId>, FetchEnd),
}

/// A want-list that is being answered.
#[derive(Default)]
pub(super) struct List {
    open: HashMap<RecordId, Incoming>,
    missing: Vec<RecordId>,
}

struct Incoming {
    bytes: u64,
    handed: Option<Handed>,
    label: Option<Vec<u8>>,
    partial: Option<Box<dyn Partial>>,
    /// The payload is on the disk.
    here: bool,
}

/// What is to come, and the want-list with what is here already taken off. Blocks.
pub(super) fn prepare(blobs: &dyn Blobs, fetch: Fetch, expected: Vec<Expected>) -> (Fetch, List) {
    let mut list = List::default();
    let mut wants = Vec::with_capacity(fetch.wants.len());
    for (want, expected) in fetch.wants.into_iter().zip(expected) {
        let Expected { bytes, handed } = expected;
        let here = matches!(blobs.len(want.record.as_bytes()), Ok(Some(found)) if found == bytes);
        let partial = match here || bytes <= SLICE_BYTES_MAX {
            true => None,
            false => resume(blobs, want.record),
        };
        let from = if here { bytes } else { partial.as_ref().map_or(0, |partial| partial.len_bytes()) };
        wants.push(Want { from, ..want.clone() });
        list.open.insert(want.record, Incoming { bytes, handed, label: None, partial, here });
    }
    (Fetch { wants, ..fetch }, list)
}

/// What an earlier, broken fetch left: whole MiBs of it are used, anything else is begun anew.
fn resume(blobs: &dyn Blobs, record: RecordId) -> Option<Box<dyn Partial>> {
    let partial = claim(blobs, record)?;
    if partial.len_bytes().is_multiple_of(SLICE_BYTES_MAX) {
        return Some(partial);
    }
    partial.discard().ok()?;
    blobs.partial(record.as_bytes()).ok()
}

/// Who received it from a device that was too slow has been stopped, and lets go of it within moments.
fn claim(blobs: &dyn Blobs, record: RecordId) -> Option<Box<dyn Partial>> {
    for _ in 0..CLAIM_TRIES {
        match blobs.partial(record.as_bytes()) {
            Err(StoreError::Busy) => std::thread::sleep(CLAIM_EVERY),
            claimed => return claimed.ok(),
        }
    }
    None
}

/// The thread's side of a download.
pub(super) struct Intake {
    node: Node,
    of: Of,
    /// Lists that are not answered yet, in the order they were sent.
    lists: VecDeque<List>,
    done: threads::SyncSender<Done>,
    buffers: Buffers,
    /// Payload bytes of the slice that was verified last.
    plain: Vec<u8>,
    /// Bytes of labels whose payloads are not here.
    label_bytes: usize,
}

impl Intake {
    pub(super) fn new(node: Node, of: Of, done: threads::SyncSender<Done>, buffers: Buffers) -> Self {
        Self { node, of, lists: VecDeque::new(), done, buffers, plain: vec![], label_bytes: 0 }
    }

    /// Until the stream is over, or was given up: then nobody waits for its lists. After wrong bytes, or a disk that
    /// failed, every list that is open ends so.
    pub(super) fn run(mut self, mut frames: mpsc::Receiver<Frames>) {
        let end = loop {
            let Some(next) = frames.blocking_recv() else { return };
            if let Err(end) = self.take(next) {
                break end;
            }
        };
        frames.close();
        let mut late = 0;
        while let Ok(next) = frames.try_recv() {
            late += usize::from(matches!(next, Frames::List(_)));
        }
        for _ in 0..self.lists.len().saturating_add(late) {
            // Nobody syncs any more: then the node stops.
            let _ = self.done.send(Done::Ended(vec![], end.clone()));
        }
    }

    fn take(&mut self, frames: Frames) -> Result<(), FetchEnd> {
        match frames {
            Frames::List(list) => self.lists.push_back(list),
            Frames::Frame(Frame::Label { record, label }) => {
                self.label_bytes = self.label_bytes.saturating_add(label.len());
                if self.label_bytes > LABELS_HELD_BYTES_MAX {
                    return Err(FetchEnd::Wrong(format!(
                        "expected at most {LABELS_HELD_BYTES_MAX} bytes of labels before their payloads"
                    )));
                }
                if let Some(incoming) = self.incoming(&record) {
                    incoming.label = Some(label.into_vec());
                }
                self.finish(record)?;
            }
            Frames::Frame(Frame::Missing { record }) => {
                let list = self.lists.front_mut();
                if let Some(list) = list.filter(|list| list.open.contains_key(&record)) {
                    list.open.remove(&record);
                    list.missing.push(record);
                }
            }
            Frames::Slice { record, offset, slice } => {
                let written = self.write(record, offset, &slice);
                self.buffers.give_back(slice);
                written?;
                self.finish(record)?;
            }
            Frames::Ended(end) => return self.end(end),
            // The task that reads takes these apart.
            Frames::Frame(Frame::Slice { .. } | Frame::End | Frame::Denied) => {}
        }
        Ok(())
    }

    fn incoming(&mut self, record: &RecordId) -> Option<&mut Incoming> {
        self.lists.front_mut()?.open.get_mut(record)
    }

    fn write(&mut self, record: RecordId, offset: u64, slice: &[u8]) -> Result<(), FetchEnd> {
        let blobs = self.node.shared.blobs.clone();
        let mut plain = std::mem::take(&mut self.plain);
        let incoming = self
            .incoming(&record)
            .ok_or_else(|| FetchEnd::Wrong("a record came that was not asked for".into()))?;
        let bytes = incoming.bytes;
        verify_slice(record, bytes, offset, slice, &mut plain)
            .map_err(|error| FetchEnd::Wrong(error.to_string()))?;
        let mut received = 0;
        if bytes <= SLICE_BYTES_MAX {
            blobs.put(record.as_bytes(), &plain).map_err(broken)?;
            incoming.here = true;
        } else {
            let partial = incoming.partial.as_mut().ok_or_else(|| broken(StoreError::Busy))?;
            partial.write_at(offset, &plain).map_err(broken)?;
            received = partial.len_bytes();
        }
        if received == bytes
            && let Some(partial) = incoming.partial.take()
        {
            partial.complete_verified(bytes).map_err(broken)?;
            incoming.here = true;
            received = 0;
        }
        self.plain = plain;
        if bytes > SLICE_BYTES_MAX {
            let told = Input::Receiving(self.of.peer, self.of.grant, received);
            // A node that ends needs no progress.
            let _ = self.node.shared.inbox.blocking_send(told);
        }
        Ok(())
    }

    /// Payload and label are here: on to the next sync.
    fn finish(&mut self, record: RecordId) -> Result<(), FetchEnd> {
        let Some(list) = self.lists.front_mut() else { return Ok(()) };
        let ready = list.open.get(&record).is_some_and(|incoming| incoming.here && incoming.label.is_some());
        if ready && let Some(incoming) = list.open.remove(&record) {
            let label = incoming.label.unwrap_or_default();
            self.label_bytes = self.label_bytes.saturating_sub(label.len());
            let arrival = Arrival::from((record, label));
            let whole = Done::Whole(Box::new((arrival, incoming.handed)));
            self.done.send(whole).map_err(|_| broken("syncing stopped"))?;
        }
        Ok(())
    }

    fn end(&mut self, end: FetchEnd) -> Result<(), FetchEnd> {
        let Some(List { open, mut missing }) = self.lists.pop_front() else { return Ok(()) };
        self.label_bytes = 0;
        match end {
            // Asked for, the end was said, and it did not come.
            FetchEnd::Whole => missing.extend(open.keys()),
            // What did not come before the break is not missing there.
            _ => missing.clear(),
        }
        self.done.send(Done::Ended(missing, end)).map_err(|_| broken("syncing stopped"))
    }
}

/// A fault of this side.
fn broken(error: impl ToString) -> FetchEnd {
    FetchEnd::Broken(error.to_string())
}
