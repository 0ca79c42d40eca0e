//! A session as a FHIR R4 Bundle, and back.
//!
//! For: one Procedure and an Observation for each value, of type `collection`, bound by names made from their
//! content, so the same session gives the same bytes. A value without a code that is certain has its name as text;
//! that text is also what it is found by on the way back. Not for: Bundles of other makers (see `observe`).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::Exact;
use super::dialysis::{
    Access, Amount, Anticoagulant, Anticoagulation, Composed, Dialysate, DialysisError, DialysisSession,
    Pressure, SESSION_BYTES_MAX, TimedPressure, exact_time, json_fault,
};
use super::fhir::{
    Bundle, Component, Concept, Entry, Note, Observation, Period, Procedure, Quantity, Reference, SNOMED,
};
use crate::import::{Code, Facts};

/// What a label says the bytes are.
const MEDIA_TYPE: &str = "application/fhir+json";

/// Most codes a label takes, as in import.
const CODES_MAX: usize = 64;

/// Haemodialysis (procedure), as the dialysis guides of MCC use it.
const HAEMODIALYSIS: &str = "302497006";

const WEIGHT_PRE: &str = "Body weight before dialysis";
const WEIGHT_TARGET: &str = "Target weight";
const WEIGHT_POST: &str = "Body weight after dialysis";
const UF: &str = "Ultrafiltration volume";
const BP_PRE: &str = "Blood pressure before dialysis";
const BP_POST: &str = "Blood pressure after dialysis";
const BP_DURING: &str = "Blood pressure during dialysis";
const PULSE_PRE: &str = "Pulse before dialysis";
const PULSE_POST: &str = "Pulse after dialysis";
const ACCESS: &str = "Vascular access";
const ANTICOAGULATION: &str = "Anticoagulation";
const DOSE: &str = "Dose";
const POTASSIUM: &str = "Dialysate potassium";
const CALCIUM: &str = "Dialysate calcium";
const SODIUM: &str = "Dialysate sodium";
const BICARBONATE: &str = "Dialysate bicarbonate";
const FLOW: &str = "Dialysate flow";
const TEMPERATURE: &str = "Dialysate temperature";
const BLOOD_FLOW: &str = "Blood flow";
const KTV: &str = "Kt/V";
const URR: &str = "Urea reduction ratio";
const BUN_PRE: &str = "Urea nitrogen before dialysis";
const BUN_POST: &str = "Urea nitrogen after dialysis";

/// Complications with a code of SNOMED CT: what they are called here, code, display.
const COMPLICATIONS: &[(&str, &str, &str)] = &[
    ("hypotension", "45007003", "Low blood pressure (disorder)"),
    ("cramps", "55300003", "Cramp (finding)"),
    ("nausea", "422587007", "Nausea (finding)"),
    ("vomiting", "422400008", "Vomiting (disorder)"),
    ("headache", "25064002", "Headache (finding)"),
    ("chest pain", "29857009", "Chest pain (finding)"),
    ("itching", "418363000", "Itching of skin (finding)"),
];

const ACCESSES: &[(Access, &str)] = &[
    (Access::AvFistula, "Arteriovenous fistula"),
    (Access::AvGraft, "Arteriovenous graft"),
    (Access::Catheter, "Catheter"),
];

const AGENTS: &[(Anticoagulant, &str)] = &[
    (Anticoagulant::Heparin, "Heparin"),
    (Anticoagulant::LowMolecularWeightHeparin, "Low molecular weight heparin"),
    (Anticoagulant::Nafamostat, "Nafamostat"),
    (Anticoagulant::None, "None"),
];

/// The session as a Bundle, with the facts of its label and what does not agree.
pub fn to_fhir(session: &DialysisSession) -> Result<Composed, DialysisError> {
    let session = session.clone().checked()?;
    let procedure = procedure(&session);
    let named = entry(0, &procedure)?;
    let part_of = Reference { reference: Some(named.full_url.clone()), display: None };
    let observations = observations(&session);
    let mut codes = codes_of([&procedure.code].into_iter().chain(&procedure.complication));
    let mut entries = vec![named];
    for mut observation in observations {
        observation.part_of = vec![part_of.clone()];
        codes.extend(codes_of(std::iter::once(&observation.code)));
        codes.extend(codes_of(observation.component.iter().map(|component| &component.code)));
        entries.push(entry(entries.len(), &observation)?);
    }
    let bundle = Bundle { resource_type: "Bundle".to_owned(), kind: "collection".to_owned(), entry: entries };
    let json = serde_json::to_string(&bundle).map_err(|fault| json_fault(&fault))?;
    let facts = facts(&session, codes);
    Ok(Composed { json, facts, warnings: session.warnings() })
}

