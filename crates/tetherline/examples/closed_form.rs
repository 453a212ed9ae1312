//! Does PPO with k1 in the reward end where the theory says? `docs/experiments/closed-form.md`.
//!
//! ```text
//! cargo run --release -p tetherline --example closed_form -- --docs
//! ```
//!
//! A language model of 16 tokens (`letters/mod.rs`) is trained by the recipe's PPO at five β on responses of one and of two
//! tokens. Afterwards its distribution is written out and compared with π* ∝ π_ref·e^{r/β}.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an experiment that prints tables and progress"
)]

mod letters;
#[expect(dead_code, reason = "shared with the other experiments")]
mod support;

use letters::{World, kl, mean, optimum, total_variation};
use serde_json::{Value, json};
use std::fmt::Write as _;
use support::Args;
use support::figure::{Panel, Series, Style};
use support::page::{bounds, over_seeds, table};
use support::runs::{Job, curve, last, run_all};
use tetherline_core::{BoxError, Metrics};

/// Largest first.
const BETAS: [f64; 5] = [4.0, 2.0, 1.0, 0.5, 0.25];

/// One change each, to see which of them are needed; on two tokens with β = 0.5.
const CHANGES: &[(&str, &[(&str, &str)])] = &[
    ("none", &[]),
    ("advantages whitened", &[("ppo.whiten_advantages", "true")]),
    ("constant rate", &[("ppo.lr_schedule", "constant")]),
    ("λ 0.95", &[("ppo.lam", "0.95")]),
    ("value loss × 0.1", &[("ppo.vf_coef", "0.1")]),
    ("values clipped at 0.2", &[("ppo.value_clip_range", "0.2")]),
    ("gradient norm at most 1", &[("ppo.max_grad_norm", "1")]),
    ("4 epochs", &[("ppo.epochs", "4")]),
    ("batch of 64", &[("ppo.batch_size", "64"), ("ppo.samples_per_prompt", "64")]),
    ("rate 3e-4", &[("ppo.lr", "3e-4")]),
    ("Adam ε 1e-8", &[("ppo.adam_eps", "1e-8")]),
    (
        "the recipe's defaults, batch and rate apart",
        &[
            ("ppo.epochs", "4"),
            ("ppo.lam", "0.95"),
            ("ppo.whiten_advantages", "true"),
            ("ppo.value_clip_range", "0.2"),
            ("ppo.vf_coef", "0.1"),
            ("ppo.max_grad_norm", "1"),
        ],
    ),
];
const CHANGES_BETA: f64 = 0.5;

/// The smallest β again, on two tokens: β falls from the largest over half of the run.
const LOWERED: &str = "{ schedule = { init = 4.0, end = 0.25, steps = STEPS, shape = 'geometric' } }";

const CHANGES_SEEDS: u64 = 3;

/// What counts as the optimum: total variation, and the KL's distance from KL*.
const GOALS: (f64, f64) = (0.02, 0.03);

/// Points, and the interval of y at each.
type Dots = (Vec<(f64, f64)>, Vec<(f64, f64)>);

/// A policy beside the optimum.
struct End {
    beta: f64,
    tv: f64,
    kl: f64,
    kl_best: f64,
    /// J* − J(π) and β·KL(π ‖ π*), which are the same number.
    gap: f64,
    beta_kl: f64,
    /// KL as the run logged it, mean over the last 50 steps.
    logged: f64,
}

impl End {
    fn of(world: &World, policy: &[f64], beta: f64, log: &[Metrics]) -> Self {
        let (best, j) = optimum(&world.reference, &world.reward, beta);
        let kl_own = kl(policy, &world.reference);
        Self {
            beta,
            tv: total_variation(policy, &best),
            kl: kl_own,
            kl_best: kl(&best, &world.reference),
            gap: j - (mean(policy, &world.reward) - beta * kl_own),
            beta_kl: beta * kl(policy, &best),
            logged: last(log, "objective/kl_exact", 50),
        }
    }

    fn off(&self) -> f64 {
        self.kl / self.kl_best - 1.0
    }

    fn json(&self) -> Value {
        json!({"beta": self.beta, "tv": self.tv, "kl": self.kl, "kl_best": self.kl_best, "gap": self.gap,
            "beta_kl": self.beta_kl, "logged_kl": self.logged})
    }
}

