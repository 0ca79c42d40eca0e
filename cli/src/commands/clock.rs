use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command;
use karte_node::failure::Failure;

/// See what time this node believes, and mend a clock that was wrong
///
/// A node remembers the latest time at which it wrote something. With a clock more than 10 minutes below that, consents
/// that ended would count again: so nothing is granted, served or opened then, and only revoking works.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Show(ShowArgs),
    Reset(ResetArgs),
}

/// Show the clock, and the time it may not fall far below
///
/// `behind` means that the clock of this machine is wrong, or that it was wrong before and has been set right since.
#[derive(clap::Args, Debug)]
pub(crate) struct ShowArgs {}

/// Say that the clock was wrong, and that it is right now
///
/// For a machine whose clock once stood years ahead. The remembered time falls to the present, and what contacts said
/// about their consents is forgotten: records of others open again after the next contact with their holder. A grant
/// that ended while the clock was wrong stays ended.
#[derive(clap::Args, Debug)]
pub(crate) struct ResetArgs {
    /// Yes, I have set the clock, and it is right
    #[arg(long)]
    i_set_the_clock: bool,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Show(ShowArgs {}) => session.show(command::Command::ClockShow, view::details),
        Command::Reset(ResetArgs { i_set_the_clock: false }) => Err(Failure::usage(
            "with a wrong clock, consents that ended would count again",
        )
        .next(
            "Compare the clock (`karte clock show`) with another one. If it is right, say --i-set-the-clock.",
        )
        .into()),
        Command::Reset(_) => session.show(command::Command::ClockReset, view::details),
    }
}
