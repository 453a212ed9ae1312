//! A warning of special tokens in plain text, which are encoded as text: such data was rendered elsewhere, or
//! somebody typed them.

use crate::codec::Codec;
use tetherline_core::{Event, Observer};
use tetherline_data::Text;

/// Warns of the rows of `key` whose plain `texts` hold special tokens.
pub(crate) fn warn<'a>(
    observer: &mut dyn Observer,
    key: &str,
    codec: &Codec,
    texts: impl Iterator<Item = (usize, &'a Text)>,
) {
    if codec.wraps_plain_prompts() {
        return;
    }
    let (mut count, mut first) = (0, None);
    for (line, text) in texts {
        let Text::Plain(text) = text else { continue };
        if let Some((token, _)) = codec.tokenizer.special_pieces(text).into_iter().find(|(_, typed)| *typed) {
            count += 1;
            first = first.or_else(|| Some((line, token.to_owned())));
        }
    }
    if let Some((line, token)) = first {
        observer.on_event(&Event::Warning(&format!(
            "{key}: {count} plain prompts hold special tokens (the first: `{token}`, line {line}); they are encoded \
             as text, since only a chat template writes special tokens: give message lists instead"
        )));
    }
}