fn main() -> Result<(), BoxError> {
    let args = Args::parse("closed_form", 5)?;
    let steps = if args.quick { 20 } else { args.steps.unwrap_or(800) };
    let seeds = if args.quick { 1 } else { args.seeds };
    let mut text = String::new();
    let mut numbers = Vec::new();
    let mut against = Panel::new("KL to the reference", "β", "nats per response").log_x().log_y();
    let mut tv = Panel::new("Total variation to the optimum", "β", "").log_x().log_y();
    let mut last_world = None;
    for tokens in [1, 2] {
        let world = World::new(&args.out.join("world"), tokens)?;
        let recipe = world.recipe()?;
        let job = |(beta, seed): (f64, u64)| {
            Job::new(format!("tokens{tokens}-beta{beta}-{seed}"), &recipe, letters::SETTINGS)
                .set("kl.fixed.init", beta)
                .set("seed", seed)
                .set("ppo.steps", steps)
        };
        let grid: Vec<(f64, u64)> = BETAS.iter().flat_map(|b| (0..seeds).map(|s| (*b, s))).collect();
        let jobs: Vec<Job> = grid.iter().copied().map(job).collect();
        let logs = run_all(&jobs, &args.out, args.jobs)?;
        let mut ends = Vec::new();
        for ((job, (beta, _)), log) in jobs.iter().zip(&grid).zip(&logs) {
            world.check_samples(&job.dir(&args.out))?;
            let policy = world.distribution(&job.dir(&args.out).join("policy"))?;
            ends.push(End::of(&world, &policy, *beta, log));
        }
        let by_beta: Vec<&[End]> = ends.chunks(seeds as usize).collect();
        writeln!(text, "### Responses of {}\n\n{}", ["one token", "two tokens"][tokens - 1], rows(&by_beta))?;
        numbers.push(json!({"tokens": tokens, "steps": steps, "reference": world.reference,
            "reward": world.reward, "runs": ends.iter().map(End::json).collect::<Vec<_>>()}));
        let names = ["one token", "two tokens"];
        let colour = tokens - 1;
        let curve_of = |of: fn(&End) -> f64| -> Dots {
            let b = by_beta.iter().map(|e| (e[0].beta, bounds(&e.iter().map(of).collect::<Vec<_>>())));
            b.map(|(beta, (mean, interval))| ((beta, mean), interval)).unzip()
        };
        let theory = (0..=60).map(|i| 0.2 * 25_f64.powf(f64::from(i) / 60.0));
        let theory =
            theory.map(|b| (b, kl(&optimum(&world.reference, &world.reward, b).0, &world.reference)));
        let (points, interval) = curve_of(|e| e.kl);
        against = against
            .with(
                Series::new(&format!("{}: theory", names[colour]), Style::Dashed, theory.collect())
                    .colour(colour),
            )
            .with(
                Series::new(&format!("{}: trained", names[colour]), Style::Dots, points)
                    .y_interval(interval)
                    .colour(colour),
            );
        let (points, _) = curve_of(|e| e.tv);
        tv = tv.with(Series::new(names[colour], Style::LineDots, points).colour(colour));
        last_world = Some((world, jobs, logs));
    }
    let goal = vec![(BETAS[BETAS.len() - 1], GOALS.0), (BETAS[0], GOALS.0)];
    let tv = tv.with(Series::new("goal", Style::Dashed, goal).colour(7));
    let (world, jobs, logs) = last_world.ok_or("no world")?;
    let scatter = scatter(&world, &jobs, &args, seeds)?;
    let gaps = gaps(&world, &logs, seeds as usize);
    let lowered: Vec<Job> = jobs[(BETAS.len() - 1) * seeds as usize..]
        .iter()
        .map(|job| {
            let mut job = job.clone().set("kl", LOWERED.replace("STEPS", &(steps / 2).to_string()));
            job.name += "-lowered";
            job.sets.retain(|(key, _)| key != "kl.fixed.init");
            job
        })
        .collect();
    let lowered_logs = run_all(&lowered, &args.out, args.jobs)?;
    let mut ends = Vec::new();
    for (job, log) in lowered.iter().zip(&lowered_logs) {
        let policy = world.distribution(&job.dir(&args.out).join("policy"))?;
        ends.push(End::of(&world, &policy, BETAS[BETAS.len() - 1], log));
    }
    writeln!(
        text,
        "### Two tokens, β lowered to {} from {}\n\n{}",
        BETAS[BETAS.len() - 1],
        BETAS[0],
        rows(&[&ends])
    )?;
    numbers.push(json!({"lowered": true, "runs": ends.iter().map(End::json).collect::<Vec<_>>()}));
    let changes = if args.quick { String::new() } else { changes(&world, &args, steps, &mut numbers)? };
    write!(text, "![KL, total variation, gap and probabilities](closed-form.svg)\n\n{changes}")?;
    let figures = vec![("closed-form".to_owned(), vec![against, tv, gaps, scatter])];
    support::page::write(&args, "closed-form", &text, &json!(numbers), &figures)
}

