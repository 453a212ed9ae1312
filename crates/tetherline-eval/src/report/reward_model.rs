//! The reward model: training loss, accuracy on held-out pairs beside simple baselines, calibration, accuracy by domain, by
//! length difference and by agreement of labelers.

use super::{
    GroupAccuracy, ReliabilityBin, ReportData, RewardModelReport,
    curves::loss,
    html::{bracket, escape, missing, num, percent},
    scale::Axis,
};
use crate::Share;
use std::fmt::Write;

pub(super) fn section(data: &ReportData) -> String {
    let mut charts = loss("Training loss", "nats per pair", &data.reward_loss).figure();
    let mut out = String::new();
    if let Some(r) = &data.reward_model {
        out += &facts(r);
        charts += &reliability(&r.bins);
        out += &baselines(r);
        let domains = r.domains.iter().map(|(d, a)| (d.as_str(), a.n, a.accuracy));
        charts += &accuracies("Accuracy by domain", "% of held-out pairs", domains, r);
        let groups = |of: &'static str, unit, groups: &[GroupAccuracy]| {
            let rows: Vec<_> = groups.iter().map(|g| (g.group.as_str(), g.n, g.accuracy)).collect();
            accuracies(of, unit, rows.into_iter(), r)
        };
        let longer = "%, by how many tokens the better answer is longer";
        charts += &groups("Accuracy by length difference", longer, &r.by_length);
        charts += &groups(
            "Accuracy by agreement",
            "%, by the share of labelers who agree with the label",
            &r.by_agreement,
        );
    }
    if out.is_empty() && charts.is_empty() {
        return missing("No reward model was trained in this run.");
    }
    if data.reward_model.is_none() {
        out += &missing("The reward model was not evaluated on held-out pairs.");
    }
    if !charts.is_empty() {
        let _ = writeln!(out, "<div class=\"charts\">\n{charts}</div>");
    }
    out
}

fn facts(r: &RewardModelReport) -> String {
    let mut out = format!(
        "<p class=\"note\">On {} held-out pairs it prefers the better response in <b>{}</b> of them{}, by a score {} higher on average.",
        r.n,
        percent(r.accuracy),
        hits(r.accuracy, r.n).map_or(String::new(), |s| format!(" {}", interval(s.ci))),
        num(r.margin)
    );
    if let Some(ece) = r.ece {
        let points = num(100.0 * ece);
        let _ = write!(
            out,
            " Its probabilities miss by {points} percentage points (expected calibration error)."
        );
    }
    if let Some(c) = r.length_correlation {
        let _ = write!(out, " Its score correlates with length by {}.", num(c));
    }
    out + "</p>\n"
}

fn interval((low, high): (f64, f64)) -> String {
    bracket((100.0 * low, 100.0 * high), false)
}

/// A table of what the accuracy should be compared with; nothing where only the model was measured.
fn baselines(r: &RewardModelReport) -> String {
    let mut rows = Vec::new();
    if let Some((longer, accuracy)) = r.length_only {
        let rule = if longer { "the longer answer is better" } else { "the shorter answer is better" };
        rows.push((format!("length alone: {rule}"), accuracy));
    }
    if let Some(accuracy) = r.bag_of_words {
        rows.push(("a bag of words, fitted on the training pairs".to_owned(), accuracy));
    }
    for (i, &accuracy) in r.members.iter().enumerate() {
        rows.push((format!("member {} of the ensemble alone", i + 1), accuracy));
    }
    if rows.is_empty() && r.noise_ceiling.is_none() {
        return String::new();
    }
    rows.push(("<strong>the reward model</strong>".to_owned(), r.accuracy));
    let mut out = String::from(
        "<div class=\"scroll\"><table class=\"numbers\"><thead><tr><th>held-out accuracy</th><th></th><th>95 %</th></tr></thead><tbody>\n",
    );
    for (what, accuracy) in rows {
        let ci = hits(accuracy, r.n).map_or(String::new(), |s| interval(s.ci));
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{what}</th><td>{}</td><td class=\"ci\">{ci}</td></tr>",
            percent(accuracy)
        );
    }
    if let Some(ceiling) = r.noise_ceiling {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">noise ceiling: a perfect model against one labeler</th><td>{}</td><td></td></tr>",
            percent(ceiling)
        );
    }
    out += "</tbody></table></div>\n";
    if let Some(d) = r.disagreement {
        let _ = writeln!(
            out,
            "<p class=\"note\">The members of the ensemble differ by {} standard deviations of their own scores on average.</p>",
            num(d)
        );
    }
    out
}

fn hits(accuracy: f64, n: usize) -> Option<Share> {
    Share::new(accuracy * n as f64, n)
}