fn facts(session: &DialysisSession, all: Vec<Code>) -> Facts {
    let mut codes: Vec<Code> = Vec::new();
    for code in all {
        if codes.len() < CODES_MAX && !codes.contains(&code) {
            codes.push(code);
        }
    }
    Facts {
        kind: "dialysis/session".to_owned(),
        categories: vec!["procedure".to_owned(), "dialysis".to_owned()],
        codes,
        effective: session.effective(),
        title: session.title(),
        media_type: MEDIA_TYPE.to_owned(),
        ..Facts::default()
    }
}

fn codes_of<'a>(concepts: impl Iterator<Item = &'a Concept>) -> Vec<Code> {
    let codings = concepts.flat_map(|concept| &concept.coding);
    codings.map(|coding| Code { system: coding.system.clone(), code: coding.code.clone() }).collect()
}

/// A resource under a name made from its place and its bytes: a UUID of version 8 (RFC 9562 section 5.8) over their
/// blake3. The place keeps two equal observations apart, as a Bundle demands (invariant bdl-7).
fn entry(place: usize, resource: &impl Serialize) -> Result<Entry, DialysisError> {
    let text = serde_json::to_string(resource).map_err(|fault| json_fault(&fault))?;
    let hash =
        blake3::derive_key("karte dialysis session 2026 entry name", format!("{place} {text}").as_bytes());
    let half = hash.first_chunk::<16>().copied().unwrap_or_default();
    let full_url = uuid::Builder::from_custom_bytes(half).into_uuid().urn().to_string();
    let resource = RawValue::from_string(text).map_err(|fault| json_fault(&fault))?;
    Ok(Entry { full_url, resource })
}

fn procedure(session: &DialysisSession) -> Procedure {
    let complication = |said: &String| {
        let known = COMPLICATIONS.iter().find(|(name, ..)| name == said);
        known.map_or_else(
            || Concept::text(said),
            |(name, code, display)| Concept::coded(SNOMED, code, display, name),
        )
    };
    Procedure {
        resource_type: "Procedure".to_owned(),
        status: "completed".to_owned(),
        code: Concept::coded(SNOMED, HAEMODIALYSIS, "Hemodialysis (procedure)", "Haemodialysis"),
        // FHIR demands a subject; whose record it is, the label says.
        subject: Reference { reference: None, display: Some("the person this record is about".to_owned()) },
        performed_period: Period { start: session.start.clone(), end: session.end.clone() },
        complication: session.complications.iter().map(complication).collect(),
        note: session.notes.iter().map(|text| Note { text: text.clone() }).collect(),
        used_code: session.dialyzer.iter().map(|model| Concept::text(model)).collect(),
    }
}

/// When in the session a value was taken.
#[derive(Clone, Copy)]
enum When {
    Start,
    /// The start, where no end is stated.
    End,
    Throughout,
}

