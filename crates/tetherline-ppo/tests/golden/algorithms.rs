//! Advantages without a critic, and the surrogates beside PPO's, as verl computes them.

use super::{Entry, Matrix, check_rows, compare, entries, gae_all, masked, positions};
use crate::common::{close, json, oracle};
use std::collections::BTreeMap;
use tetherline_core::{Ragged, Rollout, ScoredRollout, StopReason};
use tetherline_ppo::{
    Advantage, Aggregation, Clip, GroupKl, MinibatchTotals, MissingEos, PpoConfig, Ratio, Surrogate,
    WhitenVariance, advantages_with_kl, clipped_surrogate, geometric_surrogate, group_advantages,
    mean_and_std, sequence_log_ratio, whiten,
};

fn lengths(mask: &[Vec<bool>]) -> Vec<usize> {
    mask.iter().map(|r| r.iter().filter(|&&m| m).count()).collect()
}

fn scores(rewards: &Matrix) -> Vec<f64> {
    rewards.iter().map(|r| r.iter().sum()).collect()
}

/// The rows of each group; the goldens' second row is a group of its own.
fn groups(e: &Entry) -> Vec<Vec<usize>> {
    let of: Vec<f64> = serde_json::from_value(e.0["inputs"]["group"].clone()).unwrap();
    let mut rows: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (row, g) in of.iter().enumerate() {
        rows.entry(*g as u64).or_default().push(row);
    }
    rows.into_values().collect()
}

/// Advantages of all rows by groups; a response alone gets `alone` of its score, as the peer has it.
fn of_groups(e: &Entry, kind: Advantage, alone: impl Fn(f64) -> f64) -> Vec<f64> {
    let (scores, lengths) = (scores(&e.input("token_level_rewards")), lengths(&e.mask()));
    let mut out = vec![f64::NAN; scores.len()];
    for rows in groups(e) {
        let pick = |v: &[f64]| rows.iter().map(|&i| v[i]).collect::<Vec<_>>();
        if rows.len() == 1 {
            assert!(group_advantages(kind, &pick(&scores), &[1]).is_err(), "a group of one is refused here");
            out[rows[0]] = alone(scores[rows[0]]);
            continue;
        }
        let of_rows: Vec<usize> = rows.iter().map(|&i| lengths[i]).collect();
        let of = group_advantages(kind, &pick(&scores), &of_rows).unwrap();
        rows.iter().zip(of).for_each(|(&i, a)| out[i] = a);
    }
    out
}

fn check_tiled(e: &Entry, of_rows: &[f64]) {
    let (mask, want) = (e.mask(), e.matrix("outputs", "advantages"));
    // The response alone is the peer's, computed in f32.
    let alone = groups(e).into_iter().find(|rows| rows.len() == 1).unwrap()[0];
    // verl's vectorised form computes in f32 whatever it is given.
    let exact = e.tol().max(if e.name().contains("vectorized") { 1e-5 } else { 0.0 });
    for (i, t) in positions(&mask) {
        let tol = if i == alone { 1e-5 } else { exact };
        close(of_rows[i], want[i][t], tol, &format!("{} [{i},{t}]", e.name()));
    }
}

#[test]
fn advantages_of_groups() {
    for (name, kind) in [
        ("verl_grpo_stdTrue", Advantage::GroupStd),
        ("verl_grpo_vectorized_stdTrue", Advantage::GroupStd),
        ("verl_grpo_stdFalse", Advantage::GroupMean),
        ("verl_grpo_vectorized_stdFalse", Advantage::GroupMean),
        ("verl_rloo", Advantage::LeaveOneOut),
        ("verl_opo", Advantage::LengthWeighted),
    ] {
        let Some(entries) = entries(name) else { return };
        assert_eq!(entries.len(), 2, "{name} in f64 and f32");
        for e in entries {
            let eps = if kind == Advantage::GroupStd { 1.0 + 1e-6 } else { 1.0 };
            check_tiled(&e, &of_groups(&e, kind, |score| score / eps));
            through_advantages(&e, kind);
        }
    }
}

