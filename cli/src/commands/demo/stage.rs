//! The stage: three parties, and a voice that tells what they do.

use super::party::{Party, Reply};
use super::unlike;
use crate::error::Error;
use crate::output;
use crate::view::{self, View};
use karte_node::failure::Failure;
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long something may take to arrive.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);
/// How often one looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest argument that is shown whole, in characters: a card is two thirds of a screen.
const ARGUMENT_CHARS_MAX: usize = 70;

/// The story's own files, beside the three folders.
const FILES: &str = "files";

/// Who acts. The number is the place in [`Stage::parties`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Who {
    Patient,
    Clinic,
    Centre,
}
pub(super) use Who::{Centre, Clinic, Patient};

pub(super) struct Stage {
    // Before `folder`: daemons end before it goes.
    parties: [Party; 3],
    folder: TempDir,
    json: bool,
    interrupted: Arc<AtomicBool>,
    began: Instant,
    step: u32,
}

impl Stage {
    pub(super) fn set(json: bool) -> Result<Self, Error> {
        let folder = tempfile::Builder::new()
            .prefix("karte-demo-")
            .tempdir()
            .and_then(|folder| std::fs::create_dir(folder.path().join(FILES)).map(|()| folder))
            .map_err(|error| Failure::failed(format!("there is no room for the demo: {error}")))?;
        let party = |who| Party::new(who, folder.path());
        Ok(Self {
            parties: [party("patient"), party("clinic"), party("centre")],
            folder,
            json,
            interrupted: interruption()?,
            began: Instant::now(),
            step: 0,
        })
    }

