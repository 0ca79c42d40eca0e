//! A person with a node: every verb is one `karte` command against one home.

use crate::binary;
use crate::daemon::{Daemon, UnderWay};
use crate::machine::Machine;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A node's folder, in a temporary folder of its own that goes with it.
#[derive(Debug)]
pub struct Home {
    /// What the others call it.
    pub name: String,
    /// The machine it runs on; this one, if none.
    machine: Option<Arc<Machine>>,
    /// The port its daemon listens on; a free one at every start, if 0.
    pub port: u16,
    path: PathBuf,
    // Last: nothing of the home outlives it.
    _folder: TempDir,
}

/// How a node acts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Asks its owner about everything.
    Asks,
    /// Takes contacts and grants, as a clinic does.
    Accepts,
}

/// What a command told.
#[derive(Debug)]
pub struct Told {
    /// The words of the command, for messages.
    pub words: String,
    /// Objects of its output, if those were JSON lines.
    pub items: Vec<Value>,
    /// Its output, byte for byte.
    pub out: Vec<u8>,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The error object's sentence; else all of stderr.
    pub error: String,
    /// How long it took.
    pub took: Duration,
}

/// What an import came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// New records.
    pub taken: u64,
    /// Records that were there already.
    pub known: u64,
    /// Records that could not be read.
    pub refused: u64,
}

impl Home {
    /// A new node of a patient.
    pub fn patient(name: &str) -> Self {
        Self::new(name, "patient", Manner::Asks)
    }

    /// A new node of a clinic that says yes by itself.
    pub fn clinic(name: &str) -> Self {
        Self::new(name, "clinic", Manner::Accepts)
    }

