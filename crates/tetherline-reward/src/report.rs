//! How good a reward model is on pairs it has not seen.
//!
//! - accuracy: share of pairs whose better answer (by the label) scores higher; equal scores count ½, pairs whose label
//!   is a tie are left out; with Wilson's 95 % interval, which takes pairs to be independent;
//! - mean margin: mean of r_c − r_r, score units;
//! - calibration: the model claims that its preferred response wins with probability
//!   p = σ(|r_c − r_r|) ∈ [½, 1]; pairs are binned by p, and ECE = Σ_bin n_bin/n · |accuracy − mean p|
//!   (Guo et al. 2017, eq. 3);
//! - length: Pearson correlation of score and response length over all responses, chosen and rejected
//!   (a reward model that likes length teaches length; Singhal et al. 2023), and accuracy by how much longer the better
//!   answer is (`groups.rs`);
//! - what it is worth: the accuracy of length alone and of a bag of words (`baseline.rs`), and the noise ceiling, the mean
//!   share of labelers who agree with the label, which is what a perfect model would reach against one labeler.

use crate::groups::{by_agreement, by_length};
use crate::loss::win;
use crate::{PairTarget, RewardError, pair_loss};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tetherline_core::wilson;

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
    /// Probability that `chosen` is the better one: below ½ it is the other, at ½ the pair is a tie.
    pub label: f64,
    /// Share of labelers who agree with the label, in [½, 1], where known.
    pub agreement: Option<f64>,
}

/// A pair the way round that its label says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Judged {
    /// Score of the better answer less that of the other.
    pub(crate) margin: f64,
    /// 1 if ranked right, ½ for equal scores, else 0.
    pub(crate) right: f64,
    /// Tokens that the better answer is longer by.
    pub(crate) longer_by: i64,
    pub(crate) agreement: Option<f64>,
}

impl HeldOutPair {
    /// None for a tie.
    fn judged(&self) -> Option<Judged> {
        if self.label == 0.5 {
            return None;
        }
        let (c, r) = (self.chosen, self.rejected);
        let longer_by = self.chosen_len as i64 - self.rejected_len as i64;
        let margin = f64::from(c) - f64::from(r);
        let agreement = self.agreement;
        Some(match self.label > 0.5 {
            true => Judged { margin, right: win(c, r), longer_by, agreement },
            false => Judged { margin: -margin, right: win(r, c), longer_by: -longer_by, agreement },
        })
    }
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Number of pairs, without those whose label is a tie.
    pub pairs: usize,
    /// Pairs whose label is a tie. No other number is about them, but for the loss and the correlation with length.
    #[serde(default)]
    pub ties: usize,
    /// Share of pairs ranked right, equal scores ½.
    pub accuracy: f64,
    /// Wilson's 95 % interval of the accuracy.
    #[serde(default)]
    pub accuracy_ci: (f64, f64),
    /// Mean Bradley–Terry loss (of soft labels: cross entropy), nats, without margin, smoothing and centring.
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
    /// By how much longer the better answer is, in groups of like size.
    #[serde(default)]
    pub by_length: Vec<GroupReport>,
    /// By the share of labelers who agree, where known.
    #[serde(default)]
    pub by_agreement: Vec<GroupReport>,
    /// Mean share of labelers who agree, over the pairs where it is known: the accuracy that a perfect model would have
    /// against a single labeler. None where no pair says it.
    #[serde(default)]
    pub noise_ceiling: Option<f64>,
    /// Pairs that say how far labelers agree.
    #[serde(default)]
    pub agreement_known: usize,
    /// Accuracy of length alone.
    #[serde(default)]
    pub length_only: Option<LengthOnly>,
    /// Accuracy of a bag of words fitted on the training pairs, where there are some.
    #[serde(default)]
    pub bag_of_words: Option<f64>,
    /// Of an ensemble: mean over answers of the standard deviation between members, in units of their own spread.
    #[serde(default)]
    pub disagreement: Option<f64>,
    /// Of an ensemble: the accuracy of each member.
    #[serde(default)]
    pub members: Vec<f64>,
}

/// A rule that looks at length alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthOnly {
    /// Whether it prefers the longer answer, as the training pairs do.
    pub prefers_longer: bool,
    /// Share of held-out pairs it ranks right, equal lengths ½.
    pub accuracy: f64,
}

