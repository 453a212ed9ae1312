//! Where the KL penalty stands, and what the biased estimators do: `docs/experiments/placement.md`.
//!
//! ```text
//! cargo run --release -p tetherline --example placement -- --docs
//! ```
//!
//! On the two-token model of `letters/mod.rs` the end of each placement can be written down:
//!
//! - k1 in the reward: π* ∝ π_ref·e^{r/β} over responses.
//! - the exact KL of each token in the loss (`corrected`, and k2 on-policy): every token is tilted by the *reward* that it can
//!   expect, π(b|a) ∝ π_ref·e^{r(a,b)/β}, π(a) ∝ π_ref·e^{Q(a)/β} with Q(a) = E_{π(·|a)} r, where π* has β·ln Z(a), which is
//!   Q(a) less β times the KL that comes after a.
//! - k3 in the loss: the gradient of KL(π_ref ‖ π), so each token ends at π = β·π_ref/(λ − Q) with λ such that Σ π = 1.
//! - k2 or k3 in the reward: no end. A response is paid less for being far from the reference on either side, so one that has
//!   become less likely is made less likely still: where l < 0 the fixed point r − β·k(l) = λ is unstable.
//!
//! On stories260k (the oracle) no end is known; there the reward at equal KL is compared.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an experiment that prints tables and progress"
)]

#[expect(dead_code, reason = "shared with closed_form")]
mod letters;
#[expect(dead_code, reason = "shared with seeds")]
mod stories;
#[expect(dead_code, reason = "shared with the other experiments")]
mod support;

use letters::{VOCAB, World, kl, mean, optimum, total_variation};
use serde_json::{Value, json};
use std::fmt::Write as _;
use stories::{Curve, Number, Setting, Stories};
use support::Args;
use support::figure::{Panel, Series, Style};
use support::page::{bounds, change, over_seeds, table};
use support::runs::{Job, run_all};
use tetherline_core::BoxError;

/// Name, and what the recipe says.
const PLACEMENTS: [(&str, &[(&str, &str)]); 6] = [
    ("k1 in the reward", &[("ppo.kl_in", "reward")]),
    ("exact in the loss", &[("ppo.kl_in", "loss"), ("ppo.kl_loss", "corrected")]),
    ("k2 in the loss", &[("ppo.kl_in", "loss"), ("ppo.kl_loss", "k2")]),
    ("k3 in the loss", &[("ppo.kl_in", "loss"), ("ppo.kl_loss", "k3"), ("ppo.kl_wrong_gradient", "accept")]),
    ("k2 in the reward", &[("ppo.kl_reward", "k2"), ("ppo.kl_wrong_gradient", "accept")]),
    ("k3 in the reward", &[("ppo.kl_reward", "k3"), ("ppo.kl_wrong_gradient", "accept")]),
];

const BETAS: [f64; 3] = [2.0, 1.0, 0.5];

/// Of stories260k; β beside advantages in score units, so these are not whitened.
const STORY_BETAS: [&str; 3] = ["0.03", "0.1", "0.3"];
const STORY_STEPS: u64 = 40;
const STORY_SETTINGS: &[(&str, &str)] = &[("ppo.whiten_advantages", "false")];

/// KL at which rewards are compared there, nats per sequence.
const AT_KL: [f64; 3] = [2.0, 5.0, 10.0];

/// One token: tilted by `q`, or where the gradient is that of the forward KL.
type Token = fn(&[f64], &[f64], f64) -> Vec<f64>;

fn tilted(reference: &[f64], q: &[f64], beta: f64) -> Vec<f64> {
    optimum(reference, q, beta).0
}

/// π = β·π_ref/(λ − q): where E_π q − β·KL(π_ref ‖ π) is stationary. Σ π falls in λ, is above 1 near max q and at most 1 at
/// max q + β.
fn forward_tilted(reference: &[f64], q: &[f64], beta: f64) -> Vec<f64> {
    let top = q.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let at =
        |lambda: f64| -> Vec<f64> { reference.iter().zip(q).map(|(p, q)| beta * p / (lambda - q)).collect() };
    let (mut low, mut high) = (top, top + beta);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if at(middle).iter().sum::<f64>() > 1.0 { low = middle } else { high = middle }
    }
    at(high)
}

