//! Forward, the caller's loss on the host, and backward.

use super::batch::{Batch, Spans, groups, token_budget};
use super::heads::Outputs;
use super::{Net, to_host};
use crate::error::{ModelError, Result};
use candle_core::Tensor;
use tetherline_kernels::{LinearSpec, Row, RowGrad, RowOutput, UnitLoss};

/// Forward, loss and backward, as the kernels' `step`: the gradient is **added** to `grad`.
pub(crate) fn step<L: UnitLoss>(
    net: &Net<'_>,
    units: &[Vec<Row<'_>>],
    temperature: f32,
    loss: &L,
    grad: &mut [f32],
) -> Result<Vec<L::Stats>> {
    let sizes: Vec<(usize, usize)> =
        units.iter().map(|u| (u.len(), u.iter().map(|r| r.tokens.len()).max().unwrap_or(0))).collect();
    let mut stats: Vec<Option<L::Stats>> = units.iter().map(|_| None).collect();
    // Summed on the device, so that parameters cross the bus once.
    let mut sums: Vec<Option<Tensor>> = vec![None; net.slots.len()];
    for group in groups(&sizes, token_budget(net.spec)) {
        let rows: Vec<&Row<'_>> = group.iter().flat_map(|&u| &units[u]).collect();
        let out = Outputs::of(net, &Batch::pad(&rows), 1.0 / temperature, true)?;
        let entropy = out.entropy()?;
        let mut host = Host {
            logprobs: to_host(out.logprobs.as_ref())?,
            entropy: to_host(entropy.as_ref())?,
            scalars: to_host(out.scalars.as_ref())?,
            ..Host::default()
        };
        host.loss(net, &group, units, &rows, loss, &mut stats);
        let lm = [term(out.logprobs.as_ref(), host.g_logprobs)?, term(entropy.as_ref(), host.g_entropy)?];
        let scalar = term(out.scalars.as_ref(), host.g_scalars)?;
        let used = Used { lm: lm.iter().any(Option::is_some), scalar: scalar.is_some() };
        if let Some(surrogate) = total(lm.into_iter().chain([scalar]))? {
            add_gradients(net, &surrogate, used, &mut sums)?;
        }
    }
    for (slot, sum) in net.slots.iter().zip(sums) {
        let Some(from) = slot.offset.checked_sub(net.spec.frozen) else { continue };
        let sum: Vec<f32> = to_host(sum.as_ref())?;
        grad[from..from + slot.len()].iter_mut().zip(sum).for_each(|(g, s)| *g += s);
    }
    Ok(stats.into_iter().flatten().collect())
}

/// Outputs of a group and their gradients, flat over its rows.
#[derive(Default)]
struct Host {
    logprobs: Vec<f32>,
    entropy: Vec<f32>,
    scalars: Vec<f32>,
    g_logprobs: Vec<f32>,
    g_entropy: Vec<f32>,
    g_scalars: Vec<f32>,
}

impl Host {
    /// Lets the loss fill the gradients, unit by unit.
    fn loss<L: UnitLoss>(
        &mut self,
        net: &Net<'_>,
        group: &[usize],
        units: &[Vec<Row<'_>>],
        rows: &[&Row<'_>],
        loss: &L,
        stats: &mut [Option<L::Stats>],
    ) {
        self.g_logprobs = vec![0.0; self.logprobs.len()];
        self.g_entropy = vec![0.0; self.entropy.len()];
        self.g_scalars = vec![0.0; self.scalars.len()];
        let spans = Spans::of(net.spec, rows);
        let (mut gl, mut ge, mut gs) =
            (&mut self.g_logprobs[..], &mut self.g_entropy[..], &mut self.g_scalars[..]);
        let mut spans = spans.lm.into_iter().zip(spans.scalar);
        for &u in group {
            let (mut outs, mut grads) = (Vec::new(), Vec::new());
            for (lm, scalar) in spans.by_ref().take(units[u].len()) {
                outs.push(RowOutput {
                    logprobs: &self.logprobs[lm.clone()],
                    entropy: &self.entropy[lm.clone()],
                    scalars: &self.scalars[scalar.clone()],
                });
                grads.push(RowGrad {
                    logprobs: front(&mut gl, lm.len()),
                    entropy: front(&mut ge, lm.len()),
                    scalars: front(&mut gs, scalar.len()),
                });
            }
            stats[u] = Some(loss.unit(u, &outs, &mut grads));
        }
    }
}

/// Cuts the first `n` off a slice.
fn front<'a>(rest: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(n);
    *rest = tail;
    head
}

/// Σ output·g, or None where every g is zero.
fn term(output: Option<&Tensor>, g: Vec<f32>) -> Result<Option<Tensor>> {
    match output {
        Some(output) if g.iter().any(|g| *g != 0.0) => {
            let g = Tensor::from_vec(g, output.shape(), output.device())?;
            Ok(Some((output * g)?.sum_all()?))
        }
        _ => Ok(None),
    }
}

fn total(terms: impl Iterator<Item = Option<Tensor>>) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for term in terms.flatten() {
        sum = Some(match sum {
            None => term,
            Some(sum) => (sum + term)?,
        });
    }
    Ok(sum)
}

/// Which heads a surrogate goes through.
#[derive(Clone, Copy)]
struct Used {
    lm: bool,
    scalar: bool,
}

impl Used {
    /// Whether a slot must have a gradient.
    fn needs(self, net: &Net<'_>, slot: usize) -> bool {
        let s = net.spec;
        let of = |head: &LinearSpec| {
            let adapter = head.adapter.into_iter().flat_map(|a| [a.a, a.b]);
            let offsets = [head.weight].into_iter().chain(head.bias).chain(adapter);
            offsets.into_iter().any(|offset| net.slot_of(offset) == slot)
        };
        // A head that shares the embedding leaves it in use.
        let tied = |head: &LinearSpec| head.weight == s.embed;
        let idle =
            |head: &Option<LinearSpec>, used: bool| !used && head.as_ref().is_some_and(|h| of(h) && !tied(h));
        !idle(&s.lm_head, self.lm) && !idle(&s.scalar_head, self.scalar)
    }
}

/// Goes backward and adds what arrived at each parameter.
fn add_gradients(net: &Net<'_>, surrogate: &Tensor, used: Used, sums: &mut [Option<Tensor>]) -> Result<()> {
    let mut grads = surrogate.backward()?;
    for (i, (var, sum)) in net.uploaded.vars.iter().zip(sums).enumerate().skip(net.uploaded.frozen) {
        match (grads.remove(var.as_tensor()), &sum) {
            (Some(g), None) => *sum = Some(g),
            (Some(g), Some(before)) => *sum = Some((before + g)?),
            // candle cuts operations without a backward pass off the graph and says nothing.
            (None, _) if used.needs(net, i) => {
                return Err(ModelError::NoGradient { name: net.slots[i].name.clone() });
            }
            (None, _) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Heads, Model, ModelConfig};
    use candle_core::Device;

    fn model(text: &str, heads: Heads) -> Model {
        let serde_json::Value::Object(map) = serde_json::from_str(text).unwrap() else { panic!("an object") };
        Model::random(ModelConfig::from_map(map, "config.json".into()).unwrap(), heads, 1)
    }

    const GPT2: &str = r#"{"model_type": "gpt2", "vocab_size": 7, "n_embd": 4, "n_layer": 1, "n_head": 2,
        "n_positions": 8}"#;

    /// As if an operation had cut a part of the decoder off.
    #[test]
    fn a_parameter_that_backward_does_not_reach_is_named() {
        let model = model(GPT2, Heads { lm: true, scalar: true });
        let net = model.net(&Device::Cpu).unwrap();
        let mut sums = vec![None; net.slots.len()];
        let embedding = net.uploaded.vars[0].as_tensor().sqr().unwrap().sum_all().unwrap();
        let used = Used { lm: true, scalar: false };
        let e = add_gradients(&net, &embedding, used, &mut sums).unwrap_err();
        assert!(matches!(&e, ModelError::NoGradient { name } if name == "transformer.wpe.weight"), "{e}");
    }

    /// candle walks a graph by recursion, forward order and dropping alike; a thread has 2 MiB of stack.
    #[test]
    fn a_deep_decoder_fits_on_the_stack() {
        struct First;
        impl UnitLoss for First {
            type Stats = ();
            fn unit(&self, _: usize, _: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) {
                grads[0].logprobs[0] = 1.0;
            }
        }
        let model =
            model(&GPT2.replace("\"n_layer\": 1", "\"n_layer\": 96"), Heads { lm: true, scalar: false });
        let net = model.net(&Device::Cpu).unwrap();
        let mut grad = vec![0.0; model.n_params()];
        let row = Row { tokens: &[1, 2, 3], lm: 0..2, scalar: 0..0 };
        step(&net, &[vec![row]], 1.0, &First, &mut grad).unwrap();
        assert!(grad.iter().any(|g| *g != 0.0));
    }
}
