//! Laws of the whole decoder on tiny random models: gradients by finite differences, cached decoding bit
//! for bit equal to the full pass, and bits that do not depend on threads or batch.

use tetherline_kernels::rope::{Rope, RopeTable};
use tetherline_kernels::{
    Activation, AdapterSpec, AttentionSpec, DecodeBatch, DecoderSpec, Engine, LayerSpec, Layout, LinearSpec,
    MlpSpec, Net, NormKind, NormSpec, PackedWeights, Params, Precision, Row, RowGrad, RowOutput, Team,
    UnitLoss,
};

struct Build {
    at: usize,
    id: usize,
}

impl Build {
    fn take(&mut self, n: usize) -> usize {
        self.at += n;
        self.at - n
    }
    fn linear(&mut self, n_in: usize, n_out: usize, layout: Layout, bias: bool) -> LinearSpec {
        let weight = self.take(n_in * n_out);
        let bias = bias.then(|| self.take(n_out));
        let stride = if layout == Layout::OutIn { n_in } else { n_out };
        self.id += 1;
        LinearSpec { id: self.id - 1, weight, stride, bias, n_in, n_out, layout, adapter: None }
    }
    fn norm(&mut self, kind: NormKind, dim: usize, plus: f32) -> NormSpec {
        let weight = self.take(dim);
        let bias = (kind == NormKind::Layer).then(|| self.take(dim));
        NormSpec { kind, dim, weight, plus, bias, eps: 1e-5 }
    }
}

/// What a decoder of these tests is put together from.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    heads: usize,
    head_dim: usize,
    kv_heads: usize,
    norm: NormKind,
    plus: f32,
    learned: bool,
    layout: Layout,
    bias: bool,
    gated: bool,
    act: Activation,
    pre_norms: bool,
    post_norms: bool,
    /// Of each head, or of all heads together.
    qk_norm: Option<bool>,
    soft_cap: Option<f32>,
    window: Option<usize>,
    logit_cap: Option<f32>,
    embed_scale: f32,
    parallel: bool,
    /// Pairs of dimensions that turn.
    turning: usize,
    /// Everything is frozen but low-rank additions and the scalar head.
    adapters: bool,
    /// Blocks that are frozen, with what lies below them.
    frozen_layers: usize,
    /// Outputs of the scalar head.
    scores: usize,
}

const LLAMA: Kind = Kind {
    name: "llama",
    heads: 4,
    head_dim: 6,
    kv_heads: 2,
    norm: NormKind::Rms,
    plus: 0.0,
    learned: false,
    layout: Layout::OutIn,
    bias: false,
    gated: true,
    act: Activation::Silu,
    pre_norms: true,
    post_norms: false,
    qk_norm: None,
    soft_cap: None,
    window: None,
    logit_cap: None,
    embed_scale: 1.0,
    parallel: false,
    turning: 3,
    adapters: false,
    frozen_layers: 0,
    scores: 1,
};

const GPT: Kind = Kind {
    name: "gpt",
    kv_heads: 4,
    norm: NormKind::Layer,
    learned: true,
    layout: Layout::InOut,
    bias: true,
    gated: false,
    act: Activation::GeluTanh,
    ..LLAMA
};

/// The first two kinds with small, odd heads, heads of eight and of more than a register, then every part once or more.
const KINDS: [Kind; 19] = [
    LLAMA,
    GPT,
    Kind { name: "llama, heads of 8", head_dim: 8, turning: 4, ..LLAMA },
    Kind { name: "gpt, heads of 8", head_dim: 8, ..GPT },
    Kind { name: "8 heads of 8, 4 of keys", heads: 8, head_dim: 8, turning: 4, kv_heads: 4, ..LLAMA },
    Kind { name: "8 heads of 8, 8 of keys", heads: 8, head_dim: 8, kv_heads: 8, ..GPT },
    Kind { name: "16 heads of 8, 4 of keys", heads: 16, head_dim: 8, turning: 4, kv_heads: 4, ..LLAMA },
    Kind { name: "llama, heads of 20", head_dim: 20, turning: 10, ..LLAMA },
    Kind { name: "window", window: Some(5), ..LLAMA },
    Kind { name: "long window, heads of 8", window: Some(19), head_dim: 8, turning: 4, kv_heads: 4, ..LLAMA },
    Kind { name: "norms of heads", qk_norm: Some(true), bias: true, ..LLAMA },
    Kind {
        name: "post-norms, no pre-norms, norms over all heads, plain silu",
        pre_norms: false,
        post_norms: true,
        qk_norm: Some(false),
        gated: false,
        act: Activation::Silu,
        ..LLAMA
    },
    Kind {
        name: "capped, scaled embeddings, norms of 1 + w, both norms",
        plus: 1.0,
        post_norms: true,
        soft_cap: Some(2.0),
        window: Some(9),
        logit_cap: Some(1.5),
        embed_scale: 3.0,
        act: Activation::GeluTanh,
        ..LLAMA
    },
    Kind {
        name: "parallel, partly rotated",
        parallel: true,
        turning: 2,
        norm: NormKind::Layer,
        bias: true,
        gated: false,
        act: Activation::GeluErf,
        ..LLAMA
    },
    Kind { name: "adapters", adapters: true, ..LLAMA },
    Kind { name: "adapters of a gpt", adapters: true, ..GPT },
    Kind { name: "three scores", scores: 3, ..LLAMA },
    Kind { name: "one block frozen", frozen_layers: 1, ..LLAMA },
    Kind { name: "all blocks frozen", frozen_layers: 2, ..GPT },
];

