use crate::error::Error;
use crate::output;
use crate::passphrase;
use crate::qr;
use crate::session::Session;
use crate::view;
use crate::words;
use karte_node::command::{self, NewRecovery};
use karte_node::failure::{Failure, Kind};
use karte_node::keystore;
use karte_node::recovery::{self, Words};
use serde_json::Value;
use std::path::PathBuf;

/// Prepare for the loss of your devices, and come back after it
///
/// Your party can be brought back by keys that it committed to before: printed words, contacts who keep one, another
/// device. You say how many of them it takes. A recovery makes a new device yours and ends all older ones; nobody who
/// has only some of the keys can do it, and a keeper's key opens no record.
///
/// A new node has one such key, in its keystore and its backups. `karte recovery setup` puts others in its place.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Setup(SetupArgs),
    Trust(TrustArgs),
    Key(KeyArgs),
    Start(StartArgs),
    Approve(ApproveArgs),
    Finish(FinishArgs),
    Grants(GrantsArgs),
    Show(ShowArgs),
}

/// Choose the keys that can bring you back
///
/// Words are printed once, for paper, and asked back; they are kept nowhere. A contact is asked for a key and its user
/// says yes with `karte recovery trust`. The key that a new node has in its keystore is taken out.
///
/// The change is itself a recovery by the present keys: it begins a new generation of your party. The grants you gave
/// end and are given again at once, same reader, scope, purpose and end; readers who do not accept by themselves have to
/// accept again, and what they had is fetched anew. --dry-run says what it would be. If the present keys are not in the
/// keystore any more, their keepers are asked to approve: the command then prints a request, as `start` does.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte recovery setup --threshold 2 --words --contact sakura --contact sister\n  \
    karte recovery setup --threshold 1 --words --dry-run")]
pub(crate) struct SetupArgs {
    /// How many of the keys it takes
    #[arg(long, value_name = "K")]
    threshold: u8,
    /// Print words: one key
    #[arg(long)]
    words: bool,
    /// Write the words to this new file instead of the terminal (`-`: to the output)
    ///
    /// Print the file and delete it: whoever reads it has one of your keys.
    #[arg(long, value_name = "FILE", requires = "words")]
    words_file: Option<PathBuf>,
    /// A contact who keeps a key; may be given several times
    #[arg(long, value_name = "CONTACT")]
    contact: Vec<String>,
    /// The key of another keeper (`karte-key:...`, from `karte recovery key`); may be given several times
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Do not ask the words back
    #[arg(long)]
    yes: bool,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Keep a recovery key for a contact
///
/// Says yes to a contact that asked you. You can help it back after a loss, together with its other keepers; the key
/// opens none of its records. The key is part of this node: its backups have it too.
#[derive(clap::Args, Debug)]
pub(crate) struct TrustArgs {
    /// Its alias, or its party id or the beginning of it
    contact: String,
}

/// Keep a recovery key for a party that cannot ask you over the network
///
/// Prints a text to be given to it: it takes it with `karte recovery setup --key`. The text is no secret.
#[derive(clap::Args, Debug)]
pub(crate) struct KeyArgs {
    /// A contact, or a party id
    #[arg(long = "for", value_name = "PARTY")]
    party: String,
}

/// Begin to come back, on a new device
///
/// Makes a node in --home, which must be empty, for a new device of the party whose card is given; any of its contacts
/// prints that card with `karte contact card`. It prints a request for the keepers of the recovery keys, and a check code
/// of six words. Give them the request by any way, and the code by voice. In a home that waits already, for example after
/// `karte backup restore`, no card is needed, and the same request is shown again.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  \
    karte --home ~/karte-new recovery start karte:gqNj... --words")]
pub(crate) struct StartArgs {
    /// Cards of the lost party; the newest counts, and what all of them show
    card: Vec<String>,
    /// Approve with the printed words at once
    #[arg(long)]
    words: bool,
    /// Read the words from this open file descriptor
    #[arg(long, value_name = "N", requires = "words")]
    words_fd: Option<u32>,
    /// Draw the request as a QR code too
    #[arg(long)]
    qr: bool,
    /// Leave the new node's keys unlocked
    ///
    /// For servers whose disk is encrypted, and for tests.
    #[arg(long)]
    no_passphrase: bool,
}

/// Help somebody back whose key you keep
///
/// Without --code it shows who asks for what. Then ask the person themselves, by voice or in person, for the check code
/// that their new device shows: it proves that nobody changed the request on its way. With the right code it prints an
/// approval for them.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  \
    karte recovery approve karte-recover:pGRuYW1l... --code \"apple river stone cloud ladder amber\"")]
