use super::record::ScopeArgs;
use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command::{Command, Filter};

/// Tell a record's life in order, or the chart's day by day
///
/// With an id: when it happened, when it came in, who was granted it, who read it, and what became of them. Without
/// one: what there is of each day and kind, oldest first. Nothing is opened for it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte timeline 3f2a90bd\n  \
    karte timeline --from 2026-01 --kind daily,dialysis")]
pub(crate) struct Args {
    /// The record's id, or the beginning of it
    id: Option<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Only about this contact, or `me`
    #[arg(long, value_name = "CONTACT")]
    subject: Option<String>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    let filter: Filter = args.scope.into_filter(args.subject);
    session.show(Command::Timeline { id: args.id, filter }, view::timeline)
}
