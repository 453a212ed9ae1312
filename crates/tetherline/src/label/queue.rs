//! The pairs to judge: two policies answer the same prompts; an ensemble of reward models may order them.
//!
//! `NAME.queue.jsonl`: a first line with what they were made of, then a pair per line.

use super::hash;
use crate::codec::Codec;
use crate::drift::{Measurer, Rows};
use crate::fit::Fit;
use crate::ppo::POLICY_HEADS;
use crate::rater::Rater;
use crate::{Error, sources};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tetherline_core::{Event, Message, Observer, PromptBatch, PromptRef, TextSample};
use tetherline_data::{PromptRow, ReadOptions, Text, read_prompts};
use tetherline_eval::agreement::disagreement;
use tetherline_models::{Device, Engine, Model};
use tetherline_rollout::SamplingConfig;

/// What a queue is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelOptions {
    /// The first policy: `"frontdesk"`, a Hugging Face directory (also of an adapter), or a hub id.
    pub first: String,
    /// The second; the same as the first asks for two samples of one policy.
    pub second: String,
    /// JSON lines with `prompt` or `messages`.
    pub prompts: PathBuf,
    /// Reward models; with two or more the pairs that they disagree about most come first.
    pub rewards: Vec<String>,
    /// At most so many pairs; 0: all.
    pub most: usize,
    /// Plain prompts are what a user says: they become messages, and go through the chat template.
    pub chat: bool,
    /// How responses are drawn.
    pub sampling: SamplingConfig,
    /// Root of the random streams.
    pub seed: u64,
    /// Rows run together.
    pub batch_size: usize,
    /// Worker threads; 0: every core.
    pub threads: usize,
    /// Where the models run.
    pub device: Device,
    /// Skip malformed and over-long lines instead of stopping.
    pub skip_bad_lines: bool,
}

/// Two responses to one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Names the pair: a hash of prompt and responses.
    pub pair: String,
    /// The prompt.
    pub prompt: Text,
    /// The first policy's response.
    pub first: String,
    /// The second's.
    pub second: String,
    /// Domain tag.
    pub domain: String,
    /// User tag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Variance over the ensemble of P(first is better), 0 to ¼.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<f64>,
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueFile {
    /// Name of the first policy.
    pub first: String,
    /// Of the second.
    pub second: String,
    /// Root of the streams, also of those that draw the sides.
    pub seed: u64,
    /// The pairs, in the order in which they are judged.
    pub candidates: Vec<Candidate>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    first_policy: String,
    second_policy: String,
    seed: u64,
    prompts: String,
    rewards: Vec<String>,
}

/// Reads a queue.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] with the line that is damaged.
pub fn read_queue(path: &Path) -> Result<QueueFile, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let at = |i: usize| format!("{} line {}", path.display(), i + 1);
    let mut lines = text.lines().enumerate();
    let head = lines.next().map(|l| l.1).unwrap_or_default();
    let head: Head = serde_json::from_str(head).map_err(|e| Error::input(at(0), e))?;
    let candidate = |(i, line): (usize, &str)| serde_json::from_str(line).map_err(|e| Error::input(at(i), e));
    let candidates = lines.map(candidate).collect::<Result<_, _>>()?;
    Ok(QueueFile { first: head.first_policy, second: head.second_policy, seed: head.seed, candidates })
}

struct Answered {
    codec: Codec,
    rows: Rows,
}

fn answer(
    name: &str,
    options: &LabelOptions,
    texts: &[PromptRow],
    sample: u32,
    engine: &Engine,
    observer: &mut dyn Observer,
) -> Result<Answered, Error> {
    let files = sources::open_model(name)?;
    let model =
        Model::load(&files, POLICY_HEADS, 0).map_err(|e| Error::input(format!("the policy {name}"), e))?;
    let codec = Codec::load(&files, &model)?;
    let file = options.prompts.display().to_string();
    let (context, new) = (model.context(), options.sampling.max_new_tokens);
    let why = format!("context {context} of {name} less --max-new-tokens {new}");
    let mut fit = Fit::new(file, context.saturating_sub(new), why, options.skip_bad_lines);
    let mut prompts = PromptBatch::default();
    for (id, row) in texts.iter().enumerate() {
        let tokens = codec.prompt(&row.prompt)?;
        if fit.keeps(row.line, tokens.len())? {
            prompts.push(PromptRef {
                tokens: &tokens,
                id: id as u64,
                sample,
                domain: &row.domain,
                user: &row.user,
                text: row.prompt.last_text(),
                messages: row.prompt.messages(),
                answer: &row.answer,
            });
        }
    }
    fit.report(observer);
    let measurer = Measurer {
        engine,
        codec: &codec,
        sampling: &options.sampling,
        seed: options.seed,
        batch_size: options.batch_size,
    };
    let rows = measurer.sample(&model, &prompts, observer)?;
    Ok(Answered { codec, rows })
}

