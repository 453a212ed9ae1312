//! `tether kl simulate`: a controller, or every law with its defaults, on a synthetic plant.

use super::kl::{warn, write};
use crate::cli::SimulateArgs;
use crate::exit_codes::UsageError;
use crate::output;
use tetherline::control::load_config;
use tetherline_kl::sim::{
    Disturbance, PlantKind, Scenario, Summary, Trace, median, simulate, sparkline, summarise, svg,
};
use tetherline_kl::{KlConfig, KlConfigError, NatsPerSequence};

/// Updates of all runs of one controller together; more would take an hour.
const MOST_UPDATES: u64 = 10_000_000;

/// One controller to try.
struct Arm {
    name: String,
    config: KlConfig,
    scenario: Scenario,
}

/// Runs the arms and prints a table.
pub(crate) fn simulated(args: &SimulateArgs) -> anyhow::Result<()> {
    check(args)?;
    let arms: Vec<Arm> = match &args.config {
        Some(path) => vec![(path.display().to_string(), load_config(path)?)],
        None => every_law(args.init, args.target),
    }
    .into_iter()
    .map(|(name, config)| Arm { scenario: scenario(args, &config), name, config })
    .collect();
    for arm in &arms {
        arm.config.validate().map_err(|e| usage(&e, args))?;
        if args.target_step.is_some() && arm.config.target_schedule.is_some() {
            let problem = "has [kl.target_schedule], which moves the target already: leave out one of them";
            return Err(UsageError(format!("--target-step: {} {problem}", arm.name)).into());
        }
        warn(&arm.config, Some(args.n));
    }
    if args.exact_trials && arms.iter().all(|a| a.config.trust_region.is_none()) {
        output::line("warning: --exact-trials changes nothing without [kl.trust_region] in --config");
    }
    // One domain leaves room for a longer line of blocks.
    let several = arms.iter().any(|a| a.scenario.domains.len() > 1);
    let columns = if several { 10 } else { 20 };
    let width = arms.iter().map(|a| a.name.chars().count()).max().unwrap_or(0).clamp(10, 15);
    output::result(&format!(
        "{} on {}:\nτ {} updates, n {}, delay {}; median of {} run{}\n",
        if arms.len() == 1 { "One controller" } else { "Every law at its defaults" },
        args.plant,
        args.tau,
        args.n,
        args.delay,
        args.seeds,
        if args.seeds == 1 { "" } else { "s" }
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
    let mut drawing = None;
    for arm in &arms {
        let (first, figures) = run(arm, args)?;
        for (k, (domain, target, _)) in arm.scenario.domains.iter().enumerate() {
            let mid = |of: fn(&Summary) -> f64| median(figures.iter().map(|f| of(&f[k])));
            let beta = mid(|s| s.beta);
            let settled = mid(|s| s.settled.map_or(f64::INFINITY, |u| u as f64));
            let settled = if settled.is_finite() { format!("{settled:.0}") } else { "never".to_owned() };
            output::result(&format!(
                "{:<width$} {}{:>10} {settled:>7} {:>8} {:>6} {:>6}  {}",
                cut(&arm.name, width),
                if several { format!("{:<9} ", cut(domain, 9)) } else { String::new() },
                short(mid(|s| s.overshoot), 10, 1),
                short(mid(|s| s.in_band), 8, 1),
                short(mid(|s| s.bias), 6, 1),
                short(beta, 6, if beta.abs() < 0.01 { 4 } else { 3 }),
                sparkline(&first, k, *target, columns)
            ));
        }
        drawing = args.svg.as_ref().map(|path| (path, draw(arm, &first)));
    }
    output::result(
        "\novershoot: largest KL above the target; settled: update after which the median\n\
         of 25 stays within ±10 %; in band, bias: of the second half. With --jump or\n\
         --target-step all of them count from there. KL over time: of one run, the\n\
         furthest from the target (▄) in each slice; █ is twice it.",
    );
    if let Some((path, text)) = drawing {
        write(path, &text)?;
        output::line(&format!("the traces of seed 0: {}", path.display()));
    }
    Ok(())
}

/// Runs an arm from every seed: the first trace, and of each run the figures by domain.
fn run(arm: &Arm, args: &SimulateArgs) -> Result<(Trace, Vec<Vec<Summary>>), UsageError> {
    // After a change it is the recovery that counts.
    let changes = args.jump.is_some() || args.target_step.is_some();
    let from = if changes { args.updates as usize / 2 } else { 0 };
    let (mut first, mut figures) = (Trace::default(), Vec::new());
    for seed in 0..args.seeds {
        let trace = simulate(&arm.config, &arm.scenario, seed).map_err(|e| usage(&e, args))?;
        let last = trace.target.last().cloned().unwrap_or_default();
        figures.push(last.iter().enumerate().map(|(k, t)| summarise(&trace, k, *t, from)).collect());
        if seed == 0 {
            first = trace;
        }
    }
    Ok((first, figures))
}

fn draw(arm: &Arm, trace: &Trace) -> String {
    let targets: Vec<f64> = arm.scenario.domains.iter().map(|d| d.1).collect();
    let names: Vec<&str> = arm.scenario.domains.iter().map(|d| d.0.as_str()).collect();
    svg(&arm.name, trace, &targets, &names)
}

/// What clap cannot check: flags against each other.
fn check(args: &SimulateArgs) -> Result<(), UsageError> {
    if args.delay as u64 >= args.updates {
        let (delay, updates) = (args.delay, args.updates);
        return Err(UsageError(format!("--delay {delay} must be below --updates ({updates})")));
    }
    match args.updates.checked_mul(args.seeds) {
        Some(all) if all <= MOST_UPDATES => Ok(()),
        _ => Err(UsageError(format!(
            "--updates {} × --seeds {} are too many: at most {MOST_UPDATES} updates together",
            args.updates, args.seeds
        ))),
    }
}

/// Without a file it was a flag that a law cannot use.
fn usage(e: &KlConfigError, args: &SimulateArgs) -> UsageError {
    UsageError(match (&args.config, e.field.ends_with("init")) {
        (Some(path), _) => format!("{}: kl.{e}", path.display()),
        (None, true) => format!("--init {}: {e}", args.init),
        (None, false) => format!("--target {}: {e}", args.target),
    })
}

/// The end of a text that is too long: of a path the file's name.
pub(super) fn cut(text: &str, width: usize) -> String {
    let len = text.chars().count();
    if len <= width {
        text.to_owned()
    } else {
        format!("…{}", text.chars().skip(len - width + 1).collect::<String>())
    }
}

/// A number with these decimals, or with as many of its leading digits as fit.
pub(super) fn short(x: f64, width: usize, decimals: usize) -> String {
    (0..=decimals)
        .rev()
        .map(|d| format!("{x:.d$}"))
        .find(|text| text.len() <= width)
        .unwrap_or_else(|| format!("{x:.0e}"))
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

fn scenario(args: &SimulateArgs, config: &KlConfig) -> Scenario {
    let kind = match args.plant.as_str() {
        "first-order" => PlantKind::FirstOrder,
        "second-order" => PlantKind::SecondOrder,
        "saturating" => PlantKind::Saturating,
        "regime-switch" => PlantKind::RegimeSwitch,
        _ => PlantKind::Floor,
    };
    let target = config.target().map_or(args.target, |t| t.0);
    let domains = if config.budgets.is_empty() {
        vec![("all".to_owned(), target, 1.0)]
    } else {
        config.budgets.iter().map(|b| (b.id.clone(), b.target.0, 1.0)).collect()
    };
    let half_way = args.updates / 2;
    Scenario {
        kind,
        domains,
        mixing: args.mixing,
        n: args.n,
        delay: args.delay,
        nan_rate: args.nan_rate,
        disturbances: args.jump.map(|reward| Disturbance { at: half_way, reward }).into_iter().collect(),
        target_step: args.target_step.map(|share| (half_way, share)),
        noisy_trials: !args.exact_trials,
        ..Scenario::single(args.tau, target, args.updates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_column() {
        assert_eq!(short(0.2345, 6, 3), "0.234");
        assert_eq!(short(12_345.67, 6, 3), "12346");
        assert_eq!(short(1_234_567.0, 6, 1), "1e6");
        assert_eq!(short(f64::NAN, 6, 1), "NaN");
    }
}
