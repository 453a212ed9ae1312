//! What a run came from and what it made, by content: what a registry is told of it.
//!
//! ```text
//! policy ─made_by─▶ run ─recipe─▶ recipe
//!    │               ├─data.*──▶ datasets
//!    │               ├─base, reference ──▶ policies
//!    │               └─reward ─▶ reward model (given)
//!    ├─reward ─▶ reward model (trained by the run) ─made_by─▶ run
//!    └─evaluated_by ─▶ evaluation
//! ```
//!
//! Contents are hashed with SHA-256 ([`tetherline_audit::dir_sha256`] for directories). A model of the hub is known by its name
//! and revision, one that is embedded by its name; both say so in their details. Data files and models are those that the
//! run's audit recorded when it began, whatever became of them since.

use crate::Error;
use crate::audit;
use crate::gate::run_metrics;
use crate::inputs::numbered;
use crate::recipe::{ModelSource, Recipe};
use crate::report::EVALUATION;
use crate::run_dir::RunDir;
use serde_json::{Value, json};
use std::path::Path;
use tetherline_audit::{dir_sha256, file_sha256, sha256};

/// One thing, known by its contents.
#[derive(Clone, Debug)]
pub struct Known {
    /// `policy`, `reward_model`, `dataset`, `recipe`, `run` or `evaluation`.
    pub kind: &'static str,
    /// SHA-256, 64 hex digits.
    pub id: String,
    /// What to call it.
    pub name: String,
    /// Where it is.
    pub location: String,
    /// Anything else worth keeping.
    pub detail: Value,
}

/// What there is to register, with the edges between the things: child, role, parent.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    /// The things; the policy is the first.
    pub known: Vec<Known>,
    /// How they came from each other, by index.
    pub edges: Vec<(usize, String, usize)>,
    /// The policies that the run started from, by index.
    pub bases: Vec<usize>,
}

impl Lineage {
    fn add(&mut self, known: Known) -> usize {
        self.known.push(known);
        self.known.len() - 1
    }

    fn edge(&mut self, child: usize, role: &str, parent: usize) {
        self.edges.push((child, role.to_owned(), parent));
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action: "read", path, source }
}

