//! The measured part of `docs/experiments/overoptimisation.md`: tables and figures of what is there.

use crate::bon::{self, Curve, NS};
use crate::fits::{Fit, Form};
use crate::pool::kl;
use crate::ppo::{self, ARMS, Arm, Point, gold_at};
use crate::proxies::Cell;
use crate::support::figure::{Panel, Series, Style};
use crate::support::page::{Figures, bounds, change, over_seeds, table};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A finished run of PPO: steps in blocks.
pub(crate) struct Run {
    pub(crate) arm: Arm,
    pub(crate) seed: u64,
    pub(crate) steps: Vec<Point>,
    pub(crate) blocks: Vec<Point>,
}

/// Everything that was measured.
pub(crate) struct Measured {
    /// Gold of the reference on train prompts, which PPO's gold is measured against.
    pub(crate) reference: f64,
    /// Best-of-n.
    pub(crate) curves: Vec<Curve>,
    /// PPO.
    pub(crate) runs: Vec<Run>,
    /// Held-out accuracy by cell and seed.
    pub(crate) accuracy: Vec<(Cell, u64, f64)>,
    /// Samples, as Markdown.
    pub(crate) samples: String,
    /// How it was measured, a sentence.
    pub(crate) how: String,
}

/// KL at which PPO arms are compared, nats per sequence.
const AT: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];

impl Measured {
    fn bon(&self, name: &str) -> Vec<&Curve> {
        self.curves.iter().filter(|c| c.name == name).collect()
    }

    fn of(&self, arm: &str) -> Vec<&Run> {
        self.runs.iter().filter(|r| r.arm.name == arm).collect()
    }

    /// Names of best-of-n curves in the order of the tables.
    fn names(&self) -> Vec<String> {
        let cells = sorted_cells().into_iter().map(|c| c.to_string());
        let others = bon::ENSEMBLES.iter().map(|e| e.0.to_owned()).chain([bon::CONTROL.to_owned()]);
        cells.chain(others).filter(|name| !self.bon(name).is_empty()).collect()
    }

    /// Every number.
    pub(crate) fn json(&self) -> Value {
        let run = |r: &Run| {
            json!({"arm": r.arm.name, "beta": r.arm.beta, "seed": r.seed, "steps": r.steps,
            "fit": ppo::fit(&r.blocks, self.reference)})
        };
        let accuracy = |(cell, seed, x): &(Cell, u64, f64)| json!({"proxy": cell.to_string(), "seed": seed, "accuracy": x});
        json!({
            "reference_gold": self.reference,
            "best_of_n": self.curves.iter().map(Curve::json).collect::<Vec<_>>(),
            "ppo": self.runs.iter().map(run).collect::<Vec<_>>(),
            "held_out": self.accuracy.iter().map(accuracy).collect::<Vec<_>>(),
        })
    }

    /// The tables.
    pub(crate) fn markdown(&self) -> String {
        let mut out = format!("{}\n\n### Best-of-n\n\n{}", self.how, self.bon_table());
        let _ = write!(out, "\n![Best-of-n](overoptimisation-bon.svg)\n\n### PPO\n\n{}", self.ppo_table());
        let _ = write!(out, "\n![PPO](overoptimisation-ppo.svg)\n\n### At equal KL\n\n{}", self.equal_kl());
        let _ = write!(out, "\n### What was expected\n\n{}\n### Samples\n\n{}", self.checks(), self.samples);
        out
    }

    fn bon_table(&self) -> String {
        let head = [
            "proxy",
            "seeds",
            "held-out accuracy, %",
            "gain at n = 16",
            "gain at n = 256",
            "most gain",
            "KL there",
            "α",
            "β",
            "R²",
        ];
        let row = |name: &String| {
            let curves = self.bon(name);
            let each =
                |of: &dyn Fn(&Curve) -> f64| over_seeds(&curves.iter().map(|c| of(c)).collect::<Vec<_>>());
            let fits: Vec<Fit> = curves.iter().filter_map(|c| c.fit()).collect();
            let at = |n: usize| {
                let place = NS.iter().position(|x| *x == n).unwrap_or(0);
                each(&|c| c.gain().get(place).copied().unwrap_or(f64::NAN))
            };
            let accuracy: Vec<f64> =
                self.accuracy.iter().filter(|a| a.0.to_string() == *name).map(|a| 100.0 * a.2).collect();
            vec![
                name.clone(),
                curves.len().to_string(),
                over_seeds(&accuracy),
                at(16),
                at(256),
                each(&|c| c.gain()[c.peak()]),
                each(&|c| kl(NS[c.peak()])),
                over_seeds(&fits.iter().map(|f| f.alpha).collect::<Vec<_>>()),
                over_seeds(&fits.iter().map(|f| f.beta).collect::<Vec<_>>()),
                worst(&fits),
            ]
        };
        table(&head, &self.names().iter().map(row).collect::<Vec<_>>())
    }

