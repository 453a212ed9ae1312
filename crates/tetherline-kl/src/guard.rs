//! Guard: what to do when measurements break or KL blows up.
//!
//! - *Broken* observations (not finite, or significantly negative KL): each is rejected; `rollback_after`
//!   in a row ask for a rollback, `halt_after` in a row halt. Rollouts and trials are counted apart.
//! - *Blow-up*: KL above `blow_up` × target in `blow_up_for` observations in a row asks for a rollback.
//! - *Infeasible*: a budget with β at its upper bound and KL above the target throttles the learning rate after 12
//!   observations in a row, and asks for a rollback after 40.
//! - *Fast rise*: KL above 90 % of the cap and risen by more than twice its standard error since the last
//!   observation throttles the learning rate by `throttle`.
//! - A rollback multiplies β by `boost`; ln of the boost then shrinks by `decay` per good observation. A
//!   rejected update throttles the learning rate, unless the policy was above its cap already, and so does a budget
//!   that is infeasible; it recovers by 10 % per good observation in which no budget is.
//! - More than `max_rollbacks` rollbacks halt. A halt stays: the trainer has to be looked at.
//!
//! Precedence: halt > rollback > reject > scale > throttle > accept. No counter of a guard is ever
//! rewound, not by a rollback either: otherwise the same failure would be replayed for ever.

use crate::config::{KlConfigError, require};
use serde::{Deserialize, Serialize};

/// Alarms and their consequences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// Broken observations in a row that ask for a rollback (default 3).
    pub rollback_after: u32,
    /// Broken observations in a row that halt (default 5).
    pub halt_after: u32,
    /// Multiple of the target that counts as a blow-up (default 2).
    pub blow_up: f64,
    /// Observations in a row above it that ask for a rollback (default 3).
    pub blow_up_for: u32,
    /// Rollbacks before a halt (default 3).
    pub max_rollbacks: u32,
    /// β is multiplied by this at a rollback (default 1.5).
    pub boost: f64,
    /// ln of the boost is multiplied by this per good observation (default 0.9).
    pub decay: f64,
    /// Learning-rate factor of a throttle (default 0.5).
    pub throttle: f64,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            rollback_after: 3,
            halt_after: 5,
            blow_up: 2.0,
            blow_up_for: 3,
            max_rollbacks: 3,
            boost: 1.5,
            decay: 0.9,
            throttle: 0.5,
        }
    }
}

/// State of a guard: counters that only the guard changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardState {
    /// Broken rollouts in a row.
    pub broken: u32,
    /// Broken trials in a row.
    pub broken_trials: u32,
    /// Blown-up observations in a row.
    pub blown_up: u32,
    /// Rollbacks asked for, ever.
    pub rollbacks: u32,
    /// ln of the current boost of β.
    pub ln_boost: f64,
    /// Current learning-rate factor.
    pub lr_factor: f64,
    /// The step at which it halted.
    pub halted: Option<u64>,
}

impl Default for GuardState {
    fn default() -> Self {
        Self {
            broken: 0,
            broken_trials: 0,
            blown_up: 0,
            rollbacks: 0,
            ln_boost: 0.0,
            lr_factor: 1.0,
            halted: None,
        }
    }
}

/// Learning-rate factors never fall below this.
const MIN_LR_FACTOR: f64 = 0.01;
/// Boosts of β never exceed this, in ln.
const MAX_LN_BOOST: f64 = 2.0;

impl GuardState {
    pub(crate) fn damage(&self) -> Option<String> {
        if !(MIN_LR_FACTOR..=1.0).contains(&self.lr_factor) {
            return Some(format!("the learning-rate factor is {}", self.lr_factor));
        }
        let possible = (0.0..=MAX_LN_BOOST).contains(&self.ln_boost);
        (!possible).then(|| format!("ln of the boost is {}", self.ln_boost))
    }
}

/// What the guard asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    None,
    Rollback,
    Halt,
}

