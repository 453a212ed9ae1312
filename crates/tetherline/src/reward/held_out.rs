//! The reward model on pairs it has not seen.

use super::data::{Comparison, Preferences, text_pairs};
use crate::Error;
use tetherline_core::Stage;
use tetherline_models::{Engine, Model, Row};
use tetherline_reward::{BagOfWords, EnsembleConfig, HeldOut, HeldOutPair, RewardNorm};

/// Of each head one score per answer of each comparison.
pub(super) fn scores(model: &Model, engine: &Engine, of: &[Comparison]) -> Result<Vec<Vec<Vec<f32>>>, Error> {
    let rows: Vec<Row<'_>> = of.iter().flat_map(Comparison::rows).collect();
    let out = model.forward(engine, &rows, 1.0).map_err(|e| Error::input("data.pairs_eval", e))?;
    let head = |k: usize| {
        let mut flat = out.iter().map(|r| r.scalars[k]);
        of.iter().map(|c| flat.by_ref().take(c.answers.len()).collect()).collect()
    };
    Ok((0..model.config().scores).map(head).collect())
}

/// Scores of one member (a model, or one head of it) on the held-out answers, and its normalisation.
pub(crate) type Member = (Vec<Vec<f32>>, RewardNorm);

/// The report on an ensemble: members are normalised and combined as in PPO, and put back on the mean scale of their raw
/// scores, on which differences are log-odds. Of one member: its raw scores.
pub(crate) fn measure_members(
    data: &Preferences,
    members: &[Member],
    ensemble: &EnsembleConfig,
) -> Result<Option<HeldOut>, Error> {
    if let [(scores, _)] = members {
        return measure(data, scores);
    }
    let scale = members.iter().map(|m| m.1.std).sum::<f64>() / members.len() as f64;
    let mut apart = Vec::new();
    let combined: Vec<Vec<f32>> = (0..data.held_out.len())
        .map(|c| {
            (0..data.held_out[c].answers.len())
                .map(|a| {
                    let scores: Vec<f32> = members.iter().map(|(s, norm)| norm.apply(s[c][a])).collect();
                    let (score, disagreement) = ensemble.combine(&scores);
                    apart.push(f64::from(disagreement));
                    (f64::from(score) * scale) as f32
                })
                .collect()
        })
        .collect();
    let Some(mut report) = measure(data, &combined)? else { return Ok(None) };
    report.disagreement = Some(apart.iter().sum::<f64>() / apart.len().max(1) as f64);
    for (scores, _) in members {
        let alone = HeldOut::measure(&scored_pairs(data, scores)).map_err(Error::stage(Stage::Reward))?;
        report.members.push(alone.accuracy);
    }
    Ok(Some(report))
}

/// The report on held-out scores, beside length alone and a bag of words. None where nothing is held out.
fn measure(data: &Preferences, scores: &[Vec<f32>]) -> Result<Option<HeldOut>, Error> {
    let pairs = scored_pairs(data, scores);
    if pairs.is_empty() {
        return Ok(None);
    }
    let mut report = HeldOut::measure(&pairs).map_err(Error::stage(Stage::Reward))?;
    report.add_length_only(&pairs, data.gamma >= 0.0);
    report.bag_of_words = BagOfWords::fit(&text_pairs(&data.train)).accuracy(&text_pairs(&data.held_out));
    Ok(Some(report))
}

fn scored_pairs(data: &Preferences, scores: &[Vec<f32>]) -> Vec<HeldOutPair> {
    data.held_out
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
        .collect()
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