/// Where a penalty of each token by itself ends, over the responses of two tokens.
fn token_wise(reference: &[f64], reward: &[f64], beta: f64, token: Token) -> Vec<f64> {
    let first: Vec<f64> = reference.chunks(VOCAB).map(|row| row.iter().sum()).collect();
    let then = |(row, p): (&[f64], &f64)| row.iter().map(|x| x / p).collect::<Vec<f64>>();
    let second = reference.chunks(VOCAB).zip(&first).map(then);
    let second: Vec<Vec<f64>> = second.zip(reward.chunks(VOCAB)).map(|(p, r)| token(&p, r, beta)).collect();
    let q: Vec<f64> = second.iter().zip(reward.chunks(VOCAB)).map(|(p, r)| mean(p, r)).collect();
    let first = token(&first, &q, beta);
    first.iter().zip(&second).flat_map(|(p, row)| row.iter().map(move |x| p * x)).collect()
}

/// The most reward that any policy has at this KL: that of π* at the β with this KL, by bisection of ln β.
fn most_reward(world: &World, wanted: f64) -> f64 {
    let at = |ln_beta: f64| optimum(&world.reference, &world.reward, ln_beta.exp()).0;
    let (mut low, mut high) = (-6.0, 8.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if kl(&at(middle), &world.reference) > wanted { low = middle } else { high = middle }
    }
    mean(&at(low), &world.reward)
}

/// Where a placement ends; `None` where it has no end.
fn predicted(world: &World, placement: usize, beta: f64) -> Option<Vec<f64>> {
    match placement {
        0 => Some(optimum(&world.reference, &world.reward, beta).0),
        1 | 2 => Some(token_wise(&world.reference, &world.reward, beta, tilted)),
        3 => Some(token_wise(&world.reference, &world.reward, beta, forward_tilted)),
        _ => None,
    }
}

/// What is said of a policy: its reward, KL, and how much reward it lacks at that KL.
struct Place {
    reward: f64,
    kl: f64,
    lacks: f64,
}

impl Place {
    fn of(world: &World, policy: &[f64]) -> Self {
        let (reward, kl) = (mean(policy, &world.reward), kl(policy, &world.reference));
        Self { reward, kl, lacks: (most_reward(world, kl) - reward).max(0.0) }
    }
}

fn main() -> Result<(), BoxError> {
    let args = Args::parse("placement", 3)?;
    let seeds = if args.quick { 1 } else { args.seeds };
    let (mut text, letters, mut numbers) = on_letters(&args, seeds)?;
    let mut figures = vec![("placement-letters".to_owned(), letters)];
    if let Some(stories) = Stories::open(&args.out)? {
        let (more, panels, found) = on_stories(&args, &stories, seeds)?;
        text += &more;
        figures.push(("placement-stories".to_owned(), panels));
        numbers = json!({"letters": numbers, "stories": found});
    }
    support::page::write(&args, "placement", &text, &numbers, &figures)
}

