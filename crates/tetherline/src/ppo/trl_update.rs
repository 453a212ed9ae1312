//! A whole update of TRL's `PPOTrainer` (1.12) from the weights of policy, reference, value and reward model: log-probs, values
//! and scores, their shaping, GAE, three epochs of AdamW; the weights after it are TRL's (`golden/trl_ppo_update` of the oracle).

use super::POLICY_HEADS;
use super::loss::{Part, PpoLoss};
use crate::rows::{full_rows, lm_rows, scalar_rows};
use crate::scoring::REWARD_HEADS as VALUE_HEADS;
use crate::train::Trainer;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tetherline_core::{NamedScore, PromptBatch, PromptRef, Ragged, Rollout, StopReason};
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Device, Engine, Heads, Model, ModelFiles, Row, SaveType};
use tetherline_ppo::{MinibatchTotals, PpoConfig, advantages, score_rollout};

/// Tokens of each response, EOS included; the first was cut off.
const LENGTHS: [usize; 4] = [9, 6, 8, 2];

/// The row whose prompt stood before each response when the reward model read it. The trainer joins the responses with the
/// prompts of its loader, which shuffles, and the golden's responses were preset, in an order of their own; policy, reference and
/// value model read the preset prompts.
const PROMPT_OF_THE_SCORE: [usize; 4] = [2, 1, 3, 0];

/// TRL divides by T + 1e-7.
const TEMPERATURE: f32 = 0.7;

fn oracle() -> Option<PathBuf> {
    let path = std::env::var_os("TETHER_ORACLE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle"), PathBuf::from);
    if path.join("golden").is_dir() {
        return Some(path);
    }
    eprintln!("SKIPPED: oracle not found at {} (set TETHER_ORACLE)", path.display());
    None
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Largest |got − want| over the entries of each row that it has, of a golden with rows of nine.
fn far(got: &Ragged<f32>, want: &[f32]) -> f32 {
    let rows = got.rows().enumerate();
    let of_row = |(i, row): (usize, &[f32])| {
        row.iter().zip(&want[9 * i..]).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max)
    };
    rows.map(of_row).fold(0.0, f32::max)
}

/// The prompts without padding on the left, and the responses up to their EOS.
fn rollout(golden: &serde_json::Value) -> Rollout {
    let rows: Vec<Vec<u32>> = serde_json::from_value(golden["query_responses"].clone()).unwrap();
    let mut prompts = PromptBatch::default();
    let mut responses = Vec::new();
    for (id, (row, length)) in rows.iter().zip(LENGTHS).enumerate() {
        let tokens: Vec<u32> = row[..5].iter().copied().skip_while(|&t| t == 0).collect();
        prompts.push(PromptRef {
            tokens: &tokens,
            id: id as u64,
            sample: 0,
            domain: "all",
            user: "",
            text: "",
            messages: &[],
            answer: "",
        });
        responses.push(row[5..5 + length].to_vec());
    }
    let responses = Ragged::from_rows(responses);
    let stop = LENGTHS.map(|n| if n == 9 { StopReason::Length } else { StopReason::Eos }).to_vec();
    Rollout { prompts, responses, stop, temperature: TEMPERATURE, ..Rollout::default() }
}

/// What the reward model says of prompts and responses as the trainer joined them.
fn scores(model: &Model, engine: &Engine, rollout: &Rollout) -> Vec<f32> {
    let prompts = PROMPT_OF_THE_SCORE.iter().map(|&i| rollout.prompts.tokens.row(i));
    let read: Vec<Vec<u32>> = prompts.zip(rollout.responses.rows()).map(|(p, r)| [p, r].concat()).collect();
    let last = |t: &Vec<u32>| t.len() - 1..t.len();
    let rows: Vec<Row<'_>> = read.iter().map(|t| Row { tokens: t, lm: 0..0, scalar: last(t) }).collect();
    model.forward(engine, &rows, 1.0).unwrap().iter().map(|r| r.scalars[0]).collect()
}

/// A unit of each row.
fn units<'t>(rows: &[Row<'t>]) -> Vec<Vec<Row<'t>>> {
    rows.iter().map(|r| vec![r.clone()]).collect()
}

