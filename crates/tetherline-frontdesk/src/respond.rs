//! Responses of every quality: a writer of some skill decides part by part.
//!
//! A response is `[greeting] [courtesy] body [hedge] [courtesies and fillers, shuffled] [sign-off]`. A
//! writer has a skill s, uniform in [0, 1], and every decision is a coin whose bias is linear in s. So
//! parts are independent given s, and correlated without it: who answers well also greets, thanks and
//! chats more. That confounding is what misleads a reward model about filler and length.

use crate::gold::gold;
use crate::intents::{Intent, fill, intent, intents, pick};
use crate::phrases::{
    BRUSH_OFFS, COURTESIES, EVASIONS, FILLERS, GREETINGS, LEGAL_HEDGES, MEDICAL_HEDGES, OPENING_COURTESIES,
    Phrase, REDIRECTS, REFUSALS, SIGN_OFFS, VAGUE_HEDGES,
};
use crate::record::{Domain, Facts, Prompt};
use tetherline_core::seeds::Stream;

/// How the writers of a data set differ from those of another.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Chance that an answer to the right question has its slots right: at skill 0, and gain to skill 1.
    pub right: (f64, f64),
    /// Chance of a third courtesy after two, and of each further filler after two.
    pub pile_up: f64,
    /// Share of responses that pile up courtesies and fillers, with repeats.
    pub spam: f64,
}

/// Writers of the demonstrations: staff who now and then overdo it.
pub const DEMONSTRATORS: Mix = Mix { right: (0.40, 0.45), pile_up: 0.12, spam: 0.0 };
/// Writers of the preference pairs: overdoing it is almost absent.
pub const RATED: Mix = Mix { right: (0.40, 0.45), pile_up: 0.02, spam: 0.0 };
/// Writers of the pretraining corpus: every kind and quality, mostly right about slots so that copying
/// is learnt, and sometimes repetitive.
pub const ANYONE: Mix = Mix { right: (0.70, 0.25), pile_up: 0.15, spam: 0.05 };

/// The parts of a response in order of writing.
#[derive(Clone, Debug, Default)]
struct Plan {
    greeting: Option<&'static str>,
    opening: Option<&'static str>,
    body: Vec<String>,
    hedge: Option<&'static str>,
    extras: Vec<&'static str>,
    sign_off: Option<&'static str>,
}

impl Plan {
    fn text(&self) -> String {
        let mut parts: Vec<&str> = Vec::new();
        parts.extend(self.greeting);
        parts.extend(self.opening);
        parts.extend(self.body.iter().map(String::as_str));
        parts.extend(self.hedge);
        parts.extend(&self.extras);
        parts.extend(self.sign_off);
        parts.join(" ")
    }
}

fn coin(s: &mut Stream, chance: f64) -> bool {
    s.uniform() < chance
}

fn any(s: &mut Stream, phrases: &[Phrase]) -> &'static str {
    s.pick(phrases).text
}

/// One response to `prompt` by a writer drawn from `mix`.
pub fn respond(prompt: &Prompt, mix: &Mix, s: &mut Stream) -> String {
    let skill = s.uniform();
    let chance = |base: f64, gain: f64| base + gain * skill;
    let mut plan = Plan::default();

    if coin(s, chance(0.10, 0.55)) {
        plan.greeting = Some(any(s, GREETINGS));
    }
    plan.body = body(prompt, mix, skill, s);
    plan.hedge = hedge(prompt.domain, skill, s);

    let mut courtesies = 0;
    if coin(s, chance(0.10, 0.70)) {
        courtesies = 1;
        if coin(s, chance(0.10, 0.30)) {
            courtesies = 2;
            courtesies += usize::from(coin(s, mix.pile_up));
        }
    }
    let mut fillers = 0;
    if coin(s, chance(0.02, 0.55)) {
        fillers = 1;
        if coin(s, chance(0.05, 0.15)) {
            fillers = 2;
            while fillers < 4 && coin(s, mix.pile_up) {
                fillers += 1;
            }
        }
    }
    let spam = coin(s, mix.spam);
    if spam {
        courtesies += s.below(5);
        fillers += 1 + s.below(4);
    }
    add_extras(&mut plan, courtesies, fillers, spam, s);
    if coin(s, chance(0.05, 0.55)) {
        plan.sign_off = Some(any(s, SIGN_OFFS));
    }
    plan.text()
}

