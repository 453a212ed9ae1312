//! Responses of several turns: the policy speaks, the environment answers, the policy goes on in the same row.
//!
//! Sampling goes turn by turn over all conversations that are open. What was said so far is read again at every turn (a cache
//! is not kept over the program's time), by the tokens that were sampled, never by their text. Turn k of a row draws from
//! the stream of its sample number + k·2²⁰.
//!
//! What the environment said is in the response like the rest, and masked (`Rollout::written`): it has no log-prob of the
//! policy, no KL, no entropy, no advantage and no loss, and GAE reaches across it. The rewards of a conversation are the
//! part `environment` of its score. `Rollout::texts` is what the policy wrote, turns joined by line breaks.

use crate::Error;
use crate::codec::Codec;
use crate::recipe::Recipe;
use tetherline_core::{
    Fallback, Message, NamedScore, PromptBatch, PromptRef, Ragged, Rollout, Stage, StopReason,
};
use tetherline_data::Text;
use tetherline_models::{Engine, Model};
use tetherline_reward::{ENVIRONMENT, Environment, EnvironmentConfig, OpenConversation};
use tetherline_rollout::{SamplingConfig, StreamName, generate};

/// Between the sample numbers of a row's turns.
const TURN: u32 = 1 << 20;

/// What came of the conversations of a rollout, beside their tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversations {
    /// All that was said behind each prompt.
    pub(crate) turns: Vec<Vec<Message>>,
    /// Sum of the rewards of each, weighted.
    pub(crate) rewards: Vec<f32>,
    /// Tokens that the environment wrote, of all rows.
    pub(crate) tokens: usize,
    /// Conversations that ended because a further turn might not have fitted.
    pub(crate) full: usize,
    /// Rewards that did not come.
    pub(crate) fallback: Option<Fallback>,
}

impl Conversations {
    /// The rewards as a part of the score.
    pub(crate) fn part(&self) -> NamedScore {
        NamedScore { name: ENVIRONMENT.into(), values: self.rewards.clone() }
    }

    /// Turns of the policy, mean over rows.
    pub(crate) fn mean_turns(&self) -> f64 {
        let turns: usize = self.turns.iter().flatten().filter(|m| m.is_assistant()).count();
        turns as f64 / self.turns.len().max(1) as f64
    }
}

/// One conversation.
#[derive(Default)]
struct Talk {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    entropy: Vec<f32>,
    values: Vec<f32>,
    written: Vec<bool>,
    turns: Vec<Message>,
    stop: Option<StopReason>,
    reward: f64,
}

impl Talk {
    /// Row `i` of a rollout as the policy's next turn.
    fn hear_policy(&mut self, r: &Rollout, i: usize) {
        let n = r.responses.row_len(i);
        self.tokens.extend(r.responses.row(i));
        self.logprobs.extend(r.logprobs.row(i));
        self.entropy.extend(r.entropy.row(i));
        self.values.extend(r.values.row(i));
        self.written.extend(std::iter::repeat_n(true, n));
        self.turns.push(Message::assistant(r.texts[i].clone()));
        self.stop = r.stop.get(i).copied();
    }

    /// The environment's turn; `values` says whether tokens have values.
    fn hear_environment(&mut self, said: Message, tokens: &[u32], values: bool) {
        let n = tokens.len();
        self.tokens.extend(tokens);
        self.logprobs.extend(std::iter::repeat_n(0.0, n));
        self.entropy.extend(std::iter::repeat_n(0.0, n));
        self.values.extend(std::iter::repeat_n(0.0, if values { n } else { 0 }));
        self.written.extend(std::iter::repeat_n(false, n));
        self.turns.push(said);
    }
}

