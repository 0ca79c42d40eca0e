//! A party of the demo: a folder, a daemon, and `karte` commands given to it, each in a process of its own.

use super::unlike;
use crate::error::Error;
use karte_node::failure::Failure;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// How long a command may take. Generous: a busy machine is no failure of the demo.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// How long a daemon may take until it listens.
const READY_MAX: Duration = Duration::from_secs(15);
/// How long a daemon may take to end in order before it is killed.
const STOP_MAX: Duration = Duration::from_secs(5);
/// How often a child is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(super) struct Party {
    /// What it is called in the story.
    pub(super) who: &'static str,
    home: PathBuf,
    daemon: Option<Child>,
}

/// What a command came to.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: i32,
    /// What it wrote to stdout.
    pub(super) out: String,
    /// What it said on stderr: with `--json`, the error as an object.
    pub(super) error: Value,
}

impl Party {
    pub(super) fn new(who: &'static str, folder: &Path) -> Self {
        Self { who, home: folder.join(who), daemon: None }
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// Runs `karte --home … --json` with these arguments.
    pub(super) fn call(&self, arguments: &[&str]) -> Result<Reply, Error> {
        let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut child = self
            .karte(arguments)?
            .stdout(out.try_clone()?)
            .stderr(err.try_clone()?)
            .spawn()
            .map_err(|error| unlike(format!("karte does not start: {error}")))?;
        let Some(status) = wait_until(&mut child, Instant::now() + COMMAND_MAX)? else {
            end(&mut child);
            return Err(unlike(format!("`karte {}` did not end in time", arguments.join(" "))).into());
        };
        let out = text_of(&mut out)?;
        let said = text_of(&mut err)?;
        let error =
            said.lines().find_map(|line| serde_json::from_str(line).ok()).unwrap_or(Value::String(said));
        Ok(Reply { code: status.code().unwrap_or(-1), out, error })
    }

    /// Starts the daemon and waits until it listens.
    pub(super) fn start(&mut self) -> Result<Value, Error> {
        let log = self.home.with_extension("log");
        let listen = ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--listen", "/ip4/127.0.0.1/tcp/0"];
        let mut child = self
            .karte(&[&["run"], &listen[..]].concat())?
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            // A group of its own: Ctrl-C reaches the demo, which then ends the daemons in order.
            .process_group(0)
            .spawn()
            .map_err(|error| unlike(format!("karte does not start: {error}")))?;
        let ready = child.stdout.take().and_then(first_line);
        self.daemon = Some(child);
        ready.and_then(|line| serde_json::from_str(&line).ok()).ok_or_else(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            unlike(format!("the node of the {} does not listen: {}", self.who, said.trim())).into()
        })
    }

    /// Asks the daemon to end; [`Party::finish`] waits for it. Apart, so that three can end at the same time.
    pub(super) fn ask_to_stop(&self) {
        if self.daemon.is_some() {
            // If it does not listen any more, it is killed after its time.
            let _ = self.call(&["stop"]);
        }
    }

    pub(super) fn finish(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        match wait_until(&mut daemon, Instant::now() + STOP_MAX) {
            Ok(Some(_)) => {}
            _ => end(&mut daemon),
        }
    }

    fn karte(&self, arguments: &[&str]) -> Result<Command, Failure> {
        let program =
            std::env::current_exe().map_err(|error| unlike(format!("karte cannot find itself: {error}")))?;
        let mut command = Command::new(program);
        command.arg("--home").arg(&self.home).arg("--json").args(arguments).stdin(Stdio::null());
        Ok(command)
    }
}

impl Reply {
    /// Its results, one a line.
    pub(super) fn items(&self) -> Vec<Value> {
        self.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        self.ask_to_stop();
        self.finish();
    }
}

fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        match child.try_wait()? {
            None if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            ended => return Ok(ended),
        }
    }
}

fn end(child: &mut Child) {
    // Both fail only if it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// The first line a daemon says, in time. What it says later is read on, so that it never waits for a reader.
fn first_line(out: ChildStdout) -> Option<String> {
    let (tell, told) = sync_channel(1);
    std::thread::spawn(move || {
        let mut out = BufReader::new(out);
        let mut line = String::new();
        let read = out.read_line(&mut line);
        let _ = read.map(|_| tell.send(line));
        let _ = io::copy(&mut out, &mut io::sink());
    });
    told.recv_timeout(READY_MAX).ok()
}

fn text_of(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
