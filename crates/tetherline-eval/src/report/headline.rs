//! What happened, in words computed from the numbers.
//!
//! A claim of direction is made only where the 95 % interval of the change excludes zero.

use super::{
    NotFinite, ReportData,
    curves::points,
    html::{brief, interval, num, percent},
};
use crate::{Change, Comparison};
use std::cmp::Ordering;

/// The report's title and the sentences beneath it, as plain text.
pub(super) struct Headline {
    pub(super) title: String,
    pub(super) sentences: Vec<String>,
}

pub(super) fn headline(data: &ReportData) -> Headline {
    let mut headline = outcome(data);
    if let Some((step, why)) = &data.halted {
        headline.title = format!("HALTED at step {step}");
        headline.sentences.insert(0, format!("The run stopped itself: {why}."));
        headline
            .sentences
            .push("With --resume --after-halt it goes on, once somebody has looked at it.".into());
    }
    if let Some(NotFinite { stage, step, what, checkpoint }) = &data.not_finite {
        headline.title = format!("NOT FINITE: stopped at step {step} of {stage}");
        headline.sentences.insert(0, format!("The run stopped itself: {what}."));
        headline.sentences.push(match checkpoint {
            Some(path) => format!(
                "The last good checkpoint is {path}. With --resume the run goes on from there and repeats the same steps; with \
                 other settings, or under kl.guard, which undoes such an update, it is a new run."
            ),
            None => "No checkpoint had been saved yet.".to_owned(),
        });
    }
    headline
}

fn outcome(data: &ReportData) -> Headline {
    let mut sentences = Vec::new();
    let Some(c) = &data.comparison else {
        let title = match data.series.len() {
            0 => "Nothing was trained in this run".into(),
            n => format!("{n} PPO steps, not evaluated"),
        };
        sentences.extend(final_kl(data));
        return Headline { title, sentences };
    };
    sentences.extend(scores(c));
    sentences.extend(final_kl(data));
    sentences.extend(refusals(c));
    sentences.extend(overoptimised(data, c));
    Headline { title: title(data, c), sentences }
}

fn title(data: &ReportData, c: &Comparison) -> String {
    let kl = c
        .aligned
        .overall
        .kl_exact
        .map(|k| format!(", {} nats from the reference", brief(k.mean)))
        .unwrap_or_default();
    let (name, change, in_sd) = match (c.change.gold, c.gold_in_sd(), c.change.score) {
        (Some(gold), Some(sd), _) => ("Gold score", gold, Some(sd.mean)),
        (Some(gold), None, _) => ("Gold score", gold, None),
        (None, _, Some(score)) => ("Proxy score", score, None),
        _ => return data.run_name.clone(),
    };
    let by =
        in_sd.map_or_else(|| num(change.mean.abs()), |sd| format!("{} standard deviations", brief(sd.abs())));
    match change.direction() {
        Ordering::Greater => format!("{name} up by {by}{kl}"),
        Ordering::Less => format!("{name} down by {by}{kl}"),
        Ordering::Equal => format!("No clear change in {}{kl}", name.to_lowercase()),
    }
}

fn moved(change: Change) -> String {
    let fall = change.ci.map(|(low, high)| (-high, -low));
    match change.direction() {
        Ordering::Greater => format!("rose by {}", interval(change.mean, change.ci, false)),
        Ordering::Less => format!("fell by {}", interval(-change.mean, fall, false)),
        Ordering::Equal => format!("did not clearly change ({})", interval(change.mean, change.ci, true)),
    }
}

fn scores(c: &Comparison) -> Option<String> {
    let proxy = format!("the proxy score {}", moved(c.change.score?));
    let text = match c.change.gold {
        Some(gold) => format!("On held-out prompts the gold score {} and {proxy}.", moved(gold)),
        None => format!("On held-out prompts {proxy}."),
    };
    Some(text)
}

/// Held-out KL where evaluated, else the mean of the last tenth of training.
fn final_kl(data: &ReportData) -> Option<String> {
    let held_out = data.comparison.as_ref().and_then(|c| c.aligned.overall.kl_exact);
    let (kl, shown) = match held_out {
        Some(e) => (e.mean, interval(e.mean, e.ci, false)),
        None => {
            let mut steps = points(&data.series, "objective/kl_exact");
            if steps.is_empty() {
                steps = points(&data.series, "objective/kl");
            }
            let tail = &steps[steps.len() - steps.len().div_ceil(10)..];
            let mean = tail.iter().map(|p| p.1).sum::<f64>() / tail.len() as f64;
            (mean, num(mean))
        }
    };
    if !kl.is_finite() {
        return None;
    }
    let against = data.kl_target.filter(|t| *t > 0.0).map(|t| {
        let off = kl / t - 1.0;
        if off.abs() < 0.005 {
            return format!(", on its target of {}", num(t));
        }
        format!(
            ", {} {} its target of {}",
            percent(off.abs()),
            if off > 0.0 { "above" } else { "below" },
            num(t)
        )
    });
    Some(format!("It ended {shown} nats per sequence from the reference{}.", against.unwrap_or_default()))
}

fn refusals(c: &Comparison) -> Option<String> {
    let (b, a) = (&c.baseline.overall, &c.aligned.overall);
    let part = |before: Option<crate::Share>, after: Option<crate::Share>, what: &str| {
        let (before, after) = (before?, after?);
        Some(format!("{} of {what} prompts (before {})", percent(after.share), percent(before.share)))
    };
    let parts: Vec<String> = [
        part(b.refusal_unsafe, a.refusal_unsafe, "unsafe"),
        part(b.refusal_benign, a.refusal_benign, "benign"),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| format!("It refuses {}.", parts.join(" and ")))
}

/// Overoptimisation: proxy up while gold is down, or gold well below its own peak during training.
fn overoptimised(data: &ReportData, c: &Comparison) -> Option<String> {
    let proxy_up = c.change.score?.direction() == Ordering::Greater;
    if proxy_up && c.change.gold?.direction() == Ordering::Less {
        return Some("The reward model was exploited: the proxy rose while gold fell.".into());
    }
    let gold = points(&data.series, "eval/gold");
    let sd = c.baseline.overall.gold?.sd;
    if gold.len() < 10 || sd <= 0.0 {
        return None;
    }
    let window = (gold.len() / 10).max(2);
    let means: Vec<f64> =
        gold.windows(window).map(|w| w.iter().map(|p| p.1).sum::<f64>() / window as f64).collect();
    let (at, peak) = means.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let fall = (peak - means.last()?) / sd;
    let step = gold[at + window / 2].0;
    (fall >= 0.3).then(|| {
        format!("Gold peaked near step {step:.0} and ended {} standard deviations below: a sign of overoptimisation.", brief(fall))
    })
}
