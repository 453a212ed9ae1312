//! Cached decoding of a batch of rows, one token each per step.
//!
//! The cache of a row keeps keys transposed (head_dim × capacity) so that scores against all keys are one
//! small product, and values by position; heads of eight have a layout of their own ([`newest`]). Products and softmax are the ones of the full forward pass in the
//! same order, so the logits of a step are bit for bit those of a full pass over the same tokens.

use crate::attention;
#[cfg(target_arch = "x86_64")]
use crate::attention::newest;
use crate::block::{Acts, sized};
use crate::cap::cap_in_place;
use crate::chunk::{Keep, Net, Workspace, embed};
use crate::engine::{Engine, Phase, Row};
use crate::gemm::{A, B, Init, NR, gemm};
use crate::head::scalar_forward;
use crate::size::{Chunk, FLOAT};
use crate::softmax::softmax_in_place;
use crate::spec::{AttentionSpec, DecoderSpec};
use crate::team::{Shares, Team, each};
use std::mem::take;
use std::sync::Mutex;

/// Tokens of prompts that are read together at most: enough to reuse weights, few enough to stay in the cache.
const PREFILL: usize = 256;

/// A batch of at most this many bytes leaves its buffers for the next one: to ask for memory anew takes a tenth of the
/// time of a rollout. Of a large model they are gone when something else than sampling begins.
const LEFT: usize = 256 << 20;

/// Keys and values of one row for every layer.
#[derive(Clone, Debug)]
struct RowCache {
    len: usize,
    keys: Vec<f32>,   // layers × kv_heads × head_dim × capacity, and some slack
    values: Vec<f32>, // layers × kv_heads × capacity × padded head_dim
}

/// Rows that decode together. Rows may join and leave at any step.
#[derive(Debug)]
pub struct DecodeBatch<'a> {
    net: Net<'a>,
    capacity: usize,
    rows: Vec<RowCache>,
    /// Caches of rows that have left.
    free: Vec<RowCache>,
    buf: Buffers,
    prefill: Workspace,
    /// Where the buffers come from and go to.
    leftovers: Option<&'a Leftovers>,
    /// The prompt read last, if it comes again.
    shared: Option<(Vec<u32>, RowCache)>,
}

#[derive(Debug, Default)]
struct Buffers {
    x: Vec<f32>,
    acts: Acts,
    h: Vec<f32>,
    stats: Vec<f32>,
    scores: Vec<f32>,
    logits: Vec<f32>,
    scalars: Vec<f32>,
}

/// Buffers of batches that have ended.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<Vec<(Vec<RowCache>, Buffers, Workspace)>>);

impl Leftovers {
    /// Gives the memory back.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}

impl Drop for DecodeBatch<'_> {
    fn drop(&mut self) {
        let Some(Leftovers(all)) = self.leftovers else { return };
        self.free.append(&mut self.rows);
        let (cache, rest) = bytes(self.net.spec, self.free.len(), self.capacity, PREFILL, 1);
        if cache + rest <= LEFT {
            let left = (take(&mut self.free), take(&mut self.buf), take(&mut self.prefill));
            all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(left);
        }
    }
}

/// What a step produced, one entry per row of the batch.
#[derive(Debug)]
pub struct DecodeOutput<'b> {
    /// Raw logits, rows × vocab; the caller may overwrite them.
    pub logits: &'b mut [f32],
    /// The scalar head at the position just read; empty without that head.
    pub scalars: &'b [f32],
}

impl<'a> DecodeBatch<'a> {
    /// An empty batch whose rows may grow to `capacity` tokens.
    pub fn new(net: Net<'a>, capacity: usize) -> Self {
        Self {
            net,
            capacity: capacity.min(net.spec.max_positions).next_multiple_of(NR),
            rows: Vec::new(),
            free: Vec::new(),
            buf: Buffers::default(),
            prefill: Workspace::default(),
            leftovers: None,
            shared: None,
        }
    }

    /// The same with the buffers that an earlier batch left to `engine`, to which it leaves its own.
    #[must_use]
    pub fn of(mut self, engine: &'a Engine) -> Self {
        engine.begin(self.net.spec, Phase::Sampling);
        let Leftovers(all) = &engine.leftovers;
        self.leftovers = Some(&engine.leftovers);
        let left = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        if let Some((free, buf, prefill)) = left {
            (self.free, self.buf, self.prefill) = (free, buf, prefill);
            let (keys, values) = cache_floats(self.net.spec, self.capacity);
            self.free.retain(|row| row.keys.len() == keys && row.values.len() == values);
        }
        self
    }

