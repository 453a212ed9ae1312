//! `tether policy list | show | lineage`.

use super::{called, digits, find, told};
use crate::cli::{ListArgs, PolicyShowArgs};
use crate::output;
use std::collections::BTreeSet;
use std::fmt::Write;
use tetherline_registry::{Artifact, Edge, Kind, Registry, Stage};

pub(super) fn list(registry: &mut Registry, args: &ListArgs) -> anyhow::Result<()> {
    let mut all = registry.list().map_err(told)?;
    all.retain(|p| p.line == args.registry.line && (args.all || p.stage != Stage::Base));
    if args.json {
        output::result(&serde_json::to_string(&all)?);
        return Ok(());
    }
    if all.is_empty() {
        output::line(&format!(
            "no policy of the line {:?} is registered: `tether policy add RUN`",
            args.registry.line
        ));
        return Ok(());
    }
    let mut text = format!(
        "{:<12}  {:<10}  {:<30}  {:<20}  tags\n{}",
        "hash",
        "stage",
        "name",
        "registered",
        "─".repeat(96)
    );
    for p in &all {
        let a = &p.artifact;
        let tags = p.tags.join(", ");
        let _ = write!(
            text,
            "\n{:<12}  {:<10}  {:<30}  {:<20}  {tags}",
            digits(&a.id),
            p.stage,
            cut(&a.name, 30),
            a.created
        );
    }
    output::result(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").as_str());
    Ok(())
}

pub(super) fn one(registry: &mut Registry, args: &PolicyShowArgs) -> anyhow::Result<()> {
    let policy = find(registry, &args.policy, &args.registry)?;
    let details = registry.details(policy).map_err(told)?;
    if args.json {
        output::result(&serde_json::to_string(&details)?);
        return Ok(());
    }
    let (p, a) = (&details.listed, &details.listed.artifact);
    let mut text = format!(
        "{}\n  hash      {}\n  stage     {} of the line {:?}\n  where     {}\n  added     {} by {}",
        a.name, a.id, p.stage, p.line, a.location, a.created, a.who
    );
    if !p.tags.is_empty() {
        let _ = write!(text, "\n  tags      {}", p.tags.join(", "));
    }
    for (role, parent) in registry.parents(Kind::Policy, &a.id).map_err(told)? {
        let _ = write!(text, "\n  {role:<12} {} {}", parent.kind.name(), called(&parent));
    }
    for (stage, who, created) in &details.approvals {
        let _ = write!(text, "\n  approved  for {stage} by {who}, {created}");
    }
    text.push_str("\n\ndecisions");
    for d in &details.decisions {
        let _ = write!(text, "\n  {}  {:<9}", d.created, d.action);
        let other = d.displaced.as_deref().filter(|other| *other != a.id);
        let by = match (d.policy == a.id, other) {
            (false, _) => format!("displaced by {}", digits(&d.policy)),
            (true, Some(other)) => format!("{} → {}, in place of {}", d.from, d.to, digits(other)),
            (true, None) if d.from.is_empty() => d.to.clone(),
            (true, None) => format!("{} → {}", d.from, d.to),
        };
        let _ = write!(text, "{by}, by {}", d.who);
        if !d.approvers.is_empty() {
            let _ = write!(text, " (approved by {})", d.approvers.join(", "));
        }
        if let Some(reason) = d.evidence["reason"].as_str().filter(|r| !r.is_empty()) {
            let _ = write!(text, ": {reason}");
        }
    }
    for note in &details.notes {
        let _ =
            write!(text, "\n\nnote by {}, {}\n  {}", note.who, note.created, note.text.replace('\n', "\n  "));
    }
    output::result(&text);
    Ok(())
}

pub(super) fn lineage(registry: &mut Registry, args: &PolicyShowArgs) -> anyhow::Result<()> {
    let policy = find(registry, &args.policy, &args.registry)?.artifact;
    let edges = registry.lineage(Kind::Policy, &policy.id).map_err(told)?;
    if args.json {
        let rows: Vec<_> = edges
            .iter()
            .map(|(edge, parent)| serde_json::json!({"child": edge.child.1, "role": edge.role, "parent": parent}))
            .collect();
        output::result(&serde_json::to_string(&rows)?);
        return Ok(());
    }
    let mut text = format!("policy {}", called(&policy));
    let mut seen = BTreeSet::new();
    tree(&edges, (Kind::Policy, &policy.id), "", &mut seen, &mut text);
    output::result(&text);
    Ok(())
}

/// What a thing came from, as branches; what stands above already is not told twice.
fn tree<'a>(
    edges: &'a [(Edge, Artifact)],
    child: (Kind, &'a str),
    indent: &str,
    seen: &mut BTreeSet<(Kind, &'a str)>,
    text: &mut String,
) {
    let own: Vec<_> = edges.iter().filter(|(e, _)| (e.child.0, e.child.1.as_str()) == child).collect();
    for (i, (edge, parent)) in own.iter().enumerate() {
        let last = i + 1 == own.len();
        let (branch, next) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let _ = write!(text, "\n{indent}{branch}{} {} {}", edge.role, parent.kind.name(), called(parent));
        let key = (parent.kind, parent.id.as_str());
        if seen.insert(key) {
            tree(edges, key, &format!("{indent}{next}"), seen, text);
        } else if edges.iter().any(|(e, _)| (e.child.0, e.child.1.as_str()) == key) {
            text.push_str(" (above)");
        }
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}