/// Lets both policies answer and writes the queue. Returns the number of pairs; equal responses make none.
///
/// # Errors
/// [`Error::Input`] where a model or the prompts cannot be used, or no pair is left; [`Error::Checkpoint`] where the file
/// cannot be written.
pub fn make_queue(path: &Path, options: &LabelOptions, observer: &mut dyn Observer) -> Result<usize, Error> {
    let engine = crate::pipeline::engine(options.device, options.threads)?;
    let file = options.prompts.display().to_string();
    let read = ReadOptions { skip_bad_lines: options.skip_bad_lines };
    let loaded = read_prompts(&options.prompts, &read).map_err(|e| Error::input(file.clone(), e))?;
    let mut texts = loaded.rows;
    if options.chat {
        // The reward model is to read them in its template too.
        for row in &mut texts {
            if let Text::Plain(text) = &row.prompt {
                row.prompt = Text::Messages(vec![Message::user(text.clone())]);
            }
        }
    }
    let first = answer(&options.first, options, &texts, 0, &engine, observer)?;
    let second = answer(&options.second, options, &texts, 1, &engine, observer)?;
    let other: std::collections::BTreeMap<u64, usize> =
        second.rows.prompts.ids.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut kept: Vec<(usize, usize)> = Vec::new();
    let mut candidates = Vec::new();
    let mut equal = 0;
    for (i, id) in first.rows.prompts.ids.iter().enumerate() {
        let Some(&j) = other.get(id) else { continue };
        let (a, b) = (first.rows.texts[i].trim(), second.rows.texts[j].trim());
        if a == b {
            equal += 1;
            continue;
        }
        let PromptRow { prompt, domain, user, .. } = texts[*id as usize].clone();
        let name = hash(&serde_json::to_string(&(&prompt, a, b)).map_err(|e| Error::input(file.clone(), e))?);
        kept.push((i, j));
        candidates.push(Candidate {
            pair: format!("{name:016x}"),
            first: said(&prompt, &first.rows.texts[i]),
            second: said(&prompt, &second.rows.texts[j]),
            prompt,
            domain,
            user,
            disagreement: None,
        });
    }
    if equal > 0 {
        observer.on_event(&Event::Note(&format!("{equal} prompts got two equal responses and make no pair")));
    }
    if candidates.is_empty() {
        return Err(Error::input(file, "no pair is left: both policies answer every prompt alike"));
    }
    if !options.rewards.is_empty() {
        let scores = ensemble(options, (&first, &second), &kept, &engine)?;
        for (c, margins) in candidates.iter_mut().zip(scores) {
            c.disagreement = Some(disagreement(&margins));
        }
        // Also of a single model there is none.
        if candidates.iter().all(|c| c.disagreement.is_none_or(|apart| apart <= f64::EPSILON)) {
            observer.on_event(&Event::Warning(
                "the reward models disagree about nothing, so the pairs stay in the order of the prompts: give two or more that were \
                 trained with other seeds, data or steps",
            ));
        }
        candidates.sort_by(|x, y| y.disagreement.unwrap_or(0.0).total_cmp(&x.disagreement.unwrap_or(0.0)));
    }
    let mut seen = std::collections::HashSet::new();
    candidates.retain(|c| seen.insert(c.pair.clone()));
    if options.most > 0 {
        candidates.truncate(options.most);
    }
    let head = Head {
        first_policy: options.first.clone(),
        second_policy: options.second.clone(),
        seed: options.seed,
        prompts: file.clone(),
        rewards: options.rewards.clone(),
    };
    let mut text = serde_json::to_string(&head).map_err(|e| Error::input(file.clone(), e))? + "\n";
    for c in &candidates {
        text += &(serde_json::to_string(c).map_err(|e| Error::input(file.clone(), e))? + "\n");
    }
    crate::checkpoint::save_file(path, text.as_bytes())?;
    Ok(candidates.len())
}

/// A response as the reward model will read it: behind plain text as it was sampled, with its space; a message has none.
fn said(prompt: &Text, response: &str) -> String {
    match prompt {
        Text::Plain(_) => response.to_owned(),
        Text::Messages(_) => response.trim().to_owned(),
    }
}

/// Margins, score of the first less that of the second, of every reward model on every pair.
fn ensemble(
    options: &LabelOptions,
    (first, second): (&Answered, &Answered),
    kept: &[(usize, usize)],
    engine: &Engine,
) -> Result<Vec<Vec<f64>>, Error> {
    let mut out = vec![Vec::new(); kept.len()];
    for name in &options.rewards {
        let files = sources::open_model(name)?;
        let mut raw = Vec::new();
        for (side, rows) in [
            (first, kept.iter().map(|k| k.0).collect::<Vec<_>>()),
            (second, kept.iter().map(|k| k.1).collect()),
        ] {
            let model = Rater::load(&files)?.for_policy(&side.codec);
            let r = &side.rows;
            let samples: Vec<TextSample<'_>> = rows
                .iter()
                .map(|&i| TextSample {
                    prompt: &r.prompts.texts[i],
                    messages: &r.prompts.messages[i],
                    response: &r.texts[i],
                    prompt_tokens: r.prompts.tokens.row(i),
                    response_tokens: r.responses.row(i),
                    domain: &r.prompts.domains[i],
                    answer: "",
                    rendered: "",
                })
                .collect();
            raw.push(model.raw_scores(engine, &samples)?);
        }
        for (k, margins) in out.iter_mut().enumerate() {
            margins.extend(raw[0][k].iter().zip(&raw[1][k]).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        }
    }
    Ok(out)
}
