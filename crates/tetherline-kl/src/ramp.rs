//! The shapes a schedule may have: constant, linear, cosine, geometric, quadratic, with a warm-up.
//!
//! With x = (t − warmup)/steps in 0..=1: linear a + (b−a)x; cosine b + (a−b)(1 + cos πx)/2; geometric
//! a·(b/a)^x; quadratic a + (b−a)x² (of a KL target: a linear rise of √KL); constant a; step a, then b. During the
//! warm-up the value is a·t/warmup; after the end it stays b.

use serde::{Deserialize, Serialize};

/// How a value goes from one end to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Stays at the first value.
    Constant,
    /// In a straight line.
    #[default]
    Linear,
    /// Half a cosine: flat at both ends.
    Cosine,
    /// By a constant factor; both ends > 0.
    Geometric,
    /// With the square of time.
    Quadratic,
    /// Holds the first value to the end, then jumps to the second.
    Step,
}

/// A value over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ramp {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) steps: u64,
    pub(crate) shape: Shape,
    pub(crate) warmup: u64,
}

impl Ramp {
    /// The value at update `t`, from 0.
    pub(crate) fn at(&self, t: u64) -> f64 {
        if t < self.warmup {
            return self.from * t as f64 / self.warmup as f64;
        }
        let (a, b) = (self.from, self.to);
        let x = ((t - self.warmup) as f64 / self.steps as f64).min(1.0);
        match self.shape {
            Shape::Constant => a,
            Shape::Step if x < 1.0 => a,
            // Exactly b at the end: a + (b − a) may differ from b by rounding.
            _ if x == 1.0 => b,
            Shape::Linear => a + (b - a) * x,
            Shape::Cosine => b + (a - b) * 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
            Shape::Geometric => a * (b / a).powf(x),
            Shape::Quadratic => a + (b - a) * x * x,
            Shape::Step => b,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_at_their_quarters() {
        let at = |shape, t| Ramp { from: 1.0, to: 16.0, steps: 4, shape, warmup: 2 }.at(t);
        for shape in [Shape::Linear, Shape::Cosine, Shape::Geometric, Shape::Quadratic, Shape::Step] {
            assert_eq!((at(shape, 0), at(shape, 1), at(shape, 2)), (0.0, 0.5, 1.0));
            assert_eq!((at(shape, 6), at(shape, 600)), (16.0, 16.0));
        }
        assert_eq!(at(Shape::Linear, 3), 4.75);
        assert!((at(Shape::Cosine, 4) - 8.5).abs() < 1e-12);
        assert!((at(Shape::Cosine, 3) - (16.0 - 7.5 * (1.0 + 0.5f64.sqrt()))).abs() < 1e-12);
        assert!((at(Shape::Geometric, 3) - 2.0).abs() < 1e-12);
        assert_eq!(at(Shape::Quadratic, 4), 4.75);
        assert_eq!(at(Shape::Constant, 6), 1.0);
        assert_eq!(at(Shape::Step, 5), 1.0);
        let down = |shape, t| Ramp { from: 0.7, to: 0.1, steps: 2, shape, warmup: 0 }.at(t);
        // 0.7 + (0.1 − 0.7) is not 0.1: the end is the end all the same.
        assert_eq!((down(Shape::Linear, 2), down(Shape::Linear, 9)), (0.1, 0.1));
        assert!((down(Shape::Geometric, 1) - 0.07f64.sqrt()).abs() < 1e-12);
    }
}