/// The same three rows through [`advantages_with_kl`]: any token rewards are −β·kl with β = 1 and a score of 0.
fn through_advantages(e: &Entry, kind: Advantage) {
    let rows = groups(e).into_iter().find(|rows| rows.len() == 3).unwrap();
    let (rewards, want) = (e.input("token_level_rewards"), e.matrix("outputs", "advantages"));
    let n = lengths(&e.mask());
    let kl =
        Ragged::from_rows(rows.iter().map(|&i| rewards[i][..n[i]].iter().map(|r| -r).collect::<Vec<_>>()));
    let scored = scored(&kl, None);
    let config = PpoConfig { advantages: kind, samples_per_prompt: 3, batch_size: 3, ..critic_free() };
    let config = PpoConfig { group_kl: GroupKl::InScore, ..config };
    let a = advantages_with_kl(&scored, &kl, &[1.0; 3], &config).unwrap();
    for (k, &i) in rows.iter().enumerate() {
        for (t, &got) in a.advantages.row(k).iter().enumerate() {
            close(f64::from(got), want[i][t], 1e-5, &format!("{} row {i}, token {t}", e.name()));
        }
    }
}

fn critic_free() -> PpoConfig {
    PpoConfig { missing_eos_penalty: MissingEos::None, ..PpoConfig::default() }
}

/// Responses of the lengths of `kl` with scores of 0 and no values.
fn scored(kl: &Ragged<f64>, baselines: Option<Vec<f32>>) -> ScoredRollout {
    let rows = kl.len();
    let rollout = Rollout {
        responses: kl.map(|_| 7),
        stop: vec![StopReason::Eos; rows],
        logprobs: kl.map(|_| -1.0),
        ..Rollout::default()
    };
    let zeros = vec![0.0; rows];
    ScoredRollout {
        rollout,
        raw_scores: zeros.clone(),
        scores: zeros,
        parts: vec![],
        penalized: vec![false; rows],
        baselines,
    }
}

fn ragged_kl(e: &Entry) -> Ragged<f64> {
    let (rewards, n) = (e.input("token_level_rewards"), lengths(&e.mask()));
    Ragged::from_rows((0..n.len()).map(|i| rewards[i][..n[i]].iter().map(|r| -r).collect::<Vec<_>>()))
}