pub(crate) struct ApproveArgs {
    /// The request (`karte-recover:...`)
    request: String,
    /// The six words that you were told
    #[arg(long, value_name = "WORDS")]
    code: Option<String>,
    /// Approve with printed words instead of a key kept here; needs no node
    #[arg(long)]
    words: bool,
    /// Read the words from this open file descriptor
    #[arg(long, value_name = "N", requires = "words")]
    words_fd: Option<u32>,
}

/// Take approvals, and come back when they are enough
///
/// Approvals that come one by one are kept. With enough of them the new device speaks for the party: it meets those who
/// approved and the contacts whose cards are given, takes back its own log from them, and asks its readers for the grants
/// that it had given. `karte recovery grants` then gives again what you choose.
#[derive(clap::Args, Debug)]
pub(crate) struct FinishArgs {
    /// Approvals (`karte-approval:...`)
    approval: Vec<String>,
    /// The card of a contact to be met then; may be given several times
    #[arg(long, value_name = "CARD")]
    contact: Vec<String>,
}

/// List the grants that a recovery ended, or give them again
///
/// Nothing is given again without your word: name grants, or say --all. Same reader, scope, purpose and end. What you had
/// held back from a reader without a word (--exclude) is not known after the loss of everything: such grants are better
/// given anew with `karte grant add`.
#[derive(clap::Args, Debug)]
pub(crate) struct GrantsArgs {
    /// Their ids or the beginnings of them
    grant: Vec<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// Show the present recovery keys
///
/// How many there are, how many it takes, who keeps them as far as this node knows, and what waits for approvals.
#[derive(clap::Args, Debug)]
pub(crate) struct ShowArgs {}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Setup(args) => setup(session, args),
        Command::Trust(args) => {
            session.show(command::Command::RecoveryTrust { party: args.contact, known: true }, view::details)
        }
        Command::Key(args) => {
            session.show(command::Command::RecoveryTrust { party: args.party, known: false }, view::details)
        }
        Command::Start(args) => start(session, args),
        Command::Approve(args) => approve(session, args),
        Command::Finish(args) => finish(session, args),
        Command::Grants(args) => grants(session, args),
        Command::Show(ShowArgs {}) => session.show(command::Command::RecoveryShow, shown),
    }
}

fn setup(session: &Session, args: SetupArgs) -> Result<(), Error> {
    session.require_node()?;
    let to_output = args.words_file.as_ref().is_some_and(|file| file.as_os_str() == "-");
    if to_output && session.json {
        return Err(Failure::usage("words are no part of JSON output")
            .next("Name a file: --words-file FILE.")
            .into());
    }
    ask_keepers(session, &args.contact)?;
    let words = if args.words { Some(Words::generate()?) } else { None };
    let mut new = NewRecovery {
        threshold: args.threshold,
        words: words.as_ref().map(Words::public).transpose()?,
        contacts: args.contact,
        keys: args.key,
        dry_run: true,
    };
    if args.dry_run {
        return session.show(command::Command::RecoverySetup(Box::new(new)), planned);
    }
    // Everything that can be wrong is said before words are shown.
    session.items(command::Command::RecoverySetup(Box::new(new.clone())))?;
    if let Some(words) = &words {
        words::show(words, args.words_file.as_deref(), !args.yes)?;
    }
    new.dry_run = false;
    session.show(command::Command::RecoverySetup(Box::new(new)), set_up)
}

/// Contacts are asked over the network; who has not said yes is named.
fn ask_keepers(session: &Session, contacts: &[String]) -> Result<(), Error> {
    if contacts.is_empty() {
        return Ok(());
    }
    let ask = || session.items(command::Command::RecoveryAsk { contacts: contacts.to_vec() });
    let is_missing = |item: &&Value| item.get("answer").and_then(Value::as_str) != Some("yes");
    let name = |item: &Value| item.get("contact").and_then(Value::as_str).unwrap_or_default().to_owned();
    for item in ask()?.iter().filter(is_missing) {
        // Who cannot be reached now has not said yes either.
        let _ = session.items(sync(Some(name(item))));
    }
    let missing: Vec<String> = ask()?.iter().filter(is_missing).map(name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(format!("not yet a yes from {}", missing.join(", ")))
        .next("They were asked, or will be when they are met: `karte recovery trust YOU` is their yes. Then repeat this.")
        .into())
}

fn sync(contact: Option<String>) -> command::Command {
    command::Command::Sync { contact, staff: "karte".into() }
}

