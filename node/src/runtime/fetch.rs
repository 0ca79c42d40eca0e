//! The reading side of a payload stream: every slice is verified before it is written, and what is whole is
//! durable before the engine hears of it.
//!
//! ```text
//! stream ─> task ─(8 frames)─> thread: verify, write ─(1,024 records)─> thread: sync, tell the engine
//! ```
//! The network never waits for the disk, nor a write for a sync: whatever became whole during one sync is the next group.

use super::Node;
use super::buffers::Buffers;
use crate::engine::{FetchEnd, Input};
use crate::network::{FrameStream, NetError};
use crate::store::{Blobs, Partial};
use karte_protocol::bao::verify_slice;
use karte_protocol::id::{DeviceId, GrantId, RecordId};
use karte_protocol::limits::SLICE_BYTES_MAX;
use karte_protocol::message::{Fetch, Frame, Want};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc as threads;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the other side may be silent while we wait for frames. 60 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Frames between network and disk. 8: some 8 MiB.
const QUEUE_MAX: usize = 8;
/// Records that may wait for their sync, and most of one group. 1,024: a want-list. Their payloads are on the disk's side
/// already; only labels wait in memory.
const GROUP_MAX: usize = 1_024;

/// What came on the stream.
enum Arrival {
    Frame(Frame),
    Slice { record: RecordId, offset: u64, slice: Vec<u8> },
}

/// A record that is whole: its payload is written, and not yet synced.
type Whole = (RecordId, Vec<u8>);

pub(super) async fn fetch(node: Node, peer: DeviceId, fetch: Fetch, lengths: Vec<u64>) {
    let grant = fetch.grant;
    let (arrived, arrivals) = mpsc::channel(QUEUE_MAX);
    let (whole, wholes) = threads::sync_channel(GROUP_MAX);
    let buffers = Buffers::default();
    let intake = Intake::new(node.clone(), peer, &fetch, lengths, (whole, buffers.clone()));
    let wants = intake.wants(&fetch.wants);
    let syncing = node.clone();
    let syncer = tokio::task::spawn_blocking(move || sync_groups(&syncing, peer, grant, &wholes));
    let writer = tokio::task::spawn_blocking(move || intake.run(arrivals));
    let end = read_frames(&node, peer, Fetch { wants, ..fetch }, arrived, &buffers).await;
    let (missing, written) = writer.await.unwrap_or_else(|_| (vec![], Err("writing ended badly".into())));
    // What is whole stays, also when the rest broke off.
    let synced = syncer.await.unwrap_or_else(|_| Err("syncing ended badly".into()));
    let written = written.and(synced);
    let (end, missing) = match (end, written) {
        (FetchEnd::Whole, Ok(())) => (FetchEnd::Whole, missing),
        // What did not come before the break is not missing there.
        (end, Ok(())) => (end, vec![]),
        (_, Err(reason)) => (FetchEnd::Broken(reason), vec![]),
    };
    super::lock(&node.shared.fetches).remove(&grant);
    node.send(Input::FetchEnded(peer, grant, missing, end)).await;
}

async fn read_frames(
    node: &Node,
    peer: DeviceId,
    fetch: Fetch,
    arrived: mpsc::Sender<Arrival>,
    buffers: &Buffers,
) -> FetchEnd {
    match try_read_frames(node, peer, &fetch, arrived, buffers).await {
        Ok(end) => end,
        Err(reason) => FetchEnd::Broken(reason),
    }
}

async fn try_read_frames(
    node: &Node,
    peer: DeviceId,
    fetch: &Fetch,
    arrived: mpsc::Sender<Arrival>,
    buffers: &Buffers,
) -> Result<FetchEnd, String> {
    let network = node.shared.network.as_ref().ok_or("this command runs without a network")?;
    let mut stream = network.open_stream(*peer.as_bytes()).await.map_err(|error| error.to_string())?;
    let list = fetch.to_bytes().map_err(|error| error.to_string())?;
    stream.send(&list).await.map_err(|error| error.to_string())?;
    loop {
        let frame = next_frame(&mut stream).await?;
        let arrival = match Frame::from_bytes(&frame).map_err(|error| error.to_string())? {
            Frame::End => {
                // All is here; how the other side hears of the end is not worth waiting for.
                drop(tokio::spawn(async move { stream.close().await }));
                return Ok(FetchEnd::Whole);
            }
            Frame::Denied => return Ok(FetchEnd::Denied),
            Frame::Slice { record, offset } => {
                stream.recycle(buffers.take());
                Arrival::Slice { record, offset, slice: next_frame(&mut stream).await? }
            }
            frame => Arrival::Frame(frame),
        };
        arrived.send(arrival).await.map_err(|_| "writing stopped".to_owned())?;
    }
}

async fn next_frame(stream: &mut FrameStream) -> Result<Vec<u8>, String> {
    let frame = tokio::time::timeout(SILENCE_MAX, stream.recv()).await;
    let frame = frame.map_err(|_| "the other side fell silent".to_owned())?;
    let frame = frame.map_err(|error: NetError| error.to_string())?;
    frame.ok_or_else(|| "the other side closed the stream".to_owned())
}

/// Makes durable what became whole, all that waits at a time, and tells the engine of it.
fn sync_groups(
    node: &Node,
    peer: DeviceId,
    grant: GrantId,
    wholes: &threads::Receiver<Whole>,
) -> Result<(), String> {
    while let Ok(first) = wholes.recv() {
        let group: Vec<Whole> = std::iter::once(first).chain(wholes.try_iter().take(GROUP_MAX - 1)).collect();
        node.shared.blobs.sync().map_err(|error| error.to_string())?;
        let told = Input::Arrived(peer, grant, group);
        node.shared.inbox.blocking_send(told).map_err(|_| "the node stopped".to_owned())?;
    }
    Ok(())
}

