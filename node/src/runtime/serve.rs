//! The serving side of a payload stream: want-lists in, labels and verified slices out.
//!
//! The engine decides at every want-list, and again every MiB and every second: while one MiB is on its way, it is
//! asked for the next. A stream that is told to stop ends within the slice it is sending, at most 1 MiB later. A thread
//! reads and hashes ahead.

use super::buffers::Buffers;
use super::outlines::read_piece;
use super::rush::Share;
use super::{Node, lock};
use crate::engine::{Input, Serving, StreamId};
use crate::network::{FrameReceiver, FrameSender, FrameStream, NetError};
use crate::store::ReadSeek;
use karte_protocol::bao::Outline;
use karte_protocol::id::{DeviceId, RecordId};
use karte_protocol::limits::SLICE_BYTES_MAX;
use karte_protocol::message::Frame;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a reader may be silent on a stream before it is closed. 2 minutes.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How often the engine is asked about a batch that is still on its way. 1 s (SPEC rule 7).
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// Small records whose frames are made in one go. 64.
const BATCH_MAX: usize = 64;
/// Batches made ahead of the one that is being sent. 2: some 2 MiB.
const AHEAD_MAX: usize = 2;

/// What the engine orders for a stream.
pub(super) enum Order {
    /// `true`: other streams to the same device rest meanwhile.
    Serve(Vec<Serving>, bool),
    Finish(Frame),
    Go(bool),
}

pub(super) async fn serve(node: Node, peer: DeviceId, stream: FrameStream) {
    let id = node.number();
    let (orders_in, mut orders) = mpsc::channel(4);
    lock(&node.shared.streams).insert(id, orders_in);
    let (mut sender, mut receiver) = stream.split();
    if let Err(error) = serve_lists(&node, peer, id, &mut orders, &mut sender, &mut receiver).await {
        tracing::debug!(%error, "a payload stream ended");
    }
    lock(&node.shared.streams).remove(&id);
    node.send(Input::ServeEnded(id)).await;
}

async fn serve_lists(
    node: &Node,
    peer: DeviceId,
    id: StreamId,
    orders: &mut mpsc::Receiver<Order>,
    sender: &mut FrameSender,
    receiver: &mut FrameReceiver,
) -> Result<(), NetError> {
    while let Ok(list) = tokio::time::timeout(SILENCE_MAX, receiver.recv()).await {
        let Some(list) = list? else { break };
        node.send(Input::FetchAsked(peer, id, list)).await;
        match orders.recv().await {
            Some(Order::Serve(items, urgent)) => {
                let rush = node.shared.rush.join(peer, urgent);
                if !send_items(node, id, orders, sender, items, &rush).await? {
                    send(sender, &Frame::Denied).await?;
                    break;
                }
                send(sender, &Frame::End).await?;
            }
            Some(Order::Finish(frame)) => {
                send(sender, &frame).await?;
                break;
            }
            Some(Order::Go(_)) | None => break,
        }
    }
    sender.close().await
}

/// Frames that are sent under one decision: about a MiB.
type Batch = Vec<Vec<u8>>;

/// Sends everything; false if the permission ended on the way.
async fn send_items(
    node: &Node,
    id: StreamId,
    orders: &mut mpsc::Receiver<Order>,
    sender: &mut FrameSender,
    items: Vec<Serving>,
    rush: &Share<'_>,
) -> Result<bool, NetError> {
    let (made, mut batches) = mpsc::channel(AHEAD_MAX);
    let buffers = Buffers::default();
    let work =
        Work { node: node.clone(), items: items.into(), open: None, buffers: buffers.clone(), piece: vec![] };
    // Ends by itself when nobody takes its batches any more.
    drop(tokio::task::spawn_blocking(move || work.run(&made)));
    while let Some(batch) = batches.recv().await {
        rush.my_turn().await;
        if !send_while_allowed(node, id, orders, sender, &batch).await? {
            return Ok(false);
        }
        batch
            .into_iter()
            .filter(|frame| frame.capacity() >= BUFFER_BYTES_MIN)
            .for_each(|frame| buffers.give_back(frame));
    }
    Ok(true)
}

/// Sends the frames, and asks meanwhile whether more may be sent, once and then every second (SPEC rule 7); false if not.
/// A frame that a slow reader does not take is dropped in the middle then, and with it the stream.
async fn send_while_allowed(
    node: &Node,
    id: StreamId,
    orders: &mut mpsc::Receiver<Order>,
    sender: &mut FrameSender,
    batch: &Batch,
) -> Result<bool, NetError> {
    let sending = tokio::time::timeout(SILENCE_MAX, async {
        for frame in batch {
            sender.feed(frame).await?;
        }
        sender.flush().await
    });
    let mut sending = std::pin::pin!(sending);
    let mut again = tokio::time::interval(ASKED_AGAIN);
    let (mut sent, mut asked, mut allowed) = (false, 0, 0);
    while !sent || allowed < asked {
        tokio::select! {
            biased;
            // The first tick is now.
            _ = again.tick(), if !sent => {
                node.send(Input::MayServe(id)).await;
                asked += 1;
            }
            result = &mut sending, if !sent => match result {
                Ok(result) => { result?; sent = true }
                Err(_) => return Err(NetError::StreamTimeout),
            },
            // One answer for each question; an end comes unasked, too.
            order = orders.recv() => match order {
                Some(Order::Go(true)) => allowed += 1,
                _ => return Ok(false),
            },
        }
    }
    Ok(true)
}

