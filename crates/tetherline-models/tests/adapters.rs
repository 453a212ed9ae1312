//! Adapters against Python peft: outputs, gradients of A and B, what is saved; what clones share; frozen blocks.
//!
//! `fixtures/scripts/make_adapters.py` made the goldens. With the feature `graph` the candle graph is held to them too.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

#[expect(dead_code, clippy::print_stderr, reason = "other tests use all of it")]
mod common;

use common::{Golden, GoldenRow, fixtures};
use std::path::{Path, PathBuf};
use tetherline_models::{
    Engine, Heads, LoraConfig, Model, ModelError, ModelFiles, Row, RowGrad, RowOutput, SaveType,
    TargetModules, UnitLoss,
};

const LM: Heads = Heads { lm: true, scalar: false };
const SCALAR: Heads = Heads { lm: false, scalar: true };
const BOTH: Heads = Heads { lm: true, scalar: true };

fn adapters(classifiers: bool) -> Vec<PathBuf> {
    let all = std::fs::read_dir(fixtures().join("adapters")).unwrap();
    let mut found: Vec<PathBuf> = all.map(|e| e.unwrap().path()).collect();
    found.retain(|p| p.to_string_lossy().ends_with("-reward") == classifiers);
    found.sort();
    found
}

/// An adapter directory over the base that it names, relative to `root`.
fn files(dir: &Path, root: &Path) -> ModelFiles {
    let (name, _) = ModelFiles::dir(dir).unwrap().adapter_base().unwrap().unwrap();
    let base = root.join(&name);
    ModelFiles::adapter(dir.to_owned(), base.display().to_string(), ModelFiles::dir(base).unwrap()).unwrap()
}

fn load(dir: &Path, heads: Heads) -> Model {
    Model::load(&files(dir, dir), heads, 0).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn base(name: &str, heads: Heads) -> Model {
    let dir = fixtures().join("architectures").join(name);
    Model::load(&ModelFiles::dir(dir).unwrap(), heads, 0).unwrap()
}

fn engines() -> Vec<Engine> {
    #[cfg(feature = "graph")]
    return vec![Engine::new(2), Engine::on(tetherline_models::Device::Graph, 1).unwrap()];
    #[cfg(not(feature = "graph"))]
    vec![Engine::new(2)]
}

/// Mean negative log-prob of the continuations, or the mean score.
struct Mean<'a> {
    rows: &'a [GoldenRow],
    count: f32,
}

impl UnitLoss for Mean<'_> {
    type Stats = ();

    fn unit(&self, unit: usize, _: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) {
        for (j, _) in self.rows[unit].scored.iter().enumerate().filter(|(_, s)| **s) {
            grads[0].logprobs[j] = -1.0 / self.count;
        }
        grads[0].scalars.fill(1.0 / self.rows.len() as f32);
    }
}

fn last(row: &GoldenRow) -> Row<'_> {
    let n = row.tokens.len();
    Row { tokens: &row.tokens, lm: 0..0, scalar: n - 1..n }
}

fn gradient(engine: &Engine, model: &mut Model, rows: &[GoldenRow]) -> Vec<f32> {
    model.make_trainable();
    let count = rows.iter().flat_map(|r| &r.scored).filter(|s| **s).count().max(1) as f32;
    let scalar = model.heads() == SCALAR;
    let units: Vec<Vec<Row<'_>>> = rows.iter().map(|r| vec![if scalar { last(r) } else { r.lm() }]).collect();
    let mut grad = vec![0.0; model.n_trained()];
    model.step(engine, &units, 1.0, &Mean { rows, count }, &mut grad).unwrap();
    grad
}

fn expect_logits(engine: &Engine, model: &Model, golden: &Golden) {
    let logits = golden.f32("right.logits").unwrap();
    let vocab = model.config().vocab;
    for row in golden.rows("right") {
        let (_, z) = model.hidden_and_logits(engine, &row.tokens).unwrap();
        golden.close("logits", &z, &logits[row.at * vocab..][..row.tokens.len() * vocab], 1e-4);
    }
}

