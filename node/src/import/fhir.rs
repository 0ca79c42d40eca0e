//! FHIR R4 JSON: judging one resource and reading its facts.
//!
//! For: deciding whether a text is one record, a Bundle to split, or wrong. Not for: validating profiles; what
//! is stored is the original text, and the facts are only what a label says.

use std::borrow::Cow;
use std::ops::ControlFlow;

use serde_json::value::RawValue;

use super::bundle;
use super::error::ImportError;
use super::facts::{Code, Effective, Facts, TITLE_BYTES_MAX, clean};
use super::fields::{is_bundle_type, is_r4, row_of};
use super::object::{Object, items, text};
use super::sink::{Place, Sink};
use super::sniff::BOM;
use super::{Limits, outline, time};

/// What a resource and a Bundle of them travel as.
pub(super) const MEDIA_TYPE: &str = "application/fhir+json";

/// Most codes, categories or profiles a label takes from one resource; later ones stay in the record only.
/// 64: a full blood count with its panel names about 40.
const CODES_MAX: usize = 64;

/// Longest code, in bytes. A longer one is left out, never cut: a cut code is another code. 128: a SNOMED
/// expression of three parts fits.
const CODE_BYTES_MAX: usize = 128;

/// Longest URI, in bytes: 512, well above the systems and profiles in use. Left out beyond, as with codes.
const URI_BYTES_MAX: usize = 512;

/// Longest logical id, in characters (<https://hl7.org/fhir/R4/datatypes.html#id>).
const ID_CHARS_MAX: usize = 64;

/// Read one text that claims to be FHIR: a record, or a Bundle of them.
pub(super) fn read(source: Cow<'_, str>, place: Place, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let facts = match judge(source.strip_prefix(BOM).unwrap_or(&source), sink.limits) {
        Ok(Judged::Record(facts)) => Facts { full_url: place.full_url.clone(), ..*facts },
        Ok(Judged::Bundle(object)) => return bundle::split(&object, &place, sink),
        Err(reason) => return sink.refused(&place.origin, place.settle(reason)),
    };
    sink.found_text(source.into_owned(), facts, place.origin)
}

/// What a text turned out to be.
enum Judged<'a> {
    Record(Box<Facts>),
    Bundle(Object<'a>),
}

fn judge<'a>(text: &'a str, limits: &Limits) -> Result<Judged<'a>, ImportError> {
    let object = Object::parse(text)?;
    let resource = resource_type(&object)?;
    let stays_whole = resource != "Bundle" || bundle_type(&object)? == "document";
    if !stays_whole {
        return Ok(Judged::Bundle(object));
    }
    within(text, limits)?;
    let facts = if resource == "Bundle" { document_facts(&object) } else { facts_of(&object, &resource) };
    Ok(Judged::Record(Box::new(facts)))
}

fn within(text: &str, limits: &Limits) -> Result<(), ImportError> {
    let got = text.len() as u64;
    if got > limits.resource_bytes_max {
        return Err(ImportError::ResourceTooLarge { max: limits.resource_bytes_max, got });
    }
    let got = outline::depth(text);
    if got > limits.depth_max {
        return Err(ImportError::TooDeep { max: limits.depth_max, got });
    }
    Ok(())
}

/// The resource type, if R4 has it.
fn resource_type(object: &Object<'_>) -> Result<String, ImportError> {
    let raw = object.get("resourceType").ok_or(ImportError::NoResourceType)?;
    let resource = text(raw).ok_or(ImportError::ResourceTypeNotText)?;
    if is_r4(&resource) {
        Ok(resource)
    } else {
        Err(ImportError::UnknownResourceType { got: clean(&resource, 64) })
    }
}

/// A Bundle of a type we do not know may be one that must stay whole, so it is not split.
fn bundle_type(object: &Object<'_>) -> Result<String, ImportError> {
    let name = object.text("type").unwrap_or_default();
    if is_bundle_type(&name) {
        Ok(name)
    } else {
        Err(ImportError::UnknownBundleType { got: clean(&name, 64) })
    }
}

/// A document Bundle is labelled by its Composition, under its own name.
fn document_facts(bundle: &Object<'_>) -> Facts {
    let own = facts_of(bundle, "Bundle");
    let Some(composition) = bundle::composition(bundle) else {
        return own;
    };
    let title = composition.text("title").map(|title| clean(&title, TITLE_BYTES_MAX));
    let inner = facts_of(&composition, "Composition");
    Facts {
        kind: own.kind,
        source_id: own.source_id,
        profiles: own.profiles,
        title: title.filter(|title| !title.is_empty()).unwrap_or(inner.title),
        ..Facts { title: String::new(), ..inner }
    }
}

