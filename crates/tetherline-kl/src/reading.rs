//! One domain's measurement after the sanity checks, in the form the laws use.

use crate::observation::DomainKl;

/// What a domain's numbers amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Checked {
    /// No sequence of this domain in the batch.
    Absent,
    /// A number that no measurement can be: the name of its field.
    Invalid(&'static str),
    /// Usable.
    Usable(Reading),
}

/// A usable measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// Mean KL as measured, nats per sequence; may be slightly negative.
    pub(crate) mean: f64,
    /// Standard error of the mean, nats per sequence, > 0.
    pub(crate) stderr: f64,
    /// Sequences, ≥ 1.
    pub(crate) n: u64,
    /// Standard deviation of the reward across sequences.
    pub(crate) reward_sd: Option<f64>,
    /// KL to the policy before the update.
    pub(crate) kl_old: Option<f64>,
    /// KL to the first reference.
    pub(crate) kl_ref0: Option<f64>,
}

/// Below this a variance counts as zero, so that no standard error is exactly 0.
const MIN_VARIANCE: f64 = 1e-12;

/// No response is long enough for a KL above this, nats per sequence; beyond it sums would overflow.
const MAX_KL: f64 = 1e12;

impl Reading {
    /// Checks one domain's numbers.
    ///
    /// A variance that is unknown (one sequence, or `null`) is replaced by 2·KL, the variance of the
    /// log-ratio along the optimal tilt, floored like a measured one.
    pub(crate) fn check(domain: &DomainKl) -> Checked {
        if domain.n == 0 {
            return Checked::Absent;
        }
        let optional = [
            ("stderr", domain.stderr.map(|v| v.0)),
            ("reward_sd", domain.reward_sd),
            ("kl_old", domain.kl_old.map(|v| v.0)),
            ("kl_ref0", domain.kl_ref0.map(|v| v.0)),
        ];
        if !possible(domain.mean_kl.0) {
            return Checked::Invalid("mean_kl");
        }
        if domain.var < 0.0 || domain.var > MAX_KL * MAX_KL {
            return Checked::Invalid("var");
        }
        for (field, value) in optional {
            // KL to the old policy is estimated by k1 too, so only the deviations must not be negative.
            let deviation = matches!(field, "stderr" | "reward_sd");
            if value.is_some_and(|v| !possible(v) || (deviation && v < 0.0)) {
                return Checked::Invalid(field);
            }
        }
        let n = domain.n as f64;
        let var = if domain.n < 2 || domain.var.is_nan() { 2.0 * domain.mean_kl.0.abs() } else { domain.var };
        let stderr = domain.stderr.map_or_else(|| (var.max(MIN_VARIANCE) / n).sqrt(), |s| s.0);
        Checked::Usable(Self {
            mean: domain.mean_kl.0,
            stderr: stderr.max((MIN_VARIANCE / n).sqrt()),
            n: domain.n,
            reward_sd: domain.reward_sd,
            kl_old: domain.kl_old.map(|v| v.0),
            kl_ref0: domain.kl_ref0.map(|v| v.0),
        })
    }

    /// Whether the mean is negative beyond noise: below −3 standard errors. A true KL never is, so this
    /// is a bug alarm (wrong mask, temperature mismatch, dropout, engine mismatch), not drift.
    pub(crate) fn impossible(&self) -> bool {
        self.mean < -3.0 * self.stderr
    }

    /// The mean with its negative noise cut off, nats per sequence.
    pub(crate) fn kl(&self) -> f64 {
        self.mean.max(0.0)
    }
}

/// Finite, and of a size that a KL can have.
pub(crate) fn possible(value: f64) -> bool {
    value.abs() <= MAX_KL
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::NatsPerSequence;

    fn usable(d: &DomainKl) -> Reading {
        match Reading::check(d) {
            Checked::Usable(r) => r,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn absent_comes_before_invalid() {
        assert_eq!(
            Reading::check(&DomainKl::new("a", NatsPerSequence(f64::NAN), f64::NAN, 0)),
            Checked::Absent
        );
        assert_eq!(
            Reading::check(&DomainKl::new("a", NatsPerSequence(f64::NAN), 1.0, 3)),
            Checked::Invalid("mean_kl")
        );
        assert_eq!(
            Reading::check(&DomainKl::new("a", NatsPerSequence(1e13), 1.0, 3)),
            Checked::Invalid("mean_kl")
        );
        assert!(matches!(
            Reading::check(&DomainKl::new("a", NatsPerSequence(1e12), 1.0, 3)),
            Checked::Usable(_)
        ));
        assert_eq!(
            Reading::check(&DomainKl::new("a", NatsPerSequence(1.0), -1.0, 3)),
            Checked::Invalid("var")
        );
        assert_eq!(
            Reading::check(&DomainKl::new("a", NatsPerSequence(1.0), f64::INFINITY, 3)),
            Checked::Invalid("var")
        );
        let mut d = DomainKl::new("a", NatsPerSequence(1.0), 1.0, 3);
        d.kl_old = Some(NatsPerSequence(-0.001));
        assert!(matches!(Reading::check(&d), Checked::Usable(_)));
        d.kl_old = Some(NatsPerSequence(f64::INFINITY));
        assert_eq!(Reading::check(&d), Checked::Invalid("kl_old"));
        d.kl_old = None;
        d.stderr = Some(NatsPerSequence(-1.0));
        assert_eq!(Reading::check(&d), Checked::Invalid("stderr"));
    }

    #[test]
    fn standard_errors() {
        assert!((usable(&DomainKl::new("a", NatsPerSequence(3.0), 8.0, 2)).stderr - 2.0).abs() < 1e-12);
        // Unknown variance: 2·KL = 8 over n = 2.
        assert!((usable(&DomainKl::new("a", NatsPerSequence(4.0), f64::NAN, 2)).stderr - 2.0).abs() < 1e-12);
        // One sequence has no variance, whatever is claimed.
        assert!((usable(&DomainKl::new("a", NatsPerSequence(2.0), 0.0, 1)).stderr - 2.0).abs() < 1e-12);
        assert!(usable(&DomainKl::new("a", NatsPerSequence(0.0), 0.0, 9)).stderr > 0.0);
        // A standard error of zero is floored at that of a variance of 1e-12.
        let exact = DomainKl {
            stderr: Some(NatsPerSequence(0.0)),
            ..DomainKl::new("a", NatsPerSequence(1.0), 1.0, 4)
        };
        assert!((usable(&exact).stderr / 5e-7 - 1.0).abs() < 1e-9);
        let wide = |var| Reading::check(&DomainKl::new("a", NatsPerSequence(1.0), var, 4));
        assert!(matches!(wide(1e24), Checked::Usable(_)));
        assert_eq!(wide(1.001e24), Checked::Invalid("var"));
        let mut d = DomainKl::new("a", NatsPerSequence(4.0), 8.0, 2);
        d.stderr = Some(NatsPerSequence(0.5));
        assert_eq!(usable(&d).stderr, 0.5);
    }

    #[test]
    fn three_standard_errors_below_zero_is_impossible() {
        assert!(!usable(&DomainKl::new("a", NatsPerSequence(-2.9), 4.0, 4)).impossible());
        assert!(usable(&DomainKl::new("a", NatsPerSequence(-3.1), 4.0, 4)).impossible());
        assert!(!usable(&DomainKl::new("a", NatsPerSequence(-3.0), 4.0, 4)).impossible());
        assert_eq!(usable(&DomainKl::new("a", NatsPerSequence(-2.9), 4.0, 4)).kl(), 0.0);
    }
}
