//! What a label says about an instance.
//!
//! For: kind, codes, time, place in the series, and whether text may stand in the picture. Not for: who the patient
//! is; that stays sealed inside.

use super::anatomy;
use super::header::Header;
use super::series::Placed;
use crate::import::facts::{Body, Code, Facts, Finding, Group, TITLE_BYTES_MAX, clean};

/// The DICOM Controlled Terminology (PS3.16), as FHIR names it.
const DCM: &str = "http://dicom.nema.org/resources/ontology/DCM";

/// What a grant's `--exclude` names: Burned In Annotation (0028,0301).
pub(crate) const BURNED_IN: &str = "BURNED-IN";

pub(super) const MAY_SHOW_TEXT: &str = " (may have text burned in)";

/// The record of one instance; `body` holds the bytes that `header` was read from.
pub(crate) fn finding(header: &Header, body: Body, placed: Option<Placed>, origin: &str) -> Finding {
    // An instance without a modality is "other" in DICOM's own words.
    let modality = header.modality.as_deref().unwrap_or("OT");
    let facts = Facts {
        kind: format!("dicom/{modality}"),
        title: title(header, placed),
        media_type: "application/dicom".to_owned(),
        group: group(header, placed),
        ..common(header)
    };
    Finding { bytes: body, facts, origin: origin.to_owned() }
}

/// What instances and their previews say alike.
pub(super) fn common(header: &Header) -> Facts {
    Facts {
        categories: vec!["imaging".to_owned()],
        codes: codes(header),
        effective: header.effective,
        sensitivity: if header.may_show_text() { vec![BURNED_IN.to_owned()] } else { Vec::new() },
        ..Facts::default()
    }
}

fn codes(header: &Header) -> Vec<Code> {
    let modality = header.modality.iter().map(|code| Code { system: DCM.to_owned(), code: code.clone() });
    let part = header.body_part.iter().map(|part| {
        let (system, code) = anatomy::code(part);
        Code { system: system.to_owned(), code: clean(&code, TITLE_BYTES_MAX) }
    });
    modality.chain(part).collect()
}

fn group(header: &Header, placed: Option<Placed>) -> Option<Group> {
    Some(Group {
        study: header.study.clone()?,
        series: header.series.clone(),
        instance: header.instance.clone(),
        position: placed.map(|placed| placed.position),
    })
}

/// `CT head: Routine Brain, image 3 of 54`. The warning is never what is cut off.
fn title(header: &Header, placed: Option<Placed>) -> String {
    let mut title = subject(header);
    if let Some(description) = header.series_description.as_ref().or(header.study_description.as_ref()) {
        title.push_str(": ");
        title.push_str(description);
    }
    let place = placed.filter(|placed| placed.count > 1);
    let mut end = match place {
        Some(Placed { position, count, .. }) => format!(", {} {} of {count}", noun(header), position + 1),
        None => String::new(),
    };
    if header.may_show_text() {
        end.push_str(MAY_SHOW_TEXT);
    }
    if placed.is_some_and(|placed| placed.contradicted) {
        end.push_str(" (one of several versions)");
    }
    clean(&title, TITLE_BYTES_MAX.saturating_sub(end.len())) + &end
}

/// `CT head`.
pub(super) fn subject(header: &Header) -> String {
    let modality = header.modality.as_deref().unwrap_or("DICOM");
    match &header.body_part {
        Some(part) => format!("{modality} {}", part.to_lowercase()),
        None => modality.to_owned(),
    }
}

fn noun(header: &Header) -> &'static str {
    if header.raster.is_some() { "image" } else { "object" }
}
