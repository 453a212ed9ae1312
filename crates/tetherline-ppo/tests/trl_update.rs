//! One real update of TRL's `PPOTrainer` (1.12), reproduced from the trainer's own tensors
//! (`golden/trl_ppo_update` of the oracle): KL, rewards, returns, advantages, losses of each epoch.
//!
//! The rows are 9, 6, 8 and 2 tokens long (EOS in the last three), so three of them have the place after
//! EOS. TRL shuffles rows in every epoch; their number of real tokens tells which is which.

#![expect(clippy::unwrap_used, reason = "a test helper may fail the test")]

mod common;

use common::{close, json, oracle};
use safetensors::SafeTensors;
use serde_json::Value;
use tetherline_core::{Advantages, NamedScore, PromptBatch, Ragged, Rollout, StopReason};
use tetherline_ppo::{
    LossSums, MinibatchTotals, MissingEos, PolicyRow, PpoConfig, ValueRow, advantages, advantages_with_kl,
    old_values_row, policy_loss_row, score_rollout, value_loss_row,
};

const LENGTHS: [usize; 4] = [9, 6, 8, 2];
const TOL: f64 = 1e-5;

struct Update {
    config: Value,
    metrics: Value,
    bytes: Vec<u8>,
}

impl Update {
    fn load(name: &str) -> Option<Self> {
        let folder = oracle()?.join("golden/trl_ppo_update");
        let mut json = json(&folder.join(format!("{name}.json")));
        let bytes = std::fs::read(folder.join(format!("{name}.tensors.safetensors"))).unwrap();
        Some(Self { config: json["config"].take(), metrics: json["metrics"].take(), bytes })
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = file.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// The first `lengths[i]` entries of row i of a [4, 9] tensor.
    fn rows(&self, name: &str, lengths: &[usize]) -> Ragged<f32> {
        let flat = self.tensor(name);
        Ragged::from_rows(lengths.iter().enumerate().map(|(i, &n)| flat[9 * i..9 * i + n].to_vec()))
    }

    fn number(&self, key: &str) -> f64 {
        self.config[key].as_f64().unwrap_or_else(|| panic!("config {key}"))
    }

    fn ppo_config(&self) -> PpoConfig {
        let penalty = self.config["missing_eos_penalty"].as_f64();
        PpoConfig {
            gamma: self.number("gamma"),
            lam: self.number("lam"),
            clip_range: self.number("cliprange"),
            value_clip_range: Some(self.number("cliprange_value")),
            vf_coef: self.number("vf_coef"),
            missing_eos_penalty: penalty.map_or(MissingEos::None, MissingEos::Subtract),
            ..PpoConfig::trl_parity()
        }
    }

    fn rollout(&self) -> Rollout {
        let values = self.tensor("values");
        let after =
            LENGTHS.iter().enumerate().map(|(i, &n)| *values[9 * i..9 * i + 9].get(n).unwrap_or(&0.0));
        Rollout {
            prompts: PromptBatch::default(),
            responses: Ragged::from_rows(LENGTHS.map(|n| vec![7; n])),
            stop: vec![StopReason::Length, StopReason::Eos, StopReason::Eos, StopReason::Eos],
            logprobs: self.rows("logprobs", &LENGTHS),
            ref_logprobs: self.rows("ref_logprobs", &LENGTHS),
            values: self.rows("values", &LENGTHS),
            bootstrap_values: Some(after.collect()),
            ..Rollout::default()
        }
    }
}

fn compare(got: &Ragged<f32>, want: &Ragged<f32>, what: &str) {
    got.check_same_rows("computed", want, "golden").unwrap();
    for (i, (g, w)) in got.flat().iter().zip(want.flat()).enumerate() {
        close(f64::from(*g), f64::from(*w), TOL, &format!("{what}[{i}]"));
    }
}

fn check_advantages(update: &Update, config: &PpoConfig, k3: bool) -> (Rollout, Advantages) {
    // The tensors hold scores after the penalty; give it back to the row without EOS.
    let mut scores = update.tensor("scores");
    if let MissingEos::Subtract(x) = config.missing_eos_penalty {
        scores[0] += x as f32;
    }
    let parts = vec![NamedScore { name: "reward_model".into(), values: scores }];
    let scored = score_rollout(update.rollout(), parts, config.missing_eos_penalty).unwrap();
    let beta = [update.number("kl_coef"); 4];
    let run = |config: &PpoConfig| {
        if k3 {
            let kl = scored
                .rollout
                .logprobs
                .zip_map(&scored.rollout.ref_logprobs, |&p, &r| {
                    let x = f64::from(r) - f64::from(p);
                    x.exp() - 1.0 - x
                })
                .unwrap();
            advantages_with_kl(&scored, &kl, &beta, config).unwrap()
        } else {
            advantages(&scored, &beta, config).unwrap()
        }
    };
    let with_slot = [9, 7, 9, 3];
    let raw = run(&PpoConfig { whiten_advantages: Some(false), ..config.clone() });
    compare(&raw.kl, &update.rows("kl", &LENGTHS), "kl");
    compare(&raw.rewards, &update.rows("rewards", &with_slot), "rewards");
    compare(&raw.returns, &update.rows("returns", &with_slot), "returns");
    compare(&raw.advantages, &update.rows("advantages_raw", &LENGTHS), "raw advantages");
    let whitened = run(config);
    compare(&whitened.advantages, &update.rows("advantages_whitened", &LENGTHS), "advantages");
    compare(&whitened.returns, &raw.returns, "returns do not depend on whitening");
    (scored.rollout, whitened)
}

fn check_epochs(update: &Update, config: &PpoConfig, rollout: &Rollout, a: &Advantages) {
    let totals = MinibatchTotals::of(a, None, &[0, 1, 2, 3]);
    assert_eq!(totals, MinibatchTotals { rows: 4, tokens: 25, values: 28, value_rows: 4 });
    let mut all = LossSums::default();
    for epoch in 0..3 {
        let logprobs = update.tensor(&format!("epoch{epoch}.new_logprobs"));
        let values = update.tensor(&format!("epoch{epoch}.vpred"));
        let mut sums = LossSums::default();
        for k in 0..4 {
            let new = &logprobs[9 * k..9 * k + 9];
            let n = new.iter().filter(|&&x| x != 1.0).count();
            let row = LENGTHS.iter().position(|&length| length == n).unwrap();
            let of_policy = PolicyRow {
                logprobs: &new[..n],
                entropy: &vec![0.0; n],
                old_logprobs: rollout.logprobs.row(row),
                advantages: a.advantages.row(row),
                ..PolicyRow::default()
            };
            let (mut d_logprobs, mut d_entropy) = (vec![0.0; n], vec![0.0; n]);
            policy_loss_row(&of_policy, &totals, config, &mut d_logprobs, &mut d_entropy, &mut sums).unwrap();
            let old_values = old_values_row(rollout, a, row);
            let of_value = ValueRow {
                values: &values[9 * k..9 * k + old_values.len()],
                old_values: &old_values,
                returns: a.returns.row(row),
                written: None,
            };
            value_loss_row(&of_value, &totals, config, &mut vec![0.0; old_values.len()], &mut sums).unwrap();
        }
        let means = sums.means(1);
        let golden = |key: &str| f64::from(update.tensor(&format!("epoch{epoch}.{key}"))[0]);
        close(means.policy_loss, golden("pg_loss"), TOL, &format!("epoch {epoch} policy loss"));
        close(means.value_loss, golden("vf_loss"), TOL, &format!("epoch {epoch} value loss"));
        close(
            means.value_clip_frac,
            golden("vf_clipfrac"),
            TOL,
            &format!("epoch {epoch} value clip fraction"),
        );
        if epoch == 0 {
            assert!(sums.ratio_deviation < 1e-4, "first ratio {}", sums.ratio_deviation);
        }
        all.merge(&sums);
    }
    let means = all.means(3);
    let metric = |key: &str| update.metrics[key].as_f64().unwrap();
    close(means.policy_loss, metric("loss/policy_avg"), TOL, "loss/policy_avg");
    close(means.value_loss, metric("loss/value_avg"), TOL, "loss/value_avg");
    close(means.clip_frac, metric("policy/clipfrac_avg"), TOL, "policy/clipfrac_avg");
    close(means.value_clip_frac, metric("val/clipfrac_avg"), TOL, "val/clipfrac_avg");
    // TRL takes these two over all 36 slots of [4, 9]; a pad has ratio 1.
    close(all.approx_kl / 108.0, metric("policy/approxkl_avg"), TOL, "policy/approxkl_avg");
    close((all.ratio + 33.0) / 108.0, metric("val/ratio"), TOL, "val/ratio");
}

#[test]
fn k1_with_score_after_eos() {
    let Some(update) = Update::load("base") else { return };
    let config = update.ppo_config();
    let (rollout, a) = check_advantages(&update, &config, false);
    check_epochs(&update, &config, &rollout, &a);
    let kl_per_sequence = a.kl.flat().iter().map(|&x| f64::from(x)).sum::<f64>() / 4.0;
    let metric = |key: &str| update.metrics[key].as_f64().unwrap();
    close(kl_per_sequence, metric("objective/kl"), TOL, "objective/kl");
    let paid = -update.number("kl_coef") * kl_per_sequence;
    close(paid, metric("objective/non_score_reward"), TOL, "objective/non_score_reward");
    let rewards = a.rewards.flat().iter().map(|&x| f64::from(x)).sum::<f64>() / 4.0;
    close(rewards, metric("objective/rlhf_reward"), TOL, "objective/rlhf_reward");
    close(rewards - paid, metric("objective/scores"), TOL, "objective/scores");
    // Before 1.12 each of the 11 pads took 1 nat from it.
    let surprise = -rollout.logprobs.flat().iter().map(|&x| f64::from(x)).sum::<f64>();
    close(surprise / 4.0, metric("objective/entropy"), TOL, "objective/entropy");
    let ended = rollout.stop.iter().filter(|s| **s == StopReason::Eos).count() as f64;
    assert_eq!(ended, metric("val/num_eos_tokens"));
}

#[test]
fn k3_with_a_subtracted_penalty() {
    let Some(update) = Update::load("k3_whiten_penalty") else { return };
    let config = update.ppo_config();
    assert_eq!(config.missing_eos_penalty, MissingEos::Subtract(1.0));
    let (rollout, a) = check_advantages(&update, &config, true);
    check_epochs(&update, &config, &rollout, &a);
}
