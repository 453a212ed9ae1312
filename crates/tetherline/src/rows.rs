//! A rollout as the rows of a forward pass, and prompts as the rows of a rollout.

use crate::Error;
use crate::codec::Codec;
use crate::recipe::Recipe;
use tetherline_core::{Advantages, Event, Observer, PromptBatch, PromptRef, Rollout, TextSample};
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
        })
        .collect()
}

/// KL of the rollout in nats per sequence: by k1 (the penalised estimate) and exact (the controlled one).
pub(crate) fn measure_kl(r: &Rollout, adv: &Advantages) -> (KlByDomain, KlByDomain) {
    let (mut k1, mut exact) = (KlByDomain::default(), KlByDomain::default());
    let sum = |x: &[f32]| NatsPerSequence(x.iter().map(|&x| f64::from(x)).sum());
    for (i, domain) in r.prompts.domains.iter().enumerate() {
        let tokens = r.responses.row_len(i);
        k1.push(domain, sum(adv.kl.row(i)), tokens);
        if let Some(kl) = &r.kl_exact {
            exact.push(domain, sum(kl.row(i)), tokens);
        }
    }
    (k1, exact)
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

/// Encodes prompts; those that leave no room for a response are left out, counted and reported.
pub(crate) fn encode_prompts(
    recipe: &Recipe,
    codec: &Codec,
    rows: &[PromptRow],
    context: usize,
    what: &str,
    observer: &mut dyn Observer,
) -> Result<PromptBatch, Error> {
    let mut room = context.saturating_sub(recipe.sampling.max_new_tokens);
    if recipe.data.max_prompt_tokens > 0 {
        room = room.min(recipe.data.max_prompt_tokens);
    }
    let mut out = PromptBatch::default();
    for (id, row) in rows.iter().enumerate() {
        let tokens = codec.prompt(&row.prompt)?;
        if tokens.len() <= room && !tokens.is_empty() {
            out.push(PromptRef {
                tokens: &tokens,
                id: id as u64,
                sample: 0,
                domain: &row.domain,
                user: &row.user,
                text: row.prompt.last_text(),
                messages: row.prompt.messages(),
            });
        }
    }
    let left_out = rows.len() - out.len();
    if out.is_empty() {
        let problem = format!(
            "no prompt fits: the longest allowed has {room} tokens (context {context}, max_new_tokens {})",
            recipe.sampling.max_new_tokens
        );
        return Err(Error::input(what, problem));
    }
    if left_out > 0 {
        observer.on_event(&Event::Warning(&format!(
            "{what}: {left_out} prompts are longer than {room} tokens (context {context}) and were left out"
        )));
    }
    Ok(out)
}
