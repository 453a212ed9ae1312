//! Which crate may depend on which, and who may use the heavy libraries.
//!
//! The table is the drawing in ARCHITECTURE.md: arrows only go down, peers never import each other.
//! Direct dependencies are read from the manifests, reachability (a tensor library behind three other
//! crates) from the resolved graph. Dev-dependencies may reach sideways but not up.

use super::Violation;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// (crate, layer, workspace crates it may depend on).
const LAYERS: &[(&str, u8, &[&str])] = &[
    ("tetherline-audit", 0, &[]),
    ("tetherline-core", 0, &[]),
    ("tetherline-kl", 0, &[]),
    ("tetherline-kernels", 1, &[]),
    ("tetherline-registry", 1, &["tetherline-audit"]),
    ("tetherline-models", 1, &["tetherline-core", "tetherline-kernels"]),
    ("tetherline-data", 1, &["tetherline-core"]),
    ("tetherline-frontdesk", 1, &["tetherline-core"]),
    ("tetherline-rollout", 2, &["tetherline-core", "tetherline-models"]),
    ("tetherline-reward", 2, &["tetherline-core", "tetherline-models"]),
    ("tetherline-ppo", 2, &["tetherline-core", "tetherline-models", "tetherline-kl"]),
    ("tetherline-eval", 2, &["tetherline-core", "tetherline-kl"]),
    (
        "tetherline",
        3,
        &[
            "tetherline-audit",
            "tetherline-core",
            "tetherline-kl",
            "tetherline-models",
            "tetherline-data",
            "tetherline-frontdesk",
            "tetherline-rollout",
            "tetherline-reward",
            "tetherline-ppo",
            "tetherline-eval",
        ],
    ),
    (
        "tetherline-cli",
        4,
        &[
            "tetherline",
            "tetherline-audit",
            "tetherline-core",
            "tetherline-data",
            "tetherline-kl",
            "tetherline-models",
            "tetherline-registry",
            "tetherline-rollout",
        ],
    ),
    (
        "tetherline-benches",
        4,
        &[
            "tetherline",
            "tetherline-core",
            "tetherline-data",
            "tetherline-kernels",
            "tetherline-models",
            "tetherline-rollout",
        ],
    ),
    ("xtask", 4, &[]),
];

/// (library, crates that may name it as a dependency).
const RESERVED: &[(&str, &[&str])] = &[
    ("candle-core", &["tetherline-models"]),
    ("candle-nn", &["tetherline-models"]),
    ("candle-transformers", &["tetherline-models"]),
    ("tokenizers", &["tetherline-models"]),
    ("hf-hub", &["tetherline-models"]),
    ("anyhow", &["tetherline-cli", "tetherline-benches", "xtask"]),
    ("clap", &["tetherline-cli"]),
    ("indicatif", &["tetherline-cli"]),
    ("rusqlite", &["tetherline-registry"]),
    ("postgres", &["tetherline-registry"]),
];

/// Crates from which no tensor library may be reachable, over any number of steps.
const TENSOR_FREE: &[&str] = &[
    "tetherline-kl",
    "tetherline-core",
    "tetherline-data",
    "tetherline-frontdesk",
    "tetherline-eval",
    "tetherline-audit",
    "tetherline-registry",
];

/// All that `tetherline-kl` may depend on: other teams embed it.
const KL_DEPENDENCIES: &[&str] = &["serde", "thiserror"];

/// Checks `cargo metadata` of the whole workspace.
pub(super) fn check(root: &Path, metadata: &Value) -> Result<Vec<Violation>> {
    let members: BTreeSet<&str> = strings(&metadata["workspace_members"]).collect();
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut violations = Vec::new();
    for package in packages.iter().filter(|p| p["id"].as_str().is_some_and(|id| members.contains(id))) {
        let crate_ = Crate::read(root, package)?;
        violations.extend(crate_.check_direct());
        if TENSOR_FREE.contains(&crate_.name.as_str()) {
            violations.extend(crate_.check_reachable(metadata));
        }
    }
    Ok(violations)
}

