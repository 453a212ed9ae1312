//! The HTTP rule against a server on the loopback that answers, stalls, breaks off, or is not there.

#![cfg(feature = "http")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tetherline_core::{Score, TextSample};
use tetherline_reward::{HttpRule, RewardError, RuleConfig};

/// What the server does with a request.
#[derive(Clone)]
enum Act {
    /// Answers with a status and a body.
    Say(u16, String),
    /// Answers in chunks.
    Chunks(Vec<String>),
    /// Says nothing for so long.
    Stall(Duration),
    /// Sends half an answer, then one byte now and then.
    Drip,
    /// Closes the connection.
    HangUp,
}

/// A server that does the acts in turn, the last one for ever; returns its URL and the bodies it was sent.
fn serve(acts: Vec<Act>) -> (String, Arc<Mutex<Vec<serde_json::Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/get_reward", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&bodies);
    std::thread::spawn(move || {
        for (i, stream) in listener.incoming().enumerate() {
            let (mut stream, act) = (stream.unwrap(), acts[i.min(acts.len() - 1)].clone());
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut length, mut line) = (0, String::new());
                while reader.read_line(&mut line).unwrap_or(0) > 2 {
                    let lower = line.to_lowercase();
                    if let Some(n) = lower.strip_prefix("content-length:") {
                        length = n.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                seen.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
                // The client may be gone, which is its right.
                let _ = match act {
                    Act::Say(status, text) => write!(
                        stream,
                        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
                        text.len()
                    ),
                    Act::Chunks(parts) => {
                        let body: String =
                            parts.iter().map(|p| format!("{:x}\r\n{p}\r\n", p.len())).collect();
                        write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n")
                    }
                    Act::Stall(time) => {
                        std::thread::sleep(time);
                        Ok(())
                    }
                    Act::Drip => {
                        let mut sent = write!(stream, "{head}Content-Length: 1000\r\n\r\n[");
                        while sent.is_ok() {
                            std::thread::sleep(Duration::from_millis(50));
                            sent = stream.write_all(b" ");
                        }
                        Ok(())
                    }
                    Act::HangUp => Ok(()),
                };
            });
        }
    });
    (url, bodies)
}

fn rule(url: &str, more: &str) -> HttpRule {
    let config: RuleConfig = toml::from_str(&format!("[http]\nurl = \"{url}\"\n{more}")).unwrap();
    config.validate().unwrap();
    let RuleConfig::Http(config) = config else { panic!("another rule") };
    HttpRule::new(config).unwrap()
}

fn samples(n: usize) -> Vec<TextSample<'static>> {
    vec![TextSample { prompt: "Say hi. ", response: "hi", answer: "hi", ..TextSample::default() }; n]
}

fn say(text: &str) -> Act {
    Act::Say(200, text.into())
}

const STAND_IN: &str = "on_failure = { score = -1.0 }";

#[test]
fn scores_come_back_batch_by_batch() {
    let (url, bodies) = serve(vec![
        say("{\"rewards\": [0.5, 1]}"),
        Act::Chunks(vec!["{\"rewards\": [[".into(), "-2.0]]}".into()]),
    ]);
    let mut rule = rule(&url, "batch = 2\nweight = 2.0");
    let parts = rule.score(&samples(3)).unwrap();
    assert_eq!((parts[0].name.as_str(), &parts[0].values[..]), ("rule.http", &[1.0, 2.0, -4.0][..]));
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies[0]["query"], serde_json::json!(["Say hi. hi", "Say hi. hi"]));
    assert_eq!(
        (bodies[1]["prompts"].clone(), bodies[1]["labels"].clone()),
        (["Say hi. "].into(), ["hi"].into())
    );
    assert!(rule.fallbacks().is_empty() && rule.run(&[]).unwrap().is_empty());
}