    /// A cache for a row: of one that left, with what is in it, or a new one. Of positions that were not written yet a
    /// kernel may read whole registers, and uses no lane of them.
    fn cache(&mut self, len: usize) -> RowCache {
        let (keys, values) = cache_floats(self.net.spec, self.capacity);
        let new = || RowCache { len, keys: vec![0.0; keys], values: vec![0.0; values] };
        self.free.pop().map_or_else(new, |row| RowCache { len, ..row })
    }

    /// A cache with the same contents.
    fn copied(&mut self, row: &RowCache) -> RowCache {
        let mut copy = self.cache(row.len);
        copy.keys.copy_from_slice(&row.keys);
        copy.values.copy_from_slice(&row.values);
        copy
    }

    /// Rows in the batch.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn padded_head(&self) -> usize {
        value_width(self.net.spec)
    }

    /// The same, its work shared by a team; the same bits.
    #[must_use]
    pub fn with_team(mut self, team: &'a Team<'a>) -> Self {
        self.net = self.net.with_team(Some(team));
        self
    }

    /// Adds a row whose cache holds all of `tokens`; the next [`DecodeBatch::step`] continues after them.
    ///
    /// To get logits after a prompt, push all but its last token and feed that one to `step`.
    ///
    /// # Panics
    /// If the tokens exceed the capacity.
    pub fn push(&mut self, tokens: &[u32]) {
        self.push_all(&[tokens], false);
    }

    /// As [`DecodeBatch::push`] of each in turn, read together; equal neighbours are read once and then copied. `again`
    /// says that the last of them comes again: what was read of it is kept for the next call.
    ///
    /// # Panics
    /// As [`DecodeBatch::push`].
    pub fn push_all(&mut self, prompts: &[&[u32]], again: bool) {
        let shared = self.shared.take();
        let known = |tokens: &[u32]| shared.as_ref().filter(|(of, _)| of == tokens).map(|(_, row)| row);
        let mut at = 0;
        while at < prompts.len() {
            if let Some(row) = known(prompts[at]) {
                let row = self.copied(row);
                self.rows.push(row);
                at += 1;
                continue;
            }
            // As many as are read together.
            let (mut end, mut tokens) = (at, 0);
            while end < prompts.len() && known(prompts[end]).is_none() {
                let repeats = end > at && prompts[end] == prompts[end - 1];
                let more = if repeats { 0 } else { prompts[end].len() };
                if end > at && tokens + more > PREFILL {
                    break;
                }
                tokens += more;
                end += 1;
            }
            self.read(&prompts[at..end]);
            at = end;
        }
        if again {
            self.shared = prompts.last().zip(self.rows.last()).map(|(p, row)| (p.to_vec(), row.clone()));
        }
    }

    /// Reads prompts together and adds their rows.
    fn read(&mut self, prompts: &[&[u32]]) {
        let s = self.net.spec;
        let (hp, cap) = (self.padded_head(), self.capacity);
        let mut distinct: Vec<&[u32]> = prompts.to_vec();
        distinct.dedup();
        let mut caches: Vec<RowCache> = Vec::with_capacity(distinct.len());
        for tokens in &distinct {
            assert!(tokens.len() <= cap, "prompt longer than the cache");
            caches.push(self.cache(tokens.len()));
        }
        let some = distinct.iter().filter(|tokens| !tokens.is_empty());
        let rows: Vec<Row<'_>> = some.map(|tokens| Row { tokens, lm: 0..0, scalar: 0..0 }).collect();
        if !rows.is_empty() {
            let all: Vec<&Row<'_>> = rows.iter().collect();
            self.prefill.forward(self.net, &all, 1.0, Keep::Nothing, |layer, qkv| {
                let mut positions = qkv.chunks_exact(s.qkv_dim());
                for row in &mut caches {
                    for (t, at) in positions.by_ref().take(row.len).enumerate() {
                        store(s, cap, hp, layer, t, at, &mut row.keys, &mut row.values);
                    }
                }
            });
        }
        // Every row of `prompts`, in order; the last of equal ones takes the cache itself.
        let mut caches = caches.into_iter().peekable();
        for (i, tokens) in prompts.iter().enumerate() {
            let repeats = prompts.get(i + 1) == Some(tokens);
            let row = if repeats { caches.peek().map(|row| self.copied(row)) } else { caches.next() };
            self.rows.extend(row);
        }
    }

    /// Removes the rows for which `keep` is false, keeping the order of the rest.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut i = 0;
        let left = self.rows.extract_if(.., |_| {
            i += 1;
            !keep(i - 1)
        });
        self.free.extend(left);
    }

    /// Feeds one token to every row and returns the logits of the next one.
    ///
    /// # Panics
    /// If `tokens` is not one per row, or a row is full.
    pub fn step(&mut self, tokens: &[u32]) -> DecodeOutput<'_> {
        let (net, team) = (self.net, self.net.team());
        let (s, params) = (net.spec, net.params);
        let (hp, cap, m, d) = (self.padded_head(), self.capacity, self.rows.len(), s.dim);
        assert_eq!(tokens.len(), m, "one token per row");
        assert!(self.rows.iter().all(|r| r.len < cap), "a row is full");
        let (ldq, lda) = (s.qkv_dim(), s.att_dim());
        let b = &mut self.buf;
        let x = sized(&mut b.x, m * d);
        for ((x, &t), row) in x.chunks_exact_mut(d).zip(tokens).zip(&self.rows) {
            embed(s, params, t, row.len, x);
        }
        // Rows are shared evenly; each share has scores of its own.
        let shares = team.map_or(1, Team::threads).min(m.max(1));
        let share = m.div_ceil(shares).max(1);
        sized(&mut b.scores, shares * s.heads * cap);
        for (l, layer) in s.layers.iter().enumerate() {
            let a = &layer.attention;
            let acts = &mut b.acts;
            std::mem::swap(&mut acts.x, &mut b.x);
            acts.project(net, layer, m);
            sized(&mut acts.att, m * lda);
            let (rows, qkv) = (Shares::new(&mut self.rows), Shares::new(&mut acts.qkv));
            let (att, scores) = (Shares::new(&mut acts.att), Shares::new(&mut b.scores));
            let attention = |t: usize| {
                // SAFETY: a share has its own scores and, below, its own rows.
                let scores = unsafe { scores.at(t * s.heads * cap, s.heads * cap) };
                for i in t * share..((t + 1) * share).min(m) {
                    // SAFETY: as above.
                    let (row, qkv, out) =
                        unsafe { (&mut rows.at(i, 1)[0], qkv.at(i * ldq, ldq), att.at(i * lda, lda)) };
                    attend_newest(s, a, cap, hp, l, row, qkv, scores, out);
                }
            };
            each(team, shares, &attention);
            acts.finish(net, layer, m, &mut b.x);
        }
        let h = sized(&mut b.h, m * d);
        net.norm(&s.final_norm, &b.x[..m * d], h, sized(&mut b.stats, 2 * m));
        let scored = if s.lm_head.is_some() { m * s.vocab } else { 0 };
        let logits = sized(&mut b.logits, scored);
        if let Some(head) = &s.lm_head {
            net.linear(head, m, h, d, logits, s.vocab, Init::Zero);
            if let Some(cap) = s.logit_cap {
                cap_in_place(logits, 1.0, cap);
            }
        }
        b.scalars.clear();
        if let Some(head) = &s.scalar_head {
            h.chunks_exact(d).for_each(|h| scalar_forward(head, params, h, &mut b.scalars));
        }
        for row in &mut self.rows {
            row.len += 1;
        }
        DecodeOutput { logits: &mut b.logits[..scored], scalars: &b.scalars }
    }
}