    fn ppo_table(&self) -> String {
        let head = [
            "proxy",
            "β of the penalty",
            "seeds",
            "KL at the end",
            "proxy at the end",
            "gain at the end",
            "most gain",
            "KL there",
            "α",
            "β",
            "R²",
            "R², seeds together",
        ];
        let rows = ARMS.iter().filter(|arm| !self.of(arm.name).is_empty()).map(|arm| {
            let runs = self.of(arm.name);
            let each = |of: &dyn Fn(&Run) -> f64| over_seeds(&runs.iter().map(|r| of(r)).collect::<Vec<_>>());
            let fits: Vec<Fit> = runs.iter().filter_map(|r| ppo::fit(&r.blocks, self.reference)).collect();
            let all: Vec<Point> = runs.iter().flat_map(|r| r.blocks.clone()).collect();
            let together = ppo::fit(&all, self.reference);
            let last = |r: &Run| r.blocks.last().copied().unwrap_or_default();
            vec![
                arm.proxy(),
                arm.beta.to_string(),
                runs.len().to_string(),
                each(&|r| last(r).kl),
                each(&|r| last(r).proxy),
                each(&|r| last(r).gold - self.reference),
                each(&|r| peak(&r.blocks).gold - self.reference),
                each(&|r| peak(&r.blocks).kl),
                over_seeds(&fits.iter().map(|f| f.alpha).collect::<Vec<_>>()),
                over_seeds(&fits.iter().map(|f| f.beta).collect::<Vec<_>>()),
                worst(&fits),
                together.map_or_else(|| "–".to_owned(), |f| format!("{:.3}", f.r_squared)),
            ]
        });
        table(&head, &rows.collect::<Vec<_>>())
    }

    /// Differences of gold to the single proxy without penalty where both first reach a KL, paired by seed.
    fn differences(&self, arm: &str, kl: f64) -> Vec<f64> {
        let of = |r: &&Run| {
            let single = self.of(ARMS[0].name).into_iter().find(|s| s.seed == r.seed)?;
            Some(gold_at(&r.blocks, kl)? - gold_at(&single.blocks, kl)?)
        };
        self.of(arm).iter().filter_map(of).collect()
    }

    fn equal_kl(&self) -> String {
        let head: Vec<String> =
            std::iter::once("gold, less that of the single proxy without penalty".to_owned())
                .chain(AT.iter().map(|kl| format!("at {kl} nats")))
                .collect();
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let rows = ARMS.iter().filter(|a| a.cell == Cell::KEY && a.name != ARMS[0].name).filter_map(|arm| {
            let runs = self.of(arm.name).len();
            let cell = |kl: &f64| {
                let found = self.differences(arm.name, *kl);
                let note = if found.len() < runs {
                    format!(" ({} of {runs} runs)", found.len())
                } else {
                    String::new()
                };
                format!("{}{note}", change(&found))
            };
            (runs > 0).then(|| std::iter::once(arm.name.to_owned()).chain(AT.iter().map(cell)).collect())
        });
        let mut out = table(&head, &rows.collect::<Vec<_>>());
        let single = self.of(ARMS[0].name);
        let bon = self.bon(&Cell::KEY.to_string());
        let head = ["KL, nats", "n", "best-of-n: gain", "PPO: gain"];
        let rows = (1..NS.len()).step_by(2).map(|i| {
            let gain: Vec<f64> = bon.iter().filter_map(|c| c.gain().get(i).copied()).collect();
            let found: Vec<f64> = single.iter().filter_map(|r| gold_at(&r.blocks, kl(NS[i]))).collect();
            let ppo: Vec<f64> = found.iter().map(|g| g - self.reference).collect();
            vec![format!("{:.2}", kl(NS[i])), NS[i].to_string(), over_seeds(&gain), over_seeds(&ppo)]
        });
        let _ = write!(
            out,
            "\nThe same proxy ({}) by both ways:\n\n{}",
            Cell::KEY,
            table(&head, &rows.collect::<Vec<_>>())
        );
        out
    }

