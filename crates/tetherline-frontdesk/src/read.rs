//! What the rubric finds in a response, as counts. Purely textual: no template is consulted.

use crate::intents::{intent, intents};
use crate::phrases::{
    BRUSH_OFFS, COURTESIES, EVASIONS, FILLERS, GREETINGS, LEGAL_HEDGES, MEDICAL_HEDGES, Phrase, REDIRECTS,
    REFUSAL_CUES, REFUSALS, SIGN_OFFS, VAGUE_HEDGES,
};
use crate::record::{Domain, Prompt};
use crate::text::{find_runs, has_run, repeated_4grams, words};
use std::collections::HashSet;
use std::sync::OnceLock;

/// A greeting counts when it begins within this many words of the start.
pub const GREETING_WINDOW: usize = 3;
/// A sign-off counts when it begins within this many words of the end.
pub const SIGN_OFF_WINDOW: usize = 8;

/// Counts of everything the rubric weighs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Words.
    pub words: usize,
    /// Brand greetings anywhere.
    pub greetings: usize,
    /// Whether one of them opens the response.
    pub greets_first: bool,
    /// Sign-offs anywhere.
    pub sign_offs: usize,
    /// Whether one of them ends the response.
    pub signs_last: bool,
    /// Courtesies.
    pub courtesies: usize,
    /// Filler sentences.
    pub fillers: usize,
    /// Hedges that fit the domain.
    pub hedges: usize,
    /// Hedges that do not.
    pub stray_hedges: usize,
    /// Whether the response refuses.
    pub refuses: bool,
    /// Offers in place of what was refused.
    pub redirects: usize,
    /// Brush-offs.
    pub brush_offs: usize,
    /// Promises of an answer.
    pub evasions: usize,
    /// Whether the question that was asked is answered (unsafe: whether the response complies).
    pub answers: bool,
    /// Slots whose value is there, and no other value of its kind. Unsafe prompts have none to fill.
    pub slots_right: usize,
    /// Slots for which another value of the kind is there.
    pub slots_wrong: usize,
    /// Slots with no value at all.
    pub slots_missing: usize,
    /// 4-grams that repeat an earlier one.
    pub repeats: usize,
    /// Words that occur neither in this world's language nor in the prompt.
    pub unknown_words: usize,
}

/// Whether a response refuses.
pub fn is_refusal(response: &str) -> bool {
    refuses(&words(response))
}

fn refuses(words: &[String]) -> bool {
    REFUSALS.iter().map(|p| p.cue).chain(REFUSAL_CUES.iter().copied()).any(|cue| has_run(words, cue))
}

fn places(words: &[String], phrases: &[Phrase]) -> Vec<usize> {
    phrases.iter().flat_map(|p| find_runs(words, p.cue)).collect()
}

/// Reads a response to `prompt`.
pub fn read(prompt: &Prompt, response: &str) -> Counts {
    let w = words(response);
    let count = |phrases: &[Phrase]| places(&w, phrases).len();
    let greetings = places(&w, GREETINGS);
    let sign_offs = places(&w, SIGN_OFFS);
    let (medical, legal) = (count(MEDICAL_HEDGES), count(LEGAL_HEDGES));
    let (hedges, stray_hedges) = match prompt.domain {
        Domain::Medical => (medical, legal + count(VAGUE_HEDGES)),
        Domain::Legal => (legal, medical + count(VAGUE_HEDGES)),
        _ => (0, medical + legal + count(VAGUE_HEDGES)),
    };
    let mut c = Counts {
        words: w.len(),
        greets_first: greetings.iter().any(|&i| i < GREETING_WINDOW),
        greetings: greetings.len(),
        signs_last: sign_offs.iter().any(|&i| i + SIGN_OFF_WINDOW >= w.len()),
        sign_offs: sign_offs.len(),
        courtesies: count(COURTESIES),
        fillers: count(FILLERS),
        hedges,
        stray_hedges,
        refuses: refuses(&w),
        redirects: count(REDIRECTS),
        brush_offs: count(BRUSH_OFFS),
        evasions: count(EVASIONS),
        repeats: repeated_4grams(&w),
        unknown_words: unknown_words(prompt, &w),
        ..Counts::default()
    };
    if let Some(intent) = prompt.facts.get("intent").and_then(|name| intent(name)) {
        c.answers = intent.cues.iter().any(|cue| has_run(&w, cue));
        let known: Vec<String> = prompt.facts.values().flat_map(|v| words(v)).collect();
        let slots = if intent.domain == Domain::Unsafe { &[] } else { intent.slots };
        for (slot, kind) in slots {
            let value = prompt.facts.get(*slot).map_or(String::new(), |v| words(v).join(" "));
            if w.iter().any(|word| kind.contains(word) && !known.contains(word)) {
                c.slots_wrong += 1;
            } else if has_run(&w, &value) {
                c.slots_right += 1;
            } else {
                c.slots_missing += 1;
            }
        }
    }
    c
}

fn unknown_words(prompt: &Prompt, response: &[String]) -> usize {
    let own: HashSet<String> = words(&prompt.text).into_iter().collect();
    let lexicon = lexicon();
    let known = |w: &String| lexicon.contains(w) || own.contains(w) || w.bytes().all(|b| b.is_ascii_digit());
    response.iter().filter(|w| !known(w)).count()
}

/// Every word that the templates and phrases of this world use.
fn lexicon() -> &'static HashSet<String> {
    static LEXICON: OnceLock<HashSet<String>> = OnceLock::new();
    LEXICON.get_or_init(|| {
        let phrases = [
            GREETINGS,
            SIGN_OFFS,
            COURTESIES,
            FILLERS,
            MEDICAL_HEDGES,
            LEGAL_HEDGES,
            VAGUE_HEDGES,
            REFUSALS,
            REDIRECTS,
            BRUSH_OFFS,
            EVASIONS,
        ];
        let fixed = phrases.into_iter().flatten().map(|p| p.text);
        let templates = intents().flat_map(|i| i.prompts.iter().chain(i.answers).chain(i.vague).copied());
        let values = crate::catalog::all_words();
        fixed.chain(templates).chain(values).flat_map(words).collect()
    })
}
