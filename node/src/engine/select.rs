//! Selecting: from what a person writes to a [`Scope`], the same for lists and for grants.

use super::Engine;
use super::library::Seen;
use crate::command::Filter;
use crate::failure::Failure;
use jiff::civil;
use karte_protocol::grant::{Bound, Scope, Window};
use karte_protocol::id::{GrantId, PartyId};
use karte_protocol::label::{Code, Effective};
use karte_protocol::time::{MINUTE_MS, UnixMs};

/// A filter that was understood.
pub(super) struct Selection {
    scope: Scope,
    subject: Option<PartyId>,
    author: Option<PartyId>,
    grant: Option<GrantId>,
}

impl Selection {
    pub(super) fn of(engine: &Engine, filter: &Filter) -> Result<Self, Failure> {
        Ok(Self {
            scope: scope_of(filter)?,
            subject: filter.subject.as_deref().map(|text| engine.find_subject(Some(text))).transpose()?,
            author: filter.author.as_deref().map(|text| engine.find_subject(Some(text))).transpose()?,
            grant: filter.grant.as_deref().map(|text| engine.find_grant(text)).transpose()?,
        })
    }

    pub(super) fn takes(&self, seen: &Seen) -> bool {
        self.scope.covers(&seen.record, &seen.label)
            && self.subject.is_none_or(|subject| seen.label.subject == subject)
            && self.author.is_none_or(|author| seen.author() == author)
            && self.grant.is_none_or(|grant| seen.grant == Some(grant))
    }
}

/// The part of a filter that a scope can say.
pub(super) fn scope_of(filter: &Filter) -> Result<Scope, Failure> {
    let from = filter.from.as_deref().map(bound).transpose()?;
    let until = filter.until.as_deref().map(bound).transpose()?;
    let window = (from.is_some() || until.is_some()).then_some(Window { from, until });
    Ok(Scope {
        kinds: filter.kinds.clone(),
        categories: filter.categories.clone(),
        codes: filter.codes.iter().map(|text| code(text)).collect(),
        window,
        records: vec![],
    })
}

pub(super) fn code(text: &str) -> Code {
    match text.rsplit_once('|') {
        Some((system, code)) => Code { system: system.into(), code: code.into() },
        None => Code { system: String::new(), code: text.into() },
    }
}

/// `system|code`, or the bare code where no system is named.
pub(super) fn code_text(code: &Code) -> String {
    match code.system.as_str() {
        "" => code.code.clone(),
        system => format!("{system}|{}", code.code),
    }
}

/// `2015`, `2015-06`, `2015-06-01`, a wall-clock time without offset, or an instant with one.
pub(super) fn bound(text: &str) -> Result<Bound, Failure> {
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Ok(Bound::Instant(instant.as_millisecond()));
    }
    let widened = match text.len() {
        4 => format!("{text}-01-01"),
        7 => format!("{text}-01"),
        _ => text.to_owned(),
    };
    widened
        .parse::<civil::DateTime>()
        .or_else(|_| widened.parse::<civil::Date>().map(|date| date.at(0, 0, 0, 0)))
        .ok()
        .and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC).ok())
        .map(|at| Bound::Local(at.timestamp().as_millisecond()))
        .ok_or_else(|| {
            Failure::usage(format!(
                "expected a date such as 2015, 2015-06-01 or 2015-06-01T08:00:00+09:00, got {text:?}"
            ))
        })
}

/// The beginning of an effective time as it was written, RFC 3339 with its offset.
pub(crate) fn effective_text(effective: Effective) -> String {
    let offset =
        jiff::tz::Offset::from_seconds(i32::from(effective.offset_min) * 60).unwrap_or(jiff::tz::Offset::UTC);
    match jiff::Timestamp::from_millisecond(effective.start_ms) {
        Ok(at) => at.to_zoned(offset.to_time_zone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        Err(_) => effective.start_ms.to_string(),
    }
}

/// The day of an effective time where it was written, `2026-03-01`.
pub(crate) fn effective_day(effective: Effective) -> String {
    effective_text(effective).chars().take(10).collect()
}

/// A moment on a screen, RFC 3339 in UTC.
pub(super) fn time_text(at: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(at)
        .map_or_else(|_| at.to_string(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A length of time on a screen.
pub(super) fn span_text(ms: i64) -> String {
    let minutes = ms / MINUTE_MS;
    match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
        (days, 0, 0) if days > 0 => format!("{days}d"),
        (0, hours, 0) if hours > 0 => format!("{hours}h"),
        (days, hours, minutes) => format!("{}m", (days * 24 + hours) * 60 + minutes),
    }
}
