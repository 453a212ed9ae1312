//! What the assistant wrote, for templates without `{% generation %}` blocks: render the conversation up to
//! each answer and up to its end, and see where these texts stand in the whole.

use crate::{ChatTemplate, DataError, Message};
use std::ops::Range;

/// A character that no conversation has.
const PROBE: char = '\u{f0004}';

/// Byte ranges of `whole`, the conversation as rendered, that hold the assistant's messages with what ends
/// their turns.
pub(crate) fn spans(
    template: &ChatTemplate,
    messages: &[Message],
    whole: &str,
    text: impl Fn(&[Message], bool) -> Result<String, DataError>,
) -> Result<Vec<Range<usize>>, DataError> {
    let ends = ends(messages, whole, &text)?;
    let mut out = Vec::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.is_assistant()) {
        let impossible = |why: &str| {
            DataError::Template(format!(
                "cannot tell which tokens of message {} the assistant wrote: {why}; use a template with \
                 {{% generation %}} blocks, or train on the last answer alone",
                i + 1
            ))
        };
        let before = match text(&messages[..i], true) {
            Ok(before) if whole.starts_with(&before) => before.len(),
            Ok(_) => return Err(impossible("what stands before it is rendered differently without it")),
            Err(DataError::Template(e)) => {
                return Err(impossible(&format!("the template refuses what stands before it ({e})")));
            }
            Err(e) => return Err(e),
        };
        let upto = text(&messages[..=i], false)?;
        let same = whole.bytes().zip(upto.bytes()).take_while(|(a, b)| a == b).count();
        // A template may end the last turn with more than the others: what both share ends the turn, up to the
        // beginning of a token that only one of them has.
        let mut end =
            if same == upto.len() { same } else { template.control().before_straddling(whole, same) };
        while !whole.is_char_boundary(end) {
            end -= 1;
        }
        // Where the message itself ends must be in between; elsewhere, it is somebody else's text that looks alike.
        let blank = message.content.trim().is_empty();
        if end < before || !(blank || ends[i].is_some_and(|at| before <= at && at <= end)) {
            return Err(impossible("the template renders it differently once the conversation goes on"));
        }
        out.push(before..end);
    }
    Ok(out)
}

/// For each message of the assistant, where its text ends in `whole`: found by rendering with a character more
/// at each such place. `None` for blank messages, and for all where that changes anything else.
fn ends(
    messages: &[Message],
    whole: &str,
    text: impl Fn(&[Message], bool) -> Result<String, DataError>,
) -> Result<Vec<Option<usize>>, DataError> {
    let asked = |m: &Message| m.is_assistant() && !m.content.trim().is_empty();
    let mut probed = messages.to_vec();
    for m in probed.iter_mut().filter(|m| asked(m)) {
        m.content.insert(m.content.trim_end().len(), PROBE);
    }
    let rendered = text(&probed, false)?;
    let mut found = Vec::new();
    let mut plain = String::with_capacity(rendered.len());
    for part in rendered.split_inclusive(PROBE) {
        plain.push_str(part.trim_end_matches(PROBE));
        found.extend(part.ends_with(PROBE).then_some(plain.len()));
    }
    let count = messages.iter().filter(|m| asked(m)).count();
    if plain != whole || found.len() != count {
        return Ok(vec![None; messages.len()]);
    }
    let mut found = found.into_iter();
    Ok(messages.iter().map(|m| if asked(m) { found.next() } else { None }).collect())
}
