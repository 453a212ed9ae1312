//! Typed access to the keys of a `config.json`, with errors that name the file and the field.

use crate::error::{ModelError, Result};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The keys of one JSON object.
pub(crate) struct Fields<'a> {
    pub(crate) path: PathBuf,
    pub(crate) map: &'a Map<String, Value>,
}

impl Fields<'_> {
    pub(crate) fn error(&self, field: &str, problem: impl Into<String>) -> ModelError {
        ModelError::ConfigField { path: self.path.clone(), field: field.to_owned(), problem: problem.into() }
    }

    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    pub(crate) fn size(&self, field: &str) -> Result<usize> {
        let v = self.get(field).ok_or_else(|| self.error(field, "missing; expected a positive integer"))?;
        self.as_size(field, v)
    }

    pub(crate) fn size_or(&self, field: &str, default: usize) -> Result<usize> {
        self.get(field).map_or(Ok(default), |v| self.as_size(field, v))
    }

    /// Of a field where null says something else than absence.
    pub(crate) fn size_or_null(&self, field: &str, absent: Option<usize>) -> Result<Option<usize>> {
        match self.map.get(field) {
            None => Ok(absent),
            Some(Value::Null) => Ok(None),
            Some(v) => self.as_size(field, v).map(Some),
        }
    }

    pub(crate) fn as_size(&self, field: &str, v: &Value) -> Result<usize> {
        match v.as_u64() {
            // Sizes index memory; anything past this is not a model but a broken file.
            Some(n @ 1..=16_777_216) => Ok(n as usize),
            _ => Err(self.error(field, format!("expected an integer from 1 to 16777216, found {v}"))),
        }
    }

    pub(crate) fn number(&self, field: &str) -> Result<Option<f64>> {
        self.get(field).map(|v| self.as_number(field, v)).transpose()
    }

    pub(crate) fn number_or(&self, field: &str, default: f64) -> Result<f64> {
        Ok(self.number(field)?.unwrap_or(default))
    }

    /// Of a field where null says something else than absence.
    pub(crate) fn number_or_null(&self, field: &str, absent: Option<f64>) -> Result<Option<f64>> {
        match self.map.get(field) {
            None => Ok(absent),
            Some(Value::Null) => Ok(None),
            Some(v) => self.as_number(field, v).map(Some),
        }
    }

    fn as_number(&self, field: &str, v: &Value) -> Result<f64> {
        match v.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(self.error(field, format!("expected a positive number, found {v}"))),
        }
    }

    /// A list of `n` positive numbers.
    pub(crate) fn numbers(&self, field: &str, n: usize) -> Result<Vec<f64>> {
        let list = self.get(field).and_then(Value::as_array);
        let found = list.map_or("none".to_owned(), |l| format!("one of {}", l.len()));
        let problem = || self.error(field, format!("expected a list of {n} positive numbers, found {found}"));
        let list = list.filter(|l| l.len() == n).ok_or_else(problem)?;
        list.iter().map(|v| self.as_number(field, v)).collect()
    }

    pub(crate) fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        self.get(field).map_or(Ok(default), |v| {
            v.as_bool().ok_or_else(|| self.error(field, format!("expected true or false, found {v}")))
        })
    }

    /// Refuses a flag that is set, and says why.
    pub(crate) fn unset(&self, field: &str, why: &str) -> Result<()> {
        if self.flag_or(field, false)? {
            Err(self.error(field, format!("true is not supported: {why}")))
        } else {
            Ok(())
        }
    }

    /// An object inside, empty if absent.
    pub(crate) fn object(&self, field: &str) -> Result<Option<&Map<String, Value>>> {
        self.get(field)
            .map(|v| v.as_object().ok_or_else(|| self.error(field, format!("expected an object, found {v}"))))
            .transpose()
    }
}
