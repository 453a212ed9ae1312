//! Means and spreads of gold and its parts, for reports.

use crate::gold::{GoldBreakdown, PARTS};

/// Mean and standard deviation (population) of something.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub sd: f64,
}

impl Moments {
    /// Of these values; zero where there are none.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        Self { mean, sd: variance.sqrt() }
    }
}

/// Gold over many responses.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldStats {
    /// Responses.
    pub count: usize,
    /// Of the total.
    pub total: Moments,
    /// Of each of [`PARTS`], in that order.
    pub parts: Vec<(&'static str, Moments)>,
    /// Words per response.
    pub words: Moments,
    /// Courtesies per response.
    pub courtesies: Moments,
    /// Fillers per response.
    pub fillers: Moments,
    /// Share of slots that are right; unsafe prompts aside.
    pub slots_right: f64,
    /// Share of responses that refuse.
    pub refusals: f64,
}

impl GoldStats {
    /// Collects the statistics of these responses.
    pub fn of(golds: &[GoldBreakdown]) -> Self {
        let moments =
            |f: &dyn Fn(&GoldBreakdown) -> f64| Moments::of(&golds.iter().map(f).collect::<Vec<_>>());
        let (right, all) = golds.iter().map(|g| &g.counts).fold((0, 0), |(r, a), c| {
            (r + c.slots_right, a + c.slots_right + c.slots_wrong + c.slots_missing)
        });
        Self {
            count: golds.len(),
            total: moments(&|g| g.total),
            parts: PARTS.iter().enumerate().map(|(i, name)| (*name, moments(&|g| g.parts[i]))).collect(),
            words: moments(&|g| g.counts.words as f64),
            courtesies: moments(&|g| g.counts.courtesies as f64),
            fillers: moments(&|g| g.counts.fillers as f64),
            slots_right: right as f64 / all.max(1) as f64,
            refusals: moments(&|g| f64::from(u8::from(g.counts.refuses))).mean,
        }
    }
}