fn flat(rows: &Ragged<f32>) -> Vec<f64> {
    rows.flat().iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn reinforce_plus_plus_and_remax() {
    let Some(plain) = entries("verl_reinforce_plus_plus") else { return };
    for e in plain.into_iter().filter(|e| e.name() == "verl_reinforce_plus_plus") {
        let (mask, gamma) = (e.mask(), e.number("params", "gamma").unwrap());
        let rewards = e.input("token_level_rewards");
        let none = vec![vec![0.0; rewards[0].len()]; rewards.len()];
        let (_, returns) = gae_all(&rewards, &none, &mask, gamma, 1.0);
        let mut a = masked(&returns, &mask);
        let want = masked(&e.matrix("outputs", "returns"), &mask);
        compare(&a, &want, e.tol(), e.name());
        whiten(&mut a, WhitenVariance::Unbiased, false).unwrap();
        let whitened = masked(&e.matrix("outputs", "advantages"), &mask);
        compare(&a, &whitened, e.tol().max(1e-9), e.name());

        let config = PpoConfig { advantages: Advantage::ReinforcePlusPlus, gamma, ..critic_free() };
        let kl = ragged_kl(&e);
        let a = advantages_with_kl(&scored(&kl, None), &kl, &[1.0; 4], &config).unwrap();
        compare(&flat(&a.returns), &want, 1e-5, e.name());
        compare(&flat(&a.advantages), &whitened, 1e-5, e.name());
    }
    for e in entries("verl_reinforce_plus_plus_baseline").unwrap() {
        let mask = e.mask();
        // A response alone has no baseline in verl.
        let of_rows = of_groups(&e, Advantage::ReinforcePlusPlusBaseline, |score| score);
        let mut a: Vec<f64> = positions(&mask).map(|(i, _)| of_rows[i]).collect();
        whiten(&mut a, WhitenVariance::Unbiased, false).unwrap();
        let want = masked(&e.matrix("outputs", "advantages"), &mask);
        compare(&a, &want, e.tol().max(1e-8), e.name());
    }
    for e in entries("verl_remax").unwrap() {
        let mask = e.mask();
        let rewards = e.input("token_level_rewards");
        let none = vec![vec![0.0; rewards[0].len()]; rewards.len()];
        let (_, returns) = gae_all(&rewards, &none, &mask, 1.0, 1.0);
        let baselines: Vec<f64> = serde_json::from_value(e.0["inputs"]["reward_baselines"].clone()).unwrap();
        let got: Vec<f64> = positions(&mask).map(|(i, t)| returns[i][t] - baselines[i]).collect();
        let want = masked(&e.matrix("outputs", "advantages"), &mask);
        compare(&got, &want, e.tol(), e.name());
        compare(&masked(&returns, &mask), &masked(&e.matrix("outputs", "returns"), &mask), e.tol(), e.name());

        let config = PpoConfig { advantages: Advantage::Remax, ..critic_free() };
        let kl = ragged_kl(&e);
        let greedy = baselines.iter().map(|&b| b as f32).collect();
        let a = advantages_with_kl(&scored(&kl, Some(greedy)), &kl, &[1.0; 4], &config).unwrap();
        compare(&flat(&a.advantages), &want, 1e-5, e.name());
    }
}

#[test]
fn masked_mean_and_variance() {
    let Some(entries) = entries("verl_masked_mean_var") else { return };
    for e in entries {
        let mask = e.mask();
        let x = masked(&e.input("values"), &mask);
        let (mean, std) = mean_and_std(&x);
        let out = |key| e.number("outputs", key).unwrap();
        // verl adds 1e-8 to the count.
        let tol = e.tol().max(1e-9);
        close(mean, out("mean"), tol, "mean");
        close(std * std, out("var"), tol, "unbiased variance");
        let mut whitened = x.clone();
        whiten(&mut whitened, WhitenVariance::Population, false).unwrap();
        for (w, x) in whitened.iter().zip(&x) {
            close(w * (out("var_biased") + 1e-8).sqrt() + out("mean"), *x, tol * 10.0, "population variance");
        }
        let rows: Vec<f64> = serde_json::from_value(e.0["outputs"]["mean_axis1"].clone()).unwrap();
        for (row, (values, mask)) in rows.iter().zip(e.input("values").iter().zip(&mask)) {
            let kept: Vec<f64> = values.iter().zip(mask).filter(|(_, m)| **m).map(|(x, _)| *x).collect();
            close(mean_and_std(&kept).0, *row, e.tol().max(2e-8), "mean of a row");
        }
    }
}

/// Loss and gradient of GSPO, GMPO and GPG, in f64 by the terms and in f32 by the rows.
#[test]
fn the_other_surrogates_of_verl() {
    let Some(entries) = entries("verl_policy_loss_g") else { return };
    let mut seen = 0;
    for e in entries {
        let function = e.0["function"].as_str().unwrap();
        let p = |key| e.number("params", key).unwrap();
        let clip = Clip { low: p("clip_ratio_low"), high: p("clip_ratio_high"), dual: None };
        let (ratio, surrogate, aggregation) = if function.contains("[gspo]") {
            (Ratio::Sequence, Surrogate::Clipped, Aggregation::SeqMeanTokenMean)
        } else if function.contains("[geo_mean]") {
            (Ratio::GeometricMean, Surrogate::Clipped, Aggregation::SeqMeanTokenMean)
        } else {
            (Ratio::Token, Surrogate::Reinforce, Aggregation::TokenMean)
        };
        seen += 1;
        let mask = e.mask();
        let n = lengths(&mask);
        let (new, old, adv) = (e.input("log_prob"), e.input("old_log_prob"), e.input("advantages"));
        let grads = e.matrix("grads", "log_prob");
        let totals = MinibatchTotals { rows: n.len(), tokens: n.iter().sum(), values: 0, value_rows: 0 };
        let want = e.number("outputs", "pg_loss").unwrap();
        let tol = e.tol().max(2e-8);

        let mut loss = 0.0;
        for i in 0..n.len() {
            let logs: Vec<f64> = (0..n[i]).map(|t| new[i][t] - old[i][t]).collect();
            let w = totals.token_weight(aggregation, n[i]);
            let terms: Vec<(f64, f64)> = match (ratio, surrogate) {
                (Ratio::Sequence, _) => {
                    let (shared, held) = sequence_log_ratio(&logs);
                    let of = |&a: &f64| {
                        let term = clipped_surrogate(shared, a, clip);
                        (term.loss, if held { 0.0 } else { term.grad })
                    };
                    adv[i][..n[i]].iter().map(of).collect()
                }
                (Ratio::GeometricMean, _) => geometric_surrogate(&logs, &adv[i][..n[i]], clip)
                    .iter()
                    .map(|term| (term.loss, term.grad))
                    .collect(),
                _ => (0..n[i]).map(|t| (-adv[i][t] * new[i][t], -adv[i][t])).collect(),
            };
            for (t, (of_token, grad)) in terms.iter().enumerate() {
                loss += w * of_token;
                close(w * grad, grads[i][t], tol, &format!("{} gradient [{i},{t}]", e.name()));
            }
        }
        close(loss, want, tol, e.name());
        let config = PpoConfig {
            clip_range: clip.low,
            clip_range_high: Some(clip.high),
            ratio,
            surrogate,
            aggregation,
            ..PpoConfig::default()
        };
        let Some(sums) = check_rows(&e, &config, &totals) else { continue };
        close(sums.means(1).policy_loss, want, 1e-5, e.name());
    }
    assert_eq!(seen, 12, "three surrogates × two inputs, in f64 and f32");
}

/// Every entry is read by one of the tests of this file, `main.rs` and `kl.rs`, which look for these prefixes.
#[test]
fn every_entry_has_a_test() {
    let Some(oracle) = oracle() else { return };
    let known = |file: &str, prefixes: &[(&str, usize)]| {
        let golden = json(&oracle.join("golden").join(file));
        let mut counts = vec![0; prefixes.len()];
        for entry in golden["entries"].as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            let longest = prefixes.iter().enumerate().filter(|(_, (p, _))| name.starts_with(p));
            let (at, _) =
                longest.max_by_key(|(_, (p, _))| p.len()).unwrap_or_else(|| panic!("{name} has no test"));
            counts[at] += 1;
        }
        let got: Vec<(&str, usize)> = prefixes.iter().zip(counts).map(|((p, _), n)| (*p, n)).collect();
        assert_eq!(got, prefixes, "{file}");
    };
    known(
        "ppo.json",
        &[
            ("verl_masked_whiten", 4),
            ("torchtune_whiten", 4),
            ("verl_masked_mean_var", 2),
            ("verl_gae", 16),
            ("openrlhf_gae", 2),
            ("openrlhf_cumulative_returns", 2),
            ("torchtune_estimate_advantages", 2),
            ("verl_grpo", 8),
            ("verl_rloo", 2),
            ("verl_reinforce_plus_plus", 4),
            ("verl_opo", 2),
            ("verl_remax", 2),
            ("verl_policy_loss", 64),
            ("openrlhf_PolicyLoss", 16),
            ("torchtune_PPOLoss", 2),
            ("verl_value_loss", 18),
            ("openrlhf_ValueLoss", 4),
            ("verl_entropy", 2),
        ],
    );
    known(
        "kl.json",
        &[
            ("verl_kl_penalty", 52),
            ("openrlhf_compute_approx_kl", 12),
            ("verl_compute_rewards", 2),
            ("openrlhf_compute_reward", 2),
            ("torchtune_get_rewards_ppo", 2),
        ],
    );
}