/// SHA-256 of a policy's directory, as a registry knows it.
///
/// # Errors
/// [`Error::Io`].
pub fn policy_hash(dir: &Path) -> Result<String, Error> {
    dir_sha256(dir).map_err(io(dir))
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// What a finished run, or a model directory without one, is to a registry. `name` is what to call the policy; by default the
/// name of the recipe or directory and the first digits of the hash.
///
/// # Errors
/// If it is neither, or a file cannot be read.
pub fn of(path: &Path, name: Option<&str>) -> Result<Lineage, Error> {
    if path.join("config.toml").is_file() {
        return of_run(path, name);
    }
    if !path.join("config.json").is_file() && !path.join("adapter_config.json").is_file() {
        let problem = "it is neither a run directory (config.toml) nor a model directory (config.json)";
        return Err(Error::input(path.display().to_string(), problem));
    }
    let id = policy_hash(path)?;
    let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.map_or_else(|| format!("{own}-{}", &id[..6]), str::to_owned);
    let known = Known { kind: "policy", id, name, location: absolute(path), detail: json!({}) };
    Ok(Lineage { known: vec![known], ..Lineage::default() })
}

fn of_run(root: &Path, name: Option<&str>) -> Result<Lineage, Error> {
    let run_dir = RunDir::read(root)?;
    let recipe = run_dir.recipe()?;
    let dir = run_dir.policy();
    if !dir.is_dir() {
        let problem = "the run has no policy yet: let it finish first (`tether run … --resume`)";
        return Err(Error::input(dir.display().to_string(), problem));
    }
    let mut out = Lineage::default();
    let id = policy_hash(&dir)?;
    let title = if recipe.name.is_empty() { "run".to_owned() } else { recipe.name.clone() };
    let name = name.map_or_else(|| format!("{title}-{}", &id[..6]), str::to_owned);
    let detail = json!({"run": absolute(root)});
    let policy = out.add(Known { kind: "policy", id, name, location: absolute(&dir), detail });

    let config = run_dir.config();
    let config_hash = file_sha256(&config).map_err(io(&config))?;
    let metrics_hash = file_sha256(&run_dir.metrics()).map_err(io(&run_dir.metrics()))?;
    let (head, data, models) = match audit::read(&run_dir.audit(), None) {
        Ok((head, records)) => {
            let data = records.first().map(|r| r.body["data"].clone()).unwrap_or_default();
            let models = records.iter().find(|r| r.body["event"] == "models");
            let models = models.map(|r| r.body["sha256"].clone()).unwrap_or_default();
            (Some(head.to_string()), data, models)
        }
        // A run of an older version has none.
        Err(Error::Io { .. }) => (None, json!({}), json!({})),
        Err(e) => return Err(e),
    };
    let run_id = sha256(format!("run\n{config_hash}\n{metrics_hash}\n").as_bytes());
    let detail = json!({"seed": recipe.seed, "audit_head": head, "version": env!("CARGO_PKG_VERSION")});
    let run =
        out.add(Known { kind: "run", id: run_id, name: title.clone(), location: absolute(root), detail });
    out.edge(policy, "made_by", run);
    let detail = json!({"recipe": serde_json::to_value(&recipe).unwrap_or_default()});
    let known = Known { kind: "recipe", id: config_hash, name: title, location: absolute(&config), detail };
    let of_recipe = out.add(known);
    out.edge(run, "recipe", of_recipe);

    for (key, path) in recipe.data.files() {
        let hash = match data[key].as_str() {
            Some(hash) => hash.to_owned(),
            None => file_sha256(path).map_err(io(path))?,
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = Known { kind: "dataset", id: hash, name, location: absolute(path), detail: json!({}) };
        let dataset = out.add(known);
        out.edge(run, key, dataset);
    }
    if recipe.data.world.is_some() {
        let dataset = out.add(named("dataset", "embedded", "frontdesk"));
        out.edge(run, "data.world", dataset);
    }
    add_models(&mut out, &recipe, run, &models)?;
    let reward = run_dir.reward();
    if reward.is_dir() {
        let id = policy_hash(&reward)?;
        let name = format!("reward-{}", &id[..6]);
        let known = Known { kind: "reward_model", id, name, location: absolute(&reward), detail: json!({}) };
        let trained = out.add(known);
        out.edge(trained, "made_by", run);
        out.edge(policy, "reward", trained);
    }
    let evaluation = root.join(EVALUATION);
    if evaluation.is_file() {
        let id = file_sha256(&evaluation).map_err(io(&evaluation))?;
        let detail = json!({"metrics": run_metrics(root)?});
        let name = format!("evaluation-{}", &id[..6]);
        let known = Known { kind: "evaluation", id, name, location: absolute(&evaluation), detail };
        let evaluation = out.add(known);
        out.edge(policy, "evaluated_by", evaluation);
    }
    Ok(out)
}

/// A thing that is known by its name alone.
fn named(kind: &'static str, how: &str, name: &str) -> Known {
    let id = sha256(format!("{how}:{name}").as_bytes());
    let detail = json!({"known_by": "name", "how": how});
    Known { kind, id, name: name.to_owned(), location: format!("{how}:{name}"), detail }
}

/// The models that the recipe names; `hashes` are those of the audit, by key.
fn add_models(out: &mut Lineage, recipe: &Recipe, run: usize, hashes: &Value) -> Result<(), Error> {
    let model = &recipe.model;
    let rewards = model.reward.iter().flat_map(|r| &r.0);
    let one = |key: &str| key.to_owned();
    let given = [("base", "policy", &model.policy, one("model.policy"))]
        .into_iter()
        .chain(model.reference.iter().map(|text| ("reference", "policy", text, one("model.reference"))))
        .chain(rewards.enumerate().map(|(i, t)| ("reward", "reward_model", t, numbered("model.reward", i))))
        .chain(model.cost.iter().map(|text| ("cost", "reward_model", text, one("model.cost"))));
    for (role, kind, text, key) in given {
        let known = match ModelSource::parse(text) {
            Ok(ModelSource::Dir(dir)) => of_dir(kind, &dir, hashes[&key].as_str())?,
            Ok(ModelSource::Frontdesk) => named(kind, "embedded", text),
            _ => named(kind, "hub", text),
        };
        let index = out.add(known);
        out.edge(run, role, index);
        if kind == "policy" {
            out.bases.push(index);
        }
    }
    Ok(())
}

/// A model directory, by the hash that it had when the run began where that is known.
fn of_dir(kind: &'static str, dir: &Path, then: Option<&str>) -> Result<Known, Error> {
    let id = match then {
        Some(hash) => hash.to_owned(),
        None if dir.is_dir() => policy_hash(dir)?,
        None => return Ok(named(kind, "gone", &absolute(dir))),
    };
    let own = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Known {
        kind,
        name: format!("{own}-{}", id.get(..6).unwrap_or(&id)),
        id,
        location: absolute(dir),
        detail: json!({}),
    })
}
