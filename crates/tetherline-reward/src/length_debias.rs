//! What length alone says about a preference, to be held out of the score.
//!
//! ```text
//! P(a better than b) = σ(r_a − r_b + γ·(g(n_a) − g(n_b)))       g(n) = ln(1 + n), n in tokens
//! ```
//!
//! γ is fitted by maximum likelihood on the training pairs before training, with r = 0, and stays. The reward model
//! then has to explain what length does not, and its score, used without the length term, need not carry length. The
//! idea is that of length-controlled AlpacaEval (Dubois et al. 2024, §3): length as a covariate that is taken out of the
//! prediction. Where longer answers are truly better, that too is given to length.

/// g(n) = ln(1 + n).
pub fn length_feature(tokens: usize) -> f64 {
    (tokens as f64).ln_1p()
}

/// γ: one-parameter logistic regression of labels on differences of g, by Newton's method. `pairs` are
/// (g(n_a) − g(n_b), probability that a is better). 0 where no difference is left; held to ±20, which pairs that length
/// separates perfectly would exceed.
pub fn fit_length(pairs: &[(f64, f64)]) -> f64 {
    let mut gamma: f64 = 0.0;
    for _ in 0..50 {
        let (mut slope, mut curve) = (0.0, 0.0);
        for &(d, label) in pairs {
            let p = 1.0 / (1.0 + (-gamma * d).exp());
            slope += (label - p) * d;
            curve += p * (1.0 - p) * d * d;
        }
        if curve <= 1e-12 {
            break;
        }
        let step = (slope / curve).clamp(-2.0, 2.0);
        gamma = (gamma + step).clamp(-20.0, 20.0);
        if step.abs() < 1e-10 {
            break;
        }
    }
    gamma
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of pairs that differ by ln 3, three in four go to the longer one: odds of 3 = exp(γ·ln 3), so γ = 1. Of pairs
    /// that differ by ln 2, odds of 2.
    #[test]
    fn the_odds_are_recovered() {
        let (three, two) = (3f64.ln(), 2f64.ln());
        let mut pairs = [vec![(three, 1.0); 3], vec![(three, 0.0)]].concat();
        assert!((fit_length(&pairs) - 1.0).abs() < 1e-9);
        pairs.extend([(two, 1.0), (two, 1.0), (-two, 1.0)]);
        assert!((fit_length(&pairs) - 1.0).abs() < 1e-9);
        // Soft labels count as so many hard ones.
        assert!((fit_length(&[(three, 0.75)]) - 1.0).abs() < 1e-9);
        assert!((fit_length(&[(three, 0.25), (-three, 0.75)]) + 1.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_to_fit_and_everything_told_by_length() {
        assert_eq!(fit_length(&[]), 0.0);
        assert_eq!(fit_length(&[(0.0, 1.0), (0.0, 0.0)]), 0.0);
        assert!(fit_length(&[(1.0, 1.0), (2.0, 1.0)]) > 10.0);
        assert!((length_feature(9) - 10f64.ln()).abs() < 1e-15);
    }
}
