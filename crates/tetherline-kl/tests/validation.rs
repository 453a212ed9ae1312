//! Every key of the `[kl]` section at the edge of its range: the first value that is refused names its field,
//! the last that is allowed builds.

use tetherline_kl::KlConfig;

const LAWS: [(&str, &str); 9] = [
    ("fixed", "init = 0.2"),
    ("schedule", "init = 0.2\nend = 0.1\nsteps = 10"),
    ("ziegler", "init = 0.2\ntarget = 6.0"),
    ("adaptive", "init = 0.2\ntarget = 6.0"),
    ("ppo_adaptive", "init = 0.2\ntarget = 6.0"),
    ("pid", "init = 0.2\ntarget = 6.0"),
    ("pid_lagrangian", "init = 0.2\ntarget = 6.0"),
    ("dual", "init = 0.2\ntarget = 6.0"),
    ("auto_pi", "init = 0.2\ntarget = 6.0"),
];

/// A law's table with these lines in place of, or beside, its own.
fn law(name: &str, lines: &str) -> String {
    let base = LAWS.iter().find(|(n, _)| *n == name).expect("a law").1;
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let new: Vec<String> = lines.lines().map(key).collect();
    let kept: Vec<&str> = base.lines().filter(|l| !new.contains(&key(l))).collect();
    format!("[{name}]\n{}\n{lines}\n", kept.join("\n"))
}