#[test]
fn outputs_are_those_of_peft_also_when_merged() {
    assert!(adapters(false).len() >= 6 && adapters(true).len() >= 2);
    for engine in engines() {
        for dir in adapters(false) {
            let (golden, model) = (Golden::of(&dir), load(&dir, LM));
            expect_logits(&engine, &model, &golden);
            let merged = model.merged();
            assert!(merged.adapter().is_none() && merged.frozen().is_empty());
            expect_logits(&engine, &merged, &golden);
            let temp = tempfile::tempdir().unwrap();
            merged.save(temp.path(), SaveType::F32).unwrap();
            let again = Model::load(&ModelFiles::dir(temp.path()).unwrap(), LM, 0).unwrap();
            assert_eq!(again.trained(), merged.trained(), "{}", dir.display());
        }
        for dir in adapters(true) {
            let (golden, model) = (Golden::of(&dir), load(&dir, SCALAR));
            assert!(model.config().sequence_classification);
            let each = golden.f32("right.token_scores").unwrap();
            for model in [&model, &model.merged()] {
                for row in golden.rows("right") {
                    let n = row.tokens.len();
                    let all = Row { tokens: &row.tokens, lm: 0..0, scalar: 0..n };
                    let found = model.forward(&engine, &[all], 1.0).unwrap().remove(0).scalars;
                    golden.close("token_scores", &found, &each[row.at..row.at + n], 1e-4);
                }
            }
        }
    }
}

