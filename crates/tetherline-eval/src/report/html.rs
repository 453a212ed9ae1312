//! Escaping and small pieces of HTML.

use crate::format;

/// Text made safe inside elements and double-quoted attributes; characters that HTML forbids become `�`.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The line that stands where something was not measured.
pub(super) fn missing(text: &str) -> String {
    format!("<p class=\"missing\">{}</p>\n", escape(text))
}

/// A table inside a box that scrolls sideways by itself. `head` and `rows` are HTML.
pub(super) fn table(class: &str, label: &str, head: &[&str], rows: &[Vec<String>]) -> String {
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
pub(super) fn minus(text: String) -> String {
    text.replace('-', "−")
}

/// A number alone, three significant digits.
pub(super) fn num(x: f64) -> String {
    minus(format::fixed(x, format::decimals_alone(x)))
}

/// A number with an explicit plus.
pub(super) fn plus(x: f64) -> String {
    minus(format::signed(x, format::decimals_alone(x)))
}

/// `mean [low, high]`.
pub(super) fn interval(mean: f64, ci: Option<(f64, f64)>, plus: bool) -> String {
    minus(format::interval(mean, ci, plus))
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    let p = 100.0 * share;
    minus(format::fixed(p, usize::from(p.abs() < 99.95 && p != 0.0))) + " %"
}

/// The interval part alone, `[low, high]`, with the digits that [`interval`] would use.
pub(super) fn bracket(ci: (f64, f64), plus: bool) -> String {
    let d = format::decimals_within((ci.1 - ci.0) / 2.0);
    let show = if plus { format::signed } else { format::fixed };
    minus(format!("[{}, {}]", show(ci.0, d), show(ci.1, d)))
}
