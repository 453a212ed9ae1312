//! Finds the peers' golden files; a test that needs them is skipped, loudly, where they are missing.

use serde_json::Value;
use std::path::PathBuf;

#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
/// A golden file's JSON, or `None` after saying that the test is skipped.
pub(crate) fn golden(name: &str) -> Option<Value> {
    let root = std::env::var_os("TETHER_ORACLE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle"),
        PathBuf::from,
    );
    let path = root.join("golden").join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).expect("golden file is JSON")),
        Err(_) => {
            eprintln!("SKIPPED: oracle not found at {} (set TETHER_ORACLE)", path.display());
            None
        }
    }
}

/// A list of numbers.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}
