use crate::error::Error;
use crate::passphrase;
use crate::session::Session;
use crate::view;
use karte_node::access::{self, Init};
use serde_json::Value;

/// Make a new node
///
/// Makes the keys of a new party with this machine as its first device, and an empty store. The keys are locked
/// with a passphrase, which is asked for twice. There is no way to open them without it.
///
/// The name and the kind are your own words about yourself: others see them on your card, and should compare
/// your party id with you by another way before they trust it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte init --name \"森本 千尋\"\n  \
    karte init --name \"Sakura Clinic\" --kind clinic --accept-grants")]
pub(crate) struct Args {
    /// What others call you
    #[arg(long)]
    name: String,
    /// What you are
    #[arg(long, value_enum, default_value_t = PartyKind::Patient)]
    kind: PartyKind,
    /// Leave the keys unlocked
    ///
    /// For servers whose disk is encrypted, and for tests. Whoever can read the folder is then you.
    #[arg(long)]
    no_passphrase: bool,
    /// Take everybody who knocks as a contact, without asking
    ///
    /// A contact can offer you grants. It can read nothing that you did not grant.
    #[arg(long)]
    accept_contacts: bool,
    /// Accept every grant that a contact offers, without asking
    #[arg(long)]
    accept_grants: bool,
    /// Take what arrives about yourself into your own records
    ///
    /// Counts for grants that are accepted by --accept-grants. Your own grants then carry it on to your readers.
    #[arg(long)]
    adopt: bool,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum PartyKind {
    Patient,
    Clinic,
    Partner,
}

impl PartyKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Clinic => "clinic",
            Self::Partner => "partner",
        }
    }
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    let passphrase = if args.no_passphrase { None } else { Some(passphrase::fresh(session.passphrase_fd)?) };
    let made = access::init(
        &session.home,
        Init {
            name: args.name,
            kind: args.kind.as_str().into(),
            passphrase,
            accept_contacts: args.accept_contacts,
            accept_grants: args.accept_grants,
            adopt: args.adopt,
        },
    )?;
    session.show_items(vec![made], welcome)
}

fn welcome(items: &[Value]) -> String {
    format!(
        "{}\n\nNext: `karte run` lets it listen; `karte card` then introduces it to others.",
        view::details(items)
    )
}