fn check(text: &str) -> Result<(), String> {
    let config: KlConfig = toml::from_str(text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    config.validate().map_err(|e| e.field)
}

#[track_caller]
fn refused(text: &str, field: &str) {
    assert_eq!(check(text), Err(field.to_owned()), "{text}");
}

#[track_caller]
fn allowed(text: &str) {
    assert_eq!(check(text), Ok(()), "{text}");
}

#[test]
fn laws() {
    let refuse = |name: &str, lines: &str| {
        let key = lines.lines().last().and_then(|l| l.split(" =").next()).unwrap_or_default();
        refused(&law(name, lines), &format!("{name}.{key}"));
    };
    for (name, _) in LAWS {
        allowed(&law(name, ""));
        refuse(name, "init = -0.1");
        refuse(name, "init = inf");
        refuse(name, "init = nan");
        if !["fixed", "schedule"].contains(&name) {
            refuse(name, "target = 0.0");
            refuse(name, "target = nan");
            refuse(name, "target = 9.9e-10");
            refuse(name, "target = 1e-315");
            refuse(name, "target = 1.1e9");
            refuse(name, "target = inf");
            allowed(&law(name, "target = 1e-9"));
            allowed(&law(name, "target = 1e9"));
        }
        if ["adaptive", "ppo_adaptive", "pid", "dual", "auto_pi"].contains(&name) {
            refuse(name, "beta_min = 0.0");
            refuse(name, "beta_max = inf");
            refuse(name, "beta_max = 1.1e9");
            allowed(&law(name, "beta_max = 1e9"));
            refuse(name, "beta_max = 0.1\ninit = 0.2");
            refuse(name, "beta_min = 0.3\ninit = 0.2");
            refuse(name, "beta_max = 0.1\nbeta_min = 0.2");
            allowed(&law(name, "beta_min = 0.2\nbeta_max = 0.2\ninit = 0.2"));
        }
    }
    for name in ["ziegler", "adaptive"] {
        refuse(name, "horizon = 0.0");
    }
    refuse("ziegler", "beta_min = 0.3");
    refuse("ziegler", "beta_max = 0.1");
    refuse("ziegler", "beta_max = inf");
    allowed(&law("ziegler", "beta_min = 0.0\nbeta_max = 0.2"));
    allowed(&law("ziegler", "beta_min = 0.2"));
    allowed(&law("fixed", "init = 0.0"));
    for (key, bad) in
        [("kp", "1.7e308"), ("kp", "-0.1"), ("ki", "-0.1"), ("kd", "-0.1"), ("kp", "inf"), ("ki", "nan")]
    {
        refuse("pid", &format!("{key} = {bad}"));
        refuse("pid_lagrangian", &format!("{key} = {bad}"));
    }
    allowed(&law("pid", "kp = 0.0\nki = 0.0\nkd = 0.0\ndead_band = 0.0\nsmoothing = 1.0"));
    for name in ["pid", "auto_pi"] {
        refuse(name, "smoothing = 0.0");
        refuse(name, "smoothing = 1.1");
        refuse(name, "dead_band = -1.0");
        refuse(name, "dead_band = inf");
        refuse(name, "rate = 0.0");
    }
    refuse("auto_pi", "delay = 1001");
    allowed(&law("auto_pi", "delay = 1000\nsmoothing = 1.0\ndead_band = 0.0"));
    refuse("pid_lagrangian", "memory = 1.0");
    refuse("pid_lagrangian", "memory = -0.1");
    refuse("pid_lagrangian", "delay = 0");
    refuse("pid_lagrangian", "delay = 1001");
    refuse("pid_lagrangian", "beta_max = 0.0");
    refuse("pid_lagrangian", "beta_max = 1.1e9");
    refuse("pid_lagrangian", "beta_max = 0.1\ninit = 0.2");
    allowed(&law("pid_lagrangian", "init = 0.0\nkp = 0.0\nki = 0.0\nkd = 0.0\nmemory = 0.0\ndelay = 1000"));
    allowed(&law("pid_lagrangian", "beta_max = 0.2\ndelay = 1"));
    refuse("dual", "lr = 0.0");
    refuse("dual", "lr = 1.1e6");
    refuse("dual", "lr = nan");
    allowed(&law("dual", "lr = 1e6"));
    refuse("dual", "window = 0");
    refuse("dual", "window = 100001");
    allowed(&law("dual", "window = 100000"));
    refuse("schedule", "end = -0.1");
    refuse("schedule", "end = inf");
    refuse("schedule", "steps = 0");
    refused(&law("schedule", "end = 0.0\nshape = \"geometric\""), "schedule.end");
    refused(&law("schedule", "init = 0.0\nshape = \"geometric\""), "schedule.end");
    allowed(&law("schedule", "init = 0.0\nend = 0.0\nwarmup = 3"));
    allowed(&law("schedule", "shape = \"geometric\""));
}

#[test]
fn parts() {
    let base = law("adaptive", "");
    let with = |part: &str, lines: &str| format!("{base}[{part}]\n{lines}\n");
    let refuse = |part: &str, lines: &str| {
        let key = lines.lines().last().and_then(|l| l.split(" =").next()).unwrap_or_default();
        refused(&with(part, lines), &format!("{part}.{key}"));
    };
    refuse("guard", "rollback_after = 0");
    refuse("guard", "rollback_after = 4\nhalt_after = 3");
    refuse("guard", "blow_up = 1.0");
    refuse("guard", "blow_up = inf");
    refuse("guard", "blow_up_for = 0");
    refuse("guard", "boost = 0.99");
    refuse("guard", "boost = inf");
    refuse("guard", "decay = 1.0");
    refuse("guard", "decay = -0.1");
    refuse("guard", "throttle = 0.0");
    refuse("guard", "throttle = 1.1");
    allowed(&with("guard", "rollback_after = 1\nhalt_after = 1\nblow_up = 1.01\nblow_up_for = 1"));
    allowed(&with("guard", "boost = 1.0\ndecay = 0.0\nthrottle = 1.0\nmax_rollbacks = 0"));
    for key in ["cap", "old_cap", "ref0_cap", "stop_at"] {
        refuse("trust_region", &format!("{key} = 0.0"));
        refuse("trust_region", &format!("{key} = nan"));
        // Any one cap gives a law without a target something to judge by.
        allowed(&format!("{}[trust_region]\n{key} = 1.0\n", law("fixed", "")));
    }
    refuse("trust_region", "cap_ratio = 0.99");
    refuse("trust_region", "cap_ratio = inf");
    refuse("trust_region", "backtrack = 0.0");
    refuse("trust_region", "backtrack = 1.0");
    refuse("trust_region", "max_trials = 0");
    refuse("trust_region", "max_trials = 101");
    refuse("trust_region", "z = -0.1");
    refuse("trust_region", "z = inf");
    allowed(&with("trust_region", "cap_ratio = 1.0\nmax_trials = 1\nz = 0.0"));
    allowed(&with("trust_region", "max_trials = 100"));
    refuse("target_schedule", "steps = 3\nfrom = 0.0");
    refuse("target_schedule", "steps = 3\nfrom = 0.5\nto = 0.0");
    refuse("target_schedule", "steps = 3\nfrom = 9.9e-10");
    refuse("target_schedule", "steps = 3\nfrom = 0.5\nto = 1.1e9");
    allowed(&with("target_schedule", "steps = 3\nfrom = 1e-9\nto = 1e9"));
    refuse("target_schedule", "from = 0.5\nsteps = 0");
    allowed(&with("target_schedule", "from = 0.5\nsteps = 1"));
    refuse("ledger", "limit = 0.0");
    allowed(&with("ledger", "limit = 0.1"));
    refused(&format!("shrink = nan\n{base}"), "shrink");
    refused(&format!("shrink = -1.0\n{base}"), "shrink");
    allowed(&format!("shrink = 0.0\n{base}"));
    let budget = |lines: &str| format!("{base}[[budget]]\nid = \"a\"\n{lines}\n");
    refused(&budget("target = 0.0"), "budget[0].target");
    refused(&budget("target = 1.0\ntarget_min = 0.0"), "budget[0].target_min");
    refused(&budget("target = 1.0\ntarget_min = 1.1"), "budget[0].target_min");
    allowed(&budget("target = 1.0\ntarget_min = 1.0"));
    refused(
        &budget("target = 1.0\nmetrics = [{ id = \"m\", warn = inf, limit = 1.0 }]"),
        "budget[0].metrics[0].warn",
    );
    refused(
        &budget("target = 1.0\nmetrics = [{ id = \"m\", warn = 0.1, limit = inf }]"),
        "budget[0].metrics[0].limit",
    );
    refused(
        &budget("target = 1.0\nmetrics = [{ id = \"m\", warn = 0.1, limit = 0.1 }]"),
        "budget[0].metrics[0].limit",
    );
}

#[test]
fn a_value_far_out_of_range_is_written_short() {
    let config: KlConfig = toml::from_str("[pid]\ninit = 0.2\ntarget = 1e-315\n").unwrap();
    let message = config.validate().unwrap_err().to_string();
    assert_eq!(message, "pid.target: must be from 1e-9 to 1e9, got 1e-315");
}

/// Every peer's default: two numbers are enough.
#[test]
fn the_horizon_has_a_default() {
    for name in ["ziegler", "adaptive"] {
        let text = |horizon: &str| format!("[{name}]\ninit = 0.2\ntarget = 6.0\n{horizon}");
        let read = |horizon: &str| toml::from_str::<KlConfig>(&text(horizon)).unwrap();
        assert_eq!(read(""), read("horizon = 10000\n"), "{name}");
        assert_ne!(read(""), read("horizon = 9999\n"), "{name}");
    }
}

#[test]
fn extremes_that_once_passed() {
    let region = |lines: &str| format!("{}[trust_region]\n{lines}\n", law("auto_pi", ""));
    refused(&region("z = 100.1"), "trust_region.z");
    allowed(&region("z = 100.0"));
    // A cap is a multiple of a target of the KL to the reference, which this one is not.
    let old = law("ppo_adaptive", "of = \"old\"");
    refused(&format!("{old}[trust_region]\n"), "trust_region.cap");
    allowed(&format!("{old}[trust_region]\nold_cap = 1.0\n"));
    refused(&law("schedule", "init = 1e308"), "schedule.init");
    refused(&law("schedule", "end = 1.1e9"), "schedule.end");
    refused(&law("schedule", "init = 5e-324\nshape = \"geometric\""), "schedule.end");
}
