//! What [`DecoderSpec`] says that will be allocated, beside an allocator that counts.

use std::alloc::{GlobalAlloc, Layout as Place, System};
use std::cell::Cell;
use tetherline_kernels::rope::{Rope, RopeTable};
use tetherline_kernels::{
    Activation, AttentionSpec, DecodeBatch, DecoderSpec, Engine, LayerSpec, Layout, LinearSpec, MlpSpec, Net,
    NormKind, NormSpec, PackedWeights, Params, Precision, Row, RowGrad, RowOutput, RowSize, UnitLoss,
};

/// Counts the bytes that a thread has allocated and not freed.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

fn count(change: usize) {
    // A thread that ends frees after its counter is gone.
    let _ = LIVE.try_with(|live| live.set(live.get().wrapping_add(change)));
}

fn live() -> usize {
    LIVE.with(Cell::get)
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, place: Place) -> *mut u8 {
        count(place.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(place) }
    }

    unsafe fn dealloc(&self, at: *mut u8, place: Place) {
        count(place.size().wrapping_neg());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, place) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIM: usize = 96;
const LAYERS: usize = 5;

struct Build(usize, usize);

impl Build {
    fn take(&mut self, n: usize) -> usize {
        self.0 += n;
        self.0 - n
    }

    fn linear(&mut self, n_in: usize, n_out: usize) -> LinearSpec {
        self.1 += 1;
        let (id, weight) = (self.1 - 1, self.take(n_in * n_out));
        LinearSpec { id, weight, stride: n_in, bias: None, n_in, n_out, layout: Layout::OutIn, adapter: None }
    }

    fn norm(&mut self) -> NormSpec {
        let weight = self.take(DIM);
        NormSpec { kind: NormKind::Rms, dim: DIM, weight, plus: 0.0, bias: None, eps: 1e-5 }
    }
}

/// A Llama with heads of 24 and grouped queries.
fn llama(vocab: usize) -> DecoderSpec {
    let mut b = Build(0, 0);
    let embed = b.take(vocab * DIM);
    let layer = |b: &mut Build| LayerSpec {
        norm1: Some(b.norm()),
        attention: AttentionSpec {
            q: b.linear(DIM, 96),
            k: b.linear(DIM, 48),
            v: b.linear(DIM, 48),
            out: b.linear(96, DIM),
            q_norm: None,
            k_norm: None,
            rope: Some(0),
            scale: 0.2,
            soft_cap: None,
            window: None,
        },
        post1: None,
        norm2: Some(b.norm()),
        mlp: MlpSpec::Gated {
            gate: b.linear(DIM, 250),
            up: b.linear(DIM, 250),
            down: b.linear(250, DIM),
            act: Activation::Silu,
        },
        post2: None,
        parallel: false,
    };
    let layers = (0..LAYERS).map(|_| layer(&mut b)).collect();
    let final_norm = b.norm();
    let lm_head = Some(b.linear(DIM, vocab));
    let table = RopeTable::new((0..12).map(|i| 0.5f32.powi(i)).collect(), 1.0, 256);
    DecoderSpec {
        dim: DIM,
        heads: 4,
        kv_heads: 2,
        head_dim: 24,
        vocab,
        max_positions: 256,
        embed,
        embed_scale: 1.0,
        positions: None,
        ropes: vec![Rope { table, long: None }],
        layers,
        final_norm,
        lm_head,
        logit_cap: None,
        scalar_head: None,
        n_params: b.0,
        frozen: 0,
    }
}

struct Flat;

impl UnitLoss for Flat {
    type Stats = ();

    fn unit(&self, _: usize, _: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) {
        grads.iter_mut().for_each(|g| g.logprobs.fill(0.1));
    }
}

/// `said` may be off by 5 %: lists of rows and the slack of growing vectors are left out.
#[track_caller]
fn close(what: &str, said: usize, counted: usize) {
    let ratio = said as f64 / counted as f64;
    assert!((0.95..1.05).contains(&ratio), "{what}: said {said} bytes, counted {counted}");
}

// With one thread, which counts its own.
#[test]
fn a_large_model_gives_back_what_other_work_needs() {
    for (vocab, large) in [(500, false), (20_000, true)] {
        let spec = llama(vocab);
        assert_eq!(spec.is_large(), large);
        let flat: Vec<f32> = (0..spec.n_params).map(|i| (i as f32 * 0.37).sin() * 0.02).collect();
        let params = Params::trained(&flat);
        let packed = PackedWeights::new(&spec, params, true, Precision::F32, 1);
        let net = Net::new(&spec, params, &packed);
        let tokens: Vec<u32> = (0..96).map(|t| t * 7 % 500).collect();
        let row = Row { tokens: &tokens, lm: 90..95, scalar: 0..0 };
        let units = vec![vec![row.clone()]; 4];
        let engine = Engine::new(1);
        let before = live();
        let train = || {
            let mut grad = Vec::new();
            engine.step(net, &units, 1.0, &Flat, &mut grad);
            let bits: Vec<u32> = grad.iter().map(|g| g.to_bits()).collect();
            engine.recycle(grad);
            bits
        };
        let first = train();
        let step = spec.step_size(&vec![vec![RowSize { tokens: 96, lm: 5, scalar: 0 }]; 4], false, 1);
        let gradients = step.gradients * 4 * spec.n_params;
        assert!(step.gradients > 1 && live() - before - 4 * spec.n_params > gradients, "{vocab}: trained");
        drop(engine.forward_pair(net, net, std::slice::from_ref(&row), 1.0));
        let scored = live() - before - 4 * spec.n_params;
        assert_eq!(scored < gradients / 4, large, "{vocab}: {scored} bytes are left of training");
        {
            let mut batch = DecodeBatch::new(net, 96).of(&engine);
            batch.push_all(&[&tokens[..40]; 3], false);
            batch.step(&[3; 3]);
        }
        assert!(train() == first, "{vocab}: the same bits");
    }
}

