//! The two forms of Gao, Schulman & Hilton 2023 (arXiv:2210.10760), in d = √KL:
//!
//! ```text
//! best-of-n   R = d·(α − β·d)       peak at d = α/2β
//! PPO         R = d·(α − β·ln d)    peak at d = exp(α/β − 1)
//! ```
//!
//! R is gold above the reference's, so R(0) = 0. Both are linear in α and β: ordinary least squares through the origin.
//! R² = 1 − Σ(R − R̂)²/Σ(R − R̄)².

use serde::{Deserialize, Serialize};

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Of best-of-n.
    BestOfN,
    /// Of PPO.
    Rl,
}

/// A fit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fit {
    pub(crate) alpha: f64,
    pub(crate) beta: f64,
    pub(crate) r_squared: f64,
}

impl Form {
    fn bend(self, d: f64) -> f64 {
        match self {
            Self::BestOfN => -d * d,
            Self::Rl => -d * d.ln(),
        }
    }

    /// The least-squares fit to (d, R), d > 0; `None` with fewer than three points or where d does not vary.
    pub(crate) fn fit(self, points: &[(f64, f64)]) -> Option<Fit> {
        let n = points.len();
        let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| of(p.0, p.1)).sum::<f64>();
        let (aa, ab, bb) =
            (sum(&|d, _| d * d), sum(&|d, _| d * self.bend(d)), sum(&|d, _| self.bend(d).powi(2)));
        let (ar, br) = (sum(&|d, r| d * r), sum(&|d, r| self.bend(d) * r));
        let determinant = aa * bb - ab * ab;
        if n < 3 || determinant <= 1e-12 * aa * bb {
            return None;
        }
        let alpha = (ar * bb - br * ab) / determinant;
        let beta = (br * aa - ar * ab) / determinant;
        let mean = sum(&|_, r| r) / n as f64;
        let left = sum(&|d, r| (r - alpha * d - beta * self.bend(d)).powi(2));
        let all = sum(&|_, r| (r - mean).powi(2));
        Some(Fit { alpha, beta, r_squared: 1.0 - left / all })
    }

    /// What a fit says at d.
    pub(crate) fn at(self, fit: Fit, d: f64) -> f64 {
        fit.alpha * d + fit.beta * self.bend(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_of_the_form_gives_its_coefficients() {
        // d(2 − d/2): 1.5 at 1, 2 at its peak 2, 0 at 4.
        let fit = Form::BestOfN.fit(&[(1.0, 1.5), (2.0, 2.0), (4.0, 0.0)]).unwrap();
        assert!((fit.alpha - 2.0).abs() < 1e-12 && (fit.beta - 0.5).abs() < 1e-12, "{fit:?}");
        assert!((fit.r_squared - 1.0).abs() < 1e-12 && (Form::BestOfN.at(fit, 3.0) - 1.5).abs() < 1e-12);
        // d(1 − ½ ln d): 1 at 1, its peak e/2 at e, 0 at e².
        let e = std::f64::consts::E;
        let fit = Form::Rl.fit(&[(1.0, 1.0), (e, e / 2.0), (e * e, 0.0)]).unwrap();
        assert!((fit.alpha - 1.0).abs() < 1e-12 && (fit.beta - 0.5).abs() < 1e-12, "{fit:?}");
    }

    #[test]
    fn r_squared_counts_what_the_form_cannot_say() {
        // Through the origin with d = 1 three times, only the mean can be met: R² = 0. d must vary, so one point is at 2.
        let fit = Form::BestOfN.fit(&[(1.0, 0.0), (1.0, 2.0), (2.0, 1.0)]).unwrap();
        assert!(fit.r_squared.abs() < 1e-12, "{fit:?}");
        assert_eq!(Form::Rl.fit(&[(1.0, 0.0), (1.0, 2.0), (1.0, 1.0)]), None);
        assert_eq!(Form::Rl.fit(&[(1.0, 0.0), (2.0, 2.0)]), None);
    }
}
