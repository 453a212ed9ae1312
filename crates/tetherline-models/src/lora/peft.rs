//! The format of Python `peft`: `adapter_config.json` beside `adapter_model.safetensors`, whose tensors are called
//! `base_model.model.<module>.lora_A.weight` and `….lora_B.weight`; a classifier's head is a module to save.

use super::{LoraConfig, TargetModules};
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layout::{SCORE, Slot};
use crate::weights::{self, SaveType};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tetherline_kernels::Params;

/// The file with the settings.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// The file with A and B.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

const PREFIX: &str = "base_model.model.";

/// Fields that must be absent or empty, and why.
const REFUSED: [(&str, &str); 14] = [
    ("use_dora", "DoRA rescales the weights of the base, which this program keeps as they are"),
    ("lora_bias", "a bias on B is not supported"),
    ("trainable_token_indices", "trained rows of an embedding are not supported"),
    ("target_parameters", "adapters on parameters that are no linear layer are not supported"),
    ("layer_replication", "repeated layers change the base"),
    ("alora_invocation_tokens", "an adapter that is active after some tokens only is not supported"),
    ("use_qalora", "QALoRA is not supported"),
    ("use_bdlora", "block-diagonal LoRA is not supported"),
    ("arrow_config", "a router of adapters is not supported"),
    ("monteclora_config", "MonteCLoRA is not supported"),
    ("velora_config", "VeLoRA is not supported"),
    ("lora_ga_config", "LoRA-GA changes the base"),
    ("corda_config", "CorDA changes the base"),
    ("kasa_config", "KaSA is not supported"),
];

/// Initialisations that leave the base as it is.
const HARMLESS: [&str; 4] = ["gaussian", "eva", "orthogonal", "true"];

struct Fields<'m> {
    path: PathBuf,
    map: &'m Map<String, Value>,
}

impl Fields<'_> {
    fn error(&self, field: &str, problem: impl Into<String>) -> ModelError {
        ModelError::ConfigField { path: self.path.clone(), field: field.into(), problem: problem.into() }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// Whether a field says something: not null, false, "", [] or {}.
    fn is_set(&self, field: &str) -> bool {
        match self.get(field) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::String(s)) => !s.is_empty(),
            Some(Value::Array(a)) => !a.is_empty(),
            Some(Value::Object(o)) => !o.is_empty(),
            Some(_) => true,
        }
    }

    fn number(&self, field: &str, or: f64) -> Result<f64> {
        let Some(v) = self.get(field) else { return Ok(or) };
        let n = v.as_f64().filter(|n| n.is_finite());
        n.ok_or_else(|| self.error(field, format!("{v} is no number")))
    }

    fn whole(&self, field: &str, v: &Value) -> Result<usize> {
        let n = v.as_u64().filter(|n| *n < 1 << 20);
        Ok(n.ok_or_else(|| self.error(field, format!("{v} is no count")))? as usize)
    }

    fn texts(&self, field: &str) -> Result<Vec<String>> {
        let one = |v: &Value| v.as_str().map(str::to_owned);
        let all = match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(one).collect(),
            Some(v) => one(v).map(|s| vec![s]),
        };
        all.ok_or_else(|| self.error(field, "must be a name or a list of names"))
    }

    fn targets(&self, field: &str) -> Result<Option<TargetModules>> {
        Ok(match self.get(field) {
            None => None,
            Some(Value::String(s)) if s.eq_ignore_ascii_case("all-linear") => Some(TargetModules::AllLinear),
            Some(Value::String(s)) => Some(TargetModules::Pattern(s.clone())),
            Some(_) => Some(TargetModules::Names(self.texts(field)?)),
        })
    }

    fn patterns<T>(&self, field: &str, of: impl Fn(&Value) -> Result<T>) -> Result<BTreeMap<String, T>> {
        let Some(v) = self.get(field) else { return Ok(BTreeMap::new()) };
        let map = v.as_object().ok_or_else(|| self.error(field, "must map patterns to numbers"))?;
        map.iter().map(|(k, v)| Ok((k.clone(), of(v)?))).collect()
    }
}

fn object(files: &ModelFiles) -> Result<Map<String, Value>> {
    let json = files.json(CONFIG)?.unwrap_or_default();
    match json {
        Value::Object(map) => Ok(map),
        _ => Err(ModelError::ConfigField {
            path: files.path(CONFIG),
            field: "peft_type".into(),
            problem: "the file is no JSON object".into(),
        }),
    }
}

