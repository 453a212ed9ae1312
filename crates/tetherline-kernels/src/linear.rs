//! Linear layers over packed weights, and low-rank additions to them.

use crate::gemm::{
    A, AT_ONCE, B, Columns, HalfGrad, HalfPanels, Init, NR, Panels, Unit, gemm, gemm_at, one_row, unit,
};
use crate::params::{Grad, Params};
use crate::simd::add_assign;
use crate::spec::{AdapterSpec, DecoderSpec, Layout, LinearSpec};
use crate::team::{Shares, Team, each};
use crate::threads::{on_threads, worth};
use std::cell::RefCell;
use std::sync::Arc;

/// The weights of every linear layer in the two layouts the kernels read: in panels for y = x·W, and, only if
/// trained, for dx = dy·Wᵀ, in panels or where they are (stored out × in, as rows of whole panels). Must be refreshed
/// whenever the flat parameters change. Clones share the panels of frozen layers.
#[derive(Clone, Debug)]
pub struct PackedWeights {
    layers: Vec<Arc<PackedLinear>>,
    adapters: Vec<Option<PackedAdapter>>,
    train: bool,
    precision: Precision,
}

/// What the weights of linear layers are kept as for computing; the flat parameters are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16. Where the CPU multiplies bf16 itself (AMX on Linux, AVX512-BF16 of AMD), the other side of a product with them, and both sides of the
    /// product that gives their gradient, are rounded too. Sums, everything between the products, log-probs, gradients
    /// and adapters are f32.
    Bf16,
}

impl Precision {
    /// Whether products round both sides on this CPU, and not the weights alone.
    pub fn rounds_both_sides(self) -> bool {
        self == Self::Bf16 && unit() != Unit::Widened
    }
}

#[derive(Clone, Debug, Default)]
struct PackedLinear {
    forward: Weights,
    /// Empty where the way back reads the flat parameters.
    backward: Weights,
}

/// Whether the way back reads the weights where they are: stored out × in, they are rows of whole panels already.
pub(crate) fn in_place(l: &LinearSpec, precision: Precision) -> bool {
    l.layout == Layout::OutIn && l.n_in.is_multiple_of(NR) && precision == Precision::F32
}

#[derive(Clone, Debug)]
enum Weights {
    F32(Panels),
    Bf16(HalfPanels),
}

impl Default for Weights {
    fn default() -> Self {
        Self::F32(Panels::default())
    }
}

impl Weights {
    fn pack(&mut self, precision: Precision, b: &[f32], rs: usize, cs: usize, k: usize, n: usize) {
        if let (Self::F32(_), Precision::Bf16) = (&self, precision) {
            *self = Self::Bf16(HalfPanels::default());
        }
        match self {
            Self::F32(panels) => panels.pack(b, rs, cs, k, n),
            Self::Bf16(panels) => panels.pack(b, rs, cs, k, n),
        }
    }

    /// C = init + A·B, of which every task of a team computes some columns: the bits are those of the whole.
    fn multiply(
        &self,
        team: Option<&Team<'_>>,
        (m, n, k): (usize, usize, usize),
        a: A<'_>,
        c: &mut [f32],
        ldc: usize,
        init: Init<'_>,
    ) {
        if m == 0 {
            return;
        }
        let (own, len) = (c.as_mut_ptr(), c.len());
        let from = match init {
            Init::Zero => std::ptr::null(),
            Init::Own => own.cast_const(),
            Init::From(d) => {
                assert!(m == 0 || d.len() >= (m - 1) * ldc + n, "gemm: D too short");
                d.as_ptr()
            }
        };
        let from = Shares::new_at(from.cast_mut(), len);
        let tasks = team.map_or(1, Team::threads).min(n.div_ceil(NR));
        let all = Shares::new_at(own, len);
        // SAFETY: a task has its own columns of C; D was checked.
        each(team, tasks, &|task| unsafe { self.columns((task, tasks), (m, n, k), a, all, ldc, from) });
    }

