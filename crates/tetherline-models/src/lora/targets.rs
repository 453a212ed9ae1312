//! Which modules an adapter is for, by the rules of `peft` (`check_target_module_exists`, `get_pattern_key`).

use super::LoraConfig;
use regex::Regex;
use std::collections::BTreeMap;

/// Modules by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear layer but the head.
    AllLinear,
    /// Those whose names are one of these, or end with `.` and one of these.
    Names(Vec<String>),
    /// Those whose whole names match a regular expression.
    Pattern(String),
}

impl TargetModules {
    /// The same with each module as transformers 5 calls it: GPT-NeoX's head was `embed_out` before.
    #[must_use]
    pub(crate) fn into_modules(self) -> Self {
        match self {
            Self::Names(names) => Self::Names(names.iter().map(|n| super::module(n).to_owned()).collect()),
            other => other,
        }
    }
}

/// The rules of a configuration, ready to ask.
pub(super) struct Targets<'c> {
    config: &'c LoraConfig,
    wanted: Rule<'c>,
    excluded: Option<Rule<'c>>,
    /// What captures the number of a block.
    layer: Vec<Regex>,
}

enum Rule<'c> {
    AllLinear,
    Names(&'c [String]),
    Pattern(Regex),
}

impl<'c> Rule<'c> {
    fn new(targets: &'c TargetModules) -> Result<Self, String> {
        Ok(match targets {
            TargetModules::AllLinear => Self::AllLinear,
            TargetModules::Names(names) => Self::Names(names),
            TargetModules::Pattern(pattern) => Self::Pattern(regex(&format!("^(?:{pattern})$"))?),
        })
    }

    /// Whether the rule names the module itself, rather than every linear layer.
    fn names(&self, module: &str) -> bool {
        match self {
            Self::AllLinear => false,
            Self::Names(names) => names.iter().any(|name| ends_with(module, name)),
            Self::Pattern(pattern) => pattern.is_match(module),
        }
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern)
        .map_err(|e| format!("{pattern:?} is no regular expression that this program knows: {e}"))
}

/// Whether a module's name is `name`, or ends with it after a dot.
pub(super) fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The value of the first pattern that the end of a module's name matches.
pub(super) fn by_pattern<T: Copy + PartialEq>(
    patterns: &BTreeMap<String, T>,
    module: &str,
) -> Result<Option<T>, String> {
    let mut found: Option<(&str, T)> = None;
    for (pattern, value) in patterns {
        if !regex(&format!("^(?:.*\\.)?(?:{pattern})$"))?.is_match(module) {
            continue;
        }
        match found {
            // peft takes the first in the order of the file, which a reader of JSON need not keep.
            Some((other, first)) if first != *value => {
                return Err(format!(
                    "`{other}` and `{pattern}` both match {module} and say different things; let one match alone"
                ));
            }
            _ => found = Some((pattern, *value)),
        }
    }
    Ok(found.map(|(_, value)| value))
}

impl LoraConfig {
    /// The rules, or the field that is wrong and why.
    pub(super) fn compile(&self) -> Result<Targets<'_>, (&'static str, String)> {
        let layer = match &self.layers_pattern[..] {
            [] => vec![r"^.*?\.[^.]*\.(\d+)\.".to_owned()],
            patterns => patterns.iter().map(|p| format!(r"^(?:|.*?\.)(?:{p})\.(\d+)\.")).collect(),
        };
        let layer = layer.iter().map(|p| regex(p)).collect::<Result<_, _>>();
        Ok(Targets {
            config: self,
            wanted: Rule::new(&self.target_modules).map_err(|e| ("target_modules", e))?,
            excluded: self
                .exclude_modules
                .as_ref()
                .map(Rule::new)
                .transpose()
                .map_err(|e| ("exclude_modules", e))?,
            layer: layer.map_err(|e| ("layers_pattern", e))?,
        })
    }
}

