//! The chart: what the records say, read out of them: a trend, and the values of one record.
//!
//! For: opening, reading and handing on. Not for: what a value means; that is `observe`.

use super::opened::held;
use super::{Node, Out};
use crate::command::{Event, Filter, TrendQuery};
use crate::engine::{Answer, Input, Opening};
use crate::failure::Failure;
use crate::import::Code;
use crate::observe::trend::{Options, Row, Trend, trends};
use crate::observe::{self, LOINC, Observation, Value, analytes, daily, names, plot};
use jiff::civil::Date;
use serde_json::json;
use std::collections::BTreeSet;
use tokio::sync::mpsc;

/// Values of one record that are shown. 200: a session of dialysis has some forty, a day's pulse is a long list.
const SHOWN_MAX: usize = 200;

impl Node {
    // --- a trend

    pub(super) async fn trend(&self, query: TrendQuery, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let (node, out) = (self.clone(), out.clone());
        let work = tokio::task::spawn_blocking(move || node.trend_blocking(query, &out));
        work.await.map_err(|_| Failure::failed("the trend ended badly"))?
    }

    fn trend_blocking(&self, query: TrendQuery, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let codes = names::codes(&query.code);
        let today = query.today.parse::<Date>().map_err(|_| {
            Failure::usage(format!("expected a day such as 2026-03-01, got {:?}", query.today))
        })?;
        let filter = Filter { codes: codes.clone(), subject: query.subject.clone(), ..Filter::default() };
        let openings = self.open_many(filter, query.staff.clone())?;
        one_subject(&openings)?;
        let (mut observations, unread) = self.read_all(&openings);
        let shown = Code { system: LOINC.to_owned(), code: codes.first().cloned().unwrap_or_default() };
        for observation in &mut observations {
            as_one(&mut observation.code, &codes, &shown);
            if let Some(whole) = &mut observation.part_of {
                as_one(whole, &codes, &shown);
            }
        }
        observations
            .retain(|observation| observation.code == shown || observation.part_of.as_ref() == Some(&shown));
        let options = Options {
            days: days(&query, &observations, today),
            unit: query.unit.clone(),
            until: query.last_days.map(|_| today),
        };
        let found = trends(&observations, &shown, &options).map_err(|error| {
            Failure::usage(error.to_string()).next("Name a UCUM unit, for example mmol/L or [lb_av].")
        })?;
        if found.iter().all(|trend| trend.rows.iter().all(|row| row.day.is_none())) {
            return Err(nothing(&query, &found, openings.len()));
        }
        for trend in &found {
            put_trend(trend, out);
        }
        if unread > 0 {
            put(
                out,
                json!({ "unread": unread, "note": "records with this code whose format holds no values" }),
            );
        }
        if query.svg {
            let title = format!("{} ({})", title_of(&found), unit_of(&found));
            let drawing = plot::svg(&found, &title).map_err(|error| Failure::failed(error.to_string()))?;
            let _ = out.blocking_send(Out::Data(drawing.into_bytes().into()));
        }
        Ok(())
    }

    /// Opens and reads on all cores. Gives the observations, in the order of the records, and how many records are
    /// of a format without values.
    fn read_all(&self, openings: &[Opening]) -> (Vec<Observation>, usize) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let share = openings.len().div_ceil(cores).max(1);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = openings
                .chunks(share)
                .map(|part| {
                    scope.spawn(move || part.iter().map(|one| self.read_one(one)).collect::<Vec<_>>())
                })
                .collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
        });
        let unread = parts.iter().filter(|part| part.is_none()).count();
        (parts.into_iter().flatten().flatten().collect(), unread)
    }

    /// What one record says; nothing if its format holds no values, or it cannot be opened.
    fn read_one(&self, opening: &Opening) -> Option<Vec<Observation>> {
        let label = &opening.label;
        let bytes = held(self.shared.blobs.as_ref(), opening).ok()?;
        observe::observations(&label.kind, &label.media_type, &label.profiles, &bytes).ok()
    }

    // --- one record

    /// What its label says, and, of an own record, its values in both customary units.
    pub(super) async fn show_record(&self, id: String, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let (node, out) = (self.clone(), out.clone());
        let work = tokio::task::spawn_blocking(move || node.show_record_blocking(id, &out));
        work.await.map_err(|_| Failure::failed("showing ended badly"))?
    }

    fn show_record_blocking(&self, id: String, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let (mut view, opening) = match self.ask_blocking(|ticket| Input::ShowRecord(ticket, id))? {
            Answer::Shown(view, opening) => (view, opening),
            _ => return Err(Failure::failed("the engine answered something else")),
        };
        let values = opening.and_then(|opening| self.read_one(&opening)).unwrap_or_default();
        if let Some(object) = view.as_object_mut()
            && !values.is_empty()
        {
            let shown = values.iter().take(SHOWN_MAX).map(value_view).collect::<Vec<_>>();
            object.insert("observations".into(), shown.into());
            object.insert("observations_in_all".into(), values.len().into());
        }
        put(out, view);
        Ok(())
    }
}

