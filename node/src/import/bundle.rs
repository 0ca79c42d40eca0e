//! FHIR Bundles: one record for each entry's resource, cut out exactly as it stands.
//!
//! For: walking entries one after another. Not for: Bundles of type `document`, which are one record: their
//! parts were attested together.

use std::borrow::Cow;
use std::ops::ControlFlow;

use serde_json::value::RawValue;

use super::error::ImportError;
use super::fhir;
use super::object::{Object, each, is_list};
use super::sink::{Place, Sink};

/// How deep Bundles may lie in each other. 4: a batch response holds searches, and nothing is seen beyond two.
const LEVELS_MAX: u32 = 4;

/// Yield the resource of every entry. A wrong entry is refused by its number, and the others are read.
pub(super) fn split(bundle: &Object<'_>, place: &Place, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let Some(entries) = bundle.get("entry") else {
        sink.totals.empty_bundles += 1;
        return ControlFlow::Continue(());
    };
    if !is_list(entries) {
        return sink.refused(&place.origin, ImportError::EntryNotAList);
    }
    if place.level >= LEVELS_MAX {
        return sink.refused(&place.origin, ImportError::BundleTooDeep { max: LEVELS_MAX });
    }
    let mut number = 0_u64;
    each(entries, |raw| {
        number += 1;
        entry(raw, place.entry(number), sink)
    })
}

fn entry(raw: &RawValue, place: Place, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let entry = match Object::parse(raw.get()) {
        Ok(entry) => entry,
        Err(reason) => return sink.refused(&place.origin, reason),
    };
    let Some(resource) = entry.get("resource") else {
        sink.totals.entries_without_resource += 1;
        return ControlFlow::Continue(());
    };
    let place = Place { full_url: fhir::full_url(&entry), ..place };
    fhir::read(Cow::Borrowed(resource.get()), place, sink)
}

/// The Composition of a document Bundle: by rule its first entry, wherever it is met here.
pub(super) fn composition<'a>(bundle: &Object<'a>) -> Option<Object<'a>> {
    let mut found = None;
    let _found = each(bundle.get("entry")?, |raw| {
        found = resource_of(raw).filter(|it| it.text("resourceType").as_deref() == Some("Composition"));
        if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found
}

fn resource_of(raw: &RawValue) -> Option<Object<'_>> {
    let entry = Object::parse(raw.get()).ok()?;
    Object::parse(entry.get("resource")?.get()).ok()
}