fn observations(session: &DialysisSession) -> Vec<Observation> {
    let mut found = Vec::new();
    let mut value = |code: Concept, value: Option<Exact>, unit: &str, when: When| {
        found.extend(value.map(|value| Observation {
            value_quantity: Some(Quantity::new(value.0, unit)),
            ..observation(session, code, when)
        }));
    };
    let weight = |text| Concept::coded(crate::observe::LOINC, "29463-7", "Body weight", text);
    let pulse = |text| Concept::coded(crate::observe::LOINC, "8867-4", "Heart rate", text);
    let urea = |text| {
        Concept::coded(
            crate::observe::LOINC,
            "3094-0",
            "Urea nitrogen [Mass/volume] in Serum or Plasma",
            text,
        )
    };
    let dialysate = &session.dialysate;
    value(weight(WEIGHT_PRE), session.pre_weight_kg, "kg", When::Start);
    value(Concept::text(WEIGHT_TARGET), session.target_weight_kg, "kg", When::Start);
    value(weight(WEIGHT_POST), session.post_weight_kg, "kg", When::End);
    value(Concept::text(UF), session.uf_volume_ml, "mL", When::Throughout);
    value(pulse(PULSE_PRE), session.pulse_pre, "/min", When::Start);
    value(pulse(PULSE_POST), session.pulse_post, "/min", When::End);
    value(Concept::text(POTASSIUM), dialysate.potassium_mmol_l, "mmol/L", When::Throughout);
    if let Some(Amount { value: calcium, unit }) = &dialysate.calcium {
        value(Concept::text(CALCIUM), Some(*calcium), unit, When::Throughout);
    }
    value(Concept::text(SODIUM), dialysate.sodium_mmol_l, "mmol/L", When::Throughout);
    value(Concept::text(BICARBONATE), dialysate.bicarbonate_mmol_l, "mmol/L", When::Throughout);
    value(Concept::text(FLOW), dialysate.flow_ml_min, "mL/min", When::Throughout);
    value(Concept::text(TEMPERATURE), dialysate.temperature_cel, "Cel", When::Throughout);
    value(Concept::text(BLOOD_FLOW), session.blood_flow_ml_min, "mL/min", When::Throughout);
    value(Concept::text(KTV), session.ktv, "1", When::Throughout);
    value(Concept::text(URR), session.urr_percent, "%", When::Throughout);
    value(urea(BUN_PRE), session.bun_pre_mg_dl, "mg/dL", When::Start);
    value(urea(BUN_POST), session.bun_post_mg_dl, "mg/dL", When::End);
    found.extend(
        session.bp_pre.map(|bp| pressure(observation(session, Concept::default(), When::Start), BP_PRE, bp)),
    );
    found.extend(session.bp_during.iter().map(|bp| during(session, bp)));
    found.extend(
        session.bp_post.map(|bp| pressure(observation(session, Concept::default(), When::End), BP_POST, bp)),
    );
    found.extend(session.access.map(|access| {
        choice(observation(session, Concept::text(ACCESS), When::Throughout), named(ACCESSES, access))
    }));
    found.extend(session.anticoagulation.as_ref().map(|anticoagulation| {
        let dose = anticoagulation.dose.iter();
        Observation {
            component: dose.map(|d| Component::quantity(Concept::text(DOSE), d.value.0, &d.unit)).collect(),
            ..choice(
                observation(session, Concept::text(ANTICOAGULATION), When::Throughout),
                named(AGENTS, anticoagulation.agent),
            )
        }
    }));
    found
}

fn observation(session: &DialysisSession, code: Concept, when: When) -> Observation {
    let mut made =
        Observation { category: vec![Concept::category("procedure", "Procedure")], ..Observation::of(code) };
    let end = session.end.clone().unwrap_or_else(|| session.start.clone());
    match when {
        When::Start => made.effective_date_time = Some(session.start.clone()),
        When::End => made.effective_date_time = Some(end),
        When::Throughout => {
            made.effective_period = Some(Period { start: session.start.clone(), end: session.end.clone() });
        }
    }
    made
}

fn pressure(observation: Observation, text: &str, pressure: Pressure) -> Observation {
    let part =
        |code, display, value: Exact| Component::quantity(Concept::loinc(code, display), value.0, "mm[Hg]");
    let code = Concept::coded(
        crate::observe::LOINC,
        "85354-9",
        "Blood pressure panel with all children optional",
        text,
    );
    let component = vec![
        part("8480-6", "Systolic blood pressure", pressure.systolic),
        part("8462-4", "Diastolic blood pressure", pressure.diastolic),
    ];
    Observation { code, component, ..observation }
}

fn during(session: &DialysisSession, timed: &TimedPressure) -> Observation {
    let values = Pressure { systolic: timed.systolic, diastolic: timed.diastolic };
    let made = pressure(observation(session, Concept::default(), When::Start), BP_DURING, values);
    Observation { effective_date_time: Some(timed.time.clone()), ..made }
}

fn choice(observation: Observation, text: &str) -> Observation {
    Observation { value_codeable_concept: Some(Concept::text(text)), ..observation }
}

