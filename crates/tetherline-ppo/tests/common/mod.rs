//! Finds the oracle and compares numbers with it.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// The oracle folder; says so and returns None where it is missing.
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub(crate) fn oracle() -> Option<PathBuf> {
    let path = std::env::var_os("TETHER_ORACLE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle"), PathBuf::from);
    if path.join("golden").is_dir() {
        return Some(path);
    }
    eprintln!("SKIPPED: oracle not found at {} (set TETHER_ORACLE)", path.display());
    None
}

/// Reads a JSON file.
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// |got − want| ≤ tol · max(0.1, |want|): relative, but for numbers near zero, which are differences of larger ones.
#[track_caller]
pub(crate) fn close(got: f64, want: f64, tol: f64, what: &str) {
    assert!((got - want).abs() <= tol * want.abs().max(0.1), "{what}: got {got}, golden {want}, tol {tol}");
}
