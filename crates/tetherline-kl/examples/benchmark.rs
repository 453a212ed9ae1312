//! Every controller beside every other on the synthetic plants: writes `kl-benchmark.md` and its figures.
//!
//! `cargo run --release -p tetherline-kl --example benchmark -- docs`
#![expect(clippy::print_stdout, reason = "an example prints")]

#[path = "benchmark/goals.rs"]
mod goals;

use std::fmt::Write as _;
use std::path::Path;
use tetherline_kl::law::{Adaptive, AutoPi, Dual, Law, Pid, PidLagrangian, PpoAdaptive, Ziegler};
use tetherline_kl::sim::{
    Disturbance, PlantKind, Scenario, Summary, Trace, median, simulate, summarise, svg,
};
use tetherline_kl::{ALL, Budget, KlConfig, NatsPerSequence, Shape, TargetSchedule, TrustRegion};

const TARGET: f64 = 6.0;
const SEEDS: u64 = 20;
const INIT: f64 = 0.2;
const TAU: f64 = 69.0;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Arm {
    name: String,
    config: KlConfig,
}

fn arm(name: &str, law: Law) -> Arm {
    Arm { name: name.to_owned(), config: law.into() }
}

fn capped(arm: &Arm) -> Arm {
    // A law without a target has nothing to take 1.15 times of.
    let cap = arm.config.target().is_none().then_some(NatsPerSequence(1.15 * TARGET));
    let config =
        KlConfig { trust_region: Some(TrustRegion { cap, ..TrustRegion::default() }), ..arm.config.clone() };
    Arm { name: format!("{} + cap", arm.name), config }
}

/// β at which the design plant's target is its equilibrium: what only an oracle knows.
fn oracle() -> f64 {
    1.0 / (2.0 * TARGET).sqrt()
}

/// Every law with its peers' or its own default settings.
fn defaults() -> Vec<Arm> {
    let target = NatsPerSequence(TARGET);
    vec![
        Arm { name: "fixed 0.2".into(), config: KlConfig::fixed(INIT) },
        Arm { name: "fixed β* (an oracle)".into(), config: KlConfig::fixed(oracle()) },
        arm("ziegler (every peer)", Law::Ziegler(Ziegler::new(INIT, target, 1e4))),
        arm("adaptive", Law::Adaptive(Adaptive::new(INIT, target, 1e4))),
        arm("ppo_adaptive", Law::PpoAdaptive(PpoAdaptive::new(INIT, target))),
        arm("pid", Law::Pid(Pid::new(INIT, target))),
        arm("pid_lagrangian (OmniSafe)", Law::PidLagrangian(PidLagrangian::new(INIT, target))),
        arm("dual (Safe-RLHF)", Law::Dual(Dual::new(INIT, target))),
        arm("auto_pi", Law::AutoPi(AutoPi::new(INIT, target))),
        arm("auto_pi, feed_forward", {
            Law::AutoPi(AutoPi { feed_forward: true, ..AutoPi::new(INIT, target) })
        }),
    ]
}

/// The settings tried for every law that has some.
fn grids() -> Vec<(&'static str, Vec<(String, Law)>)> {
    let target = NatsPerSequence(TARGET);
    let horizons = [1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6];
    let ziegler = |h| (format!("H {h:.0e}"), Law::Ziegler(Ziegler::new(INIT, target, h)));
    let adaptive = |h| (format!("H {h:.0e}"), Law::Adaptive(Adaptive::new(INIT, target, h)));
    let mut pid = Vec::new();
    for kp in [0.25, 0.5, 1.0, 2.0, 4.0] {
        for ki in [0.003, 0.01, 0.03, 0.1] {
            pid.push((format!("kp {kp}, ki {ki}"), Law::Pid(Pid { kp, ki, ..Pid::new(INIT, target) })));
        }
    }
    let mut lagrangian = Vec::new();
    for kp in [0.01, 0.03, 0.1, 0.3] {
        for ki in [0.0003, 0.001, 0.003, 0.01] {
            for kd in [0.0, 0.01, 0.1, 1.0] {
                let law = PidLagrangian { kp, ki, kd, ..PidLagrangian::new(INIT, target) };
                lagrangian.push((format!("{kp}/{ki}/{kd}"), Law::PidLagrangian(law)));
            }
        }
    }
    let dual = |lr| (format!("lr {lr}"), Law::Dual(Dual { lr, ..Dual::new(INIT, target) }));
    vec![
        ("ziegler", horizons.map(ziegler).to_vec()),
        ("adaptive", horizons.map(adaptive).to_vec()),
        ("pid", pid),
        ("pid_lagrangian", lagrangian),
        ("dual", [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0].map(dual).to_vec()),
    ]
}

