//! Frozen encoders that score: how long a response is to them, what they hold, and how fast they are here.
//!
//! How many tokens of an encoder a token of the policy is, is measured on prompts: their text in both tokenizers.

use super::lengths::Texts;
use super::probe;
use crate::recipe::Recipe;
use crate::{Error, sources};
use tetherline_models::{EncoderShape, ModelError, ModelFiles, RowSize};

/// An encoder of a recipe.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    /// What the parts of memory are called after.
    pub(super) name: String,
    /// Whether it scores costs, which PPO alone asks for.
    pub(super) of_costs: bool,
    // Boxed, since a build without encoders has none of them.
    shape: Box<EncoderShape>,
    /// Prompt and response as a pair.
    pair: bool,
    /// Its tokens per token of the policy.
    ratio: f64,
    /// Special tokens.
    specials: usize,
    /// Operations per second; 0 until measured.
    speed: f64,
}

/// Every encoder of a recipe: as a reward model, as a cost model, as a rule.
pub(super) fn load(recipe: &Recipe) -> Result<Vec<Judge>, Error> {
    let mut all = Vec::new();
    let section = &recipe.model;
    let rewards = section.reward.iter().filter(|_| recipe.uses_reward_model()).flat_map(|given| &given.0);
    let costs = section.cost.iter().filter(|_| recipe.cost.is_some());
    let models = rewards.map(|text| (text, "reward model", false));
    for (text, what, of_costs) in models.chain(costs.map(|text| (text, "cost model", true))) {
        let files = sources::open_model(text)?;
        if files.is_encoder().map_err(failed(text))? {
            let shape = shape(&files, text)?;
            // As a preference model is made (`rater.rs`).
            let pair = shape.labels().len() == 1;
            all.push(Judge::new(what.to_owned(), of_costs, shape, pair));
        }
    }
    for (key, encoder) in recipe.encoders() {
        let shape = shape(&sources::open_model(&encoder.model)?, &encoder.model)?;
        let name = format!("encoder {}", encoder.name);
        all.push(Judge::new(name, key.starts_with("cost"), shape, encoder.pair));
    }
    Ok(all)
}

fn failed(text: &str) -> impl Fn(ModelError) -> Error {
    move |e| Error::input(format!("the encoder {text}"), e)
}

fn shape(files: &ModelFiles, text: &str) -> Result<Box<EncoderShape>, Error> {
    EncoderShape::load(files).map(Box::new).map_err(failed(text))
}

impl Judge {
    fn new(name: String, of_costs: bool, shape: Box<EncoderShape>, pair: bool) -> Self {
        let specials = shape.tokens("", pair.then_some("")).unwrap_or(0);
        Self { name, of_costs, shape, pair, ratio: 1.0, specials, speed: 0.0 }
    }

    /// Compares its tokens with the policy's on these texts.
    pub(super) fn read(&mut self, texts: &Texts) -> Result<(), Error> {
        let (mut own, mut theirs) = (0, 0);
        for (text, tokens) in texts {
            let all = self.shape.tokens(text, None).map_err(failed(&self.name))?;
            // What is cut says nothing.
            if all < self.shape.max_tokens() {
                own += all.saturating_sub(self.shape.tokens("", None).unwrap_or(0));
                theirs += tokens;
            }
        }
        if theirs > 0 {
            self.ratio = own as f64 / theirs as f64;
        }
        Ok(())
    }

    /// Measures its speed on rows like these.
    pub(super) fn measure(&mut self, rows: &[RowSize], clock: fn() -> f64) -> Result<(), Error> {
        let lengths = self.lengths(rows);
        let mean = lengths.iter().sum::<usize>() / lengths.len().max(1);
        let fail = |e| Error::input("the small encoder that speed is measured on", e);
        let probe = self.shape.probe(mean).map_err(fail)?;
        let taken = probe::seconds(clock, || probe.run()).map_err(fail)?;
        self.speed = probe.work() / taken;
        Ok(())
    }

    fn lengths(&self, rows: &[RowSize]) -> Vec<usize> {
        let of = |r: &RowSize| {
            let read = if self.pair { r.tokens } else { r.lm };
            let own = self.specials + (self.ratio * read as f64).round() as usize;
            own.clamp(1, self.shape.max_tokens())
        };
        rows.iter().map(of).collect()
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.shape.weight_bytes()
    }

    /// Bytes of what it holds while it scores rows of the policy's tokens.
    pub(super) fn forward_bytes(&self, rows: &[RowSize]) -> usize {
        self.shape.forward_bytes(&self.lengths(rows))
    }

    /// Seconds that it takes for them.
    pub(super) fn seconds(&self, rows: &[RowSize]) -> f64 {
        self.shape.work(&self.lengths(rows)) / self.speed
    }
}
