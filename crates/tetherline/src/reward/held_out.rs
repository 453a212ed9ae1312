//! The reward model on pairs it has not seen.

use super::data::{Comparison, Preferences, text_pairs};
use crate::Error;
use tetherline_core::Stage;
use tetherline_models::{Engine, Model, Row};
use tetherline_reward::{BagOfWords, HeldOut, HeldOutPair};

/// One score per answer of each comparison.
pub(super) fn scores(model: &Model, engine: &Engine, of: &[Comparison]) -> Result<Vec<Vec<f32>>, Error> {
    let rows: Vec<Row<'_>> = of.iter().flat_map(Comparison::rows).collect();
    let out = model.forward(engine, &rows, 1.0).map_err(|e| Error::input("data.pairs_eval", e))?;
    let mut flat = out.into_iter().map(|r| r.scalars[0]);
    Ok(of.iter().map(|c| flat.by_ref().take(c.answers.len()).collect()).collect())
}

/// The report on held-out scores, beside length alone and a bag of words. None where nothing is held out.
pub(super) fn measure(data: &Preferences, scores: &[Vec<f32>]) -> Result<Option<HeldOut>, Error> {
    let pairs: Vec<HeldOutPair> = data
        .held_out
        .iter()
        .zip(scores)
        .flat_map(|(c, s)| {
            c.pairs().into_iter().map(move |(i, j, label)| HeldOutPair {
                chosen: s[i],
                rejected: s[j],
                chosen_len: c.answers[i].len,
                rejected_len: c.answers[j].len,
                domain: c.domain.clone(),
                label,
                agreement: c.agreement,
            })
        })
        .collect();
    if pairs.is_empty() {
        return Ok(None);
    }
    let mut report = HeldOut::measure(&pairs).map_err(Error::stage(Stage::Reward))?;
    report.add_length_only(&pairs, data.gamma >= 0.0);
    report.bag_of_words = BagOfWords::fit(&text_pairs(&data.train)).accuracy(&text_pairs(&data.held_out));
    Ok(Some(report))
}

/// The report in one line, for the terminal.
pub(crate) fn one_line(h: &HeldOut) -> String {
    let percent = |x: f64| format!("{:.1}", 100.0 * x);
    let (low, high) = h.accuracy_ci;
    let mut out = format!(
        "on {} held-out pairs the reward model is right in {} % (95 %: {} to {}), ECE {:.3}",
        h.pairs,
        percent(h.accuracy),
        percent(low),
        percent(high),
        h.ece
    );
    if let Some(length) = &h.length_only {
        out += &format!("; length alone {} %", percent(length.accuracy));
    }
    if let Some(words) = h.bag_of_words {
        out += &format!(", a bag of words {} %", percent(words));
    }
    if let Some(ceiling) = h.noise_ceiling {
        out += &format!(", at most {} % by the labelers' agreement", percent(ceiling));
    }
    out
}
