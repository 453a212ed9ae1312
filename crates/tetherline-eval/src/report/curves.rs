//! The curves of training: overall, per domain, proxy against gold, and the supervised stage.

use super::{
    ReportData,
    data::LossPoint,
    html::missing,
    plot::{Line, Plot, range},
};
use std::collections::BTreeSet;
use tetherline_core::Metrics;

/// (step, value) of a key; a step without a number of its own counts from 1.
pub(super) fn points(series: &[Metrics], key: &str) -> Vec<(f64, f64)> {
    let at =
        |(i, m): (usize, &Metrics)| Some((m.get("step").copied().unwrap_or(i as f64 + 1.0), *m.get(key)?));
    series.iter().enumerate().filter_map(at).collect()
}

fn line(series: &[Metrics], key: &str, name: &str, class: &'static str) -> Line {
    Line { name: name.into(), class, points: points(series, key), ..Line::default() }
}

fn plot(title: &str, unit: &str, lines: Vec<Line>) -> Plot {
    let lines = lines.into_iter().filter(|l| !l.points.is_empty()).collect();
    Plot { title: title.into(), unit: unit.into(), x_label: "PPO step".into(), lines, ..Plot::default() }
}

fn grid(class: &str, plots: &[Plot]) -> String {
    let figures: String = plots.iter().map(Plot::figure).collect();
    if figures.is_empty() { figures } else { format!("<div class=\"{class}\">\n{figures}</div>\n") }
}

/// k1 with its band beneath the exact KL, and the target.
fn kl(data: &ReportData) -> Plot {
    let s = &data.series;
    let exact = line(s, "objective/kl_exact", "exact", "c1");
    let both = !exact.points.is_empty();
    let mut k1 = line(s, "objective/kl", "k1", if both { "grey" } else { "c1" });
    k1.thin = both;
    let errors = points(s, "objective/kl_stderr");
    k1.band = k1
        .points
        .iter()
        .filter_map(|&(x, mean)| {
            let se = errors.iter().find(|e| e.0 == x)?.1;
            Some((x, mean - 1.96 * se, mean + 1.96 * se))
        })
        .collect();
    let unit = if k1.band.is_empty() { "nats per sequence" } else { "nats per sequence, 95 % band of k1" };
    let mut p = plot("KL to the reference", unit, vec![k1, exact]);
    p.target = data.kl_target.map(|t| ("target".into(), t));
    p.from_zero = true;
    p
}

pub(super) fn section(data: &ReportData) -> String {
    let s = &data.series;
    if s.is_empty() {
        return missing("No PPO steps were logged.");
    }
    let mut penalised = line(s, "objective/rlhf_reward", "less β·KL", "grey");
    penalised.thin = true;
    let mut beta = plot("KL coefficient β", "score per nat", vec![line(s, "objective/kl_coef", "", "c4")]);
    let (low, high) = range(beta.lines.iter().flat_map(|l| &l.points).map(|p| p.1));
    beta.log = low > 0.0 && high / low > 20.0;
    beta.from_zero = !beta.log;
    beta.marks = super::control::interventions(data).iter().map(|i| (i.step, i.sentence())).collect();
    let main = [
        plot("Proxy score", "mean of the batch", vec![penalised, line(s, "objective/scores", "score", "c1")]),
        plot("Gold score", "never seen in training", vec![line(s, "eval/gold", "", "c2")]),
        kl(data),
        beta,
        entropy(data),
        Plot {
            from_zero: true,
            ..plot("Response length", "tokens", vec![line(s, "response/length", "", "c3")])
        },
    ];
    let clip: Vec<_> = points(s, "policy/clipfrac_avg").into_iter().map(|p| (p.0, 100.0 * p.1)).collect();
    let clip = Line { class: "c3", points: clip, ..Line::default() };
    let worst = Line { thin: true, ..line(s, "val/ratio_max", "largest", "grey") };
    let health = [
        Plot { from_zero: true, ..plot("Clip fraction", "% of tokens", vec![clip]) },
        Plot {
            from_zero: true,
            ..plot(
                "Approximate KL of an update",
                "nats per token",
                vec![line(s, "policy/approxkl_avg", "", "c1")],
            )
        },
        Plot {
            log: true,
            ..plot("Importance ratio", "new over old policy", vec![worst, line(s, "val/ratio", "mean", "c1")])
        },
        plot("Policy loss", "", vec![line(s, "loss/policy_avg", "", "c4")]),
        Plot {
            from_zero: true,
            ..plot("Value loss", "squared score", vec![line(s, "loss/value_avg", "", "c4")])
        },
        Plot {
            from_zero: true,
            ..plot("Gradient norm", "before clipping", vec![line(s, "grad_norm", "", "c3")])
        },
    ];
    let absent: Vec<&str> = main.iter().filter(|p| p.is_empty()).map(|p| p.title.as_str()).collect();
    let mut out = grid("charts", &main);
    if !absent.is_empty() {
        out += &missing(&format!("Not logged in this run: {}.", absent.join(", ")));
    }
    let health = grid("charts", &health);
    if !health.is_empty() {
        out += "<h3>Health of the updates</h3>\n";
        out += &health;
    }
    out
}

