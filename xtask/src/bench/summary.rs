//! What no single work shows: memory, start-up, the second core, the share of the matrix-product peak.

use super::results::Results;
use super::table::{Other, PEER, grid, is_quiet, short, verdict, work_of};
use super::works::{GEMM_SHARE, MEMORY, SECOND_CORE, STARTUP_S, STEP_TOKENS, Unit, WORKS};
use serde_json::Value;

/// Prints the summary of a model; `about` is its `model.json`.
pub(super) fn print(results: &Results, model: &str, about: &Value, threads: &[usize], other: Other) {
    let m = usize::from(model == "M");
    let goals = other.side == PEER.side;
    let their_ppo = if goals { "ppo.py" } else { "ppo" };
    let mut rows: Vec<[String; 6]> = Vec::new();
    let row = |what: &str, n: String, theirs: Option<f64>, ours: String, ratio: Option<f64>, goal: String| {
        [
            what.to_owned(),
            n,
            theirs.map_or_else(String::new, short),
            ours,
            ratio.map_or_else(String::new, |r| format!("{}×", short(r))),
            if goals { goal } else { String::new() },
        ]
    };
    for &n in threads {
        let of = |side: &str, work: &str, key: &str| Some(results.spread(model, n, side, work, key)?.median);
        for (what, work) in [("memory of PPO, MiB", "ppo"), ("  best settings", "ppo-best")] {
            let Some(ours) = of("ours", work, "peak_mib") else { continue };
            let theirs = of(other.side, if goals { their_ppo } else { work }, "peak_mib");
            let ratio = theirs.map(|t| t / ours);
            let goal = verdict(&format!("≥{}×", MEMORY[m]), ratio.map(|r| r >= MEMORY[m]), true);
            rows.push(row(what, n.to_string(), theirs, short(ours), ratio, goal));
        }
        let quiet = |work| is_quiet(&[results.load(model, n, "ours", work)]);
        if let Some(ours) = of("ours", "ppo", "startup_s") {
            let theirs = of(other.side, their_ppo, "startup_s");
            let goal = verdict(&format!("≤{} s", STARTUP_S[m]), Some(ours <= STARTUP_S[m]), quiet("ppo"));
            let what = "start to first PPO step, s";
            rows.push(row(what, n.to_string(), theirs, short(ours), theirs.map(|t| t / ours), goal));
        }
    }
    if threads.contains(&1) && threads.contains(&2) {
        for work in WORKS.iter().filter(|w| !w.again) {
            for metric in work.metrics.iter().filter(|metric| metric.goal.is_some()) {
                let gain = |side: &str, work: &str| {
                    let of = |n| Some(results.spread(model, n, side, work, metric.key)?.median);
                    let (one, two) = (of(1)?, of(2)?);
                    Some(if metric.unit.is_rate() { two / one } else { one / two })
                };
                let Some(ours) = gain("ours", metric.ours) else { continue };
                let theirs = work_of(other, work, metric).and_then(|w| gain(other.side, w));
                let quiet = is_quiet(&[1, 2].map(|n| results.load(model, n, "ours", metric.ours)));
                let goal = verdict(&format!("≥{}×", SECOND_CORE[m]), Some(ours >= SECOND_CORE[m]), quiet);
                let what = format!(
                    "second core: {}",
                    if work.metrics.len() == 1 {
                        work.name.to_owned()
                    } else {
                        format!("{}, {}", work.name, metric.label)
                    }
                );
                rows.push(row(&what, "2 : 1".to_owned(), theirs, short(ours), None, goal));
            }
        }
    }
    for &n in threads {
        let of = |side: &str, work: &str, key: &str| Some(results.spread(model, n, side, work, key)?.median);
        let best = |side: &str, work: &str, key: &str| Some(results.spread(model, n, side, work, key)?.max);
        let operations = about["matmul_params"].as_f64().unwrap_or(0.0) * 6.0 * STEP_TOKENS;
        let rate = |seconds: f64| operations * 1e-9 / seconds;
        let Some(ours) = of("ours", "train-step", "step_s").map(rate) else { continue };
        let theirs = of(other.side, if goals { "train_step.py" } else { "train-step" }, "step_s").map(rate);
        let quiet = is_quiet(&[results.load(model, n, "ours", "train-step")]);
        rows.push(row("training step, GFLOP/s", n.to_string(), theirs, short(ours), None, String::new()));
        let gemm = best("peer", "train_step.py", "gemm_gflops");
        let registers = best("ours", "gemm-peak", "fma_gflops");
        let peaks = [("of torch's fastest GEMM", gemm), ("of multiply-adds in registers", registers)];
        for (i, (what, peak)) in peaks.into_iter().enumerate() {
            let Some(peak) = peak else { continue };
            let share = |rate: f64| 100.0 * rate / peak;
            let wanted = GEMM_SHARE[m];
            let is_goal = gemm.is_none() || i == 0;
            let goal = verdict(&format!("≥{} %", 100.0 * wanted), Some(ours >= wanted * peak), quiet);
            let goal = if is_goal { goal } else { String::new() };
            let what = format!("  % {what}, {} {}", short(peak), Unit::Gflops.name());
            rows.push(row(&what, n.to_string(), theirs.map(share), short(share(ours)), None, goal));
        }
    }
    if rows.is_empty() {
        return;
    }
    println!("\n{model}: memory, start-up, second core, share of the matrix-product peak");
    let heads = ["medians", "thr", other.heading, "ours", "ratio", if goals { "goal" } else { "" }];
    grid(&heads.map(str::to_owned), &rows);
}
