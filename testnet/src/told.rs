//! What a daemon is told and tells through its control socket, with the time at which it did, and without a process whose
//! start would be in it.
//!
//! For: measuring how soon something comes. Not for: trying commands; those are run as users run them.

use karte_node::access::{self, Sink, Unlock};
use karte_node::command::{Command, Event, HowToRead};
use karte_node::failure::Failure;
use serde_json::Value;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long a daemon may take to say that it lets itself be watched. 20 s: far above what any takes.
const WATCHED_MAX: Duration = Duration::from_secs(20);
/// Arrivals that may wait to be looked at. 64: whoever measures takes one at a time.
const ARRIVALS_MAX: usize = 64;

/// A record that became durable at a reader.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    /// Its id, in hex.
    pub(crate) record: String,
}

/// Imports one document through the daemon; when it said that the record is durable.
pub(crate) fn imported(home: &Path, file: &Path, urgency: Option<&str>) -> io::Result<Instant> {
    let how = HowToRead { urgency: urgency.map(str::to_owned), ..HowToRead::default() };
    let command =
        Command::Import { paths: vec![file.to_owned()], format: "document".into(), subject: None, how };
    let mut taken = None;
    let mut note = Noting(|item: &Value| {
        if item.get("taken").and_then(Value::as_u64) == Some(1) {
            taken = Some(Instant::now());
        }
    });
    access::run(home, command, no_passphrase(), &mut note).map_err(io::Error::other)?;
    taken.ok_or_else(|| io::Error::other("expected one new record"))
}

/// The records that arrive at a reader, from now on and until its daemon ends.
pub(crate) fn watch(home: &Path) -> io::Result<Receiver<Arrived>> {
    let (tell, told) = sync_channel(ARRIVALS_MAX);
    let home = home.to_owned();
    std::thread::spawn(move || access::run(&home, Command::Watch, no_passphrase(), &mut noted(tell)));
    match told.recv_timeout(WATCHED_MAX) {
        Ok(_) => Ok(told),
        Err(_) => Err(io::Error::other("the reader's daemon does not let itself be watched")),
    }
}

/// Tells once that it watches, with no record, and then what arrives.
fn noted(tell: SyncSender<Arrived>) -> Noting<impl FnMut(&Value)> {
    Noting(move |item: &Value| {
        let at = Instant::now();
        let record = item.get("arrived").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !record.is_empty() || item.get("watching").is_some() {
            // Nobody waits for it only when the measuring ends.
            let _ = tell.try_send(Arrived { at, record });
        }
    })
}

/// Looks at every object that a command puts out.
struct Noting<F>(F);

impl<F: FnMut(&Value)> Sink for Noting<F> {
    fn event(&mut self, event: Event) {
        if let Event::Item(item) = event {
            (self.0)(&item);
        }
    }

    fn data(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn no_passphrase() -> Unlock {
    Box::new(|| Err(Failure::failed("this node has no passphrase")))
}
