//! The reward–KL frontier of several regimes: what each buys with its drift, and which are dominated.
//!
//! A regime is *dominated* where another has no more KL to the reference and no less reward, and is better in one of the
//! two. By means alone noise dominates half of all equals; a domination is *clear* where the 95 % interval of the other's
//! reward lies above that of the regime's. Regimes trained with several seeds have the intervals of Student's t over seeds,
//! those of one seed the intervals over prompts of their evaluation, which know nothing of the spread between seeds.

use crate::Estimate;
use crate::format::interval;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A mean and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Mean.
    pub mean: f64,
    /// Interval; `None` where one number says nothing of its spread.
    pub ci: Option<(f64, f64)>,
}

impl Point {
    /// Over seeds where there are several, else the estimate of the one. `None` of none.
    pub fn over_seeds(estimates: &[Estimate]) -> Option<Self> {
        match estimates {
            [] => None,
            [one] => Some(Self { mean: one.mean, ci: one.ci }),
            several => {
                let means: Vec<f64> = several.iter().map(|e| e.mean).collect();
                Estimate::of(&means).map(|e| Self { mean: e.mean, ci: e.ci })
            }
        }
    }
}

/// What a regime came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regime {
    /// Its name: what it changes, as `kl.auto_pi.target=4`.
    pub name: String,
    /// Finished runs, one per seed.
    pub runs: usize,
    /// Exact KL to the reference on held-out prompts, nats per sequence.
    pub kl: Option<Point>,
    /// Score on held-out prompts.
    pub score: Option<Point>,
    /// Gold score there, where the world has gold.
    pub gold: Option<Point>,
    /// Length there, tokens.
    pub length: Option<Point>,
    /// Why runs of it ended early, if any did.
    pub failures: Vec<String>,
}

/// Which regime dominates another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dominated {
    /// The place of the better one.
    pub by: usize,
    /// Whether the intervals of the two rewards are apart.
    pub clear: bool,
}

/// Regimes and who dominates whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    /// In the order of the grid.
    pub regimes: Vec<Regime>,
    /// By gold where every regime has it, else by score.
    pub by_gold: bool,
    /// For each regime, who dominates it.
    pub dominated: Vec<Option<Dominated>>,
}

/// For each (KL, reward) the one that dominates it: of several the one with the most reward.
pub fn dominated(points: &[Option<(Point, Point)>]) -> Vec<Option<Dominated>> {
    let of = |i: usize| {
        let (kl, reward) = points[i]?;
        let better = |(j, other): (usize, &Option<(Point, Point)>)| {
            let (other_kl, other_reward) = (*other)?;
            let no_worse = other_kl.mean <= kl.mean && other_reward.mean >= reward.mean;
            let differs = other_kl.mean < kl.mean || other_reward.mean > reward.mean;
            (i != j && no_worse && differs).then_some((j, other_reward))
        };
        let (by, other) =
            points.iter().enumerate().filter_map(better).max_by(|a, b| a.1.mean.total_cmp(&b.1.mean))?;
        let clear = other.ci.zip(reward.ci).is_some_and(|(other, own)| other.0 > own.1);
        Some(Dominated { by, clear })
    };
    (0..points.len()).map(of).collect()
}

impl Frontier {
    /// Of these regimes.
    pub fn of(regimes: Vec<Regime>) -> Self {
        let finished = || regimes.iter().filter(|r| r.kl.is_some());
        let by_gold = finished().next().is_some() && finished().all(|r| r.gold.is_some());
        let points: Vec<_> =
            regimes.iter().map(|r| r.kl.zip(if by_gold { r.gold } else { r.score })).collect();
        Self { dominated: dominated(&points), by_gold, regimes }
    }

    /// The reward that dominance goes by.
    pub fn reward(&self, regime: &Regime) -> Option<Point> {
        if self.by_gold { regime.gold } else { regime.score }
    }

    /// What dominance says of a regime, in words; empty where nothing.
    pub fn verdict(&self, i: usize) -> String {
        if self.regimes[i].kl.is_none() {
            return "not finished".to_owned();
        }
        match self.dominated[i] {
            None => "on the frontier".to_owned(),
            Some(Dominated { by, clear }) => {
                let how = if clear { "clearly dominated" } else { "dominated, within the noise," };
                format!("{how} by {}", self.short(by))
            }
        }
    }

