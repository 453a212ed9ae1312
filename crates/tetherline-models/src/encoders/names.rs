//! Tensors of a directory under the names that the trunk of candle-transformers looks for.
//!
//! `distilbert.` and `roberta.` become BERT's names without a prefix. RoBERTa's table of positions begins at padding_idx + 1
//! (its tokens are numbered from there, and padding, which nothing sees, is not), so those rows are BERT's table.
//! DistilBERT has no segments: their table is one row of zeros.

use super::config::{EncoderConfig, Family};
use crate::error::Result;
use crate::files::ModelFiles;
use crate::weights;
use candle_core::{Device, Tensor};
use std::collections::HashMap;

/// (in the file, here): replaced once, in this order.
const DISTILBERT: [(&str, &str); 9] = [
    ("transformer.layer.", "encoder.layer."),
    ("attention.q_lin.", "attention.self.query."),
    ("attention.k_lin.", "attention.self.key."),
    ("attention.v_lin.", "attention.self.value."),
    ("attention.out_lin.", "attention.output.dense."),
    ("sa_layer_norm.", "attention.output.LayerNorm."),
    ("ffn.lin1.", "intermediate.dense."),
    ("ffn.lin2.", "output.dense."),
    (".output_layer_norm.", ".output.LayerNorm."),
];
const POSITIONS: &str = "embeddings.position_embeddings.weight";
const SEGMENTS: &str = "embeddings.token_type_embeddings.weight";

/// Every tensor, f32.
pub(super) fn tensors(files: &ModelFiles, config: &EncoderConfig) -> Result<HashMap<String, Tensor>> {
    let failed = |e| super::failed(files, &e);
    let mut out = HashMap::new();
    weights::load_all(files, |name, shape, values| {
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).map_err(failed)?;
        out.insert(renamed(name, &config.family), tensor);
        Ok(())
    })?;
    if let Family::Bert { first_position, distilled, config: bert, .. } = &config.family {
        if let Some(table) = out.get_mut(POSITIONS).filter(|_| *first_position > 0) {
            let rows = table.dims().first().copied().unwrap_or(0).saturating_sub(*first_position);
            *table = table.narrow(0, *first_position, rows).and_then(|t| t.contiguous()).map_err(failed)?;
        }
        if *distilled {
            let zeros = Tensor::zeros((1, bert.hidden_size), candle_core::DType::F32, &Device::Cpu);
            out.insert(SEGMENTS.to_owned(), zeros.map_err(failed)?);
        }
    }
    Ok(out)
}

fn renamed(name: &str, family: &Family) -> String {
    let Family::Bert { prefix, distilled, .. } = family else { return name.to_owned() };
    let mut name = name.strip_prefix(prefix).unwrap_or(name).to_owned();
    if *distilled {
        for (theirs, ours) in DISTILBERT {
            name = name.replacen(theirs, ours, 1);
        }
    }
    // What TensorFlow calls weight and bias of a norm, in old files.
    for (theirs, ours) in [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")] {
        name = name.replacen(theirs, ours, 1);
    }
    name
}
