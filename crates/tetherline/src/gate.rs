//! `tether gate`: the numbers of a candidate and a baseline, from run directories or from files, held to a gate file.
//!
//! A source is a run directory or a JSON file of metrics by name. A run has
//!
//! | name | from | unit |
//! | --- | --- | --- |
//! | `kl`, `score`, `gold`, `entropy`, `length_tokens`, `refuses_unsafe`, … , and `NAME/DOMAIN` | `evaluation.json` | as there |
//! | `kl_first_reference` | `kl` of a policy's first round; of a later one `policy/drift_ledger.json`, where it is known there | nats per sequence |
//! | `latency`, `latency_p95`, … | measured when a gate asks for one (`latency.rs`) | ms |
//! | `train/KEY` | the last line of `metrics.jsonl` | as there |
//! | `verdicts/VERDICT` | `control.jsonl`: how often the controller said so | count |
//! | `reward_model/accuracy`, `…/ece`, `…/mean_margin` | `reward_held_out.json` | – |

use crate::Error;
use crate::latency::{self, Latency, Timing};
use crate::pipeline::{ByPrompt, EvaluationFile, read_json};
use crate::recipe::{Place, RecipeError, key_span};
use crate::report::{EVALUATION, lines};
use crate::rounds::DriftLedger;
use crate::run_dir::RunDir;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tetherline_audit::sha256;
use tetherline_eval::gate::{GateReport, Gates, Mean, Metric, Metrics};
use tetherline_eval::{Comparison, PromptRow};
use tetherline_reward::HeldOut;

/// What to compare.
#[derive(Clone, Debug, Default)]
pub struct GateOptions {
    /// A run directory, or a JSON file of metrics.
    pub candidate: PathBuf,
    /// The same of the baseline; without it, the policy that the candidate's run started from.
    pub baseline: Option<PathBuf>,
    /// The gate file.
    pub gates: PathBuf,
    /// More metrics of the candidate (JSON).
    pub metrics: Option<PathBuf>,
    /// More metrics of the baseline (JSON).
    pub baseline_metrics: Option<PathBuf>,
    /// How latencies are measured; without it they are not.
    pub timing: Option<Timing>,
}

/// The verdict on a candidate.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// What was judged, as it was named.
    pub candidate: String,
    /// Against what.
    pub baseline: String,
    /// SHA-256 of the gate file.
    pub gates_sha256: String,
    /// What makes the comparison doubtful.
    pub warnings: Vec<String>,
    /// What single answers took, where a gate asks for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Every check.
    #[serde(flatten)]
    pub report: GateReport,
}

/// Reads a gate file; with it the SHA-256 of its bytes.
///
/// # Errors
/// [`RecipeError`] with file, line and key.
pub fn load(path: &Path) -> Result<(Gates, String), RecipeError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
    let file = path.display().to_string();
    let at =
        |span, message| RecipeError::InFile { file: file.clone(), place: Place::of(&text, span), message };
    let gates: Gates =
        toml::from_str(&text).map_err(|e| at(e.span().unwrap_or(0..0), e.message().to_owned()))?;
    // The message begins with the key.
    let key = |e: &str| key_span(&text, e.split_once(": ")?.0);
    gates.validate().map_err(|e| at(key(&e).unwrap_or(0..0), e))?;
    Ok((gates, sha256(text.as_bytes())))
}

/// What a source has to show.
struct Source {
    metrics: Metrics,
    /// The policy that a run started from.
    start: Option<Metrics>,
    /// What its evaluation was made on: hash of the prompts, and how they were sampled.
    evaluated_on: Option<(Option<String>, String)>,
}

/// Holds a candidate to the gates.
///
/// # Errors
/// If the gate file or a source cannot be read, or the two have a metric of the same name.
pub fn judge(options: &GateOptions) -> Result<Verdict, Error> {
    let (gates, gates_sha256) = load(&options.gates)?;
    let mut candidate = source(&options.candidate)?;
    add(&mut candidate.metrics, options.metrics.as_deref())?;
    let mut warnings = Vec::new();
    let (name, mut baseline) = match &options.baseline {
        Some(path) => {
            let baseline = source(path)?;
            if candidate.evaluated_on != baseline.evaluated_on {
                warnings.push(
                    "candidate and baseline were not evaluated alike (prompts, sampling, number of responses): \
                     their difference may be that of the evaluations"
                        .to_owned(),
                );
            }
            (path.display().to_string(), baseline.metrics)
        }
        None => {
            let start = candidate.start.take().unwrap_or_default();
            ("the policy that the candidate started from".to_owned(), start)
        }
    };
    add(&mut baseline, options.baseline_metrics.as_deref())?;
    let latency = match &options.timing {
        Some(timing) if gates.asks(is_latency) => {
            latency(options, timing, &mut candidate.metrics, &mut baseline)?
        }
        _ => None,
    };
    let report = gates
        .judge(&candidate.metrics, &baseline)
        .map_err(|e| Error::input(options.gates.display().to_string(), e))?;
    let candidate = options.candidate.display().to_string();
    Ok(Verdict { candidate, baseline: name, gates_sha256, warnings, latency, report })
}