    fn checks(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |what: &str, wanted: &str, found: String| {
            rows.push(vec![what.to_owned(), wanted.to_owned(), found]);
        };
        let bon: Vec<Fit> =
            self.curves.iter().filter(|c| c.name != bon::CONTROL).filter_map(Curve::fit).collect();
        row("R² of the form of best-of-n, each curve", "≥ 0.95", reached(&bon, 0.95));
        let free = || self.runs.iter().filter(|r| r.arm.beta == 0.0);
        let rl: Vec<Fit> = free().filter_map(|r| ppo::fit(&r.blocks, self.reference)).collect();
        row("R² of the form of PPO, each run without penalty", "≥ 0.90", reached(&rl, 0.90));
        for flips in [0, 25] {
            let points: Vec<(f64, f64)> = sorted_cells()
                .into_iter()
                .filter(|c| c.flips == flips)
                .flat_map(|c| {
                    self.bon(&c.to_string()).into_iter().map(move |b| (c.pairs as f64, kl(NS[b.peak()])))
                })
                .collect();
            row(
                &format!("rank correlation of pairs and KL of the most gold, best-of-n, {flips} % flipped"),
                "≥ 0.7",
                spearman(&points),
            );
            let runs = free().filter(|r| r.arm.combine.is_none() && r.arm.cell.flips == flips);
            let points: Vec<(f64, f64)> =
                runs.map(|r| (r.arm.cell.pairs as f64, peak(&r.blocks).kl)).collect();
            row(&format!("the same, PPO, {flips} % flipped"), "≥ 0.7", spearman(&points));
        }
        for name in bon::ENSEMBLES.map(|e| e.0) {
            let single = self.bon(&Cell::KEY.to_string());
            let pairs: Vec<f64> = self
                .bon(name)
                .iter()
                .filter_map(|e| Some(e.gold.last()? - single.iter().find(|s| s.seed == e.seed)?.gold.last()?))
                .collect();
            row(&format!("best-of-256: {name} less the single proxy"), "≥ 0 in 4 of 5 seeds", won(&pairs));
        }
        for arm in ARMS.iter().filter(|a| a.combine.is_some()) {
            let end = |r: &Run| r.blocks.last().map(|p| p.gold);
            let singles = self.of(ARMS[0].name);
            let pairs: Vec<f64> = self
                .of(arm.name)
                .iter()
                .filter_map(|r| Some(end(r)? - end(singles.iter().find(|s| s.seed == r.seed)?)?))
                .collect();
            row(
                &format!("PPO, at the end: {} less the single proxy", arm.name),
                "≥ 0 in 4 of 5 seeds",
                won(&pairs),
            );
        }
        if let Some(control) = self.bon(bon::CONTROL).first() {
            let rises = control.gold.windows(2).all(|w| w[1] >= w[0]);
            let found = if rises { "rises" } else { "does not always rise" };
            row("best-of-n by gold itself", "gold rises with n", found.to_owned());
        }
        table(&["what", "expected", "found"], &rows)
    }

