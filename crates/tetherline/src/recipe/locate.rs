//! Where in a TOML text a dotted key stands, so that an error can name file, line and column.

use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A place in a file, for people: 1-based line and column, and the line's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
    /// The line itself.
    pub text: String,
    /// How many characters of the line are meant.
    pub width: usize,
}

impl Place {
    /// The place of a byte span of `source`.
    pub fn of(source: &str, span: Range<usize>) -> Self {
        let start = floor_char(source, span.start.min(source.len()));
        let line_start = source[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |i| start + i);
        let end = floor_char(source, span.end.clamp(start, line_end));
        Self {
            line: source[..start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            text: source[line_start..line_end].trim_end().to_owned(),
            width: source[start..end].chars().count().max(1),
        }
    }

    /// Two lines: the text with its line number, and a marker below.
    pub fn excerpt(&self) -> String {
        let number = self.line.to_string();
        let gap = " ".repeat(number.len());
        let before: String = self.text.chars().take(self.column - 1).map(tab_or_space).collect();
        format!("  {number} | {}\n  {gap} | {before}{}", self.text, "^".repeat(self.width))
    }
}

fn tab_or_space(c: char) -> char {
    if c == '\t' { '\t' } else { ' ' }
}

fn floor_char(text: &str, mut i: usize) -> usize {
    while !text.is_char_boundary(i) {
        i -= 1;
    }
    i
}

/// The span of the key `path` (dotted; array elements by index, `reward.rule[0].weight` or `reward.rule.0.weight`),
/// or of the deepest part of it that the text has. `None` where not even the first part is there.
///
/// A table that holds nothing but one table, as `{ keyword = { weight = 1 } }`, is looked through.
pub(crate) fn key_span(source: &str, path: &str) -> Option<Range<usize>> {
    let table = DeTable::parse(source).ok()?;
    let mut best = None;
    let mut here = Node::Table(table.get_ref());
    for part in path.split(['.', '[']).map(|part| part.trim_end_matches(']')) {
        let next = match here {
            Node::Table(t) => find(t, part).or_else(|| find(only_table(t)?, part)),
            Node::Array(a) => part.parse().ok().and_then(|i: usize| a.get(i)).map(|v| (v.span(), v)),
            Node::Leaf => None,
        };
        let Some((span, value)) = next else { break };
        best = Some(span);
        here = match value.get_ref() {
            DeValue::Table(t) => Node::Table(t),
            DeValue::Array(a) => Node::Array(a),
            _ => Node::Leaf,
        };
    }
    best
}

fn find<'a, 'i>(table: &'a DeTable<'i>, key: &str) -> Option<(Range<usize>, &'a Spanned<DeValue<'i>>)> {
    table.iter().find(|(k, _)| k.get_ref() == key).map(|(k, v)| (k.span(), v))
}

fn only_table<'a, 'i>(table: &'a DeTable<'i>) -> Option<&'a DeTable<'i>> {
    match (table.len(), table.iter().next()?.1.get_ref()) {
        (1, DeValue::Table(inner)) => Some(inner),
        _ => None,
    }
}

enum Node<'a, 'i> {
    Table(&'a DeTable<'i>),
    Array(&'a [Spanned<DeValue<'i>>]),
    Leaf,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "seed = 1\n\n[kl.adaptive]\n# target\n  target = -6.0\n\n[[reward.rule]]\nw = 1\n[[reward.rule]]\nw = 2\n";

    fn place(path: &str) -> Option<(usize, usize)> {
        key_span(TEXT, path).map(|s| Place::of(TEXT, s)).map(|p| (p.line, p.column))
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        assert_eq!(place("seed"), Some((1, 1)));
        assert_eq!(place("kl.adaptive.target"), Some((5, 3)));
        assert_eq!(place("reward.rule.1.w"), Some((10, 1)));
        assert_eq!(place("reward.rule[1].w"), Some((10, 1)));
        assert_eq!(place("reward.rule[1].words[0]"), Some((9, 1)), "the element that lacks it");
        assert_eq!(place("kl.adaptive.horizon"), Some((3, 5)), "the table that lacks it");
        assert_eq!(place("ppo.lr"), None);
    }

    #[test]
    fn the_name_of_a_variant_is_looked_through() {
        let text = "[[rule]]\nkeyword = { words = [], w = 3 }\n";
        let place = |path| Place::of(text, key_span(text, path).unwrap());
        assert_eq!((place("rule.0.w").line, place("rule.0.w").column), (2, 25));
    }

    #[test]
    fn an_excerpt_marks_the_key() {
        let p = Place::of(TEXT, key_span(TEXT, "kl.adaptive.target").unwrap());
        assert_eq!(p.excerpt(), "  5 |   target = -6.0\n    |   ^^^^^^");
    }

    #[test]
    fn a_span_past_the_end_or_inside_a_character_is_harmless() {
        assert_eq!(Place::of("é", 1..9).column, 1);
        assert_eq!(Place::of("a\n", 2..2).line, 2);
        assert_eq!(Place::of("", 5..7).line, 1);
    }
}
