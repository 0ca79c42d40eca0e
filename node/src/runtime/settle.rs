//! store → shelve: sealed groups become durable and enter the library, one behind the other, while the next is sealed.
//!
//! For: the end of an import. Not for: sealing ([`super::sealing`]). A group is acknowledged only when its payloads and
//! its rows are durable, and after one that failed none follows.

use super::Node;
use crate::engine::{Answer, Input, NewRecord};
use crate::failure::Failure;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::OwnedRwLockReadGuard;

/// Sealed records whose payloads are written.
pub(super) struct Unsettled {
    pub(super) records: Vec<NewRecord>,
    /// Held from before the first payload was written: until their rows are there, payloads look like stray ones.
    pub(super) not_swept: OwnedRwLockReadGuard<()>,
}

/// Makes a group durable, and gives how many records were new.
pub(super) fn settle(node: &Node, group: Unsettled) -> Result<u64, Failure> {
    let Unsettled { records, not_swept } = group;
    if records.is_empty() {
        return Ok(0);
    }
    node.shared.blobs.sync()?;
    let taken = match node.ask_blocking(|ticket| Input::Records(ticket, records))? {
        Answer::Taken(taken) => taken,
        _ => 0,
    };
    drop(not_swept);
    Ok(taken)
}

/// The thread that settles.
pub(super) struct Settling {
    groups: SyncSender<Unsettled>,
    thread: JoinHandle<Result<u64, Failure>>,
}

impl Settling {
    pub(super) fn start(node: Node) -> Result<Self, Failure> {
        // None waits: a group is taken when the one before is settled, so at most one is neither sealed nor settled.
        let (groups, taken) = sync_channel(0);
        let thread = std::thread::Builder::new().name("settle".into());
        let thread = thread
            .spawn(move || settle_each(&node, &taken))
            .map_err(|error| Failure::failed(format!("no thread for the import: {error}")))?;
        Ok(Self { groups, thread })
    }

    /// Hands over the next group, once all before it are settled. Whether it was taken: one that failed takes no more,
    /// and [`finish`](Self::finish) says why.
    pub(super) fn add(&self, group: Unsettled) -> bool {
        self.groups.send(group).is_ok()
    }

    /// Waits for the last group. Gives how many records were new in all.
    pub(super) fn finish(self) -> Result<u64, Failure> {
        drop(self.groups);
        self.thread.join().map_err(|_| Failure::failed("the import ended badly"))?
    }
}

fn settle_each(node: &Node, groups: &Receiver<Unsettled>) -> Result<u64, Failure> {
    groups.iter().try_fold(0, |sum, group| Ok(settle(node, group)?.saturating_add(sum)))
}