impl Guard {
    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        require(self.rollback_after > 0, "guard.rollback_after", self.rollback_after, "> 0")?;
        let later = self.halt_after >= self.rollback_after;
        require(later, "guard.halt_after", self.halt_after, "at least rollback_after")?;
        require(
            self.blow_up.is_finite() && self.blow_up > 1.0,
            "guard.blow_up",
            self.blow_up,
            "finite and > 1",
        )?;
        require(self.blow_up_for > 0, "guard.blow_up_for", self.blow_up_for, "> 0")?;
        require(
            (1.0..=MAX_LN_BOOST.exp()).contains(&self.boost),
            "guard.boost",
            self.boost,
            "from 1 to e² (7.389)",
        )?;
        require((0.0..1.0).contains(&self.decay), "guard.decay", self.decay, "in [0, 1)")?;
        require(self.throttle > 0.0 && self.throttle <= 1.0, "guard.throttle", self.throttle, "in (0, 1]")
    }

    /// Counts a rollout that is broken.
    pub(crate) fn broken(&self, s: &mut GuardState) -> Alarm {
        s.broken = s.broken.saturating_add(1);
        self.alarm(s, s.broken)
    }

    /// Counts a trial that is broken. A count of its own: the rollout between two trials says nothing about what
    /// updates do to the weights.
    pub(crate) fn broken_trial(&self, s: &mut GuardState) -> Alarm {
        s.broken_trials = s.broken_trials.saturating_add(1);
        self.alarm(s, s.broken_trials)
    }

    fn alarm(&self, s: &mut GuardState, in_a_row: u32) -> Alarm {
        if in_a_row >= self.halt_after {
            Alarm::Halt
        } else if in_a_row == self.rollback_after {
            self.roll_back(s)
        } else {
            Alarm::None
        }
    }

    /// Counts a usable observation: whether it is blown up, and whether the learning rate may recover.
    pub(crate) fn usable(&self, s: &mut GuardState, blown_up: bool, recover: bool) -> Alarm {
        s.broken = 0;
        if blown_up {
            s.blown_up += 1;
            if s.blown_up < self.blow_up_for {
                return Alarm::None;
            }
            let alarm = self.roll_back(s);
            if alarm == Alarm::Rollback {
                s.blown_up = 0;
            }
            return alarm;
        }
        s.blown_up = 0;
        s.ln_boost *= self.decay;
        if recover {
            s.lr_factor = (s.lr_factor * 1.1).min(1.0);
        }
        Alarm::None
    }

    /// Asks for a rollback, or for a halt where these are used up.
    pub(crate) fn roll_back(&self, s: &mut GuardState) -> Alarm {
        if s.rollbacks >= self.max_rollbacks {
            return Alarm::Halt;
        }
        s.rollbacks += 1;
        s.ln_boost = (s.ln_boost + self.boost.ln()).min(MAX_LN_BOOST);
        Alarm::Rollback
    }

    /// Lowers the learning rate.
    pub(crate) fn throttle(&self, s: &mut GuardState) {
        s.lr_factor = (s.lr_factor * self.throttle).max(MIN_LR_FACTOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_in_a_row_rolls_back_then_halts_and_one_good_resets() {
        let g = Guard::default();
        let mut s = GuardState::default();
        let asked: Vec<_> = (0..5).map(|_| g.broken(&mut s)).collect();
        assert_eq!(asked, [Alarm::None, Alarm::None, Alarm::Rollback, Alarm::None, Alarm::Halt]);
        let mut s = GuardState::default();
        g.broken(&mut s);
        g.broken(&mut s);
        assert_eq!(g.usable(&mut s, false, true), Alarm::None);
        assert_eq!((g.broken(&mut s), s.broken), (Alarm::None, 1));
    }

    #[test]
    fn blow_ups_roll_back_with_a_boost_that_decays() {
        let g = Guard::default();
        let mut s = GuardState::default();
        let asked: Vec<_> = (0..3).map(|_| g.usable(&mut s, true, true)).collect();
        assert_eq!(asked, [Alarm::None, Alarm::None, Alarm::Rollback]);
        assert!((s.ln_boost.exp() - 1.5).abs() < 1e-12);
        g.usable(&mut s, false, true);
        assert!((s.ln_boost - 0.9 * 1.5f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn rollbacks_are_limited_and_so_is_their_boost() {
        let g = Guard { blow_up_for: 1, max_rollbacks: 9, ..Guard::default() };
        let mut s = GuardState::default();
        for _ in 0..9 {
            assert_eq!(g.usable(&mut s, true, true), Alarm::Rollback);
        }
        assert_eq!(s.ln_boost, MAX_LN_BOOST);
        assert_eq!((g.usable(&mut s, true, true), s.rollbacks), (Alarm::Halt, 9));
        assert_eq!(s.blown_up, 1, "a halt does not forget what it is for");
    }

    #[test]
    fn the_learning_rate_is_throttled_and_recovers() {
        let g = Guard::default();
        let mut s = GuardState::default();
        g.throttle(&mut s);
        g.throttle(&mut s);
        assert_eq!(s.lr_factor, 0.25);
        g.usable(&mut s, false, true);
        assert!((s.lr_factor - 0.275).abs() < 1e-12);
        (0..20).for_each(|_| g.throttle(&mut s));
        assert_eq!(s.lr_factor, MIN_LR_FACTOR);
        (0..60).for_each(|_| assert_eq!(g.usable(&mut s, false, true), Alarm::None));
        assert_eq!(s.lr_factor, 1.0);
    }
}
