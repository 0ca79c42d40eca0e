use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::command::{Command, HowToRead};
use karte_node::failure::Failure;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

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
    karte import session.json --subject chihiro\n  \
    karte import --urgency stat ct-head/")]
pub(crate) struct Args {
    /// Files, folders and archives
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to read them
    ///
    /// auto: as what they are; what is not understood is kept as a document. fhir: as FHIR R4 JSON or NDJSON,
    /// everything else is refused. document: each file as one document. omh:NAME/VERSION: Open mHealth data points
    /// without a header, for example omh:body-weight/2.0.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    format: String,
    /// Whom they are about: a contact [default: yourself]
    ///
    /// A clinic that writes for a patient names the patient here, and then grants the records to them.
    #[arg(long, value_name = "CONTACT")]
    subject: Option<String>,
    /// How urgent they are: routine, urgent, asap or stat (FHIR request priorities) [default: nothing is said]
    ///
    /// What is not routine overtakes all that is on its way to the same reader.
    #[arg(long, value_name = "PRIORITY")]
    urgency: Option<String>,
    /// Which person of a table that holds several, or `all`
    #[arg(long, value_name = "ID")]
    person: Option<String>,
    /// How to read a table: a mapping file (TOML), or a built-in one such as omron-bp
    #[arg(long, value_name = "FILE")]
    map: Option<String>,
    /// Judge Open mHealth data points by the JSON schemas in this folder
    #[arg(long, value_name = "DIR")]
    schemas: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    let paths = args.paths.iter().map(std::path::absolute).collect::<Result<_, _>>();
    let paths = paths.map_err(|error| Failure::usage(format!("a path cannot be used: {error}")))?;
    let map = args.map.as_deref().map(mapping).transpose()?;
    let schemas = args.schemas.map(std::path::absolute).transpose();
    let schemas = schemas.map_err(|error| Failure::usage(format!("a path cannot be used: {error}")))?;
    let how = HowToRead { person: args.person, map, schemas, urgency: args.urgency };
    let command = Command::Import { paths, format: args.format, subject: args.subject, how };
    session.show(command, came_in)
}

/// A built-in mapping by its name, or the text of a mapping file.
fn mapping(name: &str) -> Result<String, Failure> {
    // 64 KiB: a mapping of every column a table may have.
    const MAP_BYTES_MAX: u64 = 64 * 1024;
    let path = Path::new(name);
    let Ok(file) = std::fs::File::open(path) else {
        return Ok(name.to_owned());
    };
    let mut text = String::new();
    let unread = |error| Failure::usage(format!("the mapping {name} cannot be read: {error}"));
    file.take(MAP_BYTES_MAX + 1).read_to_string(&mut text).map_err(unread)?;
    if text.len() as u64 > MAP_BYTES_MAX {
        return Err(Failure::usage(format!("the mapping {name} is longer than {MAP_BYTES_MAX} bytes")));
    }
    Ok(text)
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
