use super::terms::{ChoiceArgs, TermsArgs};
use crate::error::Error;
use crate::out_file::OutFile;
use crate::session::Session;
use crate::view;
use karte_node::command::{self, NewGrant};

/// Let others read, and accept what others let you read
///
/// A grant says who may read which records, for what purpose, and until when. It is signed and never changed: to
/// change it, revoke it and give another.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Add(Box<AddArgs>),
    List(ListArgs),
    Show(ShowArgs),
    Accept(AcceptArgs),
    Decline(DeclineArgs),
    Revoke(RevokeArgs),
}

/// Let a contact read some of your records
///
/// Name what it covers by --kind or --record; the other options narrow it. Records that come in later and fit are
/// covered too. --dry-run shows which records it would be now, and signs nothing.
///
/// The contact is offered the grant and reads nothing before it has accepted.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte grant add sakura --kind fhir/Observation --category laboratory --from 2024 --until 2025 --dry-run\n  \
    karte grant add sakura --kind fhir --exclude HIV --exclude PSY --expires 30d\n  \
    karte grant add sakura --record 3f2a90bd --expires 12h --offline 1h")]
pub(crate) struct AddArgs {
    /// Who may read: a contact's alias or party id
    contact: String,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    terms: TermsArgs,
}

/// List grants, given and received
///
/// A received grant that is offered waits for your `karte grant accept`.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {}

/// Show one grant
///
/// With --cose its signed entry is given as it is (a tagged COSE_Sign1, RFC 9052), for any COSE program to verify.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte grant show 5f0c92b1\n  \
    karte grant show 5f0c92b1 --cose -o grant.cose")]
pub(crate) struct ShowArgs {
    /// The grant's id, or the beginning of it
    id: String,
    /// Give the signed bytes
    #[arg(long)]
    cose: bool,
    #[command(flatten)]
    out: OutFile,
}

/// Say yes to a grant that was offered to you
///
/// Makes a fresh key for this grant alone and tells the holder. The records then come with the next sync, at once
/// if you are connected. When the grant ends the key is destroyed, and nothing that came under it opens again.
#[derive(clap::Args, Debug)]
pub(crate) struct AcceptArgs {
    /// The grant's id, or the beginning of it
    id: String,
    /// Take what arrives about yourself into your own records
    ///
    /// Your own grants then carry it on to your readers.
    #[arg(long)]
    adopt: bool,
}

/// Say no to a grant that was offered to you
///
/// You can still accept it later, while it counts.
#[derive(clap::Args, Debug)]
pub(crate) struct DeclineArgs {
    /// The grant's id, or the beginning of it
    id: String,
}

/// End a grant that you gave
///
/// A connected reader is refused within moments. One that is offline is refused at its next contact, and stops by
/// itself at the latest when its offline time runs out. Its node is asked to delete what it has, and signs that it
/// did: see `karte audit list`. Nobody can make a reader forget what it has read.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  karte grant revoke 5f0c92b1 --reason \"changed clinics\"")]
pub(crate) struct RevokeArgs {
    /// The grant's id, or the beginning of it
    id: String,
    /// Why, for the reader to see
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Add(args) => add(session, *args),
        Command::List(ListArgs {}) => session.show(command::Command::GrantList, view::grants),
        Command::Show(args) => show(session, args),
        Command::Accept(AcceptArgs { id, adopt }) => {
            session.show(command::Command::GrantAccept { id, adopt }, view::details)
        }
        Command::Decline(DeclineArgs { id }) => {
            session.show(command::Command::GrantDecline { id }, view::details)
        }
        Command::Revoke(RevokeArgs { id, reason }) => {
            session.show(command::Command::GrantRevoke { id, reason }, view::details)
        }
    }
}

fn add(session: &Session, args: AddArgs) -> Result<(), Error> {
    let AddArgs { contact, choice, terms } = args;
    let view = if choice.dry_run { view::dry_run } else { view::details };
    let grant = NewGrant {
        contact,
        expires_ms: choice.limits.expires_or_default(),
        offline_ms: choice.limits.offline_or_default(),
        onward_keep: terms.keeps(),
        purpose: terms.purpose,
        basis: terms.basis,
        scope: choice.scope.into_filter(terms.subject),
        records: choice.record,
        exclude: choice.exclude,
        dry_run: choice.dry_run,
    };
    session.show(command::Command::GrantAdd(grant), view)
}

fn show(session: &Session, args: ShowArgs) -> Result<(), Error> {
    if args.cose {
        return session.save(command::Command::GrantCose { id: args.id }, &args.out);
    }
    session.show(command::Command::GrantShow { id: args.id }, view::details)
}
