//! An explanation as tables for a terminal.

use super::{Decisions, Explanation, RewardFit, Update};
use crate::drift::layout::{WIDTH, cut, padded};
use crate::drift::{TextStyle, one_line};
use crate::format::{interval, signed};
use crate::regression::Regression;
use std::fmt::Write;

pub(super) fn render(e: &Explanation, style: TextStyle) -> String {
    let mut out = format!("{}: {}\n", one_line(&e.run), e.stretch());
    out += &updates(e, style.rows);
    out += &decisions(&e.decisions, style.rows);
    if let Some(fit) = &e.reward {
        out += &reward(fit);
    }
    out += &moves(e);
    for note in &e.notes {
        let _ = writeln!(out, "\nnote: {}", one_line(note));
    }
    if let Some(d) = &e.drift {
        let _ = write!(out, "\n{}\n\n{}", one_line(&e.compared), d.text(style));
    }
    out
}

fn rule(out: &mut String) {
    let _ = writeln!(out, "{}", "─".repeat(WIDTH));
}

fn optional(x: Option<f64>) -> String {
    x.map_or_else(
        || "-".into(),
        |x| if x != 0.0 && x.abs() < 1e-3 { format!("{x:.1e}") } else { interval(x, None, false) },
    )
}

fn updates(e: &Explanation, rows: usize) -> String {
    let u = &e.updates;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\nKL to the reference {} → {} nats per sequence ({}), measured after",
        interval(u.kl_nats_before, None, false),
        interval(u.kl_nats_after, None, false),
        signed(u.total_nats(), 3)
    );
    let sources: Vec<String> =
        u.anchors.iter().map(|a| format!("{} ({})", a.anchor.after, a.source)).collect();
    let shown = if sources.len() > 6 {
        format!("{}, … {} more …, {}", sources[..2].join(", "), sources.len() - 3, sources[sources.len() - 1])
    } else {
        sources.join(", ")
    };
    let _ = writeln!(out, "{} updates; in between as the log has it", cut(&shown, WIDTH - 41));
    let _ = writeln!(
        out,
        "\n{:<8}{:>24}{:>9}  {:<14}{:>9}{:>10}{:>9}  verdicts",
        "update", "contribution ± error", "of total", "", "β", "lr", "score"
    );
    rule(&mut out);
    let largest = e.largest();
    let most = largest.first().map_or(0.0, |u| u.contribution.nats.abs());
    let mut shown: Vec<&Update> = largest.iter().take(rows).copied().collect();
    shown.sort_by_key(|u| u.contribution.update);
    for update in shown {
        let c = &update.contribution;
        let error = match (c.measured, c.stderr) {
            (true, _) => "  measured".to_owned(),
            (_, Some(s)) => format!(" ± {s:.3}"),
            (_, None) => String::new(),
        };
        let share = if u.total_nats() == 0.0 {
            "-".into()
        } else {
            format!("{:.1}%", 100.0 * c.nats / u.total_nats())
        };
        let filled = if most > 0.0 { (14.0 * c.nats.abs() / most).round() as usize } else { 0 };
        let bar = if c.nats < 0.0 { "░" } else { "▇" }.repeat(filled);
        let mut verdicts = super::folded(&update.verdicts);
        if !c.stood && verdicts.is_empty() {
            verdicts = "undone".into();
        }
        let _ = writeln!(
            out,
            "{:<8}{:>24}{:>9}  {}{:>9}{:>10}{:>9}  {}",
            c.update,
            format!("{}{error}", signed(c.nats, 3)),
            share,
            padded(&bar, 14),
            optional(update.beta),
            optional(update.lr),
            optional(update.score),
            cut(&one_line(&verdicts), 13)
        );
    }
    if largest.len() > rows {
        let rest: f64 = largest[rows..].iter().map(|u| u.contribution.nats).sum();
        let _ = writeln!(out, "{} more: {} together", largest.len() - rows, signed(rest, 3));
    }
    rule(&mut out);
    let sum: f64 = u.each.iter().map(|u| u.contribution.nats).sum();
    let _ = writeln!(
        out,
        "sum of all {}: {} of {} nats per sequence",
        u.each.len(),
        signed(sum, 3),
        signed(u.total_nats(), 3)
    );
    out
}

