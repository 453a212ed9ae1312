//! A model's parameters on a device: one variable per named tensor, uploaded again after a change.
//!
//! The copy belongs to its model, not to the engine: policy, reference and reward model each keep theirs,
//! and it goes when they go. A clone starts with the copy it was cloned with.

use crate::layout::Slot;
use candle_core::{Device, Result, Tensor, Var};
use std::sync::{Arc, Mutex, PoisonError};
use tetherline_kernels::rope::RopeTable;
use tetherline_kernels::{DecoderSpec, Params};

/// Parameters on a device.
#[derive(Debug)]
pub(crate) struct Uploaded {
    version: u64,
    pub(super) device: Device,
    /// One per slot, in their order and shape.
    pub(super) vars: Vec<Var>,
    /// How many of them, from the first on, are frozen.
    pub(super) frozen: usize,
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
    /// The copy on `device`, uploaded first if there is none of this `version` of the parameters. Frozen parameters,
    /// which are the same in every version, are uploaded once.
    pub(crate) fn get(
        &self,
        device: &Device,
        version: u64,
        spec: &DecoderSpec,
        slots: &[Slot],
        params: Params<'_>,
    ) -> Result<Arc<Uploaded>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = held.take().filter(|u| u.device.same_device(device));
        if let Some(u) = here.as_ref().filter(|u| u.version == version) {
            *held = here.clone();
            return Ok(Arc::clone(u));
        }
        let frozen = slots.iter().take_while(|s| s.offset < spec.frozen).count();
        // Outdated variables go now: a device need not hold two copies.
        let kept =
            here.map(|u| (u.ropes.clone(), u.vars.iter().take(frozen.min(u.frozen)).cloned().collect()));
        let (ropes, mut vars): (_, Vec<Var>) = match kept {
            Some(kept) => kept,
            None => {
                let tables = spec.ropes.iter().map(|r| rope_tables(&r.table, spec.max_positions, device));
                (tables.collect::<Result<_>>()?, Vec::new())
            }
        };
        for s in &slots[vars.len()..] {
            vars.push(Var::from_slice(params.at(s.offset, s.len()), s.shape.clone(), device)?);
        }
        let uploaded = Arc::new(Uploaded { version, device: device.clone(), vars, frozen, ropes });
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