    /// Where the story's own files are.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.path().join(FILES)
    }

    pub(super) fn home(&self, who: Who) -> &Path {
        self.party(who).home()
    }

    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    // --- telling

    /// A numbered heading.
    pub(super) fn step(&mut self, title: &str) -> Result<(), Error> {
        self.step += 1;
        if self.json {
            return Ok(output::print_object(json!({ "step": self.step, "title": title }))?);
        }
        output::print(&format!("\n{}. {title}\n", self.step))
    }

    /// Every step was as told.
    pub(super) fn ends(&self) -> Result<(), Error> {
        let told = json!({ "told": self.step, "seconds": self.seconds() });
        if self.json { Ok(output::print_object(told)?) } else { Ok(()) }
    }

    /// What there is to say, as it is.
    pub(super) fn says(&self, text: &str) -> Result<(), Error> {
        if self.json { Ok(()) } else { output::print(&format!("\n{text}\n")) }
    }

    /// A command that shows these results.
    pub(super) fn lists(
        &self,
        who: Who,
        arguments: &[&str],
        view: View,
        items: &[Value],
    ) -> Result<(), Error> {
        self.tells(who, arguments)?;
        self.shows(view, items)
    }

    /// What a command would show, indented.
    pub(super) fn shows(&self, view: View, items: &[Value]) -> Result<(), Error> {
        self.prints(&view(items))
    }

    fn prints(&self, text: &str) -> Result<(), Error> {
        let lines: String = text.lines().map(|line| format!("  {line}\n")).collect();
        if self.json { Ok(()) } else { output::print(&lines) }
    }

    fn tells(&self, who: Who, arguments: &[&str]) -> Result<(), Error> {
        let words: Vec<String> = arguments.iter().map(|word| shown(word, &self.files())).collect();
        let name = format!("{}$", self.party(who).who);
        if self.json { Ok(()) } else { output::print(&format!("{name:<8} karte {}\n", words.join(" "))) }
    }

    // --- acting

    /// Gives a command, which must succeed, and tells it.
    pub(super) fn does(&self, who: Who, arguments: &[&str]) -> Result<Vec<Value>, Error> {
        self.tells(who, arguments)?;
        self.asks(who, arguments)
    }

    /// Gives a command, which must succeed, without telling.
    pub(super) fn asks(&self, who: Who, arguments: &[&str]) -> Result<Vec<Value>, Error> {
        let reply = self.call(who, arguments)?;
        match reply.code {
            0 => Ok(reply.items()),
            code => {
                let said = error_text(&reply.error);
                let what = format!(
                    "the {}'s `karte {}` ended with {code}: {said}",
                    self.party(who).who,
                    arguments.join(" ")
                );
                Err(unlike(what).into())
            }
        }
    }

    /// Gives a command that must be refused for want of consent, and shows how.
    pub(super) fn is_refused(&self, who: Who, arguments: &[&str]) -> Result<(), Error> {
        let reply = self.tries(who, arguments)?;
        self.insists(reply.code == 3, "that is refused, with exit code 3")
    }

    /// Gives a command that may fail, and shows how.
    pub(super) fn tries(&self, who: Who, arguments: &[&str]) -> Result<Reply, Error> {
        self.tells(who, arguments)?;
        let reply = self.call(who, arguments)?;
        if reply.code != 0 {
            self.prints(&format!("Error: {} (exit code {})", error_text(&reply.error), reply.code))?;
        }
        Ok(reply)
    }

    /// Looks again and again until there is something to see, within bounds.
    pub(super) fn awaits<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + ARRIVAL_MAX;
        loop {
            if let Some(seen) = look()? {
                return Ok(seen);
            }
            if Instant::now() >= deadline {
                return Err(unlike(format!("waited {} s in vain: {what}", ARRIVAL_MAX.as_secs())).into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A step counts only if it is as told.
    pub(super) fn insists(&self, is_so: bool, what: &str) -> Result<(), Error> {
        if is_so { Ok(()) } else { Err(unlike(format!("the story says {what}, but it is not so")).into()) }
    }

    /// Starts a daemon, and shows where it listens.
    pub(super) fn starts(&mut self, who: Who) -> Result<(), Error> {
        self.tells(who, &["run"])?;
        let ready = self.party_mut(who).start()?;
        let listening = ready.get("listening").cloned().unwrap_or_default();
        self.shows(view::details, &[json!({ "listening": listening })])
    }

    fn call(&self, who: Who, arguments: &[&str]) -> Result<Reply, Error> {
        let reply = self.party(who).call(arguments);
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Failure::failed("the demo was interrupted").into());
        }
        reply
    }

    fn party(&self, who: Who) -> &Party {
        let [patient, clinic, centre] = &self.parties;
        match who {
            Patient => patient,
            Clinic => clinic,
            Centre => centre,
        }
    }

    fn party_mut(&mut self, who: Who) -> &mut Party {
        let [patient, clinic, centre] = &mut self.parties;
        match who {
            Patient => patient,
            Clinic => clinic,
            Centre => centre,
        }
    }

    // --- ending

    /// Ends all three in order.
    pub(super) fn end_daemons(&mut self) {
        self.parties.iter().for_each(Party::ask_to_stop);
        self.parties.iter_mut().for_each(Party::finish);
    }

    /// Says in which step it happened.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Failure(mut failure) if self.step > 0 => {
                failure.message = format!("in step {}, {}", self.step, failure.message);
                Error::Failure(failure)
            }
            other => other,
        }
    }

    /// Leaves the folders where they are.
    pub(super) fn keep(self) -> Result<(), Error> {
        let Self { parties, folder, json, .. } = self;
        let folder = folder.keep();
        if json {
            return Ok(output::print_object(json!({ "kept": folder.to_string_lossy() }))?);
        }
        let lines: String =
            parties.iter().map(|party| format!("  karte --home {} run\n", party.home().display())).collect();
        output::print(&format!(
            "\nThe three folders are kept in {}. To go on from there:\n{lines}",
            folder.display()
        ))
    }

    /// Leaves nothing.
    pub(super) fn clear(self) -> Result<(), Error> {
        let path = self.folder.path().to_owned();
        self.folder.close().map_err(|error| {
            Failure::failed(format!("{} cannot be removed: {error}", path.display()))
                .next("Remove it by hand; it holds made-up records only.")
                .into()
        })
    }
}

/// Set by Ctrl-C, SIGTERM or SIGHUP; a second Ctrl-C does not wait.
fn interruption() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let wrong = |error: std::io::Error| Failure::failed(format!("signals cannot be watched: {error}"));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 1, flag.clone()).map_err(wrong)?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, flag.clone()).map_err(wrong)?;
    }
    Ok(flag)
}

fn error_text(error: &Value) -> String {
    let text = |name| error.get(name).and_then(Value::as_str);
    let message = text("error").or(error.as_str()).unwrap_or("no reason was given").trim();
    let ended = if message.ends_with('.') { "" } else { "." };
    joined(&format!("{}{ended}", view::clean(message)), &view::clean(text("next").unwrap_or_default()))
}

fn joined(message: &str, next: &str) -> String {
    format!("{message} {next}").trim_end().to_owned()
}

/// An argument as one would type it: quoted where it must be, a card and a path only by their ends.
fn shown(word: &str, folder: &Path) -> String {
    let path = Path::new(word);
    if let Ok(file) = path.strip_prefix(folder) {
        return file.display().to_string();
    }
    let chars = word.chars().count();
    if word.starts_with("karte:") || chars > ARGUMENT_CHARS_MAX {
        return format!("{}...", word.chars().take(16).collect::<String>());
    }
    if word.len() == 64 || word.starts_with("karte1") {
        return word.chars().take(12).collect();
    }
    if word.contains([' ', '|', '$']) { format!("\"{word}\"") } else { word.to_owned() }
}
