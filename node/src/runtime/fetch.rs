//! The reading side of payload streams: every slice is verified before it is written, and what is whole is durable before
//! the engine hears of it.
//!
//! ```text
//! want-lists ─> task ─> stream
//!               task <─ stream ─(8 frames)─> thread: verify, write ─(256 records)─> thread: judge and sync, tell the engine
//! ```
//! One download for a device and a grant: its lists go out one behind the other on one stream, which stays open a while
//! for the next. The network never waits for the disk, nor a write for a sync: what became whole during one sync is the
//! next group.

use super::buffers::Buffers;
use super::intake::{Done, Intake, List, prepare};
use super::{Node, lock};
use crate::engine::{Arrival, Authors, Expected, FetchEnd, Input, judge};
use crate::network::{FrameReceiver, FrameSender};
use crate::store::StoreError;
use karte_protocol::id::{DeviceId, GrantId, RecordId};
use karte_protocol::message::{Fetch, Frame};
use karte_protocol::shelf::Handed;
use std::collections::VecDeque;
use std::sync::mpsc as threads;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// How long the other side may be silent while we wait for frames. 60 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a stream stays open without a list. 5 s: a record made now comes without opening another.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Want-lists that may wait for their turn. 8: the engine has at most four under way.
const LISTS_MAX: usize = 8;
/// Frames between network and disk. 8: some 8 MiB.
const QUEUE_MAX: usize = 8;
/// Records that may wait for their sync, and most of one group. 256: their payloads are on the disk's side already, and
/// the labels that wait in memory are at most 64 MiB.
const GROUP_MAX: usize = 256;

/// Which download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Of {
    pub(super) peer: DeviceId,
    pub(super) grant: GrantId,
    /// What is urgent has a stream of its own.
    pub(super) urgent: bool,
}

/// One that runs.
pub(super) struct Download {
    lists: mpsc::Sender<Asked>,
    task: AbortHandle,
}

/// A want-list, and what to expect for each want.
type Asked = (Fetch, Vec<Expected>);

/// What came on the stream.
pub(super) enum Frames {
    /// The next ones answer this list.
    List(List),
    Frame(Frame),
    Slice {
        record: RecordId,
        offset: u64,
        slice: Vec<u8>,
    },
    /// The first list of those that are open was answered.
    Ended(FetchEnd),
}

impl Download {
    pub(super) fn abort(&self) {
        self.task.abort();
    }
}

/// Fetches; what comes of it is told to the engine.
pub(super) fn begin(node: &Node, peer: DeviceId, fetch: Fetch, expected: Vec<Expected>) {
    let of = Of { peer, grant: fetch.grant, urgent: fetch.urgent };
    let mut downloads = lock(&node.shared.downloads);
    downloads.retain(|_, download| !download.lists.is_closed());
    let mut asked = (fetch, expected);
    if let Some(running) = downloads.get(&of) {
        match running.lists.try_send(asked) {
            Ok(()) => return,
            // It is ending just now: its successor takes the list.
            Err(refused) => asked = refused.into_inner(),
        }
    }
    let (lists, queue) = mpsc::channel(LISTS_MAX);
    // There is room in a new queue.
    let _ = lists.try_send(asked);
    let task = tokio::spawn(download(node.clone(), of, queue)).abort_handle();
    downloads.insert(of, Download { lists, task });
}

async fn download(node: Node, of: Of, mut lists: mpsc::Receiver<Asked>) {
    let (frames, arriving) = mpsc::channel(QUEUE_MAX);
    let (done, doing) = threads::sync_channel(GROUP_MAX);
    let buffers = Buffers::default();
    let intake = Intake::new(node.clone(), of, done, buffers.clone());
    drop(tokio::task::spawn_blocking(move || intake.run(arriving)));
    let syncing = node.clone();
    drop(tokio::task::spawn_blocking(move || sync_groups(&syncing, of, &doing)));
    let run = Run { node: &node, of, frames, buffers, open: VecDeque::new() };
    let broken = run.answer_all(&mut lists).await.err();
    // Lists that came too late for this stream.
    lists.close();
    while let Ok((fetch, expected)) = lists.try_recv() {
        match &broken {
            // It was closing because nothing was wanted.
            None => begin(&node, of.peer, fetch, expected),
            Some(reason) => {
                let broken = FetchEnd::Broken(reason.clone());
                node.send(Input::FetchEnded(of.peer, of.grant, vec![], broken)).await;
            }
        }
    }
}

/// The task's side of a download.
struct Run<'a> {
    node: &'a Node,
    of: Of,
    frames: mpsc::Sender<Frames>,
    buffers: Buffers,
    /// Records of the lists that are sent and not answered.
    open: VecDeque<usize>,
}

