//! `tether kl control | replay | simulate`.

use crate::cli::{ControlArgs, ReplayArgs, SimulateArgs};
use crate::exit_codes::UsageError;
use crate::output;
use std::io::{BufRead, Write};
use tetherline::control::{Stream, load_config};
use tetherline::replay::replay;
use tetherline_kl::sim::{
    Disturbance, PlantKind, Scenario, Summary, median, simulate, sparkline, summarise, svg,
};
use tetherline_kl::{KlConfig, NatsPerSequence};

/// Answers every line of stdin at once.
pub(crate) fn control(args: &ControlArgs) -> anyhow::Result<()> {
    let mut stream = Stream::new(&load_config(&args.config)?, args.state.clone())?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().split(b'\n') {
        // What is not UTF-8 is a malformed line like any other: it is answered, and the stream goes on.
        if let Some(answer) = stream.answer(&String::from_utf8_lossy(&line?))? {
            writeln!(out, "{answer}")?;
            out.flush()?;
        }
    }
    Ok(())
}

/// Shows β in the log against β of the controller.
pub(crate) fn replayed(args: &ReplayArgs) -> anyhow::Result<()> {
    let rows = replay(&load_config(&args.config)?, &args.log, args.episodes)?;
    if let Some(path) = &args.out {
        let text: String = rows
            .iter()
            .map(|r| serde_json::to_string(&r.decision).map(|line| line + "\n"))
            .collect::<Result<_, _>>()?;
        std::fs::write(path, text)?;
    }
    output::result(&format!(
        "{:>8} {:>10} {:>10} {:>10}  {:<9} why",
        "step", "KL", "β logged", "β", "verdict"
    ));
    let stride = rows.len().div_ceil(args.rows.max(1)).max(1);
    for (i, r) in rows.iter().enumerate() {
        let calm = r.decision.verdict == tetherline_kl::Verdict::Accept;
        if calm && i % stride != 0 && i + 1 != rows.len() {
            continue;
        }
        let kl = r.observation.domains.first().map_or(f64::NAN, |d| d.mean_kl.0);
        let logged = r.logged_beta.map_or_else(|| "-".to_owned(), |b| format!("{b:.5}"));
        let verdict = serde_json::to_value(r.decision.verdict)?;
        output::result(&format!(
            "{:>8} {kl:>10.4} {logged:>10} {:>10.5}  {:<9} {}",
            r.observation.step,
            r.decision.beta_for(tetherline_kl::ALL),
            verdict.as_str().unwrap_or_default(),
            r.decision.reason.code().as_str()
        ));
        if !calm {
            output::result(&format!("{:>10}{}", "", r.decision.reason));
        }
    }
    Ok(())
}

/// Runs a controller, or every law with its defaults, on a synthetic plant.
pub(crate) fn simulated(args: &SimulateArgs) -> anyhow::Result<()> {
    let arms = match &args.config {
        Some(path) => vec![(path.display().to_string(), load_config(path)?)],
        None => every_law(args.init, args.target),
    };
    let arms = arms
        .into_iter()
        .map(|(name, config)| Ok((name, scenario(args, &config)?, config)))
        .collect::<Result<Vec<_>, UsageError>>()?;
    // One domain leaves room for a longer line of blocks.
    let several = arms.iter().any(|(.., config)| config.budgets.len() > 1);
    let columns = if several { 10 } else { 20 };
    let width = arms.iter().map(|a| a.0.chars().count()).max().unwrap_or(0).clamp(10, 15);
    output::result(&format!(
        "{} on {}:\nτ {} updates, n {}, delay {}; median of {} runs\n",
        if arms.len() == 1 { "One controller" } else { "Every law at its defaults" },
        args.plant,
        args.tau,
        args.n,
        args.delay,
        args.seeds
    ));
    output::result(&format!(
        "{:<width$} {}{:>10} {:>7} {:>8} {:>6} {:>6}  KL over time",
        "controller",
        if several { format!("{:<9} ", "domain") } else { String::new() },
        "overshoot%",
        "settled",
        "in band%",
        "bias%",
        "last β"
    ));
    for (name, scenario, config) in &arms {
        // After a disturbance it is the recovery that counts.
        let from = scenario.disturbances.first().map_or(0, |d| d.at as usize);
        let mut runs = Vec::new();
        for seed in 0..args.seeds {
            runs.push(simulate(config, scenario, seed)?);
        }
        for (k, (domain, target, _)) in scenario.domains.iter().enumerate() {
            let figures: Vec<Summary> = runs.iter().map(|t| summarise(t, k, *target, from)).collect();
            let mid = |of: fn(&Summary) -> f64| median(figures.iter().map(of));
            let settled = mid(|s| s.settled.map_or(f64::INFINITY, |u| u as f64));
            let settled = if settled.is_finite() { format!("{settled:.0}") } else { "never".to_owned() };
            let blocks = runs.first().map(|t| sparkline(t, k, *target, columns)).unwrap_or_default();
            output::result(&format!(
                "{:<width$} {}{:>10.1} {settled:>7} {:>8.1} {:>6.1} {:>6.3}  {blocks}",
                cut(name, width),
                if several { format!("{:<9} ", cut(domain, 9)) } else { String::new() },
                mid(|s| s.overshoot),
                mid(|s| s.in_band),
                mid(|s| s.bias),
                mid(|s| s.beta)
            ));
        }
        if let (Some(path), Some(trace)) = (&args.svg, runs.first()) {
            let targets: Vec<f64> = scenario.domains.iter().map(|d| d.1).collect();
            let names: Vec<&str> = scenario.domains.iter().map(|d| d.0.as_str()).collect();
            std::fs::write(path, svg(name, trace, &targets, &names))?;
            output::line(&format!("the traces of seed 0: {}", path.display()));
        }
    }
    output::result(
        "\novershoot: largest KL above the target; settled: update after which the median\n\
         of 25 stays within ±10 %; in band, bias: of the second half. With --jump all of\n\
         them count from the jump. KL over time: of one run, the furthest from the target\n\
         (▄) in each slice; █ is twice it.",
    );
    Ok(())
}

