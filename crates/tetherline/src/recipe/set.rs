//! `--set a.b=c`: one value of a recipe changed on the command line.

use toml::{Table, Value};

/// A table that holds nothing but `key = value`, nested as the dots of `key` say.
///
/// The value is read as TOML; what is not TOML is a string, so that `--set data.prompts=my file.jsonl`
/// needs no quotes.
///
/// # Errors
/// What is wrong with the key.
pub(super) fn nested(key: &str, value: &str) -> Result<Table, String> {
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err("the key must be a dotted path such as ppo.lr".to_owned());
    }
    let mut value = parse_value(value);
    for part in key.rsplit('.') {
        value = Value::Table(Table::from_iter([(part.to_owned(), value)]));
    }
    match value {
        Value::Table(table) => Ok(table),
        _ => Ok(Table::new()),
    }
}

fn parse_value(text: &str) -> Value {
    let mut table: Table = toml::from_str(&format!("v = {text}")).unwrap_or_default();
    match table.remove("v") {
        Some(value) if table.is_empty() => value,
        _ => Value::String(text.to_owned()),
    }
}

/// The dotted path of a table, and the entries of it of which only one can be meant.
pub(super) type Exclusive = (&'static str, &'static [&'static str]);

/// Writes everything in `from` over `into`, table by table. A number as key reaches into an array.
///
/// `exclusive` names tables and entries of them that exclude each other (`[kl.fixed]` and `[kl.adaptive]`): a new one of them
/// replaces the old one.
///
/// # Errors
/// A key that reaches past the end of an array, or into something that is not a table.
pub(super) fn merge(into: &mut Table, from: Table, exclusive: &[Exclusive]) -> Result<(), String> {
    merge_at("", into, from, exclusive)
}

/// As [`merge`], of tables that stand at `path`; entries of an array stand at the array's.
fn merge_at(path: &str, into: &mut Table, from: Table, exclusive: &[Exclusive]) -> Result<(), String> {
    if let Some((_, one_of)) = exclusive.iter().find(|(p, _)| *p == path)
        && from.keys().any(|k| one_of.contains(&k.as_str()) && !into.contains_key(k))
    {
        into.retain(|k, _| !one_of.contains(&k));
    }
    for (key, value) in from {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge_at(&below, old, new, exclusive)?,
            (Some(Value::Array(old)), Value::Table(new)) => merge_array(&below, old, new, exclusive)?,
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
    Ok(())
}

fn merge_array(path: &str, into: &mut [Value], from: Table, exclusive: &[Exclusive]) -> Result<(), String> {
    let len = into.len();
    for (index, value) in from {
        let slot = index.parse().ok().and_then(|i: usize| into.get_mut(i)).ok_or_else(|| {
            format!("{path} has {len} entries, numbered from 0; there is no {path}.{index}")
        })?;
        match (slot, value) {
            (Value::Table(old), Value::Table(new)) => merge_at(path, old, new, exclusive)?,
            (slot, value) => *slot = value,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(base: &str, key: &str, value: &str) -> Result<String, String> {
        let mut table: Table = toml::from_str(base).unwrap();
        let exclusive: [Exclusive; 3] = [
            ("kl", &["fixed", "adaptive"]),
            ("ppo.eos", &["subtract", "replace"]),
            ("rule", &["regex", "length"]),
        ];
        merge(&mut table, nested(key, value)?, &exclusive)?;
        Ok(toml::to_string(&table).unwrap())
    }

    #[test]
    fn values_are_toml_and_otherwise_strings() {
        assert_eq!(set("", "a", "1e-4").unwrap(), "a = 1e-4\n".replace("1e-4", "0.0001"));
        assert_eq!(set("", "a", "my file.jsonl").unwrap(), "a = \"my file.jsonl\"\n");
        assert_eq!(set("", "a", "\"1\"").unwrap(), "a = \"1\"\n");
        assert_eq!(set("", "a", "[1, 2]").unwrap(), "a = [1, 2]\n");
        assert_eq!(set("", "a", "1\nb = 2").unwrap(), "a = '''\n1\nb = 2'''\n".replace("'''", "\"\"\""));
    }

    #[test]
    fn keys_reach_into_tables_and_arrays() {
        let base = "[ppo]\nlr = 1\nsteps = 2\n\n[[rule]]\nw = 1\n";
        assert_eq!(set(base, "ppo.lr", "3").unwrap(), base.replace("lr = 1", "lr = 3"));
        assert_eq!(set(base, "rule.0.w", "3").unwrap(), base.replace("w = 1", "w = 3"));
        assert!(set(base, "rule.1.w", "3").unwrap_err().contains("1 entries"));
        assert!(set(base, "ppo..lr", "3").is_err());
    }

    #[test]
    fn a_second_variant_replaces_the_first() {
        let base = "[kl.fixed]\ncoef = 1\n";
        assert_eq!(set(base, "kl.adaptive.target", "6").unwrap(), "[kl.adaptive]\ntarget = 6\n");
        assert_eq!(set(base, "kl.fixed.coef", "2").unwrap(), "[kl.fixed]\ncoef = 2\n");
        // What is no law stays.
        let base = "[kl]\nshrink = 8\n\n[kl.fixed]\ncoef = 1\n";
        let expected = "[kl]\nshrink = 8\n\n[kl.adaptive]\ntarget = 6\n";
        assert_eq!(set(base, "kl.adaptive.target", "6").unwrap(), expected);
        assert_eq!(set(base, "kl.guard.x", "1").unwrap(), format!("{base}\n[kl.guard]\nx = 1\n"));
        // Deeper, whole or by its key, and in an array.
        let base = "[ppo.eos]\nreplace = -1\n";
        assert_eq!(set(base, "ppo.eos", "{ subtract = 1 }").unwrap(), "[ppo.eos]\nsubtract = 1\n");
        assert_eq!(set(base, "ppo.eos.subtract", "1").unwrap(), "[ppo.eos]\nsubtract = 1\n");
        let base = "[[rule]]\nname = \"a\"\n\n[rule.regex]\npattern = \"b\"\n";
        assert_eq!(
            set(base, "rule.0.length.max", "9").unwrap(),
            "[[rule]]\nname = \"a\"\n\n[rule.length]\nmax = 9\n"
        );
    }
}
