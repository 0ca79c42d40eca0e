//! Series: the instances of an import in the order in which they lie in the body.
//!
//! For: a survey that the first pass fills with one small entry an instance, and the arrangement made of it: each
//! instance's position, the copies that contradict each other, and which frames a preview shows. Not for: reading
//! files; and nothing of an instance is held but what orders it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::fault::DicomFault;
use super::header::{Header, Window};
use crate::import::error::ImportError;

/// Which item of an import something is: a number that both passes give it.
pub(crate) type Key = u64;

/// Most instances in one import. 100,000: as many as files; their entries take about 20 MB.
pub(crate) const INSTANCES_MAX: usize = 100_000;

/// Most frames in a preview. 32: at 3 to 6 kB each they arrive within two seconds over 1 Mbit/s.
pub(crate) const PREVIEW_FRAMES_MAX: u32 = 32;

/// Directions closer than this, for every cosine, are one stack. 0.01: about half a degree.
const COSINE_TOLERANCE: f64 = 0.01;

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Order within its series, from 0. Copies of one instance share it.
    pub(crate) position: u32,
    /// Distinct instances of the series.
    pub(crate) count: u32,
    /// Another item holds the same SOP Instance UID with other bytes.
    pub(crate) contradicted: bool,
}

/// What the first pass saw.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    instances: Vec<Instance>,
    series: Vec<Series>,
    numbers: HashMap<(Box<str>, Box<str>), u32>,
}

#[derive(Debug)]
struct Series {
    modality: Option<Box<str>>,
    /// Directions of its stacks, met so far.
    directions: Vec<[f64; 6]>,
}

#[derive(Debug)]
struct Instance {
    key: Key,
    series: u32,
    /// The direction's number; `None` without geometry.
    stack: Option<u32>,
    /// Along the normal of the stack, in micrometres: a grid, so that sums in another order sort alike.
    along_um: Option<i64>,
    location_um: Option<i64>,
    number: Option<i64>,
    uid: Box<str>,
    blake3: [u8; 32],
    frames: u32,
    localizer: bool,
    shows_text: bool,
    has_picture: bool,
    window: Option<Window>,
}

/// One frame that a preview shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Which preview, and which of its pictures in geometric order.
    pub(crate) series: u32,
    pub(crate) slot: u32,
    /// Frame of the instance, from 0.
    pub(crate) frame: u32,
}

/// What a preview will be made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Pictures that it shows.
    pub(crate) slots: u32,
    /// Instances and frames of the whole series.
    pub(crate) instances: u32,
    pub(crate) frames: u64,
    /// Of the middle picture.
    pub(crate) window: Option<Window>,
    pub(crate) shows_text: bool,
}

/// The answer to all that the second pass asks.
#[derive(Debug, Default)]
pub(crate) struct Arrangement {
    placed: HashMap<Key, Placed>,
    picks: HashMap<Key, Vec<Pick>>,
    plans: BTreeMap<u32, Plan>,
}

impl Arrangement {
    /// Where the instance of an item stands; `None` for one that the survey did not see.
    pub(crate) fn placed(&self, key: Key) -> Option<Placed> {
        self.placed.get(&key).copied()
    }

    /// Frames of an item that previews show, in rising order; empty for most items.
    pub(crate) fn picks(&self, key: Key) -> &[Pick] {
        self.picks.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn plan(&self, series: u32) -> Option<&Plan> {
        self.plans.get(&series)
    }

    /// Pictures that a preview still waits for when it starts.
    pub(super) fn picks_of(&self, series: u32) -> u32 {
        self.plan(series).map_or(0, |plan| plan.slots)
    }
}

impl Survey {
    /// Note an instance. Those without a study or series are no part of one and are not noted.
    pub(crate) fn add(&mut self, key: Key, header: &Header) -> Result<(), ImportError> {
        let (Some(study), Some(series)) = (header.study.as_deref(), header.series.as_deref()) else {
            return Ok(());
        };
        if self.instances.len() >= INSTANCES_MAX {
            return Err(DicomFault::TooManyInstances { max: INSTANCES_MAX }.into());
        }
        let number = self.number(study, series, header);
        let stack = self.stack(number, header.orientation);
        let along = stack.and_then(|(_, direction)| header.position.map(|at| along(direction, at)));
        self.instances.push(Instance {
            key,
            series: number,
            stack: stack.filter(|_| along.is_some()).map(|(stack, _)| stack),
            along_um: along.map(micrometres),
            location_um: header.slice_location.map(micrometres),
            number: header.instance_number,
            uid: header.instance.as_deref().unwrap_or_default().into(),
            blake3: header.blake3,
            frames: header.raster.as_ref().map_or(1, |raster| raster.frames),
            localizer: header.is_localizer(),
            shows_text: header.may_show_text(),
            has_picture: header.has_picture(),
            window: header.window,
        });
        Ok(())
    }

    fn number(&mut self, study: &str, series: &str, header: &Header) -> u32 {
        let next = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry((study.into(), series.into())).or_insert(next);
        if number == next {
            let modality = header.modality.as_deref().map(Box::from);
            self.series.push(Series { modality, directions: Vec::new() });
        }
        number
    }

    /// The stack of a direction, and the direction that the stack has.
    fn stack(&mut self, series: u32, orientation: Option<[f64; 6]>) -> Option<(u32, [f64; 6])> {
        let orientation = orientation?;
        let directions = &mut self.series.get_mut(series as usize)?.directions;
        let near =
            |known: &&[f64; 6]| known.iter().zip(orientation).all(|(a, b)| (*a - b).abs() < COSINE_TOLERANCE);
        let found = directions.iter().zip(0..).find(|(known, _)| near(known)).map(|(known, at)| (at, *known));
        Some(found.unwrap_or_else(|| {
            directions.push(orientation);
            (u32::try_from(directions.len() - 1).unwrap_or(u32::MAX), orientation)
        }))
    }