#[test]
fn a_stumbling_server_is_asked_again() {
    let busy = Act::Say(503, "busy".into());
    let (url, bodies) = serve(vec![busy.clone(), Act::HangUp, say("[7]")]);
    assert_eq!(rule(&url, "").run(&samples(1)).unwrap(), [7.0]);
    assert_eq!(bodies.lock().unwrap().len(), 3);
    let (url, bodies) = serve(vec![busy]);
    let error = rule(&url, "retries = 1").run(&samples(1)).unwrap_err().to_string();
    assert!(error.contains("answered with status 503: busy (2 attempts)") && error.contains(&url), "{error}");
    assert_eq!(bodies.lock().unwrap().len(), 2);
    // What is wrong with the request is wrong again.
    let (url, bodies) = serve(vec![Act::Say(422, "no field x".into())]);
    let error = rule(&url, "").run(&samples(1)).unwrap_err().to_string();
    assert!(error.contains("status 422: no field x"), "{error}");
    assert_eq!(bodies.lock().unwrap().len(), 1);
}

/// Slow, dripping and dead servers cost a call a bounded time, and the declared stand-in takes their place.
#[test]
fn no_server_freezes_a_run() {
    for act in
        [Act::Stall(Duration::from_secs(60)), Act::Drip, Act::HangUp, say("<html>"), say("[1, 2, 3, 4]")]
    {
        let (url, _) = serve(vec![say("[1, 2]"), act]);
        let mut rule = rule(&url, &format!("batch = 2\ntimeout_s = 0.3\nretries = 1\n{STAND_IN}"));
        let start = Instant::now();
        assert_eq!(rule.run(&samples(400)).unwrap()[..3], [1.0, 2.0, -1.0]);
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        let lost = rule.fallbacks();
        assert_eq!((lost[0].rows.len(), lost[0].source.as_str()), (398, "http"), "{lost:?}");
    }
}

/// With one sample a request, a slow one costs itself; a server that has died is given up after three of them.
#[test]
fn a_slow_sample_costs_its_own_score() {
    let stall = Act::Stall(Duration::from_secs(60));
    let more = format!("batch = 1\ntimeout_s = 0.3\nretries = 0\n{STAND_IN}");
    let (url, _) =
        serve(vec![say("[1]"), stall.clone(), say("[3]"), stall.clone(), stall.clone(), say("[6]")]);
    assert_eq!(rule(&url, &more).run(&samples(6)).unwrap(), [1.0, -1.0, 3.0, -1.0, -1.0, 6.0]);
    let (url, bodies) = serve(vec![say("[1]"), stall]);
    assert_eq!(rule(&url, &more).run(&samples(9)).unwrap()[..2], [1.0, -1.0]);
    assert_eq!(bodies.lock().unwrap().len(), 1 + 3);
}

#[test]
fn single_scores_that_are_no_numbers_are_replaced() {
    let (url, _) = serve(vec![say("{\"rewards\": [1, NaN, 1e300]}")]);
    let mut ours = rule(&url, STAND_IN);
    assert_eq!(ours.run(&samples(3)).unwrap(), [1.0, -1.0, -1.0]);
    assert_eq!(ours.fallbacks()[0].rows, [1, 2]);
    // The server lives: the next request is sent.
    let (again, _) = serve(vec![say("[null]"), say("[4]")]);
    assert_eq!(rule(&again, &format!("batch = 1\n{STAND_IN}")).run(&samples(2)).unwrap(), [-1.0, 4.0]);
    let error = rule(&url, "").run(&samples(3)).unwrap_err().to_string();
    assert!(error.contains("gave no finite score for sample 1 of its 3"), "{error}");
}

/// Nobody listens: a mistake in the recipe at first, later bad luck.
#[test]
fn a_server_that_never_answered_stops_the_run() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/get_reward");
    let error = rule(&url, &format!("retries = 0\n{STAND_IN}")).run(&samples(2)).unwrap_err();
    assert!(matches!(&error, RewardError::Source { .. }), "{error}");
    assert!(error.to_string().contains("cannot be asked"), "{error}");
}
