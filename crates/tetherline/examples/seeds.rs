//! Learning curves over seeds, beside TRL's, and which implementation details matter: `docs/experiments/seeds.md`.
//!
//! ```text
//! cargo run --release -p tetherline --example seeds -- --docs
//! ```
//!
//! Needs stories260k and TRL's runs, which lie in the oracle (`CONTRIBUTING.md`); says so where it is missing.
//! The task is the embedded recipe `word-reward`: min(5, hits of five happy words) in 48 tokens after one of 64 openings,
//! 64 responses a step. Equal settings are those of TRL's run; what an ablation changes is in `ABLATIONS`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an experiment that prints tables and progress"
)]

mod stories;
#[expect(dead_code, reason = "shared with the other experiments")]
mod support;

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use stories::{BATCH, Curve, Number, Setting, Stories};
use support::Args;
use support::figure::{Panel, Series, Style};
use support::page::{bounds, change, table};
use support::runs::run_all;
use tetherline_core::BoxError;

/// β of the runs at equal settings; TRL has two seeds of 0.05 and one of each other.
const BETAS: [&str; 3] = ["0.05", "0", "0.5"];

/// Our settings, as in `benches/src/time_to_reward.rs`, over as many steps as TRL; chosen on other seeds (100 to 103).
const OURS: &[(&str, &str)] = &[
    ("ppo.epochs", "1"),
    ("ppo.minibatches", "8"),
    ("ppo.lr", "1.2e-4"),
    ("ppo.lam", "1.0"),
    ("ppo.score_at", "last_token"),
    ("kl.fixed.init", "0.1"),
];

/// One change each from the equal settings with β = 0.05: what it is called, and what it sets.
const ABLATIONS: &[(&str, &[(&str, &str)])] = &[
    ("Adam ε 1e-5, not 1e-8", &[("ppo.adam_eps", "1e-5")]),
    ("advantages not whitened", &[("ppo.whiten_advantages", "false")]),
    ("shared value head", &[("model.value", "shared")]),
    ("1 epoch of 4 minibatches", &[("ppo.epochs", "1"), ("ppo.minibatches", "4")]),
    ("λ 1, not 0.95", &[("ppo.lam", "1")]),
    ("rewards whitened", &[("ppo.whiten_rewards", "true")]),
    ("values not clipped", &[("ppo.value_clip_range", "0")]),
    ("linear rate", &[("ppo.lr_schedule", "linear")]),
    ("score at the last token", &[("ppo.score_at", "last_token")]),
    ("1 epoch", &[("ppo.epochs", "1")]),
    ("rate 3e-4, not 1e-4", &[("ppo.lr", "3e-4")]),
    ("rate 3e-4 and Adam ε 1e-5", &[("ppo.lr", "3e-4"), ("ppo.adam_eps", "1e-5")]),
    ("gradient norm at most 1", &[("ppo.max_grad_norm", "1")]),
    ("value loss × 1, not 0.1", &[("ppo.vf_coef", "1")]),
    ("temperature 0.7, not 1", &[("sampling.temperature", "0.7")]),
    ("k3 in the reward, not k1", &[("ppo.kl_reward", "k3"), ("ppo.kl_wrong_gradient", "accept")]),
];

/// Steps of an ablation. (At a constant rate a run of 24 steps is the beginning of one of 40.)
const ABLATION_STEPS: u64 = 24;

/// KL at which rewards are compared, nats per sequence; and the reward to count samples to.
const AT_KL: [f64; 3] = [10.0, 15.0, 20.0];
const REWARD: f64 = 4.0;

fn row(setting: &Setting) -> Vec<String> {
    vec![
        setting.name.clone(),
        setting.curves.len().to_string(),
        setting.cell(|c| c.end().0),
        setting.cell(|c| c.end().1),
        setting.cell(|c| c.score_at(AT_KL[0])),
        setting.cell(|c| c.score_at(AT_KL[1])),
        setting.cell(|c| c.score_at(AT_KL[2])),
        setting.cell(|c| c.reaches(REWARD).0),
        setting.cell(|c| c.reaches(REWARD).1),
    ]
}

