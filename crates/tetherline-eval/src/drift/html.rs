//! A drift as one HTML page, in the style of the run's report.

use super::text::{LEVELS, level, p_value};
use super::visible::visible;
use super::{Behaviour, Drift, Pair, Part, Phrase, Phrases, Side};
use crate::report::html::{escape, interval, missing, num, percent, table};
use crate::report::page::Page;
use std::fmt::Write;

/// Rows of a table before the rest is left to the JSON.
const ROWS: usize = 20;

pub(super) fn render(d: &Drift) -> String {
    let kl = d.kl_nats_per_sequence;
    let headline = format!("{} nats per sequence from the reference", interval(kl.mean, None, false));
    let sentences = [d.sentence()];
    let page = Page {
        title: "Drift between two policies",
        name: &visible(&d.policy),
        headline: &headline,
        sentences: &sentences,
        notes: format!("<span>reference <b>{}</b></span>", safe(&d.reference)),
        style: super::STYLE,
    };
    page.with(&sections(d))
}

impl Drift {
    /// The numbers in one sentence.
    pub(crate) fn sentence(&self) -> String {
        let (kl, token) = (self.kl_nats_per_sequence, self.kl_nats_per_token);
        format!(
            "Exact KL over the vocabulary: {} nats per sequence, {} nats per token, on {} {} to {} prompts at temperature {}.",
            interval(kl.mean, kl.ci, false),
            interval(token.mean, token.ci, false),
            self.responses,
            self.origin(),
            self.prompts,
            self.temperature
        )
    }
}

pub(super) fn sections(d: &Drift) -> Vec<(&'static str, &'static str, String)> {
    vec![
        ("where", "Where the drift is", where_it_is(d)),
        ("words", "What gained and what lost", words(d)),
        ("behaviour", "Behaviour", behaviours(&d.behaviours)),
        ("pairs", "Side by side", pairs(&d.pairs)),
    ]
}

fn safe(text: &str) -> String {
    escape(&visible(text))
}