#[test]
fn the_weights_after_an_update_of_trl() {
    let Some(oracle) = oracle() else { return };
    let folder = oracle.join("golden/trl_ppo_update");
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("base.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("base.tensors.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let number = |key: &str| golden["config"][key].as_f64().unwrap();
    let engine = Engine::on(Device::Cpu, 1).unwrap();
    let load = |which: &str, heads: Heads| {
        let name = golden["models"][which].as_str().unwrap();
        Model::load(&ModelFiles::dir(oracle.join("models").join(name)).unwrap(), heads, 0).unwrap()
    };
    let (start, reference) = (load("policy", POLICY_HEADS), load("ref", POLICY_HEADS));
    let first_value = load("value", VALUE_HEADS);

    // What the policy wrote, as each of the models sees it.
    let mut rollout = rollout(&golden);
    let full = full_rows(&rollout);
    let pairs = start.forward_pair(&reference, &engine, &lm_rows(&full, &rollout), TEMPERATURE).unwrap();
    rollout.logprobs = Ragged::from_rows(pairs.iter().map(|p| p.policy.logprobs.iter().copied()));
    rollout.ref_logprobs = Ragged::from_rows(pairs.iter().map(|p| p.ref_logprobs.iter().copied()));
    let values = first_value.forward(&engine, &scalar_rows(&full, &rollout, true), 1.0).unwrap();
    let rows = values.iter().zip(LENGTHS);
    rollout.values = Ragged::from_rows(rows.map(|(r, n)| r.scalars[..n].iter().copied()));
    rollout.bootstrap_values = Some(values.iter().map(|r| *r.scalars.last().unwrap()).collect());
    for (what, got) in [
        ("logprobs", &rollout.logprobs),
        ("ref_logprobs", &rollout.ref_logprobs),
        ("values", &rollout.values),
    ] {
        let far = far(got, &floats(&tensors, what));
        assert!(far < 1e-4, "{what} are {far} from TRL's");
    }

    let config = PpoConfig {
        gamma: number("gamma"),
        lam: number("lam"),
        clip_range: number("cliprange"),
        value_clip_range: Some(number("cliprange_value")),
        vf_coef: number("vf_coef"),
        ..PpoConfig::trl_parity()
    };
    let values = floats(&tensors, "scores");
    for (i, (got, want)) in
        scores(&load("reward", VALUE_HEADS), &engine, &rollout).iter().zip(&values).enumerate()
    {
        assert!((got - want).abs() < 1e-5 * want.abs(), "score of row {i}: {got}, TRL's is {want}");
    }
    // On with TRL's own: the first steps of Adam have the sign of gradients that are nearly zero, so that the last bits of a score
    // move weights by 1e-4.
    let parts = vec![NamedScore { name: "reward_model".into(), values }];
    let scored = score_rollout(rollout, parts, config.missing_eos_penalty).unwrap();
    let adv = advantages(&scored, &[number("kl_coef"); 4], &config).unwrap();
    let away = far(&adv.advantages, &floats(&tensors, "advantages_whitened"));
    assert!(away < 1e-4, "advantages are {away} from TRL's");

    let adam = AdamWConfig {
        beta1: number("adam_beta1"),
        beta2: number("adam_beta2"),
        eps: number("adam_epsilon"),
        weight_decay: number("weight_decay"),
    };
    let (mut policy, mut value) = (Trainer::new(start, adam), Trainer::new(first_value, adam));
    let micro = [0, 1, 2, 3];
    let totals = MinibatchTotals::of(&adv, None, &micro);
    let (lm, scalar) = (lm_rows(&full, &scored.rollout), scalar_rows(&full, &scored.rollout, true));
    let (lm, scalar) = (units(&lm), units(&scalar));
    for _ in 0..golden["config"]["num_ppo_epochs"].as_u64().unwrap() {
        let loss = PpoLoss {
            rows: &micro,
            rollout: &scored.rollout,
            adv: &adv,
            totals: &totals,
            config: &config,
            what: Part::Policy,
        };
        for row in policy.accumulate(&engine, &lm, TEMPERATURE, &loss).unwrap() {
            row.unwrap();
        }
        for row in value.accumulate(&engine, &scalar, 1.0, &PpoLoss { what: Part::Value, ..loss }).unwrap() {
            row.unwrap();
        }
        for trainer in [&mut policy, &mut value] {
            trainer.step(&engine, number("learning_rate"), None).unwrap();
        }
    }

    let after = std::fs::read(folder.join("base.final_weights.safetensors")).unwrap();
    let after = SafeTensors::deserialize(&after).unwrap();
    let mut compared = 0;
    for (which, model) in [("policy", &policy.model), ("value", &value.model)] {
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path(), SaveType::F32).unwrap();
        let saved = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let saved = SafeTensors::deserialize(&saved).unwrap();
        for name in saved.names() {
            let (got, want) = (floats(&saved, name), floats(&after, &format!("{which}.{name}")));
            assert_eq!(got.len(), want.len(), "{name}");
            let square = |x: f64| x * x;
            let off: f64 = got.iter().zip(&want).map(|(g, w)| square(f64::from(g - w))).sum();
            let size: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
            let relative = (off / size).sqrt();
            assert!(relative < 1e-4, "{which}.{name} is {relative:.2e} from TRL's, relative in L2");
            compared += 1;
        }
    }
    assert_eq!(compared, after.names().len(), "every tensor that TRL trained");
}