/// The end of a text that is too long: of a path the file's name.
fn cut(text: &str, width: usize) -> String {
    let len = text.chars().count();
    if len <= width {
        text.to_owned()
    } else {
        format!("…{}", text.chars().skip(len - width + 1).collect::<String>())
    }
}

fn every_law(init: f64, target: f64) -> Vec<(String, KlConfig)> {
    use tetherline_kl::law::{Adaptive, AutoPi, Dual, Law, Pid, PidLagrangian, PpoAdaptive, Ziegler};
    let laws = [
        Law::Ziegler(Ziegler::new(init, NatsPerSequence(target), 1e4)),
        Law::Adaptive(Adaptive::new(init, NatsPerSequence(target), 1e4)),
        Law::PpoAdaptive(PpoAdaptive::new(init, NatsPerSequence(target))),
        Law::Pid(Pid::new(init, NatsPerSequence(target))),
        Law::PidLagrangian(PidLagrangian::new(init, NatsPerSequence(target))),
        Law::Dual(Dual::new(init, NatsPerSequence(target))),
        Law::AutoPi(AutoPi::new(init, NatsPerSequence(target))),
    ];
    let fixed = ("fixed".to_owned(), KlConfig::fixed(init));
    std::iter::once(fixed).chain(laws.into_iter().map(|l| (l.name().to_owned(), l.into()))).collect()
}

fn scenario(args: &SimulateArgs, config: &KlConfig) -> Result<Scenario, UsageError> {
    let kind = match args.plant.as_str() {
        "first-order" => PlantKind::FirstOrder,
        "second-order" => PlantKind::SecondOrder,
        "saturating" => PlantKind::Saturating,
        "regime-switch" => PlantKind::RegimeSwitch,
        _ => PlantKind::Floor,
    };
    let positive = |ok: bool, flag: &str| match ok {
        true => Ok(()),
        false => Err(UsageError(format!("{flag} must be a number above 0"))),
    };
    positive(args.tau.is_finite() && args.tau > 0.0, "--tau")?;
    positive(args.target.is_finite() && args.target > 0.0, "--target")?;
    positive(args.init.is_finite() && args.init > 0.0, "--init")?;
    let target = config.target().map_or(args.target, |t| t.0);
    let domains = if config.budgets.is_empty() {
        vec![("all".to_owned(), target, 1.0)]
    } else {
        config.budgets.iter().map(|b| (b.id.clone(), b.target.0, 1.0)).collect()
    };
    let jump = args.jump.map(|reward| Disturbance { at: args.updates / 2, reward });
    Ok(Scenario {
        kind,
        domains,
        mixing: 0.3,
        n: args.n,
        delay: args.delay,
        nan_rate: args.nan_rate,
        disturbances: jump.into_iter().collect(),
        ..Scenario::single(args.tau, target, args.updates)
    })
}
