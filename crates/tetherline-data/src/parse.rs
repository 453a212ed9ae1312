//! From a JSON object to a checked row: which fields make which row.
//!
//! | row | fields |
//! | --- | --- |
//! | prompt | `prompt`; or the prompt of any row below that is text |
//! | demonstration | `prompt` + `response`, or `messages` ending with the assistant |
//! | pair | `prompt` + `chosen` + `rejected`, or `chosen` + `rejected` as whole conversations |
//! | ranking | `prompt` + `responses`, best first or with `ranks` |
//! | to score | `prompt` + `response`, `messages`, or `input_ids` + `prompt_len` |
//!
//! `prompt`, `chosen` and `rejected` are strings or message lists. All rows may have `domain` and
//! `user`, pairs also `margin`, `p_chosen` and `agreement`, prompts also `answer`. Other fields are left out.

use crate::error::BadRow;
use crate::fields::{Fields, describe};
use crate::transcript::{ends_at_boundary, is_transcript, last_shared_boundary, shared_messages};
use crate::{ComparisonRow, Message, PairRow, PromptRow, ScoreInput, ScoreRow, SftRow, Text};
use serde_json::{Map, Value};

/// Fields that some row uses.
pub(crate) const KNOWN_FIELDS: [&str; 15] = [
    "prompt",
    "response",
    "messages",
    "chosen",
    "rejected",
    "input_ids",
    "prompt_len",
    "domain",
    "user",
    "margin",
    "p_chosen",
    "agreement",
    "responses",
    "ranks",
    "answer",
];

/// Reads one record's bytes as a JSON object. `Err` also says how many lines below the record's first
/// line the problem stands.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, (usize, BadRow)> {
    if bytes.is_empty() {
        return Err((0, BadRow::new("", "expected a JSON object between the commas, found nothing")));
    }
    if let Err(e) = std::str::from_utf8(bytes) {
        let at = e.valid_up_to();
        let lines = bytes[..at].iter().filter(|&&b| b == b'\n').count();
        let problem =
            format!("not UTF-8: byte 0x{:02x} at offset {at} of the row; save the file as UTF-8", bytes[at]);
        return Err((lines, BadRow::new("", problem)));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err((0, BadRow::new("", format!("expected a JSON object, found {}", describe(&other))))),
        Err(e) => {
            let text = e.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text);
            let problem = format!("not valid JSON: {what} (column {})", e.column());
            Err((e.line().saturating_sub(1), BadRow::new("", problem)))
        }
    }
}

/// A prompt, from any row that has one.
pub(crate) fn prompt(fields: Fields<'_>, line: usize) -> Result<PromptRow, BadRow> {
    let prompt = if fields.has("chosen") && fields.has("rejected") {
        pair(fields, line)?.prompt
    } else if fields.has("responses") {
        comparison(fields, line)?.prompt
    } else if fields.has("messages") {
        let mut messages = fields.messages()?;
        messages.pop_if(|m| m.is_assistant());
        if messages.is_empty() {
            return Err(BadRow::new("messages", "expected a message before the assistant's, found none"));
        }
        Text::Messages(messages)
    } else if fields.has("prompt") {
        prompt_field(fields)?
    } else {
        return Err(fields.missing("a field `prompt`"));
    };
    let answer = fields.answer();
    Ok(PromptRow { prompt, answer, domain: fields.domain()?, user: fields.user()?, line })
}

/// A demonstration.
pub(crate) fn sft(fields: Fields<'_>, line: usize) -> Result<SftRow, BadRow> {
    let (prompt, response) = prompt_and_response(fields, "`prompt` and `response`, or `messages`")?;
    Ok(SftRow { prompt, response, domain: fields.domain()?, user: fields.user()?, line })
}

