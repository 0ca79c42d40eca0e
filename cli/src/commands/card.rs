use crate::error::Error;
use crate::output;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;

/// Show your card
///
/// A card is what others need to find you and to check your signatures: your party, its devices, a name, and
/// addresses. It is no secret. Give it away as text or as a QR code; the other side takes it with `karte contact
/// add`. The addresses are those the node listens on, so make the card while `karte run` is running.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte card --qr\n  \
    karte card --json | jq -r .card")]
pub(crate) struct Args {
    /// Draw it as a QR code too
    #[arg(long)]
    qr: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<(), Error> {
    shown(session, Command::Card, args.qr)
}

/// Shows what a command gives that has a card in it.
pub(crate) fn shown(session: &Session, command: Command, qr: bool) -> Result<(), Error> {
    if session.json {
        return session.show(command, view::card);
    }
    let items = session.items(command)?;
    output::print(&view::card(&items))?;
    if qr {
        let text = items.iter().find_map(|item| item.get("card")?.as_str()).unwrap_or_default();
        output::print(&crate::qr::draw("card", text)?)?;
    }
    Ok(())
}