fn entropy(data: &ReportData) -> Plot {
    let per_token = line(&data.series, "policy/entropy_avg", "", "c3");
    if per_token.points.is_empty() {
        let sampled = line(&data.series, "objective/entropy", "", "c3");
        return Plot {
            from_zero: true,
            ..plot("Entropy", "nats per sequence, of the samples", vec![sampled])
        };
    }
    Plot { from_zero: true, ..plot("Policy entropy", "nats per token", vec![per_token]) }
}

/// One small panel per domain, with a common scale within each quantity.
pub(super) fn domains(data: &ReportData) -> String {
    let parts = |key: &str| {
        key.strip_prefix("domain/")
            .and_then(|k| k.rsplit_once('/'))
            .map(|(d, q)| (d.to_owned(), q.to_owned()))
    };
    let keys: BTreeSet<(String, String)> =
        data.series.iter().flat_map(|m| m.keys()).filter_map(|k| parts(k)).collect();
    let domains: BTreeSet<&String> = keys.iter().map(|k| &k.0).collect();
    if domains.is_empty() {
        return missing("No per-domain metrics were logged.");
    }
    let mut out = String::new();
    for (quantity, heading, class, from_zero) in [
        ("kl", "KL to the reference, nats per sequence; dashed: the domain’s own target", "c1", true),
        ("score", "Proxy score", "c1", false),
        ("kl_coef", "KL coefficient β, score per nat", "c4", true),
    ] {
        let key = |d: &str| format!("domain/{d}/{quantity}");
        let target = |d: &String| data.domain_targets.get(d).copied().filter(|_| quantity == "kl");
        let values = domains.iter().flat_map(|d| points(&data.series, &key(d))).map(|p| p.1);
        let targets = domains.iter().filter_map(|d| target(d));
        let all = values.chain(targets).chain(from_zero.then_some(0.0)).filter(|v| v.is_finite());
        let y_range = Some(range(all));
        let panels: Vec<Plot> = domains
            .iter()
            .map(|d| Plot {
                small: true,
                from_zero,
                y_range,
                target: target(d).map(|t| ("target".into(), t)),
                ..plot(d, "", vec![line(&data.series, &key(d), "", class)])
            })
            .collect();
        let panels = grid("panels", &panels);
        if !panels.is_empty() {
            out += &format!("<h3>{heading}</h3>\n{panels}");
        }
    }
    out
}

/// Change since the first step against √KL, as in Gao et al. 2023 (arXiv:2210.10760, figure 1).
pub(super) fn proxy_against_gold(data: &ReportData) -> String {
    let mut distance = points(&data.series, "objective/kl_exact");
    if distance.is_empty() {
        distance = points(&data.series, "objective/kl");
    }
    let overall = data.comparison.as_ref().map(|c| &c.baseline.overall);
    let sds = overall.and_then(|o| Some((o.score.sd, o.gold?.sd))).filter(|s| s.0 > 0.0 && s.1 > 0.0);
    let curve = |key: &str, name: &str, class, sd: f64| {
        let values = points(&data.series, key);
        let first = values.iter().find(|p| p.1.is_finite()).map_or(0.0, |p| p.1);
        let at = |&(step, v): &(f64, f64)| {
            let kl = distance.iter().find(|d| d.0 == step)?.1;
            Some((kl.max(0.0).sqrt(), (v - first) / sd))
        };
        Line { name: name.into(), class, points: values.iter().filter_map(at).collect(), ..Line::default() }
    };
    let (proxy_sd, gold_sd) = sds.unwrap_or((1.0, 1.0));
    let gold = curve("eval/gold", "gold", "c2", gold_sd);
    if gold.points.is_empty() {
        return missing("This needs a gold score and KL at the same steps; they were not logged.");
    }
    let unit = if sds.is_some() { "standard deviations of the baseline" } else { "score" };
    let mut p = plot(
        "Change since the first step",
        unit,
        vec![curve("objective/scores", "proxy", "c1", proxy_sd), gold],
    );
    p.x_label = "√KL, √nats per sequence".into();
    p.scatter = true;
    format!(
        "<div class=\"beside\">\n{}<p class=\"note\">Each dot is a PPO step; the lines are moving averages in the order \
         of training. Proxy is the reward that was maximised, gold the rubric that training never saw. Where the \
         proxy keeps rising and gold turns down, the policy has begun to exploit the reward model.</p>\n</div>\n",
        p.figure()
    )
}

/// A training-loss curve with held-out points.
pub(super) fn loss(title: &str, unit: &str, series: &[LossPoint]) -> Plot {
    let train = series.iter().map(|p| (p.step, p.train)).collect();
    let held: Vec<_> = series.iter().filter_map(|p| Some((p.step, p.held_out?))).collect();
    let name = if held.is_empty() { "" } else { "train" };
    let mut lines = vec![Line {
        name: name.into(),
        class: "c3",
        points: train,
        thin: !held.is_empty(),
        ..Line::default()
    }];
    if !held.is_empty() {
        lines.push(Line { name: "held out".into(), class: "c1", points: held, ..Line::default() });
    }
    Plot { x_label: "optimizer step".into(), ..plot(title, unit, lines) }
}

pub(super) fn sft(data: &ReportData) -> String {
    if data.sft.is_empty() {
        return missing("No supervised stage was run.");
    }
    grid("charts", &[loss("Loss", "nats per token", &data.sft)])
}