fn start(session: &Session, args: StartArgs) -> Result<(), Error> {
    let is_new = matches!(keystore::probe(&session.home), Err(keystore::KeystoreError::Absent(_)));
    // Asked first: wrong words are no reason for a half made home.
    let words = if args.words { Some(words::ask(args.words_fd)?) } else { None };
    if is_new && !args.card.is_empty() {
        let passphrase =
            if args.no_passphrase { None } else { Some(passphrase::fresh(session.passphrase_fd)?) };
        recovery::adopt(&session.home, &args.card, passphrase)?;
    }
    let mut items = session.items(command::Command::RecoveryStart)?;
    if let Some(words) = &words {
        let text =
            |name| items.first().and_then(|item| item.get(name)?.as_str()).unwrap_or_default().to_owned();
        let view = recovery::approve_with_words(&text("request"), words, Some(&text("code")))?;
        let approval = view.get("approval").and_then(Value::as_str).unwrap_or_default().to_owned();
        match session.items(command::Command::RecoveryFinish { approvals: vec![approval] }) {
            Ok(done) => return meet(session, done),
            // One of several: kept, and the request goes to the other keepers.
            Err(Error::Failure(failure)) if failure.kind == Kind::Refused => {
                items = session.items(command::Command::RecoveryStart)?;
            }
            Err(error) => return Err(error),
        }
    }
    let request = items.first().and_then(|item| item.get("request")?.as_str()).unwrap_or_default().to_owned();
    session.show_items(items, requested)?;
    if args.qr && !session.json {
        output::print(&qr::draw("request", &request)?)?;
    }
    Ok(())
}

fn approve(session: &Session, args: ApproveArgs) -> Result<(), Error> {
    if !args.words {
        let approve = command::Command::RecoveryApprove { request: args.request, code: args.code };
        return session.show(approve, approved);
    }
    let words = words::ask(args.words_fd)?;
    let view = recovery::approve_with_words(&args.request, &words, args.code.as_deref())?;
    session.show_items(vec![view], approved)
}

fn finish(session: &Session, args: FinishArgs) -> Result<(), Error> {
    for card in args.contact {
        session.items(command::Command::ContactAdd { card, alias: None })?;
    }
    let done = session.items(command::Command::RecoveryFinish { approvals: args.approval })?;
    meet(session, done)
}

/// The recovery is durable: now contacts hear of it, and give back what they hold. Who is not there is met later.
fn meet(session: &Session, mut items: Vec<Value>) -> Result<(), Error> {
    let reached = session.items(sync(None));
    let ended = session.items(command::Command::RecoveryGrants { grants: vec![], all: false })?;
    if let Some(summary) = items.first_mut().and_then(Value::as_object_mut) {
        summary.insert("contacts_met".into(), reached.is_ok().into());
        summary.insert("grants_ended".into(), ended.len().into());
    }
    items.extend(ended);
    session.show_items(items, recovered)
}

fn grants(session: &Session, args: GrantsArgs) -> Result<(), Error> {
    let chosen = args.all || !args.grant.is_empty();
    let command = command::Command::RecoveryGrants { grants: args.grant, all: args.all };
    session.show(command, if chosen { view::grants } else { ended })
}

fn planned(items: &[Value]) -> String {
    format!("{}\n\nNothing was changed.", view::details(items))
}

fn set_up(items: &[Value]) -> String {
    match items.split_first() {
        Some((summary, grants)) if summary.get("recovered").is_some() => {
            let head = view::details(std::slice::from_ref(summary));
            match grants {
                [] => head,
                grants => format!("{head}\n\nGiven again:\n\n{}", view::grants(grants)),
            }
        }
        _ => requested(items),
    }
}

fn shown(items: &[Value]) -> String {
    view::details(items)
}

fn requested(items: &[Value]) -> String {
    format!(
        "{}\n\nGive the request to the keepers of the keys, and the code by voice. They run `karte recovery approve`.\n\
         Then: `karte recovery finish APPROVAL...`.",
        view::details(items)
    )
}

fn approved(items: &[Value]) -> String {
    let is_approved = items.iter().any(|item| item.get("approval").is_some());
    let next = match is_approved {
        true => "Give the approval back to them.",
        false => {
            "Nothing was signed. Ask the person themselves for the check code, by voice, then repeat this with --code."
        }
    };
    format!("{}\n\n{next}", view::details(items))
}

fn recovered(items: &[Value]) -> String {
    let (summary, grants) = items.split_first().unwrap_or((&Value::Null, &[]));
    format!("{}\n\n{}", view::details(std::slice::from_ref(summary)), ended(grants))
}

fn ended(items: &[Value]) -> String {
    match items {
        [] => "No grant waits to be given again. More may come back when other readers are met: `karte run`."
            .into(),
        items => format!(
            "Ended by the recovery:\n\n{}\n\nNext: `karte recovery grants ID...` or `--all` gives them again.",
            view::grants(items)
        ),
    }
}
