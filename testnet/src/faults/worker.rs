//! The worker: carries out a plan in a folder and says what the store acknowledged, until it is done or killed.
//!
//! Everything it says is one line, written after the store returned and before the next step begins.

use karte_node::store::StoreError;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::plan::{Fate, Plan, REVOKED, Step, put};
use super::store::Node;

/// How often a revocation is tried while the disk fails, each time with the store opened anew.
const TRIES: u32 = 3;

/// What to do.
#[derive(clap::Args, Clone)]
pub struct Work {
    /// The folder
    pub dir: PathBuf,
    /// The plan
    #[arg(long)]
    pub seed: u64,
    /// Stop before this step
    #[arg(long, default_value_t = u64::MAX)]
    pub until: u64,
    /// At the end wait to be killed instead of closing
    #[arg(long)]
    pub hang: bool,
    /// When a step fails, record a revocation: at once, and again when the disk is well
    #[arg(long)]
    pub revoke: bool,
}

/// Does it.
pub fn work(work: &Work) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        say(&format!("panic {}", info.to_string().replace('\n', " ")));
    }));
    let mut open = None;
    match run(work, &mut open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("stopped {error}"));
            if work.revoke { revoke_all(work, open) } else { ExitCode::FAILURE }
        }
    }
}

/// Leaves the node open when a step fails: that is the node which has to revoke.
fn run(work: &Work, open: &mut Option<Node>) -> Result<(), StoreError> {
    let plan = Plan { seed: work.seed };
    let (node, _) = Node::open(&work.dir)?;
    let found = open.insert(node).step()?;
    say(&found.map_or("opened".to_owned(), |step| format!("opened {step}")));
    for n in found.map_or(0, |step| step + 1)..work.until {
        if matches!(plan.step(n), Step::Reopen) {
            reopen(work, open, n)?;
        } else if let Some(node) = open {
            step(plan, node, n)?;
        }
    }
    if work.revoke
        && let Some(node) = open
    {
        // The fault never came, or nothing felt it: the revocation still has to be there.
        try_revoke(node, 0)?;
    }
    if work.hang {
        say("done");
        loop {
            std::thread::park();
        }
    }
    open.take().map_or(Ok(()), Node::close)?;
    say(&format!("both {}", work.until.saturating_sub(1)));
    say("done");
    Ok(())
}

fn reopen(work: &Work, open: &mut Option<Node>, n: u64) -> Result<(), StoreError> {
    open.take().map_or(Ok(()), Node::close)?;
    say(&format!("both {n}"));
    *open = Some(Node::open(&work.dir)?.0);
    Ok(())
}

fn step(plan: Plan, node: &mut Node, n: u64) -> Result<(), StoreError> {
    match plan.step(n) {
        Step::Write(changes) => {
            node.raise_floor(n + 1);
            node.write(changes, false)?;
        }
        Step::Revoke(changes) => {
            node.raise_floor(n + 1);
            node.write(changes, true)?;
            node.commit()?;
            say(&format!("committed {n}"));
        }
        Step::Fleeting(changes) => node.write_fleeting(changes)?,
        Step::Commit => {
            node.commit()?;
            say(&format!("committed {n}"));
        }
        Step::Payload => node.create(&plan.payload(n))?,
        Step::Receive => receive(plan, node, n)?,
        Step::Begin => {
            let bytes = plan.payload(n);
            // An empty payload has no half.
            if !bytes.is_empty() {
                node.receive(&bytes, bytes.len() / 2)?;
            }
        }
        Step::Complete(begun) => receive(plan, node, begun)?,
        Step::Forget(_) => forget(plan, node, n)?,
        Step::Sync => {
            node.sync()?;
            say(&format!("synced {n}"));
        }
        Step::Maintain => node.maintain()?,
        // Done where the node is owned.
        Step::Reopen => {}
    }
    Ok(())
}

fn receive(plan: Plan, node: &Node, n: u64) -> Result<(), StoreError> {
    let bytes = plan.payload(n);
    node.receive(&bytes, bytes.len())
}

fn forget(plan: Plan, node: &Node, n: u64) -> Result<(), StoreError> {
    match plan.fate(n) {
        Some(Fate::Gone(of) | Fate::Made(of)) => node.forget(&plan.payload(of)),
        None => Ok(()),
    }
}

/// A revocation while the disk fails, and one when it is well again.
fn revoke_all(work: &Work, open: Option<Node>) -> ExitCode {
    let at_once = open.map(|mut node| try_revoke(&mut node, 0));
    // A node that is poisoned is opened again, as its user would.
    if !matches!(at_once, Some(Ok(())))
        && let Err(error) = insist(work, 0)
    {
        say(&format!("refused 0 {error}"));
    }
    // Heard by the library in front of libc; without it there is no such file, and nobody minds.
    let _ = std::fs::remove_file("/karte-shim/off");
    if let Err(error) = insist(work, 1) {
        say(&format!("refused 1 {error}"));
    }
    say("done");
    ExitCode::SUCCESS
}

/// Opens the store anew and revokes, a few times.
fn insist(work: &Work, number: u64) -> Result<(), StoreError> {
    let mut tried = 1;
    loop {
        let result = Node::open(&work.dir).and_then(|(mut node, _)| try_revoke(&mut node, number));
        if result.is_ok() || tried == TRIES {
            return result;
        }
        tried += 1;
    }
}

fn try_revoke(node: &mut Node, number: u64) -> Result<(), StoreError> {
    let row = put(REVOKED, "revoked", &number.to_string(), b"revoked".to_vec());
    node.write(vec![row], true)?;
    node.commit()?;
    say(&format!("revoked {number}"));
    Ok(())
}

/// One line, in one write. When nobody listens any more there is nobody to work for.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
