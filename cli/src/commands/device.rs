use crate::error::Error;
use crate::output;
use crate::parse::duration_ms;
use crate::passphrase;
use crate::qr;
use crate::session::Session;
use crate::view;
use karte_node::command::{self, Secret};
use karte_node::device::{self, Join};
use karte_node::failure::Failure;
use serde_json::Value;
use std::io::Read;
use zeroize::Zeroizing;

/// Use several devices as one party: a telephone and a computer, a clinic's two servers
///
/// Every device of a party has a key of its own. All of them hold your records, contacts and grants, each can give and
/// end grants, and readers ask whichever they reach. They tell each other what is new whenever they are connected.
///
/// A device that is lost is removed by another one: it can do nothing in your name any more.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Invite(InviteArgs),
    Join(JoinArgs),
    List(ListArgs),
    Remove(RemoveArgs),
}

/// Make an invitation for one new device
///
/// Prints a text that is good for one device, once, and for a limited time. Whoever uses it becomes a device of yours and
/// can read everything: give it to nobody. On the new device `karte device join` takes it; this device must be running
/// (`karte run`) and reachable meanwhile.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte device invite --qr\n  \
    karte device invite --for 15m --json | jq -r .invite > invite.txt")]
pub(crate) struct InviteArgs {
    /// How long it may be used, at most 7d
    #[arg(long = "for", value_name = "LENGTH", default_value = "1h", value_parser = duration_ms)]
    for_ms: i64,
    /// Draw it as a QR code too
    #[arg(long)]
    qr: bool,
}

/// Make this machine a further device of yours
///
/// Makes a node in --home, which must be empty, with keys of its own, and asks the device that made the invitation to
/// take it in. If that device cannot be reached now, repeat the command: it goes on with the same keys.
///
/// Records, contacts and grants then come by themselves while both devices run.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte device join - < invite.txt\n  \
    karte --home ~/karte-laptop device join karte-invite:o2Rj... --name \"Hana's laptop\"\n\n\
    Other programs of this machine can see arguments: on one that you share, give the invitation with `-`.")]
pub(crate) struct JoinArgs {
    /// The invitation (`karte-invite:...`), or `-` to read it from the standard input
    #[arg(value_parser = secret)]
    invite: Secret,
    /// What others call you, as this device says it [default: as the inviting device does]
    #[arg(long)]
    name: Option<String>,
    /// Leave the keys unlocked
    ///
    /// For servers whose disk is encrypted, and for tests. Whoever can read the folder is then you.
    #[arg(long)]
    no_passphrase: bool,
    /// Take everybody who knocks as a contact, without asking
    #[arg(long)]
    accept_contacts: bool,
    /// Accept every grant that a contact offers, without asking
    #[arg(long)]
    accept_grants: bool,
    /// Take what arrives about yourself into your own records
    #[arg(long)]
    adopt: bool,
}

/// List your devices
///
/// Shows each with its state: live, removed, or forked. A forked device has signed two different things under one number,
/// which happens when an old copy of its folder is used; what it granted from there on is void.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {}

/// End a device that was lost, stolen or given away
///
/// From now on it can neither grant, nor read what is new, nor fetch anything in your name. The keys of your library are
/// changed, and grants that you received are accepted anew, because it knew their keys.
///
/// Grants that it gave after the last entry that counts are void for good, also at their readers: they are listed, give
/// them again. What counts is all that this device has heard from it; --last-valid-seq N says an earlier end, if you know
/// when it was stolen. Denials that it signed always count.
///
/// What is on it already stays readable for whoever can open it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  \
    karte device remove 3f2a90bd --last-valid-seq 17")]
pub(crate) struct RemoveArgs {
    /// Its id or the beginning of it
    device: String,
    /// Number of its last entry that still counts [default: the last one held here]
    #[arg(long, value_name = "N")]
    last_valid_seq: Option<u64>,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Invite(args) => invite(session, &args),
        Command::Join(args) => join(session, args),
        Command::List(ListArgs {}) => session.show(command::Command::DeviceList, view::devices),
        Command::Remove(RemoveArgs { device, last_valid_seq }) => {
            session.show(command::Command::DeviceRemove { device, last_valid_seq }, removed)
        }
    }
}

fn invite(session: &Session, args: &InviteArgs) -> Result<(), Error> {
    let command = command::Command::DeviceInvite { for_ms: args.for_ms };
    if session.json {
        return session.show(command, invited);
    }
    let items = session.items(command)?;
    output::print(&invited(&items))?;
    if args.qr {
        let text = items.iter().find_map(|item| item.get("invite")?.as_str()).unwrap_or_default();
        output::print(&qr::draw("invitation", text)?)?;
    }
    Ok(())
}

fn invited(items: &[Value]) -> String {
    let text = |name| items.first().and_then(|item| item.get(name)?.as_str()).unwrap_or_default();
    format!(
        "One new device may join until {}. Whoever has this text becomes a device of yours:\n\n{}",
        text("until"),
        text("invite")
    )
}

fn join(session: &Session, args: JoinArgs) -> Result<(), Error> {
    let invite = if args.invite.expose() == "-" { read_invite()? } else { args.invite };
    let (fd, is_open) = (session.passphrase_fd, args.no_passphrase);
    let made = device::join(
        &session.home,
        invite.expose(),
        Join {
            name: args.name,
            locking: Box::new(move || if is_open { Ok(None) } else { passphrase::fresh(fd).map(Some) }),
            unlock: session.unlock(),
            accept_contacts: args.accept_contacts,
            accept_grants: args.accept_grants,
            adopt: args.adopt,
        },
    )?;
    session.show_items(vec![made], |items| {
        format!(
            "{}\n\nNext: `karte run` here and on your other device; records, contacts and grants then come by themselves.",
            view::details(items)
        )
    })
}

/// Longest invitation that is read, in bytes: above the protocol's own bound, so that the node says what is wrong.
const INVITE_BYTES_MAX: u64 = 8 * 1024;

fn read_invite() -> Result<Secret, Failure> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().take(INVITE_BYTES_MAX).read_to_string(&mut text).map_err(|error| {
        Failure::usage(format!("the invitation cannot be read from the standard input: {error}"))
    })?;
    Ok(Secret::new(&text))
}

/// A type that does not print: arguments are shown whole when they are debugged.
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

fn removed(items: &[Value]) -> String {
    let void = items.first().and_then(|item| item.get("void_grants")?.as_array()).map_or(0, Vec::len);
    let warning = match void {
        0 => "No grant is void by it.".to_owned(),
        many => format!(
            "{} of it void for good. Give again what you still mean: `karte grant list`, `karte grant add`.",
            if many == 1 { "1 grant is".into() } else { format!("{many} grants are") }
        ),
    };
    format!("{}\n\n{warning}", view::details(items))
}
