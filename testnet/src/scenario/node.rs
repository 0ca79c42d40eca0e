//! A person with a node: a folder, a daemon in a process of its own, and `karte` commands given to it.

use super::spaces::Machine;
use super::stage::{Stage, unlike};
use karte_node::settings::Settings;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a command may take. Far above what any takes: whoever is still running then hangs.
const COMMAND_MAX: Duration = Duration::from_secs(180);
/// How long a daemon may take until it is ready: it may have to rebuild its view after a kill.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often a child is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Dropped, its daemon is killed.
pub(super) struct Node<'a> {
    pub(super) name: String,
    stage: &'a Stage,
    home: PathBuf,
    machine: Option<Arc<Machine>>,
    daemon: Option<Child>,
    run: Run,
    starts: u32,
}

/// How its daemon is run.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    /// Multiaddresses; none makes it call and never be called.
    pub(super) listen: Vec<String>,
    pub(super) announce: Vec<String>,
    /// Words after `karte run`.
    pub(super) more: Vec<String>,
    /// It changes a bit of every slice of a payload it sends.
    pub(super) lies: bool,
}

/// What a command came to.
#[derive(Debug)]
pub(super) struct Told {
    /// Exit code; none if a signal ended it.
    pub(super) code: Option<i32>,
    pub(super) out: Vec<u8>,
    /// The error object's sentence; else all of stderr.
    pub(super) error: String,
}

/// What a daemon holds just now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    /// Resident memory, in bytes.
    pub(super) resident: u64,
    /// The most it ever was, in bytes.
    pub(super) peak: u64,
    /// Open file descriptors.
    pub(super) descriptors: u64,
}

impl<'a> Node<'a> {
    /// A node that takes contacts and grants by itself, or asks its owner.
    pub(super) fn new(stage: &'a Stage, name: &str, accepts: bool) -> io::Result<Self> {
        let node = Self {
            name: name.to_owned(),
            stage,
            home: stage.folder().join(name),
            machine: None,
            daemon: None,
            run: Run::default(),
            starts: 0,
        };
        let kind = if accepts { "clinic" } else { "patient" };
        let mut words = vec!["init", "--name", name, "--kind", kind, "--no-passphrase"];
        if accepts {
            words.extend(["--accept-contacts", "--accept-grants"]);
        }
        node.does(&words)?;
        Ok(node)
    }

    /// The same on a machine of its own.
    pub(super) fn on(mut self, machine: &Arc<Machine>) -> Self {
        self.machine = Some(machine.clone());
        self
    }

