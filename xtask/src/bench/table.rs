//! One table per work: smallest, middle and largest of both sides, the ratio of the middles, the goal (`?` where the
//! machine was busy). At most 80 columns.

use super::results::{Load, Results, Spread};
use super::works::{Metric, Unit, WORKS, Work};

/// How the other side of a comparison is called and found.
#[derive(Clone, Copy)]
pub(super) struct Other {
    /// Its name in the results.
    pub(super) side: &'static str,
    /// Its heading.
    pub(super) heading: &'static str,
}

/// The peers.
pub(super) const PEER: Other = Other { side: "peer", heading: "peer" };
/// A revision or a stored baseline.
pub(super) const BASE: Other = Other { side: "base", heading: "base" };

/// The work that `other` did for a metric, as the results name it.
pub(super) fn work_of(other: Other, work: &Work, metric: &Metric) -> Option<&'static str> {
    if other.side == PEER.side { work.peer } else { Some(metric.ours) }
}

/// The side of ours in bf16.
const BF16: &str = "bf16";

/// Prints the tables of a model.
pub(super) fn print(results: &Results, model: &str, threads: &[usize], other: Other) {
    for work in WORKS {
        let mut rows = Vec::new();
        for metric in work.metrics {
            for side in ["ours", BF16] {
                rows.extend(
                    threads.iter().filter_map(|&n| row(results, model, n, other, work, metric, side)),
                );
            }
        }
        let peer_ran = threads
            .iter()
            .any(|&n| work.peer.is_some_and(|script| results.load(model, n, other.side, script).is_some()));
        if rows.is_empty() || (work.again && !peer_ran) {
            continue;
        }
        println!("\n{model}: {}", work.title);
        let unit = match work.metrics[0].unit.name() {
            "" => String::new(),
            unit => format!("{unit}, "),
        };
        let goal = if other.side == PEER.side { "goal" } else { "" };
        let head = [format!("{unit}min/median/max"), "thr".into(), other.heading.into(), "ours".into()];
        let [what, threads_head, theirs, ours] = head;
        grid(&[what, threads_head, theirs, ours, "ratio".into(), goal.into()], &rows);
        note_load(results, model, threads, other, work);
    }
}

/// One line for a work during which others used the CPU, or nothing.
fn note_load(results: &Results, model: &str, threads: &[usize], other: Other, work: &Work) {
    for &n in threads {
        let their_works: Vec<&str> =
            if other.side == PEER.side { work.peer.iter().copied().collect() } else { work.ours.to_vec() };
        let worst = |side: &str, works: &[&str]| {
            let loads = works.iter().filter_map(|w| results.load(model, n, side, w)).filter(|l| !l.quiet);
            loads.map(|l| l.cores).fold(None, |most: Option<f64>, l| Some(most.map_or(l, |m| m.max(l))))
        };
        let sides = [(other.heading, worst(other.side, &their_works)), ("ours", worst("ours", work.ours))];
        let said: Vec<String> = sides
            .iter()
            .filter_map(|(name, load)| Some(format!("{:.1} cores during {name}", (*load)?)))
            .collect();
        if !said.is_empty() {
            println!("  NOT QUIET at {n} thr: others used {}", said.join(", "));
        }
    }
}

fn row(
    results: &Results,
    model: &str,
    threads: usize,
    other: Other,
    work: &Work,
    metric: &Metric,
    side: &str,
) -> Option<[String; 6]> {
    let ours = results.spread(model, threads, side, metric.ours, metric.key)?;
    let their_work = work_of(other, work, metric);
    let theirs = their_work.and_then(|w| results.spread(model, threads, other.side, w, metric.key));
    let ratio = theirs.map(|t| times_better(metric.unit, t.median, ours.median));
    let their_load = their_work.and_then(|w| results.load(model, threads, other.side, w));
    let our_load = results.load(model, threads, side, metric.ours);
    let quiet = is_quiet(&[their_load, our_load]);
    let goals = if side == BF16 { metric.goal_bf16 } else { metric.goal };
    let goal = goals.filter(|_| other.side == PEER.side).map(|g| g[usize::from(model == "M")]);
    let label = if side == BF16 { format!("{}, bf16", metric.label) } else { metric.label.to_owned() };
    Some([
        label,
        threads.to_string(),
        theirs.map_or_else(String::new, three),
        three(ours),
        ratio.map_or_else(String::new, |r| format!("{}×", short(r))),
        goal.map_or_else(String::new, |g| verdict(&format!("≥{g}×"), ratio.map(|r| r >= g), quiet)),
    ])
}

/// How many times better ours is.
pub(super) fn times_better(unit: Unit, theirs: f64, ours: f64) -> f64 {
    if unit.is_rate() { ours / theirs } else { theirs / ours }
}

/// Whether nobody else used the machine, as far as is known.
pub(super) fn is_quiet(loads: &[Option<Load>]) -> bool {
    loads.iter().flatten().all(|l| l.quiet)
}

/// A goal, and whether it is met. Numbers of a busy machine decide nothing.
pub(super) fn verdict(goal: &str, met: Option<bool>, quiet: bool) -> String {
    match met {
        Some(_) if !quiet => format!("{goal} ?"),
        Some(true) => format!("{goal} met"),
        Some(false) => format!("{goal} no"),
        None => goal.to_owned(),
    }
}

fn three(s: Spread) -> String {
    [s.min, s.median, s.max].map(short).join("/")
}

/// Three digits that count.
pub(super) fn short(x: f64) -> String {
    let digits = if x > 0.0 { (2 - x.log10().floor() as i32).clamp(0, 6) as usize } else { 0 };
    format!("{x:.digits$}")
}

/// Prints rows in columns as wide as they need.
pub(super) fn grid<const N: usize>(head: &[String; N], rows: &[[String; N]]) {
    let width = |i: usize| rows.iter().chain([head]).map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in [head].into_iter().chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - cell.chars().count());
            // The first column is words, the others are numbers.
            line += &if i == 0 { format!("  {cell}{pad}") } else { format!("  {pad}{cell}") };
        }
        println!("{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_ratio_above_one_is_always_good_for_us() {
        assert_eq!(times_better(Unit::Seconds, 6.0, 2.0), 3.0);
        assert_eq!(times_better(Unit::TokensPerSecond, 100.0, 300.0), 3.0);
    }

    #[test]
    fn a_row_has_both_sides_and_the_goal() {
        let mut results = Results::new();
        results.add("M", 2, "peer", "train_step.py", &json!({"step_s": 0.3, "foreign_cores": 0.1}));
        results.add("M", 2, "ours", "train-step", &json!({"step_s": 0.1, "foreign_cores": 0.0}));
        let work = WORKS.iter().find(|w| w.name == "train-step").unwrap();
        let row = row(&results, "M", 2, PEER, work, &work.metrics[0], "ours").unwrap();
        assert_eq!(row[2], "0.300/0.300/0.300");
        assert_eq!((row[4].as_str(), row[5].as_str()), ("3.00×", "≥1.45× met"));
    }

    #[test]
    fn a_busy_machine_decides_nothing() {
        assert_eq!(verdict("≥2×", Some(true), false), "≥2× ?");
        assert_eq!(verdict("≥2×", Some(false), true), "≥2× no");
        let loud = Load { cores: 1.0, used: 2, of: 2, quiet: false };
        assert!(is_quiet(&[None]) && !is_quiet(&[None, Some(loud)]));
    }

    #[test]
    fn three_digits_are_kept() {
        assert_eq!([0.0123456, 1.0, 45.678, 12345.6].map(short), ["0.0123", "1.00", "45.7", "12346"]);
    }
}
