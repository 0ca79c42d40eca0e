//! Bringing rows into the view: sealed, in sled's order, and beside the commits that follow.
//!
//! For: the one thread that does it while the store goes on, and the same work done at once for a view that is
//! made anew. Not for: deciding when ([`super::disk`]), nor for what is durable: the journal has every row before
//! it comes here, so a thread that fails, hangs or is given up costs a view, which is remade.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use super::delta::Delta;
use super::sealing::Keys;
use super::view::{Totals, unreadable};
use super::{StoreError, Table};

/// How long the rows under way may take. 60 s: 16 MiB on a slow card take some seconds, and sled 0.34.7 can wait for
/// ever after an I/O error; the thread is then left behind, and the view with it.
const APPLY_TIME_MAX: Duration = Duration::from_secs(60);
/// Rows that are worth a second thread. 256: starting one costs about as much as sealing some rows.
const ROWS_FOR_TWO: usize = 256;

/// Rows on their way into the view, in a thread. Until they are there they are read from here.
pub(super) struct Applying {
    rows: Arc<Delta>,
    is_given_up: Arc<AtomicBool>,
    done: Receiver<Result<Totals, StoreError>>,
}

impl Applying {
    /// Starts the thread. Where the system has none to give, the rows are brought in before this returns.
    pub(super) fn start(keys: &Arc<Keys>, tree: &sled::Db, rows: Delta) -> Self {
        let (tell, done) = sync_channel(1);
        let under_way = Self { rows: Arc::new(rows), is_given_up: Arc::default(), done };
        let work = || {
            let (keys, tree, tell) = (Arc::clone(keys), tree.clone(), tell.clone());
            let (rows, is_given_up) = (Arc::clone(&under_way.rows), Arc::clone(&under_way.is_given_up));
            move || {
                let applied = apply(&keys, &tree, &rows, &is_given_up);
                // Let go before it is told: whoever hears of it may close the view.
                drop((tree, rows));
                // Nobody listens any more when it took too long.
                let _ = tell.send(applied);
            }
        };
        if std::thread::Builder::new().name("view-apply".to_owned()).spawn(work()).is_err() {
            work()();
        }
        under_way
    }

    /// Rows under way for as long as a test wants.
    #[cfg(test)]
    pub(super) fn held(rows: Delta) -> (Self, std::sync::mpsc::SyncSender<Result<Totals, StoreError>>) {
        let (tell, done) = sync_channel(1);
        (Self { rows: Arc::new(rows), is_given_up: Arc::default(), done }, tell)
    }

    pub(super) fn rows(&self) -> &Delta {
        &self.rows
    }

    /// By how much the totals change, or `None` while it is under way.
    pub(super) fn poll(&self) -> Option<Result<Totals, StoreError>> {
        match self.done.try_recv() {
            Ok(done) => Some(done),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(unreadable("the thread that wrote it died"))),
        }
    }

    /// The same, waiting for it.
    pub(super) fn wait(&self) -> Result<Totals, StoreError> {
        let done = self.done.recv_timeout(APPLY_TIME_MAX);
        done.unwrap_or_else(|_| Err(unreadable("the thread that wrote it died or hangs")))
    }
}

impl Drop for Applying {
    /// Gives up what is not there yet, and waits: sled closes only when nobody uses it.
    fn drop(&mut self) {
        self.is_given_up.store(true, Ordering::Relaxed);
        let _ = self.wait();
    }
}

/// One change, with the secret name of its row.
struct Change<'a> {
    name: Vec<u8>,
    parent: &'a [u8],
    item: &'a [u8],
    value: Option<&'a [u8]>,
}

/// Applies a delta by two threads, for a caller that waits for nothing else; returns by how much the totals change.
pub(super) fn apply_by_two(keys: &Keys, tree: &sled::Db, delta: &Delta) -> Result<Totals, StoreError> {
    let never = AtomicBool::new(false);
    let (mut totals, changes) = prepare(keys, tree, delta)?;
    let second = if changes.len() < ROWS_FOR_TWO { changes.len() } else { changes.len() / 2 };
    let (one, other) = changes.split_at(second);
    let (one, other) = std::thread::scope(|scope| {
        let other = (!other.is_empty()).then(|| scope.spawn(|| apply_changes(keys, tree, other, &never)));
        let one = apply_changes(keys, tree, one, &never);
        let other = other
            .map(|thread| thread.join().unwrap_or_else(|_| Err(unreadable("a thread that wrote it died"))));
        (one, other.unwrap_or_else(|| Ok(Totals::default())))
    });
    totals.add(one?);
    totals.add(other?);
    Ok(totals)
}

fn apply(
    keys: &Keys,
    tree: &sled::Db,
    delta: &Delta,
    is_given_up: &AtomicBool,
) -> Result<Totals, StoreError> {
    let (mut totals, changes) = prepare(keys, tree, delta)?;
    totals.add(apply_changes(keys, tree, &changes, is_given_up)?);
    Ok(totals)
}

/// Clears the parents that the delta clears, and lists its changes in sled's order, where neighbours share pages.
fn prepare<'a>(
    keys: &Keys,
    tree: &sled::Db,
    delta: &'a Delta,
) -> Result<(Totals, Vec<Change<'a>>), StoreError> {
    let mut totals = Totals::default();
    let mut changes = Vec::new();
    for (table, parent, its) in delta.parents() {
        if its.cleared {
            totals.add(clear(keys, tree, table, parent)?);
        }
        changes.extend(its.items.iter().map(|(item, value)| Change {
            name: keys.row_name(table, parent, item),
            parent,
            item: item.as_slice(),
            value: value.as_ref().map(|value| value.as_slice()),
        }));
    }
    changes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok((totals, changes))
}

fn clear(keys: &Keys, tree: &sled::Db, table: Table, parent: &[u8]) -> Result<Totals, StoreError> {
    let mut totals = Totals::default();
    for name in tree.scan_prefix(keys.parent_name(table, parent)).keys() {
        let name = name.map_err(unreadable)?;
        let old = tree.remove(&name).map_err(unreadable)?;
        totals.take_away(old.map_or(Totals::default(), |old| Totals::of(&name, &old)));
    }
    Ok(totals)
}

fn apply_changes(
    keys: &Keys,
    tree: &sled::Db,
    changes: &[Change<'_>],
    is_given_up: &AtomicBool,
) -> Result<Totals, StoreError> {
    let mut totals = Totals::default();
    for change in changes {
        if is_given_up.load(Ordering::Relaxed) {
            return Err(unreadable("it was given up"));
        }
        let name = change.name.as_slice();
        let old = match change.value {
            Some(value) => {
                let sealed = seal_row(keys, name, change.parent, change.item, value)?;
                totals.add(Totals::of(name, &sealed));
                tree.insert(name, sealed)
            }
            None => tree.remove(name),
        };
        let old = old.map_err(unreadable)?;
        totals.take_away(old.map_or(Totals::default(), |old| Totals::of(name, &old)));
    }
    Ok(totals)
}

/// A row's value: `[parent, item, value]` in dag-cbor, sealed with its name as AAD.
fn seal_row(
    keys: &Keys,
    name: &[u8],
    parent: &[u8],
    item: &[u8],
    value: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let bytes = serde_bytes::Bytes::new;
    let row = serde_ipld_dagcbor::to_vec(&(bytes(parent), bytes(item), bytes(value))).map_err(unreadable)?;
    keys.view.seal(name, &zeroize::Zeroizing::new(row))
}
