//! Escaping and small pieces of HTML.

use crate::format;

/// Text made safe inside elements and double-quoted attributes; those that act become `�`: what HTML forbids, and
/// what reorders or hides text.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if crate::drift::acts(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A page that stands alone: the report's style sheet, a heading, a few sentences, and a body of HTML.
pub(super) fn page(title: &str, heading: &str, ledes: &[String], body: &str) -> String {
    let ledes: String = ledes.iter().map(|l| format!("<p class=\"lede\">{}</p>\n", escape(l))).collect();
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n\
         <body>\n<header>\n<p class=\"eyebrow\">{title}</p>\n<h1>{}</h1>\n{ledes}</header>\n<main>\n{body}</main>\n\
         </body>\n</html>\n",
        include_str!("style.css"),
        escape(heading)
    )
}

/// The line that stands where something was not measured.
pub(crate) fn missing(text: &str) -> String {
    format!("<p class=\"missing\">{}</p>\n", escape(text))
}

/// A table inside a box that scrolls sideways by itself. `head` and `rows` are HTML.
pub(crate) fn table(class: &str, label: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table class=\"{class}\"><thead><tr>",
        escape(label)
    );
    for h in head {
        out += &format!("<th scope=\"col\">{h}</th>");
    }
    out += "</tr></thead><tbody>\n";
    for row in rows {
        out += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            out +=
                &if i == 0 { format!("<th scope=\"row\">{cell}</th>") } else { format!("<td>{cell}</td>") };
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}

/// Replaces the hyphen of negative numbers by a minus sign.
pub(crate) fn minus(text: String) -> String {
    text.replace('-', "−")
}

/// A number alone, three significant digits; tiny ones as powers of ten.
pub(crate) fn num(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 {
        return minus(format!("{x:.1e}"));
    }
    minus(format::fixed(x, format::decimals_alone(x)))
}

/// A number in a sentence, two significant digits.
pub(crate) fn brief(x: f64) -> String {
    minus(format::fixed(x, format::decimals_brief(x)))
}

/// `before → after`, with the same decimals.
pub(super) fn arrow(before: Option<f64>, after: Option<f64>) -> String {
    let largest = before.unwrap_or(0.0).abs().max(after.unwrap_or(0.0).abs());
    let d = format::decimals_alone(largest);
    let side = |x: Option<f64>| x.map_or_else(|| "–".into(), |x| minus(format::fixed(x, d)));
    format!("{} → {}", side(before), side(after))
}

/// A score of one response, two decimals.
pub(super) fn score(x: f64) -> String {
    minus(format::signed(x, 2))
}

/// `mean [low, high]`.
pub(crate) fn interval(mean: f64, ci: Option<(f64, f64)>, plus: bool) -> String {
    minus(format::interval(mean, ci, plus))
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    let p = 100.0 * share;
    minus(format::fixed(p, usize::from(p.abs() < 99.95 && p != 0.0))) + " %"
}

/// A share with its interval, or a change of one, in per cent with one decimal.
pub(super) fn percents(share: f64, ci: Option<(f64, f64)>, plus: bool) -> String {
    let ci = ci.map(|(low, high)| (100.0 * low, 100.0 * high));
    minus(format::interval_with(1, 100.0 * share, ci, plus))
}

/// The interval part alone, `[low, high]`, with the digits that [`interval`] would use.
pub(super) fn bracket(ci: (f64, f64), plus: bool) -> String {
    let d = format::interval_decimals(0.0, Some(ci));
    let show = if plus { format::signed } else { format::fixed };
    minus(format!("[{}, {}]", show(ci.0, d), show(ci.1, d)))
}
