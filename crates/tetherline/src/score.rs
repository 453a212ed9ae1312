//! `tether score`: log-probs, KL and reward-model scores of given responses.

use crate::codec::Codec;
use crate::fit::Fit;
use crate::ppo::POLICY_HEADS;
use crate::rater::EncoderModel;
use crate::scoring::RewardModel;
use crate::train::Example;
use crate::{Error, sources};
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tetherline_core::{Event, Metrics, Observer, Stage};
use tetherline_data::{ReadOptions, ScoreInput, ScoreRow, Text, read_scores};
use tetherline_models::{Device, Engine, Model, ModelConfig, ModelFiles};
use tetherline_reward::EnsembleConfig;

/// What to score, with which models, into which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreOptions {
    /// A causal model (log-probs), a reward model or a frozen encoder (`score`): `"frontdesk"`, a directory, or a hub id.
    pub model: String,
    /// A second causal model, to measure KL to.
    pub reference: Option<String>,
    /// JSON lines with `prompt` and `response`, `messages`, or `input_ids` and `prompt_len`.
    pub data: PathBuf,
    /// Where the scores go, one JSON object per line.
    pub out: PathBuf,
    /// Add the end-of-sequence token to text responses.
    pub append_eos: bool,
    /// Rows run together. Has no influence on the scores.
    pub batch_size: usize,
    /// Worker threads; 0: every core.
    pub threads: usize,
    /// Where the models run.
    pub device: Device,
    /// Skip (and count) malformed lines instead of stopping.
    pub skip_bad_lines: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreSummary {
    /// Rows written.
    pub rows: usize,
    /// Response tokens scored.
    pub tokens: usize,
    /// Malformed lines skipped.
    pub skipped: usize,
}

/// Scores responses and writes one row each: `logprobs` (nats, one per response token), with a reference
/// also `ref_logprobs`, `kl_k1` and `kl_exact` (nats per token); with a reward model `score`; with an encoder `logits` by label and,
/// where it is clear which of them is meant, `score` ([`crate::rater`]).
///
/// # Errors
/// [`Error::Input`] where the device, a model or the data cannot be used, [`Error::Io`] where the file cannot be
/// written.
pub fn score(options: &ScoreOptions, observer: &mut dyn Observer) -> Result<ScoreSummary, Error> {
    let engine = crate::pipeline::engine(options.device, options.threads)?;
    let files = sources::open_model(&options.model)?;
    let what = || format!("the model {}", options.model);
    if files.is_encoder().map_err(|e| Error::input(what(), e))? {
        return score_by_encoder(options, &files, observer);
    }
    let config = ModelConfig::load(&files).map_err(|e| Error::input(what(), e))?;
    let read = ReadOptions { skip_bad_lines: options.skip_bad_lines };
    let file = options.data.display().to_string();
    let loaded = read_scores(&options.data, &read).map_err(|e| Error::input(file.clone(), e))?;
    let total = loaded.rows.len() as u64;
    let scorer = if config.sequence_classification {
        if options.reference.is_some() {
            let problem = "a reward model gives one score and has no reference; leave --reference out";
            return Err(Error::input(what(), problem));
        }
        Kind::Reward(Box::new(RewardModel::load(&files)?))
    } else {
        let model = Model::load(&files, POLICY_HEADS, 0).map_err(|e| Error::input(what(), e))?;
        let codec = Codec::load(&files, &model)?;
        let reference = match &options.reference {
            None => None,
            Some(text) => {
                let files = sources::open_model(text)?;
                let load = Model::load(&files, POLICY_HEADS, 0);
                let loaded = load.map_err(|e| Error::input(format!("the reference {text}"), e))?;
                Some(sources::sharing(loaded, &model, &engine)?)
            }
        };
        Kind::Policy(Box::new((model, codec, reference)))
    };
    let mut out = Output::create(&options.out, &options.data)?;
    let context = scorer.model().context();
    let mut fit = Fit::new(&file, context, format!("context {context}"), options.skip_bad_lines);
    observer.on_event(&Event::StageStarted { stage: Stage::Score, done: 0, total });
    let mut done = 0;
    let mut tokens = 0;
    for rows in loaded.rows.chunks(options.batch_size.max(1)) {
        let mut examples = Vec::with_capacity(rows.len());
        for row in rows {
            let example = encode(scorer.codec(), row, options.append_eos)?;
            if !fit.keeps(row.line, example.tokens.len())? {
                continue;
            }
            if let Err(e) = scorer.model().check_tokens(&example.tokens) {
                fit.refuse(row.line, &e.to_string())?;
                continue;
            }
            if example.prompt_len == 0 && !scorer.is_reward() {
                fit.refuse(row.line, "the prompt has no tokens; a log-prob needs something before it")?;
                continue;
            }
            tokens += example.tokens.len() - example.prompt_len;
            examples.push(example);
        }
        for line in scorer.lines(&engine, &examples)? {
            writeln!(out, "{line}").map_err(|e| out.error(e))?;
        }
        done += rows.len() as u64;
        observer.on_event(&Event::Step { stage: Stage::Score, step: done, total, metrics: &Metrics::new() });
    }
    out.finish()?;
    observer.on_event(&Event::StageFinished { stage: Stage::Score });
    let skipped = fit.skipped();
    Ok(ScoreSummary { rows: loaded.rows.len() - skipped, tokens, skipped: loaded.skipped.len() + skipped })
}

