//! Open mHealth and IEEE 1752.1 data points: a header that names a schema, and a body.
//!
//! With the schemas at hand a body is judged by its own; without them it is taken when a time and a value are read.
//! References lead only into the folder of schemas, never to a network. A schema of IEEE that the folder lacks is
//! replaced by the Open mHealth one of the same name, which it was made from.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Retrieve, Uri, ValidationError};
use serde::Deserialize;
use serde_json::Value as Json;

use super::day::Daily;
use super::omh_body;
use super::vendor::{Fields, category, codes, fields, syntax, take};
use crate::import::error::ImportError;
use crate::import::facts::{Body, Effective, Facts, Finding, clean};
use crate::observe::{Observation, Source};

/// Largest schema, in bytes. 1 MiB: the largest known is 20 KB.
const SCHEMA_BYTES_MAX: u64 = 1024 * 1024;
/// Where relative references start; nothing is ever asked there.
const BASE: &str = "https://schemas.invalid";

/// The name of a field where a body is one value, or breaks a rule as a whole.
const WHOLE: &str = "the whole body";

/// A schema's name: `omh:body-weight/2.0`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SchemaId {
    pub namespace: String,
    pub name: String,
    pub version: String,
}

impl FromStr for SchemaId {
    type Err = ImportError;

    /// `NAMESPACE:NAME/VERSION`
    fn from_str(text: &str) -> Result<Self, ImportError> {
        let parts = text.split_once(':').and_then(|(space, rest)| Some((space, rest.rsplit_once('/')?)));
        let (namespace, (name, version)) = parts.ok_or_else(|| not_a_name(text))?;
        let (namespace, name, version) = (namespace.to_owned(), name.to_owned(), version.to_owned());
        Self { namespace, name, version }.checked()
    }
}

impl std::fmt::Display for SchemaId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}/{}", self.namespace, self.name, self.version)
    }
}

impl SchemaId {
    fn checked(self) -> Result<Self, ImportError> {
        let plain = is_plain(&self.namespace) && is_plain(&self.name) && is_plain(&self.version);
        if plain { Ok(self) } else { Err(not_a_name(&self.to_string())) }
    }

    /// `omh.body-weight-2.0`
    fn format(&self) -> String {
        format!("{}.{}-{}", self.namespace, self.name, self.version)
    }

    fn from_format(format: &str) -> Option<Self> {
        let (namespace, rest) = format.split_once('.')?;
        let (name, version) = rest.rsplit_once('-')?;
        Self { namespace: namespace.to_owned(), name: name.to_owned(), version: version.to_owned() }
            .checked()
            .ok()
    }
}

fn not_a_name(text: &str) -> ImportError {
    let fault = "a name looks like omh:body-weight/2.0".to_owned();
    ImportError::SchemaUnusable { schema: clean(text, 100), fault }
}

/// Letters, digits, dots and dashes, and no way out of a folder.
fn is_plain(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !part.is_empty() && part.len() <= 80 && part.chars().all(plain) && !part.starts_with('.')
}

/// Whether a header names a schema, and a body stands beside it.
pub(super) fn claims(outer: &Fields<'_>) -> bool {
    outer.contains_key("body") && header(outer).is_ok_and(|header| header.is_some())
}

#[derive(Deserialize)]
pub(super) struct Header {
    id: Option<String>,
    schema_id: SchemaId,
    #[serde(default, alias = "acquisition_provenance")]
    provenance: Option<Provenance>,
    user_id: Option<String>,
}

#[derive(Deserialize)]
struct Provenance {
    source_name: Option<String>,
    modality: Option<String>,
}

fn header(outer: &Fields<'_>) -> Result<Option<Header>, ImportError> {
    if outer.get("header").is_none_or(|raw| !raw.get().starts_with('{')) {
        return Ok(None);
    }
    let inner = fields(outer.get("header").map_or("{}", |raw| raw.get()))?;
    if !inner.contains_key("schema_id") { Ok(None) } else { take(outer, "header") }
}