fn decoder(k: Kind) -> (DecoderSpec, Vec<f32>) {
    let (dim, vocab, ffn, max) = (24, 37, 40, 128);
    let (heads, head_dim, kv_heads) = (k.heads, k.head_dim, k.kv_heads);
    let mut b = Build { at: 0, id: 0 };
    let embed = b.take(vocab * dim);
    let positions = k.learned.then(|| b.take(max * dim));
    let frequencies = (0..k.turning).map(|i| 0.1f32.powi(i as i32)).collect();
    let mut ends = vec![0];
    let rope = Rope { table: RopeTable::new(frequencies, 1.0, max), long: None };
    let layers = (0..2)
        .map(|_| {
            let layer = LayerSpec {
                norm1: k.pre_norms.then(|| b.norm(k.norm, dim, k.plus)),
                attention: AttentionSpec {
                    q: b.linear(dim, heads * head_dim, k.layout, k.bias),
                    k: b.linear(dim, kv_heads * head_dim, k.layout, k.bias),
                    v: b.linear(dim, kv_heads * head_dim, k.layout, k.bias),
                    out: b.linear(heads * head_dim, dim, k.layout, k.bias),
                    q_norm: k
                        .qk_norm
                        .map(|each| b.norm(k.norm, if each { 1 } else { heads } * head_dim, k.plus)),
                    k_norm: k
                        .qk_norm
                        .map(|each| b.norm(k.norm, if each { 1 } else { kv_heads } * head_dim, k.plus)),
                    rope: (!k.learned).then_some(0),
                    scale: 1.0 / (head_dim as f32).sqrt(),
                    soft_cap: k.soft_cap,
                    window: k.window,
                },
                post1: k.post_norms.then(|| b.norm(k.norm, dim, k.plus)),
                norm2: k.pre_norms.then(|| b.norm(k.norm, dim, k.plus)),
                mlp: if k.gated {
                    MlpSpec::Gated {
                        gate: b.linear(dim, ffn, k.layout, k.bias),
                        up: b.linear(dim, ffn, k.layout, k.bias),
                        down: b.linear(ffn, dim, k.layout, k.bias),
                        act: k.act,
                    }
                } else {
                    MlpSpec::Plain {
                        up: b.linear(dim, ffn, k.layout, k.bias),
                        down: b.linear(ffn, dim, k.layout, k.bias),
                        act: k.act,
                    }
                },
                post2: k.post_norms.then(|| b.norm(k.norm, dim, k.plus)),
                parallel: k.parallel,
            };
            ends.push(b.at);
            layer
        })
        .collect();
    let mut frozen = ends[k.frozen_layers];
    let final_norm = b.norm(k.norm, dim, k.plus);
    let lm_head = LinearSpec {
        id: b.id,
        weight: embed,
        stride: dim,
        bias: None,
        n_in: dim,
        n_out: vocab,
        layout: Layout::OutIn,
        adapter: None,
    };
    b.id += 1;
    if k.adapters {
        frozen = b.at;
    }
    let scalar_head = b.linear(dim, k.scores, Layout::OutIn, true);
    let mut spec = DecoderSpec {
        dim,
        heads,
        kv_heads,
        head_dim,
        vocab,
        max_positions: max,
        embed,
        embed_scale: k.embed_scale,
        positions,
        ropes: vec![rope],
        layers,
        final_norm,
        lm_head: Some(lm_head),
        logit_cap: k.logit_cap,
        scalar_head: Some(scalar_head),
        n_params: 0,
        frozen,
    };
    if k.adapters {
        // Not of the scalar head, which is read from the parameters alone.
        let lines = spec.linears_mut().filter(|l| l.n_out > 1);
        for (i, l) in lines.enumerate() {
            let rank = 1 + i % 3;
            l.adapter =
                Some(AdapterSpec { a: b.take(rank * l.n_in), b: b.take(l.n_out * rank), rank, scale: 0.5 });
        }
    }
    spec.n_params = b.at;
    let mut s = 17u64;
    let flat = (0..b.at)
        .map(|_| {
            s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((s >> 33) as f32 / (1u64 << 31) as f32 - 0.5) * 0.7
        })
        .collect();
    (spec, flat)
}