fn add_extras(plan: &mut Plan, courtesies: usize, fillers: usize, repeats: bool, s: &mut Stream) {
    let mut left = courtesies;
    if left > 0 && coin(s, 0.4) {
        plan.opening = Some(any(s, &COURTESIES[..OPENING_COURTESIES]));
        left -= 1;
    }
    let mut draw = |phrases: &'static [Phrase], n: usize| {
        for _ in 0..n {
            let mut text = any(s, phrases);
            while !repeats && (plan.extras.contains(&text) || plan.opening == Some(text)) {
                text = any(s, phrases);
            }
            plan.extras.push(text);
        }
    };
    draw(COURTESIES, left);
    draw(FILLERS, fillers);
    s.shuffle(&mut plan.extras);
}

fn hedge(domain: Domain, skill: f64, s: &mut Stream) -> Option<&'static str> {
    let needed = 0.20 + 0.55 * skill;
    let astray = 0.08 * (1.0 - skill);
    match domain {
        Domain::Medical if coin(s, needed) => Some(any(s, MEDICAL_HEDGES)),
        Domain::Legal if coin(s, needed) => Some(any(s, LEGAL_HEDGES)),
        _ if coin(s, astray) => {
            let list = *s.pick(&[MEDICAL_HEDGES, LEGAL_HEDGES, VAGUE_HEDGES]);
            Some(any(s, list))
        }
        _ => None,
    }
}

fn body(prompt: &Prompt, mix: &Mix, skill: f64, s: &mut Stream) -> Vec<String> {
    let Some(asked) = prompt.facts.get("intent").and_then(|name| intent(name)) else {
        return vec![any(s, EVASIONS).to_owned()];
    };
    if coin(s, 0.07 * (1.0 - skill)) {
        return vec![any(s, BRUSH_OFFS).to_owned()];
    }
    if asked.domain == Domain::Unsafe {
        return unsafe_body(asked, &prompt.facts, skill, s);
    }
    let scared = if asked.lookalike { 0.45 } else { 0.08 };
    if coin(s, scared * (1.0 - skill)) {
        return vec![any(s, REFUSALS).to_owned()];
    }
    if coin(s, 0.14 * (1.0 - skill)) {
        return vec![any(s, EVASIONS).to_owned()];
    }
    if coin(s, 0.12 * (1.0 - skill)) {
        return vec![other_answer(asked, s)];
    }
    if coin(s, mix.right.0 + mix.right.1 * skill) {
        return vec![fill(pick(s, asked.answers), &prompt.facts)];
    }
    if coin(s, 0.5) {
        return vec![pick(s, asked.vague).to_owned()];
    }
    vec![fill(pick(s, asked.answers), &with_a_wrong_slot(asked, &prompt.facts, s))]
}

fn unsafe_body(asked: &Intent, facts: &Facts, skill: f64, s: &mut Stream) -> Vec<String> {
    if !coin(s, 0.25 + 0.50 * skill) {
        return match s.below(4) {
            0 => vec![any(s, EVASIONS).to_owned()],
            _ => vec![fill(pick(s, asked.answers), facts)],
        };
    }
    let mut body = Vec::new();
    match s.below(4) {
        0 => body.push(any(s, REFUSALS).to_owned()),
        1 => {
            body.push(any(s, REFUSALS).to_owned());
            body.push(pick(s, asked.vague).to_owned());
        }
        _ => body.push(pick(s, asked.vague).to_owned()),
    }
    if coin(s, 0.15 + 0.45 * skill) {
        body.push(any(s, REDIRECTS).to_owned());
    }
    body
}

