//! `karte`, the command: says what its owner wants to the node, and tells what came of it.
//!
//! For: arguments, passphrases, what is shown, exit codes. Not for: deciding anything; that is `karte-node`.

mod commands;
mod error;
mod out_file;
mod output;
mod parse;
mod passphrase;
mod qr;
mod session;
mod syncing;
mod view;
mod words;

use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match commands::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let json = cli.json;
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::report(&error, json),
    }
}

/// Help and version are answers; anything else is a usage error, as an object if `--json` was among the words.
fn not_understood(error: &clap::Error) -> ExitCode {
    let is_answer = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !is_answer && std::env::args_os().any(|word| word == "--json") {
        return error::report(&error::usage(error), true);
    }
    // A closed pipe is all that can go wrong here, and then nobody reads what we would say about it.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
