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
    let new = recipe.sampling.max_new_tokens;
    let room = context.saturating_sub(new);
    let most = match recipe.data.max_prompt_tokens {
        0 => usize::MAX,
        n => n,
    };
    let why = format!("context {context} less sampling.max_new_tokens {new}");
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