/// The base that `adapter_config.json` names, and its revision; none where there is no such file.
///
/// # Errors
/// If the file cannot be read or names no base.
pub(crate) fn base_of(files: &ModelFiles) -> Result<Option<(String, Option<String>)>> {
    if !files.has(CONFIG)? {
        return Ok(None);
    }
    // What is left of an adapter that was folded into the weights beside it.
    let whole = files.has("model.safetensors")? || files.has("model.safetensors.index.json")?;
    if whole && !files.has(WEIGHTS)? {
        return Ok(None);
    }
    let map = object(files)?;
    let text = |field: &str| map.get(field).and_then(Value::as_str).filter(|s| !s.is_empty());
    let Some(base) = text("base_model_name_or_path") else {
        return Err(ModelError::ConfigField {
            path: files.path(CONFIG),
            field: "base_model_name_or_path".into(),
            problem: "it names no base model; write a directory or a hub id there".into(),
        });
    };
    Ok(Some((base.to_owned(), text("revision").map(str::to_owned))))
}

/// Whether the adapter makes its base a classifier.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn is_classifier(files: &ModelFiles) -> Result<bool> {
    Ok(object(files)?.get("task_type").and_then(Value::as_str) == Some("SEQ_CLS"))
}

/// Reads `adapter_config.json`.
///
/// # Errors
/// A field that is out of range, or a kind of adapter that is not supported, by name.
pub(crate) fn read_config(files: &ModelFiles) -> Result<LoraConfig> {
    let map = object(files)?;
    let f = Fields { path: files.path(CONFIG), map: &map };
    let kind = f.get("peft_type").and_then(Value::as_str).unwrap_or("(none)");
    if kind != "LORA" {
        return Err(f.error("peft_type", format!("{kind} adapters are not supported, only LORA")));
    }
    for (field, why) in REFUSED {
        if f.is_set(field) {
            return Err(
                f.error(field, format!("{why}; merge the adapter with peft (merge_and_unload) first"))
            );
        }
    }
    if let Some(bias) = f.get("bias").filter(|b| b.as_str() != Some("none")) {
        return Err(f.error("bias", format!("{bias} trains biases of the base; only \"none\" is supported")));
    }
    let init = f.get("init_lora_weights").and_then(Value::as_str);
    if let Some(init) = init.filter(|i| !HARMLESS.contains(&i.to_ascii_lowercase().as_str())) {
        let problem = format!(
            "{init:?} changes the base weights; convert the adapter with peft \
             (save_pretrained(…, path_initial_model_for_weight_conversion=…)) first"
        );
        return Err(f.error("init_lora_weights", problem));
    }
    let saved = f.texts("modules_to_save")?;
    if let Some(other) = saved.iter().find(|m| !["score", "classifier"].contains(&m.as_str())) {
        return Err(f.error("modules_to_save", format!("{other:?} is trained whole; only \"score\" can be")));
    }
    let target_modules = f.targets("target_modules")?;
    let Some(target_modules) = target_modules else {
        return Err(f.error("target_modules", "it is missing: a list of names, \"all-linear\" or a pattern"));
    };
    let layers = match f.get("layers_to_transform") {
        None => None,
        Some(Value::Array(items)) => {
            Some(items.iter().map(|v| f.whole("layers_to_transform", v)).collect::<Result<_>>()?)
        }
        Some(v) => Some(vec![f.whole("layers_to_transform", v)?]),
    };
    let (base, revision) = base_of(files)?.unwrap_or_default();
    let config = LoraConfig {
        rank: f.whole("r", f.get("r").unwrap_or(&json!(8)))?,
        alpha: f.number("lora_alpha", 8.0)?,
        target_modules,
        exclude_modules: f.targets("exclude_modules")?,
        use_rslora: f.is_set("use_rslora"),
        layers_to_transform: layers,
        layers_pattern: f.texts("layers_pattern")?,
        rank_pattern: f.patterns("rank_pattern", |v| f.whole("rank_pattern", v))?,
        alpha_pattern: f.patterns("alpha_pattern", |v| {
            v.as_f64().ok_or_else(|| f.error("alpha_pattern", format!("{v} is no number")))
        })?,
        base,
        revision,
    };
    Ok(config.with_modules())
}