/// Judge one data point, or one body whose schema is `stated`, and make it a record.
pub(super) fn finding(
    text: &str,
    origin: &str,
    stated: Option<&SchemaId>,
    schemas: Option<&Path>,
) -> Result<Finding, ImportError> {
    let whole: Json = serde_json::from_str(text).map_err(|error| syntax(&error))?;
    let outer = fields(text).unwrap_or_default();
    let header = if stated.is_none() { header(&outer)? } else { None };
    let id = stated.cloned().or_else(|| header.as_ref().map(|header| header.schema_id.clone()));
    let id = id.ok_or_else(|| unread("header.schema_id"))?.checked()?;
    let body =
        if header.is_some() { whole.get("body").cloned().unwrap_or(Json::Null) } else { whole.clone() };
    let mut judged = false;
    if let Some(folder) = schemas {
        let point = SchemaId {
            namespace: "omh".to_owned(),
            name: "data-point".to_owned(),
            version: "1.x".to_owned(),
        };
        if header.is_some() {
            judge(&whole, &point, folder)?;
        }
        judged = judge(&body, &id, folder)?;
    }
    let said = observations_of(&id, header.as_ref(), text)?;
    if !judged && said.is_empty() {
        return Err(unread(missing(&body)));
    }
    let facts = facts(&id, header.as_ref(), &said, omh_body::time_frame(&body));
    Ok(Finding { bytes: Body::Memory(text.as_bytes().to_vec()), facts, origin: origin.to_owned() })
}

fn unread(field: &str) -> ImportError {
    ImportError::DataPointUnread { field: field.to_owned() }
}

/// The field that keeps a body from being read.
fn missing(body: &Json) -> &'static str {
    if omh_body::time_frame(body).is_none() { "effective_time_frame" } else { "value" }
}

fn facts(id: &SchemaId, header: Option<&Header>, said: &[Observation], when: Option<Effective>) -> Facts {
    let kind = omh_body::kind(&id.name);
    let source = source(header);
    let user = header.and_then(|header| header.user_id.as_deref()).unwrap_or_default();
    let own = header.and_then(|header| header.id.as_deref()).unwrap_or_default();
    let mut facts = Daily {
        kind,
        categories: &[category(kind)],
        codes: codes(said),
        title: &id.name.replace('-', " "),
        media_type: &format!("application/json; format={}", id.format()),
        source: &format!("{} {user}", source.name),
        // Its own id is what a data point is known by; a body alone has none, and replaces nothing.
        day: own,
        effective: when,
    }
    .facts();
    facts.title = id.name.replace('-', " ");
    facts
}

fn source(header: Option<&Header>) -> Source {
    let provenance = header.and_then(|header| header.provenance.as_ref());
    let name = provenance.and_then(|said| said.source_name.as_deref()).unwrap_or("open mhealth");
    let method = provenance.and_then(|said| said.modality.as_deref());
    Source { name: clean(name, 100), device: None, method: method.map(|text| clean(text, 60)) }
}

/// A record's values; `format` is its media type's.
pub(super) fn observations(format: &str, text: &str) -> Result<Vec<Observation>, ImportError> {
    let id = SchemaId::from_format(format).ok_or_else(|| not_a_name(format))?;
    let outer = fields(text).unwrap_or_default();
    let header = header(&outer)?.filter(|header| header.schema_id == id);
    observations_of(&id, header.as_ref(), text)
}

fn observations_of(
    id: &SchemaId,
    header: Option<&Header>,
    text: &str,
) -> Result<Vec<Observation>, ImportError> {
    let outer = fields(text).unwrap_or_default();
    let body = if header.is_some() { outer.get("body").map_or("null", |raw| raw.get()) } else { text };
    let mut out = Vec::new();
    if id.name != "data-point" {
        omh_body::observe(&fields(body).unwrap_or_default(), &source(header), &mut out)?;
    }
    Ok(out)
}

/// Whether there is a schema to judge by; an error when it is broken.
fn judge(body: &Json, id: &SchemaId, folder: &Path) -> Result<bool, ImportError> {
    let name = format!("{}-{}.json", id.name, id.version);
    let Some(found) = find(folder, &id.namespace, &name) else {
        return Ok(false);
    };
    let unusable =
        |fault: &str| ImportError::SchemaUnusable { schema: id.to_string(), fault: clean(fault, 200) };
    let schema = found.load().map_err(|error| unusable(&error.to_string()))?;
    let validator = jsonschema::options()
        .with_base_uri(format!("{BASE}/{}/{name}", id.namespace))
        .with_retriever(Folder(folder.to_owned()))
        .should_validate_formats(true)
        .build(&schema)
        .map_err(|error| unusable(&error.to_string()))?;
    match validator.validate(body) {
        Ok(()) => Ok(true),
        Err(error) => Err(broken(id, &error)),
    }
}