/// Over samples: the mean of the seeds and its interval; of fewer than three seeds the mean alone.
fn series(setting: &Setting, of: fn(&Curve) -> &Vec<f64>, style: Style) -> Series {
    let steps = setting.steps(of);
    let points = steps.iter().enumerate().map(|(i, s)| (BATCH * (i + 1) as f64, s.0)).collect();
    let series = Series::new(&setting.name, style, points);
    if setting.curves.len() < 3 { series } else { series.y_interval(steps.iter().map(|s| s.1).collect()) }
}

fn main() -> Result<(), BoxError> {
    let args = Args::parse("seeds", 5)?;
    let Some(stories) = Stories::open(&args.out)? else { return Ok(()) };
    let steps = if args.quick { 2 } else { args.steps.unwrap_or(40) };
    let seeds = if args.quick { 2 } else { args.seeds };
    let mut jobs = Vec::new();
    let mut settings: Vec<(String, u64)> = Vec::new();
    let mut plan = |name: String, key: &str, seeds: u64, steps: u64, sets: &[(&str, &str)]| {
        jobs.extend((0..seeds).map(|seed| stories.job(key, seed, steps, sets)));
        settings.push((name, seeds));
    };
    for beta in BETAS {
        let name = format!("equal settings, β {beta}");
        plan(name, &format!("equal-{beta}"), seeds, steps, &[("kl.fixed.init", beta)]);
    }
    plan("our settings, β 0.1".to_owned(), "ours", seeds, steps, OURS);
    for (name, sets) in ABLATIONS.iter().take(if args.quick { 1 } else { ABLATIONS.len() }) {
        let key: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        plan((*name).to_owned(), &key, seeds, steps.min(ABLATION_STEPS), sets);
    }
    let mut logs = run_all(&jobs, &args.out, args.jobs)?.into_iter();
    let mut found: Vec<Setting> = Vec::new();
    for (name, seeds) in settings {
        let curves = logs.by_ref().take(seeds as usize).map(|log| Curve::of(&log)).collect();
        found.push(Setting { name, curves });
    }
    report(&args, &found, &trl(&stories.oracle)?)
}

/// TRL's curves by β.
fn trl(oracle: &Path) -> Result<Vec<Setting>, BoxError> {
    let read = |name: &str| -> Result<Curve, BoxError> {
        let text = std::fs::read_to_string(oracle.join("peers_ppo_run").join(name))?;
        let log: Value = serde_json::from_str::<Value>(&text)?["log"].take();
        let column = |key: &str| -> Vec<f64> {
            log.as_array().into_iter().flatten().map(|e| e[key].as_f64().unwrap_or(f64::NAN)).collect()
        };
        Ok(Curve { score: column("mean_reward"), kl: column("kl_seq_k1") })
    };
    let files: [&[&str]; 3] =
        [&["run_kl0.05.json", "run_kl0.05_seed1.json"], &["run_kl0.0.json"], &["run_kl0.5.json"]];
    let setting = |(beta, names): (&&str, &&[&str])| {
        let curves = names.iter().map(|name| read(name)).collect::<Result<_, _>>()?;
        Ok(Setting { name: format!("TRL, β {beta}"), curves })
    };
    BETAS.iter().zip(&files).map(setting).collect()
}

