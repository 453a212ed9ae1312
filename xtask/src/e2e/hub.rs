//! Loading a model by its hub id: the real client against a server on the loopback interface.

use super::Model;
use super::checks::Checks;
use super::compare::{copy_dir, read_rows};
use super::http::{Hosted, Server};
use super::safetensors::shard;
use super::tether::{Tether, args};
use super::world::World;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// A tiny public model on the real hub.
const REAL_MODEL: &str = "hf-internal-testing/tiny-random-LlamaForCausalLM";

const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Checks the loading path against the loopback server.
pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) -> Result<()> {
    let sharded = tether.path("sharded-model");
    copy_dir(&model.dir, &sharded)?;
    shard(&sharded)?;
    let slow_only = tether.path("slow-tokenizer");
    copy_dir(&model.dir, &slow_only)?;
    fs::rename(slow_only.join("tokenizer.json"), slow_only.join("tokenizer.model"))?;
    let hosted = |id| Hosted::new(id, model.dir.clone());
    let server = Server::start(vec![
        hosted("someorg/tiny"),
        Hosted::new("someorg/sharded", sharded),
        Hosted::new("someorg/slow", slow_only),
        Hosted { token: Some("open-sesame"), ..hosted("someorg/closed") },
        Hosted { refuses: Some("403 Forbidden"), ..hosted("someorg/gated") },
        Hosted { revision: "v2", ..hosted("someorg/base") },
        Hosted::new("someorg/adapter", tether.path("hosted-adapter")),
    ])?;
    let online = tether.with_env(&client_env(&server.endpoint, &tether.path("home")));
    let local = tether.path("local.jsonl");
    let ran = checks.check("hub: the model to compare with", || {
        tether.ok(&generate(tether, &model.dir.to_string_lossy(), &local)?).map(drop)
    });
    if !ran {
        return Ok(());
    }
    checks.check("hub: a model by its id gives what its directory gives", || {
        let out = tether.path("remote.jsonl");
        online.ok(&generate(tether, "someorg/tiny", &out)?)?;
        let log = server.take_log();
        if !log.iter().any(|line| line.contains("/model.safetensors 206")) {
            bail!("the server was not asked for the weights: {log:?}");
        }
        expect_same_file(&local, &out)
    });
    checks.check("hub: the second time it comes from the cache", || {
        let out = tether.path("cached.jsonl");
        online.ok(&generate(tether, "someorg/tiny", &out)?)?;
        let log = server.take_log();
        if let Some(again) = log.iter().find(|line| line.contains("/model.safetensors ")) {
            bail!("the weights were asked for again: {again}");
        }
        expect_same_file(&local, &out)
    });
    checks.check("hub: a sharded model", || {
        let out = tether.path("shards.jsonl");
        online.ok(&generate(tether, "someorg/sharded", &out)?)?;
        expect_same_file(&local, &out)
    });
    let never = tether.path("never.jsonl");
    checks.check("hub: a model that is not there", || {
        online.run(&generate(tether, "someorg/nothing", &never)?)?.expect_error(&["someorg/nothing", "404"])
    });
    checks.check("hub: a model that asks for a token", || {
        let args = generate(tether, "someorg/closed", &never)?;
        online.run(&args)?.expect_error(&["someorg/closed", "401", "token"])
    });
    checks.check("hub: a gated model", || {
        let args = generate(tether, "someorg/gated", &never)?;
        online.run(&args)?.expect_error(&["someorg/gated", "403", "accept its conditions"])
    });
    checks.check("hub: a revision that is not there", || {
        let args = generate(tether, "someorg/tiny@v9", &never)?;
        online.run(&args)?.expect_error(&["someorg/tiny@v9", "no revision \"v9\""])
    });
    checks.check("hub: a model with a slow tokenizer only", || {
        let args = generate(tether, "someorg/slow", &never)?;
        online.run(&args)?.expect_error(&["someorg/slow", "slow tokenizer (tokenizer.model)", "python -c"])
    });
    checks.check("hub: a wrong token is not shown", || {
        let env = [("HF_TOKEN", OsString::from("not-this-one"))];
        let run = online.with_env(&env).run(&generate(tether, "someorg/closed", &never)?)?;
        run.expect_error(&["someorg/closed", "401", "does not accept the token"])?;
        if format!("{run:?}").contains("not-this-one") {
            bail!("the token is shown: {run:?}");
        }
        Ok(())
    });
    checks.check("hub: offline, from the cache alone", || {
        let out = tether.path("offline.jsonl");
        let offline = online.with_env(&[("HF_HUB_OFFLINE", "1".into())]);
        server.take_log();
        offline.ok(&generate(tether, "someorg/tiny", &out)?)?;
        let asked = server.take_log();
        if !asked.is_empty() {
            bail!("the server was asked: {asked:?}");
        }
        offline.run(&generate(tether, "someorg/nothing", &never)?)?.expect_error(&["HF_HUB_OFFLINE"])?;
        expect_same_file(&local, &out)
    });
    checks.check("hub: the user's token is sent", || {
        let home = tether.path("home-with-token");
        fs::create_dir_all(&home)?;
        fs::write(home.join("token"), "open-sesame")?;
        let out = tether.path("closed.jsonl");
        tether.with_env(&client_env(&server.endpoint, &home)).ok(&generate(
            tether,
            "someorg/closed",
            &out,
        )?)?;
        expect_same_file(&local, &out)
    });
    checks.check("hub: a server that does not answer", || {
        // Port 9 of this machine: nobody listens there.
        let offline = tether.with_env(&client_env("http://127.0.0.1:9", &tether.path("home-offline")));
        offline.run(&generate(tether, "someorg/tiny", &never)?)?.expect_error(&["someorg/tiny"])
    });
    check_adapters(checks, &online, model, &server);
    Ok(())
}

