//! The network of an encoder: trunk and head over one set of tensors.

use super::config::{EncoderConfig, Family};
use super::head::Head;
use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, debertav2, modernbert};

/// Trunk and head.
pub(super) struct Net {
    pub(super) config: EncoderConfig,
    trunk: Trunk,
    head: Head,
}

enum Trunk {
    Bert(bert::BertModel),
    DebertaV2(Box<debertav2::DebertaV2Model>),
    ModernBert(modernbert::ModernBert),
}

/// One encoded text.
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    /// 0 of the first text, 1 of the second, where the tokenizer says so.
    pub(super) segments: Vec<u32>,
}

impl Net {
    pub(super) fn load(vb: &VarBuilder<'_>, config: EncoderConfig) -> Result<Self> {
        let trunk = match &config.family {
            Family::Bert { config, .. } => Trunk::Bert(bert::BertModel::load(vb.clone(), config)?),
            Family::DebertaV2 { config, .. } => {
                Trunk::DebertaV2(Box::new(debertav2::DebertaV2Model::load(vb.pp("deberta"), config)?))
            }
            Family::ModernBert { config, .. } => {
                Trunk::ModernBert(modernbert::ModernBert::load(vb.clone(), config)?)
            }
        };
        let head = Head::load(vb, &config)?;
        Ok(Self { config, trunk, head })
    }

    /// Logits of rows, padded to the longest of them.
    pub(super) fn forward(&self, rows: &[&Encoded]) -> Result<Vec<Vec<f32>>> {
        let width = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
        let shape = (rows.len(), width);
        let padded = |of: &dyn Fn(&Encoded, usize) -> u32, pad: u32| {
            let all = rows
                .iter()
                .flat_map(|r| (0..width).map(move |i| if i < r.ids.len() { of(r, i) } else { pad }));
            Tensor::from_vec(all.collect::<Vec<u32>>(), shape, &Device::Cpu)
        };
        let ids = padded(&|r, i| r.ids[i], self.config.pad)?;
        let mask = padded(&|_, _| 1, 0)?;
        let segments = padded(&|r, i| if self.config.segments { r.segments[i] } else { 0 }, 0)?;
        let hidden = match &self.trunk {
            Trunk::Bert(trunk) => trunk.forward(&ids, &segments, Some(&mask)),
            Trunk::DebertaV2(trunk) => trunk.forward(&ids, Some(segments), Some(mask.clone())),
            Trunk::ModernBert(trunk) => trunk.forward(&ids, &mask),
        }?;
        self.head.forward(&hidden, &mask)?.to_vec2()
    }
}
