//! Fetching models with the real client from a hub on the loopback interface, good and bad.
#![cfg_attr(feature = "hub", expect(clippy::unwrap_used, reason = "tests: a panic is the report"))]
#![cfg(feature = "hub")]

mod server;

use server::{COMMIT, Fault, Request, Server};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tetherline_models::hub::{Settings, fetch_with};

const WEIGHTS: &str = "model.safetensors";

fn files() -> BTreeMap<String, Vec<u8>> {
    let text = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let weights = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    BTreeMap::from([
        text("config.json", "{}"),
        text("tokenizer.json", r#"{"a": 1}"#),
        text("chat_template.jinja", "{{ messages }}"),
        text("additional_chat_templates/rag.jinja", "rag"),
        text("README.md", "no"),
        text("pytorch_model.bin", "no"),
        text("model.gguf", "no"),
        text("onnx/model.onnx", "no"),
        text("tf_model.h5", "no"),
        (WEIGHTS.to_owned(), weights),
    ])
}

fn settings(server: &Server, cache: &Path) -> Settings {
    Settings {
        endpoint: server.endpoint.clone(),
        cache: cache.to_owned(),
        token: None,
        offline: false,
        attempts: 3,
        pause: Duration::from_millis(10),
        silence: Duration::from_secs(5),
    }
}

/// A server with one fault, and what fetching `a/model` from it comes to.
fn one(fault: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static) -> (Server, Result<(), String>) {
    let (server, cache) = (Server::start(files(), fault), tempfile::tempdir().unwrap());
    let outcome = fetch_with("a/model", &settings(&server, cache.path()));
    let outcome = outcome.map_err(|e| e.to_string()).map(|dir| {
        assert_eq!(std::fs::read(dir.join(WEIGHTS)).unwrap(), files()[WEIGHTS], "the weights are not whole");
    });
    (server, outcome)
}

/// A fault in the first `n` answers that `when` picks.
fn first(
    n: usize,
    when: impl Fn(&Request) -> bool + Send + Sync + 'static,
    fault: Fault,
) -> impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static {
    let seen = AtomicUsize::new(0);
    move |r| (when(r) && seen.fetch_add(1, Ordering::SeqCst) < n).then(|| fault.clone())
}

/// The file that is half there.
fn part(cache: &Path) -> Option<PathBuf> {
    let mut blobs = std::fs::read_dir(cache.join("models--a--model/blobs")).ok()?.map(|e| e.unwrap().path());
    blobs.find(|p| p.extension().is_some_and(|e| e == "part"))
}

fn weights(r: &Request) -> bool {
    r.is_download(WEIGHTS)
}

#[test]
fn only_what_is_needed_comes_and_comes_once() {
    let (server, cache) = (Server::start(files(), |_| None), tempfile::tempdir().unwrap());
    let settings = settings(&server, cache.path());
    let dir = fetch_with("a/model", &settings).unwrap();
    let mut there: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(
        there,
        ["additional_chat_templates", "chat_template.jinja", "config.json", WEIGHTS, "tokenizer.json"]
    );
    assert_eq!(std::fs::read(dir.join(WEIGHTS)).unwrap(), files()[WEIGHTS]);
    // The layout of Python's cache.
    let root = cache.path().join("models--a--model");
    assert_eq!(dir, root.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    // Again, by branch, by tag and by commit: only the revision is asked for.
    let before = server.requests().len();
    for id in ["a/model", "a/model@v1", &format!("a/model@{COMMIT}")] {
        assert_eq!(fetch_with(id, &settings).unwrap(), dir);
    }
    assert_eq!(server.requests().len(), before + 3);
    assert!(server.requests().iter().all(|r| r.token.is_none()));
}

#[test]
fn refusals_are_said_in_plain_words() {
    for (code, said) in [
        (401, "set HF_TOKEN to a token that may read it"),
        (403, "access is gated: accept its conditions at http://127.0.0.1"),
        (404, "no such repository; check the id"),
        (429, "asks to slow down"),
        (503, "the hub has a problem"),
        (418, "HTTP status 418"),
    ] {
        let (server, outcome) = one(move |_| Some(Fault::Status(code)));
        let e = outcome.unwrap_err();
        assert!(e.contains(said) && e.contains("a/model") && e.lines().count() == 1, "{e}");
        // What may pass is tried three times.
        assert_eq!(server.requests().len(), if matches!(code, 429 | 503) { 3 } else { 1 }, "{code}");
    }
    let server = Server::start(files(), |_| None);
    let cache = tempfile::tempdir().unwrap();
    let fetch = |id: &str| fetch_with(id, &settings(&server, cache.path())).unwrap_err().to_string();
    assert!(fetch("a/model@v9").contains("no revision \"v9\""));
    assert!(fetch("a/other").contains("no such repository"));
    assert!(fetch("a/model@../../x").contains("not a revision"));
    let (_, outcome) = one(|r| r.path.ends_with("/tokenizer.json").then_some(Fault::Status(404)));
    assert!(outcome.unwrap_err().contains("tokenizer.json: 404: the repository lists this file"));
}

#[test]
fn the_token_is_sent_and_never_shown() {
    let needs = |r: &Request| (r.token.as_deref() != Some("hf_secret")).then_some(Fault::Status(401));
    let server = Server::start(files(), needs);
    let cache = tempfile::tempdir().unwrap();
    let with = |token: &str| Settings { token: Some(token.into()), ..settings(&server, cache.path()) };
    let e = fetch_with("a/model", &with("hf_wrong")).unwrap_err();
    assert!(e.to_string().contains("does not accept the token"), "{e}");
    assert!(!format!("{e} {e:?} {:?}", with("hf_wrong")).contains("hf_wrong"));
    fetch_with("a/model", &with("hf_secret")).unwrap();
    // A server that sends the token back in what ends up in a message.
    let echo = Server::start(files(), |r: &Request| {
        Some(Fault::Header("sha", format!("commit {}", r.token.clone().unwrap_or_default())))
    });
    let settings = Settings { endpoint: echo.endpoint.clone(), ..with("hf_secret") };
    let e = fetch_with("a/model", &settings).unwrap_err();
    assert!(e.to_string().contains("(hidden)") && !format!("{e:?}").contains("hf_secret"), "{e:?}");
}

#[test]
fn the_token_stays_with_the_hub() {
    // Large storage does not know the hub's token; here it has a hub's paths, but its own tag and no commit.
    let bare = |r: &Request| r.token.is_some().then_some(Fault::Status(400));
    let storage = Server::start(files(), bare);
    // Another host, as the client sees it.
    let address = storage.endpoint.replace("127.0.0.1", "localhost");
    let hub = Server::start(files(), move |r: &Request| match r.path.strip_suffix(WEIGHTS) {
        _ if r.token.as_deref() != Some("hf_secret") => Some(Fault::Status(401)),
        Some(_) => Some(Fault::Elsewhere(format!("{address}/a/model/resolve/main/{WEIGHTS}"))),
        None => None,
    });
    let cache = tempfile::tempdir().unwrap();
    let settings = Settings { token: Some("hf_secret".into()), ..settings(&hub, cache.path()) };
    let dir = fetch_with("a/model", &settings).unwrap();
    assert_eq!(std::fs::read(dir.join(WEIGHTS)).unwrap(), files()[WEIGHTS]);
    assert_eq!(storage.requests().len(), 2, "size and content");
    assert!(storage.requests().iter().all(|r| r.token.is_none()), "{:?}", storage.requests());
    // A path on the same host is the hub's own: a repository that was renamed.
    let renamed =
        Server::start(files(), |r: &Request| match r.path.strip_suffix(&format!("main/{WEIGHTS}")) {
            _ if r.token.as_deref() != Some("hf_secret") => Some(Fault::Status(401)),
            _ => r
                .path
                .strip_suffix(&format!("{COMMIT}/{WEIGHTS}"))
                .map(|p| Fault::Elsewhere(format!("{p}main/{WEIGHTS}"))),
        });
    let cache = tempfile::tempdir().unwrap();
    fetch_with("a/model", &Settings { endpoint: renamed.endpoint, cache: cache.path().into(), ..settings })
        .unwrap();
}

#[test]
fn a_redirect_that_never_ends_is_given_up() {
    let (_, outcome) = one(|r| r.path.ends_with(WEIGHTS).then(|| Fault::Elsewhere(r.path.clone())));
    assert!(outcome.unwrap_err().contains("redirected more than 10 times"));
}

#[test]
fn a_server_that_says_when_to_come_back_is_believed() {
    let began = Instant::now();
    let (server, outcome) = one(first(1, weights, Fault::Later(1)));
    outcome.unwrap();
    assert_eq!(server.downloads(WEIGHTS).len(), 2);
    // The pause of these settings is ten milliseconds.
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn what_passes_is_waited_for() {
    for code in [429, 500, 503] {
        let (server, outcome) = one(first(2, weights, Fault::Status(code)));
        outcome.unwrap();
        assert_eq!(server.downloads(WEIGHTS).len(), 3, "{code}");
    }
    let (server, outcome) = one(first(2, |r| r.path.contains("/revision/"), Fault::Status(429)));
    outcome.unwrap();
    assert_eq!(server.requests().iter().filter(|r| r.path.contains("/revision/")).count(), 3);
}

#[test]
fn a_download_that_is_cut_off_goes_on_where_it_stopped() {
    let (server, outcome) = one(first(1, weights, Fault::CutAfter(150_000)));
    outcome.unwrap();
    let asked = server.downloads(WEIGHTS);
    assert_eq!(asked.len(), 2);
    let resumed = asked[1].range.unwrap().0;
    assert!(0 < resumed && resumed <= 150_000, "{asked:?}");
    // Cut off every time: an error, and the next fetch goes on.
    let (server, cache) =
        (Server::start(files(), first(3, weights, Fault::CutAfter(100_000))), tempfile::tempdir().unwrap());
    let settings = settings(&server, cache.path());
    let e = fetch_with("a/model", &settings).unwrap_err().to_string();
    assert!(e.contains("model.safetensors: the connection"), "{e}");
    let dir = fetch_with("a/model", &settings).unwrap();
    assert_eq!(std::fs::read(dir.join(WEIGHTS)).unwrap(), files()[WEIGHTS]);
    assert!(server.downloads(WEIGHTS)[3].range.unwrap().0 > 200_000);
}

#[test]
fn a_body_that_is_too_short_or_too_long_is_no_file() {
    // It says itself that it is whole; only the size tells.
    let (server, outcome) = one(first(1, weights, Fault::ShortBy(1000)));
    outcome.unwrap();
    let asked = server.downloads(WEIGHTS);
    assert_eq!((asked.len(), asked[1].range.unwrap().0), (2, 399_000), "{asked:?}");
    let (_, outcome) = one(|r| weights(r).then_some(Fault::ShortBy(1000)));
    assert!(outcome.unwrap_err().contains("399000 bytes came instead of 400000"));
    // A server that begins anew although asked to go on.
    let n = AtomicUsize::new(0);
    let (server, outcome) = one(move |r| match n.fetch_add(usize::from(weights(r)), Ordering::SeqCst) {
        _ if !weights(r) => None,
        0 => Some(Fault::CutAfter(100_000)),
        1 => Some(Fault::NoRange),
        _ => None,
    });
    outcome.unwrap();
    assert_eq!(server.downloads(WEIGHTS).len(), 2, "what came anew is whole");
}

#[test]
fn one_content_under_two_names_comes_once() {
    let mut files = files();
    files.insert("generation_config.json".to_owned(), files["config.json"].clone());
    let (server, cache) = (Server::start(files, |_| None), tempfile::tempdir().unwrap());
    let dir = fetch_with("a/model", &settings(&server, cache.path())).unwrap();
    assert_eq!(std::fs::read(dir.join("generation_config.json")).unwrap(), b"{}");
    assert_eq!(std::fs::read(dir.join("config.json")).unwrap(), b"{}");
    let asked = ["config.json", "generation_config.json"].map(|f| server.downloads(f).len());
    assert_eq!(asked.iter().sum::<usize>(), 1, "{asked:?}");
}

#[test]
fn a_file_of_the_right_size_with_other_bytes_is_not_kept() {
    // The server's tags are what sha256sum and git hash-object say.
    let weights_hash = "20ff50e632cc575386b15d7fcd9c3842ef435388ed29ae8c30617158ee907dc5";
    let config_hash = "9e26dfeeb6e641a33dae4961196235bdb965b21b";
    let tag = |file: &str| server::tags(file, &files()[file]).pop().unwrap().1;
    assert_eq!(
        (tag(WEIGHTS), tag("config.json")),
        (format!("\"{weights_hash}\""), format!("\"{config_hash}\""))
    );
    for (file, at, hash, kind) in
        [(WEIGHTS, 399_999, weights_hash, "SHA-256"), ("config.json", 1, config_hash, "git SHA-1")]
    {
        let damaged = first(1, move |r| r.is_download(file), Fault::Flip(at));
        let (server, cache) = (Server::start(files(), damaged), tempfile::tempdir().unwrap());
        let settings = settings(&server, cache.path());
        let e = fetch_with("a/model", &settings).unwrap_err().to_string();
        assert!(e.contains(&format!("{file}: what came is not the file")) && e.contains("try again"), "{e}");
        let other = e.split_once(&format!("{kind} is ")).unwrap().1.split(' ').next().unwrap();
        assert!(
            e.contains(&format!("instead of {hash};")) && other != hash && other.len() == hash.len(),
            "{e}"
        );
        // It came whole, so asking at once would not help; nothing of it is left, and the next fetch is good.
        assert_eq!(server.downloads(file).len(), 1);
        let root = cache.path().join("models--a--model");
        assert!(
            !root.join("snapshots").join(COMMIT).join(file).exists()
                && !root.join("blobs").join(hash).exists()
        );
        let offline = Settings { offline: true, ..settings.clone() };
        let e = fetch_with("a/model", &offline).unwrap_err().to_string();
        assert!(e.contains("the cache does not have the model"), "{e}");
        let dir = fetch_with("a/model", &settings).unwrap();
        assert_eq!(std::fs::read(dir.join(file)).unwrap(), files()[file]);
        assert_eq!(server.downloads(file).len(), 2);
    }
}

#[test]
fn a_part_that_was_damaged_is_fetched_anew() {
    let server = Server::start(files(), first(1, weights, Fault::CutAfter(100_000)));
    let cache = tempfile::tempdir().unwrap();
    let settings = Settings { attempts: 1, ..settings(&server, cache.path()) };
    fetch_with("a/model", &settings).unwrap_err();
    let part = part(cache.path()).unwrap();
    let mut bytes = std::fs::read(&part).unwrap();
    assert_eq!(bytes, files()[WEIGHTS][..bytes.len()]);
    bytes[0] ^= 1;
    std::fs::write(part, bytes).unwrap();
    let dir = fetch_with("a/model", &Settings { attempts: 2, ..settings }).unwrap();
    assert_eq!(std::fs::read(dir.join(WEIGHTS)).unwrap(), files()[WEIGHTS]);
    let asked: Vec<_> = server.downloads(WEIGHTS).iter().map(|r| r.range.unwrap().0 > 0).collect();
    assert_eq!(asked, [false, true, false], "the rest, then the whole");
}

#[test]
fn a_part_that_is_whole_or_too_long_does_no_harm() {
    for extra in [0, 7] {
        let server = Server::start(files(), first(1, weights, Fault::CutAfter(100_000)));
        let cache = tempfile::tempdir().unwrap();
        let settings = Settings { attempts: 1, ..settings(&server, cache.path()) };
        fetch_with("a/model", &settings).unwrap_err();
        let part = part(cache.path()).unwrap();
        // As if it had been killed before the part got its name, or as a damaged file.
        let mut bytes = files()[WEIGHTS].clone();
        bytes.extend(vec![9; extra]);
        std::fs::write(part, bytes).unwrap();
        let dir = fetch_with("a/model", &settings).unwrap();
        assert_eq!(std::fs::read(dir.join(WEIGHTS)).unwrap(), files()[WEIGHTS], "{extra}");
    }
}

#[test]
fn a_slow_server_is_waited_for_and_a_silent_one_is_not() {
    let slow = Fault::Slow(100_000, Duration::from_millis(150));
    let (server, cache) =
        (Server::start(files(), move |r| weights(r).then(|| slow.clone())), tempfile::tempdir().unwrap());
    // Four pauses together are longer than the silence that is allowed.
    let settings = Settings { silence: Duration::from_millis(400), ..settings(&server, cache.path()) };
    fetch_with("a/model", &settings).unwrap();
    for file in ["config.json", WEIGHTS, "main"] {
        let silent = move |r: &Request| r.path.ends_with(file).then_some(Fault::SilentAfter(1));
        let (server, cache) = (Server::start(files(), silent), tempfile::tempdir().unwrap());
        let settings =
            Settings { endpoint: server.endpoint.clone(), cache: cache.path().into(), ..settings.clone() };
        let began = Instant::now();
        let e = fetch_with("a/model", &settings).unwrap_err().to_string();
        assert!(e.contains("sent nothing for 400ms"), "{file}: {e}");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_killed_process_leaves_what_it_has() {
    const CHILD: &str = "TETHER_TEST_HUB_CHILD";
    if let Ok(args) = std::env::var(CHILD) {
        let (endpoint, cache) = args.split_once(' ').unwrap();
        let settings = Settings {
            endpoint: endpoint.into(),
            cache: cache.into(),
            token: None,
            offline: false,
            attempts: 1,
            pause: Duration::ZERO,
            silence: Duration::from_secs(60),
        };
        fetch_with("a/model", &settings).unwrap();
        return;
    }
    let slow = Fault::Slow(20_000, Duration::from_millis(100));
    let (server, cache) = (Server::start(files(), first(1, weights, slow)), tempfile::tempdir().unwrap());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_leaves_what_it_has"])
        .env(CHILD, format!("{} {}", server.endpoint, cache.path().display()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let part = || {
        let length = std::fs::metadata(part(cache.path())?).map_or(0, |m| m.len());
        Some(length).filter(|&n| n > 0 && n < 400_000)
    };
    let began = Instant::now();
    while part().is_none() || server.downloads(WEIGHTS).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "no part appeared");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let dir = fetch_with("a/model", &settings(&server, cache.path())).unwrap();
    assert_eq!(std::fs::read(dir.join(WEIGHTS)).unwrap(), files()[WEIGHTS]);
    let asked = server.downloads(WEIGHTS);
    assert!(asked.len() == 2 && asked[1].range.unwrap().0 > 0, "{asked:?}");
}

#[test]
fn shards_are_those_of_the_index_and_its_names_are_not_trusted() {
    let with_index = |map: serde_json::Value| {
        let mut files = files();
        let weights = files.remove(WEIGHTS).unwrap();
        for shard in ["model-00001-of-00002.safetensors", "part_two.safetensors", "model-99999.safetensors"] {
            files.insert(shard.into(), weights.clone());
        }
        let index = serde_json::json!({"weight_map": map}).to_string().into_bytes();
        files.insert("model.safetensors.index.json".into(), index);
        let (server, cache) = (Server::start(files, |_| None), tempfile::tempdir().unwrap());
        let outcome = fetch_with("a/model", &settings(&server, cache.path()));
        (outcome.map_err(|e| e.to_string()), cache, server)
    };
    let good = serde_json::json!({"a": "model-00001-of-00002.safetensors", "b": "part_two.safetensors"});
    let (dir, _cache, server) = with_index(good);
    let dir = dir.unwrap();
    assert!(dir.join("part_two.safetensors").is_file() && !dir.join("model-99999.safetensors").exists());
    // Complete, so it can be used without a network.
    let settings = Settings { offline: true, ..settings(&server, dir.ancestors().nth(3).unwrap()) };
    assert_eq!(fetch_with("a/model", &settings).unwrap(), dir);
    std::fs::remove_file(dir.join("part_two.safetensors")).unwrap();
    let e = fetch_with("a/model", &settings).unwrap_err().to_string();
    assert!(e.contains("the cached model lacks part_two.safetensors"), "{e}");
    for bad in ["../../../evil.safetensors", "/evil.safetensors", "missing.safetensors", "pytorch_model.bin"]
    {
        let (e, cache, server) = with_index(serde_json::json!({"a": bad}));
        assert!(e.unwrap_err().contains("a is said to be in"), "{bad}");
        assert!(!server.requests().iter().any(|r| r.path.contains("evil")));
        assert!(!cache.path().join("evil.safetensors").exists());
    }
}

#[test]
fn headers_that_would_leave_the_cache_are_refused() {
    for (name, value, said) in [
        ("ETag", "\"../../../evil\"", "cannot name a file"),
        ("ETag", "\"/tmp/evil\"", "cannot name a file"),
        ("X-Repo-Commit", "../../evil", "of commit"),
        ("sha", "../../../evil", "named a commit"),
    ] {
        let (_, outcome) = one(move |_| Some(Fault::Header(name, value.to_owned())));
        let e = outcome.unwrap_err();
        assert!(e.contains(said), "{name}: {e}");
    }
}

#[test]
fn without_a_network_the_cache_does() {
    let (server, cache) = (Server::start(files(), |_| None), tempfile::tempdir().unwrap());
    let online = settings(&server, cache.path());
    let offline = Settings { offline: true, ..online.clone() };
    let e = fetch_with("a/model", &offline).unwrap_err().to_string();
    assert!(e.contains("HF_HUB_OFFLINE is set, and the cache does not have the model"), "{e}");
    let dir = fetch_with("a/model", &online).unwrap();
    let before = server.requests().len();
    for id in ["a/model", &format!("a/model@{COMMIT}")] {
        assert_eq!(fetch_with(id, &offline).unwrap(), dir);
    }
    assert_eq!(server.requests().len(), before, "offline asks nobody");
    // Nobody listens on port 9.
    let gone = Settings { endpoint: "http://127.0.0.1:9".into(), ..online };
    assert_eq!(fetch_with("a/model", &gone).unwrap(), dir);
    let e = fetch_with("a/model@v1", &gone).unwrap_err().to_string();
    assert!(e.contains("the connection to http://127.0.0.1:9 failed"), "{e}");
}
