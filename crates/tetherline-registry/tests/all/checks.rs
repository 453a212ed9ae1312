//! What a registry must do, whatever its database.

use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use tetherline_audit::sha256;
use tetherline_registry::{
    Actor, Artifact, Edge, Evidence, Kind, Promotion, Registration, Registry, RegistryError, RuleChange,
    Rules, Stage,
};

type Check = (&'static str, fn(&str));

pub(crate) const CHECKS: &[Check] = &[
    ("lineage_leads_back_to_the_base", lineage_leads_back_to_the_base),
    ("names_tags_stages_and_hashes_find_a_policy", names_tags_stages_and_hashes_find_a_policy),
    ("a_promotion_displaces_and_a_rollback_brings_back", a_promotion_displaces_and_a_rollback_brings_back),
    ("what_the_rules_do_not_allow_is_refused", what_the_rules_do_not_allow_is_refused),
    ("two_people_are_two_people", two_people_are_two_people),
    ("a_rule_of_two_takes_two_to_lower", a_rule_of_two_takes_two_to_lower),
    ("every_change_is_in_the_audit_and_an_edit_shows", every_change_is_in_the_audit),
    ("a_table_that_was_edited_beside_the_audit_is_named", a_table_that_was_edited_is_named),
    ("a_crash_in_a_promotion_leaves_the_old_one", a_crash_in_a_promotion_leaves_the_old_one),
    ("many_processes_leave_one_in_production", many_at_once_leave_one_in_production),
];

fn at(who: &str, minute: u32) -> Actor {
    Actor::new(who, &format!("2026-01-01T00:{minute:02}:00Z")).unwrap()
}

fn id(name: &str) -> String {
    sha256(name.as_bytes())
}

fn add(r: &mut Registry, name: &str) -> String {
    let what = Registration {
        artifacts: vec![Artifact::new(Kind::Policy, id(name), name, format!("runs/{name}/policy"))],
        line: "default".into(),
        ..Registration::default()
    };
    r.register(&what, &at("ann", 0)).unwrap();
    id(name)
}

/// The two-person rule, made by two people.
fn two_approvals(r: &mut Registry) {
    for who in ["root", "bob"] {
        r.set_rules(&Rules { approvals: 2, gates: String::new() }, true, &at(who, 0)).unwrap();
    }
    assert_eq!(r.rules().unwrap().approvals, 2);
}

/// The tables are what the audit says.
#[track_caller]
fn agrees(r: &mut Registry) {
    assert_eq!(r.checked_audit(None).unwrap().differences, [""; 0]);
}

fn stage(r: &mut Registry, id: &str) -> Stage {
    r.list().unwrap().into_iter().find(|p| p.artifact.id == id).unwrap().stage
}

fn production(r: &mut Registry) -> Option<String> {
    r.find("production", "default").ok().map(|p| p.artifact.id)
}

fn passed(r: &mut Registry) -> Evidence {
    let against = production(r);
    Evidence { passed: true, gates: id("gates"), verdict: json!({"passed": true}), against }
}

fn promote(r: &mut Registry, id: &str, to: Stage) -> Result<Promotion, RegistryError> {
    let evidence = passed(r);
    r.promote(id, to, &evidence, false, &at("ann", 1))
}

fn lineage_leads_back_to_the_base(url: &str) {
    let mut r = Registry::open(url).unwrap();
    // base → first → second, each by a run with a recipe of its own.
    for (child, parent) in [("first", "base"), ("second", "first")] {
        let run = format!("run of {child}");
        let edge = |child: (Kind, &str), role: &str, parent: (Kind, &str)| Edge {
            child: (child.0, id(child.1)),
            role: role.into(),
            parent: (parent.0, id(parent.1)),
        };
        let artifact = |kind, name: &str| Artifact::new(kind, id(name), name, name);
        let what = Registration {
            artifacts: vec![
                artifact(Kind::Policy, child),
                artifact(Kind::Policy, parent),
                artifact(Kind::Run, &run),
                artifact(Kind::Recipe, &format!("recipe of {child}")).with_detail(json!({"seed": 3})),
            ],
            edges: vec![
                edge((Kind::Policy, child), "made_by", (Kind::Run, &run)),
                edge((Kind::Run, &run), "base", (Kind::Policy, parent)),
                edge((Kind::Run, &run), "recipe", (Kind::Recipe, &format!("recipe of {child}"))),
            ],
            bases: vec![id(parent)],
            line: "default".into(),
        };
        assert_eq!(r.register(&what, &at("ann", 0)).unwrap(), [id(child)]);
        // Twice is once.
        assert_eq!(r.register(&what, &at("bob", 9)).unwrap(), [""; 0]);
    }
    let back = r.lineage(Kind::Policy, &id("second")).unwrap();
    let names: Vec<_> = back.iter().map(|(edge, a)| format!("{} {}", edge.role, a.name)).collect();
    let expected = [
        "made_by run of second",
        "base first",
        "recipe recipe of second",
        "made_by run of first",
        "base base",
        "recipe recipe of first",
    ];
    assert_eq!(names, expected);
    assert_eq!(stage(&mut r, &id("base")), Stage::Base);
    assert_eq!(stage(&mut r, &id("first")), Stage::Candidate, "a candidate that others start from stays one");
    let recipe = r.artifact(Kind::Recipe, &id("recipe of first")).unwrap().unwrap();
    assert_eq!((recipe.detail, recipe.who.as_str()), (json!({"seed": 3}), "ann"));
    assert!(r.artifact(Kind::Dataset, &id("base")).unwrap().is_none());
}

fn names_tags_stages_and_hashes_find_a_policy(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let (a, b) = (add(&mut r, "a"), add(&mut r, "b"));
    let by = at("ann", 2);
    r.tag(&a, "best", true, &by).unwrap();
    r.tag(&b, "best", true, &by).unwrap();
    let unknown = |r: &mut Registry, text: &str| r.find(text, "default").unwrap_err().to_string();
    assert!(unknown(&mut r, "best").contains("2 policies"));
    r.tag(&b, "best", false, &by).unwrap();
    for text in ["a", "best", &a[..6], &a[..12].to_uppercase()] {
        assert_eq!(r.find(text, "default").unwrap().artifact.id, a, "{text}");
    }
    assert!(unknown(&mut r, "nobody").contains("no policy is called"));
    assert!(unknown(&mut r, "production").contains("in production"));
    assert!(r.tag(&a, "production", true, &by).is_err() && r.tag(&a, " ", true, &by).is_err());
    r.note(&a, "kind, but long-winded; it's \"good\"?", &by).unwrap();
    let listed = r.find("a", "default").unwrap();
    let details = r.details(listed).unwrap();
    assert_eq!(details.listed.tags, ["best"]);
    assert_eq!((details.notes.len(), details.notes[0].text.contains("\"good\"?")), (1, true));
    assert_eq!(details.decisions[0].action, "register");
}

fn a_promotion_displaces_and_a_rollback_brings_back(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let (a, b, c) = (add(&mut r, "a"), add(&mut r, "b"), add(&mut r, "c"));
    let done = |displaced: Option<&String>| Promotion::Done { displaced: displaced.cloned() };
    assert!(r.roll_back("default", "", &at("ann", 1)).unwrap_err().to_string().contains("in production"));
    assert_eq!(promote(&mut r, &a, Stage::Production).unwrap(), done(None));
    assert!(
        r.roll_back("default", "", &at("ann", 1))
            .unwrap_err()
            .to_string()
            .contains("nothing was in production")
    );
    assert_eq!(promote(&mut r, &b, Stage::Canary).unwrap(), done(None));
    assert_eq!(promote(&mut r, &c, Stage::Canary).unwrap(), done(Some(&b)));
    assert_eq!(stage(&mut r, &b), Stage::Candidate, "out of canary it is a candidate again");
    assert_eq!(promote(&mut r, &c, Stage::Production).unwrap(), done(Some(&a)));
    assert_eq!(promote(&mut r, &b, Stage::Production).unwrap(), done(Some(&c)));
    assert_eq!(
        [stage(&mut r, &a), stage(&mut r, &b), stage(&mut r, &c)],
        [Stage::Retired, Stage::Production, Stage::Retired]
    );
    // Back to c, which b displaced, and then to a, which c displaced: not to and fro.
    let by = at("bob", 2);
    assert_eq!(r.roll_back("default", "it lies", &by).unwrap(), (c.clone(), b.clone()));
    assert_eq!(production(&mut r), Some(c.clone()));
    assert_eq!(r.roll_back("default", "this one too", &by).unwrap(), (a.clone(), c.clone()));
    assert!(r.roll_back("default", "", &by).is_err());
    assert_eq!(production(&mut r), Some(a));
    let last = r.decisions(Some(&b)).unwrap().pop().unwrap();
    assert_eq!(
        (last.action.as_str(), last.displaced.as_deref(), last.who.as_str()),
        ("rollback", Some(&*b), "bob")
    );
    assert_eq!(last.evidence, json!({"reason": "it lies"}));
}

fn what_the_rules_do_not_allow_is_refused(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let (a, b) = (add(&mut r, "a"), add(&mut r, "b"));
    let by = at("ann", 3);
    let refused = |e: Result<Promotion, RegistryError>, words: &str| {
        let e = e.unwrap_err();
        assert!(e.is_refusal() && e.to_string().contains(words), "{words}: {e}");
    };
    let fail = Evidence { passed: false, ..passed(&mut r) };
    refused(r.promote(&a, Stage::Production, &fail, true, &by), "gates did not pass");
    let last = r.decisions(Some(&a)).unwrap().pop().unwrap();
    assert_eq!((last.action.as_str(), last.to.as_str()), ("refuse", "candidate"));
    refused(promote(&mut r, &a, Stage::Retired), "cannot be promoted to retired");
    refused(promote(&mut r, &id("nobody"), Stage::Production), "no policy has the hash");
    let before = passed(&mut r);
    promote(&mut r, &a, Stage::Production).unwrap();
    refused(promote(&mut r, &a, Stage::Production), "is production");
    refused(r.promote(&b, Stage::Production, &before, false, &by), "another one since the gates were run");
    assert!(r.retire(&a, "", &by).unwrap_err().to_string().contains("promote another one"));
    r.retire(&b, "too slow", &by).unwrap();
    refused(promote(&mut r, &b, Stage::Production), "is retired");
    assert!(r.retire(&b, "", &by).is_err());
    assert_eq!(production(&mut r), Some(a));
    // Only the gates of the rules count.
    let c = add(&mut r, "c");
    r.set_rules(&Rules { approvals: 0, gates: id("strict gates") }, false, &by).unwrap();
    refused(promote(&mut r, &c, Stage::Canary), "not the gates that the rules ask for");
    assert!(r.set_rules(&Rules { approvals: -1, gates: String::new() }, false, &by).is_err());
    assert_eq!(r.rules().unwrap().gates, id("strict gates"));
    assert!(Actor::new(" ", "").is_err() && Actor::new("a\nb", "").is_err());
}

fn two_people_are_two_people(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let (a, b) = (add(&mut r, "a"), add(&mut r, "b"));
    two_approvals(&mut r);
    let approve = |r: &mut Registry, id: &str, who: &str, minute: u32| {
        let evidence = passed(r);
        r.promote(id, Stage::Production, &evidence, true, &at(who, minute)).unwrap()
    };
    let waiting = |who: &[&str]| Promotion::Waiting {
        approvers: who.iter().map(|w| (*w).to_owned()).collect(),
        needed: 2,
    };
    assert!(promote(&mut r, &a, Stage::Production).unwrap_err().to_string().contains("--approve-as"));
    assert_eq!(approve(&mut r, &a, "Ann Lee", 1), waiting(&["Ann Lee"]));
    assert_eq!(approve(&mut r, &a, " ann  lee", 2), waiting(&["Ann Lee"]), "the same person");
    assert_eq!(approve(&mut r, &b, "bob", 3), waiting(&["bob"]), "another policy");
    assert_eq!(production(&mut r), None);
    assert_eq!(approve(&mut r, &a, "bob", 4), Promotion::Done { displaced: None });
    let decision = r.decisions(Some(&a)).unwrap().pop().unwrap();
    assert_eq!(decision.approvers, ["Ann Lee", "bob"]);
    // Used approvals are gone; a canary takes none.
    let listed = r.find("a", "default").unwrap();
    assert!(r.details(listed).unwrap().approvals.is_empty());
    assert_eq!(promote(&mut r, &b, Stage::Canary).unwrap(), Promotion::Done { displaced: None });
    // Bob approved it while nothing was in production; in place of `a` it is another promotion.
    assert_eq!(approve(&mut r, &b, "Ann Lee", 5), waiting(&["Ann Lee"]));
    let easy = Evidence { gates: id("easy gates"), ..passed(&mut r) };
    let by_easy = r.promote(&b, Stage::Production, &easy, true, &at("bob", 6)).unwrap();
    assert_eq!(by_easy, waiting(&["bob"]), "other gates");
    assert_eq!(approve(&mut r, &b, "bob", 7), Promotion::Done { displaced: Some(a.clone()) });
    let listed = r.find("b", "default").unwrap();
    assert!(r.details(listed).unwrap().approvals.is_empty(), "none is left, of whatever gates");
    assert!(Actor::new("ann\u{200b}", "").is_err(), "looks like ann");
}

fn a_rule_of_two_takes_two_to_lower(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let rules = |approvals: i64, gates: &str| Rules { approvals, gates: gates.to_owned() };
    let set =
        |r: &mut Registry, to: &Rules, who: &str, approves: bool| r.set_rules(to, approves, &at(who, 1));
    let waiting = |who: &[&str], needed| {
        Ok(RuleChange::Waiting { approvers: who.iter().map(|w| (*w).to_owned()).collect(), needed })
    };
    let same = |found: Result<RuleChange, RegistryError>, wanted: Result<RuleChange, ()>| {
        assert_eq!(found.unwrap(), wanted.unwrap());
    };
    // Two people are there to ask for two: nobody alone asks for more than there are.
    assert!(set(&mut r, &rules(20, ""), "ann", false).unwrap_err().to_string().contains("takes 20 people"));
    same(set(&mut r, &rules(20, ""), "ann", true), waiting(&["ann"], 20));
    same(set(&mut r, &rules(2, ""), "ann", true), waiting(&["ann"], 2));
    assert_eq!(r.rules().unwrap(), rules(0, ""));
    same(set(&mut r, &rules(2, ""), "bob", true), Ok(RuleChange::Done));
    // A gate file where any counted holds at once.
    same(set(&mut r, &rules(2, "strict"), "ann", false), Ok(RuleChange::Done));
    same(set(&mut r, &rules(2, "strict"), "ann", false), Ok(RuleChange::Done));
    // Nothing else does: fewer people, any gates, other gates, more people.
    for (looser, people) in [
        (rules(1, "strict"), 2),
        (rules(0, "strict"), 2),
        (rules(2, ""), 2),
        (rules(2, "lax"), 2),
        (rules(3, "lax"), 3),
        (rules(3, "strict"), 3),
    ] {
        let e = set(&mut r, &looser, "ann", false).unwrap_err();
        assert!(e.is_refusal() && e.to_string().contains(&format!("takes {people} people")), "{e}");
        same(set(&mut r, &looser, "ann", true), waiting(&["ann"], people));
        same(set(&mut r, &looser, " Ann", true), waiting(&["ann"], people));
        assert_eq!(r.rules().unwrap(), rules(2, "strict"));
    }
    // Approvals are of one change, and the rules that it was a change of.
    same(set(&mut r, &rules(0, "strict"), "bob", true), Ok(RuleChange::Done));
    assert_eq!(r.rules().unwrap(), rules(0, "strict"));
    let (text, _) = r.verified_audit(None).unwrap();
    assert!(text.lines().last().unwrap().contains(r#""approvers":["ann","bob"]"#), "{text}");
    // Nobody has to approve any more; and what was approved before is not approved now.
    same(set(&mut r, &rules(0, ""), "ann", false), Ok(RuleChange::Done));
    same(set(&mut r, &rules(2, "strict"), "ann", true), waiting(&["ann"], 2));
    same(set(&mut r, &rules(2, "strict"), "bob", true), Ok(RuleChange::Done));
    same(set(&mut r, &rules(1, "strict"), "bob", true), waiting(&["bob"], 2));
    agrees(&mut r);
    assert_eq!(r.rules().unwrap(), rules(2, "strict"));
}

fn every_change_is_in_the_audit(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let a = add(&mut r, "a");
    promote(&mut r, &a, Stage::Production).unwrap();
    let (_, kept) = r.verified_audit(None).unwrap();
    let by = at("ann", 5);
    r.note(&a, "a secret of the house", &by).unwrap();
    r.tag(&a, "best", true, &by).unwrap();
    two_approvals(&mut r);
    let (text, head) = r.verified_audit(Some(&kept)).unwrap();
    let events: Vec<String> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    let expected =
        ["artifacts", "register", "promote", "note", "tag", "approve_rules", "approve_rules", "rules"];
    assert_eq!(events, expected);
    assert_eq!(head.records, 8);
    assert!(!text.contains("secret") && text.contains("\"who\":\"ann\""), "{text}");
    let other = tetherline_audit::Head { hash: id("x"), ..kept };
    assert!(matches!(r.verified_audit(Some(&other)), Err(RegistryError::Audit(_))));
}

/// Promotes `b`, stops between two statements, says so, and waits to be killed.
pub(crate) fn child(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let wanted = std::env::var("TETHERLINE_REGISTRY_STOP").unwrap();
    r.set_pause(Box::new(move |done| {
        if done == wanted {
            println!("\nstopped: {done}");
            std::io::stdout().flush().unwrap();
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    }));
    promote(&mut r, &id("b"), Stage::Production).unwrap();
}

fn a_crash_in_a_promotion_leaves_the_old_one(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let (a, b) = (add(&mut r, "a"), add(&mut r, "b"));
    promote(&mut r, &a, Stage::Production).unwrap();
    let (before, head) = r.verified_audit(None).unwrap();
    for stop in ["the old one has left its stage", "the new one has its stage", "everything is written"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env("TETHERLINE_REGISTRY_CHILD", url)
            .env("TETHERLINE_REGISTRY_STOP", stop)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == format!("stopped: {stop}")), "it stopped after {stop}");
        // While it is in the middle, others see the old one.
        assert_eq!(production(&mut r), Some(a.clone()), "{stop}");
        child.kill().unwrap();
        child.wait().unwrap();
        let mut again = Registry::open(url).unwrap();
        assert_eq!(production(&mut again), Some(a.clone()), "{stop}");
        assert_eq!(stage(&mut again, &b), Stage::Candidate, "{stop}");
        assert_eq!(again.verified_audit(None).unwrap(), (before.clone(), head.clone()), "{stop}");
    }
    // And its lock is gone with it.
    assert_eq!(promote(&mut r, &b, Stage::Production).unwrap(), Promotion::Done { displaced: Some(a) });
    assert_eq!(r.verified_audit(Some(&head)).unwrap().1.records, head.records + 1);
}

fn many_at_once_leave_one_in_production(url: &str) {
    const RUNS: usize = 8;
    std::thread::scope(|scope| {
        for i in 0..RUNS {
            scope.spawn(move || {
                // Each has a connection of its own, as a process has; the first ones make the tables at once.
                let mut r = Registry::open(url).unwrap();
                let own = add(&mut r, &format!("policy {i}"));
                for try_ in 0.. {
                    match promote(&mut r, &own, Stage::Production) {
                        Ok(_) => break,
                        // Another one was faster: judge again, against that one.
                        Err(e) if e.is_refusal() && try_ < 1000 => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    let mut r = Registry::open(url).unwrap();
    let all = r.list().unwrap();
    assert_eq!(all.len(), RUNS);
    let of = |stage| all.iter().filter(|p| p.stage == stage).count();
    assert_eq!((of(Stage::Production), of(Stage::Retired)), (1, RUNS - 1));
    // Each displaced the one that the promotion before it put there.
    let promoted: Vec<_> = r.decisions(None).unwrap().into_iter().filter(|d| d.action == "promote").collect();
    assert_eq!((promoted.len(), promoted[0].displaced.clone()), (RUNS, None));
    for pair in promoted.windows(2) {
        assert_eq!(pair[1].displaced.as_ref(), Some(&pair[0].policy));
    }
    assert_eq!(r.verified_audit(None).unwrap().1.records as usize, 3 * RUNS);
    agrees(&mut r);
}

/// A registry in which everything has happened, and whoever can write to the database.
fn a_table_that_was_edited_is_named(url: &str) {
    let mut r = Registry::open(url).unwrap();
    let (a, b, c) = (add(&mut r, "a"), add(&mut r, "b"), add(&mut r, "c"));
    lineage_leads_back_to_the_base(url);
    let by = at("ann", 5);
    promote(&mut r, &a, Stage::Canary).unwrap();
    promote(&mut r, &b, Stage::Canary).unwrap();
    promote(&mut r, &b, Stage::Production).unwrap();
    promote(&mut r, &a, Stage::Production).unwrap();
    r.roll_back("default", "a drill", &by).unwrap();
    r.tag(&a, "best", true, &by).unwrap();
    r.tag(&a, "once", true, &by).unwrap();
    r.tag(&a, "once", false, &by).unwrap();
    r.note(&a, "a note", &by).unwrap();
    r.note(&a, "another one", &by).unwrap();
    two_approvals(&mut r);
    let evidence = passed(&mut r);
    r.promote(&c, Stage::Production, &evidence, true, &by).unwrap();
    r.set_rules(&Rules { approvals: 1, gates: String::new() }, true, &by).unwrap();
    let refused = Evidence { passed: false, ..passed(&mut r) };
    r.promote(&c, Stage::Production, &refused, true, &by).unwrap_err();
    agrees(&mut r);
    let (_, head) = r.verified_audit(None).unwrap();
    // What a person with SQL can do, what is then said, and how it is put back.
    let edits: &[(&str, &[&str], &str)] = &[
        (
            "UPDATE policy SET stage = CASE id WHEN '{b}' THEN 'retired' ELSE 'candidate' END WHERE id IN ('{b}', '{a}')",
            &[
                "b (policy {b}): it is retired of the line \"default\", and by the audit production of the line \"default\"",
                "a (policy {a}): it is candidate",
            ],
            "UPDATE policy SET stage = CASE id WHEN '{b}' THEN 'production' ELSE 'retired' END WHERE id IN ('{b}', '{a}')",
        ),
        (
            "INSERT INTO policy (id, line, stage) VALUES ('beef', 'other', 'production')",
            &[
                "policy beef: it is production of the line \"other\", and no decision in the audit put it there",
            ],
            "DELETE FROM policy WHERE id = 'beef'",
        ),
        (
            "INSERT INTO approval (policy, stage, person, who, created) VALUES ('{c}', 'production x nothing', 'eve', 'Eve', 'now')",
            &["approval of {c12} for production by eve: nobody gave it"],
            "DELETE FROM approval WHERE person = 'eve'",
        ),
        (
            "UPDATE approval SET person = 'zoe' WHERE stage <> 'rules'",
            &["approval of {c12} for production by ann: it was given, and is gone", "by zoe: nobody gave it"],
            "UPDATE approval SET person = 'ann' WHERE stage <> 'rules'",
        ),
        (
            "UPDATE decision SET approvers = '[\"eve\"]', action = 'promote' WHERE action = 'refuse'",
            &["action is promote, and by the audit refuse", "approvers is [\"eve\"], and by the audit []"],
            "UPDATE decision SET approvers = '[]', action = 'refuse' WHERE approvers = '[\"eve\"]'",
        ),
        (
            "UPDATE decision SET evidence = '{}' WHERE action = 'rollback'",
            &["evidence is not what was judged"],
            "UPDATE decision SET evidence = '{\"reason\":\"a drill\"}' WHERE action = 'rollback'",
        ),
        (
            "UPDATE artifact SET location = 'elsewhere' WHERE id = '{a}'",
            &["artifact a (policy {a}): name, location, details"],
            "UPDATE artifact SET location = 'runs/a/policy' WHERE id = '{a}'",
        ),
        (
            "UPDATE edge SET role = 'made' WHERE role = 'made_by'",
            &["made_by run", "it was registered, and is gone", "nothing in the audit registered it"],
            "UPDATE edge SET role = 'made_by' WHERE role = 'made'",
        ),
        (
            "UPDATE tag SET tag = 'worst'",
            &["tag \"best\": a (policy {a}) lacks it", "tag \"worst\": a (policy {a}) has it"],
            "UPDATE tag SET tag = 'best'",
        ),
        (
            "UPDATE note SET words = 'no note' WHERE id = 1",
            &[
                "note on {a12} by ann, 2026-01-01T00:05:00Z: it is gone, or was edited",
                "the audit has no such note",
            ],
            "UPDATE note SET words = 'a note' WHERE id = 1",
        ),
        (
            "UPDATE setting SET value = '0' WHERE name = 'approvals'",
            &["rules: they ask for 0 approvals and any gates, and by the audit for 2 and any gates"],
            "UPDATE setting SET value = '2' WHERE name = 'approvals'",
        ),
    ];
    let fill = |text: &str| {
        let ids = [("{a12}", &a[..12]), ("{c12}", &c[..12]), ("{a}", &a), ("{b}", &b), ("{c}", &c)];
        ids.iter().fold(text.to_owned(), |text, (name, id)| text.replace(name, id))
    };
    for (edit, named, back) in edits {
        r.edit(&fill(edit)).unwrap();
        let found = r.checked_audit(Some(&head)).unwrap().differences;
        for words in *named {
            assert!(found.iter().any(|d| d.contains(&fill(words))), "{edit}: {words}: {found:#?}");
        }
        r.edit(&fill(back)).unwrap();
        agrees(&mut r);
    }
    // A decision that was taken out.
    r.edit("DELETE FROM decision WHERE action = 'refuse'").unwrap();
    let found = r.checked_audit(None).unwrap().differences;
    assert!(found.len() == 1 && found[0].contains(&fill("(refuse of {c12}) is gone")), "{found:?}");
}
