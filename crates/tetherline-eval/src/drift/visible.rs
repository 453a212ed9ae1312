//! Text of models and users made inert: what is shown is what is there, and nothing of it acts.
//!
//! Terminals obey escape sequences (C0 and C1 controls), and both terminals and browsers reorder text at bidirectional
//! controls; other format characters are invisible. All of them become `�`.

/// Whether a character shows as itself and does nothing else.
pub(crate) fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with line breaks and tabs, and every other character that acts as `�`.
pub fn visible(text: &str) -> String {
    text.chars().map(|c| if acts(c) && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

/// As [`visible`], on one line: a line break shows as `⏎`, a tab as a space.
pub fn one_line(text: &str) -> String {
    let one = |c: char| match c {
        '\n' => '⏎',
        '\t' => ' ',
        c => c,
    };
    visible(text).chars().map(one).collect()
}

/// Columns of a terminal that a character takes, roughly: two for East Asian wide ones and emoji.
pub(crate) fn columns(text: &str) -> usize {
    let wide = |c: char| {
        matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff
            | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd)
    };
    text.chars().map(|c| 1 + usize::from(wide(c))).sum()
}

/// At most `width` columns of a text, the last one `…` where something was cut off.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let (mut out, mut used) = (String::new(), 0);
    for c in text.chars() {
        let n = columns(c.encode_utf8(&mut [0; 4]));
        if used + n + 1 > width {
            break;
        }
        out.push(c);
        used += n;
    }
    out + "…"
}

/// [`cut`], filled up with spaces.
pub(crate) fn padded(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let fill = width.saturating_sub(columns(&text));
    text + &" ".repeat(fill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_is_left() {
        let evil = "a\u{1b}[31mred\u{9b}2J\u{202e}txt\u{200b}\r\n\tb\u{7}\u{7f}\u{2066}";
        let safe = visible(evil);
        assert_eq!(safe, "a�[31mred�2J�txt��\n\tb���");
        assert_eq!(one_line(evil), "a�[31mred�2J�txt��⏎ b���");
        assert_eq!(visible("naïve 日本 🙂 — ok"), "naïve 日本 🙂 — ok");
    }

    #[test]
    fn columns_are_kept() {
        assert_eq!(columns("ab日"), 4);
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(padded("日本語", 4), "日… ");
    }
}
