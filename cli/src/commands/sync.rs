use crate::error::Error;
use crate::output;
use crate::parse::staff_or_user;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;
use serde_json::Value;

/// Exchange everything with your contacts now
///
/// Calls one contact, or all of them: sends and receives cards, grants, acceptances and revocations, and brings the
/// records that are granted to you. What has arrived is kept if it breaks off, and the next sync goes on from there.
/// While `karte run` is running this happens by itself; --watch shows it.
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Examples:\n  karte sync\n  karte sync chihiro --staff \"Dr. Ito\"\n  karte sync --watch"
)]
pub(crate) struct Args {
    /// A contact's alias or party id [default: all of them]
    contact: Option<String>,
    /// Who asks, as the holder will read [default: your user name on this machine]
    #[arg(long, value_name = "NAME")]
    staff: Option<String>,
    /// Show each record as it arrives at the running node, until Ctrl-C
    #[arg(long, conflicts_with_all = ["contact", "staff"])]
    watch: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    if args.watch {
        return watch(session);
    }
    let staff = staff_or_user(args.staff);
    session.show(Command::Sync { contact: args.contact, staff }, view::sync)
}

fn watch(session: &Session) -> Result<(), Error> {
    let mut tell = |item: Value| {
        let told = match session.json {
            true => output::print_object(item).map_err(Error::from),
            false => output::print(&view::arrival(&item)),
        };
        // Other commands work on when their output is gone; this one has nothing else to do.
        told.or_else(|error| std::process::exit(i32::from(!matches!(error, Error::NobodyReads))))
    };
    session.receive(Command::Watch, &mut tell, &mut output::no_data)
}
