//! Which files of a repository are needed, and names that may become paths.

use std::collections::BTreeSet;
use std::path::Path;

pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Files worth having, besides the weights.
const OPTIONAL: [&str; 7] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "value_head.safetensors",
    "reward_norm.json",
];

/// What a model file name may be made of: it stands in addresses and paths.
fn plain(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.chars().all(ok) && !name.starts_with('.') && !name.contains("..")
}

/// `org/name@revision` in its two parts.
pub(super) fn parse_id(id: &str) -> Result<(&str, &str), String> {
    let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
    if name.split('/').count() > 2 || !name.split('/').all(plain) {
        return Err(format!("{name:?} is not a model id; expected org/name or org/name@revision"));
    }
    if revision.is_empty() || !revision.split('/').all(plain) {
        return Err(format!("{revision:?} is not a revision; expected a branch, a tag or a commit"));
    }
    Ok((name, revision))
}

/// A commit as the server names it becomes a folder of the cache.
pub(super) fn commit(sha: &str) -> Result<(), String> {
    let hex = sha.len() >= 7 && sha.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then_some(())
        .ok_or_else(|| format!("the server named a commit {sha:?}, which is none; check HF_ENDPOINT"))
}

/// An entity tag becomes a file of the cache. A weak one (`W/…`) says of bytes what a strong one says: the hub's proxies
/// weaken tags of what they compress on the way.
pub(super) fn etag(tag: &str) -> Result<(), String> {
    plain(strong(tag))
        .then_some(())
        .ok_or_else(|| format!("the server sent the tag {tag:?}, which cannot name a file"))
}

/// A tag without the mark of a weak one.
pub(super) fn strong(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The files to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) files: Vec<String>,
    /// The index among them, whose shards are to be fetched too.
    pub(super) index: Option<&'static str>,
}

/// Chooses from the files of a repository.
pub(super) fn files(listed: &[String]) -> Result<Chosen, String> {
    let has = |f: &str| listed.iter().any(|l| l == f);
    let ends = |end: &str| listed.iter().find(|l| l.ends_with(end));
    let mut out = Vec::new();
    let whole = has("config.json") && (has(INDEX) || has("model.safetensors"));
    let adapter = has("adapter_config.json") && !whole;
    if !adapter {
        if !has("config.json") {
            return Err("the repository has no config.json; it is not a transformers model".into());
        }
        if !has("tokenizer.json") {
            let slow = ["tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"];
            return Err(match slow.into_iter().find(|f| has(f)) {
                Some(file) => format!(
                    "the repository has only a slow tokenizer ({file}); save it with a tokenizer.json: python -c \
                     \"from transformers import AutoTokenizer as T; T.from_pretrained(ID).save_pretrained(DIR)\""
                ),
                None => "the repository has no tokenizer.json (a fast tokenizer is needed)".into(),
            });
        }
        out.push("config.json".to_owned());
    }
    out.extend(adapter.then(|| "adapter_config.json".to_owned()));
    out.extend(["tokenizer.json"].into_iter().chain(OPTIONAL).filter(|f| has(f)).map(str::to_owned));
    let named = |l: &&String| {
        l.strip_prefix("additional_chat_templates/").is_some_and(|n| n.ends_with(".jinja") && plain(n))
    };
    out.extend(listed.iter().filter(named).cloned());
    let mut index = None;
    if adapter && has("adapter_model.safetensors") {
        out.push("adapter_model.safetensors".to_owned());
    } else if has("model.safetensors") && !adapter {
        // Before the index of shards, as in transformers.
        out.push("model.safetensors".to_owned());
    } else if has(INDEX) && !adapter {
        out.push(INDEX.to_owned());
        index = Some(INDEX);
    } else if let Some(gguf) = ends(".gguf").filter(|_| ends(".bin").is_none()) {
        return Err(format!(
            "the repository has its weights as GGUF only ({gguf}), which cannot be trained; take the model it was \
             made from"
        ));
    } else if let Some(pickle) = ends(".bin").or_else(|| ends(".pth")).or_else(|| ends(".pt")) {
        return Err(format!(
            "the repository has its weights as pickle only ({pickle}), which can run code when read; save them as \
             safetensors: python -c \"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; \
             M.from_pretrained(ID).save_pretrained(DIR); T.from_pretrained(ID).save_pretrained(DIR)\" (a reward model: \
             AutoModelForSequenceClassification as M)"
        ));
    } else {
        return Err("the repository has no safetensors weights".into());
    }
    Ok(Chosen { files: out, index })
}