/// The table of one length.
fn rows(by_beta: &[&[End]]) -> String {
    let head = [
        "β",
        "seeds",
        "KL*",
        "KL",
        "KL as logged",
        "worst \\|KL/KL* − 1\\|",
        "total variation",
        "worst",
        "J* − J",
        "largest \\|J* − J − β·KL(π‖π*)\\|",
    ];
    let worst = |e: &[End], of: &dyn Fn(&End) -> f64| e.iter().map(of).fold(0.0, f64::max);
    let each = |e: &[End], of: fn(&End) -> f64| over_seeds(&e.iter().map(of).collect::<Vec<_>>());
    let row = |e: &&[End]| {
        vec![
            e[0].beta.to_string(),
            e.len().to_string(),
            format!("{:.4}", e[0].kl_best),
            each(e, |x| x.kl),
            each(e, |x| x.logged),
            format!("{:.2} %", 100.0 * worst(e, &|x| x.off().abs())),
            each(e, |x| x.tv),
            format!("{:.4}", worst(e, &|x| x.tv)),
            each(e, |x| x.gap),
            format!("{:.0e}", worst(e, &|x| (x.gap - x.beta_kl).abs())),
        ]
    };
    let all: Vec<Vec<String>> = by_beta.iter().map(row).collect();
    let ends = || by_beta.iter().flat_map(|e| e.iter());
    let met = ends().filter(|e| e.tv <= GOALS.0 && e.off().abs() <= GOALS.1).count();
    let means: Vec<f64> =
        by_beta.iter().map(|e| e.iter().map(|x| x.kl).sum::<f64>() / e.len() as f64).collect();
    let rising = match means.len() {
        1 => "",
        _ if means.windows(2).all(|w| w[0] < w[1]) => " The mean KL rises strictly as β falls.",
        _ => " The mean KL does not rise strictly as β falls.",
    };
    format!(
        "{}\n{met} of {} runs are within a total variation of {} and {} % of KL*.{rising}\n",
        table(&head, &all),
        ends().count(),
        GOALS.0,
        100.0 * GOALS.1
    )
}

/// J* − J as the runs logged it (reward less β·k1, mean over 256 responses and 20 steps), seed 0.
fn gaps(world: &World, logs: &[Vec<Metrics>], seeds: usize) -> Panel {
    let mut panel =
        Panel::new("J* − J over training, two tokens", "steps", "score, mean of 20 steps").log_y();
    for (i, beta) in BETAS.iter().enumerate() {
        let (_, best) = optimum(&world.reference, &world.reward, *beta);
        let values = curve(&logs[i * seeds], "objective/rlhf_reward");
        let mean = |(k, w): (usize, &[f64])| {
            (20.0 * (k as f64 + 0.5), best - w.iter().sum::<f64>() / w.len() as f64)
        };
        let points = values.chunks(20).enumerate().map(mean).filter(|p| p.1 > 0.0).collect();
        panel = panel.with(Series::new(&format!("β {beta}"), Style::Line, points));
    }
    panel
}

/// Trained probabilities against those of the optimum, β = 0.5, seed 0.
fn scatter(world: &World, jobs: &[Job], args: &Args, seeds: u64) -> Result<Panel, BoxError> {
    let at = BETAS.iter().position(|b| *b == CHANGES_BETA).ok_or("no such β")?;
    let policy = world.distribution(&jobs[at * seeds as usize].dir(&args.out).join("policy"))?;
    let (best, _) = optimum(&world.reference, &world.reward, CHANGES_BETA);
    let of = |p: &[f64]| -> Vec<(f64, f64)> { best.iter().copied().zip(p.iter().copied()).collect() };
    let ends = best.iter().fold((1.0_f64, 0.0_f64), |(l, h), p| (l.min(*p), h.max(*p)));
    Ok(Panel::new("Probabilities of the 256 responses, β 0.5", "optimum", "")
        .log_x()
        .log_y()
        .with(Series::new("reference", Style::Dots, of(&world.reference)).colour(7))
        .with(Series::new("trained", Style::Dots, of(&policy)).colour(0))
        .with(Series::new("equal", Style::Dashed, vec![(ends.0, ends.0), (ends.1, ends.1)]).colour(6)))
}

