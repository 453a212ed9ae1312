//! The language of the world keeps the promises that the rubric is built on.

use std::collections::BTreeSet;
use tetherline_frontdesk::catalog::Kind;
use tetherline_frontdesk::phrases::{
    BRUSH_OFFS, COURTESIES, EVASIONS, FILLERS, GREETINGS, LEGAL_HEDGES, MEDICAL_HEDGES, Phrase, REDIRECTS,
    REFUSALS, SIGN_OFFS, VAGUE_HEDGES,
};
use tetherline_frontdesk::text::{find_runs, words};
use tetherline_frontdesk::{Domain, Intent, Prompt, intents, is_refusal, read};

const LISTS: [(&str, &[Phrase]); 11] = [
    ("greetings", GREETINGS),
    ("sign-offs", SIGN_OFFS),
    ("courtesies", COURTESIES),
    ("fillers", FILLERS),
    ("medical hedges", MEDICAL_HEDGES),
    ("legal hedges", LEGAL_HEDGES),
    ("vague hedges", VAGUE_HEDGES),
    ("refusals", REFUSALS),
    ("redirects", REDIRECTS),
    ("brush-offs", BRUSH_OFFS),
    ("evasions", EVASIONS),
];

fn cues_in(text: &str, list: &[Phrase]) -> usize {
    let w = words(text);
    list.iter().map(|p| find_runs(&w, p.cue).len()).sum()
}

/// A prompt of this intent with drawn slot values, and a template filled with them.
fn example(intent: &Intent, template: &str) -> (Prompt, String) {
    let mut s = tetherline_core::seeds::stream(3, tetherline_core::seeds::Purpose::World, 77, 0, 0);
    let mut text = template.to_owned();
    let mut facts = tetherline_frontdesk::Facts::new();
    for (slot, kind) in intent.slots {
        let value = kind.draw(&mut s);
        text = text.replace(&format!("{{{slot}}}"), &value);
        facts.insert((*slot).to_owned(), value);
    }
    facts.insert("intent".to_owned(), intent.name.to_owned());
    let prompt = Prompt { text: String::new(), domain: intent.domain, user: "u".to_owned(), facts };
    (prompt, text)
}

#[test]
fn a_phrase_holds_one_cue_of_its_list_and_none_of_another() {
    for (name, list) in LISTS {
        for phrase in list {
            for (other, cues) in LISTS {
                let want = usize::from(name == other);
                assert_eq!(cues_in(phrase.text, cues), want, "{name}: {:?} against {other}", phrase.text);
            }
            assert_eq!(is_refusal(phrase.text), name == "refusals", "{:?}", phrase.text);
        }
    }
}

#[test]
fn answers_hold_no_cue_of_a_phrase() {
    for intent in intents() {
        for template in intent.answers.iter().chain(intent.vague) {
            for (name, list) in LISTS {
                if name != "refusals" || intent.domain != Domain::Unsafe {
                    assert_eq!(cues_in(template, list), 0, "{}: {template:?} against {name}", intent.name);
                }
            }
        }
    }
}

#[test]
fn an_answer_is_read_as_what_it_is() {
    for intent in intents() {
        let n = intent.slots.len();
        for template in intent.answers {
            let (prompt, text) = example(intent, template);
            let c = read(&prompt, &text);
            assert!(c.answers && !c.refuses, "{}: {text:?}", intent.name);
            if intent.domain != Domain::Unsafe {
                assert_eq!((c.slots_right, c.slots_wrong), (n, 0), "{}: {text:?}", intent.name);
            }
            assert_eq!(c.unknown_words, 0, "{text:?}");
        }
        for template in intent.vague {
            let (prompt, text) = example(intent, template);
            let c = read(&prompt, &text);
            if intent.domain == Domain::Unsafe {
                assert!(c.refuses && !c.answers, "{}: {text:?}", intent.name);
            } else {
                assert!(c.answers && !c.refuses, "{}: {text:?}", intent.name);
                assert_eq!(c.slots_missing, n, "{}: {text:?}", intent.name);
            }
        }
    }
}

#[test]
fn a_fixed_phrase_mentions_no_slot_value() {
    for (name, list) in LISTS {
        for phrase in list {
            for word in words(phrase.text) {
                let kind = Kind::ALL.into_iter().find(|k| k.contains(&word));
                assert_eq!(kind, None, "{name}: {word:?} in {:?}", phrase.text);
            }
        }
    }
}

#[test]
fn a_prompt_wording_holds_every_slot() {
    let mut names = BTreeSet::new();
    for intent in intents() {
        assert!(names.insert(intent.name), "two intents are called {}", intent.name);
        for template in intent.prompts.iter().chain(intent.answers) {
            for (slot, _) in intent.slots {
                assert!(template.contains(&format!("{{{slot}}}")), "{}: {template:?}", intent.name);
            }
        }
    }
}

#[test]
fn no_phrase_reads_as_an_answer() {
    for intent in intents() {
        let (prompt, _) = example(intent, "");
        for (name, list) in LISTS {
            for phrase in list {
                assert!(!read(&prompt, phrase.text).answers, "{}, {name}: {:?}", intent.name, phrase.text);
            }
        }
    }
}
