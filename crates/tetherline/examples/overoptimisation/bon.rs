//! Best-of-n against every proxy, and its part of the page.

use crate::fits::{Fit, Form};
use crate::pool::{Answers, best_of, kl};
use crate::proxies::Cell;
use serde_json::{Value, json};
use tetherline_reward::{Combine, EnsembleConfig};

/// Sizes of n.
pub(crate) const NS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// The ensembles of the key cell. λ = 0.5 is what Coste et al. 2024 take for best-of-n.
pub(crate) const ENSEMBLES: [(&str, Combine); 3] = [
    ("mean of five", Combine::Mean),
    ("worst of five", Combine::Worst),
    ("mean − 0.5 variance", Combine::MeanMinusVariance(0.5)),
];

/// The name of the curve whose proxy is gold itself.
pub(crate) const CONTROL: &str = "gold itself";

/// Best-of-n by one proxy: means over the prompts.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) seed: u64,
    /// Proxy of the best of each of [`NS`].
    pub(crate) proxy: Vec<f64>,
    /// Its gold.
    pub(crate) gold: Vec<f64>,
}

impl Curve {
    /// Gold above that of the reference, at each n.
    pub(crate) fn gain(&self) -> Vec<f64> {
        self.gold.iter().map(|g| g - self.gold[0]).collect()
    }

    /// The place of the most gold.
    pub(crate) fn peak(&self) -> usize {
        (0..self.gold.len()).max_by(|&a, &b| self.gold[a].total_cmp(&self.gold[b])).unwrap_or(0)
    }

    /// The form of best-of-n through n ≥ 2.
    pub(crate) fn fit(&self) -> Option<Fit> {
        let gain = self.gain();
        let points = |i: usize| (kl(NS[i]).sqrt(), gain[i]);
        Form::BestOfN.fit(&(1..gain.len()).map(points).collect::<Vec<_>>())
    }

    pub(crate) fn json(&self) -> Value {
        let n: Vec<usize> = NS[..self.gold.len()].to_vec();
        json!({"proxy_of": self.name, "seed": self.seed, "n": n, "proxy": self.proxy, "gold": self.gold, "fit": self.fit()})
    }
}

/// By one score per answer.
fn curve(name: String, seed: u64, pool: &[Answers], scores: &[Vec<f32>]) -> Curve {
    let samples = pool.first().map_or(0, |a| a.gold.len());
    let sizes = NS.iter().copied().filter(|n| *n <= samples);
    let mean = |of: &dyn Fn(&Answers, &[f32]) -> f64| {
        pool.iter().zip(scores).map(|(a, s)| of(a, s)).sum::<f64>() / pool.len() as f64
    };
    let of_proxy = |s: &[f32]| s.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    Curve {
        name,
        seed,
        proxy: sizes.clone().map(|n| mean(&|_, s| best_of(n, s, &of_proxy(s)))).collect(),
        gold: sizes.map(|n| mean(&|a, s| best_of(n, s, &a.gold))).collect(),
    }
}

/// The curves of a cell's reward models, `scores[model][prompt][answer]`: the first alone, and ensembles where it has them.
pub(crate) fn curves(cell: Cell, seed: u64, pool: &[Answers], scores: &[Vec<Vec<f32>>]) -> Vec<Curve> {
    let mut out = vec![curve(cell.to_string(), seed, pool, &scores[0])];
    if scores.len() > 1 {
        for (name, combine) in ENSEMBLES {
            let how = EnsembleConfig { members: scores.len(), combine, ..EnsembleConfig::default() };
            let answer =
                |p: usize, i: usize| how.combine(&scores.iter().map(|m| m[p][i]).collect::<Vec<_>>()).0;
            let combined: Vec<Vec<f32>> =
                (0..pool.len()).map(|p| (0..pool[p].gold.len()).map(|i| answer(p, i)).collect()).collect();
            out.push(curve(name.to_owned(), seed, pool, &combined));
        }
    }
    out
}

/// The control: answers chosen by gold.
pub(crate) fn control(pool: &[Answers]) -> Curve {
    let gold: Vec<Vec<f32>> = pool.iter().map(|a| a.gold.iter().map(|g| *g as f32).collect()).collect();
    curve(CONTROL.to_owned(), 0, pool, &gold)
}
