//! Order of use: what a reader should have first, when all of it takes long.
//!
//! For: the holder, who knows the labels; it hands a rank over beside each key, and the reader fetches the lower ones
//! first. A hint and no more: a false one delays, and shows nothing to anybody.

use crate::id::{Digest, digest};
use crate::label::Label;
use std::collections::BTreeMap;

/// Marked urgent: it overtakes whatever is under way.
pub const URGENT: u8 = 0;
/// The preview of an imaging series.
pub const PREVIEW: u8 = 1;
/// Whatever is no image: small, and soon read.
pub const ORDINARY: u8 = 2;
/// The middle slice of each imaging series. Those that halve what lies between follow, level by level.
pub const MIDDLE: u8 = 3;
/// The last rank. 12 levels: all of a series of 4,095 slices are told apart.
pub const LAST: u8 = MIDDLE + 11;

/// FHIR request priorities that do not wait (`request-priority`).
const URGENCIES: [&str; 3] = ["urgent", "asap", "stat"];
/// FHIR request priorities.
pub const PRIORITIES: [&str; 4] = ["routine", "urgent", "asap", "stat"];

/// What of a label decides its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Without its neighbours: every slice may be the middle one.
    alone: u8,
    series: Digest,
    position: Option<u32>,
}

impl Use {
    /// Of a record with this label.
    pub fn of(label: &Label) -> Self {
        let is_urgent = label.urgency.as_deref().is_some_and(|urgency| URGENCIES.contains(&urgency));
        let group = label.group.as_ref();
        let alone = match label.kind.as_str() {
            _ if is_urgent => URGENT,
            "dicom/preview" => PREVIEW,
            kind if kind.starts_with("dicom/") && group.is_some() => MIDDLE,
            _ => ORDINARY,
        };
        let series =
            group.map(|group| format!("{}\n{}", group.study, group.series.as_deref().unwrap_or_default()));
        let series = digest(series.unwrap_or_default().as_bytes());
        Self { alone, series, position: group.and_then(|group| group.position) }
    }
}

/// The rank of each record among those that are handed over together.
pub fn ranks(uses: &[Use]) -> Vec<u8> {
    let mut ranks: Vec<u8> = uses.iter().map(|of| of.alone).collect();
    let mut series: BTreeMap<Digest, Vec<(Option<u32>, usize)>> = BTreeMap::new();
    for (index, of) in uses.iter().enumerate().filter(|(_, of)| of.alone == MIDDLE) {
        series.entry(of.series).or_default().push((of.position, index));
    }
    for mut slices in series.into_values() {
        slices.sort_unstable();
        for (place, (_, index)) in slices.iter().enumerate() {
            if let Some(rank) = ranks.get_mut(*index) {
                *rank = MIDDLE.saturating_add(level(place, slices.len())).min(LAST);
            }
        }
    }
    ranks
}

/// How often `0..count` must be halved until `place` is the middle of a part.
fn level(place: usize, count: usize) -> u8 {
    let (mut from, mut to, mut level) = (0usize, count, 0u8);
    loop {
        let middle = from.midpoint(to);
        match place.cmp(&middle) {
            std::cmp::Ordering::Equal => return level,
            std::cmp::Ordering::Less => to = middle,
            std::cmp::Ordering::Greater => from = middle + 1,
        }
        if from >= to {
            return level;
        }
        level = level.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_halved_from_its_middle_on() {
        let levels: Vec<u8> = (0..7).map(|place| level(place, 7)).collect();
        assert_eq!(levels, [2, 1, 2, 0, 2, 1, 2]);
        let levels: Vec<u8> = (0..4095).map(|place| level(place, 4095)).collect();
        assert_eq!(levels.iter().filter(|level| **level == 0).count(), 1, "one middle");
        assert!(levels.iter().all(|level| MIDDLE + level <= LAST), "12 levels");
    }

    proptest::proptest! {
        /// After each level, no gap between two slices is more than twice as long as the shortest.
        #[test]
        fn each_level_is_a_spread(count in 1usize..3_000, up_to in 0u8..8) {
            let shown: Vec<usize> = (0..count).filter(|place| level(*place, count) <= up_to).collect();
            let ends = std::iter::once(-1).chain(shown.iter().map(|place| *place as i64)).chain([count as i64]);
            let ends: Vec<i64> = ends.collect();
            let gaps = ends.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 1);
            let (least, most) = gaps.fold((i64::MAX, 0), |(least, most), gap| (least.min(gap), most.max(gap)));
            proptest::prop_assert!(most <= least.saturating_mul(2), "{least} {most}");
        }
    }
}