/// Runs with one change each.
fn changes(world: &World, args: &Args, steps: u64, numbers: &mut Vec<Value>) -> Result<String, BoxError> {
    let recipe = world.recipe()?;
    let seeds = args.seeds.min(CHANGES_SEEDS);
    let mut jobs = Vec::new();
    for (i, (_, sets)) in CHANGES.iter().enumerate() {
        for seed in 0..seeds {
            let mut job = Job::new(format!("change{i}-{seed}"), &recipe, letters::SETTINGS)
                .set("kl.fixed.init", CHANGES_BETA)
                .set("seed", seed)
                .set("ppo.steps", steps);
            job.sets.extend(sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            jobs.push(job);
        }
    }
    let logs = run_all(&jobs, &args.out, args.jobs)?;
    let mut ends = Vec::new();
    for (job, log) in jobs.iter().zip(&logs) {
        let policy = world.distribution(&job.dir(&args.out).join("policy"))?;
        ends.push(End::of(world, &policy, CHANGES_BETA, log));
    }
    let row = |((name, _), e): (&(&str, _), &[End])| {
        let each = |of: fn(&End) -> f64| over_seeds(&e.iter().map(of).collect::<Vec<_>>());
        vec![
            (*name).to_owned(),
            e.len().to_string(),
            each(|x| x.tv),
            each(|x| 100.0 * x.off()),
            each(|x| x.gap),
        ]
    };
    let all: Vec<Vec<String>> = CHANGES.iter().zip(ends.chunks(seeds as usize)).map(row).collect();
    for ((name, _), e) in CHANGES.iter().zip(ends.chunks(seeds as usize)) {
        numbers.push(json!({"change": name, "runs": e.iter().map(End::json).collect::<Vec<_>>()}));
    }
    let head = ["change", "seeds", "total variation", "KL/KL* − 1, %", "J* − J"];
    Ok(format!("### What it takes: one change each, two tokens, β {CHANGES_BETA}\n\n{}", table(&head, &all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three arms, worked out by hand: π_ref = (0.5, 0.3, 0.2), r = (0, 1, 2).
    #[test]
    fn the_optimum_of_three_arms() {
        let (reference, reward) = ([0.5, 0.3, 0.2], [0.0, 1.0, 2.0]);
        let (best, j) = optimum(&reference, &reward, 1.0);
        for (found, wanted) in best.iter().zip([0.179_000, 0.291_944, 0.529_056]) {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
        assert!((kl(&best, &reference) - 0.322_834).abs() < 1e-6);
        assert!((mean(&best, &reward) - 1.350_057).abs() < 1e-6 && (j - 1.027_222).abs() < 1e-6);
        let kls = [4.0, 1.0, 0.5, 0.25].map(|b| kl(&optimum(&reference, &reward, b).0, &reference));
        for (found, wanted) in kls.iter().zip([0.020_262, 0.322_834, 0.915_475, 1.468_126]) {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }

    /// The whole way, recipe to policy, in the steps that CI has time for.
    #[test]
    fn ppo_goes_to_the_optimum() {
        let out = std::env::temp_dir().join(format!("closed-form-{}", std::process::id()));
        let world = World::new(&out.join("world"), 2).unwrap();
        let job =
            Job::new("run".to_owned(), &world.recipe().unwrap(), letters::SETTINGS).set("ppo.steps", 150);
        let job = job.set("kl.fixed.init", 2).set("ppo.batch_size", 256).set("ppo.samples_per_prompt", 256);
        let log = run_all(std::slice::from_ref(&job), &out, 1).unwrap().remove(0);
        world.check_samples(&job.dir(&out)).unwrap();
        let policy = world.distribution(&job.dir(&out).join("policy")).unwrap();
        let end = End::of(&world, &policy, 2.0, &log);
        let start = End::of(&world, &world.reference, 2.0, &log);
        assert!(end.tv < 0.1 * start.tv, "{} of {}", end.tv, start.tv);
        assert!(end.off().abs() < 0.03, "{}", end.off());
        assert!((end.gap - end.beta_kl).abs() < 1e-9 && (start.gap - start.beta_kl).abs() < 1e-9);
        std::fs::remove_dir_all(out).unwrap();
    }
}
