//! Numbers of a training run beside the goldens.

use serde_json::Value;
use std::path::Path;

/// `golden_train.json` of the oracle, `golden.json` of the fixtures.
pub(crate) fn json(dir: &Path) -> Value {
    let name = if dir.join("golden_train.json").is_file() { "golden_train.json" } else { "golden.json" };
    serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap()
}

pub(crate) fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|i| u32::try_from(i.as_u64().unwrap()).unwrap()).collect()
}
