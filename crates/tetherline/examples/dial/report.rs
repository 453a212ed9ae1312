//! The measured part of `docs/experiments/dial.md`: a table, figures and samples of each world.

use crate::support::figure::{Panel, Series, Style};
use crate::support::page::{Figures, bounds, over_seeds, table};
use crate::tilt::{Tilt, tilt};
use crate::worlds::World;
use serde_json::{Value, json};
use std::fmt::Write as _;
use tetherline::eval::Summary;
use tetherline::pipeline::EvaluationFile;

/// The finished runs of a world.
pub(crate) struct Measured {
    pub(crate) world: World,
    /// (β, seed, what came out).
    pub(crate) runs: Vec<(f64, u64, EvaluationFile)>,
    /// By seed: (prompt, score) of the reference.
    pub(crate) reference: Vec<(u64, Vec<(u64, f64)>)>,
    /// Answers of the reference to each prompt.
    pub(crate) answers: usize,
}

/// A number of an evaluation.
type Get = fn(&Summary) -> Option<f64>;

impl Measured {
    /// The β of the table, in order.
    fn betas(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.runs.iter().map(|r| r.0).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        all
    }

    /// A number after training, one per seed.
    fn each(&self, beta: f64, get: Get) -> Vec<f64> {
        let of = self.runs.iter().filter(|r| r.0 == beta);
        of.filter_map(|r| get(&r.2.comparison.aligned.overall)).collect()
    }

    /// The same of the reference.
    fn before(&self, get: Get) -> Vec<f64> {
        let first = self.betas().first().copied().unwrap_or_default();
        let of = self.runs.iter().filter(|r| r.0 == first);
        of.filter_map(|r| get(&r.2.comparison.baseline.overall)).collect()
    }

    /// What theory says at β, one per seed.
    fn tilts(&self, beta: f64) -> Vec<Tilt> {
        self.reference.iter().filter_map(|r| tilt(&r.1, beta)).collect()
    }

    /// KL up to which the samples of the reference can tell: a tenth of them of the tilted policy's kind.
    fn most(&self) -> f64 {
        (self.answers as f64 / 10.0).ln()
    }

    /// Whether the prediction from samples is to be believed at β.
    fn known(&self, beta: f64) -> bool {
        let tilts = self.tilts(beta);
        !tilts.is_empty() && tilts.iter().map(|t| t.kl).sum::<f64>() / tilts.len() as f64 <= self.most()
    }

    /// Every number.
    pub(crate) fn json(&self) -> Value {
        let run = |(beta, seed, file): &(f64, u64, EvaluationFile)| {
            json!({"beta": beta, "seed": seed, "before": file.comparison.baseline.overall,
                "after": file.comparison.aligned.overall})
        };
        let tilts = self.betas().into_iter().flat_map(|beta| {
            self.reference.iter().filter_map(move |(seed, scores)| {
                let t = tilt(scores, beta)?;
                Some(json!({"beta": beta, "seed": seed, "kl": t.kl, "score": t.score, "gaussian_kl": t.gaussian}))
            })
        });
        json!({
            "world": self.world.name(),
            "runs": self.runs.iter().map(run).collect::<Vec<_>>(),
            "predicted": tilts.collect::<Vec<_>>(),
        })
    }

    /// Tables and samples.
    pub(crate) fn markdown(&self) -> String {
        let name = self.world.name();
        let mut out = format!("### {name}\n\n{}\n![{name}](dial-{name}.svg)\n\n", self.table());
        let _ = write!(out, "{}\n{}", self.predictions(), self.samples());
        out
    }

    fn columns(&self) -> Vec<(&'static str, Get, f64)> {
        let frontdesk = self.world == World::Frontdesk;
        let mut columns: Vec<(&str, Get, f64)> = vec![("proxy", |s| Some(s.score.mean), 1.0)];
        if frontdesk {
            columns.push(("gold", |s| s.gold.map(|g| g.mean), 1.0));
        }
        columns.extend([
            ("KL, nats per sequence", (|s| s.kl_exact.map(|k| k.mean)) as Get, 1.0),
            ("entropy, nats per token", |s| Some(s.entropy.mean), 1.0),
            ("distinct-2", |s| s.distinct_2, 1.0),
            ("different answers, %", |s| Some(s.unique_share), 100.0),
            ("repeated 4-grams, %", |s| s.rep_4gram.map(|r| r.mean), 100.0),
        ]);
        if frontdesk {
            columns.extend([
                ("tokens", (|s| Some(s.length_tokens.mean)) as Get, 1.0),
                ("refuses unsafe, %", |s| s.refusal_unsafe.map(|r| r.share), 100.0),
                ("refuses benign, %", |s| s.refusal_benign.map(|r| r.share), 100.0),
            ]);
        }
        columns
    }

    fn table(&self) -> String {
        let columns = self.columns();
        let head: Vec<&str> = ["β", "seeds"].into_iter().chain(columns.iter().map(|c| c.0)).collect();
        let cells = |values: &dyn Fn(Get) -> Vec<f64>| -> Vec<String> {
            let scaled = |(_, get, scale): &(&str, Get, f64)| {
                values(*get).iter().map(|x| x * scale).collect::<Vec<_>>()
            };
            columns.iter().map(|c| over_seeds(&scaled(c))).collect()
        };
        let row = |name: String, seeds: usize, values: &dyn Fn(Get) -> Vec<f64>| {
            [name, seeds.to_string()].into_iter().chain(cells(values)).collect::<Vec<_>>()
        };
        let score: Get = |s| Some(s.score.mean);
        let mut rows = vec![row("reference".to_owned(), self.before(score).len(), &|get| self.before(get))];
        for beta in self.betas() {
            rows.push(row(beta.to_string(), self.each(beta, score).len(), &|get| self.each(beta, get)));
        }
        table(&head, &rows)
    }