fn sequences() -> Vec<Vec<u32>> {
    [3usize, 1 + 16, 70, 49, 2, 33]
        .iter()
        .map(|&n| (0..n).map(|i| ((i * 7 + n * 13) % 37) as u32).collect())
        .collect()
}

fn rows(seqs: &[Vec<u32>]) -> Vec<Row<'_>> {
    seqs.iter().map(|t| Row { tokens: t, lm: 0..t.len() - 1, scalar: 0..t.len() }).collect()
}

/// Σ over tokens of fixed weights times log-prob, entropy and scalar.
struct Weighted;

fn weight(i: usize, k: usize) -> f32 {
    ((i * 31 + k * 17) % 11) as f32 * 0.1 - 0.4
}

impl UnitLoss for Weighted {
    type Stats = f64;
    fn unit(&self, _unit: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> f64 {
        let mut sum = 0.0;
        for (o, g) in rows.iter().zip(grads) {
            for i in 0..o.logprobs.len() {
                g.logprobs[i] = weight(i, 0);
                g.entropy[i] = weight(i, 1);
                sum += f64::from(weight(i, 0) * o.logprobs[i]) + f64::from(weight(i, 1) * o.entropy[i]);
            }
            for i in 0..o.scalars.len() {
                g.scalars[i] = weight(i, 2);
                sum += f64::from(weight(i, 2) * o.scalars[i]);
            }
        }
        sum
    }
}

fn params<'a>(spec: &DecoderSpec, flat: &'a [f32]) -> Params<'a> {
    let (frozen, trained) = flat.split_at(spec.frozen);
    Params { frozen, trained }
}

fn loss(spec: &DecoderSpec, flat: &[f32], seqs: &[Vec<u32>], threads: usize) -> (f64, Vec<f32>) {
    loss_by(&Engine::new(threads), Precision::F32, spec, flat, seqs)
}

fn loss_by(
    engine: &Engine,
    precision: Precision,
    spec: &DecoderSpec,
    flat: &[f32],
    seqs: &[Vec<u32>],
) -> (f64, Vec<f32>) {
    let params = params(spec, flat);
    let packed = PackedWeights::new(spec, params, true, precision, 1);
    let units: Vec<Vec<Row<'_>>> = rows(seqs).into_iter().map(|r| vec![r]).collect();
    let mut grad = vec![0.0; spec.n_trained()];
    let net = Net::new(spec, params, &packed);
    let stats = engine.step(net, &units, 0.8, &Weighted, &mut grad);
    (stats.iter().sum(), grad)
}

#[test]
fn every_parameter_has_the_gradient_that_finite_differences_say() {
    for kind in KINDS {
        let (spec, flat) = decoder(kind);
        let seqs = sequences();
        let (_, grad) = loss(&spec, &flat, &seqs, 1);
        let scale = (grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>() / grad.len() as f64).sqrt();
        // One random direction per block of parameters: every block is tested, noise averages out.
        let block = 60;
        for (k, from) in (spec.frozen..spec.n_params).step_by(block).enumerate() {
            let to = (from + block).min(spec.n_params);
            let dir = |i: usize| if (i * 2_654_435_761 + k) & 64 == 0 { 1.0f32 } else { -1.0 };
            let h = 2e-3;
            let shifted = |sign: f32| {
                let mut f = flat.clone();
                for (i, x) in f.iter_mut().enumerate().take(to).skip(from) {
                    *x += sign * h * dir(i);
                }
                loss(&spec, &f, &seqs, 2).0
            };
            let want = (shifted(1.0) - shifted(-1.0)) / (2.0 * f64::from(h));
            let got: f64 = (from..to).map(|i| f64::from(grad[i - spec.frozen] * dir(i))).sum();
            let tol = 0.01 * want.abs() + 0.03 * scale * (block as f64).sqrt();
            assert!(
                (got - want).abs() < tol,
                "{}, parameters {from}..{to}: {got} vs {want} (tol {tol})",
                kind.name
            );
        }
    }
}

