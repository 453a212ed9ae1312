//! A KL budget for every domain, one for every user and one overall, tightened by a safety metric.
//!
//! `cargo run -p tetherline-kl --example domain_budgets`
//!
//! The configuration is what a file would hold; the "model" is one number per domain, its √(2·KL).
#![expect(clippy::print_stdout, reason = "an example prints")]

use tetherline_kl::{
    DomainKl, KlConfig, KlController, KlObservation, KlPolicy, MetricValue, NatsPerSequence,
};

const CONFIG: &str = r#"
[auto_pi]
init = 0.3
target = 6.0

[[budget]]
id = "chat"
target = 6.0

[[budget]]
id = "medical"
target = 2.0
target_min = 0.5
metrics = [{ id = "unsafe_rate", warn = 0.01, limit = 0.03 }]

[[budget]]
id = "user:*"
target = 9.0

[[budget]]
id = "all"
target = 5.0
"#;

/// Domain, reward scale.
const DOMAINS: [(&str, f64); 2] = [("chat", 1.0), ("medical", 0.8)];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut controller = KlPolicy::new(toml::from_str::<KlConfig>(CONFIG)?)?;
    let mut d = [0.0; 2];
    println!("step   KL chat  KL medical  target medical   β chat  β medical  β of ann's chat rows");
    for step in 0..400u64 {
        let kl = d.map(|d| 0.5 * d * d);
        let row = |id: &str, kl: f64| DomainKl::new(id, NatsPerSequence(kl), 2.0 * kl, 256);
        let domains = vec![
            row("chat", kl[0]),
            row("medical", kl[1]),
            row("user:ann", kl[0]),
            row("all", 0.5 * (kl[0] + kl[1])),
        ];
        // From update 200 on the evaluation finds unsafe answers; from 300 on it finds none any more.
        let unsafe_rate = if (200..300).contains(&step) { 0.02 } else { 0.002 };
        let metric =
            MetricValue { id: "unsafe_rate".into(), value: unsafe_rate, ucb: Some(unsafe_rate + 0.004) };
        let decision = controller
            .observe(&KlObservation { metrics: vec![metric], ..KlObservation::rollout(step, domains) });
        // A row's β is the sum over the budgets it falls under: its domain's, its user's and the overall one.
        for (d, (id, scale)) in d.iter_mut().zip(DOMAINS) {
            let beta = decision.beta_for_row(&[id, "user:ann"]);
            *d += 0.05 * (scale - beta * *d);
        }
        if step % 40 == 39 {
            println!(
                "{step:>4}   {:>7.2}  {:>10.2}  {:>14.2}  {:>7.3}  {:>9.3}  {:>20.3}",
                kl[0],
                kl[1],
                controller.target("medical").map_or(f64::NAN, |t| t.0),
                decision.beta_for_row(&["chat"]),
                decision.beta_for_row(&["medical"]),
                decision.beta_for_row(&["chat", "user:ann"]),
            );
        }
    }
    Ok(())
}
