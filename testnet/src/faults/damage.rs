//! Damage of the disk's content: one bit, one page, or the end of one file, of every kind of file in turn.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::dice::{Dice, index};
use super::lane::{self, Case, Lane, Run};
use super::model::Known;
use super::plan::Plan;
use super::{Kind, Options, Tally};

/// Folders that trials are made from: half of them closed, half of them killed.
const TEMPLATES: u64 = 6;
/// Steps of a plan.
const STEPS: u64 = 160;
/// What a disk loses at once, in bytes.
const PAGE: usize = 4096;

/// A folder before the damage.
struct Template {
    /// Its files in memory, by path.
    files: Vec<(PathBuf, Vec<u8>)>,
    folders: Vec<PathBuf>,
    plan: Plan,
    known: Known,
    is_closed: bool,
}

/// Damaged folders.
pub(super) fn damaged(kind: Kind, options: &Options) -> io::Result<Tally> {
    let templates: Vec<Mutex<Option<Template>>> = (0..TEMPLATES).map(|_| Mutex::new(None)).collect();
    lane::run(kind, options, 1, &|lane, trials: Range<u64>| {
        let trial = trials.end - 1;
        let number = trial % TEMPLATES;
        let mut template = templates[index(number)].lock().expect("no lane panics with a template");
        if template.is_none() {
            *template = Some(build(lane, number)?);
        }
        match template.as_ref() {
            Some(template) => damage(lane, template, trial),
            None => Ok(Tally::default()),
        }
    })
}

fn build(lane: &Lane, number: u64) -> io::Result<Template> {
    let plan = Plan { seed: Dice::new("damage", &[lane.options.seed, number]).number() };
    let is_closed = number.is_multiple_of(2);
    let dir = lane.fresh("template")?;
    let mut run = Run::new(&dir, plan, STEPS);
    run.hangs = !is_closed;
    let heard = lane.work(&run)?;
    if !heard.done {
        return Err(io::Error::other(format!("a worker without a fault did not come to its end: {heard:?}")));
    }
    let mut known = Known::default();
    known.heard(plan, &heard);
    let mut files = Vec::new();
    for path in lane::files(&dir)? {
        let bytes = lane::read(&dir.join(&path))?;
        files.push((path, bytes));
    }
    let folders = ["incoming", "tmp", "payloads"].map(PathBuf::from).to_vec();
    Ok(Template { files, folders, plan, known, is_closed })
}

fn damage(lane: &mut Lane, template: &Template, trial: u64) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let kind = lane.kind;
    let mut dice = Dice::new(kind.name(), &[lane.options.seed, trial]);
    let Some(hit) = choose(template, trial / TEMPLATES, &mut dice) else { return Ok(tally) };
    let dir = lane.fresh("store")?;
    let kept = lane.fresh("damaged")?;
    for folder in &template.folders {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    for (number, (path, bytes)) in template.files.iter().enumerate() {
        let target = dir.join(path);
        target.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        if number == hit {
            let hurt = hurt(kind, bytes, &mut dice);
            std::fs::write(kept.join("damaged-file"), &hurt)?;
            std::fs::write(kept.join("its-path"), path.as_os_str().as_encoded_bytes())?;
            std::fs::write(&target, hurt)?;
        } else {
            std::fs::write(&target, bytes)?;
        }
    }
    let state = if template.is_closed { "closed" } else { "killed" };
    let part = format!("{}, {state}", file_kind(&template.files[hit].0));
    let case =
        Case { dir: &dir, kept: Some(&kept), plan: template.plan, trial, part: &part, until: Some(STEPS) };
    lane.judge(&case, &template.known, false, &mut tally)?;
    Ok(tally)
}

/// A file with something in it: the kinds in turn, one of a kind by chance.
fn choose(template: &Template, turn: u64, dice: &mut Dice) -> Option<usize> {
    let mut kinds: Vec<String> = Vec::new();
    let with_content = || template.files.iter().enumerate().filter(|(_, (_, bytes))| !bytes.is_empty());
    for (_, (path, _)) in with_content() {
        let kind = file_kind(path);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let kind = kinds.get(index(turn % (kinds.len() as u64).max(1)))?;
    let of_kind: Vec<usize> =
        with_content().filter(|(_, (path, _))| file_kind(path) == *kind).map(|(number, _)| number).collect();
    dice.pick(&of_kind).copied()
}

fn hurt(kind: Kind, bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = index(dice.below(bytes.len() as u64));
    match kind {
        Kind::Truncate => bytes.truncate(at),
        Kind::Zero => {
            let page = at / PAGE * PAGE;
            let end = (page + PAGE).min(bytes.len());
            bytes[page..end].fill(0);
        }
        _ => bytes[at] ^= 1 << dice.below(8),
    }
    bytes
}

/// What a file is, by its path: its folder and its ending; names that are hashes or numbers are all alike.
pub(crate) fn file_kind(path: &Path) -> String {
    let first = path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let first = first.unwrap_or_default();
    let is_alone = path.components().count() == 1;
    match path.extension() {
        Some(ending) if !is_alone => format!("{first}/*.{}", ending.to_string_lossy()),
        _ if is_alone => first,
        _ => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let is_named =
                name.chars().any(|letter| !letter.is_ascii_hexdigit() && letter != '-' && letter != '.');
            if is_named { format!("{first}/{name}") } else { format!("{first}/*") }
        }
    }
}
