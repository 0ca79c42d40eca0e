//! What a person sees: the node's objects as small tables and as lines of `name  value`.
//!
//! For: shape only. Nothing is looked up, judged or left out that `--json` would tell, except in lists, where ids
//! are shortened. Texts may come from other parties, so nothing of them acts on the terminal.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

/// From objects to text.
pub(crate) type View = fn(&[Value]) -> String;

/// Characters of an id in a list: enough to name it in a command.
const ID_CHARS: usize = 12;
/// Least width of a column that wraps: narrower, and a title becomes a column of letters.
const WRAPPED_CHARS_MIN: u16 = 16;
/// Characters of a party id in a list, its `karte1` included.
const PARTY_CHARS: usize = 16;

pub(crate) fn records(items: &[Value]) -> String {
    let (subject, author) = (common_party(items, "subject"), common_party(items, "author"));
    // Who a record is about and by whom is a column only where it differs.
    let differs = |common: &Option<String>, item: &Value, name| match common {
        Some(_) => String::new(),
        None => party(item, name),
    };
    let rows = items.iter().map(|item| {
        vec![
            short(item, "id"),
            wall_clock(&field(item, "effective")),
            field(item, "kind"),
            field(item, "title"),
            size(item, "bytes"),
            differs(&subject, item, "subject"),
            differs(&author, item, "author"),
            short(item, "grant"),
        ]
    });
    let head = ["ID", "EFFECTIVE", "KIND", "TITLE", "SIZE", "SUBJECT", "AUTHOR", "GRANT"];
    let bytes = items.iter().filter_map(|item| item.get("bytes")?.as_u64()).fold(0, u64::saturating_add);
    let about = subject.as_ref().map(|name| format!("about {name}")).unwrap_or_default();
    let by = author.as_ref().map(|name| format!("by {name}")).unwrap_or_default();
    let total = joined([count_of(items, "record"), human_bytes(bytes), about, by].into_iter(), ", ");
    or_none(table(&head, Some("TITLE"), rows), "No records.", &total)
}

pub(crate) fn contacts(items: &[Value]) -> String {
    let rows = items.iter().map(|item| {
        vec![
            field(item, "alias"),
            field(item, "name"),
            field(item, "kind"),
            field(item, "state"),
            if item.get("connected").and_then(Value::as_bool) == Some(true) { "yes" } else { "no" }.into(),
            party(item, "party"),
        ]
    });
    let head = ["ALIAS", "NAME", "KIND", "STATE", "CONNECTED", "PARTY"];
    or_none(
        table(&head, Some("NAME"), rows),
        "No contacts. `karte contact add CARD` adds one.",
        &count_of(items, "contact"),
    )
}

/// The own devices.
pub(crate) fn devices(items: &[Value]) -> String {
    let rows = items.iter().map(|item| {
        let flag = |name: &str| item.get(name).and_then(Value::as_bool).unwrap_or_default();
        vec![
            short(item, "device"),
            if flag("this") { "this one".into() } else { String::new() },
            field(item, "state"),
            local_minute(&field(item, "since")),
            if flag("connected") { "now".into() } else { local_minute(&field(item, "heard")) },
            field(item, "void_from_seq"),
        ]
    });
    table(&["DEVICE", "", "STATE", "SINCE", "HEARD", "VOID FROM"], None, rows)
}

