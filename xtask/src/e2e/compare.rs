//! Reading what runs leave behind, and telling whether two runs left the same.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The objects of a JSON-lines file.
pub(super) fn read_rows(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}:{}: not JSON: {line}", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

/// Writes values as JSON lines.
pub(super) fn write_rows(path: &Path, rows: &[Value]) -> Result<()> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The numbers under `key`.
pub(super) fn numbers(row: &Value, key: &str) -> Result<Vec<f64>> {
    let list = row[key].as_array().with_context(|| format!("no list {key:?} in {row}"))?;
    list.iter().map(|n| n.as_f64().with_context(|| format!("{key:?} holds {n}"))).collect()
}

/// Checks that two lists agree within `tolerance`, number by number.
pub(super) fn expect_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) -> Result<()> {
    if got.len() != want.len() {
        bail!("{what}: {} numbers, expected {}", got.len(), want.len());
    }
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        // Written so that a NaN counts as a difference.
        let close = (g - w).abs() <= tolerance;
        if !close {
            bail!("{what}: number {i} is {g}, expected {w} (tolerance {tolerance:e})");
        }
    }
    Ok(())
}

/// Checks that two JSON-lines files hold the same, apart from keys that begin with `time/`.
pub(super) fn expect_same_rows(a: &Path, b: &Path) -> Result<()> {
    let (rows_a, rows_b) = (read_rows(a)?, read_rows(b)?);
    if rows_a.len() != rows_b.len() {
        bail!("{} has {} lines, {} has {}", a.display(), rows_a.len(), b.display(), rows_b.len());
    }
    for (i, (x, y)) in rows_a.iter().zip(&rows_b).enumerate() {
        let (x, y) = (timeless(x), timeless(y));
        if x != y {
            let differs = |k: &&String| x.get(*k) != y.get(*k);
            let keys: Vec<_> = x.keys().chain(y.keys()).filter(differs).take(6).collect();
            let values: Vec<_> =
                keys.iter().map(|k| format!("{k}: {:?} and {:?}", x.get(*k), y.get(*k))).collect();
            bail!("{} and {} differ in line {}: {}", a.display(), b.display(), i + 1, values.join(", "));
        }
    }
    Ok(())
}

/// Key → value as text, so that a number equals another only when all its digits do.
fn timeless(row: &Value) -> BTreeMap<String, String> {
    let object = row.as_object().into_iter().flatten();
    object.filter(|(key, _)| !key.starts_with("time/")).map(|(k, v)| (k.clone(), v.to_string())).collect()
}

/// Checks that two directories hold the same files with the same bytes.
pub(super) fn expect_same_dirs(a: &Path, b: &Path) -> Result<()> {
    let (files_a, files_b) = (contents(a)?, contents(b)?);
    if files_a.is_empty() {
        bail!("{} has no files", a.display());
    }
    let names: Vec<_> = files_a.keys().chain(files_b.keys()).collect();
    let different: Vec<_> = names.into_iter().filter(|n| files_a.get(*n) != files_b.get(*n)).collect();
    if let Some(name) = different.first() {
        bail!("{} of {} and {} differ", name.display(), a.display(), b.display());
    }
    Ok(())
}

/// Path below `dir` → bytes, of every file.
pub(super) fn contents(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let here = dir.join(&below);
        for entry in fs::read_dir(&here).with_context(|| format!("cannot list {}", here.display()))? {
            let entry = entry?;
            let name = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(name);
            } else {
                let bytes = fs::read(entry.path())?;
                found.insert(name, bytes);
            }
        }
    }
    Ok(found)
}

/// Copies a directory and everything in it.
pub(super) fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    for (name, bytes) in contents(from)? {
        let target = to.join(name);
        fs::create_dir_all(target.parent().unwrap_or(to))?;
        fs::write(&target, bytes).with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// An empty directory of this test's own.
    fn fresh(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn rows_are_the_same_only_when_every_bit_is_and_times_do_not_count() {
        let dir = fresh("rows");
        let (a, b) = (dir.join("a"), dir.join("b"));
        write_rows(&a, &[json!({"step": 1, "x": 0.1, "time/s": 1})]).unwrap();
        write_rows(&b, &[json!({"step": 1, "x": 0.1, "time/s": 2})]).unwrap();
        expect_same_rows(&a, &b).unwrap();
        write_rows(&b, &[json!({"step": 1, "x": 0.1 + f64::EPSILON})]).unwrap();
        assert!(expect_same_rows(&a, &b).unwrap_err().to_string().contains("line 1: x"));
        write_rows(&b, &[json!({"step": 1}), json!({"step": 2})]).unwrap();
        assert!(expect_same_rows(&a, &b).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn directories_differ_in_a_byte_or_a_file() {
        let dir = fresh("dirs");
        let (a, b) = (dir.join("a"), dir.join("b"));
        fs::create_dir_all(a.join("sub")).unwrap();
        assert!(expect_same_dirs(&a, &a).is_err(), "nothing to compare is not the same");
        fs::write(a.join("sub/x"), "1").unwrap();
        copy_dir(&a, &b).unwrap();
        expect_same_dirs(&a, &b).unwrap();
        fs::write(b.join("y"), "").unwrap();
        assert!(expect_same_dirs(&a, &b).is_err());
        fs::write(a.join("y"), "1").unwrap();
        assert!(expect_same_dirs(&a, &b).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_nan_is_never_close() {
        expect_close("x", &[1.0], &[1.00005], 1e-4).unwrap();
        assert!(expect_close("x", &[1.0], &[1.001], 1e-4).is_err());
        assert!(expect_close("x", &[f64::NAN], &[1.0], 1e-4).is_err());
        assert!(expect_close("x", &[], &[1.0], 1e-4).is_err());
    }
}
