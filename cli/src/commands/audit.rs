use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command;

/// See what became of your records
///
/// Every request for your records was signed by who asked, and every reader's node signs what it opened.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    List(ListArgs),
}

/// List who did what with your records, and when
///
/// Tells who asked for records and got them or was refused, who opened which, and, after a revocation, whether the
/// reader has signed that it stopped and deleted. A reader's statement is a statement: it is signed, so it can be
/// held against its signer.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  karte audit list --json | jq 'select(.event == \"opened\")'")]
pub(crate) struct ListArgs {}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::List(ListArgs {}) => session.show(command::Command::AuditList, view::audit),
    }
}