    /// The figures.
    pub(crate) fn figures(&self) -> Figures {
        let gain = "gold above the reference";
        let d = "√KL, √nats per sequence";
        let mut bon = Vec::new();
        for flips in [0, 25] {
            let mut panel = Panel::new(&format!("Best-of-n, {flips} % of labels flipped"), d, gain);
            let cells = sorted_cells().into_iter().filter(|c| c.flips == flips);
            for (colour, cell) in cells.enumerate() {
                panel = self.with_bon(panel, &cell.to_string(), &format!("{} pairs", cell.pairs), colour);
            }
            bon.push(panel);
        }
        let mut panel = Panel::new("Best-of-n, 500 pairs, 25 % flipped: ensembles", d, gain);
        panel = self.with_bon(panel, &Cell::KEY.to_string(), "single", 0);
        for (i, (name, _)) in bon::ENSEMBLES.iter().enumerate() {
            panel = self.with_bon(panel, name, name, i + 1);
        }
        bon.push(panel);
        let mut panel = Panel::new("Best-of-n: the proxy itself", d, "normalised proxy");
        for (colour, cell) in sorted_cells().into_iter().filter(|c| c.flips == 25).enumerate() {
            let curves = self.bon(&cell.to_string());
            let points = mean_curve(&curves, |c| c.proxy.clone());
            panel = panel.with(Series::new(&cell.to_string(), Style::LineDots, points.0).colour(colour));
        }
        bon.push(panel);

        let mut rl = Vec::new();
        for flips in [0, 25] {
            let mut panel = Panel::new(&format!("PPO without penalty, {flips} % of labels flipped"), d, gain);
            let arms =
                || ARMS.iter().filter(move |a| a.combine.is_none() && a.beta == 0.0 && a.cell.flips == flips);
            let mut arms: Vec<&Arm> = arms().collect();
            arms.sort_by_key(|a| a.cell.pairs);
            let empty = arms.iter().all(|a| self.of(a.name).is_empty());
            for (colour, arm) in arms.into_iter().enumerate() {
                panel = self.with_runs(panel, arm, &format!("{} pairs", arm.cell.pairs), colour);
            }
            if !empty {
                rl.push(panel);
            }
        }
        let (mut ensembles, mut penalties) = (
            Panel::new("PPO, 500 pairs, 25 % flipped: ensembles", d, gain),
            Panel::new("PPO, 500 pairs, 25 % flipped: penalty", d, gain),
        );
        ensembles = self.with_runs(ensembles, &ARMS[0], "single", 0);
        penalties = self.with_runs(penalties, &ARMS[0], "β 0", 0);
        let of_key = ARMS.iter().filter(|a| a.cell == Cell::KEY).skip(1);
        for (i, arm) in of_key.enumerate() {
            if arm.combine.is_some() {
                ensembles = self.with_runs(ensembles, arm, arm.name, i + 1);
            } else {
                penalties = self.with_runs(penalties, arm, &format!("β {}", arm.beta), i + 1);
            }
        }
        rl.extend([ensembles, penalties]);
        vec![("overoptimisation-bon".to_owned(), bon), ("overoptimisation-ppo".to_owned(), rl)]
    }

    /// Means over seeds with their interval, and the form fitted to the means, dashed.
    fn with_bon(&self, panel: Panel, name: &str, label: &str, colour: usize) -> Panel {
        let curves = self.bon(name);
        if curves.is_empty() {
            return panel;
        }
        let (points, interval) = mean_curve(&curves, Curve::gain);
        let fit = Form::BestOfN.fit(&points[1..]);
        let panel = panel
            .with(Series::new(label, Style::LineDots, points.clone()).y_interval(interval).colour(colour));
        with_fit(panel, Form::BestOfN, fit, &points, colour)
    }

    /// Every run as dots, and the form fitted to all of them, dashed.
    fn with_runs(&self, panel: Panel, arm: &Arm, label: &str, colour: usize) -> Panel {
        let runs = self.of(arm.name);
        let points: Vec<(f64, f64)> = runs
            .iter()
            .flat_map(|r| &r.blocks)
            .map(|p| (p.kl.max(0.0).sqrt(), p.gold - self.reference))
            .collect();
        if points.is_empty() {
            return panel;
        }
        let all: Vec<Point> = runs.iter().flat_map(|r| r.blocks.clone()).collect();
        let fit = ppo::fit(&all, self.reference).filter(|_| arm.beta == 0.0);
        with_fit(
            panel.with(Series::new(label, Style::Dots, points.clone()).colour(colour)),
            Form::Rl,
            fit,
            &points,
            colour,
        )
    }
}

fn with_fit(panel: Panel, form: Form, fit: Option<Fit>, points: &[(f64, f64)], colour: usize) -> Panel {
    let Some(fit) = fit else { return panel };
    let last = points.iter().map(|p| p.0).fold(0.0, f64::max);
    let line = (1..=60).map(|i| f64::from(i) / 60.0 * last).map(|d| (d, form.at(fit, d))).collect();
    panel.with(Series::new("", Style::Dashed, line).colour(colour))
}