fn decisions(d: &Decisions, rows: usize) -> String {
    let mut out = format!("\ncontroller {}", cut(&one_line(&d.law), 40));
    if let Some(target) = d.target_nats {
        let _ = write!(out, ", target {} nats per sequence", interval(target, None, false));
    }
    out.push('\n');
    for (id, b) in &d.betas {
        let _ = writeln!(
            out,
            "  β {}{:>10} → {:<10} between {} and {}",
            padded(&one_line(id), 24),
            optional(Some(b.first)),
            optional(Some(b.last)),
            optional(Some(b.least)),
            optional(Some(b.largest))
        );
    }
    for b in &d.budgets {
        let linked = if b.metrics.is_empty() {
            String::new()
        } else {
            format!(", linked to {}", b.metrics.join("; "))
        };
        let text =
            format!("  budget {}: {} nats per sequence{linked}", b.id, interval(b.target_nats, None, false));
        let _ = writeln!(out, "{}", cut(&one_line(&text), WIDTH));
    }
    let counts: Vec<String> = d.verdicts.iter().map(|(v, n)| format!("{n} {v}")).collect();
    let _ = writeln!(
        out,
        "  verdicts: {}",
        if counts.is_empty() { "none logged".into() } else { cut(&one_line(&counts.join(", ")), 80) }
    );
    for line in d.lines.iter().take(rows) {
        let kl = line.kl_nats.map_or_else(String::new, |kl| format!(" (KL {})", interval(kl, None, false)));
        let trials = match &line.shares[..] {
            [] => String::new(),
            [.., last] => {
                format!(" after {} trials, down to {}", line.shares.len(), interval(*last, None, false))
            }
        };
        let text = format!("  step {} {} {}{trials}{kl}: {}", line.step, line.phase, line.what, line.text);
        let _ = writeln!(out, "{}", cut(&one_line(&text), WIDTH));
    }
    if d.lines.len() > rows {
        let _ = writeln!(out, "  … and {} more", d.lines.len() - rows);
    }
    out
}

fn reward(fit: &RewardFit) -> String {
    let mut out = String::from("\nlog-ratio of a response (nats) on the parts of its reward\n");
    rule(&mut out);
    let mut section = |title: &str, r: &Regression| {
        let _ = writeln!(
            out,
            "{title}: R² {:.3}{}, {} responses",
            r.r_squared,
            r.r_squared_adjusted.map_or_else(String::new, |a| format!(" (adjusted {a:.3})")),
            r.n
        );
        for t in &r.terms {
            let error = t.stderr.map_or_else(String::new, |s| format!(" ± {s:.3}"));
            let _ = writeln!(
                out,
                "  {}{:>22} nats per unit, explains {:.3} alone",
                padded(&one_line(&t.name), 34),
                format!("{}{error}", signed(t.coefficient, 3)),
                t.r_squared_alone
            );
        }
        if !r.left_out.is_empty() {
            let _ = writeln!(
                out,
                "  constant, or a combination of others: {}",
                cut(&one_line(&r.left_out.join(", ")), 60)
            );
        }
    };
    if let Some(r) = &fit.pooled {
        section("over all responses", r);
    }
    if let Some(r) = &fit.within_prompts {
        section("within prompts", r);
    }
    if let Some(x) = fit.length_r_squared {
        let with =
            fit.with_length_r_squared.map_or_else(String::new, |w| format!("; with the reward {w:.3}"));
        let _ = writeln!(out, "length alone: R² {x:.3}{with}");
    }
    if let Some(x) = fit.inverse_beta {
        let _ = writeln!(
            out,
            "at the optimum of this β every unit of score would be worth 1/β = {} nats",
            interval(x, None, false)
        );
    }
    out
}

fn moves(e: &Explanation) -> String {
    if e.moves.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n");
    let _ = writeln!(out, "{:<44}{:>16}{:>16}{:>16}", "logged metric", "first tenth", "last tenth", "change");
    rule(&mut out);
    for m in &e.moves {
        let change = m.after - m.before;
        let _ = writeln!(
            out,
            "{}{:>16}{:>16}{:>16}",
            padded(&one_line(&m.key), 44),
            interval(m.before, None, false),
            interval(m.after, None, false),
            interval(change, None, true)
        );
    }
    out
}
