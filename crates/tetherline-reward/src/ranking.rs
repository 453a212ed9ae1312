//! Loss of a ranking of K answers, with its gradient in closed form.
//!
//! Plackett–Luce (Plackett 1975): the best is chosen among all, the next among the rest, and so on. With utilities
//! u = r + length term (`length_debias.rs`), and R the answers not placed yet,
//!
//! ```text
//! loss = Σ over places of (log Σ_{j ∈ R} exp u_j − u_placed) / (K − 1)
//! ```
//!
//! Tied answers are each chosen among the same rest (Breslow 1974); the last place, if one answer holds it, costs
//! nothing. Divided by the number of choices, K − 1, a ranking weighs as much as a pair, and of two answers it is
//! Bradley–Terry. Label smoothing ε: (1 − ε) of this and ε of the reversed ranking. Alternatively every pair of
//! answers on its own, as InstructGPT does (Ouyang et al. 2022, eq. 1), divided by the number of pairs; a tie is
//! then a label of ½. Centring, κ·(2·mean r)², is that of a pair where K = 2.

use crate::{PairTarget, pair_loss};
use serde::{Deserialize, Serialize};

/// How a ranking of more than two answers becomes a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// The likelihood of the whole order.
    #[default]
    PlackettLuce,
    /// The mean over all pairs of answers.
    Pairs,
}

/// What a ranking's loss depends on besides its scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankingTarget<'a> {
    /// Rank of each answer, 1 the best; equal ranks are ties.
    pub ranks: &'a [u32],
    /// What length alone says for each answer, in nats of log-odds; empty without debiasing.
    pub lengths: &'a [f64],
    /// ε, in [0, ½).
    pub smoothing: f64,
    /// κ, 0 for no centring.
    pub center: f64,
    /// Which loss.
    pub kind: Ranking,
}

/// Loss of one ranking in nats, and its gradient with respect to each score.
///
/// # Panics
/// If there is not one rank (and, unless there are none, one length term) per score.
pub fn ranking_loss(scores: &[f64], target: &RankingTarget<'_>) -> (f64, Vec<f64>) {
    let t = target;
    assert_eq!(scores.len(), t.ranks.len(), "one rank per score");
    let k = scores.len();
    let mut grad = vec![0.0; k];
    let mut loss = match t.kind {
        Ranking::PlackettLuce => {
            let length = |i: usize| if t.lengths.is_empty() { 0.0 } else { t.lengths[i] };
            let u: Vec<f64> = scores.iter().enumerate().map(|(i, r)| r + length(i)).collect();
            let forward: Vec<i64> = t.ranks.iter().map(|&r| i64::from(r)).collect();
            let share = 1.0 / (k.max(2) - 1) as f64;
            let mut loss = plackett_luce(&u, &forward, (1.0 - t.smoothing) * share, &mut grad);
            if t.smoothing > 0.0 {
                let backward: Vec<i64> = forward.iter().map(|r| -r).collect();
                loss += plackett_luce(&u, &backward, t.smoothing * share, &mut grad);
            }
            loss
        }
        Ranking::Pairs => every_pair(scores, t, &mut grad),
    };
    let mean = scores.iter().sum::<f64>() / k.max(1) as f64;
    loss += t.center * 4.0 * mean * mean;
    for g in &mut grad {
        *g += t.center * 8.0 * mean / k as f64;
    }
    (loss, grad)
}

