use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;

/// End the running node in order
///
/// Asks the node that `karte run` started to finish what it is doing and end. Nothing acknowledged is lost.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(session: &Session, Args {}: Args) -> Result<(), Error> {
    session.show(Command::Stop, view::details)
}
