use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command;
use karte_node::failure::Failure;
use serde_json::Value;

/// Look after what this node keeps
///
/// A node's folder holds a journal (the authority), a view made from it, and the encrypted payloads. These commands
/// read them against each other, bring back what was lost, and tell sizes. None of them changes a record.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Check(CheckArgs),
    Repair(RepairArgs),
    Rebuild(RebuildArgs),
    Stats(StatsArgs),
    Gc(GcArgs),
    AdoptCopy(AdoptCopyArgs),
}

/// Read everything, and tell what is missing or damaged
///
/// Reads every payload and compares it with its hash; looks for missing labels, and for gaps in the own log and in
/// shelves. Changes nothing, and works while the node runs. Exit code 0: all is whole. Exit code 5: the list names
/// what is lost, and who may have it.
#[derive(clap::Args, Debug)]
pub(crate) struct CheckArgs {}

/// Bring back from contacts what is lost
///
/// Received records come again from their holder, as long as the grant counts. Own records come back from readers they
/// were handed to: a reader holds the same encrypted payload, and gives it back to whoever made it. Entries of the own
/// log come back from any contact that holds them. What nobody has is named; a backup may have it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte store repair\n  \
    karte store repair --from sakura")]
pub(crate) struct RepairArgs {
    /// Ask this contact [default: all of them]
    #[arg(long, value_name = "CONTACT")]
    from: Option<String>,
}

/// Remake the view from the journal
///
/// The view is what lookups are answered from; nothing is in it that the journal does not have. A start after an
/// unclean stop does this by itself. Needs the store alone: stop the daemon first.
#[derive(clap::Args, Debug)]
pub(crate) struct RebuildArgs {}

/// Show how much space the store takes, and for what
///
/// Bytes by kind, what a sweep would give back, and how many records, grants and rows there are.
#[derive(clap::Args, Debug)]
pub(crate) struct StatsArgs {}

/// Delete payloads that nothing needs any more
///
/// What an interrupted import or a grant that ended left behind. A daemon does this at every start.
#[derive(clap::Args, Debug)]
pub(crate) struct GcArgs {}

/// Say that this folder was moved here, and that no other copy of it runs
///
/// A folder that was copied signs nothing before a contact has shown that no other copy went on from it: two nodes
/// that sign with one key make its later grants void. If you moved the folder and will never start the old one again,
/// say so here.
#[derive(clap::Args, Debug)]
pub(crate) struct AdoptCopyArgs {
    /// Yes, it was moved
    #[arg(long)]
    i_moved_it: bool,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Check(CheckArgs {}) => session.show(command::Command::StoreCheck, checked),
        Command::Repair(RepairArgs { from }) => session.show(command::Command::StoreRepair { from }, checked),
        Command::Rebuild(RebuildArgs {}) => session.show(command::Command::StoreRebuild, view::details),
        Command::Stats(StatsArgs {}) => session.show(command::Command::StoreStats, view::details),
        Command::Gc(GcArgs {}) => session.show(command::Command::StoreGc, view::details),
        Command::AdoptCopy(AdoptCopyArgs { i_moved_it: false }) => {
            Err(Failure::usage("two running copies of one folder void each other's grants")
                .next("If the folder was moved and the old one will never run again, say --i-moved-it.")
                .into())
        }
        Command::AdoptCopy(_) => session.show(command::Command::StoreAdoptCopy, view::details),
    }
}

/// What is lost, a line each with the next step; then the sum.
fn checked(items: &[Value]) -> String {
    let text =
        |item: &Value, name| item.get(name).and_then(Value::as_str).map(view::clean).unwrap_or_default();
    let number = |item: &Value, name| item.get(name).and_then(Value::as_u64);
    let lines = items.iter().map(|item| {
        if item.get("summary").is_none() {
            let id: String = text(item, "record").chars().take(12).collect();
            let words = [text(item, "fault"), id, text(item, "title")];
            let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
            return format!("{}. {}", words.join(" "), text(item, "next"));
        }
        match (number(item, "repaired"), number(item, "missing")) {
            (Some(repaired), Some(missing)) => format!("Repaired {repaired}, still missing {missing}."),
            _ => format!(
                "{} read ({}): {}.",
                view::count(number(item, "payloads").unwrap_or_default(), "payload"),
                view::human_bytes(number(item, "bytes").unwrap_or_default()),
                match number(item, "faults") {
                    Some(0) => "all is whole".to_owned(),
                    faults => view::count(faults.unwrap_or_default(), "fault"),
                }
            ),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}