fn runs(
    config: &KlConfig,
    s: &Scenario,
    seeds: std::ops::Range<u64>,
    from: usize,
    target: f64,
) -> Result<Vec<Summary>> {
    seeds.map(|seed| Ok(summarise(&simulate(config, s, seed)?, 0, target, from))).collect()
}

fn settled(s: &Summary) -> f64 {
    s.settled.map_or(f64::INFINITY, |u| u as f64)
}

/// The setting with the least mean |KL/target − 1| over the whole run, which charges for overshoot and for
/// slowness alike. Tuned on seeds that are not reported.
fn tuned() -> Result<Vec<Arm>> {
    let scenario = Scenario::single(TAU, TARGET, 3000);
    let mut arms = Vec::new();
    for (name, grid) in grids() {
        let mut best: Option<(f64, Arm)> = None;
        for (setting, law) in grid {
            let arm = arm(&format!("{name}, tuned ({setting})"), law);
            let mut cost = 0.0;
            for seed in 1000..1005 {
                let trace = simulate(&arm.config, &scenario, seed)?;
                cost += trace.kl.iter().map(|row| (row[0] / TARGET - 1.0).abs()).sum::<f64>();
            }
            if best.as_ref().is_none_or(|(other, _)| cost < *other) {
                best = Some((cost, arm));
            }
        }
        arms.extend(best.map(|(_, arm)| arm));
    }
    Ok(arms)
}

/// Median and its 95 % interval by order statistics: the 6th and the 15th of 20.
fn cell(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut v: Vec<f64> = values.collect();
    v.sort_unstable_by(f64::total_cmp);
    let show = |x: f64| match format!("{x:.digits$}") {
        _ if !x.is_finite() => "never".to_owned(),
        zero if zero.trim_matches(['-', '0', '.']).is_empty() => zero.trim_start_matches('-').to_owned(),
        number => number,
    };
    let (lo, mid, hi) = (show(v[5]), show(median(v.iter().copied())), show(v[14]));
    if lo == hi { mid } else { format!("{mid} [{lo}, {hi}]") }
}