/// A row to score.
pub(crate) fn score(fields: Fields<'_>, line: usize) -> Result<ScoreRow, BadRow> {
    let input = if fields.has("input_ids") {
        let (input_ids, prompt_len) = fields.tokens()?;
        ScoreInput::Tokens { input_ids, prompt_len }
    } else {
        let expected = "`prompt` and `response`, `messages`, or `input_ids` and `prompt_len`";
        let (prompt, response) = prompt_and_response(fields, expected)?;
        ScoreInput::Text { prompt, response }
    };
    Ok(ScoreRow { input, domain: fields.domain()?, user: fields.user()?, line })
}

/// A preference pair.
pub(crate) fn pair(fields: Fields<'_>, line: usize) -> Result<PairRow, BadRow> {
    for name in ["chosen", "rejected"] {
        if !fields.has(name) {
            return Err(fields.missing("`chosen` and `rejected`, with `prompt` or as whole conversations"));
        }
    }
    let prompt = if fields.has("prompt") { Some(prompt_field(fields)?) } else { None };
    let (prompt, chosen, rejected, recut) = match (fields.text("chosen")?, fields.text("rejected")?) {
        (Text::Plain(c), Text::Plain(r)) => plain_pair(prompt, c, r)?,
        (c, r) => message_pair(prompt, as_answer(c), as_answer(r))?,
    };
    Ok(PairRow {
        prompt,
        chosen,
        rejected,
        margin: fields.margin()?,
        label: fields.label()?,
        agreement: fields.agreement()?,
        recut,
        domain: fields.domain()?,
        user: fields.user()?,
        line,
    })
}

/// A pair, or a ranking of more.
pub(crate) fn comparison(fields: Fields<'_>, line: usize) -> Result<ComparisonRow, BadRow> {
    if !fields.has("responses") {
        return Ok(pair(fields, line)?.into());
    }
    for name in ["p_chosen", "margin", "agreement", "chosen", "rejected"] {
        if fields.has(name) {
            let problem =
                "it belongs to a pair (`chosen` and `rejected`), and this row is a ranking (`responses`)";
            return Err(BadRow::new(name, problem));
        }
    }
    if !fields.has("prompt") {
        return Err(fields.missing("`prompt` beside `responses`"));
    }
    let prompt = prompt_field(fields)?;
    let answers: Vec<Text> = fields
        .responses()?
        .into_iter()
        .map(|text| match prompt {
            Text::Plain(_) => Text::Plain(text),
            Text::Messages(_) => Text::Messages(answer(text)),
        })
        .collect();
    let ranks = fields.ranks(answers.len())?;
    let (domain, user) = (fields.domain()?, fields.user()?);
    Ok(ComparisonRow {
        prompt,
        answers,
        ranks,
        label: None,
        margin: None,
        agreement: None,
        domain,
        user,
        line,
    })
}

/// The `prompt` field, which must leave the next turn to the assistant.
fn prompt_field(fields: Fields<'_>) -> Result<Text, BadRow> {
    let prompt = fields.text("prompt")?;
    match &prompt {
        Text::Messages(m) if m.last().is_some_and(Message::is_assistant) => {
            let problem = "expected the last message to be the user's, found the assistant's";
            Err(BadRow::new(format!("prompt[{}].role", m.len() - 1), problem))
        }
        _ => Ok(prompt),
    }
}

fn prompt_and_response(fields: Fields<'_>, expected: &str) -> Result<(Text, String), BadRow> {
    match (fields.has("prompt"), fields.has("response"), fields.has("messages")) {
        (true, true, false) => Ok((prompt_field(fields)?, fields.response()?)),
        (_, true, true) => {
            Err(BadRow::new("messages", "expected `response` or `messages`, found both; remove one"))
        }
        // A `prompt` beside `messages` repeats the first message in common data sets.
        (_, false, true) => {
            let mut messages = fields.messages()?;
            let last = messages.len() - 1;
            let Some(answer) = messages.pop_if(|m| m.is_assistant()) else {
                let problem =
                    format!("expected `assistant` in the last message, found `{}`", messages[last].role);
                return Err(BadRow::new(format!("messages[{last}].role"), problem));
            };
            if messages.is_empty() {
                return Err(BadRow::new("messages", "expected a message before the assistant's, found none"));
            }
            Ok((Text::Messages(messages), answer.content))
        }
        _ => Err(fields.missing(expected)),
    }
}

