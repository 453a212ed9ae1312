//! What a run looks like while it goes: a bar where a person watches, a line now and then elsewhere.
//!
//! A line shows stage, step and, in PPO, the score, the KL against its target (nats per sequence), the
//! coefficient β, what the controller made of the update and the time left. Without a terminal there is at most one
//! line per 5 % of a stage, so that a log stays readable; it says how many of the updates since the line before were
//! accepted. Other verdicts are said at once, with their reasons.

use crate::{interrupt, output};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};
use tetherline_core::{Event, Metrics, Observer, Stage};

/// How much to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// A progress bar.
    Bar,
    /// A line now and then.
    Lines,
    /// Warnings only.
    Warnings,
}

impl Show {
    /// What fits the flags and the terminal.
    pub(crate) fn choose(quiet: bool, verbose: u8) -> Self {
        match (quiet, verbose, output::is_terminal()) {
            (true, ..) => Show::Warnings,
            // Log lines and a bar would overwrite each other.
            (_, 1.., _) | (_, _, false) => Show::Lines,
            _ => Show::Bar,
        }
    }
}

/// An [`Observer`] that shows progress on stderr.
pub(crate) struct Progress {
    show: Show,
    /// KL target, nats per sequence, if the controller has one.
    target: Option<f64>,
    bar: Option<ProgressBar>,
    started: Instant,
    /// Steps that were done when the stage started in this process.
    done_before: u64,
    /// Twentieths of the stage already reported.
    reported: u64,
    /// Updates since the last line, and how many of them were accepted.
    judged: (u64, u64),
}

impl Progress {
    /// Shows progress against a KL target (nats per sequence), if there is one.
    pub(crate) fn new(show: Show, target: Option<f64>) -> Self {
        Self { show, target, bar: None, started: Instant::now(), done_before: 0, reported: 0, judged: (0, 0) }
    }

    fn start(&mut self, stage: Stage, done: u64, total: u64) {
        self.started = Instant::now();
        self.done_before = done;
        self.reported = twentieths(done, total);
        self.judged = (0, 0);
        if self.show == Show::Bar {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix:>9} {bar:24} {pos}/{len} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(stage.name());
            bar.set_position(done);
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, stage: Stage, step: u64, total: u64, metrics: &Metrics) {
        let mut parts = describe(stage, metrics, self.target);
        if let Some(&accepted) = metrics.get("control/accepted") {
            self.judged = (self.judged.0 + 1, self.judged.1 + u64::from(accepted == 1.0));
            parts.extend(verdict(metrics, if self.bar.is_some() { (1, 0) } else { self.judged }));
        }
        if let Some(left) = time_left(self.started.elapsed(), step - self.done_before.min(step), step, total)
        {
            parts.push(format!("eta {}", duration(left)));
        }
        let message = parts.join("  ");
        match &self.bar {
            Some(bar) => {
                bar.set_position(step);
                bar.set_message(message);
            }
            None if self.show == Show::Lines => {
                let now = twentieths(step, total);
                if now > self.reported || step == total {
                    self.reported = now;
                    self.judged = (0, 0);
                    output::line(&format!("{:>9} {step}/{total}  {message}", stage.name()));
                }
            }
            None => {}
        }
    }

    fn finish(&mut self, stage: Stage) {
        let took = duration(self.started.elapsed());
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.show != Show::Warnings {
            output::line(&format!("{:>9} done in {took}", stage.name()));
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::line(text)),
            None => output::line(text),
        }
    }
}

impl Observer for Progress {
    fn on_event(&mut self, event: &Event<'_>) {
        match event {
            Event::StageStarted { stage, done, total } => self.start(*stage, *done, *total),
            Event::Step { stage, step, total, metrics } => self.step(*stage, *step, *total, metrics),
            Event::StageFinished { stage } => self.finish(*stage),
            Event::Note(text) if self.show != Show::Warnings => self.say(text),
            Event::Warning(text) => self.say(&format!("warning: {text}")),
            Event::CheckpointSaved { step, path } => {
                tracing::info!(step, path = %path.display(), "checkpoint saved");
            }
            Event::Note(_) => {}
        }
    }

    fn stop_requested(&self) -> bool {
        interrupt::requested()
    }
}

/// How many twentieths of `total` are done.
fn twentieths(done: u64, total: u64) -> u64 {
    done * 20 / total.max(1)
}

/// The numbers a person wants to see, most important first.
fn describe(stage: Stage, metrics: &Metrics, target: Option<f64>) -> Vec<String> {
    if stage != Stage::Ppo {
        // Other stages have few metrics: show the first three by the last part of their name.
        return metrics
            .iter()
            .filter(|(key, _)| !key.starts_with("time/") && !key.starts_with("tokens/"))
            .filter(|(key, _)| !matches!(key.as_str(), "step" | "episode" | "lr"))
            .take(3)
            .map(|(key, value)| format!("{} {}", key.rsplit('/').next().unwrap_or(key), number(*value)))
            .collect();
    }
    let get = |key: &str| metrics.get(key).copied();
    let mut parts = Vec::new();
    if let Some(score) = get("objective/scores") {
        parts.push(format!("score {}", number(score)));
    }
    if let Some(kl) = get("objective/kl_exact").or(get("objective/kl")) {
        match target {
            Some(target) => parts.push(format!("kl {}/{}", number(kl), number(target))),
            None => parts.push(format!("kl {}", number(kl))),
        }
    }
    if let Some(beta) = get("objective/kl_coef") {
        parts.push(format!("β {}", number(beta)));
    }
    parts
}

