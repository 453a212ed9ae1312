//! Learning rates: a linear warm-up, then a decay.
//!
//! ```text
//! step < warmup       peak · step / warmup
//! constant            peak
//! linear              peak · (1 − x)                  x = (step − warmup) / (total − warmup)
//! cosine              peak · ½(1 + cos πx)
//! ```
//!
//! `step` counts from 0, so without warm-up the first step runs at the peak and the last one just above
//! 0, as with the schedules of `transformers`.

use serde::{Deserialize, Serialize};

/// How a learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// It does not.
    Constant,
    /// On a straight line to 0.
    Linear,
    /// On half a cosine to 0.
    Cosine,
}

/// A learning rate for every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest rate.
    pub peak: f64,
    /// Steps of linear warm-up from 0.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// What follows the warm-up.
    pub decay: LrSchedule,
}

impl Schedule {
    /// The rate of step `step`, counted from 0; at and beyond `total` that of the end.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1);
        let x = ((step - self.warmup) as f64 / length as f64).min(1.0);
        match self.decay {
            LrSchedule::Constant => self.peak,
            LrSchedule::Linear => self.peak * (1.0 - x),
            LrSchedule::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(decay: LrSchedule, warmup: u64) -> Vec<f64> {
        let schedule = Schedule { peak: 8.0, warmup, total: 8, decay };
        (0..10).map(|step| schedule.at(step)).collect()
    }

    #[test]
    fn linear_reaches_zero_at_the_end() {
        assert_eq!(rates(LrSchedule::Linear, 0), [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0]);
        assert_eq!(rates(LrSchedule::Linear, 4), [0.0, 2.0, 4.0, 6.0, 8.0, 6.0, 4.0, 2.0, 0.0, 0.0]);
    }

    #[test]
    fn constant_stays() {
        assert_eq!(rates(LrSchedule::Constant, 2), [0.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
    }

    #[test]
    fn cosine_is_half_way_down_in_the_middle() {
        let r = rates(LrSchedule::Cosine, 0);
        assert_eq!(r[0], 8.0);
        assert!((r[2] - 4.0 * (1.0 + 0.5f64.sqrt())).abs() < 1e-12);
        assert!((r[4] - 4.0).abs() < 1e-12 && r[8].abs() < 1e-12 && r[9].abs() < 1e-12);
    }

    #[test]
    fn a_run_that_is_all_warm_up_does_not_divide_by_zero() {
        let s = Schedule { peak: 1.0, warmup: 3, total: 3, decay: LrSchedule::Linear };
        assert_eq!([s.at(0), s.at(3), s.at(4)], [0.0, 1.0, 0.0]);
    }
}