    /// The columns of C that are the part of one of `tasks` tasks; `from` is null for none, or where D stands.
    ///
    /// # Safety
    /// No one else touches these columns meanwhile, and D has the sizes of C.
    unsafe fn columns(
        &self,
        (task, tasks): (usize, usize),
        (m, n, k): (usize, usize, usize),
        a: A<'_>,
        c: Shares<f32>,
        ldc: usize,
        from: Shares<f32>,
    ) {
        let share = n.div_ceil(NR).div_ceil(tasks.max(1));
        let j0 = task * share * NR;
        let columns = (share * NR).min(n.saturating_sub(j0));
        if columns == 0 {
            return;
        }
        let (c, from) = (c.from(j0), if from.is_null() { std::ptr::null() } else { from.from(j0).0 });
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::F32(b) => {
                    let b = b.view();
                    let b = B { data: &b.data[j0 / NR * b.panel..], ..b };
                    gemm_at(m, columns, k, a, b, c, ldc, from);
                }
                Self::Bf16(b) => b.multiply(j0 / NR, (m, columns, k), a, c, ldc, from),
            }
        }
    }
}

/// Where layers that read the same x write: each from a column on, in ascending order.
pub(crate) struct Output<'y> {
    pub(crate) y: &'y mut [f32],
    /// Floats from row to row.
    pub(crate) ldy: usize,
    pub(crate) layers: &'y [(&'y LinearSpec, usize)],
}

/// An [`Output`] whose columns different tasks write.
struct Place<'y> {
    y: Shares<f32>,
    ldy: usize,
    layers: &'y [(&'y LinearSpec, usize)],
}

/// scale·Aᵀ and Bᵀ for the way forward; scale·B and A for the way back.
#[derive(Clone, Debug, Default)]
struct PackedAdapter {
    down: Panels,
    up: Panels,
    back_up: Panels,
    back_down: Panels,
}

impl PackedAdapter {
    fn pack(&mut self, s: AdapterSpec, n_in: usize, n_out: usize, params: Params<'_>, train: bool) {
        let (a, b, r) = (params.at(s.a, s.rank * n_in), params.at(s.b, n_out * s.rank), s.rank);
        let scaled = |x: &[f32]| x.iter().map(|x| x * s.scale).collect::<Vec<_>>();
        self.down.pack(&scaled(a), 1, n_in, n_in, r);
        self.up.pack(b, 1, r, r, n_out);
        if train {
            self.back_up.pack(&scaled(b), r, 1, n_out, r);
            self.back_down.pack(a, n_in, 1, r, n_in);
        }
    }
}

impl PackedWeights {
    /// Packs every linear layer of `spec`; `train` also packs what the backward pass needs.
    pub fn new(
        spec: &DecoderSpec,
        params: Params<'_>,
        train: bool,
        precision: Precision,
        threads: usize,
    ) -> Self {
        let linears = spec.linears();
        let mut packed = Self {
            layers: vec![Arc::default(); linears.len()],
            adapters: linears.iter().map(|l| l.adapter.map(|_| PackedAdapter::default())).collect(),
            train,
            precision,
        };
        packed.pack(spec, params, threads, |_| true);
        packed
    }

    /// As [`PackedWeights::new`], but that layers which are frozen both here and in another decoder, at the same offset of
    /// the same parameters, share its panels; the precision is that of the other's.
    pub fn sharing(
        spec: &DecoderSpec,
        params: Params<'_>,
        train: bool,
        threads: usize,
        (other, donor): (&DecoderSpec, &Self),
    ) -> Self {
        let (linears, theirs) = (spec.linears(), other.linears());
        let twin = |l: &LinearSpec| {
            let same = |t: &&&LinearSpec| {
                (t.weight, t.stride, t.n_in, t.n_out, t.layout)
                    == (l.weight, l.stride, l.n_in, l.n_out, l.layout)
            };
            let frozen = l.weight < spec.frozen.min(other.frozen) && (donor.train || !train);
            theirs.iter().find(same).filter(|_| frozen).map(|t| Arc::clone(&donor.layers[t.id]))
        };
        let twins: Vec<Option<Arc<PackedLinear>>> = linears.iter().map(|l| twin(l)).collect();
        let shared: Vec<usize> =
            linears.iter().zip(&twins).filter(|(_, t)| t.is_some()).map(|(l, _)| l.weight).collect();
        let mut packed = Self {
            layers: twins.into_iter().map(Option::unwrap_or_default).collect(),
            adapters: linears.iter().map(|l| l.adapter.map(|_| PackedAdapter::default())).collect(),
            train,
            precision: donor.precision,
        };
        packed.pack(spec, params, threads, |offset| !shared.contains(&offset));
        packed
    }

