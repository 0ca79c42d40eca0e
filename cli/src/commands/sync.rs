use crate::error::Error;
use crate::parse::staff_or_user;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;

/// Exchange everything with your contacts now
///
/// Calls one contact, or all of them: sends and receives cards, grants, acceptances and revocations, and brings the
/// records that are granted to you. What has arrived is kept if it breaks off, and the next sync goes on from there.
/// While `karte run` is running this happens by itself.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  karte sync\n  karte sync chihiro --staff \"Dr. Ito\"")]
pub(crate) struct Args {
    /// A contact's alias or party id [default: all of them]
    contact: Option<String>,
    /// Who asks, as the holder will read [default: your user name on this machine]
    #[arg(long, value_name = "NAME")]
    staff: Option<String>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    let staff = staff_or_user(args.staff);
    session.show(Command::Sync { contact: args.contact, staff }, view::sync)
}
