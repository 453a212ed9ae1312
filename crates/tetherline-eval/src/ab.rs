//! Policies against one baseline on the same prompts, tested while the responses come in.
//!
//! Every candidate is paired with the baseline, prompt by prompt; a [`Pair`] is candidate minus baseline, averaged over the
//! samples of the prompt. Win rate, score and (where there is one) gold have always-valid p-values ([`crate::sequential`]),
//! which Holm's method corrects over all candidates and metrics at once ([`crate::multiple`]): the probability of any false
//! claim is at most α, however often one looks and whenever one stops. The percentile intervals of the bootstrap over prompts
//! ([`crate::bootstrap`]) are those of a number of prompts fixed beforehand; after an early stop read the always-valid ones.

use crate::bootstrap::{RESAMPLES, bootstrap_of, paired_bootstrap};
use crate::format::fixed;
use crate::length::{controlled_mean, controlled_win_rate};
use crate::multiple::holm;
use crate::sequential::{BoundedMean, EFFECT, TTest};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One prompt: candidate minus baseline, means over the prompt's samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The prompt.
    pub prompt_id: u64,
    /// How often the candidate's response was preferred, ties ½: 0 to 1.
    pub win: f64,
    /// Difference of scores.
    pub score: f64,
    /// Difference of gold scores, where the world has gold.
    pub gold: Option<f64>,
    /// Difference of lengths, tokens.
    pub length: f64,
    /// Difference of exact KL to the reference, nats per sequence.
    pub kl: f64,
}

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of prompts on which the candidate wins; ½ under the null hypothesis.
    WinRate,
    /// Score, candidate minus baseline; 0 under the null hypothesis.
    Score,
    /// Gold score, candidate minus baseline; 0 under the null hypothesis.
    Gold,
}

impl Metric {
    /// Its value where the two policies are equally good.
    pub fn null(self) -> f64 {
        if self == Self::WinRate { 0.5 } else { 0.0 }
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::WinRate => "win rate",
            Self::Score => "score",
            Self::Gold => "gold",
        }
    }
}

/// What the test says about a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The candidate is better: Holm's p ≤ α.
    Better,
    /// It is worse.
    Worse,
    /// Neither is shown.
    Undecided,
}

/// A tested metric of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// Which.
    pub metric: Metric,
    /// Its mean over prompts.
    pub mean: f64,
    /// Bootstrap over prompts, 95 %, for a number of prompts fixed beforehand.
    pub bootstrap: Option<(f64, f64)>,
    /// Confidence sequence at 1 − α: valid whenever one stopped. `None` while it is the whole line.
    pub always: Option<(f64, f64)>,
    /// Always-valid p-value.
    pub p: f64,
    /// The same after Holm's correction over all candidates and metrics.
    pub p_holm: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// A number with its bootstrap interval that is described, not tested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Described {
    /// What, with its unit.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Bootstrap over prompts, 95 %.
    pub bootstrap: Option<(f64, f64)>,
}

/// A candidate beside the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// What is tested.
    pub tested: Vec<Tested>,
    /// Win rate, score and gold at equal length ([`crate::length`]), and the differences of length and KL.
    pub described: Vec<Described>,
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AbResult {
    /// The policy that all are compared with.
    pub baseline: String,
    /// Prompts answered.
    pub prompts: usize,
    /// Prompts there were.
    pub available: usize,
    /// Probability of any false claim that was allowed.
    pub alpha: f64,
    /// The metric whose decision ends the comparison.
    pub decide_on: Metric,
    /// Who decides who wins.
    pub judge: String,
    /// The others, in the order given.
    pub candidates: Vec<Candidate>,
}

/// Prompts before the first decision; one on scores needs [`crate::sequential::SETTLED`].
pub const FIRST_LOOK: usize = 20;

/// A comparison under way.
#[derive(Clone, Debug)]
pub struct AbTest {
    alpha: f64,
    decide_on: Metric,
    sides: Vec<Side>,
}

#[derive(Clone, Debug)]
struct Side {
    name: String,
    pairs: Vec<Pair>,
    win: BoundedMean,
    score: TTest,
    gold: TTest,
    has_gold: bool,
}

impl AbTest {
    /// Before the first prompt.
    pub fn new(candidates: &[String], alpha: f64, decide_on: Metric) -> Self {
        let side = |name: &String| Side {
            name: name.clone(),
            pairs: Vec::new(),
            win: BoundedMean::new(0.5),
            score: TTest::new(EFFECT),
            gold: TTest::new(EFFECT),
            has_gold: true,
        };
        Self { alpha, decide_on, sides: candidates.iter().map(side).collect() }
    }

    /// Takes one prompt's pair of a candidate, by its place.
    ///
    /// # Panics
    /// If there is no such candidate.
    pub fn push(&mut self, candidate: usize, pair: Pair) {
        let side = &mut self.sides[candidate];
        side.win.push(pair.win);
        side.score.push(pair.score);
        match pair.gold {
            Some(gold) => side.gold.push(gold),
            None => side.has_gold = false,
        }
        side.pairs.push(pair);
    }

