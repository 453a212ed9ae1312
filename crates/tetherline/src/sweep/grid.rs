//! The grid of a sweep: keys of the recipe, the values each takes, and their product.

use crate::recipe::Recipe;
use serde::{Deserialize, Serialize};

/// A key of the recipe and the values it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// The key, as in `--set`.
    pub key: String,
    /// The values, as in `--set`.
    pub values: Vec<String>,
}

/// Reads `KEY=A,B,C`. Commas inside brackets, braces or quotes belong to a value.
///
/// # Errors
/// What was expected.
pub fn parse_axis(text: &str) -> Result<Axis, String> {
    let problem = || "must be KEY=VALUE,VALUE,…, for example kl.target=2,4,8".to_owned();
    let (key, list) = text.split_once('=').ok_or_else(problem)?;
    let (mut values, mut value, mut depth, mut quote) = (Vec::new(), String::new(), 0usize, None);
    for c in list.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (_, Some(_)) => {}
            ('"' | '\'', None) => quote = Some(c),
            ('[' | '{', None) => depth += 1,
            (']' | '}', None) => depth = depth.saturating_sub(1),
            (',', None) if depth == 0 => {
                values.push(std::mem::take(&mut value).trim().to_owned());
                continue;
            }
            _ => {}
        }
        value.push(c);
    }
    values.push(value.trim().to_owned());
    if key.trim().is_empty() || values.iter().any(String::is_empty) {
        return Err(problem());
    }
    if let Some(twice) = (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
        return Err(format!("the value {} is listed twice", values[twice]));
    }
    Ok(Axis { key: key.trim().to_owned(), values })
}

/// Keys of every law that may be written without it: `kl.target` for `kl.auto_pi.target`.
const OF_THE_LAW: [&str; 6] = ["target", "init", "horizon", "beta_min", "beta_max", "rate"];

impl Axis {
    /// With the name of the recipe's law put in where the key leaves it out.
    pub(super) fn under_law(&self, recipe: &Recipe) -> Self {
        let key = match self.key.strip_prefix("kl.") {
            Some(key) if OF_THE_LAW.contains(&key) => format!("kl.{}.{key}", recipe.kl.law.name()),
            _ => self.key.clone(),
        };
        Self { key, values: self.values.clone() }
    }
}

/// The law's target is none where budgets govern: regimes that differ by it alone would be one.
///
/// # Errors
/// What to vary in its place.
pub(super) fn check_targets(sets: &[(String, String)], recipe: &Recipe) -> Result<(), String> {
    let of_the_law = format!("kl.{}.target", recipe.kl.law.name());
    let budgets = &recipe.kl.budgets;
    if budgets.is_empty() || !sets.iter().any(|(key, _)| *key == of_the_law) {
        return Ok(());
    }
    let keys: Vec<_> =
        budgets.iter().enumerate().map(|(i, b)| format!("kl.budget.{i}.target ({:?})", b.id)).collect();
    Err(format!(
        "{of_the_law} has no effect where the recipe has [[kl.budget]]: every β is held to the target of its budget. Vary \
         those: {}",
        keys.join(", ")
    ))
}

/// A point of the grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RegimeSets {
    /// What it changes, for people.
    pub(super) name: String,
    /// A name that every file system takes.
    pub(super) directory: String,
    /// The changes.
    pub(super) sets: Vec<(String, String)>,
}

/// Every combination, the last axis running fastest.
pub(super) fn regimes(axes: &[Axis]) -> Vec<RegimeSets> {
    let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for axis in axes {
        let with = |sets: &Vec<(String, String)>| {
            let longer = |value: &String| [sets.clone(), vec![(axis.key.clone(), value.clone())]].concat();
            axis.values.iter().map(longer).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(with).collect();
    }
    let regime = |(i, sets): (usize, Vec<(String, String)>)| {
        let name = sets.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-=".contains(c) { c } else { '_' };
        let short: String = name.chars().map(plain).take(60).collect();
        RegimeSets { directory: format!("{i:02}-{short}"), name, sets }
    };
    all.into_iter().enumerate().map(regime).collect()
}

/// Whether SFT and reward training are the same for every regime of the grid.
pub(super) fn leaves_early_stages(axes: &[Axis]) -> bool {
    let late = ["kl", "ppo", "trial", "fault", "allow_faults", "eval", "checkpoint"];
    axes.iter().all(|axis| late.contains(&axis.key.split('.').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_split_at_commas_outside_of_brackets() {
        let axis = parse_axis("kl.target=2, 4,8").unwrap();
        assert_eq!(
            (axis.key.as_str(), axis.values.as_slice()),
            ("kl.target", &["2", "4", "8"].map(String::from)[..])
        );
        let laws =
            parse_axis("kl={ fixed = { init = 0.1 } },{ auto_pi = { init = 0.1, target = 2 } }").unwrap();
        assert_eq!(laws.values.len(), 2);
        assert_eq!(parse_axis("name='a,b',c").unwrap().values, ["'a,b'", "c"]);
        for wrong in ["kl.target", "=1,2", "a=1,,2", "a="] {
            assert!(parse_axis(wrong).unwrap_err().contains("kl.target=2,4,8"), "{wrong}");
        }
        assert!(parse_axis("a=1,2,1").unwrap_err().contains("twice"));
    }

    #[test]
    fn grids_multiply_and_name_their_directories() {
        let axes = ["kl.fixed.init=0.1,0.2", "ppo.lr=1e-4,1e-5"].map(|t| parse_axis(t).unwrap());
        let all = regimes(&axes);
        let names: Vec<_> = all.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names[..2], ["kl.fixed.init=0.1 ppo.lr=1e-4", "kl.fixed.init=0.1 ppo.lr=1e-5"]);
        assert_eq!((all.len(), all[3].directory.as_str()), (4, "03-kl.fixed.init=0.2_ppo.lr=1e-5"));
        assert!(leaves_early_stages(&axes));
        assert!(!leaves_early_stages(&[parse_axis("reward.lr=1e-4").unwrap()]));
    }

    #[test]
    fn a_key_of_every_law_finds_the_one_of_the_recipe() {
        let recipe = Recipe::load("quickstart", &[]).unwrap();
        let key = |text: &str| parse_axis(text).unwrap().under_law(&recipe).key;
        assert_eq!(key("kl.target=2"), "kl.auto_pi.target");
        assert_eq!(key("kl.adaptive.target=2"), "kl.adaptive.target");
        assert_eq!(key("kl.guard.blow_up=2"), "kl.guard.blow_up");
    }

    #[test]
    fn the_law_s_target_is_refused_where_budgets_govern() {
        let budgets = "[{ id = '*', target = 4.0 }, { id = 'unsafe', target = 2.0 }]";
        let recipe = Recipe::load("quickstart", &[("kl.budget".to_owned(), budgets.to_owned())]).unwrap();
        let check = |key: &str, recipe: &Recipe| check_targets(&[(key.to_owned(), "2".to_owned())], recipe);
        let problem = check("kl.auto_pi.target", &recipe).unwrap_err();
        assert!(problem.contains("kl.budget.0.target (\"*\"), kl.budget.1.target (\"unsafe\")"), "{problem}");
        assert!(check("kl.budget.0.target", &recipe).is_ok() && check("kl.auto_pi.init", &recipe).is_ok());
        assert!(check("kl.auto_pi.target", &Recipe::load("quickstart", &[]).unwrap()).is_ok());
    }
}
