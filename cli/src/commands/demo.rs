mod data;
mod disk;
mod party;
mod stage;
mod story;

use crate::error::Error;
use crate::session::Session;
use karte_node::failure::Failure;
use stage::Stage;

/// See the whole circle: three nodes share records under consent, and stop
///
/// Starts three nodes on this machine, each a process of its own with a folder of its own: a patient in Osaka, the
/// clinic that treats her, and a dialysis centre in Penang where she travels. They meet, share made-up records
/// under grants, write back, and stop when a grant is revoked. Every step shows the command that does it and
/// checks what came of it; if one is not as told, the demo fails.
///
/// Nothing leaves this machine, your own node is not touched, and nothing is left behind unless you say --keep.
/// It takes less than a minute.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Keep the three folders, and say where they are
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<(), Error> {
    let mut stage = Stage::set(session.json)?;
    let told = story::tell(&mut stage);
    // Daemons end before their folders go, whether the story went well or not.
    stage.end_daemons();
    let told = told.map_err(|error| stage.explain(error));
    if args.keep {
        stage.keep()?
    } else {
        stage.clear()?
    }
    told
}

/// A step that did not go as told.
fn unlike(what: impl Into<String>) -> Failure {
    Failure::failed(what).next("Run `karte demo --keep` and look at the .log files in its folder.")
}