/// A crate of the workspace.
struct Crate {
    name: String,
    id: String,
    /// Path of its manifest from the root, with `/`.
    file: String,
    manifest: String,
    /// (name, whether it is a dev-dependency).
    dependencies: Vec<(String, bool)>,
}

impl Crate {
    fn read(root: &Path, package: &Value) -> Result<Self> {
        let text = |key: &str| package[key].as_str().with_context(|| format!("a package without {key}"));
        let path = Path::new(text("manifest_path")?);
        let file = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let manifest = std::fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
        let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
        let dependencies = dependencies
            .iter()
            .filter_map(|d| Some((d["name"].as_str()?.to_owned(), d["kind"].as_str() == Some("dev"))))
            .collect();
        Ok(Self { name: text("name")?.to_owned(), id: text("id")?.to_owned(), file, manifest, dependencies })
    }

    /// The rules about what the manifest names.
    fn check_direct(&self) -> Vec<Violation> {
        let Some((_, layer, allowed)) = LAYERS.iter().find(|(name, ..)| *name == self.name) else {
            let message = format!("{} is not in the layer table (xtask/src/tidy/layers.rs)", self.name);
            return vec![Violation::new(&self.file, 1, message)];
        };
        let mut violations = Vec::new();
        for (dependency, is_dev) in &self.dependencies {
            let dependency = dependency.as_str();
            let other_layer =
                LAYERS.iter().find(|(name, ..)| *name == dependency).map(|(_, layer, _)| *layer);
            if let Some(other) = other_layer {
                if *is_dev && other > *layer {
                    violations.push(self.at(dependency, "is in a higher layer, even for tests".to_owned()));
                } else if !is_dev && !allowed.contains(&dependency) {
                    let may = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                    violations.push(
                        self.at(dependency, format!("breaks the layer table; it may depend on: {may}")),
                    );
                }
            }
            let reserved = RESERVED.iter().find(|(name, _)| *name == dependency);
            if let Some((_, owners)) = reserved
                && !is_dev
                && !owners.contains(&self.name.as_str())
            {
                violations.push(self.at(dependency, format!("is reserved for {}", owners.join(", "))));
            }
            if self.name == "tetherline-kl" && !is_dev && !KL_DEPENDENCIES.contains(&dependency) {
                let may = KL_DEPENDENCIES.join(" and ");
                violations.push(self.at(dependency, format!("is not wanted here; only {may} are")));
            }
        }
        violations
    }

    /// The rule about what can be reached through normal dependencies.
    fn check_reachable(&self, metadata: &Value) -> Vec<Violation> {
        let chains = reachable(metadata, &self.id);
        let candle = chains.iter().find(|(id, _)| package_name(metadata, id).starts_with("candle"));
        candle
            .map(|(id, from)| {
                let via = package_name(metadata, from);
                let library = package_name(metadata, id);
                Violation::new(
                    &self.file,
                    1,
                    format!("{} must stay free of tensors, but reaches {library} through {via}", self.name),
                )
            })
            .into_iter()
            .collect()
    }

    /// A violation at the line of the manifest that names `dependency`.
    fn at(&self, dependency: &str, problem: String) -> Violation {
        let names = |line: &str| {
            line.trim_start()
                .strip_prefix(dependency)
                .is_some_and(|rest| rest.starts_with(['.', ' ', '=', ']']) || rest.is_empty())
        };
        let line = self.manifest.lines().position(names).map_or(1, |i| i + 1);
        Violation::new(&self.file, line, format!("{} → {dependency}: {problem}", self.name))
    }
}

/// Package ids reachable from `start` without dev-dependencies, each with the id it was reached from.
fn reachable<'a>(metadata: &'a Value, start: &'a str) -> BTreeMap<&'a str, &'a str> {
    let nodes = metadata["resolve"]["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut found = BTreeMap::new();
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        let Some(node) = nodes.iter().find(|n| n["id"].as_str() == Some(id)) else { continue };
        for dependency in node["deps"].as_array().into_iter().flatten() {
            let kinds = dependency["dep_kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
            let only_dev = !kinds.is_empty() && kinds.iter().all(|k| k["kind"].as_str() == Some("dev"));
            if let Some(next) = dependency["pkg"].as_str()
                && !only_dev
                && !found.contains_key(next)
            {
                found.insert(next, id);
                open.push(next);
            }
        }
    }
    found
}