/// Some of the pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// What is common to them, for people.
    pub group: String,
    /// Number of pairs.
    pub pairs: usize,
    /// Share of pairs ranked right, equal scores ½.
    pub accuracy: f64,
    /// Mean score difference, score units.
    pub mean_margin: f64,
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
        let mut loss = 0.0;
        let mut judged = Vec::with_capacity(pairs.len());
        for (i, pair) in pairs.iter().enumerate() {
            let (c, r) = (f64::from(pair.chosen), f64::from(pair.rejected));
            if !(c - r).is_finite() {
                let HeldOutPair { chosen, rejected, .. } = *pair;
                return Err(RewardError::NonFinitePair { pair: i, chosen, rejected, margin: 0.0 });
            }
            loss += pair_loss(c, r, &PairTarget { label: pair.label, ..PairTarget::default() }).loss;
            let Some(j) = pair.judged() else { continue };
            let p = 1.0 / (1.0 + (-j.margin.abs()).exp());
            let bin = &mut bins[(((p - 0.5) / width) as usize).min(BINS - 1)];
            bin.pairs += 1;
            bin.confidence += p;
            bin.accuracy += j.right;

            let domain = domains.entry(pair.domain.clone()).or_default();
            domain.pairs += 1;
            domain.accuracy += j.right;
            domain.mean_margin += j.margin;
            judged.push(j);
        }
        let n = judged.len().max(1) as f64;
        let mean = |of: fn(&Judged) -> f64| judged.iter().map(of).sum::<f64>() / n;
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
        let known: Vec<f64> = judged.iter().filter_map(|j| j.agreement).collect();
        let accuracy = mean(|j| j.right);
        Ok(Self {
            pairs: judged.len(),
            ties: pairs.len() - judged.len(),
            accuracy,
            accuracy_ci: wilson(accuracy * judged.len() as f64, judged.len()).unwrap_or_default(),
            loss: loss / pairs.len().max(1) as f64,
            mean_margin: mean(|j| j.margin),
            ece,
            bins,
            domains,
            length_correlation: pearson(&scores, &lengths),
            by_length: by_length(&judged),
            by_agreement: by_agreement(&judged),
            noise_ceiling: (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64),
            agreement_known: known.len(),
            length_only: None,
            bag_of_words: None,
            disagreement: None,
            members: Vec::new(),
        })
    }

    /// Adds what length alone would reach, with the preference for longer or shorter answers of the training pairs.
    pub fn add_length_only(&mut self, pairs: &[HeldOutPair], prefers_longer: bool) {
        let judged: Vec<Judged> = pairs.iter().filter_map(HeldOutPair::judged).collect();
        if judged.is_empty() {
            return;
        }
        let sign = if prefers_longer { 1 } else { -1 };
        let right = |j: &Judged| match (sign * j.longer_by).cmp(&0) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        let accuracy = judged.iter().map(right).sum::<f64>() / judged.len() as f64;
        self.length_only = Some(LengthOnly { prefers_longer, accuracy });
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
        HeldOutPair {
            chosen,
            rejected,
            chosen_len: lens.0,
            rejected_len: lens.1,
            domain: domain.into(),
            label: 1.0,
            agreement: None,
        }
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

    /// A label below ½ turns a pair round, a tie counts for nothing but the loss; agreement by hand.
    #[test]
    fn soft_labels_ties_and_the_ceiling() {
        let as_labelled =
            |label: f64, agreement: Option<f64>, p: HeldOutPair| HeldOutPair { label, agreement, ..p };
        let pairs = [
            as_labelled(0.9, Some(0.9), pair(1.0, 0.0, (9, 3), "all")),
            as_labelled(0.2, Some(0.8), pair(0.0, 2.0, (4, 4), "all")),
            as_labelled(0.6, None, pair(0.0, 1.0, (5, 2), "all")),
            as_labelled(0.5, Some(0.5), pair(3.0, 0.0, (1, 2), "all")),
        ];
        let mut report = HeldOut::measure(&pairs).unwrap();
        assert_eq!((report.pairs, report.ties, report.agreement_known), (3, 1, 2));
        assert!(
            (report.accuracy - 2.0 / 3.0).abs() < 1e-12 && (report.mean_margin - 2.0 / 3.0).abs() < 1e-12
        );
        assert!((report.noise_ceiling.unwrap() - 0.85).abs() < 1e-12);
        // Better answers are longer by 6, 0 and 3.
        report.add_length_only(&pairs, true);
        assert_eq!(report.length_only, Some(LengthOnly { prefers_longer: true, accuracy: 2.5 / 3.0 }));
        report.add_length_only(&pairs, false);
        assert_eq!(report.length_only.unwrap().accuracy, 0.5 / 3.0);
        // Wilson of 2 of 3, by statsmodels' proportion_confint(2, 3, method="wilson").
        let (low, high) = report.accuracy_ci;
        assert!((low - 0.20766).abs() < 1e-4 && (high - 0.93851).abs() < 1e-4, "{low} {high}");
        let old = r#"{"pairs":1,"accuracy":1.0,"loss":0.1,"mean_margin":2.0,"ece":0.1,"bins":[],"domains":{},"length_correlation":null}"#;
        assert_eq!(serde_json::from_str::<HeldOut>(old).unwrap().by_length, [], "a report of an older run");
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
