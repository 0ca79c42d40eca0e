//! The story: seven steps, each of which checks what it tells.

use super::data::{
    self, CENTRE_NAME, CLINIC_NAME, DIET_NOTE, HIV_CODE, PATIENT_BUNDLE, PATIENT_NAME, SESSION_BUNDLE,
    TELLING,
};
use super::disk;
use super::stage::{Centre, Clinic, Patient, Stage, Who};
use super::unlike;
use crate::commands::import;
use crate::error::Error;
use crate::view;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

pub(super) fn tell(stage: &mut Stage) -> Result<(), Error> {
    stage.says(
        "Chihiro Morimoto (森本 千尋) lives in Osaka and needs dialysis. The Sakura Clinic treats her there. This\n\
         winter she visits her daughter in Penang, where Pusat Dialisis Melati will dialyse her. Three parties, three\n\
         nodes, no centre; here they are three processes on this machine, each with a folder of its own. All of\n\
         them and all their records are made up.",
    )?;
    meet(stage)?;
    let records = bring_in(stage)?;
    ask_without_grant(stage, &records)?;
    let laboratory = grant_a_year(stage)?;
    let sessions = write_back(stage)?;
    revoke(stage, &laboratory, &sessions)?;
    look_at_the_disk(stage)?;
    close(stage)
}

/// A grant to the clinic, with a record that it has read.
struct Given {
    grant: String,
    record: String,
}

// --- 1

fn meet(stage: &mut Stage) -> Result<(), Error> {
    stage.step("Three parties introduce themselves")?;
    stage.says(
        "Each makes its own keys. (--no-passphrase is for this demo; without it the keys are locked with a\n\
         passphrase.) Then each node listens.",
    )?;
    stage.does(Patient, &["init", "--name", PATIENT_NAME, "--no-passphrase"])?;
    stage.does(Clinic, &["init", "--name", CLINIC_NAME, "--kind", "clinic", "--no-passphrase"])?;
    stage.does(Centre, &["init", "--name", CENTRE_NAME, "--kind", "partner", "--no-passphrase"])?;
    [Patient, Clinic, Centre].into_iter().try_for_each(|who| stage.starts(who))?;
    stage.says(
        "Chihiro takes the cards of both, from their web pages or as a QR code at the desk, and calls.",
    )?;
    for (who, alias) in [(Clinic, "sakura"), (Centre, "melati")] {
        let card = text(&only(stage.does(who, &["card"])?, "a card")?, "card");
        stage.does(Patient, &["contact", "add", &card, "--as", alias])?;
    }
    // A stranger's first call is refused until the other side lets it in, so these may fail.
    stage.tries(Patient, &["sync"])?;
    stage.says("Both see that somebody knocked, and let her in.")?;
    for who in [Clinic, Centre] {
        let party = stage.awaits("somebody knocks", || pending(stage, who))?;
        stage.does(who, &["contact", "add", &party, "--as", "chihiro"])?;
    }
    stage.does(Patient, &["sync"])?;
    let contacts = stage.does(Patient, &["contact", "list"])?;
    stage.shows(view::contacts, &contacts)?;
    let known = contacts.iter().filter(|contact| text(contact, "state") == "known").count();
    stage.insists(known == 2, "she knows two parties now")
}

fn pending(stage: &Stage, who: Who) -> Result<Option<String>, Error> {
    let contacts = stage.asks(who, &["contact", "list"])?;
    let knocked = contacts.iter().find(|contact| text(contact, "state") == "pending");
    Ok(knocked.map(|contact| text(contact, "party")))
}

// --- 2

fn bring_in(stage: &mut Stage) -> Result<Vec<Value>, Error> {
    stage.step("She brings her records in")?;
    stage.says("A FHIR bundle from her hospital, and the note her dietician gave her.")?;
    let bundle = file(stage, "patient.bundle.json", PATIENT_BUNDLE)?;
    let note = file(stage, "diet-note.txt", DIET_NOTE)?;
    let brought = stage.does(Patient, &["import", &bundle, &note])?;
    stage.shows(import::came_in, &brought)?;
    let records = stage.does(Patient, &["record", "list"])?;
    stage.shows(view::records, &records)?;
    let expected = data::resources(PATIENT_BUNDLE) + 1;
    stage.insists(
        records.len() == expected,
        "every resource of the bundle is a record, and the note is one",
    )?;
    stage.says("Each is encrypted once, under a key of its own. Nobody else can read any of them.")?;
    Ok(records)
}

