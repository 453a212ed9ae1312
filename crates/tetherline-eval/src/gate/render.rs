//! The verdict for a terminal (at most 100 columns) and for CI (JUnit XML).

use super::{Checked, GateReport, Outcome, Pairing, Rule};
use crate::format::{decimals_alone, fixed};
use std::fmt::Write;

/// Columns of the table.
const WIDTH: usize = 100;

/// A number as the tables show it.
pub(super) fn short(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 { format!("{x:.2e}") } else { fixed(x, decimals_alone(x)) }
}

/// A count with a thin gap between thousands; not whole where cases were shared out among prompts.
pub(super) fn count(x: f64) -> String {
    let whole = format!("{:.0}", x);
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

impl Rule {
    fn text(self, limit: Option<f64>) -> String {
        let limit = limit.map_or_else(|| "none".to_owned(), short);
        match self {
            Rule::Max => format!("≤ {limit}"),
            Rule::Min => format!("≥ {limit}"),
            Rule::MaxChange => format!("Δ ≤ {limit}"),
            Rule::MinChange => format!("Δ ≥ {limit}"),
            Rule::MaxRatio => format!("× ≤ {limit}"),
            Rule::MinRatio => format!("× ≥ {limit}"),
            Rule::NonInferior { .. } => format!("Δ < {limit}"),
        }
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::Missing => "MISSING",
            Outcome::Unusable => "UNUSABLE",
        }
    }
}

impl GateReport {
    /// The table, the reason below each check that has one, and the verdict.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let bound = format!("{} % bound", short(100.0 * self.confidence).trim_end_matches(".0"));
        let _ = writeln!(
            text,
            "{:<27}{:>12}{:>12}{:>14}{:>23}  verdict",
            "gate", "candidate", "baseline", bound, "limit"
        );
        let _ = writeln!(text, "{}", "─".repeat(WIDTH));
        for check in &self.checks {
            let cell = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), short);
            let mut bound = cell(check.bound);
            if check.bound.is_some() && !check.is_confidence_bound {
                bound.push('*');
            }
            let _ = writeln!(
                text,
                "{:<27}{:>12}{:>12}{:>14}{:>23}  {}",
                cut(&check.gate, 26),
                cell(check.candidate),
                cell(check.baseline),
                bound,
                check.limit_text(),
                check.outcome.word()
            );
            if !check.why.is_empty() {
                wrap(&mut text, &check.why, 4);
            }
        }
        let _ = writeln!(text, "{}", "─".repeat(WIDTH));
        if self.checks.iter().any(|c| c.bound.is_some() && !c.is_confidence_bound) {
            text.push_str("* without a standard error: the number itself is compared\n");
        }
        let passed = self.checks.iter().filter(|c| c.outcome == Outcome::Pass).count();
        let verdict = if self.passed { "passed" } else { "REFUSED" };
        let _ = writeln!(text, "{verdict}: {passed} of {} gates", self.checks.len());
        text
    }

    /// JUnit XML, which every CI can show: one test case per check.
    pub fn junit(&self) -> String {
        let failed = self.checks.iter().filter(|c| c.outcome != Outcome::Pass).count();
        let counts =
            format!("tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"0\"", self.checks.len());
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(text, "<testsuites {counts}>\n  <testsuite name=\"tether gate\" {counts}>");
        for check in &self.checks {
            let name = escape(&format!("{} {}", check.gate, check.rule.text(check.limit)));
            let _ = write!(text, "    <testcase classname=\"tether.gate\" name=\"{name}\"");
            text.push_str(&match check.outcome {
                Outcome::Pass => "/>\n".to_owned(),
                _ => format!(
                    "><failure type=\"{}\" message=\"{}\"/></testcase>\n",
                    check.outcome.word().to_lowercase(),
                    escape(&check.message())
                ),
            });
        }
        text.push_str("  </testsuite>\n</testsuites>\n");
        text
    }
}

impl Checked {
    /// The limit, and how a change was compared with it.
    fn limit_text(&self) -> String {
        let limit = self.rule.text(self.limit);
        match self.pairing {
            Some(Pairing::Paired) => format!("paired {limit}"),
            Some(Pairing::Unpaired) => format!("unpaired {limit}"),
            None => limit,
        }
    }

    /// What failed, with its numbers.
    fn message(&self) -> String {
        let cell = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), short);
        format!(
            "{}: candidate {}, baseline {}, bound {}, limit {}: {}",
            self.metric,
            cell(self.candidate),
            cell(self.baseline),
            cell(self.bound),
            self.limit_text(),
            self.why
        )
    }
}

/// Text of an XML attribute. Control characters, which XML has no way to write, become spaces.
fn escape(text: &str) -> String {
    let one = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// Words in lines of the table's width, each indented.
fn wrap(out: &mut String, text: &str, indent: usize) {
    let mut column = 0;
    for word in text.split(' ') {
        let n = word.chars().count();
        if column > 0 && column + 1 + n > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            out.push_str(&" ".repeat(indent));
            column = indent + n;
        } else {
            out.push(' ');
            column += 1 + n;
        }
        out.push_str(word);
    }
    out.push('\n');
}
