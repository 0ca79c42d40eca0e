//! The serving side of a payload stream: want-lists in, labels and verified slices out.
//!
//! The engine decides at every want-list, and again every MiB. A stream that is told to stop ends after the
//! slice it is sending, at most 1 MiB later.

use super::payload::Payload;
use super::{Node, lock};
use crate::engine::{Input, Serving, StreamId};
use crate::network::{FrameReceiver, FrameSender, FrameStream, NetError};
use crate::store::Blobs;
use karte_protocol::bao::Tree;
use karte_protocol::id::DeviceId;
use karte_protocol::limits::SLICE_BYTES_MAX;
use karte_protocol::message::Frame;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a reader may be silent on a stream before it is closed. 2 minutes.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Small records whose frames are made in one go. 64.
const BATCH_MAX: usize = 64;

/// What the engine orders for a stream.
pub(super) enum Order {
    Serve(Vec<Serving>),
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
            Some(Order::Serve(items)) => {
                if !send_items(node, id, orders, sender, items).await? {
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

/// Sends everything; false if the permission ended on the way.
async fn send_items(
    node: &Node,
    id: StreamId,
    orders: &mut mpsc::Receiver<Order>,
    sender: &mut FrameSender,
    items: Vec<Serving>,
) -> Result<bool, NetError> {
    let mut work = Work { items: items.into(), open: None, blobs: node.shared.blobs.clone() };
    loop {
        let (back, frames) = match tokio::task::spawn_blocking(move || work.next()).await {
            Ok(made) => made,
            Err(_) => return Ok(false),
        };
        work = back;
        if frames.is_empty() {
            return Ok(true);
        }
        if !send_while_allowed(orders, sender, &frames).await? || !may_go_on(node, id, orders).await {
            return Ok(false);
        }
    }
}

/// Sends the frames; false if the permission ended meanwhile. A frame that a slow reader does not take is dropped
/// in the middle then, and with it the stream.
async fn send_while_allowed(
    orders: &mut mpsc::Receiver<Order>,
    sender: &mut FrameSender,
    frames: &[Frame],
) -> Result<bool, NetError> {
    let sending = async {
        for frame in frames {
            send(sender, frame).await?;
        }
        Ok(())
    };
    tokio::select! {
        sent = tokio::time::timeout(SILENCE_MAX, sending) => match sent {
            Ok(sent) => sent.map(|()| true),
            Err(_) => Err(NetError::StreamTimeout),
        },
        // Only an end comes unasked.
        _ = orders.recv() => Ok(false),
    }
}

async fn may_go_on(node: &Node, id: StreamId, orders: &mut mpsc::Receiver<Order>) -> bool {
    node.send(Input::MayServe(id)).await;
    matches!(orders.recv().await, Some(Order::Go(true)))
}

async fn send(sender: &mut FrameSender, frame: &Frame) -> Result<(), NetError> {
    match frame.to_bytes() {
        Ok(bytes) => sender.send(&bytes).await,
        Err(error) => Err(NetError::Io { reason: error.to_string() }),
    }
}

/// What is left to send.
struct Work {
    items: std::collections::VecDeque<Serving>,
    open: Option<Open>,
    blobs: Arc<dyn Blobs>,
}

/// A payload of more than one slice, half sent.
struct Open {
    tree: Tree,
    payload: Payload,
    item: Serving,
    offset: u64,
}

impl Work {
    /// The next frames: about one MiB of payload, or a batch of small records. None: all is sent.
    fn next(mut self) -> (Self, Vec<Frame>) {
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < SLICE_BYTES_MAX && frames.len() < 2 * BATCH_MAX {
            if let Some(open) = self.open.take() {
                bytes += SLICE_BYTES_MAX;
                self.open = continue_payload(open, &mut frames);
                continue;
            }
            let Some(mut item) = self.items.pop_front() else {
                break;
            };
            if let Some(label) = item.label.take() {
                bytes += label.len() as u64;
                frames.push(Frame::Label { record: item.record, label: label.into() });
            }
            if item.payload_bytes > 0 && item.from >= item.payload_bytes {
                continue;
            }
            bytes += item.payload_bytes.min(SLICE_BYTES_MAX);
            if item.payload_bytes == 0 {
                frames.push(Frame::Missing { record: item.record });
                continue;
            }
            let missing = Frame::Missing { record: item.record };
            match self.open_payload(item) {
                Some(open) => self.open = continue_payload(open, &mut frames),
                None => frames.push(missing),
            }
        }
        (self, frames)
    }

    fn open_payload(&self, item: Serving) -> Option<Open> {
        let file = self.blobs.open(item.record.as_bytes()).ok().flatten()?;
        let payload = Payload::new(file, item.payload_bytes);
        let tree = Tree::of(item.record, item.payload_bytes, payload.rewound().ok()?)
            .inspect_err(|error| tracing::error!(%error, "a payload on disk is not what its name says"))
            .ok()?;
        let offset = item.from - item.from % SLICE_BYTES_MAX;
        Some(Open { tree, payload, item, offset })
    }
}

fn continue_payload(mut open: Open, frames: &mut Vec<Frame>) -> Option<Open> {
    let record = open.item.record;
    match open.tree.slice(open.offset, &open.payload) {
        Ok(slice) => frames.push(Frame::Slice { record, offset: open.offset, slice: slice.into() }),
        Err(error) => {
            tracing::error!(%error, "a payload cannot be read");
            frames.push(Frame::Missing { record });
            return None;
        }
    }
    open.offset += SLICE_BYTES_MAX;
    (open.offset < open.item.payload_bytes).then_some(open)
}