    /// Its folder.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// A place beside the home for files of the story.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.stage.folder().join(format!("{}-{name}", self.name))
    }

    // --- its daemon

    /// Runs its daemon and waits until it listens.
    pub(super) fn start(&mut self, run: Run) -> io::Result<()> {
        self.run = run;
        self.start_again()
    }

    /// How its daemon was run last.
    pub(super) fn run_before(&self) -> Run {
        self.run.clone()
    }

    /// As it was run before.
    pub(super) fn start_again(&mut self) -> io::Result<()> {
        let mut settings = Settings::load(&self.home).map_err(|failure| unlike(failure.to_string()))?;
        settings.network.listen = self.run.listen.clone();
        settings.network.announce = self.run.announce.clone();
        settings.save(&self.home).map_err(|failure| unlike(failure.to_string()))?;
        self.starts += 1;
        let out = self.beside(&format!("{}.out", self.starts));
        let log = self.beside(&format!("{}.log", self.starts));
        let mut command = if self.run.lies { self.liar()? } else { self.command(&["run"]) };
        let child = command
            .args(&self.run.more)
            .stdout(File::create(&out)?)
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| unlike(format!("{} does not start: {error}", self.stage.karte.display())))?;
        let child = self.daemon.insert(child);
        let what = format!("{}'s daemon is ready", self.name);
        self.stage.until(&what, READY_MAX, || {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(unlike(format!("{what}: it ended with {status}: {}", log.trim())));
            }
            let told = std::fs::read_to_string(&out)?;
            Ok(objects(told.as_bytes()).iter().any(|item| item.get("listening").is_some()).then_some(()))
        })?;
        Ok(())
    }

    /// A daemon of this home that sends wrong bytes.
    fn liar(&self) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["node", "--wrong-bytes", "--home"]).arg(&self.home);
        command.env_remove("KARTE_HOME").stdin(Stdio::null()).process_group(0);
        Ok(command)
    }

    /// What its daemon has said since it was started last, to its user.
    pub(super) fn has_said(&self) -> io::Result<String> {
        let out = std::fs::read_to_string(self.beside(&format!("{}.out", self.starts)))?;
        Ok(out + &std::fs::read_to_string(self.beside(&format!("{}.log", self.starts)))?)
    }

    /// `kill -9`: no last word, no flush.
    pub(super) fn kill9(&mut self) -> io::Result<()> {
        let Some(mut child) = self.daemon.take() else { return Ok(()) };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Ends in order.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        self.does(&["stop"])?;
        let Some(mut child) = self.daemon.take() else { return Ok(()) };
        let ended = self.stage.until(&format!("{} ends", self.name), READY_MAX, || child.try_wait());
        match ended {
            Ok((status, _)) if status.success() => Ok(()),
            Ok((status, _)) => Err(unlike(format!("{}'s daemon ended with {status}", self.name))),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// What its daemon holds now.
    pub(super) fn uses(&self) -> io::Result<Use> {
        let child = self.daemon.as_ref().ok_or_else(|| unlike(format!("{} has no daemon", self.name)))?;
        let process = PathBuf::from(format!("/proc/{}", child.id()));
        let status = std::fs::read_to_string(process.join("status"))?;
        let kib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        };
        let memory = |field| kib(field).map(|kib| kib * 1024).ok_or_else(|| unlike(format!("no {field}")));
        let descriptors = std::fs::read_dir(process.join("fd"))?.count() as u64;
        Ok(Use { resident: memory("VmRSS")?, peak: memory("VmHWM")?, descriptors })
    }

    // --- commands

    /// `karte --home … --json WORDS`, in a process group of its own: Ctrl-C reaches the scenario, which then ends it.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = match &self.machine {
            Some(machine) => machine.program(&self.stage.karte),
            None => Command::new(&self.stage.karte),
        };
        command.arg("--home").arg(&self.home).arg("--json").args(words);
        command.env_remove("KARTE_HOME").stdin(Stdio::null()).process_group(0);
        command
    }

    /// Runs a command, whatever comes of it; but it must end.
    pub(super) fn tries(&self, words: &[&str]) -> io::Result<Told> {
        // Files, not pipes: a full pipe would block it.
        let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut child = self.command(words).stdout(out.try_clone()?).stderr(err.try_clone()?).spawn()?;
        let what = format!("{}: `karte {}` ends", self.name, shown(words));
        let ended = self.stage.looking_every(LOOK_EVERY, &what, COMMAND_MAX, || child.try_wait());
        let Ok((status, _)) = ended else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(ended.err().unwrap_or_else(|| unlike(what)));
        };
        let said = String::from_utf8_lossy(&all_of(&mut err)?).into_owned();
        let object =
            objects(said.as_bytes()).into_iter().find_map(|item| Some(item["error"].as_str()?.to_owned()));
        Ok(Told { code: status.code(), out: all_of(&mut out)?, error: object.unwrap_or(said) })
    }

    /// Runs a command that must succeed.
    pub(super) fn does(&self, words: &[&str]) -> io::Result<Vec<Value>> {
        let told = self.tries(words)?;
        match told.code {
            Some(0) => Ok(objects(&told.out)),
            code => Err(unlike(format!(
                "{}: `karte {}` ended with {code:?}: {}",
                self.name,
                shown(words),
                told.error.trim()
            ))),
        }
    }

    /// Its card, as its daemon tells it now.
    pub(super) fn card(&self) -> io::Result<String> {
        text(self.does(&["card"])?.first(), "card")
    }

    /// Takes the other's card.
    pub(super) fn knows(&self, other: &Node<'_>) -> io::Result<()> {
        self.does(&["contact", "add", &other.card()?, "--as", &other.name]).map(drop)
    }

    /// Lets the other read what `words` choose; the grant's id.
    pub(super) fn grants(&self, reader: &Node<'_>, words: &[&str]) -> io::Result<String> {
        text(self.does(&[&["grant", "add", &reader.name], words].concat())?.first(), "id")
    }

    /// Ends a grant.
    pub(super) fn revokes(&self, grant: &str) -> io::Result<()> {
        self.does(&["grant", "revoke", grant, "--reason", "moved away"]).map(drop)
    }

    /// Imports a file or folder; how long that took.
    pub(super) fn imports(&self, path: &Path) -> io::Result<Duration> {
        let begun = Instant::now();
        let path = path.to_str().ok_or_else(|| unlike("a path that is not UTF-8"))?;
        self.does(&["import", path])?;
        Ok(begun.elapsed())
    }

    /// How many records it can see.
    pub(super) fn count(&self) -> io::Result<u64> {
        let status = self.does(&["status"])?;
        Ok(status.first().and_then(|status| status["records"].as_u64()).unwrap_or_default())
    }

    pub(super) fn lists(&self) -> io::Result<Vec<Value>> {
        self.does(&["record", "list"])
    }

    /// The original bytes of a record; an error if it does not open.
    pub(super) fn opens(&self, id: &str) -> io::Result<Vec<u8>> {
        let told = self.tries(&["record", "open", id, "--staff", "Dr Sato", "-o", "-"])?;
        match told.code {
            Some(0) => Ok(told.out),
            _ => Err(unlike(format!("{} cannot open {id}: {}", self.name, told.error.trim()))),
        }
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.kill9();
    }
}

/// A port of loopback that nobody has just now.
pub(super) fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// The multiaddress of TCP at `address`.
pub(super) fn tcp(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

/// A text field of what a command told.
pub(super) fn text(item: Option<&Value>, name: &str) -> io::Result<String> {
    let found = item.and_then(|item| item[name].as_str());
    found.map(str::to_owned).ok_or_else(|| unlike(format!("expected a text {name:?} in {item:?}")))
}

fn objects(bytes: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(bytes).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn all_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Words of a command for a message: a card is only its beginning.
fn shown(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| word.chars().take(60).collect()).collect();
    words.join(" ")
}