// --- 3

fn ask_without_grant(stage: &mut Stage, records: &[Value]) -> Result<(), Error> {
    stage.step("The centre asks before any grant")?;
    stage.says(
        "They know each other and are connected. Suppose the centre even knows the id of a record of hers.",
    )?;
    let synced = stage.does(Centre, &["sync", "chihiro"])?;
    stage.shows(view::sync, &synced)?;
    let seen = stage.does(Centre, &["record", "list"])?;
    stage.shows(view::records, &seen)?;
    stage.insists(seen.is_empty(), "the centre sees nothing")?;
    let wanted = records.iter().find(|record| text(record, "title").starts_with("Chronic kidney disease"));
    let wanted = wanted.map(|record| text(record, "id")).unwrap_or_default();
    stage.is_refused(Centre, &["record", "open", &wanted])?;
    stage.says("Being a contact lets nobody read: without her grant there is neither key nor byte to be had.")
}

// --- 4

fn grant_a_year(stage: &mut Stage) -> Result<Given, Error> {
    stage.step("She grants the clinic her laboratory results of 2024, but not her HIV test")?;
    stage.says("First she looks which records that would be. Nothing is signed yet.")?;
    let add = format!(
        "grant add sakura --kind fhir/Observation --category laboratory --from 2024 --until 2025 --exclude {HIV_CODE}"
    );
    let add = words(&add);
    let planned = stage.does(Patient, &[&add[..], &["--dry-run"]].concat())?;
    stage.shows(view::dry_run, &planned)?;
    stage.says("That is what she means. Now she signs it.")?;
    let grant = text(&only(stage.does(Patient, &add)?, "a grant")?, "id");
    accept(stage, Clinic, &grant, &[])?;
    stage.says(
        "The clinic has made a fresh key for this grant alone. Both are connected, so the records come by\n\
         themselves; a sync would say if one were missing.",
    )?;
    let received = stage.does(Clinic, &["sync", "chihiro", "--staff", "Dr. Ito"])?;
    stage.shows(view::sync, &received)?;
    let expected = data::laboratory_ids(PATIENT_BUNDLE, "2024", HIV_CODE);
    let records = stage.awaits("the laboratory results arrive", || {
        let records = stage.asks(Clinic, &["record", "list"])?;
        Ok((records.len() >= expected.len()).then_some(records))
    })?;
    stage.lists(Clinic, &["record", "list"], view::records, &records)?;
    stage.insists(
        same_ids(&records, &planned) && records.len() == expected.len(),
        "exactly the records of the dry run have come, and not one other",
    )?;
    let record = text(records.last().unwrap_or(&Value::Null), "id");
    read(stage, &record)?;
    be_told(stage, &record)?;
    Ok(Given { grant, record })
}

fn accept(stage: &Stage, who: Who, grant: &str, more: &[&str]) -> Result<(), Error> {
    stage.awaits("the grant is offered", || {
        let grants = stage.asks(who, &["grant", "list"])?;
        Ok(grants.iter().any(|offered| text(offered, "id") == grant).then_some(()))
    })?;
    let accepted = stage.does(who, &[&["grant", "accept", grant], more].concat())?;
    stage.shows(view::grants, &accepted)
}

fn read(stage: &Stage, record: &str) -> Result<(), Error> {
    stage.says("A doctor opens one.")?;
    let resource = open(stage, record)?;
    let value = resource.pointer("/valueQuantity/value").map(Value::to_string).unwrap_or_default();
    let unit = resource.pointer("/valueQuantity/unit").and_then(Value::as_str).unwrap_or_default();
    let read = json!({
        "subject": resource.pointer("/subject/display"),
        "what": resource.pointer("/code/text"),
        "when": resource.get("effectiveDateTime"),
        "value": format!("{value} {unit}"),
    });
    stage.shows(view::details, &[read])?;
    let original = serde_json::from_str::<Value>(PATIENT_BUNDLE).unwrap_or_default();
    let entries = original.get("entry").and_then(Value::as_array).cloned().unwrap_or_default();
    stage.insists(
        entries.iter().any(|entry| entry.get("resource") == Some(&resource)),
        "what the clinic reads is the original resource",
    )
}

