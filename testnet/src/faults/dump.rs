//! Opens a folder after a fault, and tells all that is in it. Runs in a process of its own (`judge`), because what
//! it opens may make it hang, panic or abort.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::model::{Rows, digest, row_name};
use super::plan::{META, REVOKED};
use super::store::{self, Named, Node};

/// Panics of any thread of this process.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// What is in a folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Dump {
    /// How it opened, in the store's words; `None` when it did not, even after salvage.
    pub opened: Option<String>,
    /// Why the first opening was refused.
    pub refused: Option<String>,
    /// Whether it opened only after salvage.
    pub salvaged: bool,
    /// What the store named as lost.
    pub named: Named,
    /// The last step whose rows are there.
    pub step: Option<u64>,
    /// The time floor.
    pub floor: u64,
    /// Rows of the plan.
    pub rows: Rows,
    /// Revocations.
    pub revoked: BTreeSet<u64>,
    /// Payloads, and whether their content is right.
    pub payloads: BTreeMap<String, bool>,
    /// Reads that failed: what they were about is lost, but named.
    pub errors: Vec<String>,
    /// Panics while it was looked at.
    pub panics: u64,
}

/// Counts panics instead of printing them twice.
pub fn count_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        eprintln!("{info}");
    }));
}

/// Opens the folder, after salvage if need be, and tells what is in it; `closes`: leaves it closed clean.
pub fn dump(dir: &Path, closes: bool) -> Dump {
    let before = PANICS.load(Ordering::SeqCst);
    let caught = std::panic::catch_unwind(|| look(dir, closes));
    let mut dump = caught.unwrap_or_default();
    dump.panics = PANICS.load(Ordering::SeqCst) - before;
    dump
}

fn look(dir: &Path, closes: bool) -> Dump {
    let mut dump = Dump::default();
    let node = match Node::open(dir) {
        Ok((node, opened)) => {
            dump.opened = Some(opened);
            node
        }
        Err(error) => {
            dump.refused = Some(error.to_string());
            let Some(node) = after_salvage(dir, &mut dump) else { return dump };
            node
        }
    };
    if let Err(error) = read(&node, &mut dump) {
        dump.errors.push(error.to_string());
        dump.named.rows = true;
    }
    let checked = node.check();
    dump.named.rows |= checked.rows;
    dump.named.payloads.extend(checked.payloads);
    if closes && let Err(error) = node.close() {
        dump.errors.push(error.to_string());
    }
    dump
}

fn after_salvage(dir: &Path, dump: &mut Dump) -> Option<Node> {
    match store::salvage(dir)? {
        Ok(named) => dump.named = named,
        Err(error) => dump.errors.push(error.to_string()),
    }
    let (node, opened) = Node::open(dir).map_err(|error| dump.errors.push(error.to_string())).ok()?;
    (dump.opened, dump.salvaged) = (Some(opened), true);
    Some(node)
}

fn read(node: &Node, dump: &mut Dump) -> Result<(), karte_node::store::StoreError> {
    dump.step = node.step()?;
    dump.floor = node.floor();
    let (rows, revoked) = (&mut dump.rows, &mut dump.revoked);
    node.rows(&mut |parent, item, value| {
        let (table, parent) = parent.split_first().map_or((0, parent), |(table, rest)| (*table, rest));
        let (parent, item) = (String::from_utf8_lossy(parent), String::from_utf8_lossy(item));
        match table {
            META => {}
            REVOKED => revoked.extend(item.parse::<u64>().ok()),
            _ => {
                rows.insert(row_name(table, &parent, &item), digest(value));
            }
        }
        ControlFlow::Continue(())
    })?;
    let (payloads, named) = (&mut dump.payloads, &mut dump.named.payloads);
    node.payloads(&mut |id, right| {
        if right.is_err() {
            named.push(id.clone());
        }
        payloads.insert(id, right == Ok(true));
    })
}
