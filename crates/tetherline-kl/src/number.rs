//! Numbers in JSON: one that is not finite is written as `null` and read back as NaN.

use crate::units::NatsPerSequence;
use serde::{Deserialize, Deserializer, Serializer};

/// A plain number or one with its unit.
pub(crate) trait Number: Copy {
    fn get(self) -> f64;
    fn of(value: f64) -> Self;
}

impl Number for f64 {
    fn get(self) -> f64 {
        self
    }

    fn of(value: f64) -> Self {
        value
    }
}

impl Number for NatsPerSequence {
    fn get(self) -> f64 {
        self.0
    }

    fn of(value: f64) -> Self {
        Self(value)
    }
}

/// Writes a finite number as itself and anything else as `null`.
pub(crate) fn serialize<N: Number, S: Serializer>(value: &N, serializer: S) -> Result<S::Ok, S::Error> {
    let value = value.get();
    if value.is_finite() { serializer.serialize_f64(value) } else { serializer.serialize_none() }
}

/// Reads a number, or NaN where the value is `null`.
pub(crate) fn deserialize<'de, N: Number, D: Deserializer<'de>>(deserializer: D) -> Result<N, D::Error> {
    Ok(N::of(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN)))
}

/// The same for an optional number: a missing key is `None`, `null` a number that is not finite.
pub(crate) mod optional {
    use super::Number;
    use serde::{Deserializer, Serializer};

    /// Writes a finite number as itself and anything else as `null`.
    pub(crate) fn serialize<N: Number, S: Serializer>(
        value: &Option<N>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value.map(Number::get) {
            Some(v) if v.is_finite() => serializer.serialize_f64(v),
            _ => serializer.serialize_none(),
        }
    }

    /// Reads an optional number.
    pub(crate) fn deserialize<'de, N: Number, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<N>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}
