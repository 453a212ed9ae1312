//! The run report: one self-contained HTML file, no scripts, no fonts, no network.
//!
//! [`ReportData`] is everything the report can show; [`render`] draws it. What is missing is left out with
//! a line that says so. Charts are inline SVG (`plot.rs`), colours come from one style sheet with a light
//! and a dark scheme, and every text that a model or a user wrote is escaped.

mod ab;
mod control;
mod curves;
mod data;
pub(crate) mod drift_path;
mod frontier;
mod headline;
pub(crate) mod html;
pub(crate) mod page;
mod plot;
mod result;
mod reward_model;
mod samples;
mod scale;

pub use ab::ab_page;
pub use data::{
    DomainAccuracy, GroupAccuracy, LossPoint, NotFinite, ReliabilityBin, ReportData, RewardModelReport,
    SamplePair, SampleSide, StageNote, sample_pairs,
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
    let page = page::Page {
        title: &data.title,
        name: &data.run_name,
        headline: &headline.title,
        sentences: &headline.sentences,
        notes: stages(data),
        style: "",
    };
    page.with(&sections)
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
