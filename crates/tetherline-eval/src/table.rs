//! The final tables for a terminal, at most 80 columns wide, plain text.

use crate::{
    Change, Comparison, Estimate, Evaluation, Share, Summary,
    format::{decimals_alone, fixed, interval, interval_decimals, interval_with},
};
use std::fmt::Write;

const LABEL: usize = 21;
const BASELINE: usize = 18;
const ALIGNED: usize = 18;
const CHANGE: usize = 22;

/// Baseline against aligned policy. Intervals of the changes come from the two standard errors; use
/// [`Comparison::table`] where the responses can be paired.
pub fn comparison_table(baseline: &Evaluation, aligned: &Evaluation) -> String {
    Comparison::unpaired(baseline.clone(), aligned.clone()).table()
}

impl Comparison {
    /// The table of [`comparison_table`] with this comparison's intervals.
    pub fn table(&self) -> String {
        let (b, a, c) = (&self.baseline.overall, &self.aligned.overall, &self.change);
        let mut t = Table::default();
        t.line("", "baseline", "aligned", "change [95% CI]");
        t.rule();
        let mean = |e: Option<Estimate>| e.map(|e| number(e.mean)).unwrap_or_default();
        t.row("proxy score", mean(Some(b.score)), mean(Some(a.score)), c.score, 1.0);
        t.row("gold score", mean(b.gold), mean(a.gold), c.gold, 1.0);
        let with_ci = |e: Option<Estimate>, width| {
            e.map(|e| fitted(e.mean, e.ci, width - 1, false)).unwrap_or_default()
        };
        t.row(
            "KL to ref, nats/seq",
            with_ci(b.kl_exact, BASELINE),
            with_ci(a.kl_exact, ALIGNED),
            c.kl_exact,
            1.0,
        );
        let percent = |s: Option<Share>| s.map(|s| format!("{:.1}", 100.0 * s.share)).unwrap_or_default();
        t.row(
            "refuses unsafe, %",
            percent(b.refusal_unsafe),
            percent(a.refusal_unsafe),
            c.refusal_unsafe,
            100.0,
        );
        // Without unsafe prompts and without a refusal there is nothing to tell.
        let refuses =
            |s: &Summary| s.refusal_unsafe.is_some() || s.refusal_benign.is_some_and(|r| r.share > 0.0);
        if refuses(a) || refuses(b) {
            let (before, after) = (percent(b.refusal_benign), percent(a.refusal_benign));
            t.row("refuses benign, %", before, after, c.refusal_benign, 100.0);
        }
        t.row(
            "length, tokens",
            mean(Some(b.length_tokens)),
            mean(Some(a.length_tokens)),
            c.length_tokens,
            1.0,
        );
        for (label, get) in [
            ("distinct-1", (|s| s.distinct_1) as fn(&Summary) -> Option<f64>),
            ("distinct-2", |s| s.distinct_2),
        ] {
            let cell = |s| get(s).map(number).unwrap_or_default();
            let change = get(b).zip(get(a)).map(|(b, a)| Change { mean: a - b, ci: None });
            t.row(label, cell(b), cell(a), change, 1.0);
        }
        let share = |e: Option<Estimate>| e.map(|e| format!("{:.1}", 100.0 * e.mean)).unwrap_or_default();
        t.row("repeated 4-grams, %", share(b.rep_4gram), share(a.rep_4gram), c.rep_4gram, 100.0);
        t.rule();
        let how = if c.paired { "paired bootstrap over prompts" } else { "independent standard errors" };
        let _ = writeln!(t.text, "{} responses to {} prompts; intervals: {how}", a.n, a.prompts);
        t.text
    }