/// Floats of the value of a head: whole registers, where the layout of a layer needs them.
fn value_width(s: &DecoderSpec) -> usize {
    let tight = s.layers.iter().all(|l| attention::by_eights(s, &l.attention));
    if tight { s.head_dim } else { s.head_dim.next_multiple_of(NR) }
}

/// Floats of the keys and of the values of a row that holds `capacity` tokens.
fn cache_floats(s: &DecoderSpec, capacity: usize) -> (usize, usize) {
    let heads = s.layers.len() * s.kv_heads * capacity;
    (heads * s.head_dim + NR, heads * value_width(s))
}

/// Bytes of [`DecodeBatch`]: of the caches of `rows` rows, and of the rest with prompts of at most `prompt` tokens.
pub(crate) fn bytes(
    s: &DecoderSpec,
    rows: usize,
    capacity: usize,
    prompt: usize,
    threads: usize,
) -> (usize, usize) {
    let cap = capacity.min(s.max_positions).next_multiple_of(NR);
    let acts = s.layers.iter().map(|l| Acts::floats(s, l, rows)).max().unwrap_or(0);
    let rest = rows * (2 * s.dim + 2 + s.vocab) + threads.min(rows.max(1)) * s.heads * cap;
    let read = PREFILL.max(prompt);
    let chunk = Chunk { tokens: read, padded: 2 * read, longest: prompt, ..Chunk::default() };
    let (keys, values) = cache_floats(s, cap);
    (FLOAT * rows * (keys + values), FLOAT * (acts + rest) + crate::chunk::forward_bytes(s, &chunk))
}