/// The shards that an index names. Its names are not trusted.
pub(super) fn shards(
    dir: &Path,
    index: &str,
    listed: impl Fn(&str) -> bool,
) -> Result<BTreeSet<String>, String> {
    let text = std::fs::read(dir.join(index)).map_err(|e| format!("{index}: {e}"))?;
    let parsed: serde_json::Value = serde_json::from_slice(&text).map_err(|e| format!("{index}: {e}"))?;
    let Some(map) = parsed.get("weight_map").and_then(serde_json::Value::as_object) else {
        return Err(format!("{index}: expected an object `weight_map`"));
    };
    let mut out = BTreeSet::new();
    for (tensor, file) in map {
        let file = file.as_str().unwrap_or_default();
        if !plain(file) || !file.ends_with(".safetensors") {
            return Err(format!(
                "{index}: {tensor} is said to be in {file:?}, which is no safetensors file of it"
            ));
        }
        if !listed(file) {
            return Err(format!(
                "{index}: {tensor} is said to be in {file}, which the repository does not have"
            ));
        }
        out.insert(file.to_owned());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_paths_are_refused() {
        assert_eq!(parse_id("a/b@refs/pr/1"), Ok(("a/b", "refs/pr/1")));
        assert_eq!(parse_id("gpt2"), Ok(("gpt2", "main")));
        for bad in ["", "a/b/c", "../x", "a/..", "/etc", "a b/c", "a/b?x=1", "a/b#", "a\\b/c", "a/.b"] {
            assert!(parse_id(bad).unwrap_err().contains("not a model id"), "{bad}");
        }
        for bad in ["a/b@", "a/b@../../x", "a/b@/etc", "a/b@x y", "a/b@a//b", "a/b@a%2f"] {
            assert!(parse_id(bad).unwrap_err().contains("not a revision"), "{bad}");
        }
        assert!(commit("0123456789abcdef0123456789abcdef01234567").is_ok() && commit("../../../x").is_err());
        assert!(etag("d41d8cd98f00b204").is_ok() && etag("/etc/passwd").is_err() && etag("..").is_err());
        assert!(etag("W/d41d8cd98f00b204").is_ok() && etag("W/../x").is_err() && etag("W/W/x").is_err());
    }

    #[test]
    fn only_what_is_needed_is_chosen() {
        let choose = |listed: &str| files(&listed.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let all = "README.md config.json tokenizer.json tokenizer_config.json model.safetensors pytorch_model.bin \
                   model.gguf onnx/model.onnx additional_chat_templates/rag.jinja additional_chat_templates/../x.jinja";
        let want = [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "additional_chat_templates/rag.jinja",
            "model.safetensors",
        ];
        assert_eq!(choose(all).unwrap().files, want);
        let sharded = choose("config.json tokenizer.json model.safetensors.index.json").unwrap();
        assert_eq!((sharded.index, sharded.files.len()), (Some(INDEX), 3));
        let left_over = choose("config.json tokenizer.json model.safetensors.index.json model.safetensors");
        assert_eq!(left_over.unwrap().files, ["config.json", "tokenizer.json", "model.safetensors"]);
        let both = choose("config.json tokenizer.json model.safetensors adapter_config.json").unwrap();
        assert_eq!(both.files, ["config.json", "tokenizer.json", "model.safetensors"]);
        let adapter = choose("adapter_config.json adapter_model.safetensors README.md").unwrap();
        assert_eq!(adapter.files, ["adapter_config.json", "adapter_model.safetensors"]);
        for (listed, said) in [
            ("tokenizer.json model.safetensors", "no config.json"),
            ("config.json model.safetensors", "no tokenizer.json"),
            ("config.json tokenizer.model model.safetensors", "slow tokenizer (tokenizer.model)"),
            ("config.json tokenizer.json pytorch_model.bin", "pickle only (pytorch_model.bin)"),
            ("config.json tokenizer.json model-q4.gguf", "GGUF only (model-q4.gguf)"),
            ("config.json tokenizer.json tf_model.h5", "no safetensors weights"),
        ] {
            let e = choose(listed).unwrap_err();
            assert!(e.contains(said) && e.lines().count() == 1, "{e}");
        }
    }

    #[test]
    fn an_index_names_files_of_its_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        let of = |text: &str| {
            std::fs::write(dir.path().join(INDEX), text).unwrap();
            shards(dir.path(), INDEX, |f| f != "gone.safetensors")
        };
        let map = |file: &str| of(&serde_json::json!({"weight_map": {"a.weight": file}}).to_string());
        assert_eq!(map("m-1.safetensors").unwrap().len(), 1);
        for bad in [
            "../m.safetensors",
            "/m.safetensors",
            "x/m.safetensors",
            "m.bin",
            "",
            "..safetensors",
            "a?b.safetensors",
            "c:\\m.safetensors",
            "gone.safetensors",
        ] {
            assert!(map(bad).unwrap_err().contains("a.weight"), "{bad}");
        }
        assert!(of("{}").unwrap_err().contains("weight_map"));
        assert!(of("no").is_err() && of(r#"{"weight_map": {"a": 3}}"#).is_err());
    }
}
