//! Estimators against verl's `kl_penalty`, OpenRLHF's `compute_approx_kl` and torchtune's rewards.

mod oracle;

use oracle::{golden, numbers};
use serde_json::Value;
use tetherline_kl::{Clamp, KlEstimator};

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().expect("as the oracle writes it").iter().map(numbers).collect()
}

/// Compares under the mask and returns how many tokens were compared.
fn compare(entry: &Value, of: KlEstimator, clamp: Clamp, [lp, rlp]: [&str; 2], tol: f64) -> usize {
    let inputs = &entry["inputs"];
    let (lp, rlp, mask) = (rows(&inputs[lp]), rows(&inputs[rlp]), rows(&inputs["mask"]));
    let out = rows(&entry["outputs"]["out"]);
    let mut compared = 0;
    for r in 0..lp.len() {
        for t in 0..lp[r].len() {
            if mask[r][t] == 0.0 {
                continue;
            }
            let ours = of.clamped(lp[r][t], rlp[r][t], clamp).0.0;
            let theirs = out[r][t];
            let scale = theirs.abs().max(1.0);
            assert!((ours - theirs).abs() <= tol * scale, "{} [{r}][{t}]: {ours} vs {theirs}", entry["name"]);
            compared += 1;
        }
    }
    compared
}

#[test]
fn peers_estimators() {
    let Some(file) = golden("kl.json") else { return };
    let (mut verl, mut openrlhf) = (0, 0);
    for entry in file["entries"].as_array().unwrap() {
        if !entry["outputs"].is_object() {
            continue; // the peer raises
        }
        let f32_entry = entry["dtype"] == "f32";
        if let Some(kind) = entry["params"]["kl_penalty"].as_str() {
            let (of, clamp) = match kind {
                "kl" | "k1" => (KlEstimator::K1, Clamp::SAFE),
                "abs" => (KlEstimator::Abs, Clamp::SAFE),
                "mse" | "k2" => (KlEstimator::K2, Clamp::SAFE),
                "k3" | "low_var_kl" => (KlEstimator::K3, Clamp::VERL_K3),
                other => panic!("new kind {other}"),
            };
            let tol = if f32_entry { 1e-6 } else { 1e-12 };
            verl += compare(entry, of, clamp, ["logprob", "ref_logprob"], tol);
        } else if let Some(kind) = entry["params"]["kl_estimator"].as_str() {
            let of = match kind {
                "k1" => KlEstimator::K1,
                "k2" => KlEstimator::K2,
                "k3" => KlEstimator::K3,
                other => panic!("new kind {other}"),
            };
            // It computes in f32 whatever it is given.
            openrlhf += compare(entry, of, Clamp::OPENRLHF, ["log_probs", "log_probs_base"], 1e-6);
        }
    }
    // 8 kinds, plain and extreme, in f64 and f32, 22 tokens under the mask; 3 kinds for OpenRLHF.
    assert_eq!((verl, openrlhf), (16 * 2 * 22 - 2 * 2 * 22, 6 * 2 * 22));
}

#[test]
fn torchtune_kl_is_k1_and_its_reward_minus_beta_k1() {
    let Some(file) = golden("kl.json") else { return };
    let entries = file["entries"].as_array().unwrap();
    let entry =
        entries.iter().find(|e| e["name"] == "torchtune_get_rewards_ppo" && e["dtype"] == "f64").unwrap();
    let beta = entry["params"]["kl_coeff"].as_f64().unwrap();
    let (lp, rlp) = (rows(&entry["inputs"]["logprobs"]), rows(&entry["inputs"]["ref_logprobs"]));
    let (kl, reward) = (rows(&entry["outputs"]["kl"]), rows(&entry["outputs"]["kl_reward"]));
    for r in 0..lp.len() {
        for t in 0..lp[r].len() {
            let k1 = KlEstimator::K1.per_token(lp[r][t], rlp[r][t]).0;
            assert!((k1 - kl[r][t]).abs() < 1e-12);
            assert!((-beta * k1 - reward[r][t]).abs() < 1e-12);
        }
    }
}
