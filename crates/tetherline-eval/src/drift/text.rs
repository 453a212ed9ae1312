//! A drift as tables for a terminal, at most 100 columns wide.

use super::visible::{columns, cut, one_line, padded};
use super::{Behaviour, Drift, Pair, Part, Phrase, Phrases, ShownToken, Side};
use crate::bootstrap::Ratio;
use crate::format::{interval, signed};
use std::fmt::Write;

/// Columns of the widest line.
pub(crate) const WIDTH: usize = 100;

/// How to draw for a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextStyle {
    /// Colour tokens by their KL, with ANSI escape sequences: for a terminal only.
    pub colour: bool,
    /// Rows of each table.
    pub rows: usize,
    /// Pairs of responses.
    pub pairs: usize,
}

/// From so many nats on a token has the next colour.
pub(super) const LEVELS: [f64; 5] = [0.05, 0.2, 0.5, 1.0, 2.0];

/// The colour of a token, 0 (none) to 5.
pub(super) fn level(kl_nats: f64) -> usize {
    LEVELS.iter().filter(|from| kl_nats >= **from).count()
}

/// 256-colour backgrounds, pale yellow to red; black on them is legible on any terminal.
const BACKGROUNDS: [u8; 6] = [0, 230, 223, 216, 209, 203];

pub(super) fn render(d: &Drift, style: TextStyle) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "policy     {}", cut(&one_line(&d.policy), WIDTH - 11));
    let _ = writeln!(out, "reference  {}", cut(&one_line(&d.reference), WIDTH - 11));
    let _ = writeln!(
        out,
        "{} {} to {} prompts, {} tokens, temperature {}\n",
        d.responses,
        d.origin(),
        d.prompts,
        d.tokens,
        d.temperature
    );
    let mut line = |label: &str, r: Ratio, unit: &str| {
        let _ = writeln!(out, "{label:<34}{:>26}  {unit}", interval(r.mean, r.ci, false));
    };
    line("KL(policy ‖ reference)", d.kl_nats_per_sequence, "nats per sequence");
    line("", d.kl_nats_per_token, "nats per token");
    line("mean log-ratio of the responses", d.log_ratio_nats_per_sequence, "nats per sequence");
    if let Some(r) = d.reverse_kl_nats_per_sequence {
        line("KL(reference ‖ policy)", r, "nats per sequence");
    }
    out.push_str("exact over the vocabulary; [95 % bootstrap interval over prompts]\n");
    out.push_str(&where_it_is(d, style.rows));
    if let Some(changes) = &d.phrase_changes {
        out.push_str(&phrases("phrases", changes, style.rows));
    }
    if let Some(changes) = &d.token_changes {
        out.push_str(&phrases("tokens", changes, style.rows));
    }
    out.push_str(&behaviours(&d.behaviours));
    out.push_str(&pairs(&d.pairs, style));
    out
}

impl Drift {
    /// What the responses are.
    pub(super) fn origin(&self) -> &'static str {
        if self.given { "given responses" } else { "responses of the policy" }
    }
}

fn rule(out: &mut String) {
    let _ = writeln!(out, "{}", "─".repeat(WIDTH));
}

const NAME: usize = 42;

/// Where the text of a response begins.
const INDENT: usize = 15;

fn where_it_is(d: &Drift, rows: usize) -> String {
    let s = &d.shares;
    let mut out = String::from("\n");
    let _ = writeln!(
        out,
        "{:<NAME$}{:>8}  {:<16}{:>11}{:>10}{:>11}",
        "where the KL is", "share", "", "nats/seq", "nats/tok", "responses"
    );
    rule(&mut out);
    let groups: [(&str, &[Part], bool); 5] = [
        ("by domain", &s.domains, false),
        ("by user", &s.users, false),
        ("by prompt", &s.prompts, false),
        ("by position", &s.positions, true),
        ("by token written", &s.tokens, false),
    ];
    for (title, parts, all) in groups {
        // One group says nothing that the head does not.
        if parts.len() < 2 && title != "by position" {
            continue;
        }
        let shown = if all { parts.len() } else { rows.min(parts.len()) };
        let _ = writeln!(out, "{title}");
        for p in &parts[..shown] {
            part(&mut out, title, p);
        }
        if shown < parts.len() {
            let rest = &parts[shown..];
            let share: f64 = rest.iter().map(|p| p.share).sum();
            let name = format!("  {} more", rest.len());
            let _ = writeln!(out, "{}{:>7.1}%  {}", padded(&name, NAME), 100.0 * share, bar(share));
        }
    }
    rule(&mut out);
    out
}

fn bar(share: f64) -> String {
    let filled = (16.0 * share.clamp(0.0, 1.0)).round() as usize;
    "▇".repeat(filled) + &" ".repeat(16 - filled)
}

fn part(out: &mut String, title: &str, p: &Part) {
    let name = match title {
        "by user" if p.name.is_empty() => "(no user)".to_owned(),
        "by prompt" => format!("{}: {}", p.id.unwrap_or_default(), one_line(&p.name)),
        "by token written" => quoted(&p.name),
        _ => one_line(&p.name),
    };
    let _ = writeln!(
        out,
        "{}{:>7.1}%  {}{:>11}{:>10}{:>11}",
        padded(&format!("  {name}"), NAME),
        100.0 * p.share,
        bar(p.share),
        interval(p.kl_nats_per_sequence, None, false),
        interval(p.kl_nats_per_token, None, false),
        p.responses
    );
}