fn on_letters(args: &Args, seeds: u64) -> Result<(String, Vec<Panel>, Value), BoxError> {
    let steps = if args.quick { 20 } else { args.steps.unwrap_or(800) };
    let world = World::new(&args.out.join("world"), 2)?;
    let recipe = world.recipe()?;
    let mut jobs = Vec::new();
    for (i, (_, sets)) in PLACEMENTS.iter().enumerate() {
        for beta in BETAS {
            for seed in 0..seeds {
                let mut job = Job::new(format!("letters{i}-{beta}-{seed}"), &recipe, letters::SETTINGS);
                job.sets.extend(sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
                jobs.push(job.set("kl.fixed.init", beta).set("seed", seed).set("ppo.steps", steps));
            }
        }
    }
    run_all(&jobs, &args.out, args.jobs)?;
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    let mut panel =
        Panel::new("Where each placement ends, two tokens", "KL, nats per response", "mean reward");
    let mut lacks = Panel::new("Reward below the most there is at its KL", "β", "score").log_x().log_y();
    let most = (1..=60).map(|i| 0.075 * f64::from(i)).map(|kl| (kl, most_reward(&world, kl)));
    panel = panel.with(Series::new("the most there is", Style::Line, most.collect()).colour(7));
    let mut left = jobs.chunks(seeds as usize);
    for (i, (name, _)) in PLACEMENTS.iter().enumerate() {
        let (mut dots, mut below) = (Vec::new(), Vec::new());
        let betas = (0..=40).map(|k| 0.45 * 5_f64.powf(f64::from(k) / 40.0));
        let line: Vec<(f64, Place)> =
            betas.filter_map(|b| Some((b, Place::of(&world, &predicted(&world, i, b)?)))).collect();
        for beta in BETAS {
            let wanted = predicted(&world, i, beta);
            let (best, _) = optimum(&world.reference, &world.reward, beta);
            let theory = wanted.as_ref().map(|p| Place::of(&world, p));
            let mut found: Vec<(Place, Option<f64>, f64)> = Vec::new();
            for job in left.next().unwrap_or_default() {
                let policy = world.distribution(&job.dir(&args.out).join("policy"))?;
                let own = wanted.as_ref().map(|p| total_variation(&policy, p));
                let other = total_variation(&policy, &best);
                found.push((Place::of(&world, &policy), own, other));
            }
            type Run = (Place, Option<f64>, f64);
            let each = |of: fn(&Run) -> f64| -> Vec<f64> { found.iter().map(of).collect() };
            let cell = |of: fn(&Run) -> f64| over_seeds(&each(of));
            let known = |of: fn(&Place) -> f64, digits: usize| {
                theory.as_ref().map_or_else(|| "–".to_owned(), |t| format!("{:.digits$}", of(t)))
            };
            let off = |x: f64| format!("{x:.3}");
            rows.push(vec![
                (*name).to_owned(),
                beta.to_string(),
                known(|t| t.reward, 3),
                cell(|f| f.0.reward),
                known(|t| t.kl, 3),
                cell(|f| f.0.kl),
                known(|t| t.lacks, 4),
                cell(|f| f.0.lacks),
                over_seeds(&found.iter().filter_map(|f| f.1).collect::<Vec<_>>()),
                wanted.as_ref().map_or_else(|| "–".to_owned(), |p| off(total_variation(p, &best))),
                cell(|f| f.2),
            ]);
            below.push((beta, bounds(&each(|f| f.0.lacks)).0));
            dots.push((bounds(&each(|f| f.0.kl)).0, bounds(&each(|f| f.0.reward)).0));
            numbers.push(json!({"placement": name, "beta": beta, "steps": steps,
                "predicted": theory.as_ref().map(|t| json!({"reward": t.reward, "kl": t.kl, "lacks": t.lacks})),
                "runs": found.iter().map(|f| json!({"reward": f.0.reward, "kl": f.0.kl, "lacks": f.0.lacks,
                    "tv_predicted": f.1, "tv_optimum": f.2})).collect::<Vec<_>>()}));
        }
        let (colour, way) = (i, line.iter().map(|p| (p.1.kl, p.1.reward)).collect());
        panel = panel
            .with(Series::new("", Style::Dashed, way).colour(colour))
            .with(Series::new(name, Style::Dots, dots).colour(colour));
        let theory = if i == 0 { Vec::new() } else { line.iter().map(|p| (p.0, p.1.lacks)).collect() };
        lacks = lacks
            .with(Series::new("", Style::Dashed, theory).colour(i))
            .with(Series::new(name, Style::Dots, below).colour(i));
    }
    let head = [
        "placement",
        "β",
        "reward, predicted",
        "measured",
        "KL, predicted",
        "measured",
        "below the most at its KL, predicted",
        "measured",
        "TV to the prediction",
        "TV of the prediction to π*",
        "of the measured",
    ];
    let text = format!(
        "### Two tokens, the end known\n\n{}\n![Where each placement ends](placement-letters.svg)\n\n",
        table(&head, &rows)
    );
    Ok((text, vec![panel, lacks], json!(numbers)))
}

fn on_stories(args: &Args, stories: &Stories, seeds: u64) -> Result<(String, Vec<Panel>, Value), BoxError> {
    let steps = if args.quick { 2 } else { STORY_STEPS };
    let betas = if args.quick { &STORY_BETAS[..1] } else { &STORY_BETAS[..] };
    let mut jobs = Vec::new();
    for beta in betas {
        for (i, (_, sets)) in PLACEMENTS.iter().enumerate() {
            let sets = [STORY_SETTINGS, sets, &[("kl.fixed.init", *beta)]].concat();
            jobs.extend(
                (0..seeds).map(|seed| stories.job(&format!("stories{i}-{beta}"), seed, steps, &sets)),
            );
        }
    }
    let logs = run_all(&jobs, &args.out, args.jobs)?;
    let found: Vec<Setting> = logs
        .chunks(seeds as usize)
        .enumerate()
        .map(|(k, logs)| Setting {
            name: PLACEMENTS[k % PLACEMENTS.len()].0.to_owned(),
            curves: logs.iter().map(|log| Curve::of(log)).collect(),
        })
        .collect();
    let columns: [Number<'_>; 5] =
        [&|c| c.end().0, &|c| c.end().1, &|c| c.score_at(AT_KL[0]), &|c| c.score_at(AT_KL[1]), &|c| {
            c.score_at(AT_KL[2])
        }];
    let (mut rows, mut panels) = (Vec::new(), Vec::new());
    for (beta, settings) in betas.iter().zip(found.chunks(PLACEMENTS.len())) {
        let mut panel = Panel::new(&format!("Stories, β {beta}"), "KL, nats per sequence", "mean score");
        for (i, setting) in settings.iter().enumerate() {
            let mut row = vec![setting.name.clone(), (*beta).to_owned()];
            for of in columns {
                row.push(setting.cell(of));
            }
            let paired = |of: &dyn Fn(&Curve) -> f64| -> Vec<f64> {
                let pairs = setting.curves.iter().zip(&settings[0].curves);
                pairs.map(|(a, b)| of(a) - of(b)).filter(|x| x.is_finite()).collect()
            };
            row.extend(
                columns[2..].iter().map(|of| if i == 0 { String::new() } else { change(&paired(of)) }),
            );
            rows.push(row);
            panel = panel.with(Series::new(&setting.name, Style::Line, setting.frontier()).colour(i));
        }
        panels.push(panel);
    }
    let head = [
        "placement",
        "β",
        "reward at the end",
        "KL there",
        "reward at KL 2",
        "at KL 5",
        "at KL 10",
        "less k1 in the reward, at KL 2",
        "at KL 5",
        "at KL 10",
    ];
    let mut text = String::new();
    writeln!(
        text,
        "### stories260k\n\n{}\n![Reward against KL](placement-stories.svg)",
        table(&head, &rows)
    )?;
    Ok((text, panels, json!(found.iter().map(Setting::json).collect::<Vec<_>>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// r_a + β·π_ref/π must be one number λ, and no other policy may be better.
    #[test]
    fn the_forward_tilt_is_stationary_and_best() {
        let (reference, q, beta) = ([0.5, 0.3, 0.2], [0.0, 1.0, 2.0], 0.7);
        let p = forward_tilted(&reference, &q, beta);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let objective = |p: &[f64]| mean(p, &q) - beta * kl(&reference, p);
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            for step in [1e-3, -1e-3] {
                let mut other = p.clone();
                (other[a], other[b]) = (p[a] + step, p[b] - step);
                assert!(objective(&other) < objective(&p));
            }
        }
    }

    /// With rewards that add up and a reference whose second token does not know the first, what comes later is the same after
    /// every first token: leaving it out changes nothing. With a pair that pays, it does.
    #[test]
    fn a_penalty_of_each_token_is_exact_where_tokens_are_independent() {
        let p: Vec<f64> = (0..VOCAB).map(|i| (i + 1) as f64 / 136.0).collect();
        let reference: Vec<f64> = p.iter().flat_map(|a| p.iter().map(move |b| a * b)).collect();
        let mut reward: Vec<f64> =
            (0..VOCAB * VOCAB).map(|i| ((i / VOCAB) % 3 + (i % VOCAB) % 5) as f64).collect();
        let best = optimum(&reference, &reward, 0.8).0;
        assert!(total_variation(&token_wise(&reference, &reward, 0.8, tilted), &best) < 1e-12);
        reward[VOCAB * VOCAB - 1] += 3.0;
        let best = optimum(&reference, &reward, 0.8).0;
        assert!(total_variation(&token_wise(&reference, &reward, 0.8, tilted), &best) > 1e-4);
    }
}
