//! When a group of writes could not be made durable: back to what the store holds.
//!
//! For: a full disk. The group is dropped, its answers are failures, and the engine is read anew, so that nothing in
//! memory claims what no disk keeps. Not for: damage; that ends the node.

use super::{Effect, Engine, Parts};
use crate::failure::{Failure, Kind};
use crate::store::Batch;
use karte_protocol::message::Response;
use karte_protocol::time::UnixMs;

/// Marks a batch that may use the store's reserve when the disk is full: a denial or a recovery.
pub(super) fn urgent(mut batch: Batch) -> Batch {
    batch.urgent();
    batch
}

/// What a command is told whose group found no room.
pub fn full() -> Failure {
    Failure::new(Kind::Failed, "the disk is full: nothing of this was done")
        .next("Free some disk space and repeat the command. Reading and revoking still work.")
}

/// What a peer is told whose request found no room.
pub fn denied() -> Option<Vec<u8>> {
    Response::Denied.to_bytes().ok()
}

impl Engine {
    /// Drops the group that could not be committed and reads everything from the store again. Connections stay;
    /// sessions on them end and begin anew. Gives what is to be told to those who wait.
    pub fn reload(mut self, now: UnixMs) -> Result<(Self, Vec<Effect>), Failure> {
        self.store.abandon();
        let genesis = self
            .mine()
            .log
            .in_order()
            .first()
            .map(|entry| entry.bytes().to_vec())
            .ok_or_else(|| Failure::failed("the own log is empty"))?;
        let mut effects: Vec<Effect> =
            self.syncs.iter().map(|run| Effect::Answer(run.ticket, Err(full()))).collect();
        effects.extend(self.got.keys().map(|id| Effect::StopFetch(*id, None)));
        effects.push(Effect::StopFetch(self.own_fetch(), None));
        effects.extend(self.streams.keys().map(|stream| Effect::Go(*stream, false)));
        let (addresses, redial, near) = (self.addresses, self.redial, self.near);
        let peers =
            self.peers.into_iter().map(|(device, peer)| (device, peer.only_the_connection())).collect();
        let parts = Parts {
            keys: self.keys,
            ring: self.ring,
            store: self.store,
            chance: self.chance,
            genesis,
            name: self.me.name,
            kind: self.me.kind,
            policy: self.policy,
            copied: false,
            started: self.started,
        };
        let mut engine = Self::read(parts, now)?;
        (engine.addresses, engine.redial, engine.peers) = (addresses, redial, peers);
        engine.near = near;
        // Statuses of others are judged anew wherever they count; the own one may name heads that were dropped.
        engine.latest.extend(self.latest.into_iter().filter(|(party, _)| *party != engine.me.party));
        engine.heard.take_over(self.heard);
        Ok((engine, effects))
    }
}