type Pair = (Text, Text, Text, bool);

fn plain_pair(prompt: Option<Text>, chosen: String, rejected: String) -> Result<Pair, BadRow> {
    let prompt = match prompt {
        // Messages before, plain answers after: the answers are the assistant's next message.
        Some(prompt @ Text::Messages(_)) => {
            return Ok((prompt, Text::Messages(answer(chosen)), Text::Messages(answer(rejected)), false));
        }
        Some(Text::Plain(prompt)) => Some(prompt),
        None => None,
    };
    let (whole_chosen, whole_rejected, recut) = match prompt {
        Some(p) if !is_transcript(&p) => {
            return Ok((Text::Plain(p), Text::Plain(chosen), Text::Plain(rejected), false));
        }
        // Whole conversations beside their prompt.
        Some(p) if chosen.starts_with(&p) && rejected.starts_with(&p) => (chosen, rejected, false),
        Some(p) if ends_at_boundary(&p) => {
            return Ok((Text::Plain(p), Text::Plain(chosen), Text::Plain(rejected), false));
        }
        Some(p) => (format!("{p}{chosen}"), format!("{p}{rejected}"), true),
        None => (chosen, rejected, false),
    };
    for (name, text) in [("chosen", &whole_chosen), ("rejected", &whole_rejected)] {
        if !is_transcript(text) {
            let problem = "expected a transcript \"\\n\\nHuman: …\\n\\nAssistant: …\" where there is no `prompt`, \
                           found other text";
            return Err(BadRow::new(name, problem));
        }
    }
    let Some(cut) = last_shared_boundary(&whole_chosen, &whole_rejected) else {
        let problem = "expected both transcripts to start with the same turns up to \"\\n\\nAssistant:\", found \
                       no shared turn";
        return Err(BadRow::new("chosen", problem));
    };
    let plain = |s: &str| Text::Plain(s.to_owned());
    Ok((plain(&whole_chosen[..cut]), plain(&whole_chosen[cut..]), plain(&whole_rejected[cut..]), recut))
}

fn message_pair(prompt: Option<Text>, chosen: Vec<Message>, rejected: Vec<Message>) -> Result<Pair, BadRow> {
    let starts_with_answer = chosen[0].is_assistant() && rejected[0].is_assistant();
    let done = |p: Vec<Message>, c: &[Message], r: &[Message]| {
        (Text::Messages(p), Text::Messages(c.to_vec()), Text::Messages(r.to_vec()), false)
    };
    let prompt = match prompt {
        Some(Text::Plain(p)) if starts_with_answer => {
            return Ok(done(vec![Message::user(p)], &chosen, &rejected));
        }
        Some(Text::Messages(p)) if starts_with_answer => return Ok(done(p, &chosen, &rejected)),
        other => other,
    };
    // The lists are whole conversations; a `prompt` beside them must be how they start.
    let Some(cut) = shared_messages(&chosen, &rejected) else {
        let problem = "expected both lists to share their messages up to one of the assistant's, found no shared \
                       start";
        return Err(BadRow::new("chosen", problem));
    };
    let shared = &chosen[..cut];
    let fits = match &prompt {
        None => true,
        Some(Text::Messages(p)) => shared.starts_with(p),
        Some(Text::Plain(p)) => shared.iter().any(|m| m.content.trim() == p.trim()),
    };
    if !fits {
        let problem = "expected `chosen` and `rejected` to start with the assistant's answer or to repeat the \
                       prompt, found other messages";
        return Err(BadRow::new("prompt", problem));
    }
    Ok(done(shared.to_vec(), &chosen[cut..], &rejected[cut..]))
}

fn answer(content: String) -> Vec<Message> {
    vec![Message::assistant(content)]
}

/// A plain answer becomes an assistant message.
fn as_answer(text: Text) -> Vec<Message> {
    match text {
        Text::Plain(s) => answer(s),
        Text::Messages(m) => m,
    }
}
