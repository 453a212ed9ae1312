//! What theory says the KL to the reference should be at a coefficient β, from samples of the reference alone.
//!
//! The optimum of E[r] − β·KL is π* ∝ π_ref·exp(r/β), for each prompt by itself. With S answers of the reference to a prompt
//! and w_i ∝ exp(r_i/β),
//!
//! ```text
//! KL*(β) = Σ_i w_i·r_i/β − ln((1/S) Σ_i exp(r_i/β))      mean over prompts, nats per sequence
//! r*(β)  = Σ_i w_i·r_i
//! KL*(β) ≈ Var_ref(r)/(2β²)                              for a normal r, or a small KL
//! ```
//!
//! The first cannot exceed ln S, and says little once it comes near it: the sample must hold many answers of the tilted
//! policy's kind, S ≫ exp(KL*).

use std::collections::BTreeMap;

/// What is predicted at a β.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tilt {
    /// KL*, nats per sequence.
    pub(crate) kl: f64,
    /// E[r] under π*.
    pub(crate) score: f64,
    /// Var_ref(r)/(2β²), nats per sequence.
    pub(crate) gaussian: f64,
}

/// The prediction from (prompt, r) of the reference; `None` without samples or with β = 0.
pub(crate) fn tilt(scores: &[(u64, f64)], beta: f64) -> Option<Tilt> {
    let mut prompts: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (prompt, score) in scores {
        prompts.entry(*prompt).or_default().push(*score);
    }
    if prompts.is_empty() || beta <= 0.0 {
        return None;
    }
    let mut sum = Tilt::default();
    for r in prompts.values() {
        let n = r.len() as f64;
        let top = r.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = r.iter().map(|x| ((x - top) / beta).exp()).collect();
        let z: f64 = weights.iter().sum();
        let score = r.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() / z;
        let mean = r.iter().sum::<f64>() / n;
        let variance = r.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        sum.kl += score / beta - (top / beta + (z / n).ln());
        sum.score += score;
        sum.gaussian += variance / (2.0 * beta * beta);
    }
    let n = prompts.len() as f64;
    Some(Tilt { kl: sum.kl / n, score: sum.score / n, gaussian: sum.gaussian / n })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// π_ref = (.5, .3, .2), r = (0, 1, 2) as ten samples; π* and its KL worked out by hand.
    #[test]
    fn three_answers_by_hand() {
        let r = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0];
        let scores: Vec<(u64, f64)> = r.iter().map(|r| (7, *r)).collect();
        for (beta, kl) in [(4.0, 0.020262), (1.0, 0.322834), (0.5, 0.915475), (0.25, 1.468126)] {
            assert!((tilt(&scores, beta).unwrap().kl - kl).abs() < 1e-6, "β {beta}");
        }
        let one = tilt(&scores, 1.0).unwrap();
        assert!((one.score - 1.350057).abs() < 1e-6, "{one:?}");
        // Variance with n − 1: (5·0.49 + 3·0.09 + 2·1.69)/9 = 0.677778; halved.
        assert!((one.gaussian - 0.338889).abs() < 1e-6, "{one:?}");
    }

    #[test]
    fn prompts_count_each_for_themselves() {
        // No prompt has a choice, so no KL, although scores differ between prompts.
        let scores = [(1, 0.0), (1, 0.0), (2, 5.0), (2, 5.0)];
        let found = tilt(&scores, 0.1).unwrap();
        assert!(found.kl.abs() < 1e-12 && (found.score - 2.5).abs() < 1e-12, "{found:?}");
        assert_eq!((tilt(&scores, 0.0), tilt(&[], 1.0)), (None, None));
    }
}
