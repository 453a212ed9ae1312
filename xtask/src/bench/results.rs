//! All numbers measured so far, and their files.

use super::machine;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Model, threads, side, work, key.
type Place = (String, usize, String, String, String);

/// The key of the cores that others used.
const LOAD: &str = "foreign_cores";

/// Numbers by place, in the order measured.
#[derive(Debug, PartialEq)]
pub(super) struct Results {
    /// The CPU they are of.
    pub(super) machine: String,
    /// What the peers said their versions are, as `name version`.
    versions: BTreeSet<String>,
    numbers: BTreeMap<Place, Vec<f64>>,
}

/// A process is quiet if others used no more cores than this meanwhile, on average: a quarter, and one more where
/// the process leaves a core free.
fn quiet_limit(threads: usize) -> f64 {
    0.25 + machine::cores().saturating_sub(threads).min(1) as f64
}

/// What others did meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    /// Cores, the highest of the processes that count.
    pub(super) cores: f64,
    /// Processes that count: the quiet ones, or all where none was.
    pub(super) used: usize,
    /// Processes in all.
    pub(super) of: usize,
    /// Whether those that count are quiet.
    pub(super) quiet: bool,
}

/// Smallest, middle and largest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of at least one number.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut v = values.to_vec();
        v.sort_by(f64::total_cmp);
        let (min, max) = (*v.first()?, *v.last()?);
        let n = v.len();
        let median = if n % 2 == 1 { v[n / 2] } else { 0.5 * (v[n / 2 - 1] + v[n / 2]) };
        Some(Self { min, median, max })
    }
}

impl Results {
    pub(super) fn new() -> Self {
        Self { machine: machine::label(), versions: BTreeSet::new(), numbers: BTreeMap::new() }
    }

    /// Adds the numbers of one process.
    pub(super) fn add(&mut self, model: &str, threads: usize, side: &str, work: &str, line: &Value) {
        for (key, value) in line.as_object().into_iter().flatten() {
            if let Some(number) = value.as_f64().filter(|_| key != "threads") {
                let place = (model.to_owned(), threads, side.to_owned(), work.to_owned(), key.clone());
                self.numbers.entry(place).or_default().push(number);
            }
        }
        for (name, version) in line["versions"].as_object().into_iter().flatten() {
            self.versions.insert(format!("{name} {}", version.as_str().unwrap_or("?")));
        }
    }

    /// Adds what `ours` measured in `other`, as another side.
    pub(super) fn take_as(&mut self, side: &str, other: &Self) {
        for ((model, threads, from, work, key), values) in &other.numbers {
            if from == "ours" {
                let place = (model.clone(), *threads, side.to_owned(), work.clone(), key.clone());
                self.numbers.insert(place, values.clone());
            }
        }
    }

    fn get(&self, model: &str, threads: usize, side: &str, work: &str, key: &str) -> Option<&[f64]> {
        let place = (model.to_owned(), threads, side.to_owned(), work.to_owned(), key.to_owned());
        self.numbers.get(&place).map(Vec::as_slice)
    }

    /// The numbers measured for a key by quiet processes, or by all where none was quiet.
    pub(super) fn spread(
        &self,
        model: &str,
        threads: usize,
        side: &str,
        work: &str,
        key: &str,
    ) -> Option<Spread> {
        let values = self.get(model, threads, side, work, key)?;
        let loads = self.get(model, threads, side, work, LOAD).unwrap_or_default();
        let limit = quiet_limit(threads);
        let quiet: Vec<f64> =
            values.iter().zip(loads).filter(|(_, load)| **load <= limit).map(|(v, _)| *v).collect();
        if loads.len() == values.len() && !quiet.is_empty() { Spread::of(&quiet) } else { Spread::of(values) }
    }

    /// What others did while a work was measured; None where that is unknown.
    pub(super) fn load(&self, model: &str, threads: usize, side: &str, work: &str) -> Option<Load> {
        let all = self.get(model, threads, side, work, LOAD)?;
        let quiet = all.iter().filter(|l| **l <= quiet_limit(threads)).count();
        let used = if quiet > 0 { quiet } else { all.len() };
        let cores = self.spread(model, threads, side, work, LOAD)?.max;
        Some(Load { cores, used, of: all.len(), quiet: quiet > 0 })
    }

    /// The peers' versions, for people.
    pub(super) fn versions(&self) -> Option<String> {
        let all: Vec<&str> = self.versions.iter().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// Writes a file that [`Results::read`] reads.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let rows: Vec<Value> = self
            .numbers
            .iter()
            .map(|((model, threads, side, work, key), values)| {
                json!({"model": model, "threads": threads, "side": side, "work": work, "key": key,
                    "values": values})
            })
            .collect();
        // One row a line, so that a change of one shows as that in a diff.
        let rows: Vec<String> = rows.iter().map(|r| format!("    {r}")).collect();
        let text = format!(
            "{{\n  \"machine\": {},\n  \"versions\": {},\n  \"rows\": [\n{}\n  ]\n}}\n",
            json!(self.machine),
            json!(self.versions),
            rows.join(",\n")
        );
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let whole: Map<String, Value> = serde_json::from_slice(&text)?;
        let word = |row: &Value, key: &str| {
            let text = row[key].as_str().with_context(|| format!("{}: a row without {key}", path.display()));
            text.map(str::to_owned)
        };
        let mut results = Self::new();
        results.machine = whole.get("machine").and_then(Value::as_str).unwrap_or("unknown").to_owned();
        for row in whole.get("rows").and_then(Value::as_array).into_iter().flatten() {
            let threads = row["threads"].as_u64().unwrap_or(1) as usize;
            let place =
                (word(row, "model")?, threads, word(row, "side")?, word(row, "work")?, word(row, "key")?);
            let values = row["values"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            results.numbers.insert(place, values);
        }
        let versions = whole.get("versions").and_then(Value::as_array).into_iter().flatten();
        results.versions.extend(versions.filter_map(Value::as_str).map(str::to_owned));
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_some_numbers() {
        let s = Spread::of(&[3.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!((s.min, s.median, s.max), (1.0, 2.5, 10.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_file_gives_back_what_was_measured() {
        let mut results = Results::new();
        let line = json!({"step_s": 0.25, "threads": 2, "foreign_cores": null, "versions": {"torch": "2"}});
        results.add("S", 2, "peer", "train_step.py", &line);
        results.add("S", 2, "peer", "train_step.py", &json!({"step_s": 0.75}));
        let path = std::env::temp_dir().join(format!("tetherline-results-{}.json", std::process::id()));
        results.write(&path).unwrap();
        let read = Results::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read, results);
        assert_eq!(read.spread("S", 2, "peer", "train_step.py", "step_s").unwrap().median, 0.5);
        assert_eq!(read.spread("S", 2, "peer", "train_step.py", "threads"), None);
        assert_eq!(read.load("S", 2, "peer", "train_step.py"), None);
    }

    #[test]
    fn quiet_processes_count_and_loud_ones_only_without_them() {
        let mut results = Results::new();
        let mut add = |step: f64, load: f64| {
            results.add("S", 1, "ours", "train-step", &json!({"step_s": step, "foreign_cores": load}));
            (
                results.spread("S", 1, "ours", "train-step", "step_s").unwrap().median,
                results.load("S", 1, "ours", "train-step").unwrap(),
            )
        };
        assert_eq!(add(8.0, 1.5), (8.0, Load { cores: 1.5, used: 1, of: 1, quiet: false }));
        assert_eq!(add(1.0, 0.1), (1.0, Load { cores: 0.1, used: 1, of: 2, quiet: true }));
    }
}
