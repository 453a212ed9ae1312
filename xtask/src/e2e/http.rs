//! A server on the loopback interface that speaks as much HTTP as a hub's download API needs.
//!
//! `GET /api/models/{id}/revision/{revision}` lists a model's files; `GET` and `HEAD` of
//! `/{id}/resolve/{revision}/{file}` give one (the revision is the model's own, `main` by default, or its commit), with
//! `Range`, `ETag` and `X-Repo-Commit`. One thread, one request per connection.

use anyhow::{Context, Result};
use serde_json::json;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The commit that every model is at.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A model that the server has.
pub(super) struct Hosted {
    /// `owner/name`.
    pub(super) id: &'static str,
    pub(super) dir: PathBuf,
    /// Its only branch.
    pub(super) revision: &'static str,
    /// The token it asks for.
    pub(super) token: Option<&'static str>,
    /// The status that it answers everything with.
    pub(super) refuses: Option<&'static str>,
}

impl Hosted {
    pub(super) fn new(id: &'static str, dir: PathBuf) -> Self {
        Self { id, dir, revision: "main", token: None, refuses: None }
    }
}

/// A running server. It ends with the program.
pub(super) struct Server {
    pub(super) endpoint: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn start(models: Vec<Hosted>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on the loopback interface")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let log = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away in the middle is its own affair.
                let _ = serve(&stream, &models, &served);
            }
        });
        Ok(Self { endpoint, log })
    }

    /// What was asked for since the last call: `METHOD path status`.
    pub(super) fn take_log(&self) -> Vec<String> {
        self.log.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default()
    }
}

/// What matters of a request.
struct Request {
    method: String,
    path: String,
    /// First and last byte asked for; the last may be left open.
    range: Option<(usize, Option<usize>)>,
    token: Option<String>,
}

struct Response {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    fn error(status: &'static str, code: &str) -> Self {
        let body = json!({ "error": status }).to_string().into_bytes();
        Self { status, headers: vec![("X-Error-Code", code.to_owned())], body }
    }
}

fn serve(stream: &TcpStream, models: &[Hosted], log: &Mutex<Vec<String>>) -> Result<()> {
    let request = read_request(stream)?;
    let response = respond(&request, models);
    if let Ok(mut log) = log.lock() {
        log.push(format!("{} {} {}", request.method, request.path, response.status));
    }
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", response.status);
    write!(head, "Content-Length: {}\r\n", response.body.len())?;
    for (name, value) in &response.headers {
        write!(head, "{name}: {value}\r\n")?;
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&response.body)?;
    }
    Ok(stream.flush()?)
}

fn read_request(stream: &TcpStream) -> Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().context("an empty request")??;
    let mut words = first.split(' ');
    let (method, path) = words.next().zip(words.next()).context("a malformed request")?;
    let mut request = Request { method: method.to_owned(), path: path.to_owned(), range: None, token: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = parse_range(value),
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Ok(request)
}

/// `bytes=a-` or `bytes=a-b`.
fn parse_range(value: &str) -> Option<(usize, Option<usize>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

fn respond(request: &Request, models: &[Hosted]) -> Response {
    let path = request.path.split('?').next().unwrap_or_default().trim_start_matches('/');
    let (id, rest) = match path.strip_prefix("api/models/") {
        Some(rest) => split_id(rest),
        None => split_id(path),
    };
    let Some(model) = models.iter().find(|m| m.id == id) else {
        return Response::error("404 Not Found", "RepoNotFound");
    };
    if let Some(status) = model.refuses {
        return Response::error(status, "Refused");
    }
    if model.token.is_some() && model.token != request.token.as_deref() {
        return Response::error("401 Unauthorized", "GatedRepo");
    }
    let mut parts = rest.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("revision"), Some(r), None) if r == model.revision => list(model),
        (Some("resolve"), Some(r), Some(file)) if r == model.revision || r == COMMIT => {
            send(model, file, request.range)
        }
        _ => Response::error("404 Not Found", "RevisionNotFound"),
    }
}

