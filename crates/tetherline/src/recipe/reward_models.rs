//! `model.reward`: one reward model, or the members of an ensemble.

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Reward models, at least one: a text in the recipe, or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewardModels(pub Vec<String>);

impl Serialize for RewardModels {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => s.serialize_str(one),
            many => many.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for RewardModels {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Models;
        impl<'de> Visitor<'de> for Models {
            type Value = RewardModels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model, or a list of models")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RewardModels, E> {
                Ok(RewardModels(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RewardModels, A::Error> {
                let mut models = Vec::new();
                while let Some(model) = seq.next_element()? {
                    models.push(model);
                }
                match models.is_empty() {
                    true => Err(de::Error::invalid_length(0, &"at least one model")),
                    false => Ok(RewardModels(models)),
                }
            }
        }
        d.deserialize_any(Models)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        reward: RewardModels,
    }

    #[test]
    fn one_or_many_read_and_read_back() {
        for (text, models) in [("reward = \"a\"\n", vec!["a"]), ("reward = [\"a\", \"b\"]\n", vec!["a", "b"])]
        {
            let holder: Holder = toml::from_str(text).unwrap();
            assert_eq!(holder.reward.0, models);
            assert_eq!(toml::to_string(&holder).unwrap(), text);
        }
        for bad in ["reward = []", "reward = 3", "reward = [3]"] {
            assert!(toml::from_str::<Holder>(bad).is_err(), "{bad}");
        }
    }
}