/// A trend of two people's values would be nobody's.
fn one_subject(openings: &[Opening]) -> Result<(), Failure> {
    let subjects: BTreeSet<_> = openings.iter().map(|opening| opening.label.subject).collect();
    if subjects.len() <= 1 {
        return Ok(());
    }
    Err(Failure::usage(format!("there are values of {} people", subjects.len()))
        .next("Say whose: --subject me, or --subject CONTACT."))
}

fn as_one(code: &mut Code, codes: &[String], shown: &Code) {
    if code.system == shown.system && codes.contains(&code.code) {
        code.clone_from(shown);
    }
}

/// As many as asked for; else from the first day with a value to the last, as far back as a trend can go.
fn days(query: &TrendQuery, observations: &[Observation], today: Date) -> u16 {
    if let Some(days) = query.last_days {
        return u16::try_from(days).unwrap_or(u16::MAX);
    }
    let found = observations.iter().filter_map(|observation| daily::local_day(&observation.effective));
    let first = found.clone().min().unwrap_or(today);
    let last = found.max().unwrap_or(today);
    let between = last.since(first).map_or(0, |span| span.get_days()).saturating_add(1);
    u16::try_from(between).unwrap_or(u16::MAX)
}

fn nothing(query: &TrendQuery, found: &[Trend], records: usize) -> Failure {
    let apart = found.iter().flat_map(|trend| &trend.apart).next();
    match apart {
        Some(apart) => {
            Failure::failed(format!("no value of {} can be told in this unit: {}", query.code, apart.why))
                .next("Without --unit the values are shown as they were written.")
        }
        None if records == 0 => {
            Failure::failed(format!("no record has the code {}", query.code)).next(format!(
                "Names that are known: {}; or a LOINC code.",
                names::all().collect::<Vec<_>>().join(", ")
            ))
        }
        None => {
            Failure::failed(format!("the records with the code {} hold no value in these days", query.code))
                .next("Without --last all days are shown.")
        }
    }
}

fn title_of(trends: &[Trend]) -> String {
    let mut titles: Vec<&str> = Vec::new();
    for trend in trends {
        if !titles.contains(&trend.display.as_str()) {
            titles.push(&trend.display);
        }
    }
    titles.join(", ")
}

fn unit_of(trends: &[Trend]) -> &str {
    trends.first().map_or("", |trend| trend.unit.as_str())
}

fn put_trend(trend: &Trend, out: &mpsc::Sender<Out>) {
    for row in &trend.rows {
        put(out, row_view(trend, row));
    }
    for apart in &trend.apart {
        put(
            out,
            json!({
                "display": trend.display, "apart": apart.count, "unit": apart.unit,
                "last": apart.last.to_string(), "why": apart.why.to_string(),
            }),
        );
    }
    put(
        out,
        json!({
            "summary": true, "display": trend.display, "code": trend.code.code, "unit": trend.unit,
            "sparkline": trend.sparkline(),
        }),
    );
}

fn row_view(trend: &Trend, row: &Row) -> serde_json::Value {
    use crate::observe::daily::Summary;
    let day = row.day.as_ref();
    let mut view = json!({
        "day": row.date.to_string(),
        "display": trend.display,
        "value": day.map(|day| day.summary.main().to_string()),
        "unit": trend.unit,
        "outlier": day.is_some_and(|day| day.outlier),
        "sources": day.map(|day| day.sources.clone()).unwrap_or_default(),
        "set_aside": day.map(|day| day.set_aside.clone()).unwrap_or_default(),
    });
    if let (Some(object), Some(Summary::Measured { n, min, max, mean, last, .. })) =
        (view.as_object_mut(), day.map(|day| &day.summary))
    {
        object.insert("n".into(), (*n).into());
        for (name, value) in [("min", min), ("max", max), ("mean", mean), ("last", last)] {
            object.insert(name.into(), value.to_string().into());
        }
    }
    view
}

fn value_view(observation: &Observation) -> serde_json::Value {
    let (value, unit) = match &observation.value {
        Value::Quantity { value, unit } => (value.to_string(), unit.clone()),
        Value::Text(text) => (text.clone(), String::new()),
    };
    let also = analytes::both_units(observation).map(|(value, unit)| format!("{value} {unit}"));
    let effective = karte_protocol::label::Effective {
        start_ms: observation.effective.start_ms,
        end_ms: observation.effective.end_ms,
        offset_min: observation.effective.offset_min,
    };
    json!({
        "code": observation.code.code,
        "display": observation.display,
        "value": value,
        "unit": unit,
        "also": also,
        "at": crate::engine::effective_text(effective),
        "source": observation.source.name,
        "device": observation.source.device,
        "method": observation.source.method,
    })
}

fn put(out: &mpsc::Sender<Out>, item: serde_json::Value) {
    // Whoever asked may have gone; the work ends on its own.
    let _ = out.blocking_send(Out::Event(Event::Item(item)));
}