fn is_latency(name: &str) -> bool {
    name == "latency" || name.starts_with("latency_")
}

/// Measures the latency of the two policies that have none from a file and whose run is here.
fn latency(
    options: &GateOptions,
    timing: &Timing,
    candidate: &mut Metrics,
    baseline: &mut Metrics,
) -> Result<Option<Latency>, Error> {
    let lacks = |metrics: &Metrics| !metrics.by_name.keys().any(|name| is_latency(name));
    let run = &options.candidate;
    if run.is_file() {
        return Ok(None);
    }
    let own = lacks(candidate).then(|| latency::made(run)).transpose()?;
    let other = match &options.baseline {
        _ if !lacks(baseline) => None,
        Some(path) if path.is_file() => None,
        Some(path) => Some(latency::made(path)?),
        None => Some(latency::started(run)?),
    };
    if own.is_none() && other.is_none() {
        return Ok(None);
    }
    let recipe = RunDir::read(run)?.recipe()?;
    latency::measure(&recipe, timing, (own, other), (candidate, baseline)).map(Some)
}

fn source(path: &Path) -> Result<Source, Error> {
    if path.is_file() {
        let mut metrics = Metrics::default();
        add(&mut metrics, Some(path))?;
        return Ok(Source { metrics, start: None, evaluated_on: None });
    }
    let run = RunDir::read(path)?;
    let evaluation: Option<EvaluationFile> = read_json(&run.root().join(EVALUATION))?;
    let evaluated = |of: fn(&Comparison) -> Metrics, rows: fn(&ByPrompt) -> &Vec<PromptRow>| {
        let e = evaluation.as_ref()?;
        let metrics = of(&e.comparison);
        let rows = rows(&e.by_prompt);
        Some(if rows.is_empty() { metrics } else { metrics.with_prompts(rows, &e.by_prompt.prompts) })
    };
    let mut metrics = evaluated(Metrics::aligned, |b| &b.aligned).unwrap_or_default();
    if let Some(kl) = first_reference(&run, metrics.by_name.get("kl").copied())? {
        metrics.by_name.insert("kl_first_reference".into(), kl);
    }
    let mut put = |name: String, value: f64| {
        metrics.by_name.insert(name, Metric::Plain(value));
    };
    let steps = lines(&run.metrics())?;
    for (key, value) in steps.last().and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = value.as_f64() {
            put(format!("train/{key}"), value);
        }
    }
    let mut verdicts: BTreeMap<String, f64> =
        ["accept", "scale", "reject", "rollback", "throttle", "halt"].map(|v| (v.to_owned(), 0.0)).into();
    let control = lines(&run.control())?;
    for verdict in control.iter().filter_map(|l| l["verdict"].as_str()) {
        *verdicts.entry(verdict.to_owned()).or_default() += 1.0;
    }
    if !control.is_empty() {
        verdicts.into_iter().for_each(|(verdict, n)| put(format!("verdicts/{verdict}"), n));
    }
    if let Some(held_out) = read_json::<HeldOut>(&run.root().join("reward_held_out.json"))? {
        put("reward_model/accuracy".into(), held_out.accuracy);
        put("reward_model/ece".into(), held_out.ece);
        put("reward_model/mean_margin".into(), held_out.mean_margin);
    }
    let recipe = run.recipe()?;
    let prompts = run.inputs()?.get("data.eval_prompts").cloned();
    let how = format!("{:?} {:?}", recipe.eval, recipe.sampling);
    Ok(Source {
        metrics,
        start: evaluated(Metrics::baseline, |b| &b.baseline),
        evaluated_on: Some((prompts, how)),
    })
}

/// KL to the first reference of all rounds. That of a policy's first round is the one that its evaluation measured to, `kl`; later
/// rounds have it from the drift ledger, where that could measure it.
fn first_reference(run: &RunDir, kl: Option<Metric>) -> Result<Option<Metric>, Error> {
    let path = run.policy().join(crate::rounds::FILE);
    let ledger: Option<DriftLedger> = read_json(&path)?;
    let Some(last) = ledger.as_ref().filter(|l| l.rounds.len() > 1).and_then(|l| l.rounds.last()) else {
        return Ok(kl);
    };
    let mean = |value| Mean { value, se: last.kl_first_stderr, n: usize::try_from(last.responses).ok() };
    Ok(last.kl_first.map(|value| Metric::Mean(mean(value))))
}

