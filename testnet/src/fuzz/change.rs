//! Chance that repeats, and what it does to an input.

use super::INPUT_BYTES_MAX;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }
}

pub(super) fn crc(name: &str) -> u32 {
    name.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

/// One seed after one to eight changes, in place of what was in `input`.
pub(super) fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&[u8]], dice: &mut Dice) {
    input.clear();
    input.extend_from_slice(dice.pick(seeds).map_or(&[], Vec::as_slice));
    for _ in 0..=dice.below(8) {
        change_once(input, seeds, words, dice);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn change_once(input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&[u8]], dice: &mut Dice) {
    const INTERESTING: [u32; 8] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff];
    let at = dice.below(input.len() + 1);
    let until = (at + dice.below(64)).min(input.len());
    match dice.below(8) {
        0 => {
            let bit = dice.below(8);
            input.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
        }
        1 => {
            let value = dice.pick(&INTERESTING).copied().unwrap_or_default();
            let bytes = if dice.below(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
            let width = [1, 2, 4].get(dice.below(3)).copied().unwrap_or(4);
            for (to, from) in input.iter_mut().skip(at).zip(bytes.into_iter().take(width)) {
                *to = from;
            }
        }
        2 => drop(input.drain(at..until)),
        3 => {
            let part: Vec<u8> = input.get(at..until).unwrap_or_default().to_vec();
            let times = 1 + dice.below(32);
            input.splice(at..at, part.repeat(times));
        }
        4 => {
            let word = dice.pick(words).copied().unwrap_or_default();
            input.splice(at..at, word.iter().copied());
        }
        5 => {
            let word = dice.pick(words).copied().unwrap_or_default();
            input.splice(at..until, word.iter().copied());
        }
        6 => input.truncate(at),
        _ => {
            let other = dice.pick(seeds).map_or(&[][..], Vec::as_slice);
            let from = dice.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(other.get(from..).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_changes_the_same_way_and_another_does_not() {
        let seeds = [b"weight 62.4kg".to_vec(), b"bp 132/84".to_vec()];
        let inputs = |seed| {
            let (mut dice, mut input) = (Dice(seed), Vec::new());
            let made = (0..20).map(|_| {
                change(&mut input, &seeds, &[b",", b"\""], &mut dice);
                input.clone()
            });
            made.collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }
}
