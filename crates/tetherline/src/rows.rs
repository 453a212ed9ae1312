//! A rollout as the rows of a forward pass, and prompts as the rows of a rollout.

use crate::Error;
use crate::codec::Codec;
use crate::fit::Fit;
use crate::recipe::Recipe;
use crate::sources;
use tetherline_core::{Advantages, Event, Observer, PromptBatch, PromptRef, Ragged, Rollout, TextSample};
use tetherline_data::PromptRow;
use tetherline_kl::{KlByDomain, NatsPerSequence};
use tetherline_models::Row;

/// Prompt and response of every row as one sequence.
pub(crate) fn full_rows(r: &Rollout) -> Vec<Vec<u32>> {
    r.prompts.tokens.rows().zip(r.responses.rows()).map(|(p, a)| [p, a].concat()).collect()
}

/// Rows that score every response token.
pub(crate) fn lm_rows<'t>(full: &'t [Vec<u32>], r: &Rollout) -> Vec<Row<'t>> {
    let row = |(i, t): (usize, &'t Vec<u32>)| {
        let prompt = r.prompts.tokens.row_len(i);
        Row { tokens: t, lm: prompt - 1..t.len() - 1, scalar: 0..0 }
    };
    full.iter().enumerate().map(row).collect()
}

/// Rows that want the value before every response token, and after the last one if `after`.
pub(crate) fn scalar_rows<'t>(full: &'t [Vec<u32>], r: &Rollout, after: bool) -> Vec<Row<'t>> {
    let row = |(i, t): (usize, &'t Vec<u32>)| {
        let prompt = r.prompts.tokens.row_len(i);
        Row { tokens: t, lm: 0..0, scalar: prompt - 1..t.len() - usize::from(!after) }
    };
    full.iter().enumerate().map(row).collect()
}

/// The rows as a scorer sees them.
pub(crate) fn samples(r: &Rollout) -> Vec<TextSample<'_>> {
    (0..r.responses.len())
        .map(|i| TextSample {
            prompt: &r.prompts.texts[i],
            messages: &r.prompts.messages[i],
            response: &r.texts[i],
            prompt_tokens: r.prompts.tokens.row(i),
            response_tokens: r.responses.row(i),
            domain: &r.prompts.domains[i],
            answer: r.prompts.answers.get(i).map_or("", String::as_str),
            rendered: "",
        })
        .collect()
}

/// KL of the rollout in nats per sequence: by k1 (the penalised estimate) and exact (the controlled one).
pub(crate) fn measure_kl(r: &Rollout, adv: &Advantages) -> (KlByDomain, KlByDomain) {
    let (mut k1, mut exact) = (KlByDomain::default(), KlByDomain::default());
    for (i, domain) in r.prompts.domains.iter().enumerate() {
        let written = r.written.as_ref().map(|w| w.row(i));
        let (of_k1, tokens) = sum_written(adv.kl.row(i), written);
        k1.push(domain, NatsPerSequence(of_k1), tokens);
        if let Some(kl) = &r.kl_exact {
            exact.push(domain, NatsPerSequence(sum_written(kl.row(i), written).0), tokens);
        }
    }
    (k1, exact)
}

/// Sum over the tokens of a row that the policy wrote, and how many there are.
pub(crate) fn sum_written(row: &[f32], written: Option<&[bool]>) -> (f64, usize) {
    let counts = |t: usize| written.is_none_or(|w| w[t]);
    let of = || row.iter().enumerate().filter(|&(t, _)| counts(t)).map(|(_, &x)| f64::from(x));
    (of().sum(), of().count())
}

/// Mean over all tokens that the policy wrote.
pub(crate) fn mean_written(rows: &Ragged<f32>, written: Option<&Ragged<bool>>) -> f64 {
    let of_rows = (0..rows.len()).map(|i| sum_written(rows.row(i), written.map(|w| w.row(i))));
    let (sum, n) = of_rows.fold((0.0, 0), |(a, n), (b, m)| (a + b, n + m));
    sum / n as f64
}

/// `k` rows for each of the prompts `rows`.
pub(crate) fn select(all: &PromptBatch, rows: &[usize], k: usize) -> PromptBatch {
    let mut out = PromptBatch::default();
    for &i in rows {
        for sample in 0..k {
            out.push(PromptRef { sample: sample as u32, ..all.get(i) });
        }
    }
    out
}