/// Predicted probability against what came true; a perfect model lies on the diagonal.
fn reliability(bins: &[ReliabilityBin]) -> String {
    let bins: Vec<_> = bins.iter().filter(|b| b.n > 0 && b.accuracy.is_finite()).collect();
    if bins.is_empty() {
        return String::new();
    }
    let low = if bins.iter().all(|b| b.confidence >= 0.5) { 50.0 } else { 0.0 };
    let (left, right, top, foot) = (42.0, 312.0, 12.0, 190.0);
    let (x, y) = (Axis::linear(low, 100.0, 5, true), Axis::linear(0.0f64.max(low - 25.0), 100.0, 4, true));
    let px = |v: f64| left + x.at(v) * (right - left);
    let py = |v: f64| foot - y.at(v).clamp(0.0, 1.0) * (foot - top);
    let mut out = String::from(
        "<figure class=\"chart\"><figcaption><b>Reliability</b> <span>% of pairs ordered as predicted</span></figcaption>\n\
         <svg viewBox=\"0 0 400 226\" role=\"img\" aria-label=\"Reliability: predicted probability against the share that came true\">\n",
    );
    for &t in &y.ticks {
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{left:.1} {:.1}H{right:.1}\"/><text class=\"tick e\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            py(t),
            left - 6.0,
            py(t) + 4.0,
            y.label(t)
        );
    }
    for &t in &x.ticks {
        let _ = write!(
            out,
            "<text class=\"tick m\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            px(t),
            foot + 16.0,
            x.label(t)
        );
    }
    let _ = write!(
        out,
        "<text class=\"name e\" x=\"{right:.1}\" y=\"{:.1}\">predicted probability, %</text>",
        foot + 31.0
    );
    let _ = write!(
        out,
        "<path class=\"target\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/><text class=\"end target-label\" x=\"{:.1}\" y=\"{:.1}\">perfect</text>",
        px(low),
        py(low),
        px(100.0),
        py(100.0),
        right + 6.0,
        py(100.0) + 4.0
    );
    let most = bins.iter().map(|b| b.n).max().unwrap_or(1) as f64;
    for b in bins {
        let (cx, cy) = (px(100.0 * b.confidence), py(100.0 * b.accuracy));
        let ci = hits(b.accuracy, b.n).map_or((b.accuracy, b.accuracy), |s| s.ci);
        let ci = (100.0 * ci.0, 100.0 * ci.1);
        let radius = 2.5 + 4.0 * (b.n as f64 / most).sqrt();
        let _ = write!(
            out,
            "<g><title>predicted {}: {} came true {}, {} pairs</title><path class=\"whisker c1\" d=\"M{cx:.1} {:.1}V{:.1}\"/><circle class=\"dot c1\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius:.1}\"/></g>",
            percent(b.confidence),
            percent(b.accuracy),
            bracket(ci, false),
            b.n,
            py(ci.0),
            py(ci.1)
        );
    }
    out + "</svg></figure>\n"
}

/// A group's name, cut where it would leave the figure; its whole is shown on hover.
fn short(group: &str) -> String {
    const MOST: usize = 15;
    if group.chars().count() <= MOST {
        return group.to_owned();
    }
    group.chars().take(MOST - 1).chain(['…']).collect()
}

/// A dot with its 95 % interval for each group; the dashed line is the overall accuracy.
fn accuracies<'a>(
    title: &str,
    unit: &str,
    groups: impl Iterator<Item = (&'a str, usize, f64)>,
    r: &RewardModelReport,
) -> String {
    let overall = r.accuracy;
    let rows: Vec<_> = groups.filter_map(|(g, n, a)| Some((g, n, a, hits(a, n)?))).collect();
    if rows.is_empty() {
        return String::new();
    }
    let low = rows.iter().map(|r| r.3.ci.0).fold(0.5, f64::min);
    let axis = Axis::linear(100.0 * low, 100.0, 5, true);
    let (left, right, step) = (98.0, 340.0, 22.0);
    let foot = 14.0 + step * rows.len() as f64;
    let px = |v: f64| left + axis.at(v) * (right - left);
    let mut out = format!(
        "<figure class=\"chart\"><figcaption><b>{title}</b> <span>{unit}</span></figcaption>\n\
         <svg viewBox=\"0 0 400 {:.0}\" role=\"img\" aria-label=\"{title}\">\n",
        foot + 36.0
    );
    for &t in &axis.ticks {
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{:.1} 8V{foot:.1}\"/><text class=\"tick m\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            px(t),
            px(t),
            foot + 16.0,
            axis.label(t)
        );
    }
    let _ = write!(
        out,
        "<path class=\"target\" d=\"M{0:.1} 8V{foot:.1}\"/><text class=\"name m target-label\" x=\"{0:.1}\" y=\"{1:.1}\">overall {2}</text>",
        px(100.0 * overall),
        foot + 31.0,
        percent(overall)
    );
    for (i, (group, n, accuracy, share)) in rows.into_iter().enumerate() {
        let cy = 8.0 + step * (i as f64 + 0.5);
        let _ = write!(
            out,
            "<g><title>{0}: {1} {2}, {3} pairs</title><text class=\"tick e\" x=\"{4:.1}\" y=\"{5:.1}\">{10}</text>\
             <path class=\"whisker c1\" d=\"M{6:.1} {cy:.1}H{7:.1}\"/><circle class=\"dot c1\" cx=\"{8:.1}\" cy=\"{cy:.1}\" r=\"4\"/>\
             <text class=\"end\" x=\"{9:.1}\" y=\"{5:.1}\">{1}</text></g>",
            escape(group),
            percent(accuracy),
            bracket((100.0 * share.ci.0, 100.0 * share.ci.1), false),
            n,
            left - 8.0,
            cy + 4.0,
            px(100.0 * share.ci.0),
            px(100.0 * share.ci.1),
            px(100.0 * accuracy),
            right + 10.0,
            escape(&short(group))
        );
    }
    out + "</svg></figure>\n"
}
