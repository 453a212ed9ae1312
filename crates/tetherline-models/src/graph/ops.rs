//! The pieces of a decoder in plain tensor operations, each of which candle can differentiate.
//!
//! candle's fused operations (`softmax_last_dim`, `rms_norm`, `layer_norm`, `rope`) have no backward pass:
//! their outputs are silently cut off from the graph, and everything below them would get no gradient or a
//! part of one. None of them is used here.

use candle_core::{D, Result, Tensor};
use tetherline_kernels::{Activation, NormKind};

/// x − max x over the last dimension. The maximum is a constant to the gradient: softmax does not change
/// when all of a row is shifted.
fn shifted(x: &Tensor) -> Result<Tensor> {
    x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())
}

/// eˣ / Σ eˣ over the last dimension. −∞ gives 0, with gradient 0, where a row has anything finite.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = shifted(x)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// x − log Σ eˣ over the last dimension.
pub(super) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = shifted(x)?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// RMSNorm x·w / √(mean x² + ε), or LayerNorm (x − mean)·w / √(var + ε) + b, over the last dimension.
pub(super) fn norm(kind: NormKind, x: &Tensor, w: &Tensor, b: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    let x = match kind {
        NormKind::Rms => x.clone(),
        NormKind::Layer => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
    };
    let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
    let y = x.broadcast_div(&deviation)?.broadcast_mul(w)?;
    match b {
        None => Ok(y),
        Some(b) => y.broadcast_add(b),
    }
}

/// The non-linearity of the feed-forward block.
pub(super) fn activate(act: Activation, x: &Tensor) -> Result<Tensor> {
    match act {
        Activation::Silu => x.silu(),
        // Written out: the derivative of candle's own `gelu` has constants of six digits.
        Activation::GeluTanh => {
            let cube = (x * x)?.mul(x)?;
            let inner = ((x + (cube * 0.044_715)?)? * (2.0 / std::f64::consts::PI).sqrt())?;
            (x * 0.5)? * (inner.tanh()? + 1.0)?
        }
        Activation::GeluErf => (x * 0.5)? * ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?,
        Activation::Relu => x.relu(),
    }
}

/// Rotary embedding in the Hugging Face "half" form: (x₁, x₂) ↦ (x₁·cos − x₂·sin, x₂·cos + x₁·sin), where
/// x₁ and x₂ are the first and second half of the rotated dimensions of a head.
///
/// # Shapes
/// x (rows, heads, tokens, head_dim); cos and sin broadcast to (rows, heads, tokens, head_dim / 2).
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (half, width) = (cos.dim(D::Minus1)?, x.dim(D::Minus1)?);
    let x1 = x.narrow(D::Minus1, 0, half)?;
    let x2 = x.narrow(D::Minus1, half, half)?;
    let y1 = (x1.broadcast_mul(cos)? - x2.broadcast_mul(sin)?)?;
    let y2 = (x2.broadcast_mul(cos)? + x1.broadcast_mul(sin)?)?;
    if 2 * half == width {
        return Tensor::cat(&[y1, y2], D::Minus1);
    }
    Tensor::cat(&[y1, y2, x.narrow(D::Minus1, 2 * half, width - 2 * half)?], D::Minus1)
}

/// cap·tanh(x / cap).
pub(super) fn cap(x: &Tensor, cap: f32) -> Result<Tensor> {
    (x / f64::from(cap))?.tanh()? * f64::from(cap)
}

