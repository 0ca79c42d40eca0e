//! The numbers of a run, for people and for programs.

use serde_json::{Map, Value, json};

use super::{Kind, Options, Tally, run};

/// Runs the kinds one after another and prints what came of it; true when all bars hold. With `json` only the last
/// line is printed to the output.
pub fn report(kinds: &[Kind], options: &Options, json: bool) -> std::io::Result<bool> {
    let (mut object, mut missed) = (Map::new(), Vec::new());
    object.insert("seed".to_owned(), json!(options.seed));
    if !json {
        println!("{HEAD}");
    }
    for kind in kinds {
        let tally = run(*kind, options)?;
        tally.failures.values().flatten().for_each(|failure| eprintln!("{failure}"));
        missed.extend(tally.missed(*kind));
        if !json {
            println!("{}", row(kind.name(), &tally));
            if options.verbose {
                tally.parts.iter().for_each(|(name, part)| println!("    {name}: {}", part.told()));
            }
        }
        object.insert(kind.name().to_owned(), serde_json::to_value(&tally)?);
    }
    missed.iter().for_each(|missed| eprintln!("missed: {missed}"));
    println!("{}", Value::Object(object));
    Ok(missed.is_empty())
}

const HEAD: &str = "kind      trials acknowledged   lost silent unopenable panics broken-off salvaged torn not-revoked seconds";

fn row(name: &str, tally: &Tally) -> String {
    format!(
        "{name:<9} {:>6} {:>12} {:>6} {:>6} {:>10} {:>6} {:>10} {:>8} {:>4} {:>11} {:>7.1}",
        tally.trials,
        tally.acknowledged,
        tally.lost,
        tally.silent,
        tally.unopenable,
        tally.panics,
        tally.broken_off,
        tally.salvaged,
        tally.torn_groups,
        tally.revocations_not_recorded,
        tally.seconds,
    )
}
