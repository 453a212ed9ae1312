//! Stands in for `graph` in a build without candle. Its device has no values, so nothing that needs one can
//! be made or run; the compiler checks that.

use crate::error::{ModelError, Result};
use crate::layout::Slot;
use tetherline_kernels::{DecoderSpec, PairRow, Params, Row, RowResult, UnitLoss};

/// A device of the graph: there is none.
#[derive(Debug)]
pub(crate) enum GraphDevice {}

/// Parameters on a device: there are none.
#[derive(Debug)]
pub(crate) enum Uploaded {}

/// The device copy of a model: never one.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceCopy {}

impl DeviceCopy {
    pub(crate) fn get(
        &self,
        device: &GraphDevice,
        _version: u64,
        _spec: &DecoderSpec,
        _slots: &[Slot],
        _params: Params<'_>,
    ) -> Result<Uploaded> {
        match *device {}
    }
}

/// A decoder on a device.
#[derive(Debug)]
pub(crate) struct Net<'a> {
    #[expect(dead_code, reason = "there is no such decoder")]
    pub(crate) spec: &'a DecoderSpec,
    #[expect(dead_code, reason = "there is no such decoder")]
    pub(crate) slots: &'a [Slot],
    pub(crate) uploaded: Uploaded,
}

/// The kernels for the CPU; every other device has to be built in.
pub(crate) fn open(device: crate::Device) -> Result<Option<GraphDevice>> {
    let feature = match device {
        crate::Device::Cpu => return Ok(None),
        crate::Device::Graph => "graph",
        crate::Device::Cuda(_) => "cuda",
        crate::Device::Metal(_) => "metal",
    };
    let problem =
        format!("this program was built without it; rebuild with `--features {feature}`, or use cpu");
    Err(ModelError::Device { device, problem })
}

pub(crate) fn forward(net: &Net<'_>, _rows: &[Row<'_>], _temperature: f32) -> Result<Vec<RowResult>> {
    match net.uploaded {}
}

pub(crate) fn forward_pair(
    policy: &Net<'_>,
    _reference: &Net<'_>,
    _rows: &[Row<'_>],
    _temperature: f32,
) -> Result<Vec<PairRow>> {
    match policy.uploaded {}
}

pub(crate) fn hidden_and_logits(net: &Net<'_>, _tokens: &[u32]) -> Result<(Vec<f32>, Vec<f32>)> {
    match net.uploaded {}
}

pub(crate) fn step<L: UnitLoss>(
    net: &Net<'_>,
    _units: &[Vec<Row<'_>>],
    _temperature: f32,
    _loss: &L,
    _grad: &mut [f32],
) -> Result<Vec<L::Stats>> {
    match net.uploaded {}
}

/// Rows that decode together on a device.
#[derive(Debug)]
pub(crate) struct CachedRows<'a>(Net<'a>);

impl<'a> CachedRows<'a> {
    pub(crate) fn new(net: Net<'a>, _capacity: usize) -> Self {
        Self(net)
    }

    pub(crate) fn push(&mut self, _tokens: &[u32]) {
        match self.0.uploaded {}
    }

    pub(crate) fn retain(&mut self, _keep: &[bool]) -> Result<()> {
        match self.0.uploaded {}
    }

    pub(crate) fn step(&mut self, _tokens: &[u32]) -> Result<(&mut [f32], &[f32])> {
        match self.0.uploaded {}
    }
}