/// `weight` times the loss of one order; adds its gradient.
fn plackett_luce(u: &[f64], order: &[i64], weight: f64, grad: &mut [f64]) -> f64 {
    let mut loss = 0.0;
    for (i, &placed) in order.iter().enumerate() {
        let rest: Vec<usize> = (0..u.len()).filter(|&j| order[j] >= placed).collect();
        if rest.len() == 1 {
            continue;
        }
        let most = rest.iter().map(|&j| u[j]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = rest.iter().map(|&j| (u[j] - most).exp()).sum();
        loss += weight * (most + sum.ln() - u[i]);
        grad[i] -= weight;
        for &j in &rest {
            grad[j] += weight * (u[j] - most).exp() / sum;
        }
    }
    loss
}

fn every_pair(scores: &[f64], t: &RankingTarget<'_>, grad: &mut [f64]) -> f64 {
    let k = scores.len();
    let weight = 2.0 / (k * (k - 1)).max(1) as f64;
    let mut loss = 0.0;
    for i in 0..k {
        for j in i + 1..k {
            let label = match t.ranks[i].cmp(&t.ranks[j]) {
                std::cmp::Ordering::Less => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Greater => 0.0,
            };
            let length = if t.lengths.is_empty() { 0.0 } else { t.lengths[i] - t.lengths[j] };
            let target = PairTarget { label, length, smoothing: t.smoothing, ..PairTarget::default() };
            let pair = pair_loss(scores[i], scores[j], &target);
            loss += weight * pair.loss;
            grad[i] += weight * pair.d_chosen;
            grad[j] += weight * pair.d_rejected;
        }
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target<'a>(ranks: &'a [u32], kind: Ranking) -> RankingTarget<'a> {
        RankingTarget { ranks, lengths: &[], smoothing: 0.0, center: 0.0, kind }
    }

    /// By hand: exp(u) = 1, 2, 3, ranked last to first. P = 3/6 · 2/3 = 1/3, over two choices.
    #[test]
    fn three_answers_by_hand() {
        let scores = [0.0, 2f64.ln(), 3f64.ln()];
        let (loss, grad) = ranking_loss(&scores, &target(&[3, 2, 1], Ranking::PlackettLuce));
        assert!((loss - 3f64.ln() / 2.0).abs() < 1e-15, "{loss}");
        // First choice takes 1/6, 2/6, 3/6 − 1, the second 1/3, 2/3 − 1.
        let want = [(1.0 / 6.0 + 1.0 / 3.0) / 2.0, (2.0 / 6.0 - 1.0 / 3.0) / 2.0, -0.25];
        assert!(grad.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15), "{grad:?}");
        // Pairs: (1/3, 1/4, 2/5 lost) the right way round with 2/3, 3/4 and 3/5.
        let (loss, _) = ranking_loss(&scores, &target(&[3, 2, 1], Ranking::Pairs));
        let want = -((2.0f64 / 3.0).ln() + 0.75f64.ln() + 0.6f64.ln()) / 3.0;
        assert!((loss - want).abs() < 1e-15, "{loss} {want}");
    }

    #[test]
    fn of_two_it_is_the_pair() {
        for (smoothing, center) in [(0.0, 0.0), (0.1, 0.05)] {
            let pair =
                pair_loss(0.3, -0.9, &PairTarget { length: 0.4, smoothing, center, ..PairTarget::default() });
            for kind in [Ranking::PlackettLuce, Ranking::Pairs] {
                let t = RankingTarget { ranks: &[1, 2], lengths: &[0.5, 0.1], smoothing, center, kind };
                let (loss, grad) = ranking_loss(&[0.3, -0.9], &t);
                assert!((loss - pair.loss).abs() < 1e-14, "{kind:?}");
                assert!((grad[0] - pair.d_chosen).abs() < 1e-14 && (grad[1] - pair.d_rejected).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn gradients_are_central_differences() {
        let scores = [0.4, -1.3, 2.1, 0.9, 0.4];
        let h = 1e-5;
        for ranks in [[1, 2, 3, 4, 5], [3, 1, 2, 2, 5], [1, 1, 1, 1, 1]] {
            for kind in [Ranking::PlackettLuce, Ranking::Pairs] {
                for (smoothing, center) in [(0.0, 0.0), (0.2, 0.03)] {
                    let lengths = [0.1, -0.4, 0.0, 0.7, -0.2];
                    let t = RankingTarget { ranks: &ranks, lengths: &lengths, smoothing, center, kind };
                    let (_, grad) = ranking_loss(&scores, &t);
                    for i in 0..5 {
                        let at = |d: f64| {
                            let mut moved = scores;
                            moved[i] += d;
                            ranking_loss(&moved, &t).0
                        };
                        let want = (at(h) - at(-h)) / (2.0 * h);
                        assert!((grad[i] - want).abs() < 1e-9, "{kind:?} {ranks:?} {i}: {} {want}", grad[i]);
                    }
                }
            }
        }
    }

    /// The order of the answers in the file, and a shift of all scores, mean nothing; all tied is least where all
    /// scores are the same.
    #[test]
    fn what_does_not_matter() {
        let (loss, _) = ranking_loss(&[1.0, 2.0, 3.0], &target(&[2, 3, 1], Ranking::PlackettLuce));
        let (same, _) = ranking_loss(&[103.0, 101.0, 102.0], &target(&[1, 2, 3], Ranking::PlackettLuce));
        assert!((loss - same).abs() < 1e-12);
        for kind in [Ranking::PlackettLuce, Ranking::Pairs] {
            let (_, grad) = ranking_loss(&[0.7; 4], &target(&[1; 4], kind));
            assert!(grad.iter().all(|g| g.abs() < 1e-15), "{grad:?}");
        }
        let (far, grad) = ranking_loss(&[-1e6, 1e6], &target(&[1, 2], Ranking::PlackettLuce));
        assert_eq!((far, grad), (2e6, vec![-1.0, 1.0]));
    }
}