/// softmax(cap(scale·q·kᵀ) + mask)·v with grouped key/value heads: query head h reads group h / (heads / groups).
///
/// # Shapes
/// q (rows, heads, queries, d); k and v (rows, groups, keys, d); mask, of 0 and −∞, broadcasts to
/// (rows, heads, queries, keys). Returns (rows, heads, queries, d).
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Tensor,
    scale: f32,
    soft_cap: Option<f32>,
) -> Result<Tensor> {
    let (rows, heads, queries, d) = q.dims4()?;
    let (groups, keys) = (k.dim(1)?, k.dim(2)?);
    // The heads of a group are neighbours, so they stack into the rows of one product.
    let stacked = (rows, groups, heads / groups * queries, d);
    let scores = (q.reshape(stacked)?.matmul(&k.t()?)? * f64::from(scale))?;
    let scores = soft_cap.map_or(Ok(scores.clone()), |c| cap(&scores, c))?;
    let p = softmax(&scores.reshape((rows, heads, queries, keys))?.broadcast_add(mask)?)?;
    let out = p.reshape((rows, groups, heads / groups * queries, keys))?.matmul(v)?;
    out.reshape((rows, heads, queries, d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn var(values: &[f32]) -> Var {
        Var::from_slice(values, values.len(), &Device::Cpu).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Gradient of Σ c·f(x) with fixed odd weights c against central differences.
    #[track_caller]
    fn derivative(x: &[f32], f: impl Fn(&Tensor) -> Result<Tensor>) {
        let weighted = |x: &Tensor| {
            let y = f(x).unwrap().flatten_all().unwrap();
            let c: Vec<f32> = (0..y.elem_count()).map(|i| 0.3 + (i as f32 * 1.7).sin()).collect();
            (y * Tensor::new(&c[..], &Device::Cpu).unwrap()).unwrap().sum_all().unwrap()
        };
        let v = var(x);
        let grads = weighted(v.as_tensor()).backward().unwrap();
        let found = values(grads.get(v.as_tensor()).unwrap());
        for i in 0..x.len() {
            let at = |step: f32| {
                let mut x = x.to_vec();
                x[i] += step;
                f64::from(weighted(var(&x).as_tensor()).to_scalar::<f32>().unwrap())
            };
            let want = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((f64::from(found[i]) - want).abs() < 2e-3, "{i}: {} vs {want}", found[i]);
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let x = [0.3f32, -1.2, 0.8, 2.1, -0.4, 0.05];
        let w = Tensor::new(&[1.1f32, 0.7, -0.4, 0.9, 1.3, 0.2], &Device::Cpu).unwrap();
        derivative(&x, softmax);
        derivative(&x, log_softmax);
        derivative(&x, |x| norm(NormKind::Rms, x, &w, None, 1e-5));
        derivative(&x, |x| norm(NormKind::Layer, x, &w, Some(&w), 1e-5));
        derivative(&x, |x| activate(Activation::Silu, x));
        derivative(&x, |x| activate(Activation::GeluTanh, x));
        derivative(&x, |x| activate(Activation::GeluErf, x));
        derivative(&x, |x| activate(Activation::Relu, x));
        derivative(&x, |x| cap(x, 1.5));
        let half = |i: usize| w.narrow(0, i, 2).unwrap();
        derivative(&x, |x| rotate(&x.reshape((1, 1, 1, 6))?, &half(0), &half(2)));
    }

    #[test]
    fn gelu_is_pytorchs_tanh_approximation() {
        // torch.nn.functional.gelu(x, approximate="tanh"), torch 2.
        let y = activate(Activation::GeluTanh, var(&[-3.0, -0.5, 0.0, 1.0, 2.5]).as_tensor()).unwrap();
        for (a, b) in values(&y).iter().zip([-0.003_637_4, -0.154_286, 0.0, 0.841_192, 2.485_0]) {
            assert!((a - b).abs() < 1e-4, "{a} vs {b}");
        }
    }

    #[test]
    fn an_excluded_key_has_no_weight_and_a_finite_gradient() {
        let x = var(&[1.0, 2.0, f32::NEG_INFINITY]);
        let y = softmax(x.as_tensor()).unwrap();
        let p = 1.0 / (1.0 + 1f32.exp());
        for (a, b) in values(&y).iter().zip([p, 1.0 - p, 0.0]) {
            assert!((a - b).abs() < 1e-6);
        }
        let grads = y.narrow(0, 0, 1).unwrap().sum_all().unwrap().backward().unwrap();
        let g = values(grads.get(x.as_tensor()).unwrap());
        assert!((g[0] - p * (1.0 - p)).abs() < 1e-6 && g[2] == 0.0, "{g:?}");
    }

    #[test]
    fn query_heads_share_the_keys_of_their_group() {
        // Two groups of two heads, one query, two keys; values differ by group only.
        let t = |v: &[f32], shape: (usize, usize, usize, usize)| {
            Tensor::from_slice(v, shape, &Device::Cpu).unwrap()
        };
        let q = t(&[0.0, 2.0, 0.0, 2.0], (1, 4, 1, 1));
        let k = t(&[0.0, 1.0, 0.0, -1.0], (1, 2, 2, 1));
        let v = t(&[0.0, 1.0, 10.0, 20.0], (1, 2, 2, 1));
        let mask = t(&[0.0, 0.0], (1, 1, 1, 2));
        let (s, r) = (1.0 / (1.0 + (-2f32).exp()), 1.0 / (1.0 + 2f32.exp()));
        let out = values(&attention(&q, &k, &v, &mask, 1.0, None).unwrap());
        for (a, b) in out.iter().zip([0.5, s, 15.0, 10.0 + 10.0 * r]) {
            assert!((a - b).abs() < 1e-5, "{out:?}");
        }
    }
}
