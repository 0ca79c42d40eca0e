//! The reading side of a payload stream: every slice is verified before it is written, and what is whole is
//! durable before the engine hears of it.
//!
//! One task reads frames; one blocking thread verifies and writes them, so that the network never waits for a
//! disk and the queue between them is bounded.

use super::Node;
use crate::engine::{FetchEnd, Input};
use crate::store::{Blobs, Partial};
use karte_protocol::bao::verify_slice;
use karte_protocol::id::{DeviceId, GrantId, RecordId};
use karte_protocol::limits::SLICE_BYTES_MAX;
use karte_protocol::message::{Fetch, Frame, Want};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the other side may be silent while we wait for frames. 60 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Frames between network and disk. 8: at most 16 MiB.
const QUEUE_MAX: usize = 8;
/// Records told to the engine together. 256, or 8 MiB of payload: one group of fsyncs.
const GROUP_MAX: usize = 256;
const GROUP_BYTES_MAX: u64 = 8 << 20;

pub(super) async fn fetch(node: Node, peer: DeviceId, fetch: Fetch, lengths: Vec<u64>) {
    let grant = fetch.grant;
    let (frames_in, frames) = mpsc::channel(QUEUE_MAX);
    let intake = Intake::new(node.clone(), peer, &fetch, lengths);
    let wants = intake.wants(&fetch.wants);
    let writer = tokio::task::spawn_blocking(move || intake.run(frames));
    let end = read_frames(&node, peer, Fetch { wants, ..fetch }, frames_in).await;
    let (missing, written) = writer.await.unwrap_or_else(|_| (vec![], Err("writing ended badly".into())));
    let (end, missing) = match (end, written) {
        (FetchEnd::Whole, Ok(())) => (FetchEnd::Whole, missing),
        // What did not come before the break is not missing there.
        (end, Ok(())) => (end, vec![]),
        (_, Err(reason)) => (FetchEnd::Broken(reason), vec![]),
    };
    super::lock(&node.shared.fetches).remove(&grant);
    node.send(Input::FetchEnded(peer, grant, missing, end)).await;
}

async fn read_frames(node: &Node, peer: DeviceId, fetch: Fetch, frames: mpsc::Sender<Frame>) -> FetchEnd {
    match try_read_frames(node, peer, &fetch, frames).await {
        Ok(end) => end,
        Err(reason) => FetchEnd::Broken(reason),
    }
}

async fn try_read_frames(
    node: &Node,
    peer: DeviceId,
    fetch: &Fetch,
    frames: mpsc::Sender<Frame>,
) -> Result<FetchEnd, String> {
    let network = node.shared.network.as_ref().ok_or("this command runs without a network")?;
    let mut stream = network.open_stream(*peer.as_bytes()).await.map_err(|error| error.to_string())?;
    let list = fetch.to_bytes().map_err(|error| error.to_string())?;
    stream.send(&list).await.map_err(|error| error.to_string())?;
    loop {
        let frame = tokio::time::timeout(SILENCE_MAX, stream.recv())
            .await
            .map_err(|_| "the other side fell silent".to_owned())?
            .map_err(|error| error.to_string())?
            .ok_or("the other side closed the stream")?;
        match Frame::from_bytes(&frame).map_err(|error| error.to_string())? {
            Frame::End => {
                // All is here; how the other side hears of the end is not worth waiting for.
                drop(tokio::spawn(async move { stream.close().await }));
                return Ok(FetchEnd::Whole);
            }
            Frame::Denied => return Ok(FetchEnd::Denied),
            frame => frames.send(frame).await.map_err(|_| "writing stopped".to_owned())?,
        }
    }
}

/// What came of a want-list so far.
struct Intake {
    node: Node,
    blobs: Arc<dyn Blobs>,
    peer: DeviceId,
    grant: GrantId,
    open: HashMap<RecordId, Incoming>,
    whole: Vec<(RecordId, Vec<u8>)>,
    whole_bytes: u64,
    received: u64,
    missing: Vec<RecordId>,
}