fn facts_of(object: &Object<'_>, resource: &str) -> Facts {
    let row = row_of(resource);
    let main = row.code.iter().find_map(|path| Concepts::read(object.get(path)?));
    let main = main.unwrap_or_default();
    let title = title_of(object, &main).unwrap_or_else(|| resource.to_owned());
    let components = object.get("component").filter(|_| resource == "Observation");
    Facts {
        kind: format!("fhir/{resource}"),
        categories: categories(object),
        codes: with_components(main.codes, components),
        effective: row.when.iter().find_map(|path| when(object.get(path)?)),
        title,
        media_type: MEDIA_TYPE.to_owned(),
        full_url: None,
        source_id: source_id(object, resource),
        profiles: profiles(object),
        ..Facts::default()
    }
}

/// What a person would call it: its own title, else what its code is called, else its description.
fn title_of(object: &Object<'_>, main: &Concepts) -> Option<String> {
    let own = object.text("title");
    let called = [own, main.title.clone(), object.text("description")];
    called.into_iter().flatten().map(|title| clean(&title, TITLE_BYTES_MAX)).find(|title| !title.is_empty())
}

/// A point in time, or a Period.
fn when(raw: &RawValue) -> Option<Effective> {
    if let Some(point) = text(raw) {
        return time::point(&point);
    }
    let period = Object::parse(raw.get()).ok()?;
    time::period(period.text("start").as_deref(), period.text("end").as_deref())
}

/// `Type/id`, where the id is one that a reference could name.
fn source_id(object: &Object<'_>, resource: &str) -> Option<String> {
    let id = object.text("id")?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let right = !id.is_empty() && id.len() <= ID_CHARS_MAX && id.bytes().all(good);
    right.then(|| format!("{resource}/{id}"))
}

fn profiles(object: &Object<'_>) -> Vec<String> {
    let Some(raw) = object.get("meta.profile") else {
        return Vec::new();
    };
    items(raw, CODES_MAX).into_iter().filter_map(text).filter(|uri| fits(uri, URI_BYTES_MAX)).collect()
}

/// A category is a CodeableConcept in most resources and a bare code in AllergyIntolerance.
fn categories(object: &Object<'_>) -> Vec<String> {
    let Some(raw) = object.get("category") else {
        return Vec::new();
    };
    let mut codes = Vec::new();
    for item in items(raw, CODES_MAX) {
        match text(item) {
            Some(code) => keep(&mut codes, code, |code| fits(code, CODE_BYTES_MAX)),
            None => {
                for coding in Concepts::read(item).unwrap_or_default().codes {
                    keep(&mut codes, coding.code, |_| true);
                }
            }
        }
    }
    codes
}

/// An Observation's components are coded as it is: a blood pressure is found by its systolic code too.
fn with_components(mut codes: Vec<Code>, components: Option<&RawValue>) -> Vec<Code> {
    for component in components.map(|raw| items(raw, CODES_MAX)).unwrap_or_default() {
        let code = Object::parse(component.get()).ok().and_then(|object| object.get("code"));
        for code in code.and_then(Concepts::read).unwrap_or_default().codes {
            keep(&mut codes, code, |_| true);
        }
    }
    codes
}

/// The codings of a CodeableConcept, a Coding, or a list of either, and what to call them.
#[derive(Default)]
struct Concepts {
    codes: Vec<Code>,
    title: Option<String>,
}

impl Concepts {
    /// `None` where nothing is coded or called, so that the next field is asked.
    fn read(raw: &RawValue) -> Option<Self> {
        let mut found = Self::default();
        for item in items(raw, CODES_MAX) {
            let Ok(concept) = Object::parse(item.get()) else {
                continue;
            };
            found.title = found.title.or_else(|| concept.text("text"));
            match concept.get("coding") {
                Some(list) => items(list, CODES_MAX).into_iter().for_each(|coding| found.coding(coding)),
                None => found.coding(item),
            }
        }
        (found.title.is_some() || !found.codes.is_empty()).then_some(found)
    }

    fn coding(&mut self, raw: &RawValue) {
        let Ok(coding) = Object::parse(raw.get()) else {
            return;
        };
        let (system, code) =
            (coding.text("system").unwrap_or_default(), coding.text("code").unwrap_or_default());
        self.title = self.title.take().or_else(|| coding.text("display"));
        keep(&mut self.codes, Code { system, code }, |coding| {
            coding.system.len() <= URI_BYTES_MAX && fits(&coding.code, CODE_BYTES_MAX)
        });
    }
}

/// Add `item` if it is right, new, and there is room.
fn keep<T: PartialEq>(list: &mut Vec<T>, item: T, right: impl Fn(&T) -> bool) {
    if right(&item) && list.len() < CODES_MAX && !list.contains(&item) {
        list.push(item);
    }
}

/// Neither empty nor too long.
pub(super) fn fits(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len())
}

/// A Bundle entry's fullUrl, if a label can hold it.
pub(super) fn full_url(entry: &Object<'_>) -> Option<String> {
    entry.text("fullUrl").filter(|url| fits(url, URI_BYTES_MAX))
}
