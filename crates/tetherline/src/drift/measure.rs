//! Responses sampled and measured: tokens, their text, exact KL and log-ratio at each.

use crate::Error;
use crate::codec::Codec;
use tetherline_core::seeds::Purpose;
use tetherline_core::{Event, Metrics, Observer, PromptBatch, PromptRef, Ragged, Stage};
use tetherline_eval::drift::Response;
use tetherline_models::{Engine, Model, Row, Tokenizer};
use tetherline_rollout::{SamplingConfig, StreamName, generate};

/// Tokens of the prompt that are decoded with a response, so that its first token has its space.
const BEFORE: usize = 8;

/// Responses with their prompts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    /// One row per response.
    pub(crate) prompts: PromptBatch,
    /// Token ids.
    pub(crate) responses: Ragged<u32>,
    /// Text.
    pub(crate) texts: Vec<String>,
}

impl Rows {
    /// Appends a response.
    pub(crate) fn push(&mut self, prompt: PromptRef<'_>, response: &[u32], text: &str) {
        self.prompts.push(prompt);
        self.responses.push_row(response.iter().copied());
        self.texts.push(text.to_owned());
    }
}

/// What sampling and measuring needs.
pub(crate) struct Measurer<'a> {
    /// Threads and their buffers.
    pub(crate) engine: &'a Engine,
    /// Of the policy; both models read its tokens.
    pub(crate) codec: &'a Codec,
    /// How responses are drawn.
    pub(crate) sampling: &'a SamplingConfig,
    /// Root of the streams.
    pub(crate) seed: u64,
    /// Rows run together.
    pub(crate) batch_size: usize,
}

impl Measurer<'_> {
    /// A response of `model` to every prompt.
    ///
    /// # Errors
    /// If a prompt does not fit, or the device fails.
    pub(crate) fn sample(
        &self,
        model: &Model,
        prompts: &PromptBatch,
        observer: &mut dyn Observer,
    ) -> Result<Rows, Error> {
        let name = StreamName { seed: self.seed, purpose: Purpose::Eval, step: 1 };
        let mut out = Rows::default();
        self.in_batches(Stage::Generate, prompts.len(), observer, |from, to| {
            let mut batch = PromptBatch::default();
            (from..to).for_each(|i| batch.push(prompts.get(i)));
            let tokenizer = &self.codec.tokenizer;
            let r = generate(model, tokenizer, batch, self.sampling, name, self.engine, 0)
                .map_err(|e| Error::input("the prompts", e))?;
            for i in 0..r.responses.len() {
                out.push(r.prompts.get(i), r.responses.row(i), &r.texts[i]);
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// Exact KL(model ‖ other) and log-ratio at every token of the responses; `swapped` where `other` is the policy, so
    /// that the log-ratio is that of the policy to the reference all the same.
    ///
    /// # Errors
    /// If a row does not fit a model, or the vocabularies differ.
    pub(crate) fn responses(
        &self,
        model: &Model,
        other: &Model,
        rows: &Rows,
        swapped: bool,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Response>, Error> {
        let temperature = self.sampling.temperature as f32;
        let sign = if swapped { -1.0 } else { 1.0 };
        let mut out = Vec::with_capacity(rows.texts.len());
        self.in_batches(Stage::Score, rows.texts.len(), observer, |from, to| {
            let full: Vec<Vec<u32>> =
                (from..to).map(|i| [rows.prompts.tokens.row(i), rows.responses.row(i)].concat()).collect();
            let each: Vec<Row<'_>> = full
                .iter()
                .zip(from..)
                .map(|(t, i)| Row {
                    tokens: t,
                    lm: rows.prompts.tokens.row_len(i) - 1..t.len() - 1,
                    scalar: 0..0,
                })
                .collect();
            let pairs = model
                .forward_pair(other, self.engine, &each, temperature)
                .map_err(|e| Error::input("policy and reference", e))?;
            for (pair, i) in pairs.iter().zip(from..) {
                let prompt = rows.prompts.get(i);
                let tokens = rows.responses.row(i).to_vec();
                let own = pair.policy.logprobs.iter().zip(&pair.ref_logprobs);
                out.push(Response {
                    prompt_id: prompt.id,
                    sample: prompt.sample,
                    domain: prompt.domain.to_owned(),
                    user: prompt.user.to_owned(),
                    prompt: prompt.text.to_owned(),
                    text: rows.texts[i].clone(),
                    pieces: pieces(&self.codec.tokenizer, prompt.tokens, &tokens),
                    tokens,
                    kl: pair.kl_exact.iter().map(|x| f64::from(*x)).collect(),
                    log_ratio: own.map(|(a, b)| sign * (f64::from(*a) - f64::from(*b))).collect(),
                });
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn in_batches(
        &self,
        stage: Stage,
        n: usize,
        observer: &mut dyn Observer,
        mut work: impl FnMut(usize, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let total = n as u64;
        observer.on_event(&Event::StageStarted { stage, done: 0, total });
        for from in (0..n).step_by(self.batch_size.max(1)) {
            let to = (from + self.batch_size.max(1)).min(n);
            work(from, to)?;
            observer.on_event(&Event::Step { stage, step: to as u64, total, metrics: &Metrics::new() });
        }
        observer.on_event(&Event::StageFinished { stage });
        Ok(())
    }
}

/// What each token adds to the text. Bytes of a character that is not complete add nothing; its last byte adds it.
pub(crate) fn pieces(tokenizer: &Tokenizer, prompt: &[u32], response: &[u32]) -> Vec<String> {
    let before = prompt.len().min(BEFORE);
    let all = [&prompt[prompt.len() - before..], response].concat();
    let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap_or_default();
    // Decoded is a window that moves on with every complete piece, as the whole text anew for each token takes too long.
    let (mut from, mut read) = (0, before);
    let mut out = Vec::with_capacity(response.len());
    for at in before..all.len() {
        let (known, whole) = (decode(&all[from..read]), decode(&all[from..=at]));
        let last = at + 1 == all.len();
        match whole.strip_prefix(known.as_str()) {
            Some(new) if last || !new.ends_with('\u{fffd}') => {
                out.push(new.to_owned());
                (from, read) = (read, at + 1);
            }
            Some(_) => out.push(String::new()),
            // The text before changes with what follows: the token alone.
            None => {
                out.push(decode(&all[at..=at]));
                (from, read) = (at, at + 1);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_models::ModelFiles;

    #[test]
    fn pieces_of_every_tokenizer_join_to_the_text() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers");
        let mut tried = 0;
        for entry in std::fs::read_dir(root).unwrap() {
            let dir = entry.unwrap().path();
            if !dir.join("tokenizer.json").is_file() {
                continue;
            }
            let tokenizer = Tokenizer::load(&ModelFiles::dir(&dir).unwrap(), &[]).unwrap();
            let prompt = tokenizer.encode("Hello there, ", false).unwrap();
            let ids = tokenizer.encode("the café is open.\n\nsee you at 10", false).unwrap();
            let joined = pieces(&tokenizer, &prompt, &ids).concat();
            let whole = tokenizer.decode(&[prompt.as_slice(), &ids].concat(), false).unwrap();
            let shown = whole.strip_prefix(&tokenizer.decode(&prompt, false).unwrap()).unwrap_or(&whole);
            assert_eq!(joined, shown, "{}", dir.display());
            tried += 1;
        }
        assert!(tried >= 3, "{tried}");
    }
}