#[test]
fn gradients_of_a_and_b_and_nothing_else() {
    for engine in engines() {
        for dir in adapters(false).into_iter().chain(adapters(true)) {
            let heads = if dir.to_string_lossy().ends_with("-reward") { SCALAR } else { LM };
            let (golden, mut model) = (Golden::of(&dir), load(&dir, heads));
            let expected = Golden::open(&dir, "golden_grads.safetensors").unwrap();
            let grad = gradient(&engine, &mut model, &golden.rows("right"));
            let mut names = expected.names();
            // Key biases and the like aside, rounding noise has this size.
            let noise = 1e-7 * grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            for slot in model.slots() {
                let Some(range) = model.gradient_range(slot) else { continue };
                let name = format!("base_model.model.{}", slot.name);
                assert!(names.remove(&name), "{}: no golden for {name}", golden.dir);
                let (want, found) = (expected.f32(&name).unwrap(), slot.to_file(&grad[range]));
                let norm = want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let off = want.iter().zip(&*found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
                assert!(off <= 1e-4 * norm + noise, "{}: {name} is off by {off:e} of {norm:e}", golden.dir);
            }
            assert!(names.is_empty(), "{}: goldens of {names:?}", golden.dir);
        }
    }
}

#[test]
fn cached_decoding_has_the_adapter() {
    for engine in engines() {
        for dir in adapters(false) {
            let (golden, model) = (Golden::of(&dir), load(&dir, LM));
            let sequence = golden.ints("greedy.sequence").unwrap().remove(0);
            let prompt = golden.ints("prompt_lens").unwrap()[0][0] as usize;
            let mut batch = model.decode_batch(&engine, sequence.len()).unwrap();
            batch.push(&sequence[..prompt - 1]).unwrap();
            let (_, whole) = model.hidden_and_logits(&engine, &sequence).unwrap();
            let vocab = model.config().vocab;
            for i in prompt - 1..sequence.len() - 1 {
                let out = batch.step(&sequence[i..=i]).unwrap();
                golden.close("cached logits", out.logits, &whole[i * vocab..(i + 1) * vocab], 1e-4);
            }
        }
    }
}

/// Names, shapes, numbers and settings come out as peft wrote them.
#[test]
fn what_is_saved_is_what_peft_saved() {
    for dir in adapters(false).into_iter().chain(adapters(true)) {
        let heads = if dir.to_string_lossy().ends_with("-reward") { SCALAR } else { LM };
        let (temp, model) = (tempfile::tempdir().unwrap(), load(&dir, heads));
        model.save(temp.path(), SaveType::F32).unwrap();
        assert!(!temp.path().join("model.safetensors").exists(), "the base is not written");
        let open = |dir: &Path| Golden::open(dir, "adapter_model.safetensors").unwrap();
        let (before, after) = (open(&dir), open(temp.path()));
        assert_eq!(before.names(), after.names(), "{}", dir.display());
        for name in after.names() {
            assert_eq!(before.f32(&name), after.f32(&name), "{}: {name}", dir.display());
        }
        let again = Model::load(&files(temp.path(), temp.path()), heads, 0).unwrap();
        assert_eq!(again.adapter(), model.adapter());
        let json = |dir: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (theirs, ours) = (json(&dir), json(temp.path()));
        for key in ["r", "lora_alpha", "target_modules", "use_rslora", "fan_in_fan_out", "task_type", "bias"]
        {
            // peft resolves "all-linear" to the modules themselves.
            assert_eq!(theirs[key], ours[key], "{}: {key}", dir.display());
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_a_clone_is_the_reference_for_free() {
    let tokens: Vec<u32> = (3..17).collect();
    let row = [Row { tokens: &tokens, lm: 0..13, scalar: 0..0 }];
    for engine in engines() {
        let plain = base("phi3", LM).hidden_and_logits(&engine, &tokens).unwrap();
        let mut start = base("phi3", LM).with_adapter(LoraConfig::new(4), 7).unwrap();
        assert_eq!(start.hidden_and_logits(&engine, &tokens).unwrap(), plain, "B is zero");
        // Of a fresh adapter, and of one that has been trained.
        for seed in [0, 1] {
            start.make_trainable();
            start.prepare(&engine).unwrap();
            let mut policy = start.with_heads(BOTH, 1).unwrap();
            let reference = start.clone();
            let kl = |policy: &Model| -> f32 {
                let pair = policy.forward_pair(&reference, &engine, &row, 1.0).unwrap().remove(0);
                pair.kl_exact.iter().sum()
            };
            assert_eq!(kl(&policy), 0.0, "exactly");
            assert!(policy.shares_frozen_with(&reference) && start.shares_frozen_with(&policy));
            if engine.device() == tetherline_models::Device::Cpu {
                // q, k, v, out, gate, up, down of two blocks, and the output.
                assert_eq!(policy.panels_shared_with(&reference), 15);
            }
            let before = reference.trained().to_vec();
            policy
                .update(&engine, |p| p.iter_mut().enumerate().for_each(|(i, x)| *x += 0.01 * (i % 7) as f32));
            assert!(kl(&policy) > 1e-6, "seed {seed}");
            assert_eq!(reference.trained(), before, "the reference stays");
            assert_eq!(start.frozen(), policy.frozen());
            start = policy.with_heads(LM, 1).unwrap();
        }
    }
}

/// A as peft draws it: uniform in ±1/√n_in, so with variance 1/(3·n_in); other modules, other numbers.
#[test]
fn a_fresh_adapter_is_drawn_as_peft_draws_it() {
    let draw = |seed| base("llama", LM).with_adapter(LoraConfig::new(8), seed).unwrap();
    let model = draw(3);
    let of = |m: &Model, name: &str| m.tensor(&format!("model.layers.{name}.weight")).unwrap().to_vec();
    let q = of(&model, "0.self_attn.q_proj.lora_A");
    let bound = 1.0 / 24f32.sqrt();
    assert!(q.iter().all(|x| x.abs() <= bound) && q.iter().any(|x| x.abs() > 0.9 * bound));
    let variance = q.iter().map(|x| x * x).sum::<f32>() / q.len() as f32;
    assert!((variance * 3.0 * 24.0 - 1.0).abs() < 0.2, "{variance}");
    assert!(of(&model, "0.self_attn.q_proj.lora_B").iter().all(|x| *x == 0.0));
    assert_ne!(q, of(&model, "0.self_attn.v_proj.lora_A"));
    assert_ne!(q, of(&model, "1.self_attn.q_proj.lora_A"));
    assert_eq!(q, of(&draw(3), "0.self_attn.q_proj.lora_A"));
    assert_ne!(q, of(&draw(4), "0.self_attn.q_proj.lora_A"));
}

#[test]
fn models_over_one_base_loaded_apart_come_to_hold_it_once() {
    let dir = fixtures().join("adapters/gpt2-reward");
    let engine = Engine::new(1);
    let mut policy = base("gpt2", LM).with_adapter(LoraConfig::new(2), 1).unwrap();
    policy.make_trainable();
    policy.prepare(&engine).unwrap();
    let mut reward = load(&dir, SCALAR);
    let tokens = [5, 9, 11, 4];
    let row = [Row { tokens: &tokens, lm: 0..0, scalar: 0..4 }];
    let before = reward.forward(&engine, &row, 1.0).unwrap();
    assert!(!reward.shares_frozen_with(&policy));
    assert!(reward.share_frozen(&policy) && reward.shares_frozen_with(&policy));
    assert_eq!(reward.panels_shared_with(&policy), 12);
    assert_eq!(reward.forward(&engine, &row, 1.0).unwrap(), before);
    // A base with one other weight stays apart.
    let mut other = base("gpt2", LM);
    other.update(&engine, |p| p[100] += 1e-6);
    let mut other = other.with_adapter(LoraConfig::new(2), 1).unwrap();
    assert!(!other.share_frozen(&policy));
}

/// A reference that moves (`kl.reference`) takes over the adapter of the policy, and a plain base cannot.
#[test]
fn a_copy_follows_the_adapter_and_the_base_alone_cannot() {
    let engine = Engine::new(1);
    let start = base("qwen2", LM).with_adapter(LoraConfig::new(2), 1).unwrap();
    let (mut policy, mut reference) = (start.with_heads(BOTH, 1).unwrap(), start.clone());
    policy.update(&engine, |p| p.iter_mut().for_each(|x| *x += 0.5));
    reference.mix(&engine, &policy, 1.0).unwrap();
    for slot in reference.slots() {
        assert_eq!(reference.tensor(&slot.name), policy.tensor(&slot.name), "{}", slot.name);
    }
    assert!(reference.trained() != start.trained());
    let mut plain = base("qwen2", LM);
    assert!(matches!(plain.mix(&engine, &policy, 0.5), Err(ModelError::CannotFollow)));
    let blocks = plain.config().layers.len();
    let mut frozen = plain.freeze_layers(blocks).unwrap();
    assert!(matches!(frozen.mix(&engine, &policy, 0.5), Err(ModelError::CannotFollow)));
    // Blocks that the policy has frozen too are no hindrance.
    let policy = base("qwen2", LM).freeze_layers(1).unwrap();
    base("qwen2", LM).freeze_layers(1).unwrap().mix(&engine, &policy, 0.5).unwrap();
    base("qwen2", LM).mix(&engine, &policy, 0.5).unwrap();
}

#[test]
fn frozen_blocks_have_no_gradient_and_the_rest_has_the_same() {
    for engine in engines() {
        for name in ["llama", "gpt2", "gemma3"] {
            let rows = Golden::of(&fixtures().join("architectures").join(name)).rows("right");
            let mut whole = base(name, LM);
            let full = gradient(&engine, &mut whole, &rows);
            let blocks = whole.config().layers.len();
            for frozen in 1..=blocks {
                let mut part = base(name, LM).freeze_layers(frozen).unwrap();
                let found = gradient(&engine, &mut part, &rows);
                assert_eq!(found.len() + part.frozen().len(), full.len());
                let first = part.slots().iter().find(|s| part.gradient_range(s).is_some()).unwrap();
                let block = format!(".{frozen}.");
                assert!(
                    first.name.contains(&block)
                        || (frozen == blocks && first.name.contains("norm"))
                        || (frozen == blocks && first.name.contains("ln_f")),
                    "{name}: {}",
                    first.name
                );
                for (a, b) in found.iter().zip(&full[part.frozen().len()..]) {
                    assert!((a - b).abs() <= 1e-6 + 1e-4 * b.abs(), "{name}: {a} {b}");
                }
                let before = part.frozen().to_vec();
                part.update(&engine, |p| p.iter_mut().for_each(|x| *x += 1.0));
                assert_eq!(part.frozen(), before);
            }
            assert!(base(name, LM).freeze_layers(blocks + 1).is_err());
        }
    }
}

#[test]
fn adapters_that_change_the_base_are_refused_by_name() {
    let dir = fixtures().join("adapters/llama");
    let with = |field: &str, value: serde_json::Value| {
        let temp = tempfile::tempdir().unwrap();
        let mut json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap();
        json[field] = value;
        std::fs::write(temp.path().join("adapter_config.json"), json.to_string()).unwrap();
        std::fs::copy(dir.join("adapter_model.safetensors"), temp.path().join("adapter_model.safetensors"))
            .unwrap();
        Model::load(&files(temp.path(), &dir), LM, 0)
    };
    // Dropout is off when a model is used, and how weights began says nothing of what they are.
    let own = Model::load(&files(&dir, &dir), LM, 0).unwrap();
    assert!(own.trained().iter().any(|x| *x != 0.0));
    for (field, value) in [("lora_dropout", 0.1.into()), ("init_lora_weights", "gaussian".into())] {
        let model = with(field, value).unwrap_or_else(|e| panic!("{field}: {e}"));
        assert_eq!(model.trained(), own.trained(), "{field}");
        assert_eq!(model.frozen(), own.frozen(), "{field}");
    }
    for (field, value) in [
        ("use_dora", true.into()),
        ("lora_bias", true.into()),
        ("bias", "all".into()),
        ("init_lora_weights", "pissa_niter_4".into()),
        ("init_lora_weights", "olora".into()),
        ("init_lora_weights", "loftq".into()),
        ("modules_to_save", serde_json::json!(["lm_head"])),
        ("target_modules", serde_json::json!(["q_proj", "embed_tokens"])),
        ("trainable_token_indices", serde_json::json!([1])),
        ("layer_replication", serde_json::json!([[0, 2]])),
        ("peft_type", "PREFIX_TUNING".into()),
        ("r", serde_json::json!(-1)),
        ("r", serde_json::json!(1_000_000)),
        ("target_modules", "(?!x).*".into()),
    ] {
        match with(field, value) {
            Err(ModelError::ConfigField { path, field: named, .. }) => {
                assert_eq!(named, field);
                assert!(path.ends_with("adapter_config.json"), "{}", path.display());
            }
            other => panic!("{field}: {:?}", other.map(|_| ())),
        }
    }
    // Another rank than the tensors have, and modules without tensors.
    let e = with("r", 8.into()).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains(".lora_") && e.contains("has shape") && e.contains('4') && e.contains('8'), "{e}");
    let e =
        with("target_modules", serde_json::json!(["q_proj", "v_proj", "down_proj", "up_proj", "lm_head"]));
    let e = e.map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("up_proj.lora_A.weight"), "{e}");
    let e = with("target_modules", serde_json::json!(["q_proj"])).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("unexpected tensor"), "{e}");
}

#[test]
fn a_name_that_means_no_module_is_refused_with_those_there_are() {
    let names = |names: &[&str]| LoraConfig {
        target_modules: TargetModules::Names(names.iter().map(|n| (*n).to_owned()).collect()),
        ..LoraConfig::new(2)
    };
    let e = base("gpt2", LM).with_adapter(names(&["q_proj"]), 1).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("`q_proj`") && e.contains("c_attn, c_proj, c_fc"), "{e}");
    let e = base("gpt2", LM).with_adapter(names(&["wte"]), 1).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("wte"), "{e}");
    let adapted = base("gpt2", LM).with_adapter(names(&["c_attn"]), 1).unwrap();
    assert!(adapted.clone().with_adapter(names(&["c_fc"]), 1).is_err());
    assert!(adapted.freeze_layers(1).is_err());
}

