//! The oracle's `golden/kl.json`: the KL penalty in the reward, and the gradient of its estimators in the loss. (Their
//! values are compared in `tetherline-kl`.)

use super::Entry;
use crate::common::{close, json, oracle};
use tetherline_ppo::{KlLoss, kl_term, shape_row};

fn entries() -> Option<Vec<Entry>> {
    let golden = json(&oracle()?.join("golden/kl.json"));
    Some(golden["entries"].as_array().unwrap().iter().cloned().map(Entry).collect())
}

fn row(e: &Entry, key: &str) -> Vec<f64> {
    serde_json::from_value(e.0["inputs"][key].clone()).unwrap()
}

/// verl's and OpenRLHF's gradients with respect to log π. Both clamp: verl k3 at ±20 and its value at ±10, OpenRLHF
/// everything at ±10; beyond a clamp their gradient is 0, and ours goes on.
#[test]
fn gradients_of_the_estimators_in_the_loss() {
    let Some(entries) = entries() else { return };
    let (mut compared, mut clamped, mut raised) = (0, 0, 0);
    for e in entries {
        let (form, bound) = match (e.text("params", "kl_penalty"), e.text("params", "kl_estimator")) {
            ("", "") => continue,
            _ if !e.0["outputs"].is_object() => {
                raised += 1;
                continue;
            }
            ("kl" | "k1", _) => (KlLoss::K1, f64::INFINITY),
            ("abs", _) => (KlLoss::Abs, f64::INFINITY),
            ("mse" | "k2", _) => (KlLoss::K2, f64::INFINITY),
            ("k3" | "low_var_kl", _) => (KlLoss::K3, 10.0),
            (_, "k1") => (KlLoss::K1, 10.0),
            (_, "k2") => (KlLoss::K2, 10.0),
            (_, "k3") => (KlLoss::K3, 10.0),
            other => panic!("new kind {other:?}"),
        };
        let peer_is_verl = e.0["peer"] == "verl";
        let (lp, rlp) = if peer_is_verl {
            (e.input("logprob"), e.input("ref_logprob"))
        } else {
            (e.input("log_probs"), e.input("log_probs_base"))
        };
        let (mask, grads) = (e.mask(), e.matrix("grads", "logprob"));
        // OpenRLHF computes in f32 whatever it is given.
        let tol = if e.is_f64() && peer_is_verl { 1e-10 } else { 1e-5 };
        for (i, t) in super::positions(&mask) {
            let l = lp[i][t] - rlp[i][t];
            let term = kl_term(form, l, 0.0);
            if term.loss.abs() > bound || l.abs() > 20.0 && form == KlLoss::K3 {
                assert_eq!(grads[i][t], 0.0, "{} [{i},{t}]: the peer's clamp", e.name());
                clamped += 1;
                continue;
            }
            close(term.grad, grads[i][t], tol, &format!("{} [{i},{t}]", e.name()));
            compared += 1;
        }
    }
    assert!(raised > 0 && clamped > 0 && compared > 20 * clamped, "{compared} {clamped} {raised}");
}

#[test]
fn the_penalty_in_the_reward() {
    let Some(entries) = entries() else { return };
    let mut seen = 0;
    for e in entries {
        let tol = e.tol();
        let number = |key| e.number("params", key).unwrap();
        let pair = |p: &str, r: &str, i: usize| -> Vec<f64> {
            e.input(p)[i].iter().zip(&e.input(r)[i]).map(|(p, r)| p - r).collect()
        };
        let check = |got: &[f64], want: &[f64]| {
            for (t, (g, w)) in got.iter().zip(want).enumerate() {
                close(*g, *w, tol, &format!("{} [{t}]", e.name()));
            }
        };
        match e.name() {
            "verl_compute_rewards" => {
                let scores = e.input("token_level_scores");
                for (i, want) in e.matrix("outputs", "out").iter().enumerate() {
                    let kl = pair("old_log_prob", "ref_log_prob", i);
                    let penalty = shape_row(&kl, None, number("kl_ratio"), 0.0, false);
                    let got: Vec<f64> = penalty.iter().zip(&scores[i]).map(|(p, s)| p + s).collect();
                    check(&got, want);
                }
            }
            "openrlhf_compute_reward" => {
                let (kl, scores) = (e.input("kl"), row(&e, "r"));
                let range: Vec<f64> =
                    serde_json::from_value(e.0["params"]["reward_clip_range"].clone()).unwrap();
                for (i, (want, mask)) in
                    e.matrix("outputs", "out").iter().zip(e.input("action_mask")).enumerate()
                {
                    let n = mask.iter().filter(|&&m| m != 0.0).count();
                    let score = scores[i].clamp(range[0], range[1]);
                    check(&shape_row(&kl[i][..n], None, number("kl_coef"), score, false), &want[..n]);
                }
            }
            "torchtune_get_rewards_ppo" => {
                let (scores, places) = (row(&e, "scores"), row(&e, "valid_score_idxs"));
                for (i, want) in e.matrix("outputs", "total").iter().enumerate() {
                    let kl = pair("logprobs", "ref_logprobs", i);
                    let n = places[i] as usize + 1;
                    // The score is at the last token that the mask keeps; what follows carries the penalty alone.
                    let mut got = shape_row(&kl[..n], None, number("kl_coeff"), scores[i], false);
                    got.extend(shape_row(&kl[n..], None, number("kl_coeff"), 0.0, false));
                    check(&got, want);
                }
            }
            _ => continue,
        }
        seen += 1;
    }
    assert_eq!(seen, 6);
}
