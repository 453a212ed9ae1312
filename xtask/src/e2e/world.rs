//! The little world that the stages run on: invented prompts, demonstrations and preferences, and a recipe.

use super::Model;
use super::compare::write_rows;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// (domain, prompt, good answer, poor answer).
const ROWS: &[(&str, &str, &str, &str)] = &[
    ("harbour", "where is the boat", " at the pier", " no"),
    ("harbour", "who ties the rope", " the child ties it twice", " nobody"),
    ("harbour", "when does the tide run", " late on friday", " it does not"),
    ("harbour", "what burns all night", " the old lamp", " a gull"),
    ("shop", "send the order back", " we return the money", " why"),
    ("shop", "where is my parcel", " it will come on friday", " lost"),
    ("shop", "who bakes the bread", " the baker by the shore", " the clerk"),
    ("shop", "thank you", " have a good day", " go"),
];

/// The files of the world, in a directory.
pub(super) struct World {
    dir: PathBuf,
}

impl World {
    /// Writes the data files into `dir`.
    pub(super) fn write(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let rows = |row: fn(usize, &(&str, &str, &str, &str)) -> Value| {
            ROWS.iter().enumerate().map(|(i, r)| row(i, r)).collect::<Vec<_>>()
        };
        let prompts = rows(
            |i, (domain, prompt, ..)| json!({ "prompt": prompt, "domain": domain, "user": format!("user-{}", i % 3) }),
        );
        let demonstrations = rows(
            |_, (domain, prompt, good, _)| json!({ "prompt": prompt, "response": good, "domain": domain }),
        );
        let pairs = rows(
            |_, (domain, prompt, good, poor)| json!({ "prompt": prompt, "chosen": good, "rejected": poor, "domain": domain }),
        );
        write_rows(&dir.join("prompts.jsonl"), &prompts)?;
        write_rows(&dir.join("sft.jsonl"), &demonstrations)?;
        write_rows(&dir.join("pairs.jsonl"), &pairs)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// A data file's path.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes the recipe `NAME.toml` for `model` with so many PPO steps and a checkpoint after each.
    ///
    /// Threads are left out: they must have no influence, and the checks vary them.
    pub(super) fn recipe(&self, name: &str, model: &Model, steps: usize) -> Result<PathBuf> {
        self.recipe_of(name, model, &model.dir, steps, "")
    }

    /// The same for a policy in another directory, with more in the section `[model]`.
    pub(super) fn recipe_of(
        &self,
        name: &str,
        model: &Model,
        policy: &Path,
        steps: usize,
        more: &str,
    ) -> Result<PathBuf> {
        // Both ways of keeping a value function are covered.
        let value = if model.name.contains("gpt2") { "shared" } else { "separate" };
        let text = format!(
            r#"# Written by cargo xtask e2e.
name = "{name}"
seed = 7

[model]
policy = '{policy}'
value = "{value}"
{more}
[data]
sft = "sft.jsonl"
prompts = "prompts.jsonl"
pairs = "pairs.jsonl"
pairs_eval = "pairs.jsonl"
eval_prompts = "prompts.jsonl"

[sft]
steps = 3
batch_size = 4
lr = 1e-3

[reward]
steps = 3
batch_size = 4
lr = 1e-3

[sampling]
temperature = 1.0
max_new_tokens = 12

[ppo]
steps = {steps}
batch_size = 8
epochs = 2
minibatches = 2
lr = 1e-3

[kl.adaptive]
init = 0.1
target = 2.0
horizon = 100

[eval]
prompts = 4

[checkpoint]
every = 1
keep = 2
"#,
            policy = policy.display(),
        );
        let path = self.dir.join(format!("{name}.toml"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
