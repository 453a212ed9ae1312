//! The oracle's `golden/reward.json`: TRL's `RewardTrainer.compute_loss` and OpenRLHF's `PairWiseLoss`,
//! losses and gradients, in f64 and f32, with and without margin and centring, up to scores of ±100.
//! And the word-count reward of `peers_ppo_run` on the texts stored there.

#![expect(clippy::unwrap_used, reason = "a test helper may fail the test")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use tetherline_reward::{
    KeywordConfig, KeywordRule, PairTarget, Ranking, RankingTarget, batch_loss, pair_loss, ranking_loss,
};

#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
fn oracle() -> Option<PathBuf> {
    let path = std::env::var_os("TETHER_ORACLE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle"), PathBuf::from);
    if path.join("golden").is_dir() {
        return Some(path);
    }
    eprintln!("SKIPPED: oracle not found at {} (set TETHER_ORACLE)", path.display());
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

#[track_caller]
fn close(got: f64, want: f64, tol: f64, what: &str) {
    assert!((got - want).abs() <= tol * want.abs().max(1.0), "{what}: got {got}, golden {want}");
}

#[test]
fn pairwise_losses_and_gradients() {
    let Some(oracle) = oracle() else { return };
    let golden = json(&oracle.join("golden/reward.json"));
    let entries = golden["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 32);
    for e in entries {
        let name = e["name"].as_str().unwrap();
        let chosen = numbers(&e["inputs"]["chosen"]).unwrap();
        let rejected = numbers(&e["inputs"]["rejected"]).unwrap();
        let margins = numbers(&e["inputs"]["margin"]);
        let center = e["params"]["center_rewards_coefficient"].as_f64().unwrap_or(0.0);
        let d_chosen = numbers(&e["grads"]["chosen"]).unwrap();
        let d_rejected = numbers(&e["grads"]["rejected"]).unwrap();
        let want = e["outputs"]["loss"].as_f64().unwrap();
        let n = chosen.len();

        if e["dtype"] == "f64" {
            let mut loss = 0.0;
            for i in 0..n {
                let margin = margins.as_ref().map_or(0.0, |m| m[i]);
                let target = PairTarget { margin, center, ..PairTarget::default() };
                let pair = pair_loss(chosen[i], rejected[i], &target);
                if margins.is_none() {
                    let t = RankingTarget {
                        ranks: &[1, 2],
                        lengths: &[],
                        smoothing: 0.0,
                        center,
                        kind: Ranking::PlackettLuce,
                    };
                    let (of_two, grad) = ranking_loss(&[chosen[i], rejected[i]], &t);
                    close(of_two, pair.loss, 1e-12, name);
                    close(grad[0] / n as f64, d_chosen[i], 1e-10, name);
                    close(grad[1] / n as f64, d_rejected[i], 1e-10, name);
                }
                loss += pair.loss / n as f64;
                close(pair.d_chosen / n as f64, d_chosen[i], 1e-10, name);
                close(pair.d_rejected / n as f64, d_rejected[i], 1e-10, name);
            }
            close(loss, want, 1e-10, name);
            continue;
        }
        let narrow = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (c, r, m) = (narrow(&chosen), narrow(&rejected), margins.as_deref().map(narrow));
        let batch = batch_loss(&c, &r, m.as_deref(), center, n).unwrap();
        close(batch.loss, want, 1e-5, name);
        for i in 0..n {
            close(f64::from(batch.d_chosen[i]), d_chosen[i], 1e-6, name);
            close(f64::from(batch.d_rejected[i]), d_rejected[i], 1e-6, name);
        }
        if let Some(accuracy) = e["outputs"]["accuracy"].as_f64() {
            // TRL counts a tie as wrong, we as half.
            let ties = c.iter().zip(&r).filter(|(c, r)| c == r).count() as f64;
            close((batch.correct - 0.5 * ties) / n as f64, accuracy, 1e-6, name);
        }

        // Two micro-batches are the batch.
        let cut = n / 2;
        let half = |range: std::ops::Range<usize>| {
            let m = m.as_ref().map(|m| &m[range.clone()]);
            batch_loss(&c[range.clone()], &r[range.clone()], m, center, n).unwrap()
        };
        let (a, b) = (half(0..cut), half(cut..n));
        close(a.loss + b.loss, batch.loss, 1e-12, name);
        assert_eq!([a.d_chosen, b.d_chosen].concat(), batch.d_chosen, "{name}");
    }
}

/// Expected counts: `min(5, sum(t.lower().count(w) for w in WORDS))` in Python, as the peer's script has it.
#[test]
fn the_word_count_rule_on_the_peers_texts() {
    let Some(oracle) = oracle() else { return };
    let rule: KeywordConfig =
        toml::from_str("words = [\"happy\", \"smile\", \"laugh\", \"love\", \"joy\"]\ncap = 5").unwrap();
    let rule = KeywordRule::new(rule);
    let run = json(&oracle.join("peers_ppo_run/run_kl0.05.json"));
    let counts: Vec<Vec<f64>> = run["log"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["samples_text"].as_array())
        .map(|texts| texts.iter().map(|t| t.as_str().unwrap().split_once(" || ").unwrap().1))
        .map(|responses| responses.map(|text| rule.score_text(text)).collect())
        .collect();
    let python = [[2., 0., 0.], [2., 2., 3.], [5., 4., 4.], [3., 5., 4.], [4., 3., 2.]];
    assert_eq!(counts, python);
}
