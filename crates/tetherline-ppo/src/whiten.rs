//! Whitening: shift to mean 0 and scale to variance 1, over the entries that count.
//!
//! ```text
//! x ← (x − mean) / √(var + 1e-8)   [+ mean, when the mean is kept]
//! ```
//!
//! The divisor of the variance is a choice: N+ and OpenAI (2019) use n, TRL and verl n − 1.
//! `keep_mean` is what OpenAI, TRL and verl call `shift_mean=False`.

use crate::{PpoError, WhitenVariance};

const EPS: f64 = 1e-8;

/// Whitens `values` in place. An empty slice stays empty.
///
/// # Errors
/// [`PpoError::WhitenTooFew`] for one value with the unbiased variance.
pub fn whiten(values: &mut [f64], variance: WhitenVariance, keep_mean: bool) -> Result<(), PpoError> {
    if values.is_empty() {
        return Ok(());
    }
    let n = values.len() as f64;
    let divisor = match variance {
        WhitenVariance::Population => n,
        WhitenVariance::Unbiased if values.len() > 1 => n - 1.0,
        WhitenVariance::Unbiased => return Err(PpoError::WhitenTooFew { count: values.len() }),
    };
    let mean = values.iter().sum::<f64>() / n;
    let var = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / divisor;
    let scale = 1.0 / (var + EPS).sqrt();
    let shift = if keep_mean { mean } else { 0.0 };
    for x in values {
        *x = (*x - mean) * scale + shift;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean 5, Σ(x − 5)² = 32: population variance 4, unbiased 32/7.
    const X: [f64; 8] = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];

    #[test]
    fn the_textbook_sample() {
        let mut x = X;
        whiten(&mut x, WhitenVariance::Population, false).unwrap();
        assert!((x[0] + 1.5).abs() < 1e-8 && (x[7] - 2.0).abs() < 1e-8, "{x:?}");
        let mut x = X;
        whiten(&mut x, WhitenVariance::Unbiased, false).unwrap();
        assert!((x[7] - 4.0 / (32.0f64 / 7.0).sqrt()).abs() < 1e-8, "{x:?}");
    }

    #[test]
    fn the_mean_is_kept_on_request() {
        let mut x = X;
        whiten(&mut x, WhitenVariance::Population, true).unwrap();
        assert!((x.iter().sum::<f64>() / 8.0 - 5.0).abs() < 1e-12);
        assert!((x[0] - 3.5).abs() < 1e-8);
    }

    #[test]
    fn too_few_values() {
        whiten(&mut [], WhitenVariance::Unbiased, false).unwrap();
        assert!(whiten(&mut [1.0], WhitenVariance::Unbiased, false).is_err());
        let mut one = [3.0];
        whiten(&mut one, WhitenVariance::Population, false).unwrap();
        assert_eq!(one, [0.0]);
    }
}
