//! A prediction as text, at most 100 columns wide.

use super::Estimate;
use std::fmt::Write;
use tetherline_core::Stage;

/// Parts that are listed by name; smaller ones are added up.
const LISTED: usize = 8;

/// Bytes in the unit that suits them.
fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n < 1e6 => format!("{:.0} kB", n / 1e3),
        n if n < 1e8 => format!("{:.1} MB", n / 1e6),
        n if n < 1e9 => format!("{:.0} MB", n / 1e6),
        n => format!("{:.1} GB", n / 1e9),
    }
}

fn seconds(s: f64) -> String {
    match s {
        s if s < 0.1 => format!("{s:.3} s"),
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 600.0 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

fn count(n: usize) -> String {
    match n as f64 {
        n if n < 1e6 => format!("{:.0} thousand", n / 1e3),
        n if n < 1e9 => format!("{:.1} million", n / 1e6),
        n => format!("{:.1} billion", n / 1e9),
    }
}

/// Never fails: a string takes everything.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
    out.push('\n');
}

pub(super) fn text(e: &Estimate) -> String {
    let mut out = String::new();
    let trained = if e.trained == e.parameters {
        "all of them trained".to_owned()
    } else {
        format!("{} trained", count(e.trained))
    };
    line(
        &mut out,
        format_args!(
            "{}: {} parameters, {trained}; {} threads; prompts of {:.0} tokens on average, responses of {}",
            e.recipe,
            count(e.parameters),
            e.threads,
            e.prompt_tokens,
            e.response_tokens
        ),
    );
    line(&mut out, format_args!("\npeak memory of each stage\n"));
    for stage in &e.memory {
        line(&mut out, format_args!("  {:<40}{:>12}", stage.stage.name(), bytes(stage.peak)));
        if !matches!(stage.stage, Stage::Ppo | Stage::Dpo) {
            continue;
        }
        let (listed, rest) = stage.parts.split_at(LISTED.min(stage.parts.len()));
        for part in listed {
            line(&mut out, format_args!("    {:<38}{:>12}", part.name, bytes(part.bytes)));
        }
        if !rest.is_empty() {
            let sum = rest.iter().map(|p| p.bytes).sum();
            line(
                &mut out,
                format_args!("    {:<38}{:>12}", format!("{} smaller parts", rest.len()), bytes(sum)),
            );
        }
    }
    line(&mut out, format_args!("\nseconds per step\n"));
    for stage in &e.stages {
        line(&mut out, format_args!("  {:<40}{:>12}", stage.stage.name(), seconds(stage.seconds)));
    }
    let parts = e.step.map_or([("", 0.0); 4], |step| {
        line(&mut out, format_args!("  {:<40}{:>12}", "ppo", seconds(step.total())));
        [
            ("rollout", step.rollout),
            ("scoring", step.scoring),
            ("update", step.update),
            ("trial of the update", step.trial),
        ]
    });
    let trials_or_none = |name: &str| name.is_empty() || name.starts_with("trial");
    for (name, s) in parts.into_iter().filter(|(name, s)| *s > 0.0 || !trials_or_none(name)) {
        line(&mut out, format_args!("    {name:<38}{:>12}", seconds(s)));
    }
    let what = if e.step.is_some() { "PPO step" } else { "DPO step" };
    line(&mut out, format_args!("\nthe same recipe with one choice made otherwise (* as declared)\n"));
    line(&mut out, format_args!("  {:<22}  {:<38}{:>12}{:>14}", "", "", "peak memory", what));
    let mut about = "";
    for c in &e.choices {
        let named = if c.about == about { "" } else { c.about };
        about = c.about;
        let star = if c.declared { '*' } else { ' ' };
        let set: String = c.set.chars().take(38).collect();
        let (peak, step) = (bytes(c.peak_bytes), seconds(c.seconds));
        line(&mut out, format_args!("  {named:<22}{star} {set:<38}{peak:>12}{step:>14}"));
    }
    out.push_str(
        "\nMemory is of the whole process at its peak, and follows from what is allocated; seconds are of this\n\
         machine as busy as it is now. Responses that end early take less of both: --response-tokens N says\n\
         how many tokens they have on average.",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_two_or_three_digits() {
        assert_eq!(
            [bytes(640_000), bytes(23_456_789), bytes(456_000_000), bytes(7_890_000_000)],
            ["640 kB", "23.5 MB", "456 MB", "7.9 GB"]
        );
        assert_eq!(
            [seconds(0.0123), seconds(1.234), seconds(54.4), seconds(1234.0)],
            ["0.012 s", "1.23 s", "54 s", "21 min"]
        );
    }
}
