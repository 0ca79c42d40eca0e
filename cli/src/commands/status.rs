use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;

/// Show who this node is and how it does
///
/// Tells the party and device, where it listens and how many are connected, and how many records and grants it has.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(session: &Session, Args {}: Args) -> Result<(), Error> {
    session.show(Command::Status, view::details)
}
