use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;
use karte_node::failure::Failure;
use serde_json::Value;
use std::path::PathBuf;

/// Bring records in from files, folders and archives
///
/// Every record is encrypted as it comes in, and its bytes stay what they were. A FHIR bundle becomes one record
/// for each resource, an NDJSON file one for each line; a FHIR document (such as a patient summary) stays whole,
/// and so does any other file. Archives (zip, tar, tar.gz, tar.bz2, gz, bz2) are read like folders. Of an Apple
/// Health export, each day of each metric and source is one record. Importing a file again adds nothing.
///
/// The originals are left where they are, readable as before: delete them if you do not need them.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte import ~/Downloads/bundle.json letter.pdf\n  \
    karte import --format fhir exports/\n  \
    karte import session.json --subject chihiro")]
pub(crate) struct Args {
    /// Files, folders and archives
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to read them
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// Whom they are about: a contact [default: yourself]
    ///
    /// A clinic that writes for a patient names the patient here, and then grants the records to them.
    #[arg(long, value_name = "CONTACT")]
    subject: Option<String>,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum Format {
    /// As what they are; what is not understood is kept as a document
    Auto,
    /// As FHIR R4 JSON or NDJSON; everything else is refused
    Fhir,
    /// Each file as one document, archives too
    Document,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    let paths = args.paths.iter().map(std::path::absolute).collect::<Result<_, _>>();
    let paths = paths.map_err(|error| Failure::usage(format!("a path cannot be used: {error}")))?;
    let format = match args.format {
        Format::Auto => "auto",
        Format::Fhir => "fhir",
        Format::Document => "document",
    };
    session.show(Command::Import { paths, format: format.into(), subject: args.subject }, came_in)
}

/// What was not taken, a line each, then what the import came to.
pub(super) fn came_in(items: &[Value]) -> String {
    let text = |item: &Value, name| item.get(name).and_then(Value::as_str).map(view::clean);
    let lines = items.iter().map(|item| match (text(item, "refused"), text(item, "reason")) {
        (Some(origin), Some(reason)) => format!("Not imported: {origin}: {reason}"),
        _ => summary(item),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn summary(item: &Value) -> String {
    let number = |name| item.get(name).and_then(Value::as_u64).unwrap_or_default();
    let count = |name, what| view::count(number(name), what);
    format!(
        "{}, {} known already, {} refused, from {} ({}).",
        count("taken", "new record"),
        number("known"),
        number("refused"),
        count("files", "file"),
        view::human_bytes(number("bytes")),
    )
}
