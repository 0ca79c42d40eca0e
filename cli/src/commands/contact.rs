use crate::error::Error;
use crate::parse::text_or_stdin;
use crate::session::Session;
use crate::view;
use karte_node::command;
use karte_node::failure::Failure;
use serde_json::Value;

/// Add, list and remove the parties you know
///
/// A contact is a party whose card you took. Being one allows it nothing but to offer you grants; what it may
/// read, a grant says.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Add(AddArgs),
    List(ListArgs),
    Show(ShowArgs),
    Card(CardArgs),
    Remove(RemoveArgs),
}

/// Add a contact, by its card or after it knocked
///
/// Takes the card another party gave you. Compare the party id with them by another way, for example by
/// telephone: the name on a card is only what its owner wrote.
///
/// A party that has your card may also knock by itself. It is then listed as pending until you add it by its
/// alias or party id.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte contact add karte:gqNj... --as sakura\n  \
    karte contact add - --as sakura < card.txt\n  \
    karte contact add chihiro-morimoto")]
pub(crate) struct AddArgs {
    /// A card (`karte:...`), `-` to read one from the standard input, or who knocked
    card: String,
    /// What you call this contact [default: made from its name]
    #[arg(long = "as", value_name = "ALIAS")]
    alias: Option<String>,
}

/// List your contacts
///
/// Those who knocked and wait for your word are listed as pending.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {}

/// Show one contact
///
/// Shows its whole party id, to compare with its owner, and where it was last reached.
#[derive(clap::Args, Debug)]
pub(crate) struct ShowArgs {
    /// Its alias, or its party id or the beginning of it
    contact: String,
}

/// Show a contact's own card
///
/// As it was last met. For whoever needs it and cannot ask the contact itself: above all for the contact, when it has
/// lost its machine (`karte recovery start CARD`). A card is no secret, and proves itself.
#[derive(clap::Args, Debug)]
pub(crate) struct CardArgs {
    /// Its alias, or its party id or the beginning of it
    contact: String,
    /// Draw it as a QR code too
    #[arg(long)]
    qr: bool,
}

/// Forget a contact
///
/// Refused while there are live grants between you. What it has already read, it may remember.
#[derive(clap::Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Its alias, or its party id or the beginning of it
    contact: String,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Add(args) => add(session, args),
        Command::List(ListArgs {}) => session.show(command::Command::ContactList, view::contacts),
        Command::Show(args) => show(session, &args.contact),
        Command::Card(args) => {
            super::card::shown(session, command::Command::ContactCard { contact: args.contact }, args.qr)
        }
        Command::Remove(RemoveArgs { contact }) => session
            .show(command::Command::ContactRemove { contact }, |items| {
                format!("Removed.\n{}", view::details(items))
            }),
    }
}

fn add(session: &Session, args: AddArgs) -> Result<(), Error> {
    let card = text_or_stdin(args.card, "card")?;
    session.show(command::Command::ContactAdd { card, alias: args.alias }, view::details)
}

fn show(session: &Session, wanted: &str) -> Result<(), Error> {
    let mut found = session.items(command::Command::ContactList)?;
    found.retain(|item| is_named(item, wanted));
    match found.len() {
        1 => session.show_items(found, view::details),
        0 => Err(Failure::usage(format!("there is no contact {wanted:?}"))
            .next("`karte contact list` shows all.")
            .into()),
        _ => Err(Failure::usage(format!("{wanted:?} names more than one contact"))
            .next("Give more characters of the party id.")
            .into()),
    }
}

/// By alias, or by at least 10 characters of the party id, as everywhere.
fn is_named(item: &Value, wanted: &str) -> bool {
    let text = |name| item.get(name).and_then(Value::as_str).unwrap_or_default();
    text("alias") == wanted || (wanted.len() >= 10 && text("party").starts_with(wanted))
}
