use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;

/// List who is connected now
///
/// A node is connected to others only while it runs (`karte run`) or syncs.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(session: &Session, Args {}: Args) -> Result<(), Error> {
    session.show(Command::Peers, view::peers)
}