impl Targets<'_> {
    /// Whether a module is named, whatever its kind.
    pub(super) fn names(&self, module: &str) -> bool {
        self.wanted.names(module) && !self.excluded.as_ref().is_some_and(|r| r.names(module))
    }

    /// Whether a linear layer has an adapter.
    pub(super) fn matches(&self, module: &str) -> bool {
        if self.excluded.as_ref().is_some_and(|r| r.names(module)) {
            return false;
        }
        match &self.wanted {
            Rule::AllLinear => !["lm_head", "embed_out"].contains(&module) && self.in_layers(module),
            // peft looks at layers only where modules are listed.
            Rule::Names(_) => self.wanted.names(module) && self.in_layers(module),
            Rule::Pattern(_) => self.wanted.names(module),
        }
    }

    fn in_layers(&self, module: &str) -> bool {
        let Some(layers) = self.config.layers_to_transform.as_ref().filter(|l| !l.is_empty()) else {
            return true;
        };
        let number =
            self.layer.iter().find_map(|r| r.captures(module)?.get(1)?.as_str().parse::<usize>().ok());
        number.is_some_and(|n| layers.contains(&n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(targets: TargetModules) -> LoraConfig {
        LoraConfig { target_modules: targets, ..LoraConfig::new(4) }
    }

    fn names(names: &[&str]) -> TargetModules {
        TargetModules::Names(names.iter().map(|n| (*n).to_owned()).collect())
    }

    /// The answers are those of peft 0.21.2 (`check_target_module_exists`).
    #[test]
    fn modules_are_chosen_as_peft_chooses_them() {
        let c = config(names(&["q_proj", "mlp.down_proj"]));
        let t = c.compile().unwrap();
        for (module, wanted) in [
            ("model.layers.0.self_attn.q_proj", true),
            ("model.layers.0.self_attn.xq_proj", false),
            ("model.layers.1.mlp.down_proj", true),
            ("model.layers.1.other.down_proj", false),
            ("q_proj", true),
        ] {
            assert_eq!(t.matches(module), wanted, "{module}");
        }
        let c = config(TargetModules::Pattern(r".*\.[01]\..*(q|v)_proj".into()));
        let t = c.compile().unwrap();
        assert!(
            t.matches("model.layers.1.self_attn.v_proj") && !t.matches("model.layers.2.self_attn.v_proj")
        );
        assert!(!t.matches("model.layers.1.self_attn.v_proj.x"), "the whole name");
        let c = LoraConfig { layers_to_transform: Some(vec![1]), ..config(names(&["c_attn"])) };
        let t = c.compile().unwrap();
        assert!(t.matches("transformer.h.1.attn.c_attn") && !t.matches("transformer.h.0.attn.c_attn"));
        let c = LoraConfig {
            layers_to_transform: Some(vec![1]),
            layers_pattern: vec!["h".into()],
            exclude_modules: Some(names(&["mlp.c_proj"])),
            ..config(names(&["c_proj"]))
        };
        let t = c.compile().unwrap();
        assert!(t.matches("transformer.h.1.attn.c_proj") && !t.matches("transformer.h.1.mlp.c_proj"));
        let c = config(TargetModules::AllLinear);
        let t = c.compile().unwrap();
        assert!(t.matches("model.layers.0.mlp.up_proj") && !t.matches("lm_head"));
    }

    #[test]
    fn ranks_and_factors_by_pattern() {
        let c = LoraConfig {
            rank_pattern: BTreeMap::from([
                ("self_attn.q_proj".into(), 2),
                (r"layers\.1\.mlp\..*".into(), 16),
            ]),
            alpha_pattern: BTreeMap::from([("q_proj".into(), 6.0)]),
            ..LoraConfig::new(4)
        };
        assert_eq!(c.of("model.layers.0.self_attn.q_proj"), Ok((2, 3.0)));
        assert_eq!(c.of("model.layers.1.mlp.up_proj"), Ok((16, 0.5)));
        assert_eq!(c.of("model.layers.0.mlp.up_proj"), Ok((4, 2.0)));
        let c = LoraConfig { use_rslora: true, ..c };
        assert_eq!(c.of("model.layers.1.mlp.up_proj"), Ok((16, 2.0)));
    }

    #[test]
    fn patterns_whose_order_would_decide_are_refused() {
        let alphas = BTreeMap::from([("self_attn.q_proj".into(), 8.0), ("q_proj".into(), 16.0)]);
        let c = LoraConfig { alpha_pattern: alphas, ..LoraConfig::new(4) };
        let problem = format!("{:?}", c.of("model.layers.0.self_attn.q_proj").unwrap_err());
        assert!(problem.contains("both match"), "{problem}");
    }

    #[test]
    fn a_pattern_of_python_alone_is_refused() {
        let c = config(TargetModules::Pattern("(?!lm_head).*".into()));
        assert_eq!(c.compile().err().map(|e| e.0), Some("target_modules"));
    }
}
