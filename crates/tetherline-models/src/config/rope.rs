//! Rotary frequencies and their scalings, as transformers computes them (`modeling_rope_utils.py`).

use super::fields::Fields;
use crate::error::Result;
use serde_json::{Map, Value};
use tetherline_kernels::rope::{Rope, RopeTable};

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// θ, the base of the frequencies.
    pub theta: f64,
    /// Dimensions of a head that turn, as the configuration counts them; an odd number turns one more.
    pub dim: usize,
    /// Scaling of the frequencies.
    pub scaling: RopeScaling,
}

/// Scaling of rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None. `dynamic` is this too, up to `max_position_embeddings`.
    Default,
    /// fᵢ / factor.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// `original_max_position_embeddings`.
        original: f64,
    },
    /// YaRN (Peng et al. 2023, section 3.2): a ramp over dimensions, and a factor on cos and sin.
    Yarn {
        /// Divisor of low frequencies.
        factor: f64,
        /// Dimension, of `dim`, from which frequencies are scaled in part,
        low: f64,
        /// and from which fully.
        high: f64,
        /// Factor on cos and sin.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024): a divisor for each frequency, others for sequences longer than the original context.
    Long {
        /// Divisors for sequences of up to `original` tokens.
        short: Vec<f64>,
        /// Divisors for longer ones.
        long: Vec<f64>,
        /// `original_max_position_embeddings`.
        original: usize,
        /// Factor on cos and sin.
        attention_factor: f64,
    },
}

/// What a family knows of its rotary embedding.
pub(super) struct RopeFacts {
    /// θ where the configuration does not say.
    pub(super) theta: f64,
    pub(super) head_dim: usize,
    /// The share of a head that turns where the configuration does not say; none if the family has no such share.
    pub(super) partial: Option<f64>,
    pub(super) max_positions: usize,
    /// The family scales by LongRoPE or not at all, whatever the scaling is called.
    pub(super) long_only: bool,
    /// `original_max_position_embeddings` of the top level, which goes before that of the scaling.
    pub(super) original: Option<usize>,
}

/// The object that describes the rotary embedding in `config.json`: `rope_scaling` of old, else `rope_parameters`.
pub(super) fn described<'a>(f: &'a Fields<'_>) -> Result<Option<&'a Map<String, Value>>> {
    let old = f.object("rope_scaling")?.filter(|o| !o.is_empty());
    Ok(if old.is_some() { old } else { f.object("rope_parameters")? })
}