/// The failing field and rule; nothing of the value.
fn broken(id: &SchemaId, error: &ValidationError<'_>) -> ImportError {
    let mut field = error.instance_path().to_string();
    if let ValidationErrorKind::Required { property } = error.kind() {
        field = format!("{field}/{}", property.as_str().unwrap_or_default());
    }
    let field = if field.is_empty() { candidates(error) } else { field };
    let rule = error.kind().keyword().to_owned();
    ImportError::SchemaBroken { schema: id.to_string(), field: clean(&field, 200), rule }
}

/// Where no field is named, the ones that the alternatives of a rule would have: `/date_time or /time_interval`.
fn candidates(error: &ValidationError<'_>) -> String {
    let (ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context }) =
        error.kind()
    else {
        return WHOLE.to_owned();
    };
    let mut names: Vec<String> = Vec::new();
    for inner in context.iter().flatten() {
        let mut name = inner.instance_path().to_string();
        if let ValidationErrorKind::Required { property } = inner.kind() {
            name = format!("{name}/{}", property.as_str().unwrap_or_default());
        }
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() { WHOLE.to_owned() } else { names.join(" or ") }
}

/// Schemas of a folder, by the last two parts of their address.
struct Folder(PathBuf);

impl Retrieve for Folder {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Json, Box<dyn std::error::Error + Send + Sync>> {
        let path = uri.path().as_str().to_owned();
        let mut parts = path.rsplit('/');
        let (file, space) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let space = space.strip_suffix("-1752-schema").unwrap_or(space);
        find(&self.0, space, file).ok_or_else(|| format!("no schema {space}/{file}"))?.load()
    }
}

/// A schema's file, and whether it stands in for one of IEEE.
struct Found {
    path: PathBuf,
    instead: bool,
}

impl Found {
    fn load(&self) -> Result<Json, Box<dyn std::error::Error + Send + Sync>> {
        let file = std::fs::File::open(&self.path)?;
        if file.metadata()?.len() > SCHEMA_BYTES_MAX {
            return Err(format!("expected a schema of at most {SCHEMA_BYTES_MAX} bytes").into());
        }
        let mut schema: Json = serde_json::from_reader(std::io::BufReader::new(file))?;
        if self.instead {
            without_parts_of_day(&mut schema);
        }
        Ok(schema)
    }
}

/// IEEE 1752.1 took over the intervals of Open mHealth but for "the evening of a day".
fn without_parts_of_day(schema: &mut Json) {
    let part =
        |one: &Json| one["required"].as_array().is_some_and(|names| names.iter().any(|n| n == "part_of_day"));
    if let Some(Json::Array(alternatives)) = schema.get_mut("oneOf") {
        alternatives.retain(|one| !part(one));
    }
}

/// The file of a schema; for a version `1.x`, or none, the newest 1. For one of IEEE that is not there, the Open
/// mHealth one of that name, and for a unit value of a kind, the plain unit value.
fn find(folder: &Path, space: &str, file: &str) -> Option<Found> {
    if !is_plain(space) || !is_plain(file) {
        return None;
    }
    let here = |space: &str, file: &str| {
        let exact = folder.join(space).join(file);
        if exact.is_file() { Some(exact) } else { newest(&folder.join(space), file) }
    };
    if let Some(path) = here(space, file) {
        return Some(Found { path, instead: false });
    }
    let plain = file.find("unit-value").and_then(|at| file.get(at..));
    let other = (space == "ieee").then(|| here("omh", file).or_else(|| here("omh", plain?)))?;
    other.map(|path| Found { path, instead: true })
}

fn newest(folder: &Path, file: &str) -> Option<PathBuf> {
    let stem = file.strip_suffix(".json")?;
    let stem = stem.strip_suffix(".x").map_or(format!("{stem}-"), |stem| format!("{stem}."));
    let version = |name: &str| -> Option<Vec<u32>> {
        let rest = name.strip_prefix(&stem)?.strip_suffix(".json")?;
        rest.split('.').map(|part| part.parse().ok()).collect()
    };
    let names =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let best = names.filter_map(|name| Some((version(&name)?, name))).max()?;
    Some(folder.join(best.1))
}