/// What became of the update, and how many of those since the last line (updates, accepted) were accepted, where that is
/// more than this one. KL is that of the trial, where there was one.
fn verdict(metrics: &Metrics, (updates, accepted): (u64, u64)) -> Vec<String> {
    let get = |key: &str| metrics.get(key).copied();
    let own = match get("trial/kept") {
        Some(0.0) => Some("undone".to_owned()),
        Some(kept) if kept < 1.0 => Some(format!("kept {}", number(kept))),
        _ if get("control/accepted") != Some(1.0) => None,
        _ => match get("trial/kl") {
            Some(kl) => Some(format!("accepted at {}", number(kl))),
            None => Some("accepted".to_owned()),
        },
    };
    let several = (updates > 1).then(|| format!("({accepted} of {updates} accepted)"));
    own.into_iter().chain(several).collect()
}

/// Three significant digits or so, without an exponent where it can be read without one.
fn number(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        a if !(1e-4..1e6).contains(&a) => format!("{x:.2e}"),
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        a if a >= 0.1 => format!("{x:.2}"),
        _ => format!("{x:.4}"),
    }
}

/// Time left when `here` steps took `elapsed` and `step` of `total` are done.
fn time_left(elapsed: Duration, here: u64, step: u64, total: u64) -> Option<Duration> {
    (here > 0).then(|| elapsed.mul_f64(total.saturating_sub(step) as f64 / here as f64))
}

/// `1h02m`, `3m05s`, `12s`.
fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        3600.. => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        60.. => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ppo_step_shows_score_kl_target_and_beta() {
        let metrics = Metrics::from([
            ("objective/scores".to_owned(), 0.8123),
            ("objective/kl".to_owned(), 4.0),
            ("objective/kl_exact".to_owned(), 4.321),
            ("objective/kl_coef".to_owned(), 0.0832),
        ]);
        assert_eq!(describe(Stage::Ppo, &metrics, Some(6.0)), ["score 0.81", "kl 4.32/6.00", "β 0.0832"]);
        assert_eq!(describe(Stage::Ppo, &metrics, None)[1], "kl 4.32");
    }

    #[test]
    fn a_step_says_what_became_of_its_update() {
        let of = |pairs: &[(&str, f64)], since| {
            let metrics = pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
            verdict(&metrics, since).join(" ")
        };
        let accepted = [("control/accepted", 1.0), ("trial/kept", 1.0), ("trial/kl", 0.3149)];
        assert_eq!(of(&accepted, (1, 1)), "accepted at 0.31");
        assert_eq!(of(&accepted, (15, 14)), "accepted at 0.31 (14 of 15 accepted)");
        assert_eq!(of(&accepted[..1], (1, 1)), "accepted");
        assert_eq!(of(&[("control/accepted", 0.0)], (1, 0)), "", "a throttle, which has a line of its own");
        assert_eq!(of(&[("control/accepted", 0.0), ("trial/kept", 0.41)], (1, 0)), "kept 0.41");
        assert_eq!(of(&[("control/accepted", 0.0), ("trial/kept", 0.0)], (2, 1)), "undone (1 of 2 accepted)");
    }

    #[test]
    fn other_stages_show_what_they_have() {
        let metrics = Metrics::from([("lr".to_owned(), 0.1), ("sft/loss".to_owned(), 2.5)]);
        assert_eq!(describe(Stage::Sft, &metrics, None), ["loss 2.50"]);
    }

    #[test]
    fn numbers_and_times_are_short() {
        let numbers = [0.0, 1234.5, 12.34, 0.5, 0.01234, 1e-7, f64::NAN].map(number);
        assert_eq!(numbers, ["0", "1234", "12.3", "0.50", "0.0123", "1.00e-7", "NaN"]);
        let times = [5, 65, 3725].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(times, ["5s", "1m05s", "1h02m"]);
        // 4 steps done here (10 in all) took 8 s: 20 left take 40 s.
        assert_eq!(time_left(Duration::from_secs(8), 4, 10, 30), Some(Duration::from_secs(40)));
        assert_eq!(time_left(Duration::from_secs(8), 0, 10, 30), None);
    }

    #[test]
    fn without_a_terminal_there_are_at_most_twenty_lines() {
        let mut reported = 0;
        let lines = (1..=1000).filter(|&step| {
            let now = twentieths(step, 1000);
            std::mem::replace(&mut reported, now) < now
        });
        assert_eq!(lines.count(), 20);
        assert_eq!(twentieths(0, 0), 0);
    }
}