struct Incoming {
    bytes: u64,
    label: Option<Vec<u8>>,
    partial: Option<Box<dyn Partial>>,
    /// The payload is on the disk.
    here: bool,
}

impl Intake {
    fn new(node: Node, peer: DeviceId, fetch: &Fetch, lengths: Vec<u64>) -> Self {
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
            whole: vec![],
            whole_bytes: 0,
            received: 0,
            missing: vec![],
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

    fn run(mut self, mut frames: mpsc::Receiver<Frame>) -> (Vec<RecordId>, Result<(), String>) {
        let mut result = Ok(());
        while let Some(frame) = frames.blocking_recv() {
            result = self.take(frame);
            if result.is_err() {
                break;
            }
        }
        // What is whole stays, also when the rest broke off.
        let flushed = self.flush();
        if result.is_ok() {
            // Asked for, the end was said, and it did not come.
            self.missing.extend(self.open.keys());
        }
        (self.missing, result.and(flushed))
    }

    fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Label { record, label } => {
                if let Some(incoming) = self.open.get_mut(&record) {
                    incoming.label = Some(label.into_vec());
                }
                self.finish(record)
            }
            Frame::Slice { record, offset, slice } => {
                self.write(record, offset, &slice)?;
                self.finish(record)
            }
            Frame::Missing { record } => {
                if self.open.remove(&record).is_some() {
                    self.missing.push(record);
                }
                Ok(())
            }
            Frame::End | Frame::Denied => Ok(()),
        }
    }

    fn write(&mut self, record: RecordId, offset: u64, slice: &[u8]) -> Result<(), String> {
        let incoming = self.open.get_mut(&record).ok_or("a record came that was not asked for")?;
        let bytes = verify_slice(record, incoming.bytes, offset, slice).map_err(|error| error.to_string())?;
        self.received += bytes.len() as u64;
        if incoming.bytes <= SLICE_BYTES_MAX {
            write_small(self.blobs.as_ref(), record, &bytes)?;
            incoming.here = true;
            return Ok(());
        }
        let partial = incoming.partial.as_mut().ok_or("this payload is being received already")?;
        partial.write_at(offset, &bytes).map_err(|error| error.to_string())?;
        if partial.len_bytes() == incoming.bytes
            && let Some(partial) = incoming.partial.take()
        {
            partial.complete(incoming.bytes).map_err(|error| error.to_string())?;
            incoming.here = true;
        }
        let told = Input::Receiving(self.peer, self.grant, self.received);
        // A node that ends needs no progress.
        let _ = self.node.shared.inbox.blocking_send(told);
        Ok(())
    }

    /// Payload and label are here: on to the group.
    fn finish(&mut self, record: RecordId) -> Result<(), String> {
        let ready = self.open.get(&record).is_some_and(|incoming| incoming.here && incoming.label.is_some());
        if ready && let Some(incoming) = self.open.remove(&record) {
            self.whole.push((record, incoming.label.unwrap_or_default()));
            self.whole_bytes += incoming.bytes;
        }
        if self.whole.len() >= GROUP_MAX || self.whole_bytes >= GROUP_BYTES_MAX {
            return self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        if self.whole.is_empty() {
            return Ok(());
        }
        self.blobs.sync().map_err(|error| error.to_string())?;
        self.whole_bytes = 0;
        let group = std::mem::take(&mut self.whole);
        let told = Input::Arrived(self.peer, self.grant, group);
        self.node.shared.inbox.blocking_send(told).map_err(|_| "the node stopped".to_owned())
    }
}

fn write_small(blobs: &dyn Blobs, record: RecordId, bytes: &[u8]) -> Result<(), String> {
    let mut writer = blobs.create().map_err(|error| error.to_string())?;
    writer.write_all(bytes).map_err(|error| error.to_string())?;
    let stored = writer.finish().map_err(|error| error.to_string())?;
    if RecordId::from(stored) == record {
        Ok(())
    } else {
        Err("the disk kept other bytes than were written".into())
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
