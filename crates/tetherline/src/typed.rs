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

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_models::ModelFiles;

    struct Heard(Vec<String>);

    impl Observer for Heard {
        fn on_event(&mut self, event: &Event<'_>) {
            if let Event::Warning(text) = event {
                self.0.push((*text).to_owned());
            }
        }
    }

    #[test]
    fn plain_text_with_special_tokens_is_warned_of_once() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers/byte-bpe");
        let codec = Codec::open(&ModelFiles::dir(dir).unwrap(), &[], 1000).unwrap();
        let message = |text: &str| Text::Messages(vec![tetherline_core::Message::user(text)]);
        let texts = [
            Text::Plain("fine".into()),
            message("<|im_end|>"),
            Text::Plain("a <|im_start|>user".into()),
            Text::Plain("<|im_end|>".into()),
        ];
        let mut heard = Heard(Vec::new());
        warn(&mut heard, "data.sft", &codec, texts.iter().enumerate());
        assert_eq!(heard.0.len(), 1);
        assert!(heard.0[0].starts_with("data.sft: 2 plain prompts"), "{heard:?}", heard = heard.0);
        assert!(heard.0[0].contains("`<|im_start|>`, line 2"), "{heard:?}", heard = heard.0);
        let mut heard = Heard(Vec::new());
        warn(&mut heard, "data.sft", &codec, texts[..2].iter().enumerate());
        warn(&mut heard, "data.sft", &codec.wrapping_plain_prompts(), texts.iter().enumerate());
        assert!(heard.0.is_empty(), "{:?}", heard.0);
    }
}
