//! PPO against a proxy: which arms there are, and the curve of gold and proxy over KL of a run.

use crate::proxies::{Cell, MEMBERS};
use crate::support::runs::{Job, curve, metrics};
use crate::{
    Size,
    fits::{Fit, Form},
};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tetherline_core::BoxError;

/// What PPO maximises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Arm {
    pub(crate) name: &'static str,
    pub(crate) cell: Cell,
    /// `reward.ensemble.combine`; `None`: the first model alone.
    pub(crate) combine: Option<&'static str>,
    /// Coefficient of the penalty, score units per nat.
    pub(crate) beta: f64,
}

const fn single(name: &'static str, pairs: usize, flips: u32) -> Arm {
    Arm { name, cell: Cell { pairs, flips }, combine: None, beta: 0.0 }
}

const fn ensemble(name: &'static str, combine: &'static str) -> Arm {
    Arm { name, cell: Cell::KEY, combine: Some(combine), beta: 0.0 }
}

const fn penalty(name: &'static str, beta: f64) -> Arm {
    Arm { name, cell: Cell::KEY, combine: None, beta }
}

/// Every arm; the first [`FIRST`] are trained before the others, so that what matters most is there first.
pub(crate) const ARMS: [Arm; 11] = [
    single("500 pairs, 25 %", 500, 25),
    penalty("500 pairs, 25 %, β 0.1", 0.1),
    ensemble("worst of five", "worst"),
    single("125 pairs, 25 %", 125, 25),
    single("2000 pairs, 25 %", 2000, 25),
    single("125 pairs, 0 %", 125, 0),
    single("500 pairs, 0 %", 500, 0),
    single("2000 pairs, 0 %", 2000, 0),
    ensemble("mean of five", "mean"),
    penalty("500 pairs, 25 %, β 0.3", 0.3),
    ensemble("mean − 0.1 variance", "{ mean_minus_variance = 0.1 }"),
];

/// Arms of the first round.
pub(crate) const FIRST: usize = 5;

/// A step, or the mean of several: KL to the reference in nats per sequence, the normalised proxy, gold, tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Point {
    pub(crate) kl: f64,
    pub(crate) proxy: f64,
    pub(crate) gold: f64,
    pub(crate) length: f64,
}

impl Arm {
    /// What is maximised, for the tables.
    pub(crate) fn proxy(&self) -> String {
        if self.combine.is_some() { self.name.to_owned() } else { self.cell.to_string() }
    }

    fn directory(&self, seed: u64) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let name: String =
            self.name.replace('β', "beta").replace('%', "percent").chars().map(plain).collect();
        format!("{name}/seed-{seed}")
    }

    /// The run directory of a seed.
    pub(crate) fn run_dir(&self, out: &Path, seed: u64) -> PathBuf {
        Job::new(self.directory(seed), "", &[]).dir(out)
    }

    /// The run of a seed.
    pub(crate) fn job(&self, start: &Path, models: &[PathBuf], seed: u64, size: Size) -> Job {
        let models = if self.combine.is_some() { &models[..MEMBERS] } else { &models[..1] };
        let models: Vec<String> = models.iter().map(|m| format!("'{}'", m.display())).collect();
        let fixed = [("sft.steps", "0"), ("eval.prompts", "0"), ("ppo.lr_schedule", "constant")];
        let job = Job::new(self.directory(seed), "quickstart", &fixed)
            .set("seed", seed)
            .set("model.policy", start.display())
            .set("model.reward", format!("[{}]", models.join(", ")))
            .set("kl", format!("{{ fixed = {{ init = {:?} }} }}", self.beta))
            .set("ppo.steps", size.steps)
            .set("ppo.batch_size", BATCH)
            .set("ppo.lr", LR)
            .set("sampling.max_new_tokens", size.tokens);
        match self.combine {
            Some(combine) => job.set("reward.ensemble.combine", combine),
            None => job,
        }
    }
}

/// The steps of a run; `None` where it has not finished.
pub(crate) fn steps(run: &Path) -> Result<Option<Vec<Point>>, BoxError> {
    if !run.join("policy").is_dir() {
        return Ok(None);
    }
    let log = metrics(run)?;
    let of = |key: &str| curve(&log, key);
    let (kl, proxy) = (of("objective/kl_exact"), of("objective/scores_raw"));
    let (gold, length) = (of("eval/gold"), of("response/length"));
    let point = |i: usize| Point { kl: kl[i], proxy: proxy[i], gold: gold[i], length: length[i] };
    Ok(Some((0..log.len()).map(point).collect()))
}

/// Answers per step, half of the recipe's: the time of a run is what limits the number of arms and seeds.
pub(crate) const BATCH: usize = 32;

/// Below the recipe's rate, so that a run has more points on its way up, and constant.
const LR: f64 = 3e-4;

/// Means of `width` steps each, so that the noise of single batches does not decide where a peak is.
pub(crate) fn blocks(points: &[Point], width: usize) -> Vec<Point> {
    let mean = |part: &[Point]| {
        let of = |get: fn(&Point) -> f64| part.iter().map(get).sum::<f64>() / part.len() as f64;
        Point { kl: of(|p| p.kl), proxy: of(|p| p.proxy), gold: of(|p| p.gold), length: of(|p| p.length) }
    };
    points.chunks(width).map(mean).collect()
}

/// Gold where a curve first comes to `kl`, linear in √KL between its points; `None` where it never does.
pub(crate) fn gold_at(points: &[Point], kl: f64) -> Option<f64> {
    let d = kl.max(0.0).sqrt();
    points.windows(2).find_map(|w| {
        let (a, b) = (w[0].kl.max(0.0).sqrt(), w[1].kl.max(0.0).sqrt());
        (a <= d && d <= b && b > a).then(|| w[0].gold + (d - a) / (b - a) * (w[1].gold - w[0].gold))
    })
}

/// The form of PPO through the blocks of a curve that have left the reference; gold above `reference`.
pub(crate) fn fit(points: &[Point], reference: f64) -> Option<Fit> {
    let left = points.iter().filter(|p| p.kl >= LEFT);
    Form::Rl.fit(&left.map(|p| (p.kl.sqrt(), p.gold - reference)).collect::<Vec<_>>())
}

/// KL from which points enter the fit, nats per sequence: the form has an infinite slope at 0.
pub(crate) const LEFT: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gold_is_read_where_a_curve_first_comes_to_a_kl() {
        let point = |kl: f64, gold: f64| Point { kl, gold, ..Point::default() };
        let curve = [point(1.0, 2.0), point(9.0, 6.0), point(4.0, 100.0), point(16.0, 0.0)];
        assert_eq!(gold_at(&curve, 4.0), Some(4.0), "half-way in √KL from 1 to 3");
        assert_eq!(gold_at(&curve, 0.5), None);
        assert_eq!(gold_at(&curve, 25.0), None);
        let two = blocks(&curve, 3);
        assert_eq!((two.len(), two[0].gold, two[1].kl), (2, 36.0, 16.0));
    }
}
