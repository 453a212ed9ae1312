//! Numbers in JSON: a non-finite `f64` is written as `null` and read back as NaN.

use serde::{Deserialize, Deserializer, Serializer};

/// Writes a finite number as itself and anything else as `null`.
pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_none() }
}

/// Reads a number, or NaN where the value is `null`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The same for an optional number: a missing key is `None`, `null` is also `None`.
pub(crate) mod optional {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a finite number as itself and anything else as `null`.
    pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(v) if v.is_finite() => serializer.serialize_f64(*v),
            _ => serializer.serialize_none(),
        }
    }

    /// Reads an optional number.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Option::<f64>::deserialize(deserializer)
    }
}