/// The same with a frozen encoder, which reads text.
fn score_by_encoder(
    options: &ScoreOptions,
    files: &ModelFiles,
    observer: &mut dyn Observer,
) -> Result<ScoreSummary, Error> {
    if options.reference.is_some() {
        let problem = "an encoder gives scores and has no reference; leave --reference out";
        return Err(Error::input(format!("the model {}", options.model), problem));
    }
    let encoder = EncoderModel::load(files)?;
    let read = ReadOptions { skip_bad_lines: options.skip_bad_lines };
    let file = options.data.display().to_string();
    let loaded = read_scores(&options.data, &read).map_err(|e| Error::input(file.clone(), e))?;
    let total = loaded.rows.len() as u64;
    let mut out = Output::create(&options.out, &options.data)?;
    let mut fit = Fit::new(&file, usize::MAX, "an encoder cuts what is longer", options.skip_bad_lines);
    observer.on_event(&Event::StageStarted { stage: Stage::Score, done: 0, total });
    let mut done = 0;
    for rows in loaded.rows.chunks(options.batch_size.max(1)) {
        let mut texts = Vec::with_capacity(rows.len());
        for row in rows {
            match &row.input {
                ScoreInput::Text { prompt, response } => texts.push((prompt.last_text(), response.as_str())),
                ScoreInput::Tokens { .. } => {
                    fit.refuse(
                        row.line,
                        "an encoder reads text with its own tokenizer, and here are `input_ids`",
                    )?;
                }
            }
        }
        for logits in encoder.logits(&texts)? {
            let by_label: Metrics =
                encoder.labels().iter().cloned().zip(logits.iter().map(|&z| f64::from(z))).collect();
            let mut line = json!({"logits": by_label});
            if let (Some(score), Some(raw)) = (encoder.score(&logits), encoder.raw(&logits)) {
                line["score"] = json!(score);
                line["raw_score"] = json!(raw);
            }
            writeln!(out, "{line}").map_err(|e| out.error(e))?;
        }
        done += rows.len() as u64;
        observer.on_event(&Event::Step { stage: Stage::Score, step: done, total, metrics: &Metrics::new() });
    }
    out.finish()?;
    observer.on_event(&Event::StageFinished { stage: Stage::Score });
    let skipped = fit.skipped();
    Ok(ScoreSummary { rows: loaded.rows.len() - skipped, tokens: 0, skipped: loaded.skipped.len() + skipped })
}

enum Kind {
    Reward(Box<RewardModel>),
    Policy(Box<(Model, Codec, Option<Model>)>),
}