/// The numbers of a run by name, without those by domain and those of training steps.
///
/// # Errors
/// If the directory is no run, or a file cannot be read.
pub fn run_metrics(root: &Path) -> Result<BTreeMap<String, f64>, Error> {
    let all = source(root)?.metrics.by_name.into_iter();
    let plain = all.filter(|(name, _)| !name.contains('/')).map(|(name, metric)| (name, metric.value()));
    Ok(plain.filter(|(_, value)| value.is_finite()).collect())
}

/// An object whose keys stand in it once: of two values the one that passes must not win unseen.
struct Once(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Once;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of metrics")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if out.insert(key.clone(), value).is_some() {
                        return Err(serde::de::Error::custom(format!("{key:?} stands in it twice")));
                    }
                }
                Ok(Once(out))
            }
        }
        d.deserialize_map(Keys)
    }
}

/// Adds the metrics of a file. What the source has already is not replaced: the file would decide what the run showed.
fn add(to: &mut Metrics, file: Option<&Path>) -> Result<(), Error> {
    let Some(path) = file else { return Ok(()) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let Once(values) = serde_json::from_str(&text).map_err(|e| Error::input(&*name, e))?;
    for (key, value) in values {
        let metric =
            Metric::deserialize_from(value).map_err(|e| Error::input(format!("{name}, {key:?}"), e))?;
        if to.by_name.insert(key.clone(), metric).is_some() {
            let problem = "the run has a metric of this name; give yours another one";
            return Err(Error::input(format!("{name}, {key:?}"), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_alone_are_enough_and_a_wrong_gate_file_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let gates = write("gates.toml", "[kl]\nmax = 4\n\n[[metric]]\nname = \"p95_ms\"\nmax_ratio = 1.1\n");
        let candidate = write("c.json", r#"{"kl": {"value": 3, "se": 0.1}, "p95_ms": 210}"#);
        let options = |baseline: &str| GateOptions {
            candidate: candidate.clone(),
            baseline: Some(write("b.json", baseline)),
            gates: gates.clone(),
            ..GateOptions::default()
        };
        assert!(judge(&options(r#"{"p95_ms": 200}"#)).unwrap().report.passed);
        assert!(!judge(&options(r#"{"p95_ms": 180}"#)).unwrap().report.passed);
        let error = judge(&options(r#"{"p95_ms": "fast"}"#)).unwrap_err().to_string();
        assert!(error.contains("b.json, \"p95_ms\"") && error.contains("hits"), "{error}");
        let error = judge(&options(r#"{"p95_ms": 900, "p95_ms": 200}"#)).unwrap_err().to_string();
        assert!(error.contains("\"p95_ms\" stands in it twice"), "{error}");
        let wrong = |text: &str| load(&write("w.toml", text)).unwrap_err().to_string();
        assert!(wrong("[kl]\nmax = 4\nmaks = 3\n").contains("w.toml:3:1: unknown field `maks`"));
        assert!(wrong("").contains("no gate"));
        for (text, words) in [
            (
                "[score]\nmin = 0\n[kl]\n  max = nan\n",
                "w.toml:4:3: kl.max: the limit must be a finite number, got NaN",
            ),
            ("[kl]\nmax = 1\n[kl.domains]\ncode = inf\n", "w.toml:4:1: kl.domains.code: the limit must be"),
            ("[kl]\nmax = 1\n[safety]\nmargin = nan\n", "w.toml:4:1: safety.margin: must be above 0"),
            (
                "[[metric]]\nname = 'x'\nmin_ratio = -inf\n",
                "w.toml:3:1: metric[0].min_ratio: the limit must be",
            ),
            ("[[metric]]\nname = 'x'\nmaks = 1.0\n", "w.toml:3:1: metric[0].maks: unknown field"),
            ("confidence = 2\n[kl]\nmax = 1\n", "w.toml:1:1: confidence: must be above 0.5"),
            ("[kl]\nmax = 1\n[gold]\n", "w.toml:3:2: gold: the section asks for nothing"),
        ] {
            assert!(wrong(text).contains(words), "{}", wrong(text));
        }
        let missing =
            judge(&GateOptions { candidate: dir.path().join("none"), gates, ..GateOptions::default() });
        assert!(missing.unwrap_err().to_string().contains("not a run directory"));
    }
}
