//! Giving space back: packs with deleted payloads are rewritten without them.
//!
//! ```text
//! copy what counts into a new pack → sync it and its name → count the copies → remove the old packs → sync
//! ```
//! A crash before the new pack is whole leaves the old ones as they are, and whatever is whole of the new one
//! is a copy; a crash after leaves the old ones as copies. Who reads an old pack has its file open and reads on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::frame::{HEAD_BYTES, Kind, Target};
use super::pack::Pack;
use super::packs::{Packs, Place, State, is_missing, read_body, sync_names};
use super::{BlobId, Failed, Reclaimed, lock, remove};
use crate::store::io_error;

/// Share of packed payloads that may be reclaimable, as its inverse. 10, one tenth: with the heads in pack and
/// index (104 bytes for each payload, a twelfth of a small FHIR resource) what is not payload stays below a
/// fifth, and a byte deleted costs at most about ten copied.
const DEAD_SHARE: u64 = 10;

/// Sums over all packs.
#[derive(Clone, Copy, Default)]
pub(super) struct Sizes {
    pub(super) packs: u64,
    pub(super) disk_bytes: u64,
    pub(super) live_bytes: u64,
    pub(super) reclaimable_bytes: u64,
    pub(super) payloads: u64,
    pub(super) hole_bytes: u64,
}

/// One frame's copy in the new pack.
struct Move {
    id: BlobId,
    from: Place,
    to: Place,
}

impl Packs {
    pub(super) fn sizes(&self) -> Sizes {
        let state = lock(&self.state);
        let mut sizes =
            Sizes { packs: state.packs.len() as u64, payloads: state.found.len() as u64, ..Sizes::default() };
        for pack in state.packs.values() {
            sizes.disk_bytes = sizes.disk_bytes.saturating_add(pack.disk_bytes());
            sizes.live_bytes = sizes.live_bytes.saturating_add(pack.live_bytes);
            sizes.reclaimable_bytes = sizes.reclaimable_bytes.saturating_add(state.reclaimable_bytes(pack));
            sizes.hole_bytes = sizes.hole_bytes.saturating_add(pack.hole_bytes);
        }
        sizes.live_bytes =
            sizes.live_bytes.saturating_sub(u64::from(HEAD_BYTES).saturating_mul(sizes.payloads));
        sizes
    }

    /// One pack rewritten, if too much of all packs is dead: a bounded step, for the end of a sync.
    pub(super) fn gc_step(&self) -> Result<(), Failed> {
        let sizes = self.sizes();
        let allowed = (sizes.live_bytes / DEAD_SHARE).max(self.limits.gc_floor_bytes);
        if sizes.reclaimable_bytes <= allowed {
            return Ok(());
        }
        let worst = {
            let state = lock(&self.state);
            state.packs.values().max_by_key(|pack| state.reclaimable_bytes(pack)).map(Pack::tag)
        };
        worst.map_or(Ok(()), |tag| self.rewrite(&BTreeSet::from([tag])).map(|_| ()))
    }

    /// Packs to rewrite so that no byte of a deleted payload stays, in batches that fit one new pack each.
    pub(super) fn gc_batches(&self) -> Vec<BTreeSet<u32>> {
        let state = lock(&self.state);
        let (mut batches, mut batch_bytes) = (vec![BTreeSet::new()], 0u64);
        for pack in state.packs.values().filter(|pack| state.is_worth_it(pack)) {
            batch_bytes = batch_bytes.saturating_add(pack.live_bytes);
            if batch_bytes > self.limits.pack_bytes {
                batches.push(BTreeSet::new());
                batch_bytes = pack.live_bytes;
            }
            batches.last_mut().map(|batch| batch.insert(pack.tag()));
        }
        batches
    }

    /// Rewrites some packs into one. The caller lets no sync and no other rewrite run meanwhile.
    pub(super) fn rewrite(&self, victims: &BTreeSet<u32>) -> Result<Reclaimed, Failed> {
        if victims.is_empty() {
            return Ok(Reclaimed::default());
        }
        let (live, deletions, files) = lock(&self.state).close(victims);
        let fresh = self.copy(&live, &deletions, &files)?;
        let mut reclaimed = Reclaimed { packs: victims.len() as u64, ..Reclaimed::default() };
        let mut added_bytes = 0;
        if let Some((pack, moves)) = fresh {
            added_bytes = pack.disk_bytes();
            self.switch(pack, &moves)?;
        }
        self.remove(victims, &mut reclaimed)?;
        reclaimed.bytes = reclaimed.bytes.saturating_sub(added_bytes);
        Ok(reclaimed)
    }

    /// Copies into a new pack, synced. A failure leaves nothing.
    fn copy(
        &self,
        live: &[(Place, BlobId)],
        deletions: &[Target],
        files: &BTreeMap<u32, io::Result<Arc<File>>>,
    ) -> Result<Option<(Pack, Vec<Move>)>, Failed> {
        if live.is_empty() && deletions.is_empty() {
            return Ok(None);
        }
        let mut pack = self.create(&mut lock(&self.state)).map_err(Failed::Known)?;
        match fill(&mut pack, live, deletions, files) {
            Ok(moves) => Ok(Some((pack, moves))),
            Err(error) => {
                self.discard(&pack)?;
                Err(Failed::Known(io_error("rewriting a pack")(error)))
            }
        }
    }

