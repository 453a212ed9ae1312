//! `tether plan` beside what runs then take: peak memory within 20 %, where the system reports it.
//!
//! The embedded model (1.1 million parameters) is large enough that its weights, panels and caches outweigh the program.
//! Seconds are shown and not judged: they are those of the machine, as busy as it is.

use super::checks::Checks;
use super::tether::{Running, Tether, args};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

/// The largest part by which a prediction may be off.
const OFF: f64 = 0.2;

/// What is decided otherwise, as `--set`s.
const CHOICES: [&[&str]; 7] = [
    &[],
    &["model.value=shared"],
    &["model.value=shared", "model.gradient_checkpointing=true", "model.dtype=bf16"],
    &["model.adapter.rank=8"],
    &["model.freeze_layers=2", "kl.reference.ema.rate=0.05"],
    &["cost={ limit = 1.0, rule = [{ keyword = { words = ['order'] } }] }"],
    &["dpo={ steps = 5, batch_size = 16 }", "data.pairs=pairs.jsonl"],
];

const RECIPE: &str = "
[model]
policy = \"frontdesk\"
[data]
prompts = \"prompts.jsonl\"
[reward]
model_weight = 0
[[reward.rule]]
keyword = { words = [\"thanks\"] }
[sampling]
max_new_tokens = 48
ignore_eos = true
[ppo]
steps = 5
batch_size = 32
epochs = 1
lr = 1e-6
[kl.fixed]
init = 0.1
[eval]
prompts = 0
";

/// Checks plans against runs.
pub(super) fn check(checks: &mut Checks, tether: &Tether) {
    if !cfg!(target_os = "linux") {
        checks.skip("plan", "the system does not report the peak memory of a process in /proc");
        return;
    }
    for sets in CHOICES {
        let name = if sets.is_empty() { "as declared".to_owned() } else { sets.join(" ") };
        checks.check(&format!("plan: peak memory, {name}"), || choice(tether, sets));
    }
    checks.check("plan: a device whose memory is not known is refused", || {
        let recipe = write(tether)?;
        // A build without the device says so; one with it says that the plan is for the CPU.
        tether.run(&args!["plan", recipe, "--set", "device=graph"])?.expect_error(&["device"])
    });
}

fn write(tether: &Tether) -> Result<OsString> {
    let prompts: String = (3..40)
        .map(|n| format!("{{\"prompt\": \"{}\"}}\n", "where is my order ".repeat(n % 6 + 1)))
        .collect();
    fs::write(tether.path("prompts.jsonl"), prompts)?;
    let pairs: String = (0..64)
        .map(|n| {
            let (prompt, answer) = ("where is my order ", "it is on its way ".repeat(n % 4 + 1));
            format!("{{\"prompt\": \"{prompt}{n}\", \"chosen\": \"{answer}\", \"rejected\": \"no {n}\"}}\n")
        })
        .collect();
    fs::write(tether.path("pairs.jsonl"), pairs)?;
    let path = tether.path("plan.toml");
    fs::write(&path, RECIPE)?;
    Ok(path.into())
}

fn choice(tether: &Tether, sets: &[&str]) -> Result<()> {
    let recipe = write(tether)?;
    let with = |mut words: Vec<OsString>| {
        words.extend(sets.iter().flat_map(|s| [OsString::from("--set"), OsString::from(s)]));
        words
    };
    let text = tether.ok(&with(args!["plan", recipe, "--json"]))?;
    let plan: Value = serde_json::from_str(text.trim()).context("plan --json")?;
    let predicted = plan["peak_bytes"].as_f64().context("peak_bytes")?;
    let out = tether.path("plan-run");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let running = tether.spawn(&with(args!["run", recipe, "--out", out]))?;
    let peak = peak_of(running)?;
    let sum = |of: &Value, keys: [&str; 3]| keys.iter().filter_map(|k| of[*k].as_f64()).sum::<f64>();
    let mut seconds = Vec::new();
    // DPO logs no times.
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    for line in metrics.lines() {
        let step: Value = serde_json::from_str(line)?;
        seconds.push(sum(&step, ["time/rollout_s", "time/score_s", "time/update_s"]));
    }
    seconds.sort_by(f64::total_cmp);
    let time = seconds.get(seconds.len() / 2).map(|measured| {
        let said = sum(&plan["step"], ["rollout", "scoring", "update"]);
        format!(
            "; {said:.2} s per step predicted, {measured:.2} s measured ({:+.0} %)",
            100.0 * (said / measured - 1.0)
        )
    });
    println!(
        "          {:.0} MB predicted, {:.0} MB measured{}",
        predicted / 1e6,
        peak / 1e6,
        time.unwrap_or_default()
    );
    let off = predicted / peak - 1.0;
    if off.abs() > OFF {
        bail!(
            "predicted {predicted:.0} bytes, measured {peak:.0}: off by {:.0} %\n{}",
            100.0 * off,
            plan["memory"]
        );
    }
    Ok(())
}

/// Runs to the end; the peak of its resident memory, bytes.
fn peak_of(mut running: Running) -> Result<f64> {
    let file = format!("/proc/{}/status", running.child.id());
    let mut peak = None;
    while running.child.try_wait()?.is_none() {
        // An ended process has none any more: the last one read stands.
        let status = fs::read_to_string(&file).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        peak = kilobytes.map(|k| 1024.0 * k).or(peak);
        std::thread::sleep(Duration::from_millis(2));
    }
    running.wait()?.expect_success()?;
    peak.context("the process was over before its memory could be read")
}
