//! One command's dealings with the node: where it lives, how it is unlocked, where its answers go.

use crate::error::Error;
use crate::out_file::OutFile;
use crate::output::{self, Watch};
use crate::passphrase;
use crate::view::View;
use karte_node::access::{self, Unlock};
use karte_node::command::Command;
use karte_node::failure::Failure;
use karte_node::keystore::{self, KeystoreError};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What every command is given.
pub(crate) struct Session {
    pub(crate) home: PathBuf,
    pub(crate) json: bool,
    pub(crate) passphrase_fd: Option<u32>,
}

impl Session {
    /// `home` or, without one, the XDG data folder.
    pub(crate) fn new(
        home: Option<PathBuf>,
        json: bool,
        passphrase_fd: Option<u32>,
    ) -> Result<Self, Failure> {
        let chosen = home.filter(|home| !home.as_os_str().is_empty()).or_else(default_home);
        let home = chosen.and_then(|home| std::path::absolute(home).ok()).ok_or_else(|| {
            Failure::usage("there is no home folder to keep the node in").next("Name one: --home DIR.")
        })?;
        Ok(Self { home, json, passphrase_fd })
    }

    /// Runs a command and shows its results: one JSON object a line as they come, or `view` of them all. What came
    /// before a failure is shown too: an import's error refers to it.
    pub(crate) fn show(&self, command: Command, view: View) -> Result<(), Error> {
        if self.json {
            return self.perform(command, &mut output::print_object, &mut output::no_data);
        }
        let (items, result) = self.gather(command);
        if result.is_ok() || !items.is_empty() {
            output::print(&view(&items))?;
        }
        result
    }

    /// Runs a command and gives its results.
    pub(crate) fn items(&self, command: Command) -> Result<Vec<Value>, Error> {
        let (items, result) = self.gather(command);
        result.map(|()| items)
    }

    fn gather(&self, command: Command) -> (Vec<Value>, Result<(), Error>) {
        let mut items = Vec::new();
        let mut keep = |item| {
            items.push(item);
            Ok(())
        };
        let result = self.perform(command, &mut keep, &mut output::no_data);
        (items, result)
    }

    /// Shows results that are here already.
    pub(crate) fn show_items(&self, items: Vec<Value>, view: View) -> Result<(), Error> {
        if self.json {
            return Ok(items.into_iter().try_for_each(output::print_object)?);
        }
        output::print(&view(&items))
    }

    /// Runs a command whose result is bytes, and writes them where the user said.
    pub(crate) fn save(&self, command: Command, out: &OutFile) -> Result<(), Error> {
        let mut target = out.open()?;
        self.perform(command, &mut |_| Ok(()), &mut |bytes| target.write(bytes))?;
        let Some((path, bytes)) = target.finish()? else {
            return Ok(());
        };
        if self.json {
            output::print_object(json!({ "file": path.to_string_lossy(), "bytes": bytes }))?;
        } else if self.is_watched() {
            eprintln!("Wrote {} ({bytes} bytes).", path.display());
        }
        Ok(())
    }

    /// Runs a command whose results and bytes come in turn.
    pub(crate) fn receive(
        &self,
        command: Command,
        on_item: &mut output::OnItem<'_>,
        on_data: &mut output::OnData<'_>,
    ) -> Result<(), Error> {
        self.perform(command, on_item, on_data)
    }

    /// Obtains the passphrase when the node asks for it, and only then.
    pub(crate) fn unlock(&self) -> Unlock {
        let fd = self.passphrase_fd;
        Box::new(move || passphrase::existing(fd))
    }

    /// That there is a node, said before anything is asked or started.
    pub(crate) fn require_node(&self) -> Result<(), Error> {
        match keystore::probe(&self.home) {
            Ok(_) => Ok(()),
            Err(KeystoreError::Absent(home)) => Err(no_node(&home).into()),
            Err(error) => Err(Failure::from(error).into()),
        }
    }

    /// Progress and notes are for people: a terminal, and no program reading.
    pub(crate) fn is_watched(&self) -> bool {
        use std::io::IsTerminal;
        !self.json && std::io::stderr().is_terminal()
    }

    fn perform(
        &self,
        command: Command,
        on_item: &mut output::OnItem<'_>,
        on_data: &mut output::OnData<'_>,
    ) -> Result<(), Error> {
        self.require_node()?;
        let mut watch = Watch::new(self.is_watched(), on_item, on_data);
        let result = access::run(&self.home, command, self.unlock(), &mut watch);
        // Our own trouble with the output explains the node's failure, so it comes first.
        watch.finish()?;
        Ok(result?)
    }
}

fn no_node(home: &Path) -> Failure {
    Failure::failed(format!("there is no node in {}", home.display()))
        .next("`karte init --name NAME` makes one there; --home DIR names another folder.")
}

fn default_home() -> Option<PathBuf> {
    // The XDG specification says that a relative path there is to be ignored.
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = data.or_else(|| Some(std::env::home_dir()?.join(".local/share")));
    data.map(|data| data.join("karte"))
}