impl RopeConfig {
    /// From the object that describes it (`None` for a plain one); `f` is for messages.
    pub(super) fn read(f: &Fields<'_>, map: Option<&Map<String, Value>>, facts: &RopeFacts) -> Result<Self> {
        let empty = Map::new();
        let r = Fields { path: f.path.clone(), map: map.unwrap_or(&empty) };
        let kind = r.get("rope_type").or_else(|| r.get("type")).and_then(Value::as_str).unwrap_or("default");
        let kind = if facts.long_only && kind == "yarn" { "longrope" } else { kind };
        if facts.long_only && !["default", "longrope", "su"].contains(&kind) {
            return Err(
                f.error("rope_type", format!("`{kind}` is not supported; supported: default, longrope"))
            );
        }
        let theta = r.number_or("rope_theta", facts.theta)?;
        let share = match (facts.partial, r.number("partial_rotary_factor")?) {
            (Some(family), own) => own.unwrap_or(family),
            (None, Some(x)) if x != 1.0 && kind != "default" => {
                let problem = format!("{x} with rope_type `{kind}` is not supported for this family");
                return Err(f.error("partial_rotary_factor", problem));
            }
            (None, _) => 1.0,
        };
        let dim = (facts.head_dim as f64 * share) as usize;
        if dim == 0 || dim.next_multiple_of(2) > facts.head_dim {
            let problem =
                format!("rotary positions turn pairs of dimensions, found {dim} of {}", facts.head_dim);
            return Err(f.error("head_dim", problem));
        }
        let own = r.number("original_max_position_embeddings")?;
        let original = facts.original.map(|n| n as f64).or(own);
        let scaling = match kind {
            // Up to `max_position_embeddings` tokens, and no more are taken, dynamic scaling leaves θ as it is.
            "default" | "dynamic" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: r.number_or("factor", 1.0)? },
            "llama3" => {
                let (low, high) =
                    (r.number_or("low_freq_factor", 1.0)?, r.number_or("high_freq_factor", 4.0)?);
                if low == high {
                    return Err(f.error("low_freq_factor", "must differ from high_freq_factor"));
                }
                RopeScaling::Llama3 {
                    factor: r.number_or("factor", 8.0)?,
                    low,
                    high,
                    original: original.unwrap_or(facts.max_positions as f64),
                }
            }
            // transformers spreads the ramp of dim / 2 numbers over one frequency more, or fails.
            "yarn" if dim % 2 == 1 => {
                let problem =
                    format!("`yarn` over an odd number of rotary dimensions ({dim}) is not supported");
                return Err(f.error("rope_type", problem));
            }
            "yarn" => {
                yarn(&r, dim, theta, original.unwrap_or(facts.max_positions as f64), facts.max_positions)?
            }
            "longrope" | "su" => {
                let original = original.unwrap_or(facts.max_positions as f64);
                let factor = r.number_or("factor", facts.max_positions as f64 / original)?;
                let spread = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                RopeScaling::Long {
                    short: r.numbers("short_factor", dim.div_ceil(2))?,
                    long: r.numbers("long_factor", dim.div_ceil(2))?,
                    original: original as usize,
                    attention_factor: r.number_or("attention_factor", spread)?,
                }
            }
            other => {
                let problem = format!(
                    "`{other}` is not supported; supported: default, dynamic, linear, llama3, yarn, longrope"
                );
                return Err(f.error("rope_type", problem));
            }
        };
        Ok(Self { theta, dim, scaling })
    }

    /// Angles for `positions` positions.
    pub(crate) fn tables(&self, positions: usize) -> Rope {
        let table = |freq, factor: f64| RopeTable::new(freq, factor as f32, positions);
        match &self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => {
                Rope { table: table(self.inv_freq(), *attention_factor), long: None }
            }
            RopeScaling::Long { short, long, original, attention_factor } => Rope {
                table: table(self.divided(short), *attention_factor),
                long: Some((*original, table(self.divided(long), *attention_factor))),
            },
            _ => Rope { table: table(self.inv_freq(), 1.0), long: None },
        }
    }

    /// θ^(2i/d), in f32 as in transformers.
    fn periods(&self) -> impl Iterator<Item = f32> {
        let (theta, d) = (self.theta as f32, self.dim as f32);
        (0..self.dim.div_ceil(2)).map(move |i| theta.powf(2.0 * i as f32 / d))
    }

    fn divided(&self, factors: &[f64]) -> Vec<f32> {
        self.periods().zip(factors).map(|(p, f)| 1.0 / (*f as f32 * p)).collect()
    }

    /// Frequencies fᵢ = θ^(−2i/d), scaled, of one table.
    fn inv_freq(&self) -> Vec<f32> {
        let scaled = |(i, p): (usize, f32)| match self.scaling {
            RopeScaling::Default | RopeScaling::Long { .. } => 1.0 / p,
            RopeScaling::Linear { factor } => 1.0 / p / factor as f32,
            RopeScaling::Llama3 { factor, low, high, original } => {
                let f = 1.0 / p;
                let wavelength = f64::from(2.0 * std::f32::consts::PI / f);
                if wavelength < original / high {
                    f
                } else if wavelength > original / low {
                    (f64::from(f) / factor) as f32
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    ((1.0 - smooth) * f64::from(f) / factor + smooth * f64::from(f)) as f32
                }
            }
            RopeScaling::Yarn { factor, low, high, .. } => {
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let kept = 1.0 - ramp;
                1.0 / (factor as f32 * p) * (1.0 - kept) + 1.0 / p * kept
            }
        };
        self.periods().enumerate().map(scaled).collect()
    }
}

fn yarn(r: &Fields<'_>, dim: usize, theta: f64, original: f64, max_positions: usize) -> Result<RopeScaling> {
    let factor = r.number_or("factor", max_positions as f64 / original)?;
    let spread = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    // 0 counts as absent.
    let given = |field: &str| r.get(field).filter(|v| v.as_f64() != Some(0.0)).is_some();
    let attention_factor = match (given("mscale"), given("mscale_all_dim")) {
        (true, true) => spread(r.number_or("mscale", 1.0)?) / spread(r.number_or("mscale_all_dim", 1.0)?),
        _ => spread(1.0),
    };
    let beta =
        |field: &str, default: f64| if given(field) { r.number_or(field, default) } else { Ok(default) };
    // The dimension that turns `rotations` times over the original context.
    let at = |rotations: f64| {
        dim as f64 * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (at(beta("beta_fast", 32.0)?), at(beta("beta_slow", 1.0)?));
    if r.flag_or("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    if low == high {
        high += 0.001; // no ramp without a slope
    }
    let attention_factor = r.number_or("attention_factor", attention_factor)?;
    Ok(RopeScaling::Yarn { factor, low, high, attention_factor })
}