fn where_it_is(d: &Drift) -> String {
    let s = &d.shares;
    let mut out = String::new();
    if let Some(r) = d.reverse_kl_nats_per_sequence {
        let _ = writeln!(
            out,
            "<p class=\"note\">The other way round, KL(reference ‖ policy) on the reference’s own responses: <b>{}</b> nats \
             per sequence. Mean log-ratio of the {}: {} nats per sequence.</p>",
            interval(r.mean, r.ci, false),
            d.origin(),
            interval(d.log_ratio_nats_per_sequence.mean, d.log_ratio_nats_per_sequence.ci, false)
        );
    }
    let no_user = |p: &Part| if p.name.is_empty() { "<i>(no user)</i>".into() } else { safe(&p.name) };
    let prompt = |p: &Part| format!("{}: {}", p.id.unwrap_or_default(), shortened(&p.name, 90));
    let token = |p: &Part| format!("<code>{}</code>", shown_piece(&p.name));
    type Name<'a> = &'a dyn Fn(&Part) -> String;
    let groups: [(&str, &[Part], Name<'_>, usize); 5] = [
        ("By domain", &s.domains, &|p| safe(&p.name), ROWS),
        ("By user", &s.users, &no_user, ROWS),
        ("By position in the response", &s.positions, &|p| safe(&p.name), usize::MAX),
        ("By prompt", &s.prompts, &prompt, 10),
        ("By token written", &s.tokens, &token, ROWS),
    ];
    for (title, parts, name, rows) in groups {
        if parts.len() > 1 || title.contains("position") {
            let _ = write!(out, "<h3>{title}</h3>\n{}", parts_table(title, parts, name, rows));
        }
    }
    out
}

/// Text of a line, cut off after `n` characters.
fn shortened(text: &str, n: usize) -> String {
    let line = super::one_line(text);
    if line.chars().count() <= n {
        return escape(&line);
    }
    escape(&line.chars().take(n).collect::<String>()) + "…"
}

/// A token with its spaces seen.
fn shown_piece(piece: &str) -> String {
    escape(&super::one_line(piece).replace(' ', "␣"))
}

fn parts_table(title: &str, parts: &[Part], name: &dyn Fn(&Part) -> String, rows: usize) -> String {
    let shown = rows.min(parts.len());
    let bar = |share: f64| {
        format!("<span class=\"share\"><i style=\"width:{:.1}%\"></i></span>", 100.0 * share.clamp(0.0, 1.0))
    };
    let mut lines: Vec<Vec<String>> = parts[..shown]
        .iter()
        .map(|p| {
            vec![
                name(p),
                bar(p.share),
                format!("<strong>{}</strong>", percent(p.share)),
                num(p.kl_nats_per_sequence),
                num(p.kl_nats_per_token),
                p.responses.to_string(),
            ]
        })
        .collect();
    if shown < parts.len() {
        let share: f64 = parts[shown..].iter().map(|p| p.share).sum();
        let rest = format!("<i>{} more</i>", parts.len() - shown);
        lines.push(vec![rest, bar(share), percent(share), String::new(), String::new(), String::new()]);
    }
    table(
        "numbers parts",
        title,
        &["", "", "Share of the KL", "Nats per sequence", "Nats per token", "Responses"],
        &lines,
    )
}

fn words(d: &Drift) -> String {
    let (Some(phrases), Some(tokens)) = (&d.phrase_changes, &d.token_changes) else {
        return missing("The reference was not asked to answer, so there is nothing to compare with.");
    };
    let mut out = format!(
        "<p class=\"note\">Share of responses that have it. Listed is what passes Fisher’s exact test at a false discovery \
         rate of 5 %, of {} phrases and {} tokens tested.</p>\n",
        phrases.tested, tokens.tested
    );
    for (name, changes) in [("Phrases", phrases), ("Tokens", tokens)] {
        let _ = write!(out, "<h3>{name}</h3>\n<div class=\"gained-lost\">");
        out += &changes_table(&format!("{name} that gained"), &changes.gained, d, changes);
        out += &changes_table(&format!("{name} that lost"), &changes.lost, d, changes);
        out += "</div>\n";
    }
    out
}

fn changes_table(title: &str, list: &[Phrase], d: &Drift, changes: &Phrases) -> String {
    if list.is_empty() {
        let (n, m) = (changes.policy_responses, changes.reference_responses);
        return format!(
            "<div><h4>{title}</h4>{}</div>",
            missing(&format!("None, of {n} and {m} responses."))
        );
    }
    let rows: Vec<Vec<String>> = list
        .iter()
        .take(ROWS)
        .map(|p| {
            let shown = p.example.filter(|at| d.pairs.iter().any(|x| (x.prompt_id, x.sample) == *at));
            let text = if p.id.is_some() { shown_piece(&p.text) } else { safe(&p.text) };
            let name = match shown {
                Some((prompt, sample)) => format!("<a href=\"#p{prompt}-{sample}\">{text}</a>"),
                None => text,
            };
            vec![
                if p.id.is_some() { format!("<code>{name}</code>") } else { name },
                percent(p.reference_share),
                format!("<strong>{}</strong>", percent(p.policy_share)),
                p_value(p.p_value),
            ]
        })
        .collect();
    let head = ["", "Reference", "Policy", "p"];
    format!("<div><h4>{title}</h4>{}</div>", table("numbers", title, &head, &rows))
}

pub(super) fn behaviours(all: &[Behaviour]) -> String {
    if all.is_empty() {
        return missing("The reference was not asked to answer, so there is nothing to compare with.");
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|b| {
            let change = interval(b.change.mean, b.change.ci, true);
            let clear = b.change.direction() != std::cmp::Ordering::Equal;
            vec![
                format!("{} <span class=\"ci\">{}</span>", safe(&b.name), safe(&b.unit)),
                num(b.reference),
                num(b.policy),
                if clear { format!("<strong>{change}</strong>") } else { change },
            ]
        })
        .collect();
    table("numbers", "Behaviour", &["", "Reference", "Policy", "Change, 95 % interval"], &rows)
        + "<p class=\"note\">Read from lists of English words and from marks; bold where the interval leaves out 0.</p>\n"
}

fn pairs(all: &[Pair]) -> String {
    if all.is_empty() {
        return missing("No responses were kept.");
    }
    let scale: String = (1..=5)
        .map(|l| format!("<span class=\"k{l}\">from {}</span>", LEVELS[l - 1]))
        .collect::<Vec<_>>()
        .join(" ");
    let mut out = format!(
        "<p class=\"note\">Each token is coloured by the exact KL at its position, in nats: {scale}. On the policy’s side \
         KL(policy ‖ reference), on the reference’s the reverse.</p>\n"
    );
    for p in all {
        let user = if p.user.is_empty() {
            String::new()
        } else {
            format!("<span class=\"tag\">{}</span>", safe(&p.user))
        };
        let _ = write!(
            out,
            "<article class=\"sample\" id=\"p{}-{}\"><p class=\"prompt\"><span class=\"tag\">{}</span>{user}\
             <span class=\"tag\">{}</span>{}</p>\n<div class=\"sides\">",
            p.prompt_id,
            p.sample,
            safe(&p.domain),
            safe(&p.why),
            safe(&p.prompt)
        );
        if let Some(r) = &p.reference {
            out += &side("Reference", "grey", r);
        }
        out += &side("Policy", "c1", &p.policy);
        out += "</div></article>\n";
    }
    out
}

fn side(name: &str, class: &str, s: &Side) -> String {
    let mut text = String::new();
    for t in &s.tokens {
        let (l, piece) = (level(t.kl_nats), safe(&t.text));
        if l == 0 {
            text += &piece;
            continue;
        }
        let _ = write!(
            text,
            "<span class=\"k{l}\" title=\"KL {} nats, log-ratio {}\">{piece}</span>",
            num(t.kl_nats),
            num(t.log_ratio_nats)
        );
    }
    format!(
        "<div class=\"side {class}\"><p class=\"who\"><b>{name}</b><span>KL <b>{}</b> nats</span></p><p class=\"said\">{text}</p></div>",
        num(s.kl_nats)
    )
}
