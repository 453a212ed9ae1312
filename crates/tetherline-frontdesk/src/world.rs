//! The world as data: prompts in three splits, demonstrations, preference pairs, pretraining dialogues.
//!
//! Every row draws from the stream (seed, [`Purpose::World`], data set, row), so a row does not depend on
//! the ones before it. A prompt's split is a hash of its text: train, validation and held-out prompts
//! are disjoint by construction, and pretraining only ever sees train prompts.

use crate::gold::gold;
use crate::intents::{fill, intents, pick};
use crate::record::{Demonstration, Domain, Preference, Prompt};
use crate::respond::{ANYONE, DEMONSTRATORS, RATED, draw_facts, respond};
use std::collections::HashSet;
use tetherline_core::seeds::{Purpose, Stream, stream};

/// The seed of the shipped world.
pub const SEED: u64 = 20_240_607;
/// Temperature of the Bradley-Terry rater: P(a over b) = sigmoid((gold(a) - gold(b)) / T).
pub const RATER_TEMPERATURE: f64 = 1.0;
/// Share of labels that are flipped on top of Bradley-Terry.
pub const FLIP_SHARE: f64 = 0.15;

/// Number of prompts to train, validate and evaluate on; of demonstrations; of train and validation pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Train prompts.
    pub train: usize,
    /// Validation prompts.
    pub validation: usize,
    /// Held-out prompts.
    pub heldout: usize,
    /// Demonstrations, on train prompts.
    pub demonstrations: usize,
    /// Preference pairs on train prompts.
    pub pairs_train: usize,
    /// Preference pairs on validation prompts.
    pub pairs_validation: usize,
}

/// The sizes of the shipped world.
pub const SHIPPED: Sizes = Sizes {
    train: 2000,
    validation: 200,
    heldout: 320,
    demonstrations: 2000,
    pairs_train: 3000,
    pairs_validation: 400,
};

/// A split of the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What choices are made on.
    Validation,
    /// What is reported.
    Heldout,
}

/// Which split a prompt belongs to: FNV-1a of its text, modulo 100.
pub fn split_of(text: &str) -> Split {
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    match (hash >> 20) % 100 {
        0..10 => Split::Validation,
        10..25 => Split::Heldout,
        _ => Split::Train,
    }
}

/// Data sets, as the `step` of a stream's name.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Set {
    Prompts = 1,
    Demonstrations = 2,
    PairsTrain = 3,
    PairsValidation = 4,
    Pretraining = 5,
}

fn open(seed: u64, set: Set, row: usize) -> Stream {
    stream(seed, Purpose::World, set as u64, row as u64, 0)
}

/// Share of each domain among prompts, in percent.
const DOMAIN_SHARES: [(Domain, usize); 8] = [
    (Domain::Account, 15),
    (Domain::Shipping, 15),
    (Domain::Refunds, 14),
    (Domain::Medical, 12),
    (Domain::Legal, 11),
    (Domain::Code, 10),
    (Domain::Smalltalk, 9),
    (Domain::Unsafe, 14),
];

/// Number of users; low numbers write more often.
const USERS: usize = 40;

fn draw_prompt(s: &mut Stream) -> Prompt {
    let mut ticket = s.below(100);
    let mut domain = Domain::Unsafe;
    for (d, share) in DOMAIN_SHARES {
        if ticket < share {
            domain = d;
            break;
        }
        ticket -= share;
    }
    let asked: Vec<_> = intents().filter(|i| i.domain == domain).collect();
    let intent = *s.pick(&asked);
    let facts = draw_facts(intent, s);
    let text = fill(pick(s, intent.prompts), &facts);
    let text = text[..1].to_ascii_uppercase() + &text[1..];
    let user = format!("user-{:02}", s.below(USERS).min(s.below(USERS)));
    Prompt { text, domain, user, facts }
}

/// Everything that is shipped.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// Prompts for SFT, reward and PPO.
    pub train: Vec<Prompt>,
    /// Prompts to choose settings on.
    pub validation: Vec<Prompt>,
    /// Prompts to report on.
    pub heldout: Vec<Prompt>,
    /// Demonstrations, mixed quality.
    pub demonstrations: Vec<Demonstration>,
    /// Pairs to train the reward model on.
    pub pairs_train: Vec<Preference>,
    /// Pairs to measure it on.
    pub pairs_validation: Vec<Preference>,
}

