//! The run report: one self-contained HTML file, no scripts, no fonts, no network.
//!
//! [`ReportData`] is everything the report can show; [`render`] draws it. What is missing is left out with
//! a line that says so. Charts are inline SVG (`plot.rs`), colours come from one style sheet with a light
//! and a dark scheme, and every text that a model or a user wrote is escaped.

mod ab;
mod control;
mod curves;
mod data;
mod frontier;
mod headline;
mod html;
mod plot;
mod result;
mod reward_model;
mod samples;
mod scale;

pub use ab::ab_page;
pub use data::{
    DomainAccuracy, GroupAccuracy, LossPoint, ReliabilityBin, ReportData, RewardModelReport, SamplePair,
    SampleSide, StageNote, sample_pairs,
};

pub use frontier::{frontier_page, frontier_svg};
use html::escape;
use std::fmt::Write;

/// Draws the report.
pub fn render(data: &ReportData) -> String {
    let headline = headline::headline(data);
    let sections = [
        ("result", "Result", result::section(data)),
        ("curves", "Training curves", curves::section(data)),
        ("domains", "By domain", curves::domains(data)),
        ("overoptimisation", "Proxy against gold", curves::proxy_against_gold(data)),
        ("control", "Control decisions", control::section(data)),
        ("samples", "Before and after", samples::section(data)),
        ("reward-model", "Reward model", reward_model::section(data)),
        ("sft", "Supervised fine-tuning", curves::sft(data)),
        ("recipe", "Recipe", recipe(data)),
    ];
    let mut out = String::with_capacity(1 << 18);
    let title = escape(&data.title);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · {}</title>\n\
         <style>\n{}</style>\n</head>\n<body>\n<header>\n<p class=\"eyebrow\">{title}</p>\n<h1>{}</h1>\n",
        escape(&data.run_name),
        include_str!("report/style.css"),
        escape(&headline.title),
    );
    for sentence in &headline.sentences {
        let _ = writeln!(out, "<p class=\"lede\">{}</p>", escape(sentence));
    }
    let _ = writeln!(
        out,
        "<p class=\"meta\"><span class=\"mono\">{}</span>{}</p>",
        escape(&data.run_name),
        stages(data)
    );
    out.push_str("</header>\n<nav aria-label=\"Sections\">");
    for (id, name, _) in &sections {
        let _ = write!(out, "<a href=\"#{id}\">{name}</a>");
    }
    out.push_str("</nav>\n<main>\n");
    for (id, name, body) in &sections {
        let _ = write!(out, "<section id=\"{id}\">\n<h2>{name}</h2>\n{body}</section>\n");
    }
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn stages(data: &ReportData) -> String {
    data.stages.iter().fold(String::new(), |mut out, s| {
        let _ = write!(out, "<span class=\"stage\"><b>{}</b> {}</span>", escape(&s.name), escape(&s.detail));
        out
    })
}

fn recipe(data: &ReportData) -> String {
    if data.recipe.is_empty() {
        return html::missing("The resolved recipe was not given.");
    }
    format!(
        "<details><summary>The fully resolved recipe, {} lines</summary>\n<pre>{}</pre></details>\n",
        data.recipe.lines().count(),
        escape(&data.recipe)
    )
}

#[cfg(test)]
mod tests;
