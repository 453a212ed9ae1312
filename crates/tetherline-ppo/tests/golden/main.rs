//! Every PPO entry of the oracle's `golden/ppo.json`: whitening, GAE, policy and value losses with their
//! gradients, as verl, OpenRLHF and torchtune compute them (f64 and f32).
//!
//! The goldens are padded [B, T] matrices with a mask; here they become ragged rows, so values under the
//! padding cannot take part. Advantages without a critic and the other surrogates are in `algorithms.rs`, the KL penalty
//! in reward and loss in `kl.rs`; `every_entry_has_a_test` counts all of them.

#![expect(clippy::unwrap_used, reason = "a test helper may fail the test")]

#[path = "../common/mod.rs"]
mod common;

mod algorithms;
mod kl;

use common::{close, json, oracle};
use serde_json::Value;
use tetherline_ppo::{
    Aggregation, Clip, LossSums, MinibatchTotals, PolicyRow, PpoConfig, ValueRow, WhitenVariance,
    clipped_surrogate, clipped_value, gae_row, policy_loss_row, value_loss_row, whiten,
};

/// A padded [B, T] matrix.
type Matrix = Vec<Vec<f64>>;

struct Entry(Value);

impl Entry {
    fn matrix(&self, group: &str, key: &str) -> Matrix {
        let v = &self.0[group][key];
        serde_json::from_value(v.clone()).unwrap_or_else(|e| panic!("{} {group}.{key}: {e}", self.name()))
    }
    fn input(&self, key: &str) -> Matrix {
        self.matrix("inputs", key)
    }
    fn mask(&self) -> Vec<Vec<bool>> {
        self.input("mask").iter().map(|r| r.iter().map(|&x| x != 0.0).collect()).collect()
    }
    fn number(&self, group: &str, key: &str) -> Option<f64> {
        self.0[group][key].as_f64()
    }
    fn name(&self) -> &str {
        self.0["name"].as_str().unwrap()
    }
    fn text(&self, group: &str, key: &str) -> &str {
        self.0[group][key].as_str().unwrap_or("")
    }
    fn is_f64(&self) -> bool {
        self.0["dtype"] == "f64"
    }
    /// f32 goldens were rounded at every step.
    fn tol(&self) -> f64 {
        if self.is_f64() { 1e-10 } else { 1e-5 }
    }
}

fn entries(start: &str) -> Option<Vec<Entry>> {
    let golden = json(&oracle()?.join("golden/ppo.json"));
    let all: Vec<Entry> = golden["entries"].as_array().unwrap().iter().cloned().map(Entry).collect();
    let found: Vec<Entry> = all.into_iter().filter(|e| e.name().starts_with(start)).collect();
    assert!(!found.is_empty(), "no golden starts with {start}");
    Some(found)
}

fn masked(values: &Matrix, mask: &[Vec<bool>]) -> Vec<f64> {
    values.iter().flatten().zip(mask.iter().flatten()).filter(|&(_, &m)| m).map(|(&x, _)| x).collect()
}

fn compare(got: &[f64], want: &[f64], tol: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        close(g, w, tol, &format!("{what}[{i}]"));
    }
}

#[test]
fn whitening() {
    for (peer, inverted) in [("verl_masked_whiten", false), ("torchtune_whiten", true)] {
        let Some(entries) = entries(peer) else { return };
        for e in entries {
            let mask = e.mask();
            let mut x = masked(&e.input("values"), &mask);
            // torchtune's `shift_mean` means the opposite of everybody else's.
            let keep_mean = e.0["params"]["shift_mean"].as_bool().unwrap() == inverted;
            whiten(&mut x, WhitenVariance::Unbiased, keep_mean).unwrap();
            // The peers' masked means divide by (n + 1e-8), torchtune's variance twice over.
            let tol = e.tol().max(if inverted { 5e-8 } else { 1e-9 });
            compare(&x, &masked(&e.matrix("outputs", "out"), &mask), tol, e.name());
        }
    }
}