fn table(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(out, "| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out.push('\n');
}

/// Overshoot, settling, share in band and bias on the design plant.
fn design_plant(out: &mut String, arms: &[Arm]) -> Result<()> {
    for tau in [17.0, 69.0, 277.0] {
        let scenario = Scenario::single(tau, TARGET, (12.0 * tau) as u64 + 1500);
        let mut rows = Vec::new();
        for arm in arms {
            let f = runs(&arm.config, &scenario, 0..SEEDS, 0, TARGET)?;
            rows.push(vec![
                arm.name.clone(),
                cell(f.iter().map(|s| s.overshoot), 0),
                cell(f.iter().map(settled), 0),
                cell(f.iter().map(|s| s.in_band), 0),
                cell(f.iter().map(|s| s.bias), 1),
            ]);
        }
        let _ = writeln!(out, "### τ = {tau} updates, {} updates\n", scenario.updates);
        table(out, &["controller", "overshoot, %", "settled, update", "in band, %", "bias, %"], &rows);
    }
    Ok(())
}

/// Overshoot / share in band elsewhere.
fn other_plants(out: &mut String, arms: &[Arm]) -> Result<()> {
    let on = |kind| Scenario { kind, ..Scenario::single(TAU, TARGET, 3000) };
    let plants = [
        ("delay 5", Scenario { delay: 5, ..Scenario::single(TAU, TARGET, 3000) }),
        ("τ 17, delay 5", Scenario { delay: 5, ..Scenario::single(17.0, TARGET, 3000) }),
        ("n = 64", Scenario { n: 64, ..Scenario::single(TAU, TARGET, 3000) }),
        ("second order", on(PlantKind::SecondOrder)),
        ("saturating", on(PlantKind::Saturating)),
        ("regime switch", on(PlantKind::RegimeSwitch)),
        ("floor", on(PlantKind::Floor)),
    ];
    let mut rows = Vec::new();
    for arm in arms {
        let mut row = vec![arm.name.clone()];
        for (_, scenario) in &plants {
            let f = runs(&arm.config, scenario, 0..SEEDS, 0, TARGET)?;
            let over = cell(f.iter().map(|s| s.overshoot), 0);
            row.push(format!("{over} / {:.0}", median(f.iter().map(|s| s.in_band))));
        }
        rows.push(row);
    }
    let head: Vec<&str> = std::iter::once("controller").chain(plants.iter().map(|p| p.0)).collect();
    table(out, &head, &rows);
    Ok(())
}

/// The reward jumps by 1.5, the target halves, 2 % of the observations are NaN.
fn disturbances(out: &mut String, arms: &[Arm]) -> Result<()> {
    let from = 1500usize;
    let quiet = Scenario::single(TAU, TARGET, 3000);
    let jump = Scenario { disturbances: vec![Disturbance { at: from as u64, reward: 1.5 }], ..quiet.clone() };
    let broken = Scenario { nan_rate: 0.02, ..quiet.clone() };
    let halve = TargetSchedule { from: 1.0, to: 0.5, steps: from as u64, shape: Shape::Step };
    let mut rows = Vec::new();
    for arm in arms {
        let after = runs(&arm.config, &jump, 0..SEEDS, from, TARGET)?;
        let mut row = vec![
            arm.name.clone(),
            cell(after.iter().map(|s| s.overshoot), 0),
            cell(after.iter().map(settled), 0),
        ];
        row.push(if arm.config.target().is_some() {
            let config = KlConfig { target_schedule: Some(halve), ..arm.config.clone() };
            cell(runs(&config, &quiet, 0..SEEDS, from, 0.5 * TARGET)?.iter().map(settled), 0)
        } else {
            "-".into()
        });
        let f = runs(&arm.config, &broken, 0..SEEDS, 0, TARGET)?;
        row.push(format!(
            "{} / {}",
            if f.iter().all(|s| s.beta.is_finite()) { "finite" } else { "NaN" },
            cell(f.iter().map(|s| s.in_band), 0)
        ));
        rows.push(row);
    }
    let head = [
        "controller",
        "×1.5: peak, %",
        "×1.5: back after",
        "target halved: there after",
        "2 % NaN: β / in band, %",
    ];
    table(out, &head, &rows);
    Ok(())
}

/// What the cap does, with an exact and with a sampled measurement after the update.
fn cap(out: &mut String, arms: &[Arm]) -> Result<()> {
    let mut rows = Vec::new();
    for arm in arms {
        let mut row = vec![arm.name.clone()];
        let sampled = Scenario::single(TAU, TARGET, 3000);
        let exact = Scenario { noisy_trials: false, ..sampled.clone() };
        let with = capped(arm);
        for (config, scenario) in [(&arm.config, &sampled), (&with.config, &exact), (&with.config, &sampled)]
        {
            let f = runs(config, scenario, 0..SEEDS, 0, TARGET)?;
            row.push(format!(
                "{} / {:.0}",
                cell(f.iter().map(|s| s.overshoot), 1),
                median(f.iter().map(|s| s.in_band))
            ));
        }
        rows.push(row);
    }
    table(out, &["controller", "no cap", "cap, exact KL after the update", "cap, sampled KL"], &rows);
    Ok(())
}

/// Starting far from the right β, by law and start.
fn starts(out: &mut String) -> Result<()> {
    let mut rows = Vec::new();
    for (name, feed_forward) in [("auto_pi", false), ("auto_pi, feed_forward", true)] {
        for with_cap in [false, true] {
            let mut row = vec![format!("{name}{}", if with_cap { " + cap" } else { "" })];
            for init in [0.05, 0.1, 0.2, oracle(), 0.6, 2.0] {
                let law = AutoPi { feed_forward, ..AutoPi::new(init, NatsPerSequence(TARGET)) };
                let mut arm = arm(name, Law::AutoPi(law));
                if with_cap {
                    arm = capped(&arm);
                }
                let f = runs(&arm.config, &Scenario::single(TAU, TARGET, 3000), 0..SEEDS, 0, TARGET)?;
                row.push(format!(
                    "{} / {:.0}",
                    cell(f.iter().map(|s| s.overshoot), 0),
                    median(f.iter().map(settled))
                ));
            }
            rows.push(row);
        }
    }
    table(out, &["controller", "init 0.05", "0.1", "0.2", "β* = 0.29", "0.6", "2"], &rows);
    Ok(())
}

/// A new controller on a policy that has drifted to where its β holds it.
fn drifted(out: &mut String) -> Result<()> {
    type Make = fn(f64, NatsPerSequence) -> Law;
    let target = NatsPerSequence(TARGET);
    let inits = [0.1, 0.4, 0.6, 1.0, 2.0];
    let laws: [(&str, Make); 4] = [
        ("adaptive", |init, target| Law::Adaptive(Adaptive::new(init, target, 1e4))),
        ("pid", |init, target| Law::Pid(Pid::new(init, target))),
        ("dual", |init, target| Law::Dual(Dual::new(init, target))),
        ("auto_pi", |init, target| Law::AutoPi(AutoPi::new(init, target))),
    ];
    let mut rows = Vec::new();
    for (name, law) in laws {
        let mut row = vec![name.to_owned()];
        for init in inits {
            let scenario = Scenario { start: 1.0 / init, ..Scenario::single(TAU, TARGET, 6000) };
            let first = |seed| -> Result<f64> {
                let trace = simulate(&law(init, target).into(), &scenario, seed)?;
                let inside = trace.kl.iter().position(|row| (row[0] / TARGET - 1.0).abs() <= 0.1);
                Ok(inside.map_or(f64::INFINITY, |update| update as f64))
            };
            let arrivals = (0..SEEDS).map(first).collect::<Result<Vec<_>>>()?;
            let latest = arrivals.iter().copied().fold(0.0, f64::max);
            let latest = if latest.is_finite() { format!("{latest:.0}") } else { "never".into() };
            row.push(format!("{} / {latest}", cell(arrivals.into_iter(), 0)));
        }
        rows.push(row);
    }
    table(out, &["controller", "init 0.1, KL 50", "0.4, 3.1", "0.6, 1.4", "1, 0.5", "2, 0.1"], &rows);
    Ok(())
}

/// Three budgets: id, target, scale of the reward.
const DOMAINS: [(&str, f64, f64); 3] = [("a", 2.0, 1.0), ("b", 6.0, 0.7), ("c", 12.0, 1.3)];

/// Share of the second half's updates in which all three budgets are within ±10 %, percent, for each seed.
fn at_once(law: Law, mixing: f64) -> Result<Vec<f64>> {
    let budgets = DOMAINS.iter().map(|(id, t, _)| Budget::new(*id, NatsPerSequence(*t))).collect();
    let config = KlConfig { budgets, ..law.into() };
    let scenario = Scenario {
        domains: DOMAINS.iter().map(|(id, t, c)| ((*id).to_owned(), *t, *c)).collect(),
        mixing,
        n: 128,
        ..Scenario::single(TAU, 2.0, 3000)
    };
    let share = |seed| -> Result<f64> {
        let half = simulate(&config, &scenario, seed)?.kl.split_off(1500);
        let inside =
            |row: &&Vec<f64>| row.iter().zip(&DOMAINS).all(|(kl, (_, t, _))| (kl / t - 1.0).abs() <= 0.1);
        Ok(100.0 * half.iter().filter(inside).count() as f64 / half.len() as f64)
    };
    (0..SEEDS).map(share).collect()
}

/// Three budgets at once.
fn budgets(out: &mut String) -> Result<()> {
    let target = NatsPerSequence(TARGET);
    let laws = [
        Law::Adaptive(Adaptive::new(INIT, target, 1e4)),
        Law::Pid(Pid::new(INIT, target)),
        Law::Dual(Dual::new(INIT, target)),
        Law::AutoPi(AutoPi::new(INIT, target)),
    ];
    let mut rows = Vec::new();
    for law in laws {
        let mut row = vec![format!("budgets({})", law.name())];
        for mixing in [0.0, 0.3, 0.6, 0.9] {
            row.push(cell(at_once(law.clone(), mixing)?.into_iter(), 1));
        }
        rows.push(row);
    }
    table(out, &["controller", "mixing 0", "0.3", "0.6", "0.9"], &rows);
    Ok(())
}

/// KL and β of several arms in one figure.
fn figure(dir: &Path, file: &str, title: &str, arms: &[(&str, &Arm)], scenario: &Scenario) -> Result<()> {
    let traces: Vec<Trace> = arms
        .iter()
        .map(|(_, arm)| simulate(&arm.config, scenario, 1))
        .collect::<std::result::Result<_, _>>()?;
    let side_by_side = |of: fn(&Trace) -> &Vec<Vec<f64>>| -> Vec<Vec<f64>> {
        (0..of(&traces[0]).len()).map(|t| traces.iter().map(|trace| of(trace)[t][0]).collect()).collect()
    };
    let all = Trace { kl: side_by_side(|t| &t.kl), beta: side_by_side(|t| &t.beta), ..Trace::default() };
    let names: Vec<&str> = arms.iter().map(|(name, _)| *name).collect();
    std::fs::write(dir.join(file), svg(title, &all, &vec![TARGET; arms.len()], &names))?;
    Ok(())
}

fn find<'a>(arms: &'a [Arm], name: &str) -> &'a Arm {
    arms.iter().find(|a| a.name.starts_with(name)).expect("an arm of this page")
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).ok_or("give the directory to write to, e.g. docs")?;
    let dir = Path::new(&dir);
    let figures = dir.join("kl-benchmark");
    std::fs::create_dir_all(&figures)?;
    let mut arms = defaults();
    arms.extend(tuned()?);
    let law = AutoPi::new(INIT, NatsPerSequence(TARGET));
    arms.push(capped(&arm("auto_pi", Law::AutoPi(law))));
    let jump = Disturbance { at: 1500, reward: 1.5 };
    let scenario = Scenario { disturbances: vec![jump], ..Scenario::single(TAU, TARGET, 2000) };
    let chosen = [
        ("ziegler", find(&arms, "ziegler (")),
        ("dual", find(&arms, "dual (")),
        ("pid_lagrangian", find(&arms, "pid_lagrangian (")),
        ("auto_pi", find(&arms, "auto_pi")),
    ];
    figure(&figures, "defaults.svg", "Default settings; the reward jumps ×1.5 at 1500", &chosen, &scenario)?;
    let chosen = [
        ("ziegler", find(&arms, "ziegler, tuned")),
        ("dual", find(&arms, "dual, tuned")),
        ("pid_lagrangian", find(&arms, "pid_lagrangian, tuned")),
        ("auto_pi", find(&arms, "auto_pi")),
    ];
    figure(&figures, "tuned.svg", "Tuned on this plant; the same jump", &chosen, &scenario)?;
    let second = Scenario { kind: PlantKind::SecondOrder, delay: 5, ..scenario };
    figure(
        &figures,
        "second-order.svg",
        "The same on a second-order plant with a delay of 5",
        &chosen,
        &second,
    )?;

    let mut out = String::from(include_str!("benchmark/page.md"));
    for (mark, write) in [
        ("<!-- design -->", design_plant as fn(&mut String, &[Arm]) -> Result<()>),
        ("<!-- disturbances -->", disturbances),
        ("<!-- plants -->", other_plants),
        ("<!-- cap -->", cap),
        ("<!-- starts -->", |out, _| starts(out)),
        ("<!-- drifted -->", |out, _| drifted(out)),
        ("<!-- budgets -->", |out, _| budgets(out)),
        ("<!-- goals -->", |out, _| goals::table(out)),
    ] {
        let mut section = String::new();
        write(&mut section, &arms)?;
        out = out.replace(mark, section.trim_end());
    }
    let page = dir.join("kl-benchmark.md");
    std::fs::write(&page, out)?;
    println!("{} and {}/*.svg ({ALL} domains, {SEEDS} seeds)", page.display(), figures.display());
    Ok(())
}