/// Adapters whose base is a hub id: trained over it, loaded from a directory and from the hub, and what is said where
/// the base cannot be had.
fn check_adapters(checks: &mut Checks, tether: &Tether, model: &Model, server: &Server) {
    let (out, hosted) = (tether.path("adapter-run"), tether.path("hosted-adapter"));
    let adapter = out.join("sft");
    let ran = checks.check("hub: an adapter over a base from the hub names it, and its revision", || {
        let more = "\n[model.adapter]\nrank = 4\nalpha = 8\n";
        let base = Path::new("someorg/base@v2");
        let recipe = World::write(&tether.path("world"))?.recipe_of("adapter", model, base, 2, more)?;
        tether.ok(&args!["sft", recipe, "--out", out, "--set", "sft.steps=3", "--set", "sft.lr=0.01"])?;
        let config: Value = serde_json::from_slice(&fs::read(adapter.join(ADAPTER_CONFIG))?)?;
        let named = (&config["base_model_name_or_path"], &config["revision"]);
        if named != (&json!("someorg/base"), &json!("v2")) {
            bail!("it names {named:?}");
        }
        copy_dir(&adapter, &hosted)
    });
    if !ran {
        return;
    }
    checks.check("hub: an adapter and its base, each from the hub", || {
        let (merged, wanted, plain) =
            (tether.path("merged"), tether.path("merged.jsonl"), tether.path("local.jsonl"));
        tether.ok(&args!["export", "--merge", adapter, "--out", merged])?;
        tether.ok(&generate(tether, &merged.to_string_lossy(), &wanted)?)?;
        if read_rows(&wanted)? == read_rows(&plain)? {
            bail!("the adapter changes nothing, so it shows nothing");
        }
        // With an empty cache: the hub is asked for the adapter and for its base at the revision.
        let fresh = tether.with_env(&client_env(&server.endpoint, &tether.path("home-adapter")));
        server.take_log();
        for (name, from) in [("someorg/adapter", "hub"), (&*adapter.to_string_lossy(), "directory")] {
            let found = tether.path(&format!("adapter-{from}.jsonl"));
            fresh.ok(&generate(tether, name, &found)?)?;
            same_words(&wanted, &found)?;
        }
        let log = server.take_log();
        for asked in ["/someorg/adapter/resolve/", "/api/models/someorg/base/revision/v2 200"] {
            if !log.iter().any(|line| line.contains(asked)) {
                bail!("the server was not asked for {asked}: {log:?}");
            }
        }
        let offline = fresh.with_env(&[("HF_HUB_OFFLINE", "1".into())]);
        let found = tether.path("adapter-offline.jsonl");
        offline.ok(&generate(tether, "someorg/adapter", &found)?)?;
        same_words(&wanted, &found)
    });
    for (i, (base, revision, said)) in [
        ("someorg/nothing", Value::Null, "404: no such repository"),
        ("someorg/base", Value::Null, "404: no such repository"),
        ("someorg/base", json!("v9"), "no revision \"v9\""),
        ("someorg/gated", Value::Null, "accept its conditions at"),
        ("someorg/closed", Value::Null, "set HF_TOKEN"),
        ("gone", Value::Null, "404: no such repository"),
        ("/no/such/directory", Value::Null, "base_model_name_or_path"),
        ("no/such/directory", Value::Null, "base_model_name_or_path"),
        ("someorg/adapter", Value::Null, "is an adapter itself"),
    ]
    .into_iter()
    .enumerate()
    {
        checks.check(&format!("hub: an adapter from the hub whose base is {base} {revision}"), || {
            let mut config: Value = serde_json::from_slice(&fs::read(adapter.join(ADAPTER_CONFIG))?)?;
            config["base_model_name_or_path"] = base.into();
            config["revision"] = revision;
            fs::write(hosted.join(ADAPTER_CONFIG), serde_json::to_vec(&config)?)?;
            // A cache of its own: the commit is always the same.
            let home = tether.path(&format!("home-adapter-{i}"));
            let fresh = tether.with_env(&client_env(&server.endpoint, &home));
            let never = tether.path("never.jsonl");
            let run = fresh.run(&generate(tether, "someorg/adapter", &never)?)?;
            run.expect_error(&["someorg/adapter", base, said])
        });
    }
}

