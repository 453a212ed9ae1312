//! How good a reward model is on pairs it has not seen.
//!
//! - accuracy: share of pairs whose chosen score is the higher, a tie counts ½;
//! - mean margin: mean of r_c − r_r, score units;
//! - calibration: the model claims that its preferred response wins with probability
//!   p = σ(|r_c − r_r|) ∈ [½, 1]; pairs are binned by p, and ECE = Σ_bin n_bin/n · |accuracy − mean p|
//!   (Guo et al. 2017, eq. 3);
//! - length: Pearson correlation of score and response length over all responses, chosen and rejected
//!   (a reward model that likes length teaches length; Singhal et al. 2023).

use crate::loss::win;
use crate::{RewardError, pair_loss};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const BINS: usize = 10;

/// One held-out pair with its scores.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOutPair {
    /// Score of the chosen response.
    pub chosen: f32,
    /// Score of the rejected response.
    pub rejected: f32,
    /// Length of the chosen response, tokens.
    pub chosen_len: usize,
    /// Length of the rejected response, tokens.
    pub rejected_len: usize,
    /// Domain tag.
    pub domain: String,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Number of pairs.
    pub pairs: usize,
    /// Share of pairs ranked right, ties ½.
    pub accuracy: f64,
    /// Mean Bradley–Terry loss, nats, without margin and centring.
    pub loss: f64,
    /// Mean score difference, score units.
    pub mean_margin: f64,
    /// Expected calibration error, in [0, 1].
    pub ece: f64,
    /// Reliability bins of equal width over [½, 1]; empty ones included.
    pub bins: Vec<ReliabilityBin>,
    /// Per domain.
    pub domains: BTreeMap<String, DomainReport>,
    /// Correlation of score and length; none where one of them does not vary.
    pub length_correlation: Option<f64>,
}

/// Pairs whose claimed probability lies in one bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Lower edge.
    pub from: f64,
    /// Upper edge.
    pub to: f64,
    /// Number of pairs.
    pub pairs: usize,
    /// Mean claimed probability; 0 where there are no pairs.
    pub confidence: f64,
    /// Share ranked right; 0 where there are no pairs.
    pub accuracy: f64,
}

/// One domain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainReport {
    /// Number of pairs.
    pub pairs: usize,
    /// Share of pairs ranked right, ties ½.
    pub accuracy: f64,
    /// Mean score difference, score units.
    pub mean_margin: f64,
}

impl HeldOut {
    /// Measures. No pairs give zeros.
    ///
    /// # Errors
    /// [`RewardError::NonFinitePair`] for a NaN or infinite score.
    pub fn measure(pairs: &[HeldOutPair]) -> Result<Self, RewardError> {
        let width = 0.5 / BINS as f64;
        let mut bins: Vec<ReliabilityBin> = (0..BINS)
            .map(|i| {
                let from = 0.5 + width * i as f64;
                ReliabilityBin { from, to: from + width, ..ReliabilityBin::default() }
            })
            .collect();
        let mut domains: BTreeMap<String, DomainReport> = BTreeMap::new();
        let (mut correct, mut loss, mut margin_sum) = (0.0, 0.0, 0.0);
        for (i, pair) in pairs.iter().enumerate() {
            let margin = f64::from(pair.chosen) - f64::from(pair.rejected);
            if !margin.is_finite() {
                let HeldOutPair { chosen, rejected, .. } = *pair;
                return Err(RewardError::NonFinitePair { pair: i, chosen, rejected, margin: 0.0 });
            }
            let right = win(pair.chosen, pair.rejected);
            correct += right;
            margin_sum += margin;
            loss += pair_loss(margin, 0.0, 0.0, 0.0).loss;

            let p = 1.0 / (1.0 + (-margin.abs()).exp());
            let bin = &mut bins[(((p - 0.5) / width) as usize).min(BINS - 1)];
            bin.pairs += 1;
            bin.confidence += p;
            bin.accuracy += right;

            let domain = domains.entry(pair.domain.clone()).or_default();
            domain.pairs += 1;
            domain.accuracy += right;
            domain.mean_margin += margin;
        }
        let n = pairs.len().max(1) as f64;
        let ece = bins.iter().map(|b| (b.accuracy - b.confidence).abs()).sum::<f64>() / n;
        for bin in &mut bins {
            bin.confidence /= bin.pairs.max(1) as f64;
            bin.accuracy /= bin.pairs.max(1) as f64;
        }
        for domain in domains.values_mut() {
            domain.accuracy /= domain.pairs as f64;
            domain.mean_margin /= domain.pairs as f64;
        }
        let scores: Vec<f64> = pairs.iter().flat_map(|p| [p.chosen, p.rejected]).map(f64::from).collect();
        let lengths: Vec<f64> =
            pairs.iter().flat_map(|p| [p.chosen_len, p.rejected_len]).map(|x| x as f64).collect();
        Ok(Self {
            pairs: pairs.len(),
            accuracy: correct / n,
            loss: loss / n,
            mean_margin: margin_sum / n,
            ece,
            bins,
            domains,
            length_correlation: pearson(&scores, &lengths),
        })
    }
}

