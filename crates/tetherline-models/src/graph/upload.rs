//! A model's parameters on a device: one variable per named tensor, uploaded again after a change.
//!
//! The copy belongs to its model, not to the engine: policy, reference and reward model each keep theirs,
//! and it goes when they go. A clone starts with the copy it was cloned with.

use crate::layout::Slot;
use candle_core::{Device, Result, Tensor, Var};
use std::sync::{Arc, Mutex, PoisonError};
use tetherline_kernels::DecoderSpec;
use tetherline_kernels::rope::RopeTable;

/// Parameters on a device.
#[derive(Debug)]
pub(crate) struct Uploaded {
    version: u64,
    pub(super) device: Device,
    /// One per slot, in their order and shape.
    pub(super) vars: Vec<Var>,
    /// cos and sin of each rotary embedding's angles, (positions, pairs of dimensions that turn) each.
    pub(super) ropes: Vec<(Tensor, Tensor)>,
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
        let ropes = match here.map(|u| u.ropes.clone()) {
            Some(tables) => tables,
            None => {
                let tables = spec.ropes.iter().map(|r| rope_tables(&r.table, spec.max_positions, device));
                tables.collect::<Result<_>>()?
            }
        };
        // The outdated variables are gone by now: a device need not hold two copies.
        let vars = slots.iter().map(|s| Var::from_slice(&flat[s.range()], s.shape.clone(), device));
        let vars = vars.collect::<Result<Vec<_>>>()?;
        let uploaded = Arc::new(Uploaded { version, device: device.clone(), vars, ropes });
        *held = Some(Arc::clone(&uploaded));
        Ok(uploaded)
    }
}

/// cos and sin of position·frequency for every position.
fn rope_tables(table: &RopeTable, positions: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let (freq, factor) = (table.inv_freq(), table.factor());
    // Angles in f32, as in transformers.
    let angles = (0..positions).flat_map(|p| freq.iter().map(move |f| p as f32 * f));
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos() * factor, a.sin() * factor)).unzip();
    let shape = (positions, freq.len());
    Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
}
