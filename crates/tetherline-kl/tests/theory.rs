//! Identities of the KL-regularised objective on a three-point distribution (KL.md §7, experiments 1–3, 12).

const REF: [f64; 3] = [0.5, 0.3, 0.2];
const R: [f64; 3] = [0.0, 1.0, 2.0];

fn tilt(beta: f64) -> ([f64; 3], f64) {
    let w: [f64; 3] = std::array::from_fn(|i| REF[i] * (R[i] / beta).exp());
    let z: f64 = w.iter().sum();
    (w.map(|w| w / z), beta * z.ln())
}

/// KL through this crate's exact estimator, whose rows are `f32`.
fn kl(p: &[f64; 3], q: &[f64; 3]) -> f64 {
    let row = |p: &[f64; 3]| p.map(|p| p.ln() as f32);
    tetherline_kl::exact_kl(&row(p), &row(q)).expect("rows of one length")
}

#[test]
fn the_tilt_and_its_value() {
    let (p, value) = tilt(1.0);
    for (p, golden) in p.iter().zip([0.179_000, 0.291_944, 0.529_056]) {
        assert!((p - golden).abs() < 1e-6);
    }
    assert!((kl(&p, &REF) - 0.322_834).abs() < 1e-5);
    assert!((value - 1.027_222).abs() < 1e-6);
}

#[test]
fn the_gap_to_the_optimum_is_beta_times_kl_to_it() {
    let mut noise = tetherline_kl::sim::Noise::new(1);
    for beta in [0.3, 1.0, 3.0] {
        let (best, value) = tilt(beta);
        for _ in 0..300 {
            let w: [f64; 3] = std::array::from_fn(|_| noise.uniform() + 0.01);
            let z: f64 = w.iter().sum();
            let p = w.map(|w| w / z);
            let j = p.iter().zip(R).map(|(p, r)| p * r).sum::<f64>() - beta * kl(&p, &REF);
            assert!((value - j - beta * kl(&p, &best)).abs() < 5e-6 * beta.max(1.0));
        }
    }
}

#[test]
fn kl_falls_as_beta_rises() {
    for (beta, golden) in [(4.0, 0.020_262), (1.0, 0.322_834), (0.5, 0.915_475), (0.25, 1.468_126)] {
        assert!((kl(&tilt(beta).0, &REF) - golden).abs() < 2e-5, "{beta}");
    }
}

#[test]
fn best_of_n_spends_ln_n_less_its_share() {
    // The best of n of a uniform distribution over many distinct rewards, by its exact probabilities.
    let points = 20_000;
    for (n, golden) in [(2, 0.193_147), (4, 0.636_294), (16, 1.835_089), (64, 3.174_508)] {
        let cumulative = |k: usize| (k as f64 / points as f64).powi(n);
        let rows = (0..points).map(|k| (cumulative(k + 1) - cumulative(k)).ln() as f32).collect::<Vec<_>>();
        let uniform = vec![(1.0 / points as f64).ln() as f32; points];
        let kl = tetherline_kl::exact_kl(&rows, &uniform).unwrap();
        assert!((kl - golden).abs() < 1e-3, "n {n}: {kl}");
    }
}