fn package_name<'a>(metadata: &'a Value, id: &str) -> &'a str {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages.iter().find(|p| p["id"].as_str() == Some(id)).and_then(|p| p["name"].as_str()).unwrap_or("?")
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn crate_(name: &str, dependencies: &[(&str, bool)]) -> Crate {
        let manifest = dependencies.iter().map(|(d, _)| format!("{d}.workspace = true\n")).collect();
        Crate {
            name: name.to_owned(),
            id: name.to_owned(),
            file: "Cargo.toml".to_owned(),
            manifest,
            dependencies: dependencies.iter().map(|(d, dev)| ((*d).to_owned(), *dev)).collect(),
        }
    }

    fn messages(c: &Crate) -> Vec<String> {
        c.check_direct().into_iter().map(|v| format!("{}: {}", v.line, v.message)).collect()
    }

    #[test]
    fn the_table_has_no_arrow_that_goes_up_or_sideways() {
        let layer = |name: &str| LAYERS.iter().find(|l| l.0 == name).map(|l| l.1);
        for (name, own, allowed) in LAYERS {
            for other in *allowed {
                let other_layer = layer(other).unwrap();
                let kernels_serve_models = (*name, *other) == ("tetherline-models", "tetherline-kernels");
                assert!(other_layer < *own || kernels_serve_models, "{name} → {other}");
            }
        }
    }

    #[test]
    fn an_arrow_up_is_reported_at_its_line() {
        let c = crate_("tetherline-data", &[("tetherline-core", false), ("tetherline", false)]);
        let found = messages(&c);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("2: tetherline-data → tetherline:"), "{found:?}");
    }

    #[test]
    fn a_test_may_reach_sideways_but_not_up() {
        assert_eq!(messages(&crate_("tetherline-eval", &[("tetherline-ppo", true)])), Vec::<String>::new());
        assert_eq!(messages(&crate_("tetherline-eval", &[("tetherline", true)])).len(), 1);
        assert_eq!(messages(&crate_("tetherline-eval", &[("tetherline-ppo", false)])).len(), 1);
    }

    #[test]
    fn reserved_libraries_and_strangers_are_reported() {
        assert_eq!(messages(&crate_("tetherline-ppo", &[("candle-core", false)])).len(), 1);
        assert_eq!(messages(&crate_("tetherline-models", &[("candle-core", false)])).len(), 0);
        assert_eq!(messages(&crate_("tetherline-kl", &[("serde", false), ("toml", false)])).len(), 1);
        assert_eq!(messages(&crate_("tetherline-kl", &[("toml", true)])).len(), 0);
        assert_eq!(messages(&crate_("tetherline-new", &[])).len(), 1);
    }

    #[test]
    fn a_tensor_library_is_found_behind_other_crates_but_not_behind_tests() {
        let normal = json!([{ "kind": null }]);
        let dev = json!([{ "kind": "dev" }]);
        let graph = |kind: &Value| {
            json!({
                "packages": [{"id": "a", "name": "tetherline-core"}, {"id": "b", "name": "glue"},
                             {"id": "c", "name": "candle-core"}],
                "resolve": {"nodes": [
                    {"id": "a", "deps": [{"pkg": "b", "dep_kinds": kind}]},
                    {"id": "b", "deps": [{"pkg": "c", "dep_kinds": normal}]},
                    {"id": "c", "deps": []},
                ]},
            })
        };
        let mut core = crate_("tetherline-core", &[]);
        core.id = "a".to_owned();
        let found = core.check_reachable(&graph(&normal));
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("candle-core through glue"), "{found:?}");
        assert_eq!(core.check_reachable(&graph(&dev)), Vec::new());
    }
}
