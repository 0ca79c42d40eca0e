use crate::error::Error;
use crate::session::Session;
use crate::view;
use karte_node::clock;
use karte_node::command::{Command, NewEntry};
use karte_node::failure::Failure;
use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// Write a record by hand: a weight, a blood pressure, a meal, a dialysis session
///
/// It becomes a FHIR R4 resource with LOINC and SNOMED CT codes and UCUM units, encrypted like every other record.
///
/// A dialysis session is written as NAME=VALUE pairs, from a JSON file (--form), or, on a terminal, from a form that
/// asks line by line. With --for it is about a contact: it then goes home to that contact's node by itself, under a
/// standing return grant, as soon as the two meet.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte record add weight 62.4kg\n  \
    karte record add bp 132/84 --at 2026-03-01T07:10\n  \
    karte record add steps 8123\n  \
    karte record add meal \"rice, miso soup\" 640kcal\n  \
    karte record add glucose 118 mg/dL\n  \
    karte record add dialysis --for hana\n  \
    karte record add dialysis --for hana pre_weight=68.2 post_weight=65.9 uf_volume=2300 bp_pre=150/85\n  \
    karte record add dialysis --for hana --form session.json")]
pub(crate) struct Args {
    /// What it is, and its value with unit
    #[arg(required = true, value_name = "WHAT")]
    words: Vec<String>,
    /// Whom it is about: a contact [default: yourself]
    #[arg(long = "for", value_name = "CONTACT")]
    subject: Option<String>,
    /// When: `2026-03-01T07:10`, with an offset or in this machine's time zone [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// A dialysis session as JSON (`-` is the standard input)
    #[arg(long, value_name = "FILE")]
    form: Option<PathBuf>,
}

/// A field of the form: its name, what it is called, and how it is written.
const FORM: [(&str, &str, &str); 17] = [
    ("start", "Start", "2026-03-01T08:00:00+08:00"),
    ("end", "End", "2026-03-01T12:00:00+08:00"),
    ("pre_weight", "Weight before", "68.2 kg"),
    ("target_weight", "Target weight", "66.0 kg"),
    ("post_weight", "Weight after", "65.9 kg"),
    ("uf_volume", "Ultrafiltration", "2300 mL"),
    ("bp_pre", "Blood pressure before", "150/85"),
    ("bp_post", "Blood pressure after", "132/78"),
    ("access", "Access", "AV fistula, AV graft or catheter"),
    ("anticoagulation", "Anticoagulation", "heparin 3000 IU"),
    ("blood_flow", "Blood flow", "300 mL/min"),
    ("dialysate_flow", "Dialysate flow", "500 mL/min"),
    ("dialysate_k", "Dialysate potassium", "2.0 mmol/L"),
    ("dialysate_ca", "Dialysate calcium", "1.5 mmol/L"),
    ("ktv", "Kt/V", "1.4"),
    ("urr", "Urea reduction ratio", "70 %"),
    ("complications", "Complications", "hypotension, cramps"),
];

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    let at = match args.at.as_deref() {
        Some(text) => moment(text)?,
        None => clock::wall_clock().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    let mut entry = NewEntry { at, subject: args.subject, ..NewEntry::default() };
    match args.words.split_first() {
        Some((first, pairs)) if first == "dialysis" => match &args.form {
            Some(path) => entry.dialysis = Some(read_form(path)?),
            None => entry.fields = fields(pairs)?,
        },
        _ => entry.words = args.words,
    }
    session.show(Command::RecordAdd(Box::new(entry)), view::details)
}

/// Wall-clock time is this machine's; an instant keeps the offset it was written with.
fn moment(text: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "expected a time such as 2026-03-01T07:10 or 2026-03-01T07:10+09:00, got {text:?}"
        ))
    };
    let spaced = text.trim().replace(' ', "T");
    if spaced.parse::<jiff::Timestamp>().is_ok() {
        return Ok(spaced);
    }
    let civil: jiff::civil::DateTime = spaced.parse().map_err(|_| wrong())?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::system()).map_err(|_| wrong())?;
    Ok(zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
}

fn read_form(path: &Path) -> Result<String, Failure> {
    // 1 MiB: a session has some fifty fields.
    const FORM_BYTES_MAX: u64 = 1 << 20;
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(FORM_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FORM_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::usage(format!("the form {} cannot be read: {error}", path.display())))?;
    Ok(text)
}

/// From the command line; on a terminal without any, from a form.
fn fields(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    if pairs.is_empty() && io::stdin().is_terminal() {
        return ask().map_err(|error| Failure::failed(format!("the form was not finished: {error}")));
    }
    let names = || FORM.iter().map(|(name, _, _)| *name).collect::<Vec<_>>().join(", ");
    if pairs.is_empty() {
        return Err(Failure::usage("a dialysis session needs its values")
            .next(format!("Write them as NAME=VALUE; the names are {}.", names())));
    }
    let mut fields = BTreeMap::new();
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("expected NAME=VALUE, got {pair:?}")));
        };
        if fields.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("{name} is given twice")));
        }
    }
    Ok(fields)
}

/// One line for each field; an empty line leaves it out. Questions go to stderr, so that --json stays clean.
fn ask() -> io::Result<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    let mut lines = io::stdin().lock().lines();
    eprintln!("A dialysis session. An empty line leaves a field out; Ctrl-C writes nothing.");
    for (name, label, hint) in FORM {
        eprint!("{label} [{hint}]: ");
        io::stderr().flush()?;
        let Some(line) = lines.next().transpose()? else { break };
        if !line.trim().is_empty() {
            fields.insert(name.to_owned(), line.trim().to_owned());
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_keeps_its_offset_and_a_wall_clock_gets_one() {
        assert_eq!(moment("2026-03-01T07:10:00+09:00").ok().as_deref(), Some("2026-03-01T07:10:00+09:00"));
        assert!(moment("2026-03-01 07:10").is_ok_and(|at| at.starts_with("2026-03-01T07:10:00")));
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn the_form_asks_for_every_field_there_is() {
        let mut names: Vec<&str> = FORM.iter().map(|(name, _, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(names, karte_node::compose::dialysis::COLUMNS);
    }

    #[test]
    fn pairs_are_read_and_a_field_given_twice_is_refused() {
        let pairs = |texts: &[&str]| fields(&texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            pairs(&["ktv=1.4"]).ok().and_then(|fields| fields.get("ktv").cloned()),
            Some("1.4".into())
        );
        assert!(pairs(&["ktv=1.4", "ktv=1.5"]).is_err());
        assert!(pairs(&["ktv"]).is_err());
    }
}
