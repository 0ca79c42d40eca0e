use crate::error::Error;
use crate::parse::{bytes, duration_ms};
use crate::session::Session;
use crate::view;
use karte_node::command;

/// Have your records kept and served while you are offline, or keep for others
///
/// A steward is a contact whose node keeps your encrypted records and serves them to your readers, under exactly the
/// checks that your own node makes. It can read nothing and grant nothing. When your node has been silent for longer
/// than a grant's --offline says, the steward stops serving that grant.
///
/// Both sides say yes: the steward with `karte steward offer`, you with `karte steward add`.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Add(AddArgs),
    List(ListArgs),
    Remove(RemoveArgs),
    Offer(OfferArgs),
    Keeping(KeepingArgs),
}

/// Name a contact your steward
///
/// Your node hands it your grants (without what they cover), the shelves of your readers and your own, all of it
/// encrypted, and lets it fetch the payloads. Your readers find it through your card and turn to it when your node
/// cannot be reached. The steward sees who reads, when, and how much; it cannot see what.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  karte steward add pharmacy")]
pub(crate) struct AddArgs {
    /// Who keeps: a contact's alias or party id
    contact: String,
}

/// List your stewards
///
/// Tells for each how much it keeps, how much it would, and until when, as it last said.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {}

/// End a steward
///
/// Final: the same contact cannot be named again, unless you recover your identity. When its node hears of it, at once
/// if it is connected, it serves nothing more and deletes what it kept.
#[derive(clap::Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Which: a contact's alias or party id
    contact: String,
}

/// Say that you keep for a contact
///
/// Nothing is kept for anybody without it. Give it again to change quota or time; --end deletes all that is kept.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte steward offer chihiro --quota 50GB --for 365d\n  \
    karte steward offer chihiro --end")]
pub(crate) struct OfferArgs {
    /// For whom: a contact's alias or party id
    contact: String,
    /// Most payload that is kept
    #[arg(long, value_name = "SIZE", default_value = "10GB", value_parser = bytes)]
    quota: u64,
    /// How long from now
    #[arg(long = "for", value_name = "LENGTH", default_value = "365d", value_parser = duration_ms)]
    time: i64,
    /// Keep no longer, and delete what is kept
    #[arg(long, conflicts_with_all = ["quota", "time"])]
    end: bool,
}

/// Show what you keep for others
///
/// Sizes, counts and times: what is in it you cannot see.
#[derive(clap::Args, Debug)]
pub(crate) struct KeepingArgs {}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Add(AddArgs { contact }) => {
            session.show(command::Command::StewardAdd { contact }, view::details)
        }
        Command::List(ListArgs {}) => session.show(command::Command::StewardList, view::stewards),
        Command::Remove(RemoveArgs { contact }) => {
            session.show(command::Command::StewardRemove { contact }, view::details)
        }
        Command::Offer(OfferArgs { contact, end: true, .. }) => {
            session.show(command::Command::StewardEnd { contact }, view::details)
        }
        Command::Offer(OfferArgs { contact, quota, time, .. }) => session.show(
            command::Command::StewardOffer { contact, quota_bytes: quota, for_ms: time },
            view::details,
        ),
        Command::Keeping(KeepingArgs {}) => session.show(command::Command::StewardKeeping, view::keeping),
    }
}
