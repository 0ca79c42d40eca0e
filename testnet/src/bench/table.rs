//! What a bench tells a person: a table for each work, then its bars.

use super::rounds::{Bar, Bound, KARTE, Measured, Outcome, times_of};
use comfy_table::{CellAlignment, Table, presets};

/// One work: its sides, or with `profile` each of their parts, then its bars and what was not run.
pub(super) fn of(outcome: &Outcome, profile: bool) -> String {
    let mut text = format!("{}: {}\n", outcome.work, outcome.what);
    if !outcome.sides.is_empty() {
        text.push_str(&format!("{}\n", sides(outcome, profile)));
    }
    for (name, value) in &outcome.numbers {
        text.push_str(&format!("  {name} {value:.3}\n"));
    }
    outcome.bars.iter().for_each(|bar| text.push_str(&line(bar)));
    outcome.not_run.iter().for_each(|why| text.push_str(&format!("  not run: {why}\n")));
    text
}

fn sides(outcome: &Outcome, profile: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "wall s", "user s", "system s", "peak MiB", "times Karte's"]);
    for side in &outcome.sides {
        table.add_row(row(side, &outcome.sides));
        if profile {
            table.add_rows(parts(side));
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn row(side: &Measured, sides: &[Measured]) -> Vec<String> {
    let times = match side.name {
        KARTE => None,
        other => times_of(sides, other),
    };
    let cpu = side
        .parts()
        .into_iter()
        .fold((0.0, 0.0), |(user, system), (_, cost)| (user + cost.cpu.user_s, system + cost.cpu.system_s));
    vec![
        side.name.to_owned(),
        format!("{:.3}", side.wall_s()),
        format!("{:.2}", cpu.0),
        format!("{:.2}", cpu.1),
        mebibytes(side.peak_bytes()),
        times.map_or_else(String::new, |times| format!("{times:.2}")),
    ]
}

fn parts(side: &Measured) -> Vec<Vec<String>> {
    let spans = side.spans().into_iter().map(|(name, span)| {
        let [empty, more, still] = [const { String::new() }; 3];
        vec![format!("  {name}"), format!("{span:.3}"), empty, more, still]
    });
    let costs = side.parts().into_iter().map(|(name, cost)| {
        let cpu = [cost.cpu.user_s, cost.cpu.system_s].map(|seconds| format!("{seconds:.2}"));
        let [user, system] = cpu;
        vec![format!("  {name}"), String::new(), user, system, mebibytes(cost.peak_bytes)]
    });
    spans.chain(costs).collect()
}

fn mebibytes(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => (bytes >> 20).to_string(),
    }
}

fn line(bar: &Bar) -> String {
    let word = if bar.is_held() { "held" } else { "MISSED" };
    let (sense, bound) = match bar.bound {
        Bound::AtLeast(bound) => ("at least", bound),
        Bound::AtMost(bound) => ("at most", bound),
    };
    format!("  {word}: {}: {:.3} ({sense} {bound})\n", bar.name, bar.value)
}
