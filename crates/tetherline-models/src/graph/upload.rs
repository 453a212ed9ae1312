//! A model's parameters on a device: one variable per named tensor, uploaded again after a change.
//!
//! The copy belongs to its model, not to the engine: policy, reference and reward model each keep theirs,
//! and it goes when they go. A clone starts with the copy it was cloned with.

use crate::layout::Slot;
use candle_core::{Device, Result, Tensor, Var};
use std::sync::{Arc, Mutex, PoisonError};
use tetherline_kernels::{DecoderSpec, Positions};

/// Parameters on a device.
#[derive(Debug)]
pub(crate) struct Uploaded {
    version: u64,
    pub(super) device: Device,
    /// One per slot, in their order and shape.
    pub(super) vars: Vec<Var>,
    /// cos and sin of the rotary angles, (positions, head_dim / 2) each.
    pub(super) rope: Option<(Tensor, Tensor)>,
}

/// The device copy of a model, if it has been needed.
#[derive(Debug, Default)]
pub(crate) struct DeviceCopy(Mutex<Option<Arc<Uploaded>>>);

impl Clone for DeviceCopy {
    fn clone(&self) -> Self {
        let copy = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self(Mutex::new(copy))
    }
}

impl DeviceCopy {
    /// The copy on `device`, uploaded first if there is none of this `version` of the parameters.
    pub(crate) fn get(
        &self,
        device: &Device,
        version: u64,
        spec: &DecoderSpec,
        slots: &[Slot],
        flat: &[f32],
    ) -> Result<Arc<Uploaded>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = held.take().filter(|u| u.device.same_device(device));
        if let Some(u) = here.as_ref().filter(|u| u.version == version) {
            *held = here.clone();
            return Ok(Arc::clone(u));
        }
        let rope = match (here.and_then(|u| u.rope.clone()), &spec.positions) {
            (Some(tables), _) => Some(tables),
            (None, Positions::Rope(_)) => Some(rope_tables(spec, device)?),
            (None, Positions::Learned(_)) => None,
        };
        // The outdated variables are gone by now: a device need not hold two copies.
        let vars = slots.iter().map(|s| Var::from_slice(&flat[s.range()], s.shape.clone(), device));
        let vars = vars.collect::<Result<Vec<_>>>()?;
        let uploaded = Arc::new(Uploaded { version, device: device.clone(), vars, rope });
        *held = Some(Arc::clone(&uploaded));
        Ok(uploaded)
    }
}

/// cos and sin of position·frequency for every position, from the frequencies of the decoder.
fn rope_tables(spec: &DecoderSpec, device: &Device) -> Result<(Tensor, Tensor)> {
    let Positions::Rope(table) = &spec.positions else { candle_core::bail!("a decoder without rotation") };
    let (freq, factor) = (table.inv_freq(), table.factor());
    // Angles in f32, as in transformers.
    let angles = (0..spec.max_positions).flat_map(|p| freq.iter().map(move |f| p as f32 * f));
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos() * factor, a.sin() * factor)).unzip();
    let shape = (spec.max_positions, freq.len());
    Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
}
