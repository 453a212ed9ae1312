//! Where Jinja in Python and in Rust print differently, Python's way: `None`, `True`, `json.dumps`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};

/// Prints `None`, `True` and `False` as Python does; all else as usual.
pub(crate) fn python_formatter(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}

/// Gives `env` Python's answers to what a value is, and to the length of nothing.
pub(crate) fn python_tests(env: &mut Environment<'_>) {
    use ValueKind::{Bool, Iterable, Map, Number, Seq, String, Undefined};
    env.add_test("iterable", |v: &Value| matches!(v.kind(), Undefined | String | Seq | Map | Iterable));
    env.add_test("sequence", |v: &Value| matches!(v.kind(), Undefined | String | Seq | Map));
    // In Python a bool is an int.
    env.add_test("number", |v: &Value| matches!(v.kind(), Number | Bool));
    for name in ["length", "count"] {
        env.add_filter(name, |v: &Value| match v.kind() {
            Undefined => Ok(0),
            kind => v.len().ok_or_else(|| invalid(format!("a value of type {kind} has no length"))),
        });
    }
}

/// Python's methods of strings and dicts: those of `minijinja_contrib`, and some that it lacks.
pub(crate) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let text = |i: usize| args.get(i).and_then(Value::as_str);
    if let (Some(s), Some(by)) = (value.as_str(), text(0)) {
        let three = |cut: Option<(&str, &str)>, none: [&str; 3]| {
            Ok(Value::from_iter(cut.map_or(none, |(a, b)| [a, by, b])))
        };
        match name {
            "removeprefix" => return Ok(Value::from(s.strip_prefix(by).unwrap_or(s))),
            "removesuffix" => return Ok(Value::from(s.strip_suffix(by).unwrap_or(s))),
            "partition" if !by.is_empty() => return three(s.split_once(by), [s, "", ""]),
            "rpartition" if !by.is_empty() => return three(s.rsplit_once(by), ["", "", s]),
            "rsplit" if !by.is_empty() => {
                let most = args.get(1).and_then(Value::as_i64).and_then(|n| usize::try_from(n).ok());
                let mut parts: Vec<&str> =
                    s.rsplitn(most.map_or(usize::MAX, |n| n.saturating_add(1)), by).collect();
                parts.reverse();
                return Ok(Value::from_iter(parts));
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(crate) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("tojson: expected two separators")),
    };
    let dump = Dump {
        indent,
        item,
        key,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    dump.write(&mut out, value, 0)?;
    Ok(out)
}

fn invalid(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

struct Dump {
    indent: Option<usize>,
    item: String,
    key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl Dump {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items(out, depth, ('[', ']'), &items, |out, v| self.write(out, v, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.items(out, depth, ('{', '}'), &keys, |out, k| {
                    self.string(out, &k.to_string());
                    out.push_str(&self.key);
                    self.write(out, &value.get_item(k)?, depth + 1)
                })?;
            }
            other => return Err(invalid(format!("tojson: {other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn items(
        &self,
        out: &mut String,
        depth: usize,
        (open, close): (char, char),
        items: &[Value],
        mut each: impl FnMut(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item);
            }
            self.new_line(out, depth + 1);
            each(out, item)?;
        }
        if !items.is_empty() {
            self.new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        // Both libraries escape `"`, `\` and control characters alike.
        let escaped = serde_json::Value::from(text).to_string();
        for c in escaped.chars() {
            if c.is_ascii() || !self.ensure_ascii {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}