pub(crate) fn peers(items: &[Value]) -> String {
    if items.is_empty() {
        return "Nobody is connected.".into();
    }
    let mut names: Vec<&str> = Vec::new();
    for name in items.iter().filter_map(Value::as_object).flat_map(|object| object.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let head: Vec<String> = names.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let rows = items.iter().map(|item| names.iter().map(|name| short(item, name)).collect());
    table(&head, None, rows)
}

pub(crate) fn grants(items: &[Value]) -> String {
    let rows = items.iter().map(|item| {
        vec![
            short(item, "id"),
            field(item, "state"),
            party(item, "holder"),
            party(item, "reader"),
            party(item, "subject"),
            item.get("scope").map(scope).unwrap_or_default(),
            field(item, "purpose"),
            local_minute(&field(item, "not_after")),
        ]
    });
    let head = ["ID", "STATE", "HOLDER", "READER", "SUBJECT", "SCOPE", "PURPOSE", "UNTIL"];
    or_none(
        table(&head, Some("SCOPE"), rows),
        "No grants. `karte grant add CONTACT --kind KIND` gives one.",
        &count_of(items, "grant"),
    )
}

/// Requests, both ways: who asks whom for what.
pub(crate) fn requests(items: &[Value]) -> String {
    let rows = items.iter().map(|item| {
        vec![
            short(item, "id"),
            field(item, "state"),
            party(item, "from"),
            party(item, "to"),
            party(item, "subject"),
            item.get("scope").map(scope).unwrap_or_default(),
            field(item, "purpose"),
            field(item, "expires"),
            local_minute(&field(item, "answer_by")),
            field(item, "reason"),
        ]
    });
    let head = ["ID", "STATE", "FROM", "TO", "SUBJECT", "SCOPE", "PURPOSE", "FOR", "ANSWER BY", "REASON"];
    or_none(
        table(&head, Some("REASON"), rows),
        "No requests. `karte request add CONTACT --kind KIND` asks for one.",
        &count_of(items, "request"),
    )
}

/// One request, and the text that carries it.
pub(crate) fn request(items: &[Value]) -> String {
    let shown = items.iter().filter_map(Value::as_object).map(|object| {
        let mut rest = object.clone();
        let text = rest.shift_remove("text").map(|text| plain(&text)).unwrap_or_default();
        joined([details(&[Value::Object(rest)]), text].into_iter(), "\n\n")
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// Who keeps the own records, a line a steward.
pub(crate) fn stewards(items: &[Value]) -> String {
    let rows = items.iter().map(|item| {
        vec![
            field(item, "steward"),
            field(item, "state"),
            size(item, "used_bytes"),
            size(item, "quota_bytes"),
            field(item, "missing"),
            local_clock(&field(item, "until")),
            local_clock(&field(item, "as_of")),
        ]
    });
    let head = ["STEWARD", "STATE", "KEEPS", "OF", "ON THE WAY", "UNTIL", "AS OF"];
    or_none(
        table(&head, Some("STATE"), rows),
        "You have no steward. `karte steward add CONTACT` names one.",
        &count_of(items, "steward"),
    )
}

/// For whom something is kept, a line a holder.
pub(crate) fn keeping(items: &[Value]) -> String {
    let rows = items.iter().map(|item| {
        vec![
            party(item, "holder"),
            field(item, "state"),
            field(item, "records"),
            field(item, "missing"),
            size(item, "used_bytes"),
            size(item, "quota_bytes"),
            local_clock(&field(item, "until")),
            local_clock(&field(item, "heard")),
        ]
    });
    let head = ["FOR", "STATE", "RECORDS", "MISSING", "USED", "QUOTA", "UNTIL", "LAST HEARD"];
    or_none(
        table(&head, Some("STATE"), rows),
        "You keep for nobody. `karte steward offer CONTACT` says for whom you would.",
        &count_of(items, "holder"),
    )
}

pub(crate) fn audit(items: &[Value]) -> String {
    let rows = items.iter().map(|item| {
        vec![
            local_clock(&field(item, "at")),
            field(item, "event"),
            party(item, "party"),
            field(item, "person"),
            // Said only where it is another program: a column of one word tells nothing.
            Some(field(item, "application")).filter(|name| name != "karte").unwrap_or_default(),
            short(item, "record"),
            short(item, "grant"),
            field(item, "purpose"),
            field(item, "note"),
        ]
    });
    let head = ["AT", "EVENT", "PARTY", "PERSON", "APPLICATION", "RECORD", "GRANT", "PURPOSE", "NOTE"];
    or_none(
        table(&head, Some("NOTE"), rows),
        "Nothing has happened to your records yet.",
        &count_of(items, "event"),
    )
}

/// A record's life, a line a moment; or the days of a chart.
pub(crate) fn timeline(items: &[Value]) -> String {
    if items.iter().any(|item| item.get("day").is_some()) {
        let rows = items.iter().map(|item| {
            ["day", "kind", "records", "title", "authors"].map(|name| field(item, name)).to_vec()
        });
        let head = ["DAY", "KIND", "RECORDS", "FIRST OF THEM", "AUTHORS"];
        return table(&head, Some("FIRST OF THEM"), rows);
    }
    let rows = items.iter().map(|item| {
        vec![
            local_clock(&field(item, "at")),
            field(item, "event"),
            party(item, "party"),
            field(item, "person"),
            short(item, "grant"),
            field(item, "purpose"),
            field(item, "note"),
        ]
    });
    let head = ["AT", "EVENT", "PARTY", "PERSON", "GRANT", "PURPOSE", "NOTE"];
    or_none(table(&head, Some("NOTE"), rows), "Nothing is known of it.", &count_of(items, "moment"))
}

/// The days of each value, what stands apart, and a line of blocks.
pub(crate) fn trend(items: &[Value]) -> String {
    let mut parts = Vec::new();
    for summary in items.iter().filter(|item| item.get("summary").is_some()) {
        let display = field(summary, "display");
        let of_it = |item: &&Value| field(item, "display") == display;
        let days = items.iter().filter(of_it).filter(|item| item.get("day").is_some());
        let measured = days.clone().any(|day| day.get("n").is_some());
        let rows = days.map(|day| trend_row(day, measured));
        let value = if measured { "MEDIAN" } else { "TOTAL" };
        let head = ["DAY", value, "MIN", "MAX", "N", "SOURCE", "NOTE"];
        let mut text = format!("{display} ({})\n", field(summary, "unit"));
        text.push_str(&table(&head, Some("NOTE"), rows));
        for apart in items.iter().filter(of_it).filter(|item| item.get("apart").is_some()) {
            let many = apart.get("apart").and_then(Value::as_u64).unwrap_or_default();
            text.push_str(&format!(
                "\n{} in {} not shown, the last {}: {}.",
                count(many, "value"),
                field(apart, "unit"),
                field(apart, "last"),
                field(apart, "why")
            ));
        }
        text.push_str(&format!("\n{}", field(summary, "sparkline")));
        parts.push(text);
    }
    let unread = items.iter().filter_map(|item| item.get("unread")?.as_u64()).sum::<u64>();
    if unread > 0 {
        parts.push(format!("{} with this code in formats that hold no values.", count(unread, "record")));
    }
    parts.join("\n\n")
}

fn trend_row(day: &Value, measured: bool) -> Vec<String> {
    let aside = field(day, "set_aside");
    let notes = [
        if day.get("value").is_some_and(Value::is_null) { "no data".to_owned() } else { String::new() },
        if day.get("outlier").and_then(Value::as_bool) == Some(true) {
            "unusual".into()
        } else {
            String::new()
        },
        if aside.is_empty() { String::new() } else { format!("not added: {aside}") },
    ];
    let of_measured = |name| if measured { field(day, name) } else { String::new() };
    vec![
        field(day, "day"),
        field(day, "value"),
        of_measured("min"),
        of_measured("max"),
        of_measured("n"),
        field(day, "sources"),
        joined(notes.into_iter(), "; "),
    ]
}

/// One sentence for each grant that was synced.
pub(crate) fn sync(items: &[Value]) -> String {
    let under_grants = items.iter().filter(|item| item.get("grant").is_some_and(Value::is_string));
    let lines: Vec<String> = under_grants.map(synced).collect();
    if lines.is_empty() {
        "Up to date. Nobody there lets you read anything now.".into()
    } else {
        lines.join("\n")
    }
}

/// One line of `sync --watch`.
pub(crate) fn arrival(item: &Value) -> String {
    let text = |name| item.get(name).and_then(Value::as_str).and_then(|id| id.get(..8));
    match (text("arrived"), text("grant"), item.get("missed").and_then(Value::as_u64)) {
        (Some(record), Some(grant), _) => format!("Record {record} arrived under grant {grant}."),
        (_, _, Some(missed)) => {
            format!("{} arrived that were too many to show: `karte record list`.", count(missed, "record"))
        }
        _ => "Watching. Ctrl-C ends it.".into(),
    }
}

fn synced(item: &Value) -> String {
    let number = |name| item.get(name).and_then(Value::as_u64).unwrap_or_default();
    let numbers = [number("received"), number("refused"), number("missing")];
    let [received, refused, missing] = numbers;
    let told = |many, what: &str| {
        if many == 0 { String::new() } else { format!("{many} {what}") }
    };
    let came = match numbers {
        [0, 0, 0] => "Nothing new".to_owned(),
        _ => {
            let received =
                format!("Received {} ({})", count(received, "record"), human_bytes(number("bytes")));
            joined([received, told(refused, "refused"), told(missing, "still missing")].into_iter(), ", ")
        }
    };
    let from = match party(item, "holder") {
        holder if holder.is_empty() => String::new(),
        holder => format!(" from {holder}"),
    };
    let reason = match field(item, "reason") {
        reason if reason.is_empty() => ".".into(),
        reason => format!(": {reason}."),
    };
    format!("{came}{from} under grant {}{reason}", short(item, "grant"))
}

/// A grant that would be given: the records it would cover, then what nothing was signed for.
pub(crate) fn dry_run(items: &[Value]) -> String {
    let covered: Vec<Value> = items.iter().filter(|item| item.get("id").is_some()).cloned().collect();
    let kinds = items.iter().filter_map(|item| item.get("kinds")?.as_object()).flatten();
    let kinds = joined(kinds.map(|(kind, many)| format!("{} {}", plain(many), clean(kind))), ", ");
    let kinds = if kinds.is_empty() { kinds } else { format!("By kind: {kinds}.") };
    let parts = [records(&covered), kinds, "Nothing was signed or sent: this was a dry run.".into()];
    joined(parts.into_iter(), "\n")
}

/// The own card: who it introduces, and the text to give away.
pub(crate) fn card(items: &[Value]) -> String {
    let shown = items.iter().filter_map(Value::as_object).map(|object| {
        let mut rest = object.clone();
        let card = rest.remove("card").map(|card| plain(&card)).unwrap_or_default();
        let reachable = rest.get("addresses").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let hint = "\n\nIt names no address: make it while `karte run` is running, so that others can call.";
        let hint = if reachable { "" } else { hint };
        format!("{}{hint}\n\n{card}", details(&[Value::Object(rest)]))
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// Every field of each object, one a line, whole.
pub(crate) fn details(items: &[Value]) -> String {
    let blocks = items.iter().filter_map(Value::as_object).map(|object| {
        let lines = object.iter().filter_map(|(name, value)| {
            let value = if name == "scope" { scope(value) } else { plain(value) };
            (!value.is_empty()).then(|| [name.replace('_', " "), value])
        });
        let mut table = new_table();
        table.add_rows(lines);
        trimmed(&table)
    });
    blocks.collect::<Vec<_>>().join("\n\n")
}

/// What a record's label says, then its values, a line each, in both customary units.
pub(crate) fn record(items: &[Value]) -> String {
    let shown = items.iter().filter_map(Value::as_object).map(|object| {
        let mut label = object.clone();
        let values = label.shift_remove("observations");
        let in_all =
            label.shift_remove("observations_in_all").and_then(|count| count.as_u64()).unwrap_or_default();
        let values = values.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
        let rows = values.iter().map(|value| {
            let source = [field(value, "source"), field(value, "device"), field(value, "method")];
            vec![
                field(value, "display"),
                joined([field(value, "value"), field(value, "unit")].into_iter(), " "),
                field(value, "also"),
                wall_clock(&field(value, "at")),
                joined(source.into_iter(), ", "),
            ]
        });
        let table = table(&["WHAT", "VALUE", "ALSO", "WHEN", "SOURCE"], Some("WHAT"), rows);
        let more = in_all.saturating_sub(values.len() as u64);
        let more = if more > 0 { format!("\nand {} more.", count(more, "value")) } else { String::new() };
        let label = details(&[Value::Object(label)]);
        if table.is_empty() { label } else { format!("{label}\n\n{table}{more}") }
    });
    shown.collect::<Vec<_>>().join("\n\n")
}

/// Without characters that act on a terminal or reorder a line: a name or title is another party's text.
pub(crate) fn clean(text: &str) -> String {
    let acts = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
}

/// How wide the terminal is; none if the output goes elsewhere.
pub(crate) fn terminal_width() -> Option<u16> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0)
}

// --- tables

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// `wraps`: the one column that gives way on a narrow terminal.
fn table(head: &[&str], wraps: Option<&str>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    // A column that says nothing in any row is left out.
    let told: Vec<usize> = (0..head.len())
        .filter(|column| rows.iter().any(|row| row.get(*column).is_some_and(|cell| !cell.is_empty())))
        .collect();
    let pick =
        |row: &[String]| told.iter().filter_map(|column| row.get(*column).cloned()).collect::<Vec<_>>();
    let names: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let mut table = new_table();
    table.set_header(pick(&names));
    table.add_rows(rows.iter().map(|row| pick(row)));
    let at = |name| told.iter().position(|column| head.get(*column).copied() == name);
    let wrapped = at(wraps).and_then(|at| Some((at, wrapped_width(&table, at)?)));
    if let Some((column, width)) = wrapped.and_then(|(at, width)| Some((table.column_mut(at)?, width))) {
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    if let Some(sizes) = at(Some("SIZE")).and_then(|at| table.column_mut(at)) {
        sizes.set_cell_alignment(CellAlignment::Right);
    }
    if rows.is_empty() { String::new() } else { trimmed(&table) }
}

/// How wide the column that wraps has to be for the table to fit the terminal; none if it fits as it is.
fn wrapped_width(table: &Table, wrapping: usize) -> Option<u16> {
    let widths = table.column_max_content_widths();
    let own = widths.get(wrapping).copied()?;
    // Every cell has one space on either side.
    let all = widths.iter().fold(0u16, |sum, width| sum.saturating_add(*width).saturating_add(2));
    let over = all.checked_sub(terminal_width()?).filter(|over| *over > 0)?;
    let least = WRAPPED_CHARS_MIN.min(own);
    Some(own.saturating_sub(over).max(least).saturating_add(2))
}

fn trimmed(table: &Table) -> String {
    let lines =
        table.lines().map(|line| line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()).to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn or_none(table: String, none: &str, total: &str) -> String {
    if table.is_empty() { none.into() } else { format!("{table}\n{total}.") }
}

// --- cells

/// A field in full; empty where there is none.
fn field(item: &Value, name: &str) -> String {
    item.get(name).map(plain).unwrap_or_default()
}

/// A value as text. Lists are joined, objects become `name: value`.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => clean(text),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        Value::Array(list) => joined(list.iter().map(plain), ", "),
        Value::Object(object) => joined(
            object.iter().filter_map(|(name, value)| {
                let text = plain(value);
                (!text.is_empty()).then(|| format!("{}: {text}", clean(&name.replace('_', " "))))
            }),
            "; ",
        ),
    }
}

fn joined(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(between)
}

/// A long id by its beginning.
fn short(item: &Value, name: &str) -> String {
    let text = field(item, name);
    if text.starts_with("karte1") {
        return text.chars().take(PARTY_CHARS).collect();
    }
    let is_id = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { text.chars().take(ID_CHARS).collect() } else { text }
}

/// What a party is called here, or the beginning of its id.
fn party(item: &Value, name: &str) -> String {
    match field(item, &format!("{name}_name")) {
        called if called.is_empty() => short(item, name),
        called => called,
    }
}

/// The party that all items name.
fn common_party(items: &[Value], name: &str) -> Option<String> {
    let first = party(items.first()?, name);
    (!first.is_empty() && items.iter().all(|item| party(item, name) == first)).then_some(first)
}

/// `fhir/Observation, laboratory, 2024-01-01 to 2025-01-01`.
fn scope(scope: &Value) -> String {
    let Some(object) = scope.as_object() else {
        return plain(scope);
    };
    let (from, until) = (field(scope, "from"), field(scope, "until"));
    let (from, until) = (wall_clock(&from), wall_clock(&until));
    let window = match (from.is_empty(), until.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!("from {from}"),
        (true, false) => format!("until {until}"),
        (false, false) => format!("{from} to {until}"),
    };
    let lists = ["kinds", "categories", "codes"].into_iter().filter_map(|name| object.get(name));
    let by_id = object.get("records").and_then(Value::as_array).filter(|records| !records.is_empty());
    let by_id = by_id.map(|records| format!("{} by id", count_of(records, "record"))).unwrap_or_default();
    joined(lists.map(plain).chain([window, by_id]), ", ")
}

fn count_of(items: &[Value], what: &str) -> String {
    count(u64::try_from(items.len()).unwrap_or(u64::MAX), what)
}

fn size(item: &Value, name: &str) -> String {
    item.get(name).and_then(Value::as_u64).map(human_bytes).unwrap_or_default()
}

pub(crate) fn human_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

pub(crate) fn count(many: u64, what: &str) -> String {
    format!("{many} {what}{}", if many == 1 { "" } else { "s" })
}

/// A time as the clock on the wall showed it where it was written: `2015-06-01 08:00`; a bare date stays one.
fn wall_clock(text: &str) -> String {
    let Some((date, rest)) = text.split_once('T') else {
        return text.to_owned();
    };
    match rest.get(..5) {
        None | Some("00:00") => date.to_owned(),
        Some(time) => format!("{date} {time}"),
    }
}

/// A moment by the clock of this machine.
fn local_clock(text: &str) -> String {
    local(text, "%Y-%m-%d %H:%M:%S")
}

/// The same, where seconds do not matter.
fn local_minute(text: &str) -> String {
    local(text, "%Y-%m-%d %H:%M")
}

fn local(text: &str, format: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime(format).to_string(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn records_align_though_japanese_takes_two_columns() {
        let item = |title: &str, grant: Value| {
            json!({
                "id": "ab".repeat(32), "kind": "fhir/Observation", "title": title, "bytes": 2048,
                "effective": "2024-06-01T08:30:00+09:00", "subject": "karte1qqqqqqqqqqqqqqqqqq",
                "subject_name": "chihiro", "author_name": title, "grant": grant,
            })
        };
        let text = records(&[item("血清カリウム", Value::Null), item("Potassium", json!("cd".repeat(32)))]);
        let expected = "\
ID            EFFECTIVE         KIND              TITLE             SIZE  AUTHOR        GRANT
abababababab  2024-06-01 08:30  fhir/Observation  血清カリウム  2.00 KiB  血清カリウム
abababababab  2024-06-01 08:30  fhir/Observation  Potassium     2.00 KiB  Potassium     cdcdcdcdcdcd
2 records, 4.00 KiB, about chihiro.";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_empty_list_says_so() {
        for view in [records as View, contacts, peers, grants, requests, audit, sync] {
            assert!(view(&[]).ends_with('.'), "an empty list is told in a sentence");
        }
    }

    #[test]
    fn another_partys_text_does_not_act_on_the_terminal() {
        let hostile = json!({ "alias": "a\u{1b}[2Jb", "name": "x\u{202e}y", "party": "karte1q" });
        for view in [contacts as View, details, peers] {
            let text = view(std::slice::from_ref(&hostile));
            assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn details_leave_out_what_is_not_there() {
        let item =
            json!({ "party": "karte1q", "listening": ["/a", "/b"], "peers": 0, "grant": null, "x_y": "" });
        assert_eq!(details(&[item]), "party      karte1q\nlistening  /a, /b\npeers      0");
    }

    #[test]
    fn a_scope_reads_as_a_phrase() {
        let given = json!({
            "kinds": ["fhir/Observation"], "categories": ["laboratory"], "codes": [],
            "from": "2024-01-01", "until": "2025-01-01T00:00:00", "records": ["ab"],
        });
        assert_eq!(scope(&given), "fhir/Observation, laboratory, 2024-01-01 to 2025-01-01, 1 record by id");
    }

    #[test]
    fn a_sync_is_told_in_a_sentence() {
        let whole = json!({ "grant": "ab".repeat(32), "received": 1, "bytes": 512, "refused": 0 });
        assert_eq!(sync(&[whole]), "Received 1 record (512 B) under grant abababababab.");
        let broken = json!({
            "grant": "ab".repeat(32), "holder_name": "chihiro", "received": 2, "bytes": 512, "refused": 1,
            "missing": 3, "reason": "the transfer broke off",
        });
        assert_eq!(
            sync(&[broken]),
            "Received 2 records (512 B), 1 refused, 3 still missing from chihiro under grant abababababab: \
             the transfer broke off."
        );
    }
}
