//! Why a configuration that names no architecture of ours does not load, in words that say what to take instead; and
//! weights that are no plain numbers.

use super::{ALL, Architecture};
use crate::error::Result;
use serde_json::{Map, Value};

/// What `config.json` names, and what kind of model that is.
pub(super) fn unknown(raw: &Map<String, Value>) -> String {
    let class = raw.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
    let Some(name) = class.or_else(|| raw.get("model_type").and_then(Value::as_str)) else {
        return "config.json names none, and no `model_type`".into();
    };
    let has = |keys: &[&str]| keys.iter().any(|k| raw.get(*k).is_some_and(|v| !v.is_null()));
    let says = |words: &[&str]| words.iter().any(|w| name.to_lowercase().contains(w));
    let family = ALL.into_iter().find(|a| name.starts_with(family_name(*a)));
    let why = if has(&["num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"])
        || says(&["moe", "mixtral", "dbrx"])
    {
        "is a mixture of experts, whose routing is not trained here; take a dense model"
    } else if has(&["vision_config", "audio_config"]) || says(&["llava", "vision", "vl", "omni"]) {
        "is multimodal, and only text models are trained here; take the text model of its family (of Gemma 3 the one \
         with Gemma3ForCausalLM)"
    } else if raw.get("is_encoder_decoder") == Some(&Value::Bool(true))
        || name.ends_with("ForConditionalGeneration")
    {
        "has an encoder and a decoder; take a model that is a decoder alone (…ForCausalLM)"
    } else if is_encoder(name) {
        "is an encoder with a head for scores, which is never trained here; let it score as model.reward or as \
         [[reward.rule]] encoder = { model = DIR } (in a build with the feature `encoders`)"
    } else if name.ends_with("ForMaskedLM") || says(&["bert", "electra", "embedding"]) {
        "is an encoder, which cannot generate; take a model that is a decoder (…ForCausalLM)"
    } else if let Some(family) = family {
        return format!(
            "`{name}` is a {} with another head; save it from Python as {} or, with one label, as {}",
            family.name(),
            family.class(false),
            family.class(true)
        );
    } else {
        "is not known here; take a model of a known class"
    };
    format!("`{name}` {why}")
}

/// Whether a class is one of the BERT family with a head for scores.
pub(crate) fn is_encoder(class: &str) -> bool {
    class.ends_with("ForSequenceClassification") && class.to_lowercase().contains("bert")
}

/// What the classes of a family begin with.
fn family_name(arch: Architecture) -> &'static str {
    let class = arch.class(false);
    ["ForCausalLM", "LMHeadModel"].iter().find_map(|head| class.strip_suffix(head)).unwrap_or(class)
}

/// Refuses quantised weights.
pub(super) fn quantised(f: &super::Fields<'_>) -> Result<()> {
    let field = "quantization_config";
    let Some(config) = f.object(field)?.filter(|o| !o.is_empty()) else { return Ok(()) };
    let method = config.get("quant_method").or_else(|| config.get("quant_type"));
    let method = method.and_then(Value::as_str).unwrap_or("of no name");
    Err(f.error(
        field,
        format!(
            "the weights are quantised ({method}), and are trained here as f32; take the model that they were made \
             from, or in Python load with dequantisation where {method} has it and save_pretrained again"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_known_class_has_a_family_name() {
        for arch in ALL {
            let name = family_name(arch);
            assert!(!name.is_empty() && arch.class(false).starts_with(name), "{name}");
        }
    }

    #[test]
    fn what_does_not_load_is_told_by_its_kind() {
        let of = |json: Value| unknown(json.as_object().unwrap());
        for (class, more, part) in [
            ("MixtralForCausalLM", json!({"num_local_experts": 8}), "mixture of experts"),
            ("Qwen3MoeForCausalLM", json!({"num_experts": 128}), "mixture of experts"),
            ("OlmoeForCausalLM", json!({}), "mixture of experts"),
            ("DeepseekV3ForCausalLM", json!({"n_routed_experts": 256}), "mixture of experts"),
            ("Gemma3ForConditionalGeneration", json!({"vision_config": {}}), "multimodal"),
            ("LlavaForConditionalGeneration", json!({}), "multimodal"),
            ("Qwen2VLForConditionalGeneration", json!({}), "multimodal"),
            ("T5ForConditionalGeneration", json!({"is_encoder_decoder": true}), "an encoder and a decoder"),
            ("BertForMaskedLM", json!({}), "is an encoder"),
            ("RobertaForSequenceClassification", json!({}), "is an encoder with a head for scores"),
            ("MambaForCausalLM", json!({}), "not known"),
            ("LlamaModel", json!({}), "a Llama with another head; save it from Python as LlamaForCausalLM"),
            ("GPT2Model", json!({}), "a GPT-2 with another head; save it from Python as GPT2LMHeadModel"),
            ("Qwen2ForRewardModel", json!({}), "as Qwen2ForSequenceClassification"),
        ] {
            let mut raw = more;
            raw["architectures"] = json!([class]);
            let message = of(raw);
            assert!(message.contains(part) && message.contains(class), "{message}");
        }
        assert!(of(json!({"model_type": "rwkv"})).contains("`rwkv`"));
        assert!(of(json!({})).contains("names none"));
    }
}
