//! β on a schedule: open loop, no target.
//!
//! β(t) = shape from `init` to `end` over `steps` updates, after a warm-up that rises linearly from 0;
//! t counts the rollouts observed, not the trainer's step numbers. See [`Ramp`].

use super::Note;
use crate::config::{KlConfigError, require};
use crate::ramp::{Ramp, Shape};
use serde::{Deserialize, Serialize};

/// A β schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// β at the beginning (after the warm-up), reward units per nat.
    pub init: f64,
    /// β at the end and ever after.
    pub end: f64,
    /// Updates from `init` to `end`.
    pub steps: u64,
    /// How it goes from one to the other (default linear).
    #[serde(default)]
    pub shape: Shape,
    /// Updates of warm-up, in which β rises linearly from 0 to `init` (default 0).
    #[serde(default)]
    pub warmup: u64,
}

/// State of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleState {
    /// Updates seen.
    pub t: u64,
}

impl Schedule {
    fn ramp(&self) -> Ramp {
        Ramp { from: self.init, to: self.end, steps: self.steps, shape: self.shape, warmup: self.warmup }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        for (value, field) in [(self.init, "schedule.init"), (self.end, "schedule.end")] {
            require((0.0..=1e9).contains(&value), field, format_args!("{value:?}"), "from 0 to 1e9")?;
        }
        require(self.steps > 0, "schedule.steps", self.steps, "> 0")?;
        let geometric = self.shape == Shape::Geometric;
        let positive = self.init >= 1e-9 && self.end >= 1e-9;
        require(
            !geometric || positive,
            "schedule.end",
            format_args!("{:?}", self.end),
            "at least 1e-9, as init, where the shape is geometric",
        )
    }

    pub(crate) fn beta(&self, state: &ScheduleState) -> f64 {
        self.ramp().at(state.t)
    }

    pub(crate) fn update(&self, state: &mut ScheduleState) -> Note {
        state.t = state.t.saturating_add(1);
        Note::Plain
    }
}