/// The same tokens. Log-probs may differ in the last bits: a merged model adds in another order.
fn same_words(a: &Path, b: &Path) -> Result<()> {
    let words = |path| -> Result<Vec<Value>> {
        Ok(read_rows(path)?.into_iter().map(|row| row["token_ids"].clone()).collect())
    };
    if words(a)? != words(b)? {
        bail!("{} and {} differ", a.display(), b.display());
    }
    Ok(())
}

/// Checks the loading path against the real hub.
pub(super) fn check_real(checks: &mut Checks, tether: &Tether) {
    checks.check("hub: a tiny model from the real hub", || {
        let home = OsString::from(&tether.path("home"));
        let online = tether.with_env(&[("HF_HOME", home)]);
        let out = tether.path("real.jsonl");
        online.ok(&generate(tether, REAL_MODEL, &out)?)?;
        if read_rows(&out)?.is_empty() {
            bail!("nothing was generated");
        }
        Ok(())
    });
}

/// What the hub client reads from the environment. A proxy must not stand between it and this machine.
fn client_env(endpoint: &str, home: &Path) -> [(&'static str, OsString); 4] {
    [
        ("HF_ENDPOINT", endpoint.into()),
        ("HF_HOME", home.into()),
        ("NO_PROXY", "127.0.0.1".into()),
        ("no_proxy", "127.0.0.1".into()),
    ]
}

fn generate(tether: &Tether, model: &str, out: &Path) -> Result<Vec<OsString>> {
    let prompts = World::write(&tether.path("world"))?.file("prompts.jsonl");
    let flags = args!["--max-new-tokens", "8", "--seed", "3"];
    Ok([args!["generate", "--model", model, "--prompts", prompts, "--out", out], flags].concat())
}

fn expect_same_file(a: &Path, b: &Path) -> Result<()> {
    if fs::read(a)? != fs::read(b)? {
        bail!("{} and {} differ", a.display(), b.display());
    }
    Ok(())
}