/// A loss that panics in the middle of a step must end it, and not leave the other threads waiting for its shard.
#[test]
fn a_loss_that_panics_ends_the_step() {
    struct Broken;
    impl UnitLoss for Broken {
        type Stats = ();
        fn unit(&self, unit: usize, _: &[RowOutput<'_>], _: &mut [RowGrad<'_>]) {
            assert!(unit != 1, "as it should");
        }
    }
    let (spec, flat) = decoder(LLAMA);
    let packed = PackedWeights::new(&spec, Params::trained(&flat), true, Precision::F32, 1);
    let net = Net::new(&spec, Params::trained(&flat), &packed);
    // Long enough for a chunk each, so that there are as many shards.
    let seqs: Vec<Vec<u32>> = (0..6).map(|_| vec![1; 100]).collect();
    let units: Vec<Vec<Row<'_>>> = rows(&seqs).into_iter().map(|r| vec![r]).collect();
    let gradient = |engine: &Engine| {
        let mut grad = Vec::new();
        engine.step(net, &units, 1.0, &Weighted, &mut grad);
        grad
    };
    let expected = gradient(&Engine::new(1));
    for threads in [1, 2, 4] {
        let engine = Engine::new(threads);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            engine.step(net, &units, 1.0, &Broken, &mut Vec::new());
        }));
        assert!(ended.is_err(), "{threads} threads");
        assert_eq!(gradient(&engine), expected, "{threads} threads, after a panic");
    }
}