    /// Prompts seen.
    pub fn prompts(&self) -> usize {
        self.sides.first().map_or(0, |side| side.pairs.len())
    }

    /// The metrics of every candidate with their p-values, in order.
    fn tests(&self) -> Vec<(usize, Metric, f64)> {
        let of_side = |(i, side): (usize, &Side)| {
            let gold = side.has_gold.then(|| (i, Metric::Gold, side.gold.p()));
            [(i, Metric::WinRate, side.win.p()), (i, Metric::Score, side.score.p())].into_iter().chain(gold)
        };
        self.sides.iter().enumerate().flat_map(of_side).collect()
    }

    /// Every always-valid p-value after Holm's correction, by candidate and metric.
    pub fn p_values_holm(&self) -> Vec<f64> {
        holm(&self.tests().iter().map(|t| t.2).collect::<Vec<_>>())
    }

    /// Whether the metric to decide on is decided for every candidate, after Holm's correction.
    pub fn decided(&self) -> bool {
        if self.prompts() < FIRST_LOOK {
            return false;
        }
        let tests = self.tests();
        let adjusted = self.p_values_holm();
        let mut decisive = tests.iter().zip(adjusted).filter(|((_, metric, _), _)| *metric == self.decide_on);
        decisive.all(|(_, p)| p <= self.alpha)
    }

    /// The result so far. `available` is how many prompts there were; bootstrap draws come from `seed`.
    pub fn result(&self, baseline: &str, judge: &str, available: usize, seed: u64) -> AbResult {
        let tests = self.tests();
        let adjusted = self.p_values_holm();
        let of_side = |(i, side): (usize, &Side)| {
            let own = tests.iter().zip(&adjusted).filter(|((j, ..), _)| *j == i);
            let tested =
                own.map(|(&(_, metric, p), &p_holm)| self.tested(i, metric, (p, p_holm), seed)).collect();
            Candidate { name: side.name.clone(), tested, described: side.described(i, seed) }
        };
        AbResult {
            baseline: baseline.to_owned(),
            prompts: self.prompts(),
            available,
            alpha: self.alpha,
            decide_on: self.decide_on,
            judge: judge.to_owned(),
            candidates: self.sides.iter().enumerate().map(of_side).collect(),
        }
    }

    fn tested(&self, i: usize, metric: Metric, (p, p_holm): (f64, f64), seed: u64) -> Tested {
        let side = &self.sides[i];
        let values = side.values(metric);
        let change = paired_bootstrap(&values, RESAMPLES, seed, name(i, metric as u64));
        let mean = change.map_or(f64::NAN, |c| c.mean);
        let always = match metric {
            Metric::WinRate => Some(side.win.interval(self.alpha)),
            Metric::Score => side.score.interval(self.alpha),
            Metric::Gold => side.gold.interval(self.alpha),
        };
        let verdict = match p_holm <= self.alpha && self.prompts() >= FIRST_LOOK {
            true if mean > metric.null() => Verdict::Better,
            true => Verdict::Worse,
            false => Verdict::Undecided,
        };
        Tested { metric, mean, bootstrap: change.and_then(|c| c.ci), always, p, p_holm, verdict }
    }
}

impl AbResult {
    /// As plain text, at most 100 columns wide.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let ci = |ci: Option<(f64, f64)>, d: usize| {
            ci.map_or_else(
                || "-".to_owned(),
                |(low, high)| format!("[{}, {}]", fixed(low, d), fixed(high, d)),
            )
        };
        for c in &self.candidates {
            let _ = writeln!(out, "{} against {}", c.name, self.baseline);
            let _ = writeln!(
                out,
                "  {:<25} {:>9}  {:<20} {:<20} {:>8}",
                "",
                "mean",
                format!("always valid {} %", fixed(100.0 * (1.0 - self.alpha), 0)),
                "bootstrap 95 %",
                "p, Holm"
            );
            for t in &c.tested {
                let d = if t.metric == Metric::WinRate { 3 } else { 2 };
                let p = if t.p_holm < 0.001 { "< 0.001".to_owned() } else { fixed(t.p_holm, 3) };
                let (always, bootstrap) = (ci(t.always, d), ci(t.bootstrap, d));
                let verdict = match t.verdict {
                    Verdict::Better => "better",
                    Verdict::Worse => "worse",
                    Verdict::Undecided => "undecided",
                };
                let (name, mean) = (t.metric.name(), fixed(t.mean, d));
                let _ =
                    writeln!(out, "  {name:<25} {mean:>9}  {always:<20} {bootstrap:<20} {p:>8}  {verdict}");
            }
            for d in &c.described {
                let digits = if d.name.starts_with("win") { 3 } else { 2 };
                let (value, bootstrap) = (fixed(d.value, digits), ci(d.bootstrap, digits));
                let line = format!("  {:<25} {value:>9}  {:<20} {bootstrap}", d.name, "");
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
        let decided = self.prompts < self.available;
        let how = if decided { "decided after" } else { "answered" };
        let _ = write!(
            out,
            "{how} {} of {} prompts; who wins: {}, ties count 1/2",
            self.prompts, self.available, self.judge
        );
        out
    }
}