/// `owner/name` and what follows.
fn split_id(path: &str) -> (&str, &str) {
    let end = path.match_indices('/').nth(1).map_or(path.len(), |(i, _)| i);
    (&path[..end], path[end..].trim_start_matches('/'))
}

fn list(model: &Hosted) -> Response {
    let entries = std::fs::read_dir(&model.dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let siblings: Vec<_> = names.iter().map(|name| json!({ "rfilename": name })).collect();
    let body = json!({ "id": model.id, "modelId": model.id, "sha": COMMIT, "siblings": siblings });
    let headers = vec![("Content-Type", "application/json".to_owned())];
    Response { status: "200 OK", headers, body: body.to_string().into_bytes() }
}

fn send(model: &Hosted, file: &str, range: Option<(usize, Option<usize>)>) -> Response {
    let Ok(bytes) = std::fs::read(model.dir.join(file)) else {
        return Response::error("404 Not Found", "EntryNotFound");
    };
    let etag = format!("\"{:016x}\"", fnv(&bytes));
    let mut headers = vec![
        ("ETag", etag.clone()),
        ("X-Linked-Etag", etag),
        ("X-Linked-Size", bytes.len().to_string()),
        ("X-Repo-Commit", COMMIT.to_owned()),
        ("Accept-Ranges", "bytes".to_owned()),
    ];
    let Some((first, last)) = range else {
        return Response { status: "200 OK", headers, body: bytes };
    };
    let end = last.map_or(bytes.len(), |last| bytes.len().min(last + 1));
    if first >= end {
        headers.push(("Content-Range", format!("bytes */{}", bytes.len())));
        return Response { status: "416 Range Not Satisfiable", headers, body: Vec::new() };
    }
    headers.push(("Content-Range", format!("bytes {first}-{}/{}", end - 1, bytes.len())));
    Response { status: "206 Partial Content", headers, body: bytes[first..end].to_vec() }
}

/// FNV-1a: an ETag need only tell contents apart.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn ask(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(server.endpoint.trim_start_matches("http://")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn the_hub_answers_as_the_real_one() {
        let dir = crate::process::root().join("fixtures/models/tiny-llama");
        let hosted = |id| Hosted::new(id, dir.clone());
        let server = Server::start(vec![
            hosted("a/open"),
            Hosted { token: Some("secret"), ..hosted("a/closed") },
            Hosted { refuses: Some("403 Forbidden"), ..hosted("a/gated") },
        ])
        .unwrap();
        let size = std::fs::metadata(dir.join("config.json")).unwrap().len();

        let listing = ask(&server, "GET /api/models/a/open/revision/main HTTP/1.1\r\n\r\n");
        assert!(listing.starts_with("HTTP/1.1 200") && listing.contains("tokenizer.json"), "{listing}");
        let probe = ask(&server, "GET /a/open/resolve/main/config.json HTTP/1.1\r\nRange: bytes=0-0\r\n\r\n");
        assert!(probe.starts_with("HTTP/1.1 206"), "{probe}");
        assert!(probe.contains(&format!("Content-Range: bytes 0-0/{size}\r\n")), "{probe}");
        assert!(probe.ends_with("\r\n\r\n{"), "one byte: {probe}");
        let head = ask(&server, "HEAD /a/open/resolve/main/config.json HTTP/1.1\r\n\r\n");
        assert!(head.contains(&format!("Content-Length: {size}")) && head.ends_with("\r\n\r\n"), "{head}");
        for (path, status) in [
            ("/a/open/resolve/main/nothing", "404"),
            ("/a/open/resolve/dev/config.json", "404"),
            ("/a/none/resolve/main/config.json", "404"),
            ("/a/closed/resolve/main/config.json", "401"),
            ("/a/gated/resolve/main/config.json", "403"),
        ] {
            let answer = ask(&server, &format!("GET {path} HTTP/1.1\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        }
        let authorized =
            "GET /a/closed/resolve/main/config.json HTTP/1.1\r\nauthorization: Bearer secret\r\n\r\n";
        assert!(ask(&server, authorized).starts_with("HTTP/1.1 200"));
        assert_eq!(server.take_log().len(), 9);
        assert_eq!(server.take_log().len(), 0);
    }
}
