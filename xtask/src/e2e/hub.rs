//! Loading a model by its hub id: the real client against a server on the loopback interface.

use super::Model;
use super::checks::Checks;
use super::compare::{copy_dir, read_rows};
use super::http::{Hosted, Server};
use super::safetensors::shard;
use super::tether::{Tether, args};
use super::world::World;
use anyhow::{Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// A tiny public model on the real hub.
const REAL_MODEL: &str = "hf-internal-testing/tiny-random-LlamaForCausalLM";

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