/// What came of a want-list so far.
struct Intake {
    node: Node,
    blobs: Arc<dyn Blobs>,
    peer: DeviceId,
    grant: GrantId,
    open: HashMap<RecordId, Incoming>,
    whole: threads::SyncSender<Whole>,
    received: u64,
    missing: Vec<RecordId>,
    buffers: Buffers,
    /// Payload bytes of the slice that was verified last.
    plain: Vec<u8>,
}

struct Incoming {
    bytes: u64,
    label: Option<Vec<u8>>,
    partial: Option<Box<dyn Partial>>,
    /// The payload is on the disk.
    here: bool,
}

impl Intake {
    fn new(
        node: Node,
        peer: DeviceId,
        fetch: &Fetch,
        lengths: Vec<u64>,
        (whole, buffers): (threads::SyncSender<Whole>, Buffers),
    ) -> Self {
        let blobs = node.shared.blobs.clone();
        let open = fetch
            .wants
            .iter()
            .zip(lengths)
            .map(|(want, bytes)| {
                let here = matches!(blobs.len(want.record.as_bytes()), Ok(Some(found)) if found == bytes);
                let partial =
                    if here || bytes <= SLICE_BYTES_MAX { None } else { resume(blobs.as_ref(), want.record) };
                (want.record, Incoming { bytes, label: None, partial, here })
            })
            .collect();
        Self {
            node,
            blobs,
            peer,
            grant: fetch.grant,
            open,
            whole,
            received: 0,
            missing: vec![],
            buffers,
            plain: vec![],
        }
    }

    /// The want-list with what is here already taken off.
    fn wants(&self, wants: &[Want]) -> Vec<Want> {
        wants
            .iter()
            .map(|want| {
                let from = match self.open.get(&want.record) {
                    Some(incoming) if incoming.here => incoming.bytes,
                    Some(Incoming { partial: Some(partial), .. }) => partial.len_bytes(),
                    _ => 0,
                };
                Want { from, ..want.clone() }
            })
            .collect()
    }

    fn run(mut self, mut arrivals: mpsc::Receiver<Arrival>) -> (Vec<RecordId>, Result<(), String>) {
        while let Some(arrival) = arrivals.blocking_recv() {
            let taken = match arrival {
                Arrival::Frame(frame) => self.take(frame),
                Arrival::Slice { record, offset, slice } => {
                    let written = self.write(record, offset, &slice);
                    self.buffers.give_back(slice);
                    written.and_then(|()| self.finish(record))
                }
            };
            if let Err(reason) = taken {
                return (self.missing, Err(reason));
            }
        }
        // Asked for, the end was said, and it did not come.
        self.missing.extend(self.open.keys());
        (self.missing, Ok(()))
    }

    fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Label { record, label } => {
                if let Some(incoming) = self.open.get_mut(&record) {
                    incoming.label = Some(label.into_vec());
                }
                self.finish(record)
            }
            Frame::Missing { record } => {
                if self.open.remove(&record).is_some() {
                    self.missing.push(record);
                }
                Ok(())
            }
            // The task that reads takes these apart.
            Frame::Slice { .. } | Frame::End | Frame::Denied => Ok(()),
        }
    }

    fn write(&mut self, record: RecordId, offset: u64, slice: &[u8]) -> Result<(), String> {
        let incoming = self.open.get_mut(&record).ok_or("a record came that was not asked for")?;
        verify_slice(record, incoming.bytes, offset, slice, &mut self.plain)
            .map_err(|error| error.to_string())?;
        self.received += self.plain.len() as u64;
        if incoming.bytes <= SLICE_BYTES_MAX {
            self.blobs.put(record.as_bytes(), &self.plain).map_err(|error| error.to_string())?;
            incoming.here = true;
            return Ok(());
        }
        let partial = incoming.partial.as_mut().ok_or("this payload is being received already")?;
        partial.write_at(offset, &self.plain).map_err(|error| error.to_string())?;
        if partial.len_bytes() == incoming.bytes
            && let Some(partial) = incoming.partial.take()
        {
            partial.complete_verified(incoming.bytes).map_err(|error| error.to_string())?;
            incoming.here = true;
        }
        let told = Input::Receiving(self.peer, self.grant, self.received);
        // A node that ends needs no progress.
        let _ = self.node.shared.inbox.blocking_send(told);
        Ok(())
    }

    /// Payload and label are here: on to the next sync.
    fn finish(&mut self, record: RecordId) -> Result<(), String> {
        let ready = self.open.get(&record).is_some_and(|incoming| incoming.here && incoming.label.is_some());
        if ready && let Some(incoming) = self.open.remove(&record) {
            let whole = (record, incoming.label.unwrap_or_default());
            self.whole.send(whole).map_err(|_| "syncing stopped".to_owned())?;
        }
        Ok(())
    }
}

/// What an earlier, broken fetch left: whole MiBs of it are used, anything else is begun anew.
fn resume(blobs: &dyn Blobs, record: RecordId) -> Option<Box<dyn Partial>> {
    let partial = blobs.partial(record.as_bytes()).ok()?;
    if partial.len_bytes().is_multiple_of(SLICE_BYTES_MAX) {
        return Some(partial);
    }
    partial.discard().ok()?;
    blobs.partial(record.as_bytes()).ok()
}