    /// A new node.
    pub fn new(name: &str, kind: &str, manner: Manner) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("karte-e2e-")
            .tempdir()
            .expect("there is room for a temporary folder");
        let path = folder.path().join(name);
        let home = Self { name: name.to_owned(), machine: None, port: 0, path, _folder: folder };
        let mut words = vec!["init", "--name", name, "--kind", kind, "--no-passphrase"];
        if manner == Manner::Accepts {
            words.extend(["--accept-contacts", "--accept-grants"]);
        }
        home.does(&words);
        home
    }

    /// A place for a home that is not made yet.
    pub fn beside_none(name: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("karte-e2e-")
            .tempdir()
            .expect("there is room for a temporary folder");
        let path = folder.path().join(name);
        Self { name: name.to_owned(), machine: None, port: 0, path, _folder: folder }
    }

    /// The same home, on a machine of its own.
    #[must_use]
    pub fn on(mut self, machine: &Arc<Machine>) -> Self {
        self.machine = Some(machine.clone());
        self
    }

    /// The same home, found at one port by those who met it before it was started again.
    #[must_use]
    pub fn at_one_port(mut self) -> Self {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        self.port = free.expect("there is a free port").port();
        self
    }

    /// Where its daemon listens: an IPv4 address.
    pub fn address(&self) -> String {
        self.machine.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |machine| machine.address.clone())
    }

    /// A program on its machine.
    pub fn program(&self, program: &Path) -> Command {
        match &self.machine {
            Some(machine) => machine.program(program),
            None => Command::new(program),
        }
    }

    /// A copy of this home as it lies there (`cp -a`). Its daemon should be stopped.
    pub fn copied(&self) -> Self {
        let folder =
            tempfile::Builder::new().prefix("karte-copy-").tempdir().expect("there is room for a copy");
        let path = folder.path().join(&self.name);
        let copy =
            Self { name: self.name.clone(), machine: self.machine.clone(), port: 0, path, _folder: folder };
        let copied = Command::new("cp").arg("-a").args([&self.path, &copy.path]).status().expect("cp runs");
        assert!(copied.success(), "the home is copied");
        copy
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A place beside the home for files of the story.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    // --- commands

    /// `karte --home … --json WORDS`, ready to run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.program(binary::karte());
        command
            .arg("--home")
            .arg(&self.path)
            .arg("--json")
            .args(words)
            .env_remove("KARTE_HOME")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command, whatever comes of it; but it must end.
    pub fn tries(&self, words: &[&str]) -> Told {
        UnderWay::start(self, words).ends()
    }

    /// Runs a command that must succeed.
    pub fn does(&self, words: &[&str]) -> Vec<Value> {
        let told = self.tries(words);
        assert!(told.code == Some(0), "it succeeds: {told}");
        told.items
    }

    /// Runs a command that must be refused for want of consent, and gives the sentence.
    pub fn is_refused(&self, words: &[&str]) -> String {
        let told = self.tries(words);
        assert!(told.code == Some(3), "it is refused with exit code 3: {told}");
        told.error
    }

    /// Runs its daemon on free ports of loopback.
    pub fn runs(&self) -> Daemon {
        Daemon::start(self)
    }

    /// Runs its daemon, with further words for `karte run`.
    pub fn runs_with(&self, words: &[&str]) -> Daemon {
        Daemon::start_with(self, words)
    }

    // --- verbs

    /// Its card.
    pub fn card(&self) -> String {
        text(&self.one(&["card"]), "card")
    }

    /// Its device's public key, in hex.
    pub fn device(&self) -> String {
        text(&self.one(&["card"]), "device")
    }

    /// Takes the other's card and exchanges cards; the other must accept contacts or know it already.
    pub fn meets(&self, other: &Home) {
        self.knows(other);
        self.does(&["sync", &other.name]);
    }

    /// Takes the other's card.
    pub fn knows(&self, other: &Home) {
        self.does(&["contact", "add", &other.card(), "--as", &other.name]);
    }

    /// Imports files or folders, which must succeed.
    pub fn imports(&self, path: &Path) -> Imported {
        let told = self.tries(&["import", utf8(path)]);
        assert!(told.code == Some(0), "it is imported: {told}");
        told.imported()
    }

    /// All records it can see.
    pub fn lists(&self) -> Vec<Value> {
        self.does(&["record", "list"])
    }

    /// How many records it can see.
    pub fn count(&self) -> usize {
        self.lists().len()
    }

    /// The original bytes of a record.
    pub fn opens(&self, id: &str) -> Vec<u8> {
        let told = self.tries(&["record", "open", id, "--staff", "Dr Sato", "-o", "-"]);
        assert!(told.code == Some(0), "it opens: {told}");
        told.out
    }

    /// Gives a grant, `words` as after `grant add CONTACT`; its id.
    pub fn grants(&self, reader: &Home, words: &[&str]) -> String {
        let all = [&["grant", "add", &reader.name], words].concat();
        text(&self.one(&all), "id")
    }

    /// Ends a grant; how long the command took.
    pub fn revokes(&self, grant: &str) -> Duration {
        let told = self.tries(&["grant", "revoke", grant, "--reason", "moved away"]);
        assert!(told.code == Some(0), "it is revoked: {told}");
        told.took
    }

    /// Its audit lines of one event.
    pub fn audits(&self, event: &str) -> Vec<Value> {
        let mut lines = self.does(&["audit", "list"]);
        lines.retain(|line| line["event"] == event);
        lines
    }

    /// What its `grant list` says of a grant.
    pub fn grant(&self, id: &str) -> Option<Value> {
        let grants = self.does(&["grant", "list"]);
        grants.into_iter().find(|grant| grant["id"] == id)
    }

    fn one(&self, words: &[&str]) -> Value {
        let items = self.does(words);
        assert!(items.len() == 1, "one object comes from {words:?}: {items:?}");
        items.into_iter().next().expect("there is one")
    }
}

impl Told {
    /// From a finished process.
    pub fn of(who: &str, words: &[&str], output: Output, took: Duration) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let object = stderr.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let error =
            object.as_ref().and_then(|object| object["error"].as_str().map(str::to_owned)).unwrap_or(stderr);
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let items = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self {
            words: format!("{who}: karte {}", words.join(" ")),
            items,
            out: output.stdout,
            code: output.status.code(),
            error,
            took,
        }
    }

    /// The summary of an import.
    pub fn imported(&self) -> Imported {
        let summary = self.items.iter().find(|item| item["summary"] == true);
        let summary = summary.unwrap_or_else(|| unreachable!("an import ends with a summary: {self}"));
        let number = |name: &str| summary[name].as_u64().unwrap_or_default();
        Imported { taken: number("taken"), known: number("known"), refused: number("refused") }
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: String = self.words.chars().take(300).collect();
        write!(f, "`{words}` ended with {:?}: {}", self.code, self.error)
    }
}

/// A text field of an object.
pub fn text(item: &Value, name: &str) -> String {
    let found = item[name].as_str();
    assert!(found.is_some(), "there is a text {name:?} in {item}");
    found.unwrap_or_default().to_owned()
}

/// A path as an argument.
pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