impl Kind {
    fn codec(&self) -> &Codec {
        match self {
            Kind::Reward(rm) => &rm.codec,
            Kind::Policy(p) => &p.1,
        }
    }

    fn model(&self) -> &Model {
        match self {
            Kind::Reward(rm) => &rm.model,
            Kind::Policy(p) => &p.0,
        }
    }

    fn is_reward(&self) -> bool {
        matches!(self, Kind::Reward(_))
    }

    fn lines(&self, engine: &Engine, examples: &[Example]) -> Result<Vec<serde_json::Value>, Error> {
        let fail = |e: tetherline_models::ModelError| Error::input("the data", e);
        match self {
            Kind::Reward(rm) => {
                let rows: Vec<Vec<u32>> = examples.iter().map(|e| e.tokens.clone()).collect();
                let raw = rm.raw_scores(engine, &rows)?;
                let line = |raw: &Vec<f32>| {
                    let heads = rm.normalised(raw);
                    match raw[..] {
                        [x] => json!({"score": heads[0], "raw_score": x}),
                        _ => {
                            let (score, apart) = EnsembleConfig::default().combine(&heads);
                            json!({"score": score, "disagreement": apart, "heads": heads, "raw_heads": raw})
                        }
                    }
                };
                Ok(raw.iter().map(line).collect())
            }
            Kind::Policy(p) => {
                let (model, _, reference) = &**p;
                let rows: Vec<_> = examples.iter().map(Example::row).collect();
                match reference {
                    None => {
                        let out = model.forward(engine, &rows, 1.0).map_err(fail)?;
                        Ok(out.into_iter().map(|r| json!({"logprobs": r.logprobs})).collect())
                    }
                    Some(reference) => {
                        let out = model.forward_pair(reference, engine, &rows, 1.0).map_err(fail)?;
                        let line = |r: tetherline_models::PairRow| {
                            let k1: Vec<f32> =
                                r.policy.logprobs.iter().zip(&r.ref_logprobs).map(|(a, b)| a - b).collect();
                            json!({"logprobs": r.policy.logprobs, "ref_logprobs": r.ref_logprobs,
                                "kl_k1": k1, "kl_exact": r.kl_exact})
                        };
                        Ok(out.into_iter().map(line).collect())
                    }
                }
            }
        }
    }
}

fn encode(codec: &Codec, row: &ScoreRow, append_eos: bool) -> Result<Example, Error> {
    match &row.input {
        ScoreInput::Tokens { input_ids, prompt_len } => {
            Ok(Example { tokens: input_ids.clone(), prompt_len: *prompt_len })
        }
        // Plain text is encoded as it stands; only message lists go through the chat template.
        ScoreInput::Text { prompt: Text::Plain(prompt), response } => {
            codec.plain_example(prompt, response, append_eos)
        }
        ScoreInput::Text { prompt, response } => codec.example(prompt, response, append_eos),
    }
}

/// A file that appears whole: written beside its place and renamed at the end.
pub(crate) struct Output {
    path: PathBuf,
    temp: PathBuf,
    file: BufWriter<File>,
}

impl Output {
    /// Refuses to replace the file that is read, `input`.
    pub(crate) fn create(path: &Path, input: &Path) -> Result<Self, Error> {
        let place = |p: &Path| p.canonicalize().ok();
        if place(path).is_some_and(|out| Some(out) == place(input)) {
            let problem = "it is the file that is read, and would be replaced; choose another --out";
            return Err(Error::input(path.display().to_string(), problem));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temp = path.with_file_name(format!(".tmp-{name}"));
        let file = File::create(&temp).map_err(|source| Error::Io {
            action: "create",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { path: path.to_owned(), temp, file: BufWriter::new(file) })
    }

    pub(crate) fn error(&self, source: std::io::Error) -> Error {
        Error::Io { action: "write", path: self.path.clone(), source }
    }

    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let done = self.file.flush().and_then(|()| std::fs::rename(&self.temp, &self.path));
        done.map_err(|e| self.error(e))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