async fn send(sender: &mut FrameSender, frame: &Frame) -> Result<(), NetError> {
    sender.send(&encoded(frame)?).await
}

fn encoded(frame: &Frame) -> Result<Vec<u8>, NetError> {
    frame.to_bytes().map_err(|error| NetError::Io { reason: error.to_string() })
}

/// Buffers below this are not worth keeping, in bytes. 64 KiB.
const BUFFER_BYTES_MIN: usize = 64 * 1024;

/// What is left to send.
struct Work {
    node: Node,
    items: VecDeque<Serving>,
    open: Option<Open>,
    buffers: Buffers,
    /// Payload bytes on their way from the disk into a slice.
    piece: Vec<u8>,
}

/// A payload of more than one slice, half sent.
struct Open {
    outline: Arc<Outline>,
    payload: Box<dyn ReadSeek + Send>,
    item: Serving,
    offset: u64,
}

impl Work {
    /// Makes batch after batch, as fast as they are taken.
    fn run(mut self, made: &mpsc::Sender<Batch>) {
        loop {
            let batch = match self.next() {
                Ok(batch) => batch,
                Err(error) => return tracing::error!(%error, "a frame cannot be encoded"),
            };
            if batch.is_empty() || made.blocking_send(batch).is_err() {
                return;
            }
        }
    }

    /// The next frames: about one MiB of payload, or a batch of small records. None: all is sent.
    fn next(&mut self) -> Result<Batch, NetError> {
        let mut batch = Batch::new();
        let (mut bytes, mut records) = (0, 0);
        while bytes < SLICE_BYTES_MAX && records < BATCH_MAX {
            if let Some(open) = self.open.take() {
                bytes += SLICE_BYTES_MAX;
                self.continue_payload(open, &mut batch)?;
                continue;
            }
            let Some(mut item) = self.items.pop_front() else { break };
            records += 1;
            if let Some(label) = item.label.take() {
                bytes += label.len() as u64;
                batch.push(encoded(&Frame::Label { record: item.record, label: label.into() })?);
            }
            if item.payload_bytes > 0 && item.from >= item.payload_bytes {
                continue;
            }
            bytes += item.payload_bytes.min(SLICE_BYTES_MAX);
            self.begin_payload(item, &mut batch)?;
        }
        Ok(batch)
    }

    fn begin_payload(&mut self, item: Serving, batch: &mut Batch) -> Result<(), NetError> {
        let record = item.record;
        let begun = match item.payload_bytes {
            0 => Ok(None),
            1..=SLICE_BYTES_MAX => return self.send_small(&item, batch),
            _ => self.open_payload(item),
        };
        match begun {
            Ok(Some(open)) => self.continue_payload(open, batch),
            Ok(None) => missing(record, batch),
            Err(error) => {
                tracing::error!(%error, "a payload cannot be sent");
                missing(record, batch)
            }
        }
    }

    /// A payload that is one slice.
    fn send_small(&mut self, item: &Serving, batch: &mut Batch) -> Result<(), NetError> {
        let (record, bytes) = (item.record, item.payload_bytes);
        let blobs = &self.node.shared.blobs;
        self.piece.clear();
        let mut slice = self.buffers.take();
        slice.clear();
        let made = match blobs.read(record.as_bytes(), SLICE_BYTES_MAX, &mut self.piece) {
            Ok(true) => Outline::of_small(record, bytes).slice(0, &self.piece, &mut slice).is_ok(),
            _ => false,
        };
        if made {
            return add_slice(&item.record, 0, slice, batch);
        }
        // Opening verifies: what is damaged is known from now on, and fetched again.
        if let Err(error) = blobs.open(record.as_bytes()) {
            tracing::error!(%error, "a payload on disk is not what its name says");
        }
        missing(record, batch)
    }

    fn open_payload(&self, item: Serving) -> io::Result<Option<Open>> {
        let shared = &self.node.shared;
        let Some(payload) = shared.blobs.open(item.record.as_bytes()).map_err(io::Error::other)? else {
            return Ok(None);
        };
        let outline = shared.outlines.of(shared.blobs.as_ref(), item.record, item.payload_bytes);
        let offset = item.from - item.from % SLICE_BYTES_MAX;
        Ok(Some(Open { outline: outline.map_err(io::Error::other)?, payload, item, offset }))
    }

    fn continue_payload(&mut self, mut open: Open, batch: &mut Batch) -> Result<(), NetError> {
        let (record, bytes) = (open.item.record, open.item.payload_bytes);
        let mut slice = self.buffers.take();
        slice.clear();
        let made = read_piece(open.payload.as_mut(), open.offset, bytes, &mut self.piece)
            .map_err(Into::into)
            .and_then(|()| open.outline.slice(open.offset, &self.piece, &mut slice));
        if let Err(error) = made {
            tracing::error!(%error, "a payload cannot be read");
            return missing(record, batch);
        }
        add_slice(&record, open.offset, slice, batch)?;
        open.offset += SLICE_BYTES_MAX;
        self.open = (open.offset < bytes).then_some(open);
        Ok(())
    }
}

fn missing(record: RecordId, batch: &mut Batch) -> Result<(), NetError> {
    batch.push(encoded(&Frame::Missing { record })?);
    Ok(())
}

fn add_slice(record: &RecordId, offset: u64, slice: Vec<u8>, batch: &mut Batch) -> Result<(), NetError> {
    #[cfg(feature = "variants")]
    let slice = karte_protocol::variants::as_sent(slice);
    batch.push(encoded(&Frame::Slice { record: *record, offset })?);
    batch.push(slice);
    Ok(())
}