/// Samples a response to every prompt: of one turn, or with an environment of several.
///
/// # Errors
/// As [`generate`]; where the environment does not answer and the run should stop; where the chat template cannot go on.
#[expect(clippy::too_many_arguments, reason = "as `generate`, and what a conversation needs besides")]
pub(crate) fn sample(
    environment: Option<&mut Environment>,
    model: &Model,
    codec: &Codec,
    prompts: PromptBatch,
    sampling: &SamplingConfig,
    name: StreamName,
    engine: &Engine,
    (version, stage): (u64, Stage),
) -> Result<(Rollout, Option<Conversations>), Error> {
    let speak = |prompts| {
        generate(model, &codec.tokenizer, prompts, sampling, name, engine, version)
            .map_err(Error::stage(stage))
    };
    let mut first = speak(prompts)?;
    let Some(environment) = environment else { return Ok((first, None)) };
    let config = environment.config().clone();
    let prompts = std::mem::take(&mut first.prompts);
    let mut talks: Vec<Talk> = (0..prompts.len()).map(|_| Talk::default()).collect();
    talks.iter_mut().enumerate().for_each(|(i, talk)| talk.hear_policy(&first, i));
    let values = !first.values.flat().is_empty();
    let mut out = Conversations::default();
    let mut open: Vec<usize> = (0..prompts.len()).collect();
    for turn in 1.. {
        let last = |i: usize| turn == config.max_turns || talks[i].stop == Some(StopReason::Length);
        let asked: Vec<OpenConversation<'_>> = open
            .iter()
            .map(|&i| OpenConversation {
                prompt: &prompts.texts[i],
                messages: &prompts.messages[i],
                turns: &talks[i].turns,
                turn,
                last: last(i),
                domain: &prompts.domains[i],
                answer: prompts.answers.get(i).map_or("", String::as_str),
            })
            .collect();
        let (replies, fallback) = environment.ask(&asked).map_err(Error::stage(stage))?;
        if let Some(missing) = fallback {
            let rows = missing.rows.iter().map(|&j| open[j]);
            out.fallback
                .get_or_insert_with(|| Fallback { rows: Vec::new(), ..missing.clone() })
                .rows
                .extend(rows);
        }
        let goes_on: Vec<bool> = open.iter().map(|&i| !last(i)).collect();
        let mut next = Vec::new();
        for ((&i, reply), goes_on) in open.iter().zip(replies).zip(goes_on) {
            let talk = &mut talks[i];
            talk.reward += reply.reward;
            let Some(text) = reply.text.filter(|_| goes_on) else { continue };
            let said = Message::new(&config.role, text);
            let tokens = said_tokens(codec, &prompts, i, talk, &said)?;
            if talk.tokens.len() + tokens.len() + sampling.max_new_tokens > config.max_tokens
                || tokens.is_empty()
            {
                out.full += 1;
                continue;
            }
            out.tokens += tokens.len();
            talk.hear_environment(said, &tokens, values);
            next.push(i);
        }
        open = next;
        if open.is_empty() {
            break;
        }
        let mut batch = PromptBatch::default();
        for &i in &open {
            let tokens = [prompts.tokens.row(i), &talks[i].tokens].concat();
            let sample = prompts.sample[i] + turn as u32 * TURN;
            batch.push(PromptRef { tokens: &tokens, sample, ..prompts.get(i) });
        }
        let r = speak(batch)?;
        open.iter().enumerate().for_each(|(j, &i)| talks[i].hear_policy(&r, j));
    }
    out.rewards = talks.iter().map(|t| (config.weight * t.reward) as f32).collect();
    let rollout = joined(prompts, &talks, &first);
    out.turns = talks.into_iter().map(|t| t.turns).collect();
    Ok((rollout, Some(out)))
}

fn said_tokens(
    codec: &Codec,
    prompts: &PromptBatch,
    i: usize,
    talk: &Talk,
    said: &Message,
) -> Result<Vec<u32>, Error> {
    let prompt = match prompts.messages[i].as_slice() {
        [] => Text::Plain(prompts.texts[i].clone()),
        messages => Text::Messages(messages.to_vec()),
    };
    let before = &talk.turns[..talk.turns.len().saturating_sub(1)];
    codec.continuation(&prompt, before, said, talk.stop == Some(StopReason::Eos))
}

/// Conversations as the rows of one rollout.
fn joined(prompts: PromptBatch, talks: &[Talk], first: &Rollout) -> Rollout {
    let text = |t: &Talk| {
        let own: Vec<&str> =
            t.turns.iter().filter(|m| m.is_assistant()).map(|m| m.content.as_str()).collect();
        own.join("\n")
    };
    let rows = |of: fn(&Talk) -> &Vec<f32>| Ragged::from_rows(talks.iter().map(|t| of(t).iter().copied()));
    Rollout {
        responses: Ragged::from_rows(talks.iter().map(|t| t.tokens.iter().copied())),
        texts: talks.iter().map(text).collect(),
        stop: talks.iter().map(|t| t.stop.unwrap_or(StopReason::Length)).collect(),
        logprobs: rows(|t| &t.logprobs),
        entropy: rows(|t| &t.entropy),
        values: rows(|t| &t.values),
        ref_logprobs: Ragged::from_rows((0..talks.len()).map(|_| [])),
        written: Some(Ragged::from_rows(talks.iter().map(|t| t.written.iter().copied()))),
        policy_version: first.policy_version,
        temperature: first.temperature,
        prompts,
        ..Rollout::default()
    }
}

impl Recipe {
    /// Longest response, tokens: one turn, or a whole conversation.
    pub fn longest_response(&self) -> usize {
        let conversation = self.environment.as_ref().map(|c: &EnvironmentConfig| c.max_tokens);
        conversation.unwrap_or(self.sampling.max_new_tokens)
    }
}