/// Fills A, B and (of a classifier) the scalar head from `adapter_model.safetensors`; `at` says where a tensor lies in
/// `trained`; `has_head` whether the model has a vocabulary head. Returns whether the scalar head was there.
///
/// # Errors
/// A tensor that is missing, unexpected, of another shape or not finite.
pub(crate) fn read_weights(
    files: &ModelFiles,
    slots: &[Slot],
    frozen: usize,
    trained: &mut [f32],
    (arch, has_head): (&'static str, bool),
) -> Result<bool> {
    let own = |name: &str| slots.iter().find(|s| s.name == name && s.offset >= frozen);
    let mut missing: Vec<&Slot> = slots.iter().filter(|s| s.offset >= frozen).collect();
    let there = weights::load_file(files, WEIGHTS, trained, |name, shape| {
        let short = name.strip_prefix(PREFIX).unwrap_or(name);
        // transformers 4 called GPT-NeoX's head so.
        let renamed = short.strip_prefix("embed_out.").map(|rest| format!("lm_head.{rest}"));
        let short = renamed.as_deref().unwrap_or(short);
        if let Some(slot) = own(short) {
            missing.retain(|s| s.name != slot.name);
            return Ok(Some((slot, slot.offset - frozen)));
        }
        // A head that this model was not asked for; of one with an adapter peft saves the frozen weight too.
        let of_base = short == "lm_head.base_layer.weight";
        if short == SCORE || of_base || (short.starts_with("lm_head.") && !has_head) {
            return Ok(None);
        }
        let (name, shape) = (name.to_owned(), shape.to_vec());
        Err(ModelError::UnexpectedTensor { path: files.path(WEIGHTS), name, shape, arch })
    })?;
    if !there {
        let bin = files.has("adapter_model.bin")?;
        let problem = if bin {
            "it has only adapter_model.bin, a pickle file, which is not safe to read; load it with peft and save it \
             again (save_pretrained(DIR, safe_serialization=True))"
        } else {
            "adapter_model.safetensors is missing"
        };
        return Err(ModelError::NotAModel { path: files.root(), problem: problem.into() });
    }
    let absent = |s: &&&Slot| s.name != SCORE;
    if let Some(slot) = missing.iter().find(absent) {
        return Err(ModelError::MissingTensor {
            path: files.path(WEIGHTS),
            name: format!("{PREFIX}{}", slot.name),
            shape: slot.shape.clone(),
            instead: String::new(),
        });
    }
    Ok(missing.is_empty())
}

/// Writes both files. `own` are the tensors, A and B and perhaps the scalar head; the elements are f32, as of what is
/// trained.
///
/// # Errors
/// If one cannot be written.
pub(crate) fn write(
    dir: &Path,
    config: &LoraConfig,
    (classifier, fan_in_fan_out): (bool, bool),
    own: &[&Slot],
    params: Params<'_>,
) -> Result<()> {
    let targets = |t: &TargetModules| match t {
        TargetModules::AllLinear => json!("all-linear"),
        TargetModules::Names(names) => json!(names),
        TargetModules::Pattern(pattern) => json!(pattern),
    };
    // peft says whole numbers for α.
    let number = |x: f64| if x.fract() == 0.0 && x.abs() < 1e9 { json!(x as i64) } else { json!(x) };
    let alphas: Map<String, Value> =
        config.alpha_pattern.iter().map(|(k, v)| (k.clone(), number(*v))).collect();
    let text = json!({
        "alpha_pattern": alphas,
        "base_model_name_or_path": config.base,
        "bias": "none",
        "exclude_modules": config.exclude_modules.as_ref().map(targets),
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": (!config.layers_pattern.is_empty()).then_some(&config.layers_pattern),
        "layers_to_transform": config.layers_to_transform,
        "lora_alpha": number(config.alpha),
        "lora_bias": false,
        "lora_dropout": 0.0,
        "modules_to_save": classifier.then_some(["score"]),
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": config.rank_pattern,
        "revision": config.revision,
        "target_modules": targets(&config.target_modules),
        "task_type": if classifier { "SEQ_CLS" } else { "CAUSAL_LM" },
        "use_dora": false,
        "use_rslora": config.use_rslora,
    });
    let path = dir.join(CONFIG);
    std::fs::write(&path, format!("{text:#}\n")).map_err(|source| ModelError::Write { path, source })?;
    weights::save(&dir.join(WEIGHTS), PREFIX, own, params, SaveType::F32)
}