fn be_told(stage: &Stage, record: &str) -> Result<(), Error> {
    stage.says("Chihiro sees who read what.")?;
    let events = stage.awaits("the receipt comes home", || {
        let events = stage.asks(Patient, &["audit", "list"])?;
        let told = events.iter().any(|event| is_event(event, "opened") && text(event, "record") == record);
        Ok(told.then_some(events))
    })?;
    stage.lists(Patient, &["audit", "list"], view::audit, &events)
}

// --- 5

fn write_back(stage: &mut Stage) -> Result<Given, Error> {
    stage.step("The dialysis centre writes for her, and her grant carries it on to Osaka")?;
    stage.says(
        "Before she travels she lets the clinic read what will be done to her: procedures, from now on.",
    )?;
    let add = words("grant add sakura --kind fhir/Procedure");
    let grant = text(&only(stage.does(Patient, &add)?, "a grant")?, "id");
    accept(stage, Clinic, &grant, &[])?;
    stage.says("In Penang she is dialysed. The centre imports the session as hers, and grants it to her.")?;
    let session = file(stage, "session.bundle.json", SESSION_BUNDLE)?;
    let brought = stage.does(Centre, &["import", &session, "--subject", "chihiro"])?;
    stage.shows(import::came_in, &brought)?;
    let back = words("grant add chihiro --kind fhir --subject chihiro");
    let home = text(&only(stage.does(Centre, &back)?, "a grant")?, "id");
    accept(stage, Patient, &home, &["--adopt"])?;
    stage.says("No further command: the session comes home, and goes on to the clinic.")?;
    let (session, since) = (data::resources(SESSION_BUNDLE), words("record list --from 2025"));
    let own = stage.awaits("the session is among her own records", || {
        let about = stage.asks(Patient, &since)?;
        let own = about.iter().filter(|record| record.get("grant").is_none_or(Value::is_null)).count();
        Ok((own == session).then_some(about))
    })?;
    stage.lists(Patient, &since, view::records, &own)?;
    let arrived = stage.awaits("the session reaches the clinic", || {
        let there = stage.asks(Clinic, &since)?;
        Ok((!there.is_empty()).then_some(there))
    })?;
    stage.lists(Clinic, &since, view::records, &arrived)?;
    stage.insists(
        arrived.len() == 1 && arrived.iter().all(|record| text(record, "kind") == "fhir/Procedure"),
        "the clinic has the procedure, and not the weights, which it was not granted",
    )?;
    let record = text(&only(arrived, "a procedure")?, "id");
    let resource = open(stage, &record)?;
    stage.insists(
        text(&resource, "resourceType") == "Procedure" && text(&resource, "id") == "session-2025-01-08",
        "the clinic reads what the centre wrote",
    )?;
    let written = stage.asks(Centre, &words("record list --kind fhir/Procedure"))?;
    stage.insists(
        [&written, &own].iter().all(|list| list.iter().any(|item| text(item, "id") == record)),
        "it is the same record at all three",
    )?;
    let read = json!({
        "what": resource.pointer("/code/text"),
        "where": resource.pointer("/performer/0/actor/display"),
        "note": resource.pointer("/note/0/text"),
    });
    stage.shows(view::details, &[read])?;
    stage
        .says("Signed by the centre, adopted by Chihiro, read in Osaka: one encrypted record all the way.")?;
    Ok(Given { grant, record })
}

// --- 6

fn revoke(stage: &mut Stage, laboratory: &Given, sessions: &Given) -> Result<(), Error> {
    stage.step("She revokes")?;
    stage.says("Both grants to the clinic end. The clinic is connected, so it hears at once.")?;
    for given in [laboratory, sessions] {
        stage.does(Patient, &["grant", "revoke", &given.grant, "--reason", "changed clinics"])?;
    }
    let began = Instant::now();
    stage.awaits("the clinic stops", || {
        let records = stage.asks(Clinic, &["record", "list"])?;
        Ok(records.is_empty().then_some(()))
    })?;
    let waited_ms = began.elapsed().as_millis();
    stage.says(&format!(
        "{waited_ms} ms after the second command none of her records is to be seen at the clinic."
    ))?;
    let grants = stage.does(Clinic, &["grant", "list"])?;
    stage.shows(view::grants, &grants)?;
    for given in [laboratory, sessions] {
        stage.is_refused(Clinic, &["record", "open", &given.record, "--staff", "Dr. Ito"])?;
    }
    stage.says("It has signed to Chihiro that it stopped, and that it deleted what it had.")?;
    let events = stage.awaits("the clinic's receipts come home", || {
        let events = stage.asks(Patient, &["audit", "list"])?;
        let signed = |given: &Given, what| {
            events.iter().any(|event| is_event(event, what) && text(event, "grant") == given.grant)
        };
        let all =
            [laboratory, sessions].iter().all(|given| signed(given, "stopped") && signed(given, "deleted"));
        Ok(all.then_some(events))
    })?;
    stage.lists(Patient, &["audit", "list"], view::audit, &events)
}

