//! Karte's side of a bench: homes, daemons and commands, each in a process of its own, as users run them.

use super::process::{Finished, Keeper, Process};
use serde_json::Value;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take until it listens: it may open the store of a large import.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long an offer or a connection may take to come.
const WORD_MAX: Duration = Duration::from_secs(30);
/// How often it is asked whether it came. Outside of every measurement.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Where daemons listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Transport {
    /// TCP with Noise and Yamux
    Tcp,
    /// QUIC
    Quic,
    /// Both, as `karte run` does unless told otherwise
    Both,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP, Noise and Yamux",
            Self::Quic => "QUIC",
            Self::Both => "QUIC, or else TCP",
        }
    }

    fn listen(self) -> Vec<&'static str> {
        let (tcp, quic) = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1");
        match self {
            Self::Tcp => vec![tcp],
            Self::Quic => vec![quic],
            Self::Both => vec![quic, tcp],
        }
    }
}

/// What homes are made with.
#[derive(Clone)]
pub(super) struct Maker {
    pub(super) keeper: Keeper,
    pub(super) karte: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) transport: Transport,
}

/// Whether a node says yes to grants by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Grants {
    Ask,
    Accept,
}

/// A node with its daemon. Dropped, the daemon ends and the folder goes.
pub(super) struct Node {
    maker: Maker,
    name: String,
    home: PathBuf,
    // Ended before the folder is removed.
    daemon: Option<Process>,
}

impl Maker {
    /// A new node that runs.
    pub(super) fn node(&self, name: &str, grants: Grants) -> io::Result<Node> {
        let home = super::files::fresh(self.folder.join(name))?;
        let mut node = Node { maker: self.clone(), name: name.to_owned(), home, daemon: None };
        let mut words = vec!["init", "--name", name, "--no-passphrase", "--accept-contacts"];
        if grants == Grants::Accept {
            words.push("--accept-grants");
        }
        node.does(&words)?;
        node.runs()?;
        Ok(node)
    }
}

impl Node {
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Process::pid)
    }

    pub(super) fn daemon(&self) -> io::Result<&Process> {
        self.daemon.as_ref().ok_or_else(|| io::Error::other("its daemon does not run"))
    }

    // --- commands

    /// Runs a command that must succeed: what it gave, and how long its process took.
    pub(super) fn times(&self, words: &[&str]) -> io::Result<(Vec<Value>, Duration)> {
        let Finished { out, wall } = self.maker.keeper.run(&mut self.command(words))?;
        Ok((out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(), wall))
    }

    /// The same without the time.
    pub(super) fn does(&self, words: &[&str]) -> io::Result<Vec<Value>> {
        self.times(words).map(|(items, _)| items)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.maker.karte);
        command.arg("--home").arg(&self.home).arg("--json").args(words);
        command.env_remove("KARTE_HOME").env_remove("KARTE_LOG");
        command
    }

    fn runs(&mut self) -> io::Result<()> {
        let mut command = self.command(&["run"]);
        for address in self.maker.transport.listen() {
            command.args(["--listen", address]);
        }
        let mut process = self.maker.keeper.start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let out = process.take_stdout()?;
        let (ready, readied) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut lines = BufReader::new(out).lines();
            let first = lines.next();
            let _ = ready.try_send(first.is_some());
            // Read on, so that the daemon never waits for its reader.
            lines.for_each(drop);
        });
        match readied.recv_timeout(READY_MAX) {
            Ok(true) => self.daemon = Some(process),
            _ => {
                return Err(io::Error::other(format!(
                    "the daemon of {} does not listen: {}",
                    self.name,
                    process.said()
                )));
            }
        }
        Ok(())
    }

    // --- verbs

    /// Imports a file or a folder as it is; how many records came of it.
    pub(super) fn imports(&self, path: &Path) -> io::Result<u64> {
        let path = path.to_str().ok_or_else(|| io::Error::other("expected a path in UTF-8"))?;
        let items = self.does(&["import", "--format", "document", path])?;
        let summary = items.iter().find(|item| field(item, "summary") == &Value::Bool(true));
        summary
            .and_then(|item| field(item, "taken").as_u64())
            .ok_or_else(|| io::Error::other("an import ends with a summary"))
    }

    /// Takes the other's card and exchanges cards.
    pub(super) fn meets(&self, other: &Node) -> io::Result<()> {
        let card = text(&one(other.does(&["card"])?)?, "card")?;
        self.does(&["contact", "add", &card, "--as", &other.name])?;
        self.does(&["sync", &other.name]).map(drop)
    }

    /// Lets the other read all documents; the grant's id.
    pub(super) fn grants(&self, reader: &Node) -> io::Result<String> {
        text(&one(self.does(&["grant", "add", &reader.name, "--kind", "document"])?)?, "id")
    }

    /// Ends a grant and forgets who had it, so that the next round finds the holder as the first one did.
    pub(super) fn parts_from(&self, reader: &Node, grant: &str) -> io::Result<()> {
        self.does(&["grant", "revoke", grant])?;
        self.does(&["contact", "remove", &reader.name]).map(drop)
    }

    /// Waits until a received grant is in this state.
    pub(super) fn hears_of(&self, grant: &str, state: &str) -> io::Result<()> {
        self.waits(&format!("grant {grant} is {state}"), |node| {
            let grants = node.does(&["grant", "list"])?;
            Ok(grants.iter().any(|item| field(item, "id") == grant && field(item, "state") == state))
        })
    }

    /// That so many records came under a grant, and none is missing.
    pub(super) fn has_all(&self, grant: &str, records: u64) -> io::Result<()> {
        let item = one(self.does(&["grant", "show", grant])?)?;
        let (here, missing) = (field(&item, "records").as_u64(), field(&item, "missing").as_u64());
        if (here, missing) == (Some(records), Some(0)) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} has {here:?} records and misses {missing:?}, expected {records} and none: sync ended early",
            self.name
        )))
    }

    fn waits(&self, what: &str, done: impl Fn(&Self) -> io::Result<bool>) -> io::Result<()> {
        let begun = Instant::now();
        while !done(self)? {
            if begun.elapsed() > WORD_MAX {
                return Err(io::Error::other(format!("{} waited {WORD_MAX:?} in vain: {what}", self.name)));
            }
            std::thread::sleep(ASK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.end();
        }
        // What cannot be removed here goes with the folder of the whole bench.
        let _ = super::files::remove(&self.home);
    }
}

/// A field of an object; null if it has none.
pub(super) fn field<'a>(item: &'a Value, name: &str) -> &'a Value {
    item.get(name).unwrap_or(&Value::Null)
}

pub(super) fn text(item: &Value, name: &str) -> io::Result<String> {
    let found = field(item, name).as_str().map(str::to_owned);
    found.ok_or_else(|| io::Error::other(format!("expected a text {name:?} in {item}")))
}

fn one(items: Vec<Value>) -> io::Result<Value> {
    items.into_iter().next().ok_or_else(|| io::Error::other("expected one object"))
}