/// transformers 5 calls the module `lm_head`, which earlier versions called `embed_out`; files of weights still do.
#[test]
fn an_adapter_on_the_head_of_gpt_neox_has_the_name_that_peft_gives_it() {
    let names = |n: &[&str]| TargetModules::Names(n.iter().map(|n| (*n).to_owned()).collect());
    let config = LoraConfig { target_modules: names(&["embed_out"]), ..LoraConfig::new(2) };
    let root = fixtures().join("architectures/gpt-neox");
    let config = LoraConfig { base: root.display().to_string(), ..config };
    let mut model = base("gpt-neox", LM).with_adapter(config, 0).unwrap();
    model.update(&Engine::new(1), |p| p.iter_mut().enumerate().for_each(|(i, x)| *x = 0.01 * i as f32));
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path(), SaveType::F32).unwrap();
    let settings = std::fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
    assert!(settings.contains("\"lm_head\"") && !settings.contains("embed_out"), "{settings}");
    let again = |heads| {
        let base = ModelFiles::dir(&root).unwrap();
        let files = ModelFiles::adapter(dir.path().to_owned(), root.display().to_string(), base).unwrap();
        Model::load(&files, heads, 0)
    };
    assert_eq!(again(LM).unwrap().trained(), model.trained());

    // As an earlier version would have written it.
    let path = dir.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let rename = |to: &str, extra: Option<&str>| {
        let mut tensors: Vec<_> =
            file.tensors().into_iter().map(|(n, view)| (n.replace("lm_head", to), view)).collect();
        if let Some(name) = extra {
            let view = tensors[0].1.clone();
            tensors.push((format!("base_model.model.lm_head.{name}"), view));
        }
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    };
    rename("embed_out", None);
    assert_eq!(again(LM).unwrap().trained(), model.trained());
    // peft writes the frozen weight of an adapted head beside it.
    rename("lm_head", Some("base_layer.weight"));
    assert_eq!(again(LM).unwrap().trained(), model.trained());
    // A whole head beside the adapter would change the model: it is not left out in silence.
    rename("lm_head", Some("weight"));
    let error = again(LM).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight"), "{error}");
}
