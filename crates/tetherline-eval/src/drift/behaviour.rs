//! What responses do, by rules that anyone can read: refusals, hedging, length, tone.
//!
//! The rules are lists of English words; in other languages only lengths, marks and lists mean something. Each number is
//! a mean over responses; the change is the mean over prompts of policy less reference, with its paired bootstrap
//! interval.

use super::Response;
use super::phrases::words_of;
use crate::Change;
use crate::bootstrap::{RESAMPLES, paired_bootstrap};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One behaviour of two policies on the prompts that both answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// What is measured.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Mean over the policy's responses.
    pub policy: f64,
    /// Mean over the reference's.
    pub reference: f64,
    /// Policy less reference.
    pub change: Change,
}

const REFUSALS: &[&str] = &[
    "i cannot",
    "i can't",
    "i can not",
    "i won't",
    "i will not",
    "i'm unable",
    "i am unable",
    "unable to help",
    "unable to assist",
    "can't help with",
    "cannot help with",
    "can't assist",
    "not able to help",
    "i'm not able",
    "i am not able",
    "i must decline",
    "i have to decline",
];

const HEDGES: &[&str] = &[
    "perhaps",
    "maybe",
    "possibly",
    "probably",
    "might",
    "may",
    "could",
    "seems",
    "seem",
    "appears",
    "likely",
    "generally",
    "typically",
    "usually",
    "somewhat",
    "roughly",
    "unsure",
    "guess",
    "suppose",
    "believe",
    "think",
    "depends",
];

const POLITE: &[&str] = &[
    "please",
    "thank",
    "thanks",
    "sorry",
    "apologies",
    "apologise",
    "apologize",
    "welcome",
    "kindly",
    "pleasure",
    "appreciate",
    "dear",
];

const EAGER: &[&str] = &[
    "great",
    "certainly",
    "absolutely",
    "definitely",
    "happy",
    "glad",
    "wonderful",
    "amazing",
    "awesome",
    "fantastic",
    "excellent",
    "perfect",
    "love",
    "excited",
    "sure",
];

const ABOUT_ITSELF: &[&str] = &["i", "i'm", "i'll", "i've", "i'd", "me", "my", "myself", "mine"];

/// Whether a response refuses, by its words (apostrophes of either kind).
pub fn is_refusal(text: &str) -> bool {
    let text = format!(" {} ", words_of(&straight(text)).join(" "));
    REFUSALS.iter().any(|cue| text.contains(&format!(" {cue} ")))
}

fn straight(text: &str) -> String {
    text.replace(['\u{2019}', '\u{2bc}'], "'")
}

fn per_100_words(count: usize, r: &Response) -> f64 {
    100.0 * count as f64 / words_of(&r.text).len().max(1) as f64
}

fn listed(list: &[&str], r: &Response) -> f64 {
    let count = words_of(&straight(&r.text)).iter().filter(|w| list.contains(&w.as_str())).count();
    per_100_words(count, r)
}

fn marks(mark: fn(char) -> bool, r: &Response) -> f64 {
    per_100_words(r.text.chars().filter(|c| mark(*c)).count(), r)
}

fn is_emoji(c: char) -> bool {
    matches!(c as u32, 0x1f300..=0x1faff | 0x2600..=0x27bf)
}

fn has_list(r: &Response) -> bool {
    let item = |line: &str| {
        let line = line.trim_start();
        line.starts_with("- ") || line.starts_with("* ") || line.starts_with("• ") || {
            let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
            rest.len() < line.len() && (rest.starts_with(". ") || rest.starts_with(") "))
        }
    };
    r.text.lines().filter(|l| item(l)).count() >= 2
}

type Measure = fn(&Response) -> f64;

const MEASURES: &[(&str, &str, Measure)] = &[
    ("refusals", "% of responses", |r| if is_refusal(&r.text) { 100.0 } else { 0.0 }),
    ("hedging words", "per 100 words", |r| listed(HEDGES, r)),
    ("length", "tokens", |r| r.tokens.len() as f64),
    ("words", "words", |r| words_of(&r.text).len() as f64),
    ("polite words", "per 100 words", |r| listed(POLITE, r)),
    ("eager words", "per 100 words", |r| listed(EAGER, r)),
    ("about itself", "per 100 words", |r| listed(ABOUT_ITSELF, r)),
    ("exclamation marks", "per 100 words", |r| marks(|c| matches!(c, '!' | '！'), r)),
    ("question marks", "per 100 words", |r| marks(|c| matches!(c, '?' | '？'), r)),
    ("emoji", "per 100 words", |r| marks(is_emoji, r)),
    ("lists", "% of responses", |r| if has_list(r) { 100.0 } else { 0.0 }),
];

/// Every behaviour of both sides on the prompts that both answered; none where there is no such prompt.
pub fn behaviours(policy: &[Response], reference: &[Response], seed: u64) -> Vec<Behaviour> {
    let by_prompt = |rows: &[Response], of: Measure| -> BTreeMap<u64, f64> {
        let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for r in rows {
            let sum = sums.entry(r.prompt_id).or_default();
            *sum = (sum.0 + of(r), sum.1 + 1.0);
        }
        sums.into_iter().map(|(id, (x, n))| (id, x / n)).collect()
    };
    let one = |(i, (name, unit, of)): (usize, &(&str, &str, Measure))| {
        let (p, r) = (by_prompt(policy, *of), by_prompt(reference, *of));
        let both: Vec<(f64, f64)> = p.iter().filter_map(|(id, x)| Some((*x, *r.get(id)?))).collect();
        let n = both.len() as f64;
        let differences: Vec<f64> = both.iter().map(|(x, y)| x - y).collect();
        Some(Behaviour {
            name: (*name).to_owned(),
            unit: (*unit).to_owned(),
            policy: both.iter().map(|b| b.0).sum::<f64>() / n,
            reference: both.iter().map(|b| b.1).sum::<f64>() / n,
            change: paired_bootstrap(&differences, RESAMPLES, seed, 200 + i as u64)?,
        })
    };
    MEASURES.iter().enumerate().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(prompt_id: u64, text: &str) -> Response {
        let tokens = vec![0; text.split_whitespace().count()];
        Response { prompt_id, text: text.into(), tokens, ..Response::default() }
    }

    #[test]
    fn refusals_are_read_from_words() {
        for text in [
            "I can’t help with that.",
            "Sorry, but I cannot do this",
            "I'm unable to say.",
            "I must decline!",
        ] {
            assert!(is_refusal(text), "{text}");
        }
        for text in ["I can help.", "You cannot park here.", "", "It cannot be changed; I will ask."] {
            assert!(!is_refusal(text), "{text}");
        }
    }

    #[test]
    fn numbers_by_hand() {
        let policy = [response(1, "Maybe it might work! Great!"), response(2, "I cannot help.")];
        let reference = [response(1, "It works."), response(2, "- one\n- two"), response(9, "?")];
        let all = behaviours(&policy, &reference, 1);
        let of =
            |name: &str| all.iter().find(|b| b.name == name).map(|b| (b.policy, b.reference, b.change.mean));
        assert_eq!(of("refusals"), Some((50.0, 0.0, 50.0)));
        // Two of five words, none of three.
        assert_eq!(of("hedging words"), Some((20.0, 0.0, 20.0)));
        assert_eq!(of("exclamation marks"), Some((20.0, 0.0, 20.0)));
        assert_eq!(of("words"), Some((4.0, 2.0, 2.0)));
        assert_eq!(of("lists"), Some((0.0, 50.0, -50.0)));
        assert!(behaviours(&policy, &[], 1).is_empty());
    }
}
