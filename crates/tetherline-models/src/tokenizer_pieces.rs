//! Text that holds special tokens as text: which parts of it were typed, and their tokens.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::OnceLock;
use tokenizers::tokenizer::AddedVocabulary;
use tokenizers::{Encoding, Tokenizer};

type Fallible<T> = std::result::Result<T, tokenizers::Error>;

/// Ids with the bytes of the text that each stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte ranges of the text, empty for a token that stands for none of it.
    pub offsets: Vec<Range<usize>>,
}

impl Encoded {
    /// How many tokens end within the first `bytes` of the text. A token that straddles the cut is not one.
    pub fn tokens_before(&self, bytes: usize) -> usize {
        self.offsets.iter().position(|o| o.end > bytes).unwrap_or(self.ids.len())
    }

    /// For each token, whether it stands for text inside one of `spans` (byte ranges in order), however little.
    pub fn mask(&self, spans: &[Range<usize>]) -> Vec<bool> {
        let inside = |o: &Range<usize>| spans.iter().any(|s| o.start < s.end && s.start < o.end);
        self.offsets.iter().map(inside).collect()
    }

    fn extend(&mut self, encoding: &Encoding, from: usize, skip: usize, at: usize) {
        self.ids.extend(&encoding.get_ids()[from..]);
        let offset = |&(a, b): &(usize, usize)| at + a.saturating_sub(skip)..at + b.saturating_sub(skip);
        self.offsets.extend(encoding.get_offsets()[from..].iter().map(offset));
    }
}

/// What encodes typed text; made when first needed, since it copies the vocabulary.
#[derive(Debug, Default)]
pub(crate) struct PlainText {
    /// The tokenizer without added tokens.
    plain: OnceLock<Tokenizer>,
    /// Special tokens, longest first.
    specials: OnceLock<Vec<String>>,
}

impl PlainText {
    /// Cuts `text` at special tokens. The first piece is never typed, and may be empty.
    pub(crate) fn cut<'a>(&self, tokenizer: &Tokenizer, text: &'a str) -> Vec<(&'a str, bool)> {
        let specials = self.specials.get_or_init(|| {
            let added = tokenizer.get_added_tokens_decoder().into_values();
            let mut out: Vec<_> =
                added.filter(|t| t.special && !t.content.is_empty()).map(|t| t.content).collect();
            out.sort_by_key(|t| (Reverse(t.len()), t.clone()));
            out
        });
        let (mut out, mut rest) = (Vec::new(), text);
        // The list has the longest first, and `min_by_key` keeps the first of equals.
        while let Some((at, len)) =
            specials.iter().filter_map(|t| Some((rest.find(t.as_str())?, t.len()))).min_by_key(|&(at, _)| at)
        {
            if at > 0 || out.is_empty() {
                out.push((&rest[..at], false));
            }
            out.push((&rest[at..at + len], true));
            rest = &rest[at + len..];
        }
        if !rest.is_empty() || out.is_empty() {
            out.push((rest, false));
        }
        out
    }

    pub(crate) fn encode(
        &self,
        tokenizer: &Tokenizer,
        pieces: &[(&str, bool)],
        specials: bool,
    ) -> Fallible<Encoded> {
        let mut out = Encoded::default();
        if let [(text, false)] = pieces {
            out.extend(&tokenizer.encode(*text, specials)?, 0, 0, 0);
            return Ok(out);
        }
        let plain = self.plain.get_or_init(|| {
            let mut plain = tokenizer.clone();
            plain.with_added_vocabulary(AddedVocabulary::new());
            plain
        });
        let line_break = tokenizer.encode("\n", false)?.get_ids().to_vec();
        let mut at = 0;
        for (i, &(text, typed)) in pieces.iter().enumerate().filter(|(_, (text, _))| !text.is_empty()) {
            let encoder = if typed { plain } else { tokenizer };
            if i == 0 && !typed {
                out.extend(&encoder.encode(text, false)?, 0, 0, at);
            } else {
                let before = out.ids.len();
                behind(encoder, text, &line_break, at, &mut out)?;
                let token = tokenizer.token_to_id(text).filter(|_| typed);
                // The vocabulary has the token as a piece of text. (If it is still there behind, it is the one for
                // what the vocabulary lacks.)
                if token.is_some_and(|id| out.ids[before..].contains(&id)) {
                    out.ids.truncate(before);
                    out.offsets.truncate(before);
                    let half = text.chars().next().map_or(0, char::len_utf8);
                    behind(encoder, &text[..half], &line_break, at, &mut out)?;
                    behind(encoder, &text[half..], &line_break, at + half, &mut out)?;
                }
            }
            at += text.len();
        }
        if specials {
            out = post_process(tokenizer, out)?;
        }
        Ok(out)
    }
}

/// Encodes what stands behind other text: after a line break, which is taken away again.
fn behind(t: &Tokenizer, text: &str, line_break: &[u32], at: usize, out: &mut Encoded) -> Fallible<()> {
    let encoding = t.encode(format!("\n{text}"), false)?;
    if encoding.get_ids().starts_with(line_break) {
        out.extend(&encoding, line_break.len(), 1, at);
    } else {
        out.extend(&t.encode(text, false)?, 0, 0, at);
    }
    Ok(())
}

/// Adds what the post-processor adds.
fn post_process(tokenizer: &Tokenizer, encoded: Encoded) -> Fallible<Encoded> {
    let n = encoded.ids.len();
    let offsets = encoded.offsets.iter().map(|o| (o.start, o.end)).collect();
    let tokens = vec![String::new(); n];
    let raw = Encoding::new(
        encoded.ids,
        vec![0; n],
        tokens,
        vec![None; n],
        offsets,
        vec![0; n],
        vec![1; n],
        Vec::new(),
        Default::default(),
    );
    let mut out = Encoded::default();
    out.extend(&tokenizer.post_process(raw, None, true)?, 0, 0, 0);
    Ok(out)
}