/// Pearson correlation; none for fewer than two points or where one side does not vary.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len().min(y.len()) as f64;
    let mean = |v: &[f64]| v.iter().take(n as usize).sum::<f64>() / n;
    let (mx, my) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        xx += (a - mx) * (a - mx);
        yy += (b - my) * (b - my);
        xy += (a - mx) * (b - my);
    }
    (xx > 0.0 && yy > 0.0).then(|| (xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(chosen: f32, rejected: f32, lens: (usize, usize), domain: &str) -> HeldOutPair {
        HeldOutPair { chosen, rejected, chosen_len: lens.0, rejected_len: lens.1, domain: domain.into() }
    }

    #[test]
    fn a_report_by_hand() {
        // Margins ln 3 (p = ¾, right), −ln 3 (p = ¾, wrong), 0 (p = ½, tie), ln 9 (p = .9, right).
        let ln3 = 3f32.ln();
        let report = HeldOut::measure(&[
            pair(ln3, 0.0, (4, 2), "account"),
            pair(0.0, ln3, (1, 1), "account"),
            pair(1.0, 1.0, (3, 3), "medical"),
            pair(2.0 * ln3, 0.0, (6, 2), "medical"),
        ])
        .unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        near(report.accuracy, 2.5 / 4.0);
        near(report.mean_margin, 2.0 * 3f64.ln() / 4.0);
        // ¾ claimed twice, half right: |1 − 1.5|; ½ claimed, ½ right: 0; .9 claimed, right: .1.
        near(report.ece, (0.5 + 0.0 + 0.1) / 4.0);
        near(report.loss, ((4.0f64 / 3.0).ln() + 4f64.ln() + 2f64.ln() + (10.0f64 / 9.0).ln()) / 4.0);
        near(report.domains["account"].accuracy, 0.5);
        near(report.domains["medical"].accuracy, 0.75);
        near(report.domains["medical"].mean_margin, 3f64.ln());
        assert_eq!(report.bins.iter().map(|b| b.pairs).sum::<usize>(), 4);
        assert_eq!((report.bins[0].pairs, report.bins.len()), (1, 10));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<HeldOut>(&text).unwrap(), report);
    }

    /// Σxy = 8, Σx² = 10, Σy² = 10 after centring.
    #[test]
    fn pearson_by_hand() {
        let r = pearson(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 1.0, 4.0, 3.0, 5.0]).unwrap();
        assert!((r - 0.8).abs() < 1e-12, "{r}");
        assert_eq!(pearson(&[1.0, 2.0], &[5.0, 5.0]), None);
        assert_eq!(pearson(&[], &[]), None);
        assert!((pearson(&[1.0, 2.0], &[9.0, 3.0]).unwrap() + 1.0).abs() < 1e-12);
    }

    #[test]
    fn extreme_and_empty() {
        let report = HeldOut::measure(&[pair(1e30, -1e30, (1, 1), "all")]).unwrap();
        assert_eq!((report.accuracy, report.ece, report.bins[9].pairs), (1.0, 0.0, 1));
        assert_eq!(report.length_correlation, None);
        assert_eq!(HeldOut::measure(&[]).unwrap().pairs, 0);
        let error = HeldOut::measure(&[pair(f32::NAN, 0.0, (1, 1), "all")]).unwrap_err();
        assert!(matches!(error, RewardError::NonFinitePair { pair: 0, .. }));
    }
}
