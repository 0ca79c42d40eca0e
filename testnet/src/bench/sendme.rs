//! sendme, cold, as a user runs it: one process that offers a path, one that fetches it; without relays, which
//! loopback does not need.

use super::process::{Keeper, Process};
use super::tools::Tools;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What one transfer took.
pub(super) struct Sent {
    /// From the start of `send` until `receive` had ended.
    pub(super) whole: Duration,
    /// Of that, `receive` alone.
    pub(super) receive: Duration,
    /// The offering process, which runs until it is dropped.
    pub(super) sender: Process,
}

/// Sends `path` into the folder `to`; `work` is where the sender keeps what it needs.
pub(super) fn send(keeper: &Keeper, tools: &Tools, path: &Path, work: &Path, to: &Path) -> io::Result<Sent> {
    let begun = Instant::now();
    let mut command = Command::new(tools.path("sendme")?);
    command.args(["send", "--no-progress", "--relay", "disabled", "--ticket-type", "addresses"]);
    command.arg(path).current_dir(work);
    let mut sender = keeper.start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let ticket = ticket(&mut sender)?;
    let mut command = Command::new(tools.path("sendme")?);
    command.args(["receive", "--no-progress", "--relay", "disabled", &ticket]).current_dir(to);
    let receive = keeper.run(&mut command)?.wall;
    Ok(Sent { whole: begun.elapsed(), receive, sender })
}

/// The word that the sender prints for its receiver.
fn ticket(sender: &mut Process) -> io::Result<String> {
    let mut lines = BufReader::new(sender.take_stdout()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        if let Some(ticket) = line.split_whitespace().find(|word| word.starts_with("blob") && word.len() > 40)
        {
            let ticket = ticket.to_owned();
            // Read on, so that it never waits for its reader.
            std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
            return Ok(ticket);
        }
        line.clear();
    }
    Err(io::Error::other(format!("sendme gave no ticket: {}", sender.said())))
}
