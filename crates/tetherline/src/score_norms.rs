//! Scores of any source on the scale of the reference policy: `reward.normalize` names sources, whose scores are measured on
//! responses of the reference before PPO starts, and shifted and scaled from then on.
//!
//! ```text
//! part ← weight·(score − mean)/std        mean and std (divisor n) over `reward.normalize_samples` responses of π_ref
//! ```
//!
//! Responses whose score is a stand-in are not measured. What was measured is kept in `score_norms.json` of the run
//! directory: a resumed run, its evaluation and comparisons read it there and measure nothing anew. A reward model that is
//! trained has its own measure beside its weights (`reward_norm.json`).

use crate::Error;
use crate::recipe::Recipe;
use std::collections::BTreeMap;
use std::path::Path;
use tetherline_core::{Fallback, NamedScore};
use tetherline_reward::RewardNorm;

/// The file in a run directory.
pub const FILE: &str = "score_norms.json";

/// Source as in `reward.normalize` → mean and standard deviation of its scores, without their weight.
pub type ScoreNorms = BTreeMap<String, RewardNorm>;

/// How a part of the score is called in `reward.normalize`.
fn source(part: &str) -> &str {
    part.strip_prefix("rule.").unwrap_or(part)
}

fn weight(recipe: &Recipe, source: &str) -> f64 {
    let rule = recipe.reward.rule.iter().find(|rule| rule.name() == source);
    rule.map_or(recipe.reward.model_weight, tetherline_reward::RuleConfig::weight)
}

/// Measures the sources that `recipe` names on the parts of reference responses, weights applied.
///
/// # Errors
/// Where the scores of a source do not vary.
pub(crate) fn fit(
    recipe: &Recipe,
    parts: &[NamedScore],
    fallbacks: &[Fallback],
) -> Result<ScoreNorms, Error> {
    let mut norms = ScoreNorms::new();
    for name in &recipe.reward.normalize {
        let Some(part) = parts.iter().find(|p| source(&p.name) == name) else { continue };
        let w = weight(recipe, name);
        let stood_in = |i: usize| fallbacks.iter().any(|f| &f.source == name && f.rows.contains(&i));
        let measured = part.values.iter().enumerate().filter(|(i, _)| !stood_in(*i));
        let scores: Vec<f32> = measured.map(|(_, &x)| (f64::from(x) / w) as f32).collect();
        let norm = RewardNorm::fit(&scores)
            .map_err(|e| Error::input(format!("reward.normalize: the source `{name}`"), e))?;
        norms.insert(name.clone(), norm);
    }
    Ok(norms)
}

/// Reads what was measured in the run directory `dir`; `None` where nothing was.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn read(dir: &Path) -> Result<Option<ScoreNorms>, Error> {
    let path = dir.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::input(path.display().to_string(), e))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { action: "read", path, source }),
    }
}

/// Puts parts on their scale.
pub(crate) fn apply(recipe: &[(String, f64)], norms: &ScoreNorms, parts: &mut [NamedScore]) {
    for part in parts {
        let name = source(&part.name);
        let (Some(norm), Some((_, w))) = (norms.get(name), recipe.iter().find(|(n, _)| n == name)) else {
            continue;
        };
        for x in &mut part.values {
            *x = (w * (f64::from(*x) / w - norm.mean) / norm.std) as f32;
        }
    }
}

/// Weights of the sources that are normalised.
pub(crate) fn weights(recipe: &Recipe) -> Vec<(String, f64)> {
    recipe.reward.normalize.iter().map(|name| (name.clone(), weight(recipe, name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(normalize: &str) -> Recipe {
        let rules =
            "[{ length = { name = 'long', max = 3, weight = -2.0 } }, { keyword = { words = ['a'] } }]";
        let sets = [("reward.rule", rules), ("reward.normalize", normalize), ("reward.model_weight", "0")];
        let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Recipe::load("quickstart", &sets).unwrap()
    }

    fn part(name: &str, values: &[f32]) -> NamedScore {
        NamedScore { name: name.into(), values: values.to_vec() }
    }

    /// Scores 2, 4, 4, 4, 5, 5, 7, 9 have mean 5 and standard deviation 2; of weight −2 the parts are −4 … −18.
    #[test]
    fn the_textbook_sample_with_a_negative_weight() {
        let recipe = recipe("['long']");
        let scores = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let mut values: Vec<f32> = scores.iter().map(|x| -2.0 * x).collect();
        // A stand-in is not measured.
        values.push(1e6);
        let stood_in = Fallback { source: "long".into(), rows: vec![8], why: String::new() };
        let norms = fit(&recipe, &[part("rule.long", &values)], &[stood_in]).unwrap();
        assert_eq!(norms, ScoreNorms::from([("long".to_owned(), RewardNorm { mean: 5.0, std: 2.0 })]));
        let mut parts = [part("rule.long", &[-10.0, -18.0]), part("rule.keyword", &[3.0])];
        apply(&weights(&recipe), &norms, &mut parts);
        assert_eq!(parts[0].values, [0.0, -4.0], "weight·(9 − 5)/2");
        assert_eq!(parts[1].values, [3.0], "not named");
    }

    #[test]
    fn a_source_that_says_always_the_same_is_named() {
        let error =
            fit(&recipe("['keyword']"), &[part("rule.keyword", &[1.0, 1.0])], &[]).unwrap_err().to_string();
        assert!(error.contains("the source `keyword`"), "{error}");
    }

    #[test]
    fn what_cannot_be_normalised_is_refused() {
        let refused = |sets: &[(&str, &str)]| {
            let rules = "[{ length = { name = 'long', max = 3, weight = 0 } }]";
            let mut all = vec![("reward.rule".to_owned(), rules.to_owned())];
            all.extend(sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            Recipe::load("quickstart", &all).unwrap_err().to_string()
        };
        assert!(refused(&[("reward.normalize", "['short']")]).contains("no source is called \"short\""));
        assert!(refused(&[("reward.normalize", "['long']")]).contains("weight 0"));
        assert!(refused(&[("reward.normalize", "['reward_model']")]).contains("has its own"));
        let none = [("reward.normalize", "['long']"), ("reward.normalize_samples", "0")];
        assert!(refused(&none).contains("normalize_samples"));
    }
}