fn gae_all(rewards: &Matrix, values: &Matrix, mask: &[Vec<bool>], gamma: f64, lam: f64) -> (Matrix, Matrix) {
    (0..rewards.len()).map(|i| gae_row(&rewards[i], &values[i], Some(&mask[i]), gamma, lam)).unzip()
}

#[test]
fn gae_of_verl_with_and_without_holes() {
    let Some(entries) = entries("verl_gae") else { return };
    for e in entries {
        let (gamma, lam) = (e.number("params", "gamma").unwrap(), e.number("params", "lam").unwrap());
        let mask = e.mask();
        let (a, r) = gae_all(&e.input("token_level_rewards"), &e.input("values"), &mask, gamma, lam);
        let mut a = masked(&a, &mask);
        compare(&a, &masked(&e.matrix("outputs", "advantages_raw"), &mask), e.tol(), e.name());
        compare(&masked(&r, &mask), &masked(&e.matrix("outputs", "returns"), &mask), e.tol(), e.name());
        whiten(&mut a, WhitenVariance::Unbiased, false).unwrap();
        let whitened = masked(&e.matrix("outputs", "advantages_whitened"), &mask);
        compare(&a, &whitened, e.tol().max(1e-9), e.name());
    }
}

#[test]
fn gae_of_openrlhf_and_torchtune() {
    for (name, raw) in [("openrlhf_gae", true), ("torchtune_estimate_advantages", false)] {
        let Some(entries) = entries(name) else { return };
        for e in entries {
            let (gamma, lam) = (e.number("params", "gamma").unwrap(), e.number("params", "lam").unwrap());
            let mask = e.mask();
            let (a, r) = gae_all(&e.input("rewards"), &e.input("values"), &mask, gamma, lam);
            let mut a = masked(&a, &mask);
            if !raw {
                // torchtune whitens with its inverted `shift_mean=True`: the mean stays.
                whiten(&mut a, WhitenVariance::Unbiased, true).unwrap();
            }
            let tol = if raw { e.tol() } else { e.tol().max(5e-8) };
            compare(&a, &masked(&e.matrix("outputs", "advantages"), &mask), tol, e.name());
            compare(&masked(&r, &mask), &masked(&e.matrix("outputs", "returns"), &mask), e.tol(), e.name());
        }
    }
}

/// Discounted sums of rewards: GAE with λ = 1 and no value function.
#[test]
fn returns_of_openrlhf() {
    let Some(entries) = entries("openrlhf_cumulative_returns") else { return };
    for e in entries {
        let (rewards, mask) = (e.input("rewards"), e.mask());
        let none = vec![vec![0.0; rewards[0].len()]; rewards.len()];
        let (_, r) = gae_all(&rewards, &none, &mask, e.number("params", "gamma").unwrap(), 1.0);
        compare(&masked(&r, &mask), &masked(&e.matrix("outputs", "returns"), &mask), e.tol(), e.name());
    }
}

/// The weight of each token, and the f32 rows' way of asking for it where there is one.
struct Weights {
    of_row: Vec<f64>,
    aggregation: Aggregation,
    totals: MinibatchTotals,
}

fn weights(mode: &str, mask: &[Vec<bool>]) -> Weights {
    let counts: Vec<usize> = mask.iter().map(|r| r.iter().filter(|&&m| m).count()).collect();
    let (rows, tokens) = (counts.len(), counts.iter().sum());
    let totals = MinibatchTotals { rows, tokens, values: tokens, value_rows: rows };
    let aggregation = match mode {
        "token-mean" => Aggregation::TokenMean,
        "seq-mean-token-sum" => Aggregation::SeqMeanTokenSum,
        "seq-mean-token-mean" => Aggregation::SeqMeanTokenMean,
        // Divides by the padded width, here a length that the recipe says.
        "seq-mean-token-sum-norm" => Aggregation::SumConstant(mask[0].len()),
        _ => panic!("{mode}"),
    };
    let of_row = counts.iter().map(|&n| totals.token_weight(aggregation, n)).collect();
    Weights { of_row, aggregation, totals }
}

struct PolicyGolden {
    clip: Clip,
    mode: &'static str,
    loss: f64,
    clip_frac: f64,
    dual_frac: Option<f64>,
}