    /// How many layers have the same panels in memory as those of `other` with the same id.
    pub fn shared_with(&self, other: &Self) -> usize {
        self.layers.iter().zip(&other.layers).filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }

    /// Packs what is trained again after the parameters changed.
    pub fn refresh(&mut self, spec: &DecoderSpec, params: Params<'_>, threads: usize) {
        self.pack(spec, params, threads, |offset| offset >= spec.frozen);
    }

    fn pack(
        &mut self,
        spec: &DecoderSpec,
        params: Params<'_>,
        threads: usize,
        changed: impl Fn(usize) -> bool + Sync,
    ) {
        let (train, precision) = (self.train, self.precision);
        let linears = spec.linears();
        let pack = |packed: &mut Arc<PackedLinear>, adapter: &mut Option<PackedAdapter>, l: &LinearSpec| {
            if let (Some(packed), Some(s)) = (adapter, l.adapter.filter(|s| changed(s.a))) {
                packed.pack(s, l.n_in, l.n_out, params, train);
            }
            if !changed(l.weight) {
                return;
            }
            let packed = Arc::make_mut(packed);
            let w = params.from(l.weight);
            let (over_in, over_out) = match l.layout {
                Layout::OutIn => (1, l.stride),
                Layout::InOut => (l.stride, 1),
            };
            packed.forward.pack(precision, w, over_in, over_out, l.n_in, l.n_out);
            if train && !in_place(l, precision) {
                packed.backward.pack(precision, w, over_out, over_in, l.n_out, l.n_in);
            }
        };
        let per_thread = linears.len().div_ceil(worth(threads, spec.n_params)).max(1);
        let parts = self.layers.chunks_mut(per_thread).zip(self.adapters.chunks_mut(per_thread));
        let run = |((ps, adapters), ls): ((&mut [_], &mut [_]), &[&LinearSpec])| {
            for ((p, a), l) in ps.iter_mut().zip(adapters).zip(ls) {
                pack(p, a, l);
            }
        };
        on_threads(parts.zip(linears.chunks(per_thread)), run);
    }

    /// y\[rows × n_out\] = init + x\[rows × n_in\]·W + b, row strides `ldx` and `ldy`, and what the adapter adds.
    pub(crate) fn forward(
        &self,
        team: Option<&Team<'_>>,
        l: &LinearSpec,
        params: Params<'_>,
        rows: usize,
        x: &[f32],
        ldx: usize,
        y: &mut [f32],
        ldy: usize,
        init: Init<'_>,
    ) {
        let team = team.filter(|_| l.n_in * l.n_out >= SHARED);
        let size = (rows, l.n_out, l.n_in);
        self.layers[l.id].forward.multiply(team, size, A::rows(x, ldx), y, ldy, init);
        self.add_to(l, params, rows, x, ldx, y, ldy);
    }

