//! Marks inside a rendered conversation: what somebody typed, and what the assistant wrote.
//!
//! A *control token* is an added token that steers a chat model, such as `<|im_end|>`. Written by the
//! template it is that token; typed by somebody it is text. Where a message holds one, it is wrapped in two
//! private characters before the template runs, and the rendering is cut there ([`Piece`]). This is what
//! `apply_chat_template(…, sanitize_control_tokens=True)` of transformers 5.23 does
//! (`chat_template_utils.mark_control_tokens`), with one difference: in a message of the *assistant* only
//! special tokens count as typed, since a model writes the others (`<think>`, `<tool_call>`) itself.

use crate::Message;
use std::ops::Range;

/// Around typed control tokens; the characters that transformers uses.
const TYPED: [char; 2] = ['\u{f0000}', '\u{f0001}'];
/// Around what a `{% generation %}` block printed.
pub(crate) const WRITTEN: [char; 2] = ['\u{f0002}', '\u{f0003}'];

/// A stretch of a rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Whether it is a control token that a message holds: encode it as plain text.
    pub typed: bool,
}

/// A rendered conversation in pieces; the first one is never typed, and may be empty. One piece, the whole
/// text, where no message holds a control token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// In their order.
    pub pieces: Vec<Piece>,
    /// What the assistant wrote: byte ranges of the pieces' joined text, in order. Filled by
    /// [`ChatTemplate::render_masked`](crate::ChatTemplate::render_masked) alone.
    pub assistant: Vec<Range<usize>>,
}

impl Rendered {
    /// The text without marks.
    pub fn text(&self) -> String {
        self.pieces.iter().map(|p| p.text.as_str()).collect()
    }

    /// Takes the marks out of a rendering. Marks that the template tore apart are dropped, but still cut.
    pub(crate) fn from_marked(marked: &str, control: &ControlTokens) -> Self {
        let mut out = Self { pieces: vec![Piece::default()], assistant: Vec::new() };
        let (mut at, mut opened) = (0, None);
        let mut rest = marked;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            rest = after;
            if c == TYPED[0] {
                let inside = after.find(TYPED[1]).map(|end| &after[..end]).filter(|t| control.has(t));
                if let Some(text) = inside {
                    out.pieces.push(Piece { text: text.to_owned(), typed: true });
                    at += text.len();
                    rest = &after[text.len() + TYPED[1].len_utf8()..];
                }
                out.pieces.push(Piece::default());
            } else if c == TYPED[1] {
                out.pieces.push(Piece::default());
            } else if c == WRITTEN[0] {
                opened = Some(at);
            } else if c == WRITTEN[1] {
                out.assistant.extend(opened.take().filter(|&start| start < at).map(|start| start..at));
            } else if let Some(piece) = out.pieces.last_mut() {
                piece.text.push(c);
                at += c.len_utf8();
            }
        }
        let mut first = true;
        out.pieces.retain(|p| std::mem::take(&mut first) || !p.text.is_empty());
        out
    }
}

/// The control tokens of a tokenizer under a template, longest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct ControlTokens {
    /// Special tokens: nobody types them.
    special: Vec<String>,
    /// With the other added tokens that the template writes.
    all: Vec<String>,
}

impl ControlTokens {
    /// `added` are a tokenizer's added tokens and whether each is special; `literals` is what the template
    /// may print by itself.
    pub(crate) fn new(added: impl IntoIterator<Item = (String, bool)>, literals: &str) -> Self {
        let mut out = Self::default();
        for (token, special) in added {
            // Some tokenizers have "\n" as an added token, which templates write as ordinary text.
            if special || (literals.contains(&token) && !token.trim().is_empty()) {
                out.all.push(token.clone());
            }
            if special {
                out.special.push(token);
            }
        }
        for list in [&mut out.special, &mut out.all] {
            list.retain(|t| !t.is_empty());
            list.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        }
        out
    }

    fn has(&self, text: &str) -> bool {
        self.all.iter().any(|t| t == text)
    }

    fn of(&self, role: &str) -> &[String] {
        if role == "assistant" { &self.special } else { &self.all }
    }