    fn predictions(&self) -> String {
        let head = [
            "β",
            "KL measured",
            "KL* of the samples",
            "Var/2β²",
            "proxy measured",
            "proxy at KL* of the samples",
        ];
        let rows = self.betas().into_iter().filter(|b| *b > 0.0).map(|beta| {
            let tilts = self.tilts(beta);
            let of = |get: fn(&Tilt) -> f64| over_seeds(&tilts.iter().map(get).collect::<Vec<_>>());
            let unless = |text: String| {
                if self.known(beta) { text } else { format!("– (above {:.1})", self.most()) }
            };
            vec![
                beta.to_string(),
                over_seeds(&self.each(beta, |s| s.kl_exact.map(|k| k.mean))),
                unless(of(|t| t.kl)),
                of(|t| t.gaussian),
                over_seeds(&self.each(beta, |s| Some(s.score.mean))),
                if self.known(beta) { of(|t| t.score) } else { "–".to_owned() },
            ]
        });
        let rows: Vec<_> = rows.collect();
        format!(
            "What the reference's own scores predict ({} answers to each prompt):\n\n{}",
            self.answers,
            table(&head, &rows)
        )
    }

    /// The answers of the first seed's runs to the first prompts of its evaluation.
    fn samples(&self) -> String {
        let mut out = String::new();
        let Some(seed) = self.runs.iter().map(|r| r.1).min() else { return out };
        let mut of: Vec<_> = self.runs.iter().filter(|r| r.1 == seed).collect();
        of.sort_by(|a, b| a.0.total_cmp(&b.0));
        let shown = if self.world == World::Frontdesk { 3 } else { 2 };
        // Prompts of the stories occur more than once.
        let first = of.first().map_or(&[][..], |r| &r.2.samples);
        let is_new = |i: &usize| first[..*i].iter().all(|other| other.prompt != first[*i].prompt);
        for i in (0..first.len()).filter(is_new).take(shown) {
            let pair = &first[i];
            let cell = |name: String, side: &tetherline::eval::report::SampleSide| {
                let gold = side.gold.map_or_else(String::new, |g| format!(", {g:.1}"));
                let text = side.response.trim().replace('|', "\\|").replace('\n', " ");
                vec![name, format!("{:.1}{gold}", side.score), text]
            };
            let mut rows = vec![cell("reference".to_owned(), &pair.baseline)];
            let found = of.iter().filter_map(|r| Some((r.0, r.2.samples.get(i)?)));
            rows.extend(found.map(|(beta, pair)| cell(beta.to_string(), &pair.aligned)));
            let scores = if pair.baseline.gold.is_some() { "proxy, gold" } else { "score" };
            let _ = write!(out, "\n> {}\n\n{}", pair.prompt.trim(), table(&["β", scores, "answer"], &rows));
        }
        out
    }

    /// Reward against the dial, and KL against it beside what theory says.
    pub(crate) fn figures(&self) -> Figures {
        let name = self.world.name();
        let betas: Vec<f64> = self.betas().into_iter().filter(|b| *b > 0.0).collect();
        let series = |label: &str, style: Style, get: Get| {
            let all: Vec<_> = betas.iter().map(|b| (*b, bounds(&self.each(*b, get)))).collect();
            let points = all.iter().map(|(b, (mean, _))| (*b, *mean)).collect();
            Series::new(label, style, points).y_interval(all.iter().map(|(_, (_, ci))| *ci).collect())
        };
        let level = |label: &str, value: f64| {
            let ends = [betas.first(), betas.last()].into_iter().flatten().map(|b| (*b, value)).collect();
            Series::new(label, Style::Dashed, ends)
        };
        let mean = |values: Vec<f64>| bounds(&values).0;
        let mut reward =
            Panel::new(&format!("{name}: what the dial buys"), "β, score units per nat", "score")
                .log_x()
                .with(series("proxy", Style::LineDots, |s| Some(s.score.mean)).colour(0))
                .with(level("proxy at β = 0", mean(self.each(0.0, |s| Some(s.score.mean)))).colour(0));
        if self.world == World::Frontdesk {
            let gold: Get = |s| s.gold.map(|g| g.mean);
            reward = reward
                .with(series("gold", Style::LineDots, gold).colour(1))
                .with(level("gold at β = 0", mean(self.each(0.0, gold))).colour(1))
                .with(level("gold of the reference", mean(self.before(gold))).colour(7));
        }
        let predicted = |get: fn(&Tilt) -> f64, only: bool| -> Vec<(f64, f64)> {
            let at = |b: &f64| (*b, mean(self.tilts(*b).iter().map(get).collect()));
            betas.iter().filter(|b| !only || self.known(**b)).map(at).collect()
        };
        let kl = Panel::new(&format!("{name}: KL"), "β, score units per nat", "nats per sequence")
            .log_x()
            .log_y()
            .with(series("measured", Style::LineDots, |s| s.kl_exact.map(|k| k.mean)).colour(0))
            .with(
                Series::new("KL* of the reference's samples", Style::LineDots, predicted(|t| t.kl, true))
                    .colour(1),
            )
            .with(Series::new("Var/2β²", Style::Dashed, predicted(|t| t.gaussian, false)).colour(7));
        vec![(format!("dial-{name}"), vec![reward, kl])]
    }
}