/// Encodes prompts. Those that leave no room for a response are refused, or left out with `skip_bad_lines`;
/// those above `data.max_prompt_tokens` are left out, counted and reported.
pub(crate) fn encode_prompts(
    recipe: &Recipe,
    codec: &Codec,
    rows: &[PromptRow],
    context: usize,
    key: &str,
    observer: &mut dyn Observer,
) -> Result<PromptBatch, Error> {
    crate::typed::warn(observer, key, codec, rows.iter().map(|r| (r.line, &r.prompt)));
    let new = recipe.longest_response();
    let room = context.saturating_sub(new);
    let most = match recipe.data.max_prompt_tokens {
        0 => usize::MAX,
        n => n,
    };
    let of = if recipe.environment.is_some() { "environment.max_tokens" } else { "sampling.max_new_tokens" };
    let why = format!("context {context} less {of} {new}");
    let mut fit = Fit::new(sources::file_of(recipe, key), room, &why, recipe.data.skip_bad_lines);
    let mut out = PromptBatch::default();
    let mut above = 0;
    for (id, row) in rows.iter().enumerate() {
        let tokens = codec.prompt(&row.prompt)?;
        if tokens.len() > most {
            above += 1;
        } else if fit.keeps(row.line, tokens.len())? {
            out.push(PromptRef {
                tokens: &tokens,
                id: id as u64,
                sample: 0,
                domain: &row.domain,
                user: &row.user,
                text: row.prompt.last_text(),
                messages: row.prompt.messages(),
                answer: &row.answer,
            });
        }
    }
    if out.is_empty() {
        let longest = room.min(most);
        return Err(Error::input(
            key,
            format!("no prompt fits: the longest allowed has {longest} tokens ({why})"),
        ));
    }
    fit.report(observer);
    if above > 0 {
        observer.on_event(&Event::Note(&format!(
            "{key}: {above} of {} prompts have more than data.max_prompt_tokens = {most} tokens and are left out",
            rows.len()
        )));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_core::StopReason;
    use tetherline_ppo::{PpoConfig, advantages, score_rollout};

    /// Two responses; a tool wrote the second token of the first.
    fn rollout(tool: bool) -> Rollout {
        let mut prompts = PromptBatch::default();
        for id in 0..2 {
            let messages = &[];
            prompts.push(PromptRef {
                tokens: &[1],
                id,
                sample: 0,
                domain: "all",
                user: "",
                text: "",
                messages,
                answer: "",
            });
        }
        let rows = |first: [f32; 3], second: [f32; 2]| {
            let first = if tool { first.to_vec() } else { vec![first[0], first[2]] };
            Ragged::from_rows([first, second.to_vec()])
        };
        let logprobs = rows([-1.0, -50.0, -2.0], [-0.5, -0.25]);
        Rollout {
            prompts,
            responses: logprobs.map(|_| 7),
            stop: vec![StopReason::Eos; 2],
            ref_logprobs: rows([-1.5, 9.0, -2.25], [-1.0, -0.5]),
            kl_exact: Some(rows([0.25, 80.0, 0.5], [0.125, 0.75])),
            entropy: rows([1.0, 90.0, 2.0], [3.0, 2.0]),
            values: rows([0.5, 70.0, 0.25], [0.0, 0.5]),
            written: tool.then(|| Ragged::from_rows([vec![true, false, true], vec![true, true]])),
            logprobs,
            ..Rollout::default()
        }
    }

    /// What a tool wrote changes no KL, entropy, advantage or weight of a token that the policy wrote.
    #[test]
    fn a_turn_of_a_tool_changes_nothing_for_the_policys_own_tokens() {
        let of = |tool| {
            let r = rollout(tool);
            let entropy = mean_written(&r.entropy, r.written.as_ref());
            let parts = vec![tetherline_core::NamedScore { name: "rule".into(), values: vec![1.0, -1.0] }];
            let scored = score_rollout(r, parts, tetherline_ppo::MissingEos::None).unwrap();
            let adv = advantages(&scored, &[0.1, 0.1], &PpoConfig::default()).unwrap();
            let (k1, exact) = measure_kl(&scored.rollout, &adv);
            let groups = vec![vec![tetherline_kl::ALL.to_owned()]; 2];
            let seen = crate::ppo::observed(&scored, &groups);
            let totals = tetherline_ppo::MinibatchTotals::of(&adv, adv.counted.as_ref(), &[0, 1]);
            (entropy, k1, exact, seen, totals, adv)
        };
        let (with, without) = (of(true), of(false));
        assert_eq!(with.0, 2.0);
        assert_eq!((&with.1, &with.2), (&without.1, &without.2));
        assert_eq!((with.3, with.4), (without.3, without.4));
        let (a, b) = (&with.5.advantages, &without.5.advantages);
        assert_eq!([a.row(0)[0], a.row(0)[1], a.row(0)[2]], [b.row(0)[0], 0.0, b.row(0)[1]]);
        assert_eq!(a.row(1), b.row(1));
        assert_eq!(with.2.overall.mean().0, (0.75 + 0.875) / 2.0);
    }
}
