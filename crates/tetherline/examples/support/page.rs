//! Tables, intervals, and the measured part of a page.

use super::Args;
use super::figure::{Panel, svg};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tetherline::eval::{Estimate, interval};
use tetherline_core::BoxError;

/// A mean over seeds with the 95 % interval of Student's t, as `0.52 [0.49, 0.55]`.
pub(crate) fn over_seeds(values: &[f64]) -> String {
    Estimate::of(values).map_or_else(|| "–".to_owned(), |e| interval(e.mean, e.ci, false))
}

/// As [`over_seeds`] with a plus sign: of a difference, paired by seed.
pub(crate) fn change(values: &[f64]) -> String {
    Estimate::of(values).map_or_else(|| "–".to_owned(), |e| interval(e.mean, e.ci, true))
}

/// Mean and 95 % interval over seeds; the interval is the mean where there is one seed.
pub(crate) fn bounds(values: &[f64]) -> (f64, (f64, f64)) {
    Estimate::of(values)
        .map_or((f64::NAN, (f64::NAN, f64::NAN)), |e| (e.mean, e.ci.unwrap_or((e.mean, e.mean))))
}

/// A table in Markdown.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out
}

/// The figures of an experiment: file name without `.svg`, and panels.
pub(crate) type Figures = Vec<(String, Vec<Panel>)>;

/// Prints what was measured, leaves numbers and figures in `--out`, and with `--docs` puts tables and figures into the page
/// `docs/experiments/NAME.md`, between its marks.
///
/// # Errors
/// If a file cannot be written, or the page has no marks.
pub(crate) fn write(
    args: &Args,
    name: &str,
    measured: &str,
    numbers: &serde_json::Value,
    figures: &Figures,
) -> Result<(), BoxError> {
    println!("{measured}");
    put(&args.out.join(format!("{name}.json")), &format!("{numbers:#}\n"))?;
    for (figure, panels) in figures {
        put(&args.out.join(format!("{figure}.svg")), &svg(panels))?;
    }
    if args.docs {
        let docs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/experiments"));
        for (figure, panels) in figures {
            put(&docs.join(format!("{figure}.svg")), &svg(panels))?;
        }
        let page = docs.join(format!("{name}.md"));
        let old =
            std::fs::read_to_string(&page).map_err(|e| format!("cannot read {}: {e}", page.display()))?;
        put(&page, &with_measured(&old, name, measured)?)?;
    }
    println!("numbers and figures: {}", args.out.display());
    Ok(())
}

/// `page` with what stands between the marks replaced.
fn with_measured(page: &str, name: &str, measured: &str) -> Result<String, BoxError> {
    let begin = format!("<!-- measured: written by the example {name} with --docs -->\n");
    let end = "<!-- end of what is measured -->";
    let (before, rest) = page.split_once(&begin).ok_or_else(|| format!("{name}.md has no line {begin}"))?;
    let (_, after) = rest.split_once(end).ok_or_else(|| format!("{name}.md has no line {end}"))?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", measured.trim()))
}

fn put(path: &Path, text: &str) -> Result<(), BoxError> {
    std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}
