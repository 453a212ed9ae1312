//! Responses before and after, side by side.

use super::{
    ReportData, SamplePair, SampleSide,
    html::{escape, missing, score},
};

const OPEN: usize = 8;

pub(super) fn section(data: &ReportData) -> String {
    if data.samples.is_empty() {
        return missing("No samples were kept.");
    }
    let (first, rest) = data.samples.split_at(data.samples.len().min(OPEN));
    let mut out: String = first.iter().map(pair).collect();
    if !rest.is_empty() {
        out += &format!("<details><summary>{} more</summary>\n", rest.len());
        out.extend(rest.iter().map(pair));
        out += "</details>\n";
    }
    out
}

fn pair(s: &SamplePair) -> String {
    format!(
        "<article class=\"sample\"><p class=\"prompt\"><span class=\"tag\">{}</span>{}</p>\n<div class=\"sides\">{}{}</div></article>\n",
        escape(&s.domain),
        escape(&s.prompt),
        side("Baseline", "grey", &s.baseline),
        side("Aligned", "c1", &s.aligned)
    )
}

fn side(name: &str, class: &str, s: &SampleSide) -> String {
    let gold = s.gold.map(|g| format!("<span>gold <b>{}</b></span>", score(g))).unwrap_or_default();
    // What a tokenizer puts in front of a word is no part of what is read.
    let text = s.response.trim();
    let text = if text.is_empty() { "<i>(empty)</i>".into() } else { escape(text) };
    format!(
        "<div class=\"side {class}\"><p class=\"who\"><b>{name}</b><span>proxy <b>{}</b></span>{gold}</p><p class=\"said\">{text}</p></div>",
        score(s.score)
    )
}