/// The name of a random stream: one per candidate and quantity.
fn name(candidate: usize, quantity: u64) -> u64 {
    1000 * (candidate as u64 + 1) + quantity
}

impl Side {
    fn values(&self, metric: Metric) -> Vec<f64> {
        let value = |pair: &Pair| match metric {
            Metric::WinRate => Some(pair.win),
            Metric::Score => Some(pair.score),
            Metric::Gold => pair.gold,
        };
        self.pairs.iter().filter_map(value).collect()
    }

    fn described(&self, i: usize, seed: u64) -> Vec<Described> {
        let lengths: Vec<f64> = self.pairs.iter().map(|p| p.length).collect();
        let mut out = Vec::new();
        type Fit = fn(&[f64], &[f64]) -> Option<f64>;
        let mut controlled = |text: &str, metric: Metric, fit: Fit, resamples: u32| {
            let values = self.values(metric);
            let Some(value) = (values.len() == lengths.len()).then(|| fit(&values, &lengths)).flatten()
            else {
                return;
            };
            let of = |drawn: &[usize]| {
                let pick = |from: &[f64]| drawn.iter().map(|&i| from[i]).collect::<Vec<f64>>();
                fit(&pick(&values), &pick(&lengths))
            };
            let bootstrap = bootstrap_of(values.len(), resamples, seed, name(i, 10 + metric as u64), of);
            out.push(Described { name: text.to_owned(), value, bootstrap });
        };
        controlled("win rate at equal length", Metric::WinRate, controlled_win_rate, RESAMPLES / 10);
        controlled("score at equal length", Metric::Score, controlled_mean, RESAMPLES);
        controlled("gold at equal length", Metric::Gold, controlled_mean, RESAMPLES);
        let kl: Vec<f64> = self.pairs.iter().map(|p| p.kl).collect();
        for (k, (text, values)) in
            [("length, tokens", &lengths), ("KL, nats/seq", &kl)].into_iter().enumerate()
        {
            if let Some(change) = paired_bootstrap(values, RESAMPLES, seed, name(i, 20 + k as u64)) {
                out.push(Described { name: text.to_owned(), value: change.mean, bootstrap: change.ci });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_core::seeds::{Purpose, stream};

    fn pair(prompt_id: u64, score: f64) -> Pair {
        let win = if score > 0.0 { 1.0 } else { 0.0 };
        Pair { prompt_id, win, score, gold: Some(0.5 * score), length: score.round(), kl: 0.1 }
    }

    fn run(shift: f64) -> AbTest {
        let mut test = AbTest::new(&["b".to_owned(), "c".to_owned()], 0.05, Metric::Score);
        let mut r = stream(2, Purpose::World, 0, 0, 0);
        for i in 0..400 {
            test.push(0, pair(i, r.normal() + shift));
            test.push(1, pair(i, r.normal() - shift));
            if test.decided() {
                break;
            }
        }
        test
    }

    #[test]
    fn a_clear_difference_stops_early_and_names_both_sides() {
        let test = run(0.6);
        assert!((20..200).contains(&test.prompts()), "{}", test.prompts());
        let result = test.result("a", "score", 400, 1);
        let verdicts: Vec<_> = result.candidates.iter().map(|c| c.tested[1].verdict).collect();
        assert_eq!(verdicts, [Verdict::Better, Verdict::Worse]);
        for t in result.candidates.iter().flat_map(|c| &c.tested) {
            assert!(t.p_holm >= t.p && (t.p_holm <= 0.05) == (t.verdict != Verdict::Undecided));
        }
        let table = result.table();
        assert!(table.contains("c against a") && table.contains("worse"), "{table}");
        assert!(table.lines().all(|l| l.chars().count() <= 100), "{table}");
        // What Holm decides the interval at the same level decides too, or sooner.
        let (low, high) = result.candidates[0].tested[1].always.unwrap();
        assert!(low > 0.0 && high > low, "{low} {high}");
    }

    #[test]
    fn no_difference_goes_on_to_the_last_prompt() {
        let test = run(0.0);
        assert_eq!((test.prompts(), test.decided()), (400, false));
        let result = test.result("a", "score", 400, 1);
        assert!(result.candidates.iter().flat_map(|c| &c.tested).all(|t| t.verdict == Verdict::Undecided));
        let names: Vec<_> = result.candidates[0].described.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        let text = serde_json::to_string(&result).unwrap();
        assert_eq!(serde_json::from_str::<AbResult>(&text).unwrap(), result);
    }

    #[test]
    fn without_gold_of_every_prompt_gold_is_not_tested() {
        let mut test = AbTest::new(&["b".to_owned()], 0.05, Metric::WinRate);
        test.push(0, pair(1, 1.0));
        test.push(0, Pair { gold: None, ..pair(2, 1.0) });
        let result = test.result("a", "score", 2, 1);
        assert_eq!(result.candidates[0].tested.len(), 2);
        assert!(!test.decided());
    }
}
