use crate::error::Error;
use crate::out_file::OutFile;
use crate::session::Session;
use karte_node::command;
use karte_node::failure::Failure;
use std::io::{BufRead, IsTerminal, Write};

/// Export keys of this device
///
/// Keys stay in the locked keystore; nothing but these commands takes one out.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Export(ExportArgs),
}

/// Export this device's age identity
///
/// With it any age program opens what `karte record open --age` writes, and so can anybody else who gets it: keep
/// it like the records themselves. It asks first.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  \
    karte keys export --age-identity -o identity.txt\n  \
    karte record open 3f2a90bd --age -o record.age\n  \
    age -d -i identity.txt record.age")]
pub(crate) struct ExportArgs {
    /// The identity that `karte record open --age` writes for
    #[arg(long, required = true)]
    age_identity: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    out: OutFile,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    let Command::Export(args) = command;
    session.require_node()?;
    if !args.yes {
        confirm()?;
    }
    session.save(command::Command::KeysExport, &args.out)
}

fn confirm() -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("exporting a key asks first, and there is no terminal to ask on")
            .next("Say --yes if you are sure."));
    }
    eprint!("Whoever has this identity can open your exported records. Export it? [y/N] ");
    let mut answer = String::new();
    // An answer that cannot be read is no yes.
    let _ = std::io::stderr().flush().and_then(|()| stdin.lock().read_line(&mut answer));
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was exported")),
    }
}