// --- 7

fn look_at_the_disk(stage: &mut Stage) -> Result<(), Error> {
    stage.step("What can be read on the disks")?;
    let originals = disk::search(&stage.files(), &TELLING)?;
    let is_there = |word: &str| originals.found.iter().any(|hit| hit.word == word);
    stage.insists(TELLING.into_iter().all(is_there), "all the words are in the files that were imported")?;
    let mut all = disk::Search::default();
    // What a node is called stands in its own settings, where its owner may change it; nowhere else.
    for (who, own) in [(Patient, PATIENT_NAME), (Clinic, CLINIC_NAME), (Centre, CENTRE_NAME)] {
        let mut search = disk::search(stage.home(who), &TELLING)?;
        search.found.retain(|hit| !(hit.word == own && hit.path.ends_with(SETTINGS)));
        all.add(search);
    }
    if let Some(disk::Hit { word, path }) = all.found.first() {
        return Err(unlike(format!("{word} can be read in {}", path.display())).into());
    }
    stage.says(&format!(
        "{} words, among them her name, her patient number and what her tests are called, were searched for: all\n\
         are in the files that were imported, none in the {} files ({}) of the three nodes, except that each\n\
         node's own name may stand in its settings ({SETTINGS}). The keys lie beside the records: here unlocked,\n\
         for the demo; with a passphrase, locked.",
        TELLING.len(),
        all.files,
        view::human_bytes(u64::try_from(all.bytes).unwrap_or(u64::MAX)),
    ))
}

/// Where a node keeps what it is called.
const SETTINGS: &str = "config.toml";

fn close(stage: &Stage) -> Result<(), Error> {
    stage.ends()?;
    stage.says(&format!(
        "That was all of it, in {:.0} s: met, brought in, refused, granted, read, written back, revoked.\n\n\
         What this does not promise: that a reader forgets what it has read. Nothing new is shared; nodes that\n\
         follow the rules stop at once when they hear, and at the latest when the offline limit runs out; the\n\
         clinic was asked to delete and has signed that it did.\n\n\
         To begin for yourself: karte init --name \"Your name\", then karte run. `karte help` shows the rest.",
        stage.seconds()
    ))
}

// --- small helpers

/// The clinic opens a record: its original bytes, read as JSON.
fn open(stage: &Stage, record: &str) -> Result<Value, Error> {
    let reply = stage.tries(Clinic, &["record", "open", record, "--staff", "Dr. Ito"])?;
    stage.insists(reply.code == 0, "the clinic may open it")?;
    serde_json::from_str(&reply.out)
        .map_err(|error| unlike(format!("that is no FHIR resource: {error}")).into())
}

/// A file of the story, beside the three folders.
fn file(stage: &Stage, name: &str, content: &str) -> Result<String, Error> {
    let path: PathBuf = stage.files().join(name);
    std::fs::write(&path, content)?;
    Ok(path.to_string_lossy().into_owned())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn only(items: Vec<Value>, what: &str) -> Result<Value, Error> {
    items.into_iter().next().ok_or_else(|| unlike(format!("expected {what}, got nothing")).into())
}

fn text(item: &Value, name: &str) -> String {
    item.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn is_event(event: &Value, what: &str) -> bool {
    text(event, "event") == what
}

fn same_ids(some: &[Value], others: &[Value]) -> bool {
    let ids = |items: &[Value]| {
        let mut ids: Vec<String> =
            items.iter().map(|item| text(item, "id")).filter(|id| !id.is_empty()).collect();
        ids.sort();
        ids
    };
    ids(some) == ids(others)
}