/// The policy loss through the f32 rows the trainer uses, its gradients compared. f64 inputs rounded to f32 move an extreme
/// ratio by more than the loss's own rounding, so only f32 goldens are.
fn check_rows(e: &Entry, config: &PpoConfig, totals: &MinibatchTotals) -> Option<LossSums> {
    if e.is_f64() {
        return None;
    }
    let mask = e.mask();
    let (new, old, adv) = (e.input("log_prob"), e.input("old_log_prob"), e.input("advantages"));
    let grads = e.matrix("grads", "log_prob");
    let mut sums = LossSums::default();
    for i in 0..mask.len() {
        let narrow = |m: &Matrix| m[i].iter().map(|&x| x as f32).collect::<Vec<_>>();
        let (new, old, adv) = (narrow(&new), narrow(&old), narrow(&adv));
        let (mut d_logprobs, mut d_entropy) = (vec![9.0; new.len()], vec![9.0; new.len()]);
        let row = PolicyRow {
            logprobs: &new,
            entropy: &vec![0.0; new.len()],
            old_logprobs: &old,
            advantages: &adv,
            written: Some(&mask[i]),
            ..PolicyRow::default()
        };
        policy_loss_row(&row, totals, config, &mut d_logprobs, &mut d_entropy, &mut sums).unwrap();
        for t in 0..new.len() {
            let want = if mask[i][t] { grads[i][t] } else { 0.0 };
            close(f64::from(d_logprobs[t]), want, 1e-6, &format!("{} row gradient [{i},{t}]", e.name()));
        }
    }
    Some(sums)
}

fn check_policy(e: &Entry, golden: &PolicyGolden) {
    let mask = e.mask();
    let w = weights(golden.mode, &mask);
    let (new, old, adv) = (e.input("log_prob"), e.input("old_log_prob"), e.input("advantages"));
    let grads = e.matrix("grads", "log_prob");
    // verl's masked means divide by (n + 1e-8); a row of one token is off by 1e-8.
    let tol = if golden.mode == "seq-mean-token-mean" { e.tol().max(1e-8) } else { e.tol() };

    let (mut loss, mut clipped, mut dual, mut tokens) = (0.0, 0, 0, 0);
    for (i, t) in positions(&mask) {
        let term = clipped_surrogate(new[i][t] - old[i][t], adv[i][t], golden.clip);
        loss += w.of_row[i] * term.loss;
        clipped += u32::from(term.clipped);
        dual += u32::from(term.dual_clipped);
        tokens += 1;
        close(w.of_row[i] * term.grad, grads[i][t], tol, &format!("{} gradient [{i},{t}]", e.name()));
    }
    close(loss, golden.loss, tol, e.name());
    let share = |n: u32| f64::from(n) / f64::from(tokens);
    close(share(clipped), golden.clip_frac, 1e-7, e.name());
    if let Some(want) = golden.dual_frac {
        close(share(dual), want, 1e-7, e.name());
    }

    let config = PpoConfig {
        clip_range: golden.clip.low,
        clip_range_high: Some(golden.clip.high),
        dual_clip: golden.clip.dual,
        aggregation: w.aggregation,
        ..PpoConfig::default()
    };
    let Some(sums) = check_rows(e, &config, &w.totals) else { return };
    let means = sums.means(1);
    close(means.policy_loss, golden.loss, 1e-5, e.name());
    close(means.clip_frac, golden.clip_frac, 1e-6, e.name());
}

fn positions(mask: &[Vec<bool>]) -> impl Iterator<Item = (usize, usize)> + '_ {
    mask.iter().enumerate().flat_map(|(i, r)| (0..r.len()).filter(|&t| r[t]).map(move |t| (i, t)))
}

