//! Telling whether two recipes would run the same.

use super::Recipe;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Keys without influence on the numbers of a run.
const FREE: &[&str] = &["name", "threads", "model.gradient_checkpointing"];

/// A key on which two recipes differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Dotted key.
    pub key: String,
    /// Its value here; `(absent)` where it has none.
    pub ours: String,
    /// Its value there.
    pub theirs: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} here, {} there", self.key, self.ours, self.theirs)
    }
}

impl Recipe {
    /// A hash of everything that has influence on the run: 16 hex digits, the same in every version of
    /// the program that knows the same keys (FNV-1a over the sorted `key=value` lines).
    pub fn fingerprint(&self) -> String {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (key, value) in self.flat() {
            for byte in format!("{key}={value}\n").bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }

    /// The keys on which two recipes differ, apart from those without influence.
    pub fn differences(&self, other: &Recipe) -> Vec<Difference> {
        let (ours, theirs) = (self.flat(), other.flat());
        let absent = || "(absent)".to_owned();
        let mut keys: Vec<_> = ours.keys().chain(theirs.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter()
            .filter(|k| ours.get(*k) != theirs.get(*k))
            .map(|k| Difference {
                key: k.clone(),
                ours: ours.get(k).cloned().unwrap_or_else(absent),
                theirs: theirs.get(k).cloned().unwrap_or_else(absent),
            })
            .collect()
    }

    /// Dotted key → value as TOML, sorted, without the keys that have no influence.
    fn flat(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        // Through the text, so that both sides of a comparison went the same way.
        let table: Table = toml::from_str(&self.to_toml()).unwrap_or_default();
        flatten("", &Value::Table(table), &mut out);
        out.retain(|k, _| !FREE.contains(&k.as_str()));
        out
    }
}

fn flatten(prefix: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    let join = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(k, v)| flatten(&join(k), v, out)),
        Value::Array(items) if items.iter().any(Value::is_table) => {
            items.iter().enumerate().for_each(|(i, v)| flatten(&join(&i.to_string()), v, out));
        }
        leaf => {
            out.insert(prefix.to_owned(), leaf.to_string());
        }
    }
}