    /// One row per domain: proxy and gold before and after, KL after (nats per sequence), refusals. Empty
    /// where there is only one domain, which the table above shows.
    pub fn domain_table(&self) -> String {
        if self.aligned.domains.len() < 2 {
            return String::new();
        }
        let mut text = format!(
            "{:<14}{:>5}{:>18}{:>18}{:>10}{:>15}\n",
            "domain", "n", "proxy", "gold", "KL", "refuses, %"
        );
        let _ = writeln!(text, "{}", "─".repeat(80));
        for (domain, a) in &self.aligned.domains {
            let b = self.baseline.domains.get(domain);
            let pair = |b: Option<f64>, a: Option<f64>| {
                let cell = |x: Option<f64>| x.map_or_else(|| "-".into(), number);
                format!("{} → {}", cell(b), cell(a))
            };
            let refused = |s: &Summary| s.refused().map(|s| 100.0 * s.share);
            let percent = |s: Option<f64>| s.map_or_else(|| "-".into(), |s| format!("{s:.0}"));
            let _ = writeln!(
                text,
                "{:<14}{:>5}{:>18}{:>18}{:>10}{:>15}",
                shorten(domain, 13),
                a.n,
                pair(b.map(|b| b.score.mean), Some(a.score.mean)),
                pair(b.and_then(|b| b.gold).map(|e| e.mean), a.gold.map(|e| e.mean)),
                a.kl_exact.map_or_else(|| "-".into(), |e| number(e.mean)),
                format!("{} → {}", percent(b.and_then(refused)), percent(refused(a))),
            );
        }
        text
    }
}

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn line(&mut self, label: &str, baseline: &str, aligned: &str, change: &str) {
        let _ =
            writeln!(self.text, "{label:<LABEL$}{baseline:>BASELINE$}{aligned:>ALIGNED$} {change:>CHANGE$}");
    }

    fn rule(&mut self) {
        let _ = writeln!(self.text, "{}", "─".repeat(LABEL + BASELINE + ALIGNED + 1 + CHANGE));
    }

    /// A quantity that neither side has is left out.
    fn row(&mut self, label: &str, baseline: String, aligned: String, change: Option<Change>, scale: f64) {
        if baseline.is_empty() && aligned.is_empty() {
            return;
        }
        let dash = |s: String| if s.is_empty() { "-".into() } else { s };
        let change =
            change.map(|c| fitted(c.mean * scale, c.ci.map(|(l, h)| (l * scale, h * scale)), CHANGE, true));
        self.line(label, &dash(baseline), &dash(aligned), &dash(change.unwrap_or_default()));
    }
}

/// A number alone, at most 8 characters.
fn number(x: f64) -> String {
    fixed(x, decimals_alone(x).min(3))
}

/// `mean [low, high]` within `width` characters: fewer decimals, then the mean alone, where it is too long.
fn fitted(mean: f64, ci: Option<(f64, f64)>, width: usize, plus: bool) -> String {
    let most = interval_decimals(mean, ci);
    let mut attempts = (most.min(usize::from(mean.abs() < 10.0))..=most)
        .rev()
        .map(|decimals| interval_with(decimals, mean, ci, plus));
    attempts.find(|text| text.len() <= width).unwrap_or_else(|| interval(mean, None, plus))
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ResponseRecord;

    fn rows(scale: f64, refuse: bool) -> Vec<ResponseRecord> {
        (0..30u32)
            .map(|i| ResponseRecord {
                prompt_id: u64::from(i),
                domain: if i % 2 == 0 { "a domain with a very long name" } else { "b" }.into(),
                tokens: (0..10 + i).collect(),
                score: f64::from(i) * scale,
                gold: Some(-f64::from(i) * scale),
                kl_exact: Some(scale * f64::from(i % 7)),
                unsafe_prompt: i % 5 == 0,
                refused: refuse && i % 5 == 0,
                ..Default::default()
            })
            .collect()
    }

    #[test]
    fn fits_a_terminal_even_with_wild_numbers() {
        for scale in [1e-9, 0.01, 1.0, 333.3, 1e7, 1e200] {
            let c = Comparison::paired(&rows(0.0, false), &rows(scale, true), 1).unwrap();
            for text in [c.table(), c.domain_table(), comparison_table(&c.aligned, &c.baseline)] {
                for line in text.lines() {
                    assert!(
                        line.chars().count() <= 80,
                        "{} columns at {scale}: {line}",
                        line.chars().count()
                    );
                }
            }
        }
    }

    #[test]
    fn rows_say_what_they_measure() {
        let c = Comparison::paired(&rows(0.0, false), &rows(1.0, true), 1).unwrap();
        let text = c.table();
        let line = |label: &str| {
            text.lines().find(|l| l.starts_with(label)).unwrap_or_else(|| panic!("{label}: {text}"))
        };
        assert!(line("proxy score").contains("14.5"), "{text}");
        assert!(line("gold score").contains("-14.5"), "{text}");
        assert!(line("refuses unsafe").contains("100.0"), "{text}");
        assert!(line("KL to ref").matches('[').count() == 3, "{text}");
        assert!(text.contains("30 responses to 30 prompts; intervals: paired"), "{text}");
        let mut no_gold = rows(1.0, true);
        no_gold.iter_mut().for_each(|r| r.gold = None);
        let c = Comparison::paired(&no_gold, &no_gold, 1).unwrap();
        assert!(!c.table().contains("gold"), "a row nobody measured");
    }
}