    /// From here on the copies count. What was deleted or put again meanwhile is deleted in the copy too.
    fn switch(&self, pack: Pack, moves: &[Move]) -> Result<(), Failed> {
        let mut state = lock(&self.state);
        for Move { id, from, to } in moves {
            if state.found.get(id).is_some_and(|now| now.is_at(from)) {
                continue;
            }
            if let Err(error) = self.append_deletion(&mut state, Target::new(to.pack, to.offset, id)) {
                self.discard(&pack)?;
                return Err(Failed::Known(error));
            }
        }
        state.packs.insert(pack.tag(), pack);
        for Move { id, from, to } in moves {
            if state.found.get(id).is_some_and(|now| now.is_at(from)) {
                state.forget(id);
                state.take_in(*id, *to);
                // Until its pack is removed.
                state.copies.entry(*id).or_default().push(*from);
            }
        }
        Ok(())
    }

    /// Gone for good: a copy that came back would not know of later deletions.
    fn discard(&self, pack: &Pack) -> Result<(), Failed> {
        pack.unmake();
        sync_names(&self.dir)
    }

    fn remove(&self, victims: &BTreeSet<u32>, reclaimed: &mut Reclaimed) -> Result<(), Failed> {
        let doing = "removing a pack";
        for tag in victims {
            // The index goes last: alone it would name all that was in the pack as lost, of which copies count.
            let paths = lock(&self.state).packs.get(tag).map(Pack::paths);
            for path in paths.iter().flatten() {
                remove(path).map_err(Failed::known(doing))?;
            }
        }
        // Before this is durable their deletions, kept in other packs, are needed.
        sync_names(&self.dir)?;
        let mut state = lock(&self.state);
        for tag in victims {
            let removed = state.packs.remove(tag).map_or(0, |pack| pack.disk_bytes());
            reclaimed.bytes = reclaimed.bytes.saturating_add(removed);
        }
        state.copies.retain(|_, copies| {
            copies.retain(|copy| !victims.contains(&copy.pack));
            !copies.is_empty()
        });
        Ok(())
    }
}

type Live = (Vec<(Place, BlobId)>, Vec<Target>, BTreeMap<u32, io::Result<Arc<File>>>);

impl State {
    /// Ends appending to some packs, and returns what of them counts.
    fn close(&mut self, victims: &BTreeSet<u32>) -> Live {
        self.active = self.active.filter(|tag| !victims.contains(tag));
        let (mut deletions, mut files) = (Vec::new(), BTreeMap::new());
        for tag in victims {
            if let Some(pack) = self.packs.get_mut(tag) {
                pack.is_closed = true;
                files.insert(*tag, pack.handle());
                deletions.extend(pack.deletions.iter().copied());
            }
        }
        deletions.retain(|target| self.packs.contains_key(&target.pack) && !victims.contains(&target.pack));
        let live = self.found.iter().filter(|(_, place)| victims.contains(&place.pack));
        let mut live: Vec<_> = live.map(|(id, place)| (*place, *id)).collect();
        live.sort_unstable();
        (live, deletions, files)
    }

    /// Deletions of frames whose pack is gone need not be kept.
    fn stale_bytes(&self, pack: &Pack) -> u64 {
        let stale = pack.deletions.iter().filter(|target| !self.packs.contains_key(&target.pack));
        u64::from(HEAD_BYTES).saturating_mul(stale.count() as u64)
    }

    fn reclaimable_bytes(&self, pack: &Pack) -> u64 {
        pack.dead_bytes().saturating_add(self.stale_bytes(pack))
    }

    /// Whether something of a payload lies in it that does not count, or too much else.
    fn is_worth_it(&self, pack: &Pack) -> bool {
        pack.dead_bytes() > 0 || self.stale_bytes(pack) > pack.live_bytes / DEAD_SHARE
    }
}

fn fill(
    pack: &mut Pack,
    live: &[(Place, BlobId)],
    deletions: &[Target],
    files: &BTreeMap<u32, io::Result<Arc<File>>>,
) -> io::Result<Vec<Move>> {
    let mut moves = Vec::with_capacity(live.len());
    for (from, id) in live {
        let body = body_of(files.get(&from.pack), from, id)?;
        let kind = if body.is_some() { Kind::Payload } else { Kind::Lost };
        let offset = pack.append(kind, *id, body.as_deref().unwrap_or_default())?;
        let length = body.as_ref().map_or(0, |_| from.length);
        let to = Place { pack: pack.tag(), offset, length, is_lost: body.is_none() };
        moves.push(Move { id: *id, from: *from, to });
    }
    for target in deletions {
        pack.append(Kind::Deleted, target.to_name(), &[])?;
    }
    let group = pack.group()?;
    group.sync().map_err(Failed::into_io)?;
    pack.synced(&group);
    Ok(moves)
}

/// The payload, or `None` when it is damaged: then only its name goes on. What cannot be read just now is an
/// error, because it may be read another time.
fn body_of(file: Option<&io::Result<Arc<File>>>, from: &Place, id: &BlobId) -> io::Result<Option<Vec<u8>>> {
    let bytes = match file {
        _ if from.is_lost => return Ok(None),
        Some(Ok(file)) => read_body(file, from),
        Some(Err(error)) => Err(io::Error::from(error.kind())),
        None => Err(io::ErrorKind::NotFound.into()),
    };
    match bytes {
        Ok(bytes) => Ok(Some(bytes).filter(|bytes| blake3::hash(bytes).as_bytes() == id)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