    /// Order all that was noted. The order depends on the instances alone, not on the order of the items.
    pub(crate) fn arrange(self) -> Arrangement {
        let mut by_series: BTreeMap<u32, Vec<Instance>> = BTreeMap::new();
        for instance in self.instances {
            by_series.entry(instance.series).or_default().push(instance);
        }
        let mut arrangement = Arrangement::default();
        for (number, mut instances) in by_series {
            order(&mut instances);
            place(&instances, &mut arrangement);
            let text_only =
                self.series.get(number as usize).and_then(|it| it.modality.as_deref()) == Some("SR");
            if !text_only {
                pick(number, &instances, &mut arrangement);
            }
        }
        arrangement
    }
}

/// Distance of a position along the normal of a direction (PS3.3 C.7.6.2.1.1), in millimetres.
fn along(direction: [f64; 6], position: [f64; 3]) -> f64 {
    let [ax, ay, az, bx, by, bz] = direction;
    let normal = [ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx];
    normal.iter().zip(position).map(|(n, p)| n * p).sum()
}

/// Millimetres on a grid of micrometres; further than a kilometre is as far as a kilometre.
#[expect(clippy::cast_possible_truncation, reason = "clamped to 1e9 before the cast")]
fn micrometres(millimetres: f64) -> i64 {
    (millimetres * 1_000.0).round().clamp(-1e9, 1e9) as i64
}

/// Whether it is of localizers, and its direction's number.
type Stack = (bool, Option<u32>);

/// Slices of the largest stack first, then the other stacks, then what has no place, then localizers. Within a stack
/// along the normal; else by slice location, instance number and SOP Instance UID.
fn order(instances: &mut [Instance]) {
    let mut sizes: HashMap<Stack, usize> = HashMap::new();
    let mut first: HashMap<Stack, (Option<i64>, Box<str>)> = HashMap::new();
    for it in instances.iter() {
        let stack = (it.localizer, it.stack);
        *sizes.entry(stack).or_default() += 1;
        let mine = (it.number, it.uid.clone());
        let least = first.entry(stack).or_insert_with(|| mine.clone());
        if mine < *least {
            *least = mine;
        }
    }
    instances.sort_by_cached_key(|it| {
        let stack = (it.localizer, it.stack);
        let size = std::cmp::Reverse(sizes.get(&stack).copied());
        let own = (it.along_um, it.location_um, it.number, it.uid.clone(), it.blake3, it.key);
        (it.localizer, it.stack.is_none(), size, first.get(&stack).cloned(), own)
    });
}

fn place(instances: &[Instance], arrangement: &mut Arrangement) {
    let mut positions: HashMap<&str, u32> = HashMap::new();
    let mut contents: HashMap<&str, HashSet<[u8; 32]>> = HashMap::new();
    let mut next = 0;
    let mut places = Vec::with_capacity(instances.len());
    for it in instances {
        contents.entry(&it.uid).or_default().insert(it.blake3);
        // Instances without a UID are each their own.
        let position = match positions.get(&*it.uid).filter(|_| !it.uid.is_empty()) {
            Some(position) => *position,
            None => {
                positions.insert(&it.uid, next);
                next += 1;
                next - 1
            }
        };
        places.push((it, position));
    }
    for (it, position) in places {
        let copies = contents.get(&*it.uid).map_or(1, HashSet::len);
        let contradicted = copies > 1 && !it.uid.is_empty();
        arrangement.placed.insert(it.key, Placed { position, count: next, contradicted });
    }
}

/// Frames evenly spread over the pictures of a series. Localizers and captures of screens stand back where there
/// are others: the stack is what one wants to see, and a preview without burned-in text can go further.
fn pick(series: u32, instances: &[Instance], arrangement: &mut Arrangement) {
    let mut seen = HashSet::new();
    let pictures: Vec<_> = instances
        .iter()
        .filter(|it| it.has_picture && it.frames > 0 && seen.insert((&it.uid, it.blake3)))
        .collect();
    let rank = |it: &Instance| (it.shows_text, it.localizer);
    let Some(best) = pictures.iter().map(|it| rank(it)).min() else {
        return;
    };
    let chosen: Vec<_> = pictures.into_iter().filter(|it| rank(it) == best).collect();
    let frames: u64 = chosen.iter().map(|it| u64::from(it.frames)).sum();
    let slots = u32::try_from(frames.min(u64::from(PREVIEW_FRAMES_MAX))).unwrap_or(PREVIEW_FRAMES_MAX);
    let mut window = None;
    let mut before = 0;
    let mut slot = 0;
    for it in &chosen {
        while slot < slots && spread(slot, slots, frames) < before + u64::from(it.frames) {
            let frame = u32::try_from(spread(slot, slots, frames) - before).unwrap_or_default();
            arrangement.picks.entry(it.key).or_default().push(Pick { series, slot, frame });
            if slot == slots / 2 {
                window = it.window;
            }
            slot += 1;
        }
        before += u64::from(it.frames);
    }
    let instances = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
    arrangement.plans.insert(series, Plan { slots, instances, frames, window, shows_text: best.0 });
}

/// Which of `frames` slot `slot` of `slots` shows: the first, the last, and evenly between.
fn spread(slot: u32, slots: u32, frames: u64) -> u64 {
    match u64::from(slots) {
        0 | 1 => frames / 2,
        slots => (u64::from(slot) * (frames - 1) + (slots - 1) / 2) / (slots - 1),
    }
}
