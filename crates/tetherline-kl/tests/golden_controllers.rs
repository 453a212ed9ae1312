//! The published linear form against the peers' 32 traces, bit for bit.

mod oracle;

use oracle::{golden, numbers};
use tetherline_kl::law::{Adaptive, Law, Ziegler};
use tetherline_kl::{DomainKl, KlConfig, KlController, KlObservation, NatsPerSequence};

fn observe(c: &mut dyn KlController, step: usize, kl: f64, n: u64) -> f64 {
    let obs = KlObservation::rollout(
        step as u64,
        vec![DomainKl::new("all", NatsPerSequence(kl), 2.0 * kl.abs(), n)],
    );
    c.observe(&obs).beta_for("all")
}

#[test]
fn ziegler_is_bit_identical_to_the_peers() {
    let Some(file) = golden("controllers.json") else { return };
    let entries = file["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 32);
    for entry in entries {
        let p = |key: &str| entry["params"][key].as_f64().unwrap();
        let law = Law::Ziegler(Ziegler::new(p("init_kl_coef"), NatsPerSequence(p("target")), p("horizon")));
        let mut ours = KlConfig::from(law).build().unwrap();
        let mut fixed = KlConfig::fixed(p("init_kl_coef")).build().unwrap();
        let fixed_theirs = entry["fixed_value_after_update"].as_f64().unwrap();
        let theirs = numbers(&entry["value_after_update"]);
        for (step, (kl, theirs)) in numbers(&entry["kl"]).into_iter().zip(theirs).enumerate() {
            let beta = observe(ours.as_mut(), step, kl, p("n_steps") as u64);
            assert_eq!(beta.to_bits(), theirs.to_bits(), "{} step {step}: {beta} vs {theirs}", entry["name"]);
            let beta = observe(fixed.as_mut(), step, kl, p("n_steps") as u64);
            assert_eq!(beta.to_bits(), fixed_theirs.to_bits());
        }
    }
}

#[test]
fn log_space_agrees_with_the_linear_form_to_second_order() {
    // Where n/horizon is small the two forms differ per step by (e·n/H)²/2.
    let Some(file) = golden("controllers.json") else { return };
    for entry in file["entries"].as_array().unwrap() {
        let p = |key: &str| entry["params"][key].as_f64().unwrap();
        let gain = 0.2 * p("n_steps") / p("horizon");
        if gain > 0.01 {
            continue;
        }
        let law = Law::Adaptive(Adaptive::new(p("init_kl_coef"), NatsPerSequence(p("target")), p("horizon")));
        let mut ours = KlConfig::from(law).build().unwrap();
        let theirs = numbers(&entry["value_after_update"]);
        for (step, (kl, theirs)) in numbers(&entry["kl"]).into_iter().zip(theirs).enumerate() {
            if kl < 0.0 {
                break; // ours refuses what the peers follow
            }
            let beta = observe(ours.as_mut(), step, kl, p("n_steps") as u64);
            let bound = 0.51 * gain * gain * (step + 1) as f64 + 1e-12;
            assert!((beta / theirs).ln().abs() <= bound, "{} step {step}: {beta} vs {theirs}", entry["name"]);
        }
    }
}