/// Writes the keys and values of position `t` into the cache.
fn store(
    s: &DecoderSpec,
    cap: usize,
    hp: usize,
    layer: usize,
    t: usize,
    qkv: &[f32],
    keys: &mut [f32],
    values: &mut [f32],
) {
    let hd = s.head_dim;
    #[cfg(target_arch = "x86_64")]
    if attention::by_eights(s, &s.layers[layer].attention) {
        let (k, v) = qkv[s.heads * hd..][..2 * s.kv_heads * hd].split_at(s.kv_heads * hd);
        let keys = &mut keys[layer * s.kv_heads * hd * cap..];
        newest::store(s.kv_heads, t, k, v, keys, &mut values[layer * s.kv_heads * cap * hp..]);
        return;
    }
    for g in 0..s.kv_heads {
        let k = &qkv[(s.heads + g) * hd..][..hd];
        let v = &qkv[(s.heads + s.kv_heads + g) * hd..][..hd];
        let base = (layer * s.kv_heads + g) * hd * cap;
        for (i, x) in k.iter().enumerate() {
            keys[base + i * cap + t] = *x;
        }
        let base = (layer * s.kv_heads + g) * cap * hp + t * hp;
        values[base..base + hd].copy_from_slice(v);
    }
}

/// Rotates and stores the newest position of a row, and lets it attend.
fn attend_newest(
    s: &DecoderSpec,
    a: &AttentionSpec,
    cap: usize,
    hp: usize,
    layer: usize,
    row: &mut RowCache,
    qkv: &mut [f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    if let Some(rope) = a.rope {
        let table = s.ropes[rope].of(row.len + 1);
        table.rotate(qkv, s.heads + s.kv_heads, s.head_dim, row.len, false);
    }
    store(s, cap, hp, layer, row.len, qkv, &mut row.keys, &mut row.values);
    #[cfg(target_arch = "x86_64")]
    if attention::by_eights(s, a) {
        let newest = newest::Newest {
            q: qkv,
            keys: &row.keys[layer * s.kv_heads * s.head_dim * cap..],
            values: &row.values[layer * s.kv_heads * cap * hp..],
            seen: row.len + 1,
            heads: s.heads,
            kv_heads: s.kv_heads,
            scale: a.scale,
        };
        // SAFETY: `by_eights` says that the CPU has the features, and that the heads are such.
        unsafe { newest::attend(newest, scores, out) };
        return;
    }
    attend(s, a, cap, hp, layer, row, qkv, scores, out);
}

/// Attention of the newest position of one row over its whole cache (that position included).
fn attend(
    s: &DecoderSpec,
    a: &AttentionSpec,
    cap: usize,
    hp: usize,
    layer: usize,
    row: &RowCache,
    qkv: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let (hd, visible) = (s.head_dim, row.len + 1);
    let group = s.heads / s.kv_heads;
    let first = visible.saturating_sub(attention::window(a));
    // Whole lanes: the sum over keys runs over partial sums by key mod 16.
    let from = first / NR * NR;
    let n = visible - from;
    for g in 0..s.kv_heads {
        let keys = &row.keys[(layer * s.kv_heads + g) * hd * cap..][..hd * cap];
        let values = &row.values[(layer * s.kv_heads + g) * cap * hp..][..cap * hp];
        let q = A::rows(&qkv[g * group * hd..], hd);
        let k = B { data: &keys[from..], row: cap, panel: NR };
        gemm(group, n, hd, q, k, scores, cap, Init::Zero);
        for r in scores.chunks_exact_mut(cap).take(group) {
            let scale = a.soft_cap.map_or(a.scale, |soft| {
                cap_in_place(&mut r[..n], a.scale, soft);
                1.0
            });
            r[..first - from].fill(f32::NEG_INFINITY);
            softmax_in_place(r, n, scale);
        }
        let v = B { data: &values[from * hp..], row: hp, panel: NR };
        gemm(group, hd, n, A::rows(scores, cap), v, &mut out[g * group * hd..], hd, Init::Zero);
    }
}