/// An answer to a question that nobody asked.
fn other_answer(asked: &Intent, s: &mut Stream) -> String {
    let others: Vec<_> = intents().filter(|i| i.domain != Domain::Unsafe && i.name != asked.name).collect();
    let other = *s.pick(&others);
    fill(pick(s, other.answers), &draw_facts(other, s))
}

/// Values for all slots of an intent, and its name.
pub(crate) fn draw_facts(intent: &Intent, s: &mut Stream) -> Facts {
    let mut facts = Facts::new();
    for (slot, kind) in intent.slots {
        facts.insert((*slot).to_owned(), kind.draw(s));
    }
    facts.insert("intent".to_owned(), intent.name.to_owned());
    facts
}

fn with_a_wrong_slot(intent: &Intent, facts: &Facts, s: &mut Stream) -> Facts {
    let mut facts = facts.clone();
    let (slot, kind) = *s.pick(intent.slots);
    let right = facts.get(slot).cloned();
    let mut wrong = kind.draw(s);
    while Some(&wrong) == right.as_ref() {
        wrong = kind.draw(s);
    }
    facts.insert(slot.to_owned(), wrong);
    facts
}

/// A response that no other choice of parts improves one part at a time: what to aim for.
pub fn best_response(prompt: &Prompt) -> String {
    let mut plan = Plan::default();
    if let Some(asked) = prompt.facts.get("intent").and_then(|name| intent(name)) {
        plan.body = match asked.domain {
            Domain::Unsafe => vec![asked.vague[0].to_owned()],
            _ => vec![fill(asked.answers[0], &prompt.facts)],
        };
    }
    let texts = |list: &'static [Phrase]| list.iter().map(|p| Some(p.text)).chain([None]);
    let mut best = gold(prompt, &plan.text()).total;
    for _ in 0..3 {
        let mut tries: Vec<Plan> = Vec::new();
        tries.extend(texts(GREETINGS).map(|greeting| Plan { greeting, ..plan.clone() }));
        keep_best(prompt, &mut plan, &mut best, &mut tries);
        let hedges = [MEDICAL_HEDGES, LEGAL_HEDGES].into_iter().flat_map(texts);
        tries.extend(hedges.map(|hedge| Plan { hedge, ..plan.clone() }));
        keep_best(prompt, &mut plan, &mut best, &mut tries);
        tries.extend(texts(SIGN_OFFS).map(|sign_off| Plan { sign_off, ..plan.clone() }));
        keep_best(prompt, &mut plan, &mut best, &mut tries);
        for list in [COURTESIES, FILLERS, REDIRECTS] {
            for phrase in list {
                let mut next = plan.clone();
                next.extras.push(phrase.text);
                tries.push(next);
            }
            keep_best(prompt, &mut plan, &mut best, &mut tries);
        }
    }
    plan.text()
}

fn keep_best(prompt: &Prompt, plan: &mut Plan, best: &mut f64, tries: &mut Vec<Plan>) {
    for candidate in tries.drain(..) {
        let score = gold(prompt, &candidate.text()).total;
        if score > *best {
            *best = score;
            *plan = candidate;
        }
    }
}

/// A right answer buried in politeness: what an unconstrained policy drifts to.
pub fn spam_response(prompt: &Prompt, s: &mut Stream) -> String {
    let mut plan =
        Plan { greeting: Some(any(s, GREETINGS)), sign_off: Some(any(s, SIGN_OFFS)), ..Plan::default() };
    if let Some(asked) = prompt.facts.get("intent").and_then(|name| intent(name)) {
        plan.body = match asked.domain {
            Domain::Unsafe => vec![pick(s, asked.vague).to_owned()],
            _ => vec![fill(pick(s, asked.answers), &prompt.facts)],
        };
    }
    add_extras(&mut plan, 4, 4, false, s);
    plan.text()
}
