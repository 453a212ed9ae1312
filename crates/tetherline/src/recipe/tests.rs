//! Recipes as a user meets them: what loads, what is refused, and with which words.

use super::*;
use crate::Stages;
use std::path::Path;
use tetherline_core::Stage;

const OK: &str = "\
seed = 7
[model]
policy = \"frontdesk\"
[data]
world = \"frontdesk\"
[ppo]
steps = 3
clip_range = 0.1
[kl.adaptive]
target = 4.0
init = 0.1
horizon = 1000
";

fn sets(sets: &[(&str, &str)]) -> Vec<(String, String)> {
    sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn load(text: &str, changes: &[(&str, &str)]) -> Result<Recipe, RecipeError> {
    Recipe::from_text(text, "r.toml", Path::new("/base"), &sets(changes))
}

fn refused(text: &str, changes: &[(&str, &str)]) -> String {
    load(text, changes).unwrap_err().to_string()
}

#[test]
fn every_embedded_recipe_parses_and_the_quickstart_loads() {
    for e in EMBEDDED {
        toml::from_str::<Recipe>(e.text).unwrap_or_else(|err| panic!("{}: {err}", e.name));
        let first = e.text.lines().next().unwrap_or_default();
        assert!(first.starts_with("# "), "{} starts with a comment that says what it is", e.name);
    }
    let quick = Recipe::load("quickstart", &[]).unwrap();
    assert_eq!(quick.data.world, Some(World::Frontdesk));
    assert!(quick.runs_sft() && quick.trains_reward_model());
}

#[test]
fn the_resolved_recipe_reads_back_to_the_same_value() {
    let mut recipes = vec![load(OK, &[]).unwrap(), Recipe::default()];
    recipes.extend(EMBEDDED.iter().map(|e| toml::from_str(e.text).unwrap()));
    for recipe in recipes {
        let text = recipe.to_toml();
        let again: Recipe = toml::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(again, recipe);
        assert_eq!(again.to_toml(), text);
    }
    // Defaults are written out.
    let text = load(OK, &[]).unwrap().to_toml();
    for key in ["threads = 0", "max_new_tokens = 64", "clip_range = 0.1", "top_p = 1.0", "keep = 2"] {
        assert!(text.contains(key), "{key} in\n{text}");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let e = refused(&OK.replace("target = 4.0", "targt = 4.0"), &[]);
    assert!(e.starts_with("r.toml:10:1: unknown field `targt`, expected"), "{e}");
    assert!(e.ends_with("\n  10 | targt = 4.0\n     | ^^^^^"), "{e}");
    let e = refused("[modle]\n", &[]);
    assert!(e.starts_with("r.toml:1:2: unknown field `modle`, expected one of `name`, `seed`"), "{e}");
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    assert_eq!(
        refused(&OK.replace("steps = 3", "steps = \"three\""), &[]),
        "r.toml:7:9: invalid type: string \"three\", expected u64\n  7 | steps = \"three\"\n    |         ^^^^^^^"
    );
    assert!(refused("seed = -1\n", &[]).starts_with("r.toml:1:8: invalid value: integer `-1`"));
}

#[test]
fn broken_toml_is_named_with_its_line() {
    let e = refused("seed = 1\n[ppo\n", &[]);
    assert!(e.starts_with("r.toml:2:"), "{e}");
}

#[test]
fn a_value_out_of_range_is_named_with_its_line() {
    assert_eq!(
        refused(&OK.replace("clip_range = 0.1", "clip_range = 3"), &[]),
        "r.toml:8:1: ppo.clip_range: must be in (0, 1), got 3\n  8 | clip_range = 3\n    | ^^^^^^^^^^"
    );
    let e = refused(&OK.replace("target = 4.0", "target = -4.0"), &[]);
    assert!(e.starts_with("r.toml:10:1: kl.adaptive.target: must be"), "{e}");
    let e = refused(&format!("{OK}[sampling]\ntemperature = nan\n"), &[]);
    assert!(e.starts_with("r.toml:14:1: sampling.temperature: must be above 0"), "{e}");
}

#[test]
fn an_unknown_device_is_named_with_its_line_and_the_choices() {
    let choices = "must be cpu, graph, cuda, cuda:N, metal or metal:N";
    assert_eq!(
        refused(&format!("device = \"gpu\"\n{OK}"), &[]),
        format!("r.toml:1:10: unknown device `gpu`: {choices}\n  1 | device = \"gpu\"\n    |          ^^^^^")
    );
    assert_eq!(
        refused(OK, &[("device", "cuda:x")]),
        format!("--set device=cuda:x: unknown device `cuda:x`: {choices}")
    );
    // What the machine has is not the recipe's business.
    let recipe = load(OK, &[("device", "cuda:1")]).unwrap();
    assert!(recipe.to_toml().contains("device = \"cuda:1\""));
    assert!(load(OK, &[]).unwrap().to_toml().contains("device = \"cpu\""));
}

#[test]
fn a_bad_rule_is_named_with_its_line() {
    let text = format!(
        "{OK}[[reward.rule]]\nkeyword = {{ words = [\"a\"] }}\n[[reward.rule]]\nregex = {{ pattern = \"(\" }}\n"
    );
    let e = refused(&text, &[]);
    assert!(e.starts_with("r.toml:16:11: reward.rule[1].pattern: is not a regular expression"), "{e}");
    let e = refused(&text.replace("\"(\"", "\"b\""), &[("reward.rule.0.keyword.cap", "0")]);
    assert!(e.contains("reward.rule[0].cap: must be at least 1, got 0"), "{e}");
}

#[test]
fn a_bad_budget_is_named_with_its_line() {
    let text = format!(
        "{OK}[[kl.budget]]\nid = \"a\"\ntarget = 2.0\n[[kl.budget]]\nid = \"b\"\ntarget = 1.0\nmetrics = [\n  \
         {{ id = \"unsafe\", warn = 0.1, limit = 0.3 }},\n]\n"
    );
    assert_eq!(load(&text, &[]).unwrap().kl.budgets.len(), 2);
    let e = refused(&text.replace("1.0", "-1.0"), &[]);
    assert!(e.starts_with("r.toml:18:1: kl.budget[1].target: must be"), "{e}");
    let e = refused(&text.replace("0.3", "0.1"), &[]);
    assert!(e.starts_with("r.toml:20:32: kl.budget[1].metrics[0].limit: must be"), "{e}");
    let e = refused(&text, &[("kl.budget.0.target", "0")]);
    assert!(e.starts_with("--set kl.budget.0.target=0: must be"), "{e}");
}

#[test]
fn a_kl_section_without_a_law_is_named_with_its_line() {
    let text = OK.replace("[kl.adaptive]\ntarget = 4.0\ninit = 0.1\nhorizon = 1000\n", "[kl.guard]\n");
    let e = refused(&text, &[]);
    assert!(e.starts_with("r.toml:9:") && e.contains("needs one law: fixed"), "{e}");
}

#[test]
fn another_law_takes_the_place_of_the_first() {
    let text =
        OK.replace("adaptive", "fixed").replace("target = 4.0\ninit = 0.1\nhorizon = 1000", "init = 0.3");
    assert_eq!(load(&text, &[]).unwrap().kl.target(), None);
    let changes = [("kl.adaptive.init", "0.1"), ("kl.adaptive.target", "4"), ("kl.adaptive.horizon", "1000")];
    assert_eq!(load(&text, &changes).unwrap(), load(OK, &[]).unwrap());
    let e = refused(&text, &[changes[0], changes[2]]);
    assert!(e.starts_with("--set kl.adaptive.") && e.contains("missing field `target`"), "{e}");
}

#[test]
fn every_law_of_the_kl_section_is_known_here() {
    let e = toml::from_str::<Recipe>("[kl.no_such_law]\n").unwrap_err().to_string();
    let (_, listed) = e.split_once("expected one of ").unwrap();
    let mut listed: Vec<_> = listed.trim().split(", ").map(|name| name.trim_matches('`')).collect();
    listed.retain(|name| {
        !["shrink", "target_schedule", "trust_region", "guard", "ledger", "reference", "budget"]
            .contains(name)
    });
    listed.sort_unstable();
    let mut laws = load::LAWS.to_vec();
    laws.sort_unstable();
    assert_eq!(laws, listed);
}

/// One rule, penalty, … is chosen in place of the file's, whole or by its key; and every kind of rule is known here.
#[test]
fn a_set_replaces_what_excludes_it() {
    let penalty = "missing_eos_penalty = { replace = -3 }\naggregation = { sum_constant = 8 }";
    let rule = "[reward]\nmodel_weight = 0\n[[reward.rule]]\nkeyword = { words = [\"a\"] }\n";
    let file = OK.replace("clip_range = 0.1", penalty) + rule;
    let r = load(
        &file,
        &[
            ("ppo.missing_eos_penalty", "{ subtract = 1.0 }"),
            ("ppo.aggregation.seq_mean_constant", "4"),
            ("reward.rule.0.regex.pattern", "b"),
        ],
    )
    .unwrap();
    assert_eq!(r.ppo.missing_eos_penalty, tetherline_ppo::MissingEos::Subtract(1.0));
    assert_eq!(r.ppo.aggregation, tetherline_ppo::Aggregation::SeqMeanConstant(4));
    assert!(matches!(&r.reward.rule[..], [tetherline_reward::RuleConfig::Regex(c)] if c.pattern == "b"));
    let e = toml::from_str::<Recipe>("[[reward.rule]]\nno_such_rule = {}\n").unwrap_err().to_string();
    let (_, listed) = e.split_once("expected one of ").unwrap();
    let mut listed: Vec<_> = listed.trim().split(", ").map(|name| name.trim_matches('`')).collect();
    let mut known = load::RULES.to_vec();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(known, listed);
}

#[test]
fn an_error_in_a_set_names_the_set() {
    let e = refused(OK, &[("seed", "8"), ("ppo.clp", "3")]);
    assert!(e.starts_with("--set ppo.clp=3: unknown field `clp`, expected"), "{e}");
    assert_eq!(refused(OK, &[("ppo.clip_range", "3")]), "--set ppo.clip_range=3: must be in (0, 1), got 3");
    let e = refused(OK, &[("ppo", "{ clip_range = 3 }")]);
    assert_eq!(e, "--set ppo={ clip_range = 3 }: ppo.clip_range: must be in (0, 1), got 3");
    let e = refused(OK, &[("ppo.steps", "many")]);
    assert_eq!(e, "--set ppo.steps=many: invalid type: string \"many\", expected u64");
}

#[test]
fn sets_apply_in_order_and_over_the_file() {
    let changes = [("seed", "8"), ("seed", "9"), ("kl.fixed.init", "0.5"), ("name", "my run")];
    let r = load(OK, &changes).unwrap();
    assert_eq!((r.seed, r.name.as_str()), (9, "my run"));
    assert_eq!(r.kl, toml::from_str::<Recipe>("[kl.fixed]\ninit = 0.5\n").unwrap().kl);
}

#[test]
fn what_is_missing_is_named_with_the_flag_that_gives_it() {
    let missing =
        |changes: &[(&str, &str)], stages| load("", changes).unwrap().check(stages).unwrap_err().to_string();
    let all = Stages::All;
    let e = missing(&[], all);
    assert!(e.starts_with("model.policy: missing") && e.contains("--set model.policy="), "{e}");
    let policy = ("model.policy", "frontdesk");
    let e = missing(&[policy], all);
    assert!(e.starts_with("data.pairs: missing, and needed for training a reward model"), "{e}");
    let e = missing(&[policy], Stages::Only(Stage::Ppo));
    assert!(e.starts_with("data.prompts: missing") && e.contains("--set data.prompts=FILE"), "{e}");
    let e = missing(&[policy, ("reward.model_weight", "0")], all);
    assert!(e.contains("nothing scores the responses"), "{e}");
    load(OK, &[]).unwrap().check(all).unwrap();
}

#[test]
fn paths_are_relative_to_where_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    std::fs::create_dir(dir.path().join("policy")).unwrap();
    std::fs::write(dir.path().join("p.jsonl"), "{}\n").unwrap();
    std::fs::write(&file, "[model]\npolicy = \"policy\"\n[data]\nprompts = \"p.jsonl\"\n").unwrap();
    let r = Recipe::load(file.to_str().unwrap(), &[]).unwrap();
    assert_eq!(r.data.prompts, Some(dir.path().join("p.jsonl")));
    assert_eq!(ModelSource::parse(&r.model.policy), Ok(ModelSource::Dir(dir.path().join("policy"))));
    // Tests run in the crate's directory.
    let r = Recipe::load(file.to_str().unwrap(), &sets(&[("data.prompts", "Cargo.toml")])).unwrap();
    assert_eq!(r.data.prompts, Some(std::path::absolute("Cargo.toml").unwrap()));
    let e = Recipe::load(file.to_str().unwrap(), &sets(&[("data.prompts", "nope.jsonl")])).unwrap_err();
    assert!(e.to_string().starts_with("--set data.prompts=nope.jsonl: no file "), "{e}");
}

#[test]
fn an_unknown_recipe_lists_the_known_ones() {
    let e = Recipe::load("quikstart", &[]).unwrap_err().to_string();
    assert_eq!(
        e,
        "no recipe file quikstart, and no embedded recipe of that name (there are: quickstart, trl-parity, \
         word-reward, chat)"
    );
}

#[test]
fn the_fingerprint_sees_what_has_influence() {
    let base = load(OK, &[]).unwrap();
    let same = [("name", "x"), ("threads", "2"), ("model.gradient_checkpointing", "true")];
    let same = load(OK, &same).unwrap();
    assert_eq!(base.fingerprint(), same.fingerprint());
    assert_eq!(base.differences(&same), []);
    // Another device, other last bits.
    let device = load(OK, &[("device", "graph")]).unwrap();
    assert_ne!(base.fingerprint(), device.fingerprint());
    let other = load(OK, &[("ppo.clip_range", "0.3")]).unwrap();
    assert_ne!(base.fingerprint(), other.fingerprint());
    let listed: Vec<_> = base.differences(&other).iter().map(ToString::to_string).collect();
    assert_eq!(listed, ["ppo.clip_range: 0.1 here, 0.3 there"]);
}

#[test]
fn chat_variables_are_part_of_the_run_and_are_checked() {
    let base = load(OK, &[]).unwrap();
    let set =
        [("data.chat.variables.enable_thinking", "false"), ("data.chat.variables.date_string", "1 May")];
    let told = load(OK, &set).unwrap();
    let wanted = serde_json::json!({"enable_thinking": false, "date_string": "1 May"});
    assert_eq!(serde_json::to_value(&told.data.chat.variables).unwrap(), wanted);
    assert_ne!(base.fingerprint(), told.fingerprint());
    let again: Recipe = toml::from_str(&told.to_toml()).unwrap();
    assert_eq!(again, told);
    assert!(!base.to_toml().contains("chat"));
    let all = load(OK, &[("sft.turns", "all")]).unwrap();
    assert_ne!(load(OK, &[("sft.turns", "last")]).unwrap().fingerprint(), all.fingerprint());
    for (key, value, said) in [
        ("messages", "[]", "the program gives this"),
        ("bos_token", "x", "from the tokenizer"),
        ("'no word'", "1", "expected letters"),
        ("x", "[1, nan]", "must be a text"),
    ] {
        let e = load(OK, &[(&format!("data.chat.variables.{key}"), value)]).unwrap_err().to_string();
        assert!(e.contains("data.chat.variables") && e.contains(said), "{key}: {e}");
    }
    let e = load(OK, &[("sft.turns", "first")]).unwrap_err().to_string();
    assert!(e.contains("last") && e.contains("all"), "{e}");
}

/// Every key of the resolved recipes stands in `docs/recipe.md`.
#[test]
fn the_reference_names_every_key() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipe.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut missing = Vec::new();
    for recipe in EMBEDDED {
        let sets = [("model.policy".to_owned(), "frontdesk".to_owned())];
        let resolved = Recipe::load(recipe.name, &sets).unwrap().to_toml();
        for line in resolved.lines().filter(|l| !l.starts_with('[')) {
            let Some((key, _)) = line.split_once(" = ") else { continue };
            if !text.contains(&format!("`{key}`")) && !text.contains(&format!("{{ {key} = ")) {
                missing.push(key.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "docs/recipe.md does not name {missing:?}");
}