impl Run<'_> {
    /// Until nothing was wanted for a while, or the stream broke. Lists that were begun then end as broken.
    async fn answer_all(mut self, lists: &mut mpsc::Receiver<Asked>) -> Result<(), String> {
        let result = self.try_answer_all(lists).await;
        if let Err(reason) = &result {
            for _ in std::mem::take(&mut self.open) {
                // A writer that stopped has told so of its lists.
                let _ = self.frames.send(Frames::Ended(FetchEnd::Broken(reason.clone()))).await;
            }
        }
        result
    }

    async fn try_answer_all(&mut self, lists: &mut mpsc::Receiver<Asked>) -> Result<(), String> {
        let Some(first) = lists.recv().await else { return Ok(()) };
        let first = self.take(first).await?;
        let network = self.node.shared.network.as_ref().ok_or("this command runs without a network")?;
        let first = first.to_bytes().map_err(|error| error.to_string())?;
        let stream = network.open_stream_with(*self.of.peer.as_bytes(), &first).await;
        let (mut sender, mut receiver) = stream.map_err(|error| error.to_string())?.split();
        loop {
            let patience = if self.open.is_empty() { IDLE_MAX } else { SILENCE_MAX };
            tokio::select! {
                list = lists.recv() => match list {
                    Some(list) => {
                        let fetch = self.take(list).await?;
                        send(&mut sender, &fetch).await?;
                    }
                    None => break,
                },
                // Dropped when a list comes, which loses nothing.
                frame = receiver.recv() => {
                    let frame = frame.map_err(|error| error.to_string())?;
                    self.arrived(frame.ok_or("the other side closed the stream")?, &mut receiver).await?;
                }
                () = tokio::time::sleep(patience) => match self.open.is_empty() {
                    true => break,
                    false => return Err("the other side fell silent".into()),
                },
            }
        }
        // How the other side hears of the end is not worth waiting for.
        drop(tokio::spawn(async move { sender.close().await }));
        Ok(())
    }

    /// Hands a list to the writer; the want-list without what is here already.
    async fn take(&mut self, (fetch, expected): Asked) -> Result<Fetch, String> {
        let blobs = self.node.shared.blobs.clone();
        let count = fetch.wants.len();
        let prepared = tokio::task::spawn_blocking(move || prepare(blobs.as_ref(), fetch, expected)).await;
        let (fetch, list) = prepared.map_err(|_| "a want-list was not made".to_owned())?;
        // It counts as begun only once the writer has it.
        match self.frames.send(Frames::List(list)).await {
            Ok(()) => self.open.push_back(count),
            Err(_) => {
                let broken = FetchEnd::Broken("writing stopped".into());
                self.node.send(Input::FetchEnded(self.of.peer, self.of.grant, vec![], broken)).await;
                return Err("writing stopped".into());
            }
        }
        Ok(fetch)
    }

    async fn arrived(&mut self, frame: Vec<u8>, receiver: &mut FrameReceiver) -> Result<(), String> {
        let frames = match Frame::from_bytes(&frame).map_err(|error| error.to_string())? {
            Frame::Slice { record, offset } => {
                receiver.recycle(self.buffers.take());
                let slice = tokio::time::timeout(SILENCE_MAX, receiver.recv()).await;
                let slice =
                    slice.map_err(|_| "the other side fell silent")?.map_err(|error| error.to_string())?;
                Frames::Slice { record, offset, slice: slice.ok_or("the other side closed the stream")? }
            }
            Frame::End => {
                self.open.pop_front().ok_or("an end came of nothing")?;
                Frames::Ended(FetchEnd::Whole)
            }
            Frame::Denied => {
                self.open.pop_front().ok_or("a no came to nothing")?;
                self.pass_on(Frames::Ended(FetchEnd::Denied)).await?;
                // The other side closes the stream behind it.
                return Err("it was denied".into());
            }
            frame => Frames::Frame(frame),
        };
        self.pass_on(frames).await
    }

    async fn pass_on(&self, frames: Frames) -> Result<(), String> {
        self.frames.send(frames).await.map_err(|_| "writing stopped".to_owned())
    }
}

async fn send(sender: &mut FrameSender, fetch: &Fetch) -> Result<(), String> {
    let list = fetch.to_bytes().map_err(|error| error.to_string())?;
    sender.send(&list).await.map_err(|error| error.to_string())
}

/// Makes durable what became whole, all that waits at a time, judges its labels meanwhile, and tells the engine.
fn sync_groups(node: &Node, of: Of, doing: &threads::Receiver<Done>) {
    let mut authors = Authors::default();
    while let Ok(first) = doing.recv() {
        let mut group = Vec::new();
        let mut ended = None;
        for done in std::iter::once(first).chain(doing.try_iter()) {
            match done {
                Done::Whole(whole) => group.push(whole),
                Done::Ended(missing, end) => ended = Some((missing, end)),
            }
            if ended.is_some() || group.len() >= GROUP_MAX {
                break;
            }
        }
        let synced = if group.is_empty() { Ok(()) } else { sync(node, &mut group, &mut authors) };
        let arrivals: Vec<Arrival> = group.into_iter().map(|whole| whole.0).collect();
        let mut told = Vec::new();
        let synced = synced.map_err(|error| error.to_string());
        if synced.is_ok() && !arrivals.is_empty() {
            told.push(Input::Arrived(of.peer, of.grant, arrivals));
        }
        told.extend(ended.map(|(missing, end)| {
            let end = match &synced {
                Ok(()) => end,
                Err(reason) => FetchEnd::Broken(reason.clone()),
            };
            Input::FetchEnded(of.peer, of.grant, missing, end)
        }));
        if told.into_iter().any(|input| node.shared.inbox.blocking_send(input).is_err()) {
            // The node stopped.
            return;
        }
    }
}

/// While the disk works, so does this thread.
fn sync(
    node: &Node,
    group: &mut [Box<(Arrival, Option<Handed>)>],
    authors: &mut Authors,
) -> Result<(), StoreError> {
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| node.shared.blobs.sync());
        for (arrival, handed) in group.iter_mut().map(AsMut::as_mut) {
            arrival.judged = handed.as_ref().map(|handed| judge(handed, &arrival.label, authors));
        }
        syncing.join().unwrap_or(Err(StoreError::Poisoned))
    })
}
