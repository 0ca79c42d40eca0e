//! Writing by hand: one entry or one session becomes a record like any other, and goes home if it is about a contact.

use super::{Node, Out};
use crate::command::{Command, Event, NewEntry};
use crate::compose::dialysis::{self, Composed, DialysisSession};
use crate::compose::{Moment, Warning, entry};
use crate::engine::{Answer, Input};
use crate::failure::Failure;
use crate::import::{self, Body, Finding};
use jiff::Zoned;
use jiff::tz::TimeZone;
use serde_json::json;
use tokio::sync::mpsc;

/// The kind that goes home by itself.
pub(super) const DIALYSIS: &str = "dialysis/session";
/// What is told of where a hand-written record came from.
const ORIGIN: &str = "written by hand";

impl Node {
    pub(super) async fn write_by_hand(&self, new: NewEntry, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let (node, out) = (self.clone(), out.clone());
        let work = tokio::task::spawn_blocking(move || node.write_blocking(new, &out));
        work.await.map_err(|_| Failure::failed("writing ended badly"))?
    }

    fn write_blocking(&self, new: NewEntry, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let subject = self.subject(new.subject.clone())?;
        let (finding, warnings) = composed(&new)?;
        for warning in &warnings {
            let _ =
                out.blocking_send(Out::Event(Event::Note(format!("Unusual, kept as written: {warning}"))));
        }
        let (kind, title) = (finding.facts.kind.clone(), finding.facts.title.clone());
        let hash = match &finding.bytes {
            Body::Memory(bytes) => karte_protocol::id::digest(bytes),
            Body::File(..) => return Err(Failure::failed("an entry is no file")),
        };
        let taken = self.bring_one(finding, subject, out)?;
        let record = self.record_of(subject, hash)?;
        let back = match &new.subject {
            Some(contact) if contact != "me" && kind == DIALYSIS => self.goes_home(contact)?,
            _ => None,
        };
        let item = json!({
            "id": record,
            "kind": kind,
            "title": title,
            "taken": taken == 1,
            "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "grant": back,
        });
        let _ = out.blocking_send(Out::Event(Event::Item(item)));
        Ok(())
    }

    fn record_of(
        &self,
        subject: karte_protocol::id::PartyId,
        hash: karte_protocol::id::Digest,
    ) -> Result<Option<String>, Failure> {
        let wanted = crate::engine::Wanted { plaintexts: vec![hash], sources: vec![] };
        match self.ask_blocking(|ticket| Input::AreKnown(ticket, subject, wanted))? {
            Answer::Known(known) => Ok(known.plaintexts.get(&hash).map(|record| record.to_hex())),
            _ => Ok(None),
        }
    }

    /// The standing return grant for sessions, made if there is none; its id.
    pub(super) fn goes_home(&self, contact: &str) -> Result<Option<String>, Failure> {
        let command = Command::GrantReturn { contact: contact.to_owned(), kind: DIALYSIS.to_owned() };
        match self.ask_blocking(|ticket| Input::Command(ticket, Box::new(command)))? {
            Answer::Items(items) => {
                Ok(items.first().and_then(|grant| grant.get("id")?.as_str().map(str::to_owned)))
            }
            _ => Ok(None),
        }
    }
}

fn composed(new: &NewEntry) -> Result<(Finding, Vec<Warning>), Failure> {
    if let Some(json) = &new.dialysis {
        let session =
            dialysis::from_json(json.as_bytes()).map_err(|error| Failure::usage(error.to_string()))?;
        return session_finding(&session, vec![]);
    }
    if !new.fields.is_empty() {
        let mut fields = new.fields.clone();
        fields.entry("start".to_owned()).or_insert_with(|| new.at.clone());
        let (session, warnings) =
            dialysis::from_row(&fields).map_err(|error| Failure::usage(error.to_string()))?;
        return session_finding(&session, warnings);
    }
    let line = line_of(&new.words);
    let made = entry::compose(&line, moment(&new.at)?)
        .map_err(|error| Failure::usage(error.to_string()).next("`karte record add --help` has examples."))?;
    let finding =
        import::fhir_finding(made.json, ORIGIN).map_err(|error| Failure::failed(error.to_string()))?;
    Ok((finding, made.warnings))
}

fn session_finding(
    session: &DialysisSession,
    mut warnings: Vec<Warning>,
) -> Result<(Finding, Vec<Warning>), Failure> {
    let Composed { json, facts, warnings: more } =
        dialysis::to_fhir(session).map_err(|error| Failure::usage(error.to_string()))?;
    warnings.extend(more);
    Ok((Finding { bytes: Body::Memory(json.into_bytes()), facts, origin: ORIGIN.into() }, warnings))
}

/// The words as one line. What was one argument of a meal or a note stays one there; "62.4 kg" is two words anywhere.
fn line_of(words: &[String]) -> String {
    let is_text = words.first().is_some_and(|verb| verb == "meal" || verb == "note");
    let quoted = |word: &String| match is_text && word.contains(char::is_whitespace) {
        true => format!("\"{}\"", word.replace('"', "'")),
        false => word.clone(),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn moment(text: &str) -> Result<Moment, Failure> {
    let wrong =
        || Failure::usage(format!("expected an instant such as 2026-03-01T07:10:00+09:00, got {text:?}"));
    let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    let offset = jiff::fmt::temporal::DateTimeParser::new()
        .parse_pieces(text)
        .ok()
        .and_then(|pieces| pieces.to_numeric_offset())
        .unwrap_or(jiff::tz::Offset::UTC);
    let zoned: Zoned = at.to_zoned(TimeZone::fixed(offset));
    let offset_min = i16::try_from(zoned.offset().seconds() / 60).map_err(|_| wrong())?;
    Ok(Moment { ms: at.as_millisecond(), offset_min })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_keeps_the_offset_it_was_written_with() {
        let at = moment("2026-03-01T07:10:00+09:00").map_err(|failure| failure.to_string());
        assert_eq!(at.as_ref().map(|at| at.offset_min), Ok(540));
        assert!(moment("2026-03-01").is_err());
    }

    #[test]
    fn an_argument_with_spaces_stays_one_in_a_meal_alone() {
        let line = |words: &[&str]| line_of(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(line(&["meal", "rice, miso soup", "640kcal"]), "meal \"rice, miso soup\" 640kcal");
        assert_eq!(line(&["weight", "62.1 kg"]), "weight 62.1 kg");
    }
}