    /// The first control token that `text` holds.
    pub(crate) fn first<'a>(&'a self, role: &str, text: &str) -> Option<(usize, &'a str)> {
        let found = self.of(role).iter().filter_map(|t| Some((text.find(t.as_str())?, t.as_str())));
        // The list has the longest first, and `min_by_key` keeps the first of equals.
        found.min_by_key(|&(at, _)| at)
    }

    /// `text` with its control tokens between marks, and without any marks of its own.
    pub(crate) fn mark(&self, role: &str, text: &str) -> String {
        let clean = strip(text);
        let (mut out, mut rest) = (String::with_capacity(clean.len()), clean.as_str());
        while let Some((at, token)) = self.first(role, rest) {
            out.push_str(&rest[..at]);
            out.extend([TYPED[0]]);
            out.push_str(token);
            out.extend([TYPED[1]]);
            rest = &rest[at + token.len()..];
        }
        out + rest
    }

    /// Whether any message holds a control token.
    pub(crate) fn typed_in(&self, messages: &[Message]) -> bool {
        messages
            .iter()
            .any(|m| self.first(&m.role, &m.content).is_some() || self.first("user", &m.role).is_some())
    }

    /// Where `text`, cut at byte `end`, would be cut inside a control token: the start of that token.
    pub(crate) fn before_straddling(&self, text: &str, end: usize) -> usize {
        let starts = self.all.iter().flat_map(|t| {
            let from = (end + 1).saturating_sub(t.len());
            (from..end).filter(move |&i| text.as_bytes()[i..].starts_with(t.as_bytes()))
        });
        starts.min().unwrap_or(end)
    }
}

/// `text` without the characters that serve as marks.
pub(crate) fn strip(text: &str) -> String {
    text.chars().filter(|c| !TYPED.contains(c) && !WRITTEN.contains(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> ControlTokens {
        let added = [("<s>", true), ("<s>x", true), ("<t>", false), ("\n", false), ("<u>", false)];
        ControlTokens::new(added.map(|(t, s)| (t.to_owned(), s)), "a <t> and \n")
    }

    fn pieces(marked: &str) -> Vec<(String, bool)> {
        Rendered::from_marked(marked, &control()).pieces.into_iter().map(|p| (p.text, p.typed)).collect()
    }

    #[test]
    fn special_tokens_and_those_of_the_template_are_cut_out_the_longest_first() {
        let c = control();
        let piece = |t: &str, typed| (t.to_owned(), typed);
        assert_eq!(
            pieces(&c.mark("user", "a<s>xb<s><t><u>\n")),
            [
                piece("a", false),
                piece("<s>x", true),
                piece("b", false),
                piece("<s>", true),
                piece("<t>", true),
                piece("<u>\n", false)
            ]
        );
        let assistant = c.mark("assistant", "<t><s>");
        assert_eq!(pieces(&assistant), [piece("<t>", false), piece("<s>", true)]);
        assert_eq!(pieces(&c.mark("user", "<s>")), [piece("", false), piece("<s>", true)]);
    }

    #[test]
    fn marks_cannot_be_typed_and_torn_ones_only_cut() {
        let c = control();
        assert_eq!(c.mark("user", "a\u{f0000}<u>\u{f0001}\u{f0002}b"), "a<u>b");
        let piece = |t: &str| (t.to_owned(), false);
        assert_eq!(pieces("a\u{f0000}<s\u{f0001}>b"), [piece("a"), piece("<s"), piece(">b")]);
        assert_eq!(pieces("a\u{f0001}b\u{f0000}"), [piece("a"), piece("b")]);
    }

    #[test]
    fn written_ranges_are_those_of_the_unmarked_text() {
        let r =
            Rendered::from_marked("é\u{f0002}b\u{f0000}<s>\u{f0001}\u{f0003}c\u{f0002}\u{f0003}", &control());
        assert_eq!((r.text().as_str(), r.assistant.len(), &r.assistant[0]), ("éb<s>c", 1, &(2..6)));
    }
}
