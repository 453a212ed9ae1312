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
    let server = Server::start(vec![
        Hosted { id: "someorg/tiny", dir: model.dir.clone(), token: None },
        Hosted { id: "someorg/sharded", dir: sharded, token: None },
        Hosted { id: "someorg/closed", dir: model.dir.clone(), token: Some("open-sesame") },
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
