use super::{add, export};
use crate::error::Error;
use crate::out_file::OutFile;
use crate::parse::staff_or_user;
use crate::session::Session;
use crate::view;
use karte_node::command::{self, Filter};

/// List, show, open, write and export records
///
/// A record is one document: a FHIR resource, a letter, an image. The node shows what its label says; opening it
/// gives the original bytes.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    List(ListArgs),
    Show(ShowArgs),
    Open(OpenArgs),
    Adopt(AdoptArgs),
    Add(Box<add::Args>),
    Export(Box<export::Args>),
}

/// List records
///
/// Lists your own records and those others let you read, oldest first. Every option narrows the list; several
/// values of one option widen it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte record list --kind fhir/Observation --category laboratory --from 2024\n  \
    karte record list --code 2160-0 --json | jq -r .id\n  \
    karte record list --grant 5f0c92b1")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// Also those that a fuller record of the same day has taken the place of
    #[arg(long)]
    replaced: bool,
}

/// What records are selected by, in lists and in grants.
#[derive(clap::Args, Debug)]
pub(crate) struct ScopeArgs {
    /// Of this kind; `fhir` covers all below it, as `fhir/Observation`
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub(crate) kind: Vec<String>,
    /// Of this FHIR category: laboratory, vital-signs, ...
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',')]
    pub(crate) category: Vec<String>,
    /// With this code: `2160-0`, or `http://loinc.org|2160-0`
    #[arg(long, value_name = "CODE")]
    pub(crate) code: Vec<String>,
    /// From this date on: `2024`, `2024-06-01`, or an instant with its offset
    ///
    /// Dates are those of the records: when a thing was measured or done, not when it was imported.
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Until before this date
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

impl ScopeArgs {
    pub(crate) fn into_filter(self, subject: Option<String>) -> Filter {
        Filter {
            kinds: self.kind,
            categories: self.category,
            codes: self.code,
            from: self.from,
            until: self.until,
            subject,
            ..Filter::default()
        }
    }
}

/// Which records of all that are here: for lists and exports.
#[derive(clap::Args, Debug)]
pub(crate) struct SelectArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Only about this contact, or `me`
    #[arg(long, value_name = "CONTACT")]
    subject: Option<String>,
    /// Only what came under this grant
    #[arg(long, value_name = "ID")]
    grant: Option<String>,
    /// Only what this contact signed, or `me`
    #[arg(long, value_name = "CONTACT")]
    author: Option<String>,
}

impl SelectArgs {
    pub(crate) fn into_filter(self) -> Filter {
        Filter { grant: self.grant, author: self.author, ..self.scope.into_filter(self.subject) }
    }
}

/// Show what a record's label says
///
/// The label is signed by the record's author. For an own record the readers it has been handed to are told too.
#[derive(clap::Args, Debug)]
pub(crate) struct ShowArgs {
    /// The record's id, or the beginning of it
    id: String,
}

/// Open a record: its original bytes
///
/// Nothing is shown before the whole record is decrypted and its bytes match what its label says. Opening a
/// record that was granted to you tells its holder who opened it, for what purpose, and when; refused if the
/// grant has ended.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte record open 3f2a90bd | jq .valueQuantity\n  \
    karte record open 3f2a90bd -o letter.pdf --staff \"Dr. Ito\"\n  \
    karte record open 3f2a90bd --age -o record.age")]
pub(crate) struct OpenArgs {
    /// The record's id, or the beginning of it
    id: String,
    #[command(flatten)]
    out: OutFile,
    /// Give it encrypted, as an age file
    ///
    /// Any age program opens it with this device's identity (`karte keys export --age-identity`).
    #[arg(long)]
    age: bool,
    /// Who opens it, as its holder will read [default: your user name on this machine]
    #[arg(long, value_name = "NAME")]
    staff: Option<String>,
}

/// Take a received record into your own records
///
/// For a record about yourself, or one given with `--onward keep`. An adopted record stays yours when the grant
/// it came under ends, and your own grants carry it on.
#[derive(clap::Args, Debug)]
pub(crate) struct AdoptArgs {
    /// The record's id, or the beginning of it
    id: String,
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Error> {
    match command {
        Command::List(ListArgs { select, replaced }) => {
            let filter = Filter { replaced, ..select.into_filter() };
            session.show(command::Command::RecordList(filter), view::records)
        }
        Command::Add(args) => add::run(session, *args),
        Command::Export(args) => export::run(session, *args),
        Command::Show(ShowArgs { id }) => session.show(command::Command::RecordShow { id }, view::record),
        Command::Open(OpenArgs { id, out, age, staff }) => {
            let staff = staff_or_user(staff);
            session.save(command::Command::RecordOpen { id, age, staff }, &out)
        }
        Command::Adopt(AdoptArgs { id }) => session.show(command::Command::RecordAdopt { id }, view::details),
    }
}