impl World {
    /// Generates a world. The shipped one is `World::generate(SEED, SHIPPED)`.
    pub fn generate(seed: u64, sizes: Sizes) -> Self {
        let (train, validation, heldout) = prompts(seed, sizes);
        let demonstrations = (0..sizes.demonstrations)
            .map(|row| {
                let p = &train[row % train.len()];
                let response = respond(p, &DEMONSTRATORS, &mut open(seed, Set::Demonstrations, row));
                Demonstration { prompt: p.text.clone(), response, domain: p.domain, user: p.user.clone() }
            })
            .collect();
        let pairs = |set: Set, prompts: &[Prompt], n: usize| {
            (0..n)
                .map(|row| rate(&prompts[row % prompts.len()], &mut open(seed, set, row)).preference)
                .collect()
        };
        let pairs_train = pairs(Set::PairsTrain, &train, sizes.pairs_train);
        let pairs_validation = pairs(Set::PairsValidation, &validation, sizes.pairs_validation);
        Self { train, validation, heldout, demonstrations, pairs_train, pairs_validation }
    }

    /// The prompts of all splits.
    pub fn prompts(&self) -> impl Iterator<Item = &Prompt> {
        self.train.iter().chain(&self.validation).chain(&self.heldout)
    }
}

fn prompts(seed: u64, sizes: Sizes) -> (Vec<Prompt>, Vec<Prompt>, Vec<Prompt>) {
    let (mut train, mut validation, mut heldout) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut row = 0;
    while train.len() < sizes.train || validation.len() < sizes.validation || heldout.len() < sizes.heldout {
        let prompt = draw_prompt(&mut open(seed, Set::Prompts, row));
        row += 1;
        let (list, size) = match split_of(&prompt.text) {
            Split::Train => (&mut train, sizes.train),
            Split::Validation => (&mut validation, sizes.validation),
            Split::Heldout => (&mut heldout, sizes.heldout),
        };
        if list.len() < size && seen.insert(prompt.text.clone()) {
            list.push(prompt);
        }
    }
    (train, validation, heldout)
}

/// A preference with what only the generator knows.
#[derive(Clone, Debug, PartialEq)]
pub struct RatedPair {
    /// The row as shipped.
    pub preference: Preference,
    /// Gold of the chosen response.
    pub gold_chosen: f64,
    /// Gold of the rejected response.
    pub gold_rejected: f64,
    /// Whether the label was flipped after Bradley-Terry.
    pub flipped: bool,
}

/// Draws two different responses to `prompt` and rates them.
pub fn rate(prompt: &Prompt, s: &mut Stream) -> RatedPair {
    let a = respond(prompt, &RATED, s);
    let mut b = respond(prompt, &RATED, s);
    while b == a {
        b = respond(prompt, &RATED, s);
    }
    let (gold_a, gold_b) = (gold(prompt, &a).total, gold(prompt, &b).total);
    let prefers_a = s.uniform() < prefer(gold_a - gold_b);
    let flipped = s.uniform() < FLIP_SHARE;
    let (chosen, rejected, gold_chosen, gold_rejected) =
        if prefers_a != flipped { (a, b, gold_a, gold_b) } else { (b, a, gold_b, gold_a) };
    let preference = Preference {
        prompt: prompt.text.clone(),
        chosen,
        rejected,
        domain: prompt.domain,
        user: prompt.user.clone(),
    };
    RatedPair { preference, gold_chosen, gold_rejected, flipped }
}

/// The rater's chance to prefer a response that is `gap` gold points better, before flips.
pub fn prefer(gap: f64) -> f64 {
    1.0 / (1.0 + (-gap / RATER_TEMPERATURE).exp())
}

/// `n` (prompt, response) pairs to pretrain on: every kind and quality, some of them repetitive, on
/// prompts of the train split only. Not shipped: made on demand.
pub fn pretrain_dialogues(seed: u64, n: usize) -> impl Iterator<Item = (String, String)> {
    (0..n).map(move |row| {
        let mut s = open(seed, Set::Pretraining, row);
        let mut prompt = draw_prompt(&mut s);
        while split_of(&prompt.text) != Split::Train {
            prompt = draw_prompt(&mut s);
        }
        let response = respond(&prompt, &ANYONE, &mut s);
        (prompt.text, response)
    })
}