/// Eight shards, so that the order of their sum shows in the bits, and a second batch that is added to the first.
#[test]
fn shards_of_several_batches_add_up_to_the_same_bits() {
    for kind in [LLAMA, GPT] {
        let (spec, flat) = decoder(kind);
        let packed = PackedWeights::new(&spec, Params::trained(&flat), true, Precision::F32, 1);
        let net = Net::new(&spec, Params::trained(&flat), &packed);
        let seqs: Vec<Vec<u32>> =
            (0..9u32).map(|s| (0..90 + s).map(|i| (i * 7 + s * 13) % 37).collect()).collect();
        let units: Vec<Vec<Row<'_>>> = rows(&seqs).into_iter().map(|r| vec![r]).collect();
        let run = |threads: usize, batch: usize| {
            let (engine, mut grad) = (Engine::new(threads), Vec::new());
            for part in units.chunks(batch) {
                engine.step(net, part, 0.8, &Weighted, &mut grad);
            }
            grad.iter().map(|g| g.to_bits()).collect::<Vec<u32>>()
        };
        let (whole, apart) = (run(1, 9), run(1, 6));
        assert_ne!(whole, apart, "{}: another order of the sum", kind.name);
        for (a, b) in whole.iter().zip(&apart) {
            let (a, b) = (f32::from_bits(*a), f32::from_bits(*b));
            assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{}: {a} {b}", kind.name);
        }
        for threads in [2, 3, 4, 8] {
            assert_eq!(run(threads, 9), whole, "{}, {threads} threads", kind.name);
            assert_eq!(run(threads, 6), apart, "{}, {threads} threads, two batches", kind.name);
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    for kind in KINDS {
        let (spec, flat) = decoder(kind);
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |threads| loss_by(&Engine::new(threads), precision, &spec, &flat, &sequences());
            let (l1, g1) = run(1);
            for threads in [2, 3, 8] {
                let (l, g) = run(threads);
                assert_eq!(l.to_bits(), l1.to_bits());
                assert!(g.iter().zip(&g1).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
            }
        }
    }
}

/// Rounding a factor to bf16 changes it by 2⁻⁹ at most, by a third of that on the average: over a few layers the gradient
/// turns a little, and no part of it is lost.
#[test]
fn the_gradient_in_bf16_is_near_the_one_in_f32() {
    for kind in KINDS {
        let (spec, flat) = decoder(kind);
        let (_, full) = loss(&spec, &flat, &sequences(), 1);
        let (_, half) = loss_by(&Engine::new(1), Precision::Bf16, &spec, &flat, &sequences());
        let norm = |g: &mut dyn Iterator<Item = f32>| g.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let whole = norm(&mut full.iter().copied());
        let block = 60;
        for (i, (f, h)) in full.chunks(block).zip(half.chunks(block)).enumerate() {
            let off = norm(&mut f.iter().zip(h).map(|(f, h)| f - h));
            let even = whole * (f.len() as f64 / full.len() as f64).sqrt();
            let of = norm(&mut f.iter().copied()).max(even);
            assert!(off <= 0.05 * of, "{}, parameters from {}: {off} of {of}", kind.name, i * block);
        }
        let off = norm(&mut full.iter().zip(&half).map(|(f, h)| f - h));
        assert!(off > 0.0 && off <= 0.02 * whole, "{}: {off} of {whole}", kind.name);
    }
}

#[test]
fn cached_decoding_gives_the_bits_of_the_full_pass() {
    for kind in KINDS {
        let (spec, flat) = decoder(kind);
        for precision in [Precision::F32, Precision::Bf16] {
            let packed = PackedWeights::new(&spec, params(&spec, &flat), false, precision, 1);
            let net = Net::new(&spec, params(&spec, &flat), &packed);
            let engine = Engine::new(1);
            let seqs = sequences();
            let full: Vec<_> = seqs.iter().map(|t| engine.hidden_and_logits(net, t).1).collect();
            // All rows in one batch, each with half of its tokens as a prompt; from the second time on in the caches that
            // the batch before has left, with all that is in them.
            for threads in [1, 2, 3] {
                Team::with(threads, |team| decodes_as(net, kind.name, &seqs, &full, (team, &engine)));
            }
        }
    }
}

fn decodes_as(
    net: Net<'_>,
    name: &str,
    seqs: &[Vec<u32>],
    full: &[Vec<f32>],
    (team, engine): (&Team<'_>, &Engine),
) {
    let vocab = full[0].len() / seqs[0].len();
    let mut batch = DecodeBatch::new(net, 128).of(engine).with_team(team);
    let prompts: Vec<&[u32]> = seqs.iter().map(|t| &t[..t.len() / 2]).collect();
    batch.push_all(&prompts[..2], false);
    batch.push_all(&prompts[2..], false);
    let mut alive: Vec<usize> = (0..seqs.len()).collect();
    let mut at: Vec<usize> = seqs.iter().map(|t| t.len() / 2).collect();
    while !alive.is_empty() {
        let tokens: Vec<u32> = alive.iter().map(|&r| seqs[r][at[r]]).collect();
        let out = batch.step(&tokens);
        for (&r, z) in alive.iter().zip(out.logits.chunks_exact(vocab)) {
            let want = &full[r][at[r] * vocab..(at[r] + 1) * vocab];
            assert_eq!(z, want, "{}, row {r}, position {}", name, at[r]);
        }
        let mut keep = Vec::new();
        for &r in &alive {
            at[r] += 1;
            keep.push(at[r] < seqs[r].len());
        }
        batch.retain(|i| keep[i]);
        alive = alive.into_iter().zip(keep).filter_map(|(r, k)| k.then_some(r)).collect();
    }
}

#[test]
fn a_pair_of_equal_models_has_zero_kl_and_equal_logprobs() {
    let (spec, flat) = decoder(KINDS[2]);
    let packed = PackedWeights::new(&spec, Params::trained(&flat), false, Precision::F32, 1);
    let seqs = sequences();
    let m = Net::new(&spec, Params::trained(&flat), &packed);
    for pair in Engine::new(2).forward_pair(m, m, &rows(&seqs), 1.0) {
        assert_eq!(pair.policy.logprobs, pair.ref_logprobs);
        assert!(pair.kl_exact.iter().all(|&k| k == 0.0));
        assert!(!pair.policy.scalars.is_empty());
    }
}

#[test]
fn empty_rows_and_single_tokens_change_nothing_for_others() {
    for kind in KINDS {
        let (spec, flat) = decoder(kind);
        let seqs = sequences();
        let (_, want) = loss(&spec, &flat, &seqs, 1);
        // Empty rows before, between and after, in units of their own and beside others.
        let packed = PackedWeights::new(&spec, params(&spec, &flat), true, Precision::F32, 1);
        let net = Net::new(&spec, params(&spec, &flat), &packed);
        let empty = || Row { tokens: &[], lm: 0..0, scalar: 0..0 };
        let mut units: Vec<Vec<Row<'_>>> =
            rows(&seqs).into_iter().map(|r| vec![empty(), r, empty()]).collect();
        units.push(vec![empty()]);
        let mut grad = vec![0.0; spec.n_trained()];
        struct Inner;
        impl UnitLoss for Inner {
            type Stats = usize;
            fn unit(&self, unit: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> usize {
                let some = rows.len().min(3) / 3;
                for i in some..2 * some {
                    Weighted.unit(unit, &rows[i..=i], &mut grads[i..=i]);
                }
                rows.iter().map(|r| r.logprobs.len() + r.scalars.len()).sum()
            }
        }
        let seen = Engine::new(2).step(net, &units, 0.8, &Inner, &mut grad);
        assert_eq!(seen.last(), Some(&0));
        assert!(grad.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", kind.name);
        let alone = [Row { tokens: &[3], lm: 0..0, scalar: 0..1 }, empty()];
        let found = Engine::new(1).forward(net, &alone, 1.0);
        assert!(found[0].scalars[0].is_finite() && found[0].logprobs.is_empty());
        assert!(found[1].scalars.is_empty() && found[1].logprobs.is_empty());
    }
}

#[test]
fn activations_computed_again_give_the_same_gradient() {
    for kind in KINDS {
        let (spec, flat) = decoder(kind);
        let (l, g) = loss(&spec, &flat, &sequences(), 2);
        let (again, grad) = loss_by(
            &Engine::new(2).with_gradient_checkpointing(),
            Precision::F32,
            &spec,
            &flat,
            &sequences(),
        );
        assert_eq!(l.to_bits(), again.to_bits());
        assert!(g.iter().zip(&grad).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", kind.name);
    }
}

/// After an update of what is trained, refreshed panels give what fresh ones give, and a clone made before keeps the
/// old ones.
#[test]
fn refreshed_panels_are_those_of_the_changed_parameters() {
    for kind in KINDS {
        let (spec, flat) = decoder(kind);
        let logits = |flat: &[f32], packed: &PackedWeights| {
            let net = Net::new(&spec, params(&spec, flat), packed);
            Engine::new(1).hidden_and_logits(net, &[1, 2, 3]).1
        };
        let mut packed = PackedWeights::new(&spec, params(&spec, &flat), true, Precision::F32, 2);
        let (before, old) = (packed.clone(), logits(&flat, &packed));
        let mut changed = flat.clone();
        changed[spec.frozen..].iter_mut().for_each(|x| *x *= 1.5);
        packed.refresh(&spec, params(&spec, &changed), 2);
        let fresh = PackedWeights::new(&spec, params(&spec, &changed), true, Precision::F32, 1);
        assert_eq!(logits(&changed, &packed), logits(&changed, &fresh), "{}", kind.name);
        assert_eq!(logits(&flat, &before), old, "{}", kind.name);
    }
}

/// A low-rank addition is the linear layer with W + scale·B·A.
#[test]
fn an_adapter_is_its_product_added_to_the_weights() {
    for kind in KINDS.into_iter().filter(|k| k.adapters) {
        let (spec, flat) = decoder(kind);
        let mut merged = flat.clone();
        let mut bare = spec.clone();
        for l in bare.linears_mut() {
            let Some(s) = l.adapter.take() else { continue };
            for o in 0..l.n_out {
                for i in 0..l.n_in {
                    let sum: f32 =
                        (0..s.rank).map(|r| flat[s.b + o * s.rank + r] * flat[s.a + r * l.n_in + i]).sum();
                    let at = if l.layout == Layout::OutIn { o * l.stride + i } else { i * l.stride + o };
                    merged[l.weight + at] += s.scale * sum;
                }
            }
        }
        // The tied embedding is changed with the head: look tokens up in the old one.
        let vocab = spec.vocab * spec.dim;
        let logits = |spec: &DecoderSpec, flat: &[f32], heads: &[f32]| {
            let p = params(spec, flat);
            let packed = PackedWeights::new(spec, params(spec, heads), false, Precision::F32, 1);
            Engine::new(1).hidden_and_logits(Net::new(spec, p, &packed), &[5, 9, 30, 2]).1
        };
        let mut looked_up = merged.clone();
        looked_up[..vocab].copy_from_slice(&flat[..vocab]);
        let (a, b) = (logits(&spec, &flat, &flat), logits(&bare, &looked_up, &merged));
        let most = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5 * most), "{}", kind.name);
    }
}