fn named<T: PartialEq>(table: &[(T, &'static str)], wanted: T) -> &'static str {
    table.iter().find(|(value, _)| *value == wanted).map_or("", |(_, name)| name)
}

/// The session in a Bundle that [`to_fhir`] made.
pub fn from_fhir(bytes: &[u8]) -> Result<DialysisSession, DialysisError> {
    if bytes.len() > SESSION_BYTES_MAX {
        return Err(DialysisError::TooLong { got: bytes.len() });
    }
    let bundle: Bundle = serde_json::from_slice(bytes).map_err(|fault| json_fault(&fault))?;
    let not_a_session = |got: &str| DialysisError::NotASession { got: got.chars().take(40).collect() };
    if bundle.resource_type != "Bundle" {
        return Err(not_a_session(&bundle.resource_type));
    }
    let procedure =
        bundle.entry.first().and_then(|e| serde_json::from_str::<Procedure>(e.resource.get()).ok());
    let procedure = procedure.filter(|p| p.code.coding.iter().any(|c| c.code == HAEMODIALYSIS));
    let procedure = procedure.ok_or_else(|| not_a_session("a Bundle without one at its start"))?;
    let mut values = Values::default();
    for entry in bundle.entry.iter().skip(1) {
        let observation = serde_json::from_str::<Observation>(entry.resource.get());
        values.add(observation.map_err(|fault| json_fault(&fault))?)?;
    }
    values.session(procedure).checked()
}

/// The observations of a Bundle by what they are called.
#[derive(Default)]
struct Values {
    by_name: BTreeMap<String, Observation>,
    during: Vec<TimedPressure>,
}

impl Values {
    fn add(&mut self, observation: Observation) -> Result<(), DialysisError> {
        if observation.code.called() != BP_DURING {
            self.by_name.insert(observation.code.called().to_owned(), observation);
            return Ok(());
        }
        let time = observation.effective_date_time.clone().unwrap_or_default();
        exact_time("bp_during.time", &time)?;
        self.during.extend(pressure_of(&observation).map(|Pressure { systolic, diastolic }| TimedPressure {
            time,
            systolic,
            diastolic,
        }));
        Ok(())
    }

    fn number(&self, name: &str) -> Option<Exact> {
        Some(self.by_name.get(name)?.value_quantity.as_ref()?.value)
    }

    fn amount(&self, name: &str) -> Option<Amount> {
        self.by_name.get(name)?.value_quantity.as_ref().map(amount)
    }

    fn choice<T: Copy>(&self, name: &str, table: &[(T, &str)]) -> Option<T> {
        let chosen = self.by_name.get(name)?.value_codeable_concept.as_ref()?;
        table.iter().find(|(_, text)| *text == chosen.called()).map(|(value, _)| *value)
    }

    fn pressure(&self, name: &str) -> Option<Pressure> {
        pressure_of(self.by_name.get(name)?)
    }

    fn anticoagulation(&self) -> Option<Anticoagulation> {
        let agent = self.choice(ANTICOAGULATION, AGENTS)?;
        let dose = self.by_name.get(ANTICOAGULATION)?.component.first();
        Some(Anticoagulation { agent, dose: dose.and_then(|c| c.value_quantity.as_ref()).map(amount) })
    }

    fn session(self, procedure: Procedure) -> DialysisSession {
        let texts = |concepts: Vec<Concept>| concepts.into_iter().filter_map(|concept| concept.text);
        let dialysate = Dialysate {
            potassium_mmol_l: self.number(POTASSIUM),
            calcium: self.amount(CALCIUM),
            sodium_mmol_l: self.number(SODIUM),
            bicarbonate_mmol_l: self.number(BICARBONATE),
            flow_ml_min: self.number(FLOW),
            temperature_cel: self.number(TEMPERATURE),
        };
        DialysisSession {
            start: procedure.performed_period.start,
            end: procedure.performed_period.end,
            pre_weight_kg: self.number(WEIGHT_PRE),
            target_weight_kg: self.number(WEIGHT_TARGET),
            post_weight_kg: self.number(WEIGHT_POST),
            uf_volume_ml: self.number(UF),
            bp_pre: self.pressure(BP_PRE),
            bp_post: self.pressure(BP_POST),
            pulse_pre: self.number(PULSE_PRE),
            pulse_post: self.number(PULSE_POST),
            access: self.choice(ACCESS, ACCESSES),
            anticoagulation: self.anticoagulation(),
            dialysate,
            blood_flow_ml_min: self.number(BLOOD_FLOW),
            dialyzer: texts(procedure.used_code).next(),
            ktv: self.number(KTV),
            urr_percent: self.number(URR),
            bun_pre_mg_dl: self.number(BUN_PRE),
            bun_post_mg_dl: self.number(BUN_POST),
            complications: texts(procedure.complication).collect(),
            notes: procedure.note.into_iter().map(|note| note.text).collect(),
            bp_during: self.during,
        }
    }
}

fn amount(quantity: &Quantity) -> Amount {
    Amount { value: quantity.value, unit: quantity.code.clone() }
}

fn pressure_of(observation: &Observation) -> Option<Pressure> {
    let [systolic, diastolic] = observation.component.as_slice() else { return None };
    let value = |part: &Component| part.value_quantity.as_ref().map(|quantity| quantity.value);
    Some(Pressure { systolic: value(systolic)?, diastolic: value(diastolic)? })
}