// With one thread, which counts its own.
#[test]
fn sizes_are_those_of_what_is_allocated() {
    let spec = llama(500);
    let flat: Vec<f32> = (0..spec.n_params).map(|i| (i as f32 * 0.37).sin() * 0.02).collect();
    let params = Params::trained(&flat);
    for precision in [Precision::F32, Precision::Bf16] {
        for train in [false, true] {
            let before = live();
            let packed = PackedWeights::new(&spec, params, train, precision, 1);
            let split = spec.panel_bytes(train, precision);
            assert_eq!(split.frozen, 0);
            close("panels", split.trained, live() - before);
            drop(packed);
        }
    }

    // Rows of one length, so that no buffer grows twice.
    let packed = PackedWeights::new(&spec, params, true, Precision::F32, 1);
    let net = Net::new(&spec, params, &packed);
    let tokens: Vec<u32> = (0..72).map(|t| t * 7 % 500).collect();
    let row = Row { tokens: &tokens, lm: 20..71, scalar: 0..0 };
    let size = RowSize { tokens: 72, lm: 51, scalar: 0 };
    let rows = vec![row; 8];
    let units: Vec<Vec<Row<'_>>> = rows.iter().map(|r| vec![r.clone()]).collect();
    let sizes = vec![vec![size]; 8];
    let (forward, threads) = spec.forward_bytes(&[size; 8], 1);
    assert_eq!(threads, 1);
    // Tables of angles are made at the first use.
    drop(Engine::new(1).forward(net, &rows, 1.0));
    let mut grad = vec![0.0; spec.n_params];
    for checkpointing in [false, true] {
        let mut engine = Engine::new(1);
        if checkpointing {
            engine = engine.with_gradient_checkpointing();
        }
        let before = live();
        drop(engine.forward(net, &rows, 1.0));
        close("a forward pass", forward, live() - before);
        engine.step(net, &units, 1.0, &Flat, &mut grad);
        let step = spec.step_size(&sizes, checkpointing, 1);
        assert_eq!((step.threads, step.gradients), (1, 2));
        let said = forward + step.workspace + 4 * spec.n_params;
        close("a training step", said, live() - before);
        let without = said - 4 * spec.n_params;
        close("workspaces", without, live() - before - 4 * spec.n_params);
    }

    // Buffers of bf16 outlive the engine: those of this thread, which grow as they are needed.
    let half = PackedWeights::new(&spec, params, true, Precision::Bf16, 1);
    let half_net = Net::new(&spec, params, &half);
    let (there, back) = spec.rounding_bytes(&sizes);
    for (said, train) in [(there, false), (there + back, true)] {
        let engine = Engine::new(1);
        let before = live();
        if train {
            engine.step(half_net, &units, 1.0, &Flat, &mut grad);
        } else {
            drop(engine.forward(half_net, &rows, 1.0));
        }
        drop(engine);
        let kept = live() - before + if train { there } else { 0 };
        // Where nothing is rounded, panels are widened through a buffer of 128 KiB.
        assert!(
            kept <= said + (256 << 10) && said <= 2 * kept,
            "rounding (training: {train}): said {said} bytes, counted {kept}"
        );
    }

    let before = live();
    let mut batch = DecodeBatch::new(net, 100);
    batch.push_all(&[&tokens[..40]; 6], false);
    batch.step(&[3; 6]);
    let (cache, rest) = spec.decode_bytes(6, 100, 40, 1);
    let counted = live() - before;
    let ratio = (cache + rest) as f64 / counted as f64;
    // Prompts are read by at most 256 tokens at once; these are one of 40.
    assert!(cache < counted && (1.0..4.0).contains(&ratio), "{cache} + {rest} of {counted}");
}

/// By hand: a matrix of 250 columns has 16 panels of 16 columns, one of 96 six.
#[test]
fn panels_are_padded_to_sixteen_columns() {
    let spec = llama(500);
    let block = 4 * 96 * (6 + 3 + 3 + 6 + 16 + 16) * 16 + 4 * 250 * 6 * 16;
    let head = 4 * 96 * 32 * 16;
    assert_eq!(spec.panel_bytes(false, Precision::F32).trained, LAYERS * block + head);
}

/// By hand: one token sees itself, and a multiply-add is two operations.
#[test]
fn work_is_two_operations_a_weight_and_token() {
    let spec = llama(500);
    let block = 2 * 96 * (96 + 48 + 48 + 96 + 3 * 250) + 4 * 96;
    let row = RowSize { tokens: 1, lm: 1, scalar: 0 };
    let work = spec.forward_work(&[row; 3]);
    assert_eq!((work.blocks, work.head), ((3 * LAYERS * block) as f64, (3 * 2 * 96 * 500) as f64));
    // Twice the way forward but for attention, which takes two and a half times.
    let back = spec.step_work(&[row; 3], false).backward;
    assert_eq!(back, 2.0 * work.total() + (3 * LAYERS * 4 * 96) as f64 * 0.5);
}