    /// [`PackedWeights::forward`] from zero of several layers that read the same x, in one job of the team.
    pub(crate) fn forward_all(
        &self,
        team: Option<&Team<'_>>,
        params: Params<'_>,
        rows: usize,
        (x, ldx): (&[f32], usize),
        outputs: &mut [Output<'_>],
    ) {
        let size = |o: &Output<'_>| o.layers.iter().map(|(l, _)| l.n_in * l.n_out).sum::<usize>();
        let team = team.filter(|_| outputs.iter().map(size).sum::<usize>() >= SHARED);
        let tasks = team.map_or(1, Team::threads);
        for o in outputs.iter() {
            let ends = o.layers.iter().skip(1).map(|(_, at)| *at).chain([o.ldy.min(o.y.len())]);
            let apart = o.layers.iter().zip(ends).all(|((l, at), end)| at + l.n_out <= end);
            assert!(apart, "layers write side by side");
        }
        assert!(outputs.len() <= 2, "at most two places");
        let places: [_; 2] = std::array::from_fn(|i| {
            let nothing = Place { y: Shares::new(&mut []), ldy: 0, layers: &[] };
            outputs.get_mut(i).map_or(nothing, |o| Place {
                y: Shares::new(o.y),
                ldy: o.ldy,
                layers: o.layers,
            })
        });
        each(team, tasks, &|task| {
            if rows == 1 && self.one_row(&places, (task, tasks), &x[..ldx]) {
                return;
            }
            for Place { y, ldy, layers } in &places {
                for (l, at) in *layers {
                    let (start, len) = y.from(*at);
                    let (y, none) = (Shares::new_at(start, len), Shares::new_at(std::ptr::null_mut(), 0));
                    let size = (rows, l.n_out, l.n_in);
                    let weights = &self.layers[l.id].forward;
                    // SAFETY: layers have columns of their own by the check, and tasks have of those.
                    unsafe { weights.columns((task, tasks), size, A::rows(x, ldx), y, *ldy, none) };
                }
            }
        });
        for o in outputs {
            for (l, at) in o.layers.iter().filter(|(l, _)| l.bias.is_some() || l.adapter.is_some()) {
                self.add_to(l, params, rows, x, ldx, &mut o.y[*at..], o.ldy);
            }
        }
    }

    /// The part of a task of [`PackedWeights::forward_all`] for a single row: panels of all layers side by side. Whether
    /// it did it.
    fn one_row(&self, places: &[Place<'_>], (task, tasks): (usize, usize), x: &[f32]) -> bool {
        let panels = |l: &LinearSpec| l.n_out.div_ceil(NR);
        let total: usize = places.iter().flat_map(|p| p.layers).map(|(l, _)| panels(l)).sum();
        let share = total.div_ceil(tasks);
        let (from, to) = (task * share, ((task + 1) * share).min(total));
        let (mut held, mut count, mut first) = ([Columns::NONE; AT_ONCE], 0, 0);
        for Place { y, layers, .. } in places {
            for (l, at) in *layers {
                let Weights::F32(b) = &self.layers[l.id].forward else { return false };
                assert!(l.n_in == x.len(), "layers that read the same row");
                let y = y.from(*at).0;
                for j in from.max(first)..to.min(first + panels(l)) {
                    held[count] = Columns::of(b, j - first, y);
                    count += 1;
                    if count == AT_ONCE {
                        // SAFETY: layers and tasks have columns of their own, and all panels the rows of x.
                        unsafe { one_row(x, &held) };
                        count = 0;
                    }
                }
                first += panels(l);
            }
        }
        // SAFETY: as above.
        unsafe { one_row(x, &held[..count]) };
        true
    }

    /// What an adapter and a bias add to y.
    fn add_to(
        &self,
        l: &LinearSpec,
        params: Params<'_>,
        rows: usize,
        x: &[f32],
        ldx: usize,
        y: &mut [f32],
        ldy: usize,
    ) {
        if let Some((s, adapter)) = self.adapter(l) {
            between(rows * s.rank, |u| {
                gemm(rows, s.rank, l.n_in, A::rows(x, ldx), adapter.down.view(), u, s.rank, Init::Zero);
                gemm(rows, l.n_out, s.rank, A::rows(u, s.rank), adapter.up.view(), y, ldy, Init::Own);
            });
        }
        if let Some(bias) = l.bias {
            let bias = params.at(bias, l.n_out);
            for row in y.chunks_mut(ldy).take(rows) {
                add_assign(&mut row[..l.n_out], bias);
            }
        }
    }

    /// dx\[rows × n_in\] = init + dy\[rows × n_out\]·Wᵀ.
    pub(crate) fn backward_input(
        &self,
        l: &LinearSpec,
        params: Params<'_>,
        rows: usize,
        dy: &[f32],
        ldy: usize,
        dx: &mut [f32],
        ldx: usize,
        init: Init<'_>,
    ) {
        assert!(self.train, "backward on weights that were packed for inference");
        if in_place(l, self.precision) {
            let w = B { data: params.from(l.weight), row: l.stride, panel: NR };
            gemm(rows, l.n_in, l.n_out, A::rows(dy, ldy), w, dx, ldx, init);
        } else {
            let size = (rows, l.n_in, l.n_out);
            self.layers[l.id].backward.multiply(None, size, A::rows(dy, ldy), dx, ldx, init);
        }
        if let Some((s, adapter)) = self.adapter(l) {
            between(rows * s.rank, |v| {
                gemm(rows, s.rank, l.n_out, A::rows(dy, ldy), adapter.back_up.view(), v, s.rank, Init::Zero);
                gemm(rows, l.n_in, s.rank, A::rows(v, s.rank), adapter.back_down.view(), dx, ldx, Init::Own);
            });
        }
    }

    /// dW += dyᵀ·x (in the layer's own layout) and db += Σ dy, and the adapter's dB += scale·dyᵀ·(x·Aᵀ) and
    /// dA += scale·(dy·B)ᵀ·x, into the flat gradient, of what is not frozen.
    pub(crate) fn backward_weight(
        &self,
        l: &LinearSpec,
        rows: usize,
        x: &[f32],
        ldx: usize,
        dy: &[f32],
        ldy: usize,
        grad: &mut Grad<'_>,
        panels: &mut Panels,
    ) {
        self.backward_weights(&[(l, dy, ldy)], rows, x, ldx, grad, panels);
    }

    /// [`PackedWeights::backward_weight`] of several layers that read the same x, in the same layout: each with its dy
    /// and the floats from row to row of that.
    pub(crate) fn backward_weights(
        &self,
        of: &[(&LinearSpec, &[f32], usize)],
        rows: usize,
        x: &[f32],
        ldx: usize,
        grad: &mut Grad<'_>,
        panels: &mut Panels,
    ) {
        let mut held = false; // whether the panels are those of x
        let rounded = self.precision.rounds_both_sides();
        if rounded {
            gradients(of, rows, x, ldx, grad);
        }
        for &(l, dy, ldy) in of {
            if let Some(dw) = grad.from(l.weight).filter(|_| !rounded) {
                match l.layout {
                    Layout::OutIn => {
                        let b = operand(x, ldx, rows, l.n_in, panels, &mut held);
                        gemm(l.n_out, l.n_in, rows, A::transposed(dy, ldy), b, dw, l.stride, Init::Own);
                    }
                    Layout::InOut => {
                        let b = operand(dy, ldy, rows, l.n_out, panels, &mut false);
                        gemm(l.n_in, l.n_out, rows, A::transposed(x, ldx), b, dw, l.stride, Init::Own);
                        held = false;
                    }
                }
            }
            if let Some(db) = l.bias.and_then(|b| grad.at(b, l.n_out)) {
                for row in dy.chunks(ldy).take(rows) {
                    add_assign(db, &row[..l.n_out]);
                }
            }
            let Some((s, adapter)) = self.adapter(l) else { continue };
            let r = s.rank;
            between(rows * r, |inner| {
                if let Some(db) = grad.from(s.b) {
                    gemm(rows, r, l.n_in, A::rows(x, ldx), adapter.down.view(), inner, r, Init::Zero);
                    panels.pack(inner, r, 1, rows, r);
                    held = false;
                    gemm(l.n_out, r, rows, A::transposed(dy, ldy), panels.view(), db, r, Init::Own);
                }
                if let Some(da) = grad.from(s.a) {
                    gemm(rows, r, l.n_out, A::rows(dy, ldy), adapter.back_up.view(), inner, r, Init::Zero);
                    let b = operand(x, ldx, rows, l.n_in, panels, &mut held);
                    gemm(r, l.n_in, rows, A::transposed(inner, r), b, da, l.n_in, Init::Own);
                }
            });
        }
    }

    fn adapter(&self, l: &LinearSpec) -> Option<(AdapterSpec, &PackedAdapter)> {
        l.adapter.zip(self.adapters[l.id].as_ref())
    }
}

/// The gradients of weights by the unit of the CPU that multiplies bf16.
fn gradients(of: &[(&LinearSpec, &[f32], usize)], rows: usize, x: &[f32], ldx: usize, grad: &mut Grad<'_>) {
    thread_local! {
        static BUFFER: RefCell<HalfGrad> = RefCell::default();
    }
    BUFFER.with_borrow_mut(|buffer| {
        let mut held = false; // whether the buffer holds x
        for &(l, dy, ldy) in of {
            let Some(dw) = grad.from(l.weight) else { continue };
            let (n_in, n_out) = (l.n_in, l.n_out);
            if l.layout == Layout::InOut {
                buffer.hold(dy, ldy, rows, n_out);
                held = false;
                buffer.add((n_in, n_out), x, ldx, dw, l.stride);
                continue;
            }
            if !held {
                buffer.hold(x, ldx, rows, n_in);
                held = true;
            }
            buffer.add((n_out, n_in), dy, ldy, dw, l.stride);
        }
    });
}

/// Matrices of fewer weights are not worth a job of the team.
const SHARED: usize = 16 * 1024;

/// Runs `f` with the thread's own buffer for what lies between the two factors of an adapter.
fn between(n: usize, f: impl FnOnce(&mut [f32])) {
    thread_local! {
        static BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < n {
            buffer.resize(n, 0.0);
        }
        f(&mut buffer[..n]);
    });
}

/// `rows` rows of which the first `cols` numbers count, as a right operand: where they are if that is few pages, else
/// packed, unless the panels hold them already.
fn operand<'a>(
    x: &'a [f32],
    ld: usize,
    rows: usize,
    cols: usize,
    panels: &'a mut Panels,
    held: &mut bool,
) -> B<'a> {
    // The last panel is read whole.
    let end = rows.saturating_sub(1) * ld + cols.next_multiple_of(NR);
    if rows * ld <= IN_PLACE && x.len() >= end {
        return B { data: x, row: ld, panel: NR };
    }
    if !*held {
        panels.pack(x, ld, 1, rows, cols);
        *held = true;
    }
    panels.view()
}

/// A right operand of more floats than this is packed.
const IN_PLACE: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_computes_the_bits_of_one_thread() {
        let noise = |n: usize, a: f32| (0..n).map(|i| (i as f32 * a).sin()).collect::<Vec<f32>>();
        for (m, n, k) in [(1, 150, 130), (1, 16, 2000), (7, 333, 64), (32, 49, 700)] {
            let (x, w, d) = (noise(m * k, 0.7), noise(k * n, 1.3), noise(m * (n + 3), 0.3));
            for precision in [Precision::F32, Precision::Bf16] {
                let mut weights = Weights::default();
                weights.pack(precision, &w, n, 1, k, n);
                for which in 0..3 {
                    let run = |team: Option<&Team<'_>>| {
                        let mut c = noise(m * (n + 3), 2.1);
                        let init = [Init::Zero, Init::Own, Init::From(&d)][which];
                        weights.multiply(team, (m, n, k), A::rows(&x, k), &mut c, n + 3, init);
                        c.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                    };
                    let alone = run(None);
                    for threads in [1, 2, 3, 8] {
                        Team::with(threads, |team| {
                            assert_eq!(run(Some(team)), alone, "{m}×{n}×{k}, {threads} threads")
                        });
                    }
                }
            }
        }
    }
}
