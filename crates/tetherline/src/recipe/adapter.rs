//! `[model.adapter]`: LoRA (Hu et al. 2021), W + s·B·A with W frozen.

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use tetherline_core::FieldError;
use tetherline_models::{LoraConfig, Model, ModelError, TargetModules};

/// An adapter to train in place of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterSection {
    /// r, the inner dimension.
    pub rank: usize,
    /// α; the factor is α/r.
    pub alpha: f64,
    /// `"all-linear"`, a list of names as `["q_proj", "v_proj"]`, or a regular expression for whole names.
    #[serde(serialize_with = "write_targets", deserialize_with = "read_targets")]
    pub target_modules: TargetModules,
    /// The factor is α/√r.
    pub rslora: bool,
    /// Must be 0.
    pub dropout: f64,
}

impl Default for AdapterSection {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, target_modules: TargetModules::AllLinear, rslora: false, dropout: 0.0 }
    }
}

impl AdapterSection {
    /// Checks every value.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::require((1..=4096).contains(&self.rank), "rank", self.rank, "from 1 to 4096")?;
        FieldError::require(self.alpha > 0.0 && self.alpha.is_finite(), "alpha", self.alpha, "above 0")?;
        let named = !matches!(&self.target_modules, TargetModules::Names(names) if names.is_empty());
        FieldError::require(named, "target_modules", "an empty list", "\"all-linear\", names or a pattern")?;
        FieldError::require(
            self.dropout == 0.0,
            "dropout",
            self.dropout,
            "0: PPO compares log-probs of the sampler with those of the trainer, and dropout would make the same \
             weights give two of them",
        )
    }

    /// The adapter over a base of this name and revision.
    pub(crate) fn config(&self, (base, revision): (String, Option<String>)) -> LoraConfig {
        LoraConfig {
            alpha: self.alpha,
            target_modules: self.target_modules.clone(),
            use_rslora: self.rslora,
            base,
            revision,
            ..LoraConfig::new(self.rank)
        }
    }

    /// Adds the adapter to `model`, which is called `base`; a model that has just this adapter already keeps it.
    ///
    /// # Errors
    /// If the model cannot have it, or has another.
    pub(crate) fn add_to(
        &self,
        model: Model,
        (base, revision): (String, Option<String>),
        seed: u64,
    ) -> Result<Model, ModelError> {
        let config = self.config((base, revision));
        let Some(own) = model.adapter() else { return model.with_adapter(config, seed) };
        let same = LoraConfig { base: own.base.clone(), revision: own.revision.clone(), ..config };
        if *own == same {
            return Ok(model);
        }
        Err(ModelError::ConfigField {
            path: "model.policy".into(),
            field: "adapter".into(),
            problem: "it has an adapter already, which is not that of [model.adapter]; leave the section out to train \
                      it on, or merge it (`tether export --merge`)"
                .into(),
        })
    }
}

fn write_targets<S: Serializer>(targets: &TargetModules, s: S) -> Result<S::Ok, S::Error> {
    match targets {
        TargetModules::AllLinear => s.serialize_str("all-linear"),
        TargetModules::Names(names) => names.serialize(s),
        TargetModules::Pattern(pattern) => s.serialize_str(pattern),
    }
}

fn read_targets<'de, D: Deserializer<'de>>(d: D) -> Result<TargetModules, D::Error> {
    struct Targets;
    impl<'de> Visitor<'de> for Targets {
        type Value = TargetModules;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("\"all-linear\", a list of names, or a regular expression")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<TargetModules, E> {
            Ok(match text {
                "all-linear" => TargetModules::AllLinear,
                pattern => TargetModules::Pattern(pattern.to_owned()),
            })
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TargetModules, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = seq.next_element()? {
                names.push(name);
            }
            Ok(TargetModules::Names(names))
        }
    }
    d.deserialize_any(Targets)
}
