use super::record::ScopeArgs;
use super::terms::{ChoiceArgs, LimitArgs, TermsArgs};
use crate::error::Error;
use crate::output;
use crate::parse::text_or_stdin;
use crate::qr;
use crate::session::Session;
use crate::view;
use karte_node::command::{self, Approval, NewRequest};
use karte_node::failure::Failure;
use serde_json::Value;

/// Ask others to let you read, and answer those who ask you
///
/// A request says who asks, for which records, what for, and for how long. It gives nothing by itself: whoever is asked
/// sees which of their records that would be, and gives a grant for all of it, for less, or none.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Add(Box<AddArgs>),
    Take(TakeArgs),
    List(ListArgs),
    Show(ShowArgs),
    Approve(Box<ApproveArgs>),
    Decline(DeclineArgs),
}

/// Ask a contact to let you read
///
/// Name what it is for by --kind; the other options narrow it. It goes to the contact as soon as both are connected, and
/// waits there for its owner's word for 30 days. The text that is printed, or its QR code, does the same without a
/// connection.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte request add hana --kind fhir/Observation --category laboratory --from 2025 --reason \"before dialysis\"\n  \
    karte request add hana --kind dicom --expires 30d --qr\n  \
    karte request add hana --kind fhir --json | jq -r .text")]
pub(crate) struct AddArgs {
    /// Who is asked: a contact's alias or party id
    contact: String,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    terms: TermsArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Why, in your own words, at most 500 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Draw it as a QR code too
    #[arg(long)]
    qr: bool,
}

/// Take a request that came as text or QR code
///
/// It is kept and shown, and nothing is given. If whoever asks is a stranger, it is listed with the pending contacts:
/// compare its party id with it by another way before you add it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte request take karte-request:omRj...\n  \
    karte request take - < request.txt")]
pub(crate) struct TakeArgs {
    /// The request (`karte-request:...`), or `-` to read it from the standard input
    text: String,
}

/// List requests, yours and those to you
///
/// A received one that waits is waiting for your word. Without an answer it ends after 30 days, and whoever asked is
/// told nothing.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {}

/// Show one request
///
/// For one that came to you: who asks, what for, and how many of your records that would be now. For one of yours: its
/// text, to give away.
#[derive(clap::Args, Debug)]
pub(crate) struct ShowArgs {
    /// The request's id, or the beginning of it
    id: String,
    /// Draw your own request as a QR code too
    #[arg(long)]
    qr: bool,
}

/// Give what a request asks for, or less
///
/// Without options all of it is given, by a grant like any other: see it with `karte grant list`, end it with `karte
/// grant revoke`. The options narrow it, and one that would give more than was asked is refused. --dry-run shows
/// exactly which records it would be now, and signs nothing.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte request approve 5f0c92b1 --dry-run\n  \
    karte request approve 5f0c92b1 --category laboratory --exclude HIV --expires 30d")]
pub(crate) struct ApproveArgs {
    /// The request's id, or the beginning of it
    id: String,
    #[command(flatten)]
    choice: ChoiceArgs,
}

/// Say no to a request
///
/// Whoever asked learns that you declined, and the reason if you give one. To say nothing at all, leave the request
/// alone: it ends by itself.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  karte request decline 5f0c92b1 --reason \"ask my daughter first\"")]
pub(crate) struct DeclineArgs {
    /// The request's id, or the beginning of it
    id: String,
    /// Why, for the asker to see
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Add(args) => add(session, *args),
        Command::Take(TakeArgs { text }) => {
            let text = text_or_stdin(text, "request")?;
            session.show(command::Command::RequestTake { text }, view::details)
        }
        Command::List(ListArgs {}) => session.show(command::Command::RequestList, view::requests),
        Command::Show(ShowArgs { id, qr }) => told(session, command::Command::RequestShow { id }, qr),
        Command::Approve(args) => approve(session, *args),
        Command::Decline(DeclineArgs { id, reason }) => {
            session.show(command::Command::RequestDecline { id, reason }, view::details)
        }
    }
}

fn add(session: &Session, args: AddArgs) -> Result<(), Error> {
    let AddArgs { contact, scope, terms, limits, reason, qr } = args;
    let request = NewRequest {
        contact,
        onward_keep: terms.keeps(),
        purpose: terms.purpose,
        basis: terms.basis,
        scope: scope.into_filter(terms.subject),
        expires_ms: limits.expires_or_default(),
        offline_ms: limits.offline_or_default(),
        reason,
    };
    told(session, command::Command::RequestAdd(request), qr)
}

fn approve(session: &Session, args: ApproveArgs) -> Result<(), Error> {
    let ApproveArgs { id, choice } = args;
    let view = if choice.dry_run { view::dry_run } else { view::details };
    let approval = Approval {
        id,
        scope: choice.scope.into_filter(None),
        records: choice.record,
        exclude: choice.exclude,
        expires_ms: choice.limits.expires,
        offline_ms: choice.limits.offline,
        dry_run: choice.dry_run,
    };
    session.show(command::Command::RequestApprove(approval), view)
}

/// Shows a request, and draws its text.
fn told(session: &Session, command: command::Command, draws: bool) -> Result<(), Error> {
    if session.json {
        return session.show(command, view::request);
    }
    let items = session.items(command)?;
    output::print(&view::request(&items))?;
    if draws {
        let text = items.iter().find_map(|item| item.get("text").and_then(Value::as_str));
        let text = text.ok_or_else(|| {
            Failure::usage("only a request of your own that is short enough has a text to draw")
                .next("`karte request list` tells which are yours.")
        })?;
        output::print(&qr::draw("request", text)?)?;
    }
    Ok(())
}