#[test]
fn policy_loss_of_verl() {
    let Some(entries) = entries("verl_policy_loss") else { return };
    let mut seen = 0;
    for e in entries {
        let function = e.0["function"].as_str().unwrap();
        let p = |key| e.number("params", key);
        let (clip, mode, metrics) = if function.ends_with("compute_policy_loss") {
            let range = p("cliprange").unwrap();
            let low = p("cliprange_low").unwrap_or(range);
            let high = p("cliprange_high").unwrap_or(range);
            let out = |key| e.number("outputs", key).unwrap();
            let mode = match e.text("params", "loss_agg_mode") {
                "token-mean" => "token-mean",
                "seq-mean-token-sum" => "seq-mean-token-sum",
                "seq-mean-token-mean" => "seq-mean-token-mean",
                _ => "seq-mean-token-sum-norm",
            };
            (
                Clip { low, high, dual: p("clip_ratio_c") },
                mode,
                (out("pg_clipfrac"), out("pg_clipfrac_lower")),
            )
        } else if function.contains("[vanilla]") {
            let metrics = &e.0["outputs"]["metrics"];
            let out = |key: &str| metrics[key].as_f64().unwrap();
            let (low, high) = (p("clip_ratio_low").unwrap(), p("clip_ratio_high").unwrap());
            (
                Clip { low, high, dual: p("clip_ratio_c") },
                "token-mean",
                (out("actor/pg_clipfrac"), out("actor/pg_clipfrac_lower")),
            )
        } else {
            continue; // GSPO, geometric mean and GPG: `algorithms.rs`.
        };
        seen += 1;
        let golden = PolicyGolden {
            clip,
            mode,
            loss: e.number("outputs", "pg_loss").unwrap(),
            clip_frac: metrics.0,
            dual_frac: Some(metrics.1),
        };
        check_policy(&e, &golden);
    }
    assert_eq!(seen, 52, "3 clip settings × 4 aggregations × 2 inputs + vanilla × 2, in f64 and f32");
}

#[test]
fn policy_loss_of_openrlhf() {
    let Some(entries) = entries("openrlhf_PolicyLoss") else { return };
    for e in entries {
        let p = |key| e.number("params", key);
        let token_level = e.0["params"]["token_level_loss"].as_bool().unwrap();
        let golden = PolicyGolden {
            clip: Clip {
                low: p("clip_eps_low").unwrap(),
                high: p("clip_eps_high").unwrap(),
                dual: p("dual_clip"),
            },
            mode: if token_level { "token-mean" } else { "seq-mean-token-mean" },
            loss: e.number("outputs", "loss").unwrap(),
            clip_frac: e.number("outputs", "clip_ratio").unwrap(),
            dual_frac: None,
        };
        check_policy(&e, &golden);
    }
}

#[test]
fn loss_of_torchtune() {
    let Some(entries) = entries("torchtune_PPOLoss") else { return };
    for e in entries {
        let p = |key| e.number("params", key).unwrap();
        let out = |key| e.number("outputs", key).unwrap();
        let golden = PolicyGolden {
            clip: Clip { low: p("epsilon"), high: p("epsilon"), dual: None },
            mode: "token-mean",
            loss: out("policy_loss"),
            clip_frac: out("clipfrac"),
            dual_frac: None,
        };
        check_policy(&e, &golden);
        check_value(&e, Some(p("value_clip_range")), "token-mean", out("value_loss"), p("value_coeff"));
        close(out("policy_loss") + p("value_coeff") * out("value_loss"), out("loss"), 1e-6, e.name());
    }
}