fn report(args: &Args, found: &[Setting], trl: &[Setting]) -> Result<(), BoxError> {
    let (equal, rest) = found.split_at(BETAS.len());
    let (ours, ablations) = rest.split_at(1);
    let (ours, base) = (&ours[0], &equal[0]);
    let head = [
        "settings",
        "seeds",
        "reward at the end",
        "KL there",
        "reward at KL 10",
        "reward at KL 15",
        "reward at KL 20",
        "samples to reward 4",
        "KL there",
    ];
    let mut rows: Vec<Vec<String>> = equal.iter().zip(trl).flat_map(|(e, t)| [row(t), row(e)]).collect();
    rows.push(row(ours));
    let mut text = format!("### Curves\n\n{}\n", table(&head, &rows));
    let paired = |s: &Setting, of: &dyn Fn(&Curve) -> f64| -> Vec<f64> {
        let pair = |(a, b): (&Curve, &Curve)| of(a) - of(&b.until(a.score.len()));
        s.curves.iter().zip(&base.curves).map(pair).filter(|x| x.is_finite()).collect()
    };
    let columns: [(&str, Number<'_>); 4] = [
        ("reward at the end", &|c| c.end().0),
        ("KL at the end", &|c| c.end().1),
        ("reward at KL 10", &|c| c.score_at(AT_KL[0])),
        ("samples to reward 3", &|c| c.reaches(3.0).0),
    ];
    // Fewer pairs than seeds where a seed never got there.
    let difference = |s: &Setting, of: Number<'_>| -> String {
        let pairs = paired(s, of);
        let fewer =
            if pairs.len() < s.curves.len() { format!(" ({} pairs)", pairs.len()) } else { String::new() };
        change(&pairs) + &fewer
    };
    let less = |of: Number<'_>| difference(ours, of);
    let _ = writeln!(
        text,
        "Our settings less the equal ones with β 0.05, paired by seed: reward at KL 10 {}, at KL 15 {}, at KL 20 {}; \
         samples to reward 4 {}, KL there {}.\n",
        less(&|c| c.score_at(AT_KL[0])),
        less(&|c| c.score_at(AT_KL[1])),
        less(&|c| c.score_at(AT_KL[2])),
        less(&|c| c.reaches(REWARD).0),
        less(&|c| c.reaches(REWARD).1)
    );
    let changed = |s: &Setting| -> Vec<String> {
        let cells = columns.iter().map(|(_, of)| difference(s, of));
        [s.name.clone(), s.curves.len().to_string()].into_iter().chain(cells).collect()
    };
    let head: Vec<&str> =
        ["change", "pairs of seeds"].into_iter().chain(columns.iter().map(|c| c.0)).collect();
    let _ = writeln!(text, "![Learning curves](seeds-curves.svg)\n\n### Details\n");
    let rows: Vec<Vec<String>> = ablations.iter().map(changed).collect();
    let _ = writeln!(text, "{}\n![What each change makes of it](seeds-details.svg)", table(&head, &rows));

    let mut curves = Vec::new();
    for (title, of) in [("Reward", (|c| &c.score) as fn(&Curve) -> &Vec<f64>), ("KL", |c| &c.kl)] {
        let unit = if title == "KL" { "nats per sequence" } else { "mean score, at most 5" };
        let mut panel = Panel::new(&format!("{title}: ours and TRL's (dashed)"), "samples", unit);
        for (i, (e, t)) in equal.iter().zip(trl).enumerate() {
            panel =
                panel.with(series(e, of, Style::Line).colour(i)).with(series(t, of, Style::Dashed).colour(i));
        }
        curves.push(panel.with(series(ours, of, Style::Line).colour(3)));
    }
    let line = |s: &Setting, style| Series::new(&s.name, style, s.frontier());
    let mut frontier = Panel::new("Reward against KL", "KL, nats per sequence", "mean score");
    for (i, (e, t)) in equal.iter().zip(trl).enumerate().take(2) {
        frontier = frontier.with(line(e, Style::Line).colour(i)).with(line(t, Style::Dashed).colour(i));
    }
    curves.push(frontier.with(line(ours, Style::Line).colour(3)));

    let names: Vec<String> = ablations.iter().map(|s| s.name.clone()).collect();
    let forest = |title: &str, unit: &str, of: &dyn Fn(&Curve) -> f64| {
        let found: Vec<(f64, (f64, f64))> = ablations.iter().map(|s| bounds(&paired(s, of))).collect();
        let dots = found.iter().enumerate().map(|(i, b)| (b.0, i as f64)).collect();
        let zero = vec![(0.0, -0.5), (0.0, names.len() as f64 - 0.5)];
        Panel::new(title, unit, "")
            .rows(names.clone())
            .with(Series::new("", Style::Dashed, zero).colour(7))
            .with(
                Series::new("", Style::Dots, dots).x_interval(found.iter().map(|b| b.1).collect()).colour(0),
            )
    };
    let details = vec![
        forest("Change of the reward at the end", "score", columns[0].1),
        forest("Change of the KL at the end", "nats per sequence", columns[1].1),
        forest("Change of the reward at KL 10", "score", columns[2].1),
        forest("Change of the samples to reward 3", "samples", columns[3].1),
    ];
    let numbers = json!({"trl": trl.iter().map(Setting::json).collect::<Vec<_>>(),
        "found": found.iter().map(Setting::json).collect::<Vec<_>>()});
    let figures = vec![("seeds-curves".to_owned(), curves), ("seeds-details".to_owned(), details)];
    support::page::write(args, "seeds", &text, &numbers, &figures)
}
