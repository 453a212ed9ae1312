//! What the journals of labelers say together: who wins, how far labelers agree, and whether they lean to a side.

use super::journal::{Answer, Entry, in_force};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use tetherline_eval::agreement::{Agreement, Rating, agreement};
use tetherline_eval::{Share, drift::one_line};

/// One labeler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelerStats {
    /// Pairs judged, ties included.
    pub judged: usize,
    /// Of these, ties.
    pub ties: usize,
    /// Skipped.
    pub skipped: usize,
    /// Share of preferences for the left side: far from one half, the labeler leans to a side.
    pub left: Option<Share>,
}

/// All labelers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelStats {
    /// By labeler.
    pub labelers: BTreeMap<String, LabelerStats>,
    /// How often the first policy wins; a tie is half a win. Judgements of one pair count one each.
    pub first_wins: Option<Share>,
    /// Agreement on `first`, `second` and `tie`; skipped pairs do not count.
    pub agreement: Agreement,
}

/// The statistics of one or more journals on the same queue.
pub fn stats(journals: &[Vec<Entry>]) -> LabelStats {
    let mut out = LabelStats::default();
    let (mut ratings, mut wins, mut n) = (Vec::new(), 0.0, 0);
    let mut lefts: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    let all: Vec<Entry> = journals.iter().flatten().cloned().collect();
    for label in in_force(&all).0.into_values() {
        let of = out.labelers.entry(label.labeler.clone()).or_default();
        if label.answer == Answer::Skip {
            of.skipped += 1;
            continue;
        }
        of.judged += 1;
        let value = match label.prefers_first() {
            Some(true) => "first",
            Some(false) => "second",
            None => "tie",
        };
        of.ties += usize::from(value == "tie");
        wins += match value {
            "first" => 1.0,
            "tie" => 0.5,
            _ => 0.0,
        };
        n += 1;
        if value != "tie" {
            let left = lefts.entry(label.labeler.clone()).or_default();
            *left = (left.0 + f64::from(u8::from(label.answer == Answer::Left)), left.1 + 1);
        }
        ratings.push(Rating { item: label.pair, labeler: label.labeler, value: value.to_owned() });
    }
    for (labeler, (left, n)) in lefts {
        if let Some(of) = out.labelers.get_mut(&labeler) {
            of.left = Share::new(left, n);
        }
    }
    out.first_wins = Share::new(wins, n);
    out.agreement = agreement(&ratings);
    out
}

fn percent(share: Option<Share>) -> String {
    share.map_or_else(
        || "-".to_owned(),
        |s| format!("{:.0} % [{:.0}, {:.0}]", 100.0 * s.share, 100.0 * s.ci.0, 100.0 * s.ci.1),
    )
}

impl LabelStats {
    /// As a table for a terminal.
    pub fn text(&self) -> String {
        let mut out =
            format!("{:<32}{:>8}{:>8}{:>9}{:>24}\n", "labeler", "judged", "ties", "skipped", "left chosen");
        let _ = writeln!(out, "{}", "─".repeat(81));
        let name = |text: &str, width: usize| -> String {
            let text = one_line(text);
            if text.chars().count() <= width {
                text
            } else {
                text.chars().take(width - 1).chain(['…']).collect()
            }
        };
        for (labeler, s) in &self.labelers {
            let left = percent(s.left);
            let _ = writeln!(
                out,
                "{:<32}{:>8}{:>8}{:>9}{left:>24}",
                name(labeler, 31),
                s.judged,
                s.ties,
                s.skipped
            );
        }
        let _ = writeln!(out, "\nfirst policy wins: {} (a tie is half a win)", percent(self.first_wins));
        let a = &self.agreement;
        let number = |x: Option<f64>| x.map_or_else(|| "undefined".to_owned(), |x| format!("{x:.3}"));
        let _ = writeln!(out, "pairs judged: {}, by several labelers: {}", a.items, a.shared_items);
        if a.shared_items > 0 {
            let _ = writeln!(out, "Krippendorff's α: {}", number(a.alpha));
        }
        for p in &a.pairs {
            let _ = writeln!(
                out,
                "{} and {}: agree on {:.0} % of {}, Cohen's κ {}",
                name(&p.first, 24),
                name(&p.second, 24),
                100.0 * p.share,
                p.items,
                number(p.kappa)
            );
        }
        out
    }
}