/// Points of a figure.
type Points = Vec<(f64, f64)>;

/// Means over seeds by √KL, and their intervals.
fn mean_curve(curves: &[&Curve], of: impl Fn(&Curve) -> Vec<f64>) -> (Points, Points) {
    let all: Vec<Vec<f64>> = curves.iter().map(|c| of(c)).collect();
    let at = |i: usize| {
        let (mean, interval) = bounds(&all.iter().map(|c| c[i]).collect::<Vec<_>>());
        ((kl(NS[i]).max(0.0).sqrt(), mean), interval)
    };
    (0..all.first().map_or(0, Vec::len)).map(at).unzip()
}

/// Cells by noise and size.
fn sorted_cells() -> Vec<Cell> {
    let mut cells = Cell::ALL.to_vec();
    cells.sort_by_key(|c| (c.flips, c.pairs));
    cells
}

/// The block of the most gold.
fn peak(blocks: &[Point]) -> Point {
    blocks.iter().copied().max_by(|a, b| a.gold.total_cmp(&b.gold)).unwrap_or_default()
}

fn worst(fits: &[Fit]) -> String {
    let low = fits.iter().map(|f| f.r_squared).fold(f64::INFINITY, f64::min);
    let high = fits.iter().map(|f| f.r_squared).fold(f64::NEG_INFINITY, f64::max);
    match fits.len() {
        0 => "–".to_owned(),
        1 => format!("{low:.3}"),
        _ => format!("{low:.3} to {high:.3}"),
    }
}

fn reached(fits: &[Fit], least: f64) -> String {
    let held = fits.iter().filter(|f| f.r_squared >= least).count();
    format!("{held} of {}; {}", fits.len(), worst(fits))
}

fn won(differences: &[f64]) -> String {
    let held = differences.iter().filter(|d| **d >= 0.0).count();
    format!("{held} of {}; {}", differences.len(), change(differences))
}

/// Pearson's r of the ranks, ties at their mean rank.
fn spearman(points: &[(f64, f64)]) -> String {
    let ranks = |values: Vec<f64>| -> Vec<f64> {
        let below = |x: f64| values.iter().filter(|v| **v < x).count() as f64;
        let same = |x: f64| values.iter().filter(|v| **v == x).count() as f64;
        values.iter().map(|x| below(*x) + (same(*x) + 1.0) / 2.0).collect()
    };
    let (x, y) = (ranks(points.iter().map(|p| p.0).collect()), ranks(points.iter().map(|p| p.1).collect()));
    let pairs: Vec<(f64, f64)> = x.into_iter().zip(y).collect();
    tetherline::eval::correlation::pearson(&pairs)
        .map_or_else(|| "–".to_owned(), |r| format!("{r:.2} ({} points)", points.len()))
}

/// An answer that is shown.
pub(crate) struct Shown {
    pub(crate) by: String,
    /// Proxy and gold.
    pub(crate) scores: String,
    pub(crate) text: String,
}

/// Samples, one table per prompt.
pub(crate) fn samples(prompts: &BTreeMap<String, Vec<Shown>>) -> String {
    let mut out = String::new();
    for (prompt, answers) in prompts {
        let text = |a: &Shown| a.text.trim().replace('|', "\\|").replace('\n', " ");
        let cells: Vec<Vec<String>> =
            answers.iter().map(|a| vec![a.by.clone(), a.scores.clone(), text(a)]).collect();
        let _ = writeln!(out, "> {prompt}\n\n{}", table(&["by", "proxy, gold", "answer"], &cells));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_ties_at_their_mean() {
        assert_eq!(spearman(&[(1.0, 3.0), (2.0, 30.0), (3.0, 300.0)]), "1.00 (3 points)");
        // Ranks of x 1.5, 1.5, 3, 4 and of y 1, 2, 4, 3: Σ of products of deviations 3.5, over √(4.5·5).
        assert_eq!(spearman(&[(5.0, 1.0), (5.0, 2.0), (6.0, 9.0), (7.0, 8.0)]), "0.74 (4 points)");
        assert_eq!(spearman(&[(5.0, 1.0), (5.0, 2.0)]), "–");
    }
}