/// A token as it stands, with its spaces seen.
fn quoted(piece: &str) -> String {
    format!("“{}”", one_line(piece))
}

fn phrases(what: &str, changes: &Phrases, rows: usize) -> String {
    let mut out = format!("\n{what} that gained or lost: share of responses, reference → policy\n");
    rule(&mut out);
    let mut side = |sign: char, list: &[Phrase]| {
        for p in list.iter().take(rows) {
            let name = if p.id.is_some() { quoted(&p.text) } else { one_line(&p.text) };
            let example = p.example.map_or_else(String::new, |(prompt, _)| format!("prompt {prompt}"));
            let _ = writeln!(
                out,
                "{sign} {}{:>6.1}% → {:>5.1}%   p {:<9}{}",
                padded(&name, 56),
                100.0 * p.reference_share,
                100.0 * p.policy_share,
                p_value(p.p_value),
                cut(&example, 14)
            );
        }
        if list.len() > rows {
            let _ = writeln!(out, "{sign} … and {} more", list.len() - rows);
        }
    };
    side('+', &changes.gained);
    side('-', &changes.lost);
    if changes.gained.is_empty() && changes.lost.is_empty() {
        out.push_str("none of them significantly\n");
    }
    let _ = writeln!(out, "{} tested, Fisher's exact test, false discovery rate 5 %", changes.tested);
    out
}

pub(super) fn p_value(p: f64) -> String {
    if p < 1e-4 { format!("{p:.0e}") } else { format!("{p:.4}") }
}

fn behaviours(all: &[Behaviour]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n");
    let _ = writeln!(
        out,
        "{:<20}{:<18}{:>12}{:>12}   {:>32}",
        "behaviour", "unit", "reference", "policy", "change [95 % interval]"
    );
    rule(&mut out);
    for b in all {
        let _ = writeln!(
            out,
            "{:<20}{:<18}{:>12}{:>12}   {:>32}",
            b.name,
            b.unit,
            interval(b.reference, None, false),
            interval(b.policy, None, false),
            interval(b.change.mean, b.change.ci, true)
        );
    }
    out
}

fn pairs(all: &[Pair], style: TextStyle) -> String {
    if style.pairs == 0 || all.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\nside by side; the tokens of P carry KL(policy ‖ reference), those of R the reverse\n",
    );
    if style.colour {
        let ranges: Vec<String> = (1..=5).map(|l| paint(&format!(" ≥ {} ", LEVELS[l - 1]), l)).collect();
        let _ = writeln!(out, "colours, nats: {}", ranges.join(" "));
    }
    rule(&mut out);
    for p in all.iter().take(style.pairs) {
        let user = if p.user.is_empty() { String::new() } else { format!(", user {}", p.user) };
        let head = format!("prompt {} [{}{user}] {}", p.prompt_id, p.domain, p.why);
        let _ = writeln!(out, "{}", cut(&one_line(&head), WIDTH));
        let _ = writeln!(out, "  {}", cut(&one_line(&p.prompt), WIDTH - 2));
        side(&mut out, 'P', &p.policy, style.colour);
        if let Some(r) = &p.reference {
            side(&mut out, 'R', r, style.colour);
        }
        out.push('\n');
    }
    out
}

fn paint(text: &str, level: usize) -> String {
    if level == 0 {
        text.to_owned()
    } else {
        format!("\u{1b}[48;5;{};38;5;16m{text}\u{1b}[0m", BACKGROUNDS[level])
    }
}

/// The tokens of a response, wrapped; without colour the largest follow as a list.
fn side(out: &mut String, name: char, s: &Side, colour: bool) {
    let indent = " ".repeat(INDENT);
    let mut column = indent.len();
    let head = format!("{name} {:>5} nats ", interval(s.kl_nats, None, false));
    out.push_str(&padded(&head, INDENT));
    for t in &s.tokens {
        let mut text = one_line(&t.text);
        if column > indent.len() && column + columns(&text) > WIDTH {
            let _ = write!(out, "\n{indent}");
            column = indent.len();
        }
        text = cut(&text, WIDTH - indent.len());
        column += columns(&text);
        out.push_str(&if colour { paint(&text, level(t.kl_nats)) } else { text });
    }
    out.push('\n');
    if !colour {
        let mut largest: Vec<&ShownToken> = s.tokens.iter().filter(|t| level(t.kl_nats) > 0).collect();
        largest.sort_by(|a, b| b.kl_nats.total_cmp(&a.kl_nats));
        let list: Vec<String> = largest
            .iter()
            .take(5)
            .map(|t| {
                format!("{} {:.2} ({})", cut(&quoted(&t.text), 20), t.kl_nats, signed(t.log_ratio_nats, 2))
            })
            .collect();
        if !list.is_empty() {
            let text = format!("most: {}", list.join(", "));
            let _ = writeln!(out, "{indent}{}", cut(&text, WIDTH - indent.len()));
        }
    }
}