    /// A regime's name without what all regimes of a grid over one key share.
    pub fn short(&self, i: usize) -> &str {
        let mut keys = self.regimes.iter().filter_map(|r| Some(r.name.rsplit_once('=')?.0));
        let first = keys.next();
        let same = keys.all(|key| Some(key) == first);
        let name = &self.regimes[i].name;
        name.rsplit_once('=').filter(|_| same).map_or(name.as_str(), |(_, value)| value)
    }

    /// As plain text, at most 100 columns wide.
    pub fn table(&self) -> String {
        let width = (0..self.regimes.len()).map(|i| self.regimes[i].name.chars().count()).max().unwrap_or(0);
        let width = width.clamp(6, 34);
        let mut out = String::new();
        let cell = |p: Option<Point>| p.map_or_else(|| "-".to_owned(), |p| interval(p.mean, p.ci, false));
        let cut = |text: &str| text.chars().take(width).collect::<String>();
        let _ = writeln!(out, "{:<width$}  {:<21} {:<20} score", "regime", "KL, nats/seq [95%]", "gold");
        for (i, regime) in self.regimes.iter().enumerate() {
            let (kl, gold, score) = (cell(regime.kl), cell(regime.gold), cell(regime.score));
            let _ = writeln!(out, "{:<width$}  {kl:<21} {gold:<20} {score}", cut(&regime.name));
            let _ = writeln!(out, "{:<width$}  {}", "", self.verdict(i));
            for failure in &regime.failures {
                let _ = writeln!(out, "{:<width$}  {failure}", "");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(mean: f64, half: f64) -> Point {
        Point { mean, ci: Some((mean - half, mean + half)) }
    }

    fn regime(target: f64, kl: f64, gold: f64) -> Regime {
        Regime {
            name: format!("kl.auto_pi.target={target}"),
            runs: 1,
            kl: Some(point(kl, 0.1)),
            score: Some(point(gold, 0.2)),
            gold: Some(point(gold, 0.2)),
            length: None,
            failures: Vec::new(),
        }
    }

    #[test]
    fn what_costs_more_and_brings_less_is_dominated() {
        let f = Frontier::of(vec![
            regime(1.0, 1.0, 2.0),
            regime(2.0, 2.0, 3.0),
            regime(4.0, 4.0, 2.9),
            regime(8.0, 8.0, 1.0),
        ]);
        assert!(f.by_gold);
        assert_eq!(f.dominated[..2], [None, None]);
        assert_eq!(f.dominated[2], Some(Dominated { by: 1, clear: false }));
        assert_eq!(f.dominated[3], Some(Dominated { by: 1, clear: true }));
        let table = f.table();
        assert!(
            table.contains("clearly dominated by 2") && table.contains("within the noise, by 2"),
            "{table}"
        );
        assert!(table.lines().all(|l| l.chars().count() <= 100), "{table}");
    }

    #[test]
    fn equals_do_not_dominate_each_other_and_the_unfinished_dominate_nobody() {
        let mut unfinished = regime(3.0, 0.1, 9.0);
        (unfinished.kl, unfinished.failures) = (None, vec!["halted".to_owned()]);
        let f = Frontier::of(vec![regime(1.0, 1.0, 2.0), regime(2.0, 1.0, 2.0), unfinished]);
        assert_eq!(f.dominated, [None, None, None]);
        assert!(f.table().contains("not finished"));
    }

    #[test]
    fn several_seeds_have_the_interval_of_their_means() {
        let of = |mean: f64| Estimate::of(&[mean - 1.0, mean + 1.0]).unwrap();
        let one = Point::over_seeds(&[of(2.0)]).unwrap();
        assert_eq!((one.mean, one.ci), (2.0, of(2.0).ci));
        // 1, 2, 3: mean 2, sd 1, half width 4.3027/√3.
        let (low, high) = Point::over_seeds(&[of(1.0), of(2.0), of(3.0)]).unwrap().ci.unwrap();
        assert!((high - low - 2.0 * 4.302_652_730 / 3f64.sqrt()).abs() < 1e-9);
        assert_eq!(Point::over_seeds(&[]), None);
    }
}
