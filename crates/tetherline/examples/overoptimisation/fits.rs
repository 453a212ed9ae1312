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
