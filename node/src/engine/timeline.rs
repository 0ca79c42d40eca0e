//! The timeline: one record's life in order, or the whole chart's by day.
//!
//! For: what is known from signed things (label, grants, releases, receipts) and from the own rows (when it came
//! in). Not for: the content of records; nothing is opened here.

use super::Engine;
use super::library::Seen;
use super::rows::{REPLACED, SHELVED, TOP};
use super::select::{effective_text, time_text};
use crate::command::Filter;
use crate::failure::Failure;
use karte_protocol::id::{GrantId, RecordId};
use karte_protocol::time::UnixMs;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

impl Engine {
    /// With an id the life of that record; without one, what there is of each day and kind, oldest first.
    pub(super) fn show_timeline(&self, id: Option<&str>, filter: &Filter) -> Result<Vec<Value>, Failure> {
        match id {
            Some(id) => self.life_of(&self.find_record(id)?),
            None => self.days(filter),
        }
    }

    fn life_of(&self, seen: &Seen) -> Result<Vec<Value>, Failure> {
        let mut moments = Vec::new();
        let author = self.name_of(seen.author());
        if let Some(time) = seen.label.effective {
            moments.push(moment(time.start_ms, &effective_text(time), "happened", "", &seen.label.title));
        }
        if let Some(row) = self.own_row(&seen.record)? {
            let (event, note) = match row.from {
                Some(grant) => ("adopted", format!("from grant {}", grant.short())),
                None => ("imported", format!("{}, {} bytes", seen.label.kind, seen.label.bytes)),
            };
            moments.push(moment(row.at_ms, &time_text(row.at_ms), event, &author, &note));
        } else if let Some(grant) = seen.grant
            && let Some(row) = self.received_row(&grant, &seen.record)?
        {
            let note = format!("under grant {}, by {author}", grant.short());
            let holder = self.got.get(&grant).map(|got| self.name_of(got.row.holder)).unwrap_or_default();
            moments.push(moment(row.at_ms, &time_text(row.at_ms), "received", &holder, &note));
        }
        moments.extend(self.replacements(seen)?);
        moments.extend(self.consents(seen)?);
        // A thing that happened before it was written down comes first, also where the clocks disagree.
        moments.sort_by_key(|(at, _)| *at);
        Ok(moments.into_iter().map(|(_, line)| line).collect())
    }

    fn replacements(&self, seen: &Seen) -> Result<Vec<(UnixMs, Value)>, Failure> {
        let mut moments = Vec::new();
        let mut related = |record: RecordId, event: &str| -> Result<(), Failure> {
            if let Some(row) = self.own_row(&record)? {
                let note = format!("record {}", record.short());
                moments.push(moment(row.at_ms, &time_text(row.at_ms), event, "", &note));
            }
            Ok(())
        };
        for old in &seen.label.replaces {
            related(*old, "replaces")?;
        }
        if let Some(by) = self.store.get(REPLACED, TOP, seen.record.as_bytes())?
            && let Some(by) = RecordId::from_slice(&by)
        {
            related(by, "replaced")?;
        }
        Ok(moments)
    }

    /// What the audit says of this record, and of the grants whose shelf it is on.
    fn consents(&self, seen: &Seen) -> Result<Vec<(UnixMs, Value)>, Failure> {
        let mut grants: BTreeSet<GrantId> = seen.grant.into_iter().collect();
        for id in self.given.keys() {
            if self.store.get(SHELVED, id.as_bytes(), seen.record.as_bytes())?.is_some() {
                grants.insert(*id);
            }
        }
        let record = seen.record.to_hex();
        let grants: BTreeSet<String> = grants.iter().map(GrantId::to_hex).collect();
        let mine = |line: &Value| match line.get("record").and_then(Value::as_str) {
            Some(named) => named == record,
            None => line.get("grant").and_then(Value::as_str).is_some_and(|grant| grants.contains(grant)),
        };
        let lines = self.audit_lines()?.into_iter().filter(|(_, _, line)| mine(line));
        Ok(lines.map(|(at, _, line)| (at, line)).collect())
    }

    fn days(&self, filter: &Filter) -> Result<Vec<Value>, Failure> {
        let mut days: BTreeMap<(String, String), (u64, String, Vec<String>)> = BTreeMap::new();
        for seen in self.selected(filter)? {
            let day = seen.label.effective.map(effective_text).unwrap_or_default();
            let day = day.get(..10).unwrap_or("undated").to_owned();
            let entry = days.entry((day, seen.label.kind.clone())).or_default();
            entry.0 += 1;
            if entry.1.is_empty() {
                entry.1.clone_from(&seen.label.title);
            }
            let author = self.name_of(seen.author());
            if !entry.2.contains(&author) {
                entry.2.push(author);
            }
        }
        let view = |((day, kind), (count, title, authors)): (
            (String, String),
            (u64, String, Vec<String>),
        )| {
            json!({ "day": day, "kind": kind, "records": count, "title": title, "authors": authors })
        };
        Ok(days.into_iter().map(view).collect())
    }
}

fn moment(at: UnixMs, text: &str, event: &str, party: &str, note: &str) -> (UnixMs, Value) {
    (at, json!({ "at": text, "event": event, "party_name": party, "note": note }))
}