fn check_value(e: &Entry, range: Option<f64>, mode: &str, loss: f64, coefficient: f64) {
    let mask = e.mask();
    let w = weights(mode, &mask);
    let (new, old, target) = (e.input("vpreds"), e.input("values"), e.input("returns"));
    let grads = e.matrix("grads", "vpreds");
    let tol = if mode == "seq-mean-token-mean" { e.tol().max(1e-8) } else { e.tol() };

    let (mut sum, mut clipped, mut tokens) = (0.0, 0, 0);
    for (i, t) in positions(&mask) {
        let term = clipped_value(new[i][t], old[i][t], target[i][t], range);
        sum += w.of_row[i] * term.loss;
        clipped += u32::from(term.clipped);
        tokens += 1;
        let grad = coefficient * w.of_row[i] * term.grad;
        close(grad, grads[i][t], tol, &format!("{} gradient [{i},{t}]", e.name()));
    }
    close(sum, loss, tol, e.name());
    if let Some(want) = e.number("outputs", "vf_clipfrac") {
        close(f64::from(clipped) / f64::from(tokens), want, 1e-7, e.name());
    }

    if e.is_f64() {
        return;
    }
    let aggregation = w.aggregation;
    let config =
        PpoConfig { value_clip_range: range, vf_coef: coefficient, aggregation, ..PpoConfig::default() };
    let mut sums = LossSums::default();
    for i in 0..mask.len() {
        let narrow = |m: &Matrix| m[i].iter().map(|&x| x as f32).collect::<Vec<_>>();
        let (values, old_values, returns) = (narrow(&new), narrow(&old), narrow(&target));
        let mut d_values = vec![9.0; values.len()];
        let row =
            ValueRow { values: &values, old_values: &old_values, returns: &returns, written: Some(&mask[i]) };
        value_loss_row(&row, &w.totals, &config, &mut d_values, &mut sums).unwrap();
        for t in 0..values.len() {
            let want = if mask[i][t] { grads[i][t] } else { 0.0 };
            close(f64::from(d_values[t]), want, 1e-6, &format!("{} row gradient [{i},{t}]", e.name()));
        }
    }
    close(sums.means(1).value_loss, loss, 1e-5, e.name());
}

#[test]
fn value_loss_of_verl_and_openrlhf() {
    let Some(verl) = entries("verl_value_loss") else { return };
    assert_eq!(verl.len(), 18);
    for e in verl {
        let range = e.number("params", "cliprange_value");
        let loss = e.number("outputs", "vf_loss").unwrap();
        check_value(&e, range, e.text("params", "loss_agg_mode"), loss, 1.0);
    }
    for e in entries("openrlhf_ValueLoss").unwrap() {
        let range = e.number("params", "clip_eps");
        check_value(&e, range, "token-mean", e.number("outputs", "loss").unwrap(), 1.0);
    }
}

/// The entropy bonus: verl's entropy as input, its gradient through the softmax by hand.
#[test]
fn entropy_of_verl() {
    let Some(entries) = entries("verl_entropy") else { return };
    for e in entries {
        let mask = e.mask();
        let w = weights("token-mean", &mask);
        let logits: Vec<Matrix> = serde_json::from_value(e.0["inputs"]["logits"].clone()).unwrap();
        let grads: Vec<Matrix> = serde_json::from_value(e.0["grads"]["logits"].clone()).unwrap();
        let entropy = e.matrix("outputs", "entropy");
        let config = PpoConfig { entropy_coef: 1.0, ..PpoConfig::default() };
        let mut sums = LossSums::default();
        for i in 0..mask.len() {
            let n = mask[i].len();
            let values: Vec<f32> = entropy[i].iter().map(|&x| x as f32).collect();
            let (mut d_logprobs, mut d_entropy) = (vec![0.0; n], vec![0.0; n]);
            let zeros = vec![0.0; n];
            let row = PolicyRow {
                logprobs: &zeros,
                entropy: &values,
                old_logprobs: &zeros,
                advantages: &zeros,
                written: Some(&mask[i]),
                ..PolicyRow::default()
            };
            policy_loss_row(&row, &w.totals, &config, &mut d_logprobs, &mut d_entropy, &mut sums).unwrap();
            for t in 0..n {
                let top = logits[i][t].iter().copied().fold(f64::MIN, f64::max);
                let z: f64 = logits[i][t].iter().map(|x| (x - top).exp()).sum();
                for (v, &x) in logits[i][t].iter().enumerate() {
                    let log_p = x - top - z.ln();
                    // dH/d logit = −p·(log p + H); the bonus enters the loss with a minus.
                    let got = -f64::from(d_entropy[t]) * -log_p.exp() * (log_p + entropy[i][t]);
                    close(got, grads[i][t][v], 1e-5 / 22.0, &format!("{} [{i},{t},{v}]", e.name()));
                }
            }
        }
        close(sums.means(1).entropy, e.number("outputs", "entropy_loss").unwrap(), 1e-5, e.name());
    }
}
