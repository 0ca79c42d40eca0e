use crate::error::Error;
use crate::passphrase;
use crate::session::Session;
use crate::view;
use karte_node::backup::{self, Opener, Restore};
use karte_node::command::{self, Secret};
use karte_node::failure::Failure;
use secrecy::ExposeSecret;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Write backups, look whether they are whole, and begin again from one
///
/// A backup is encrypted with age. It holds your own records, your identity log, contacts, the grants you gave, and the
/// recovery key. It does not hold what others let you read, nor any reading key: a grant that ended stays ended, and
/// what you may still read comes anew from its holder. It does not hold this device's own key either: a restored backup
/// is a new device of yours, and the old one is ended by it.
///
/// Whoever can open a backup can read your own records and take over your node: keep its identity or passphrase apart.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Create(CreateArgs),
    Verify(VerifyArgs),
    Restore(RestoreArgs),
}

/// Write a backup, or add to one
///
/// Works while the node runs: it is of one moment. Into a folder the first run writes everything and later runs add only
/// what is new. Into a file (a name that ends in .age) everything is written each time. Stock `age -d` opens every part;
/// inside is a tar.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte backup create /media/disk/karte --to age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n  \
    karte backup create karte-2026-11.age")]
pub(crate) struct CreateArgs {
    /// A folder, or a file whose name ends in .age
    target: PathBuf,
    /// Encrypt to this age recipient; may be given several times [default: ask for a passphrase]
    #[arg(long, value_name = "RECIPIENT")]
    to: Vec<String>,
    /// Read the backup's passphrase from this open file descriptor, one line
    #[arg(long, value_name = "N")]
    backup_passphrase_fd: Option<u32>,
}

#[derive(clap::Args, Debug)]
struct OpenerArgs {
    /// Open it with this age identity file [default: ask for its passphrase]
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Read the backup's passphrase from this open file descriptor, one line
    #[arg(long, value_name = "N")]
    backup_passphrase_fd: Option<u32>,
}

/// Look whether a backup is whole
///
/// Decrypts all of it, compares every byte with the list that the node signed, and keeps nothing. Exit code 5 if it is
/// damaged or if an own record's payload is in no part.
#[derive(clap::Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The backup's folder or file
    from: PathBuf,
    #[command(flatten)]
    opener: OpenerArgs,
}

/// Begin again from a backup, as a new device
///
/// Makes a node in --home, which must be empty. It is the same party with a new device key, and signs a recovery: the old
/// device can do nothing any more, and the grants you gave are over; they are listed, and --regrant gives them again.
/// Grants you received are accepted anew when their holder is met. Entries that your contacts hold and this copy lacks
/// come back at the first contact.
///
/// Restore a backup once. Two nodes that recover from the same backup dispute each other, and everybody denies both.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  \
    karte --home ~/karte-new backup restore /media/disk/karte --identity key.txt --regrant")]
pub(crate) struct RestoreArgs {
    /// The backup's folder or file
    from: PathBuf,
    #[command(flatten)]
    opener: OpenerArgs,
    /// Leave the new node's keys unlocked
    ///
    /// For servers whose disk is encrypted, and for tests.
    #[arg(long)]
    no_passphrase: bool,
    /// Give the grants again that the recovery ends: same reader, scope, purpose and end
    #[arg(long)]
    regrant: bool,
    /// Restore although this backup was restored before
    #[arg(long)]
    again: bool,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Create(args) => create(session, args),
        Command::Verify(args) => {
            let found = backup::verify(&args.from, &opener(&args.opener)?)?;
            session.show_items(vec![found.view()], view::details)?;
            match found.lost.len() {
                0 => Ok(()),
                lost => Err(lost_payloads(lost).into()),
            }
        }
        Command::Restore(args) => restore(session, args),
    }
}

fn create(session: &Session, args: CreateArgs) -> Result<(), Error> {
    let target = absolute(&args.target)?;
    let passphrase = match args.to.is_empty() {
        true => Some(Secret::new(passphrase::of_backup(args.backup_passphrase_fd, true)?.expose_secret())),
        false => None,
    };
    session.show(command::Command::BackupCreate { target, to: args.to, passphrase }, made)
}

fn restore(session: &Session, args: RestoreArgs) -> Result<(), Error> {
    let opener = opener(&args.opener)?;
    let passphrase = if args.no_passphrase { None } else { Some(passphrase::fresh(session.passphrase_fd)?) };
    let how = Restore { passphrase, regrant: args.regrant, again: args.again };
    let items = backup::restore(&args.from, &opener, &session.home, how)?;
    session.show_items(items, if args.regrant { given_again } else { restored })
}

fn opener(args: &OpenerArgs) -> Result<Opener, Failure> {
    match &args.identity {
        Some(path) => Opener::from_file(path),
        None => Ok(Opener::Passphrase(passphrase::of_backup(args.backup_passphrase_fd, false)?)),
    }
}

/// The daemon stands in another folder than we do. A slash at the end says that it is a folder.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("the path cannot be used: {error}")))
}

fn lost_payloads(lost: usize) -> Failure {
    Failure::new(
        karte_node::failure::Kind::Damaged,
        format!("{} in no part of the backup", view::count(lost as u64, "own record")),
    )
    .next("They were lost when it was made. `karte store repair` at the node, then `karte backup create` again.")
}

fn made(items: &[Value]) -> String {
    let number = |name| items.first().and_then(|item| item.get(name)?.as_u64()).unwrap_or_default();
    let is_new = items.first().and_then(|item| item.get("new")?.as_bool()).unwrap_or_default();
    if !is_new && number("part") > 1 {
        return "Nothing is new since the last run.".into();
    }
    format!(
        "Part {}: {} and {} written ({}).",
        number("part"),
        view::count(number("payloads"), "payload"),
        view::count(number("rows"), "row"),
        view::human_bytes(number("bytes"))
    )
}

fn restored(items: &[Value]) -> String {
    let (summary, grants) = items.split_first().unwrap_or((&Value::Null, &[]));
    let head = view::details(std::slice::from_ref(summary));
    if summary.get("standing").and_then(Value::as_str) == Some("waits for its recovery") {
        return format!(
            "{head}\n\nThe recovery keys of this party are not in the backup: it waits for their keepers.\n\nNext: `karte recovery start`."
        );
    }
    if grants.is_empty() {
        return format!("{head}\n\nNext: `karte run`.");
    }
    format!(
        "{head}\n\nThese grants were ended by the recovery. Give them again with `karte grant add`:\n\n{}\n\nNext: `karte run`.",
        view::grants(grants)
    )
}

fn given_again(items: &[Value]) -> String {
    let (summary, grants) = items.split_first().unwrap_or((&Value::Null, &[]));
    format!(
        "{}\n\nGiven again:\n\n{}\n\nNext: `karte run`.",
        view::details(std::slice::from_ref(summary)),
        view::grants(grants)
    )
}
