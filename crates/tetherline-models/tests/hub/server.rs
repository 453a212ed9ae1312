//! A hub on the loopback interface that can be told to misbehave.

use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Status(u16),
    /// The connection is closed after so many bytes of the body.
    CutAfter(usize),
    /// The body ends after so many bytes and says that this is all.
    ShortBy(usize),
    /// So many bytes at a time, with a pause between.
    Slow(usize, Duration),
    /// So many bytes, and then nothing.
    SilentAfter(usize),
    /// The whole file, whatever was asked for.
    NoRange,
    /// The byte at this place of the body is another.
    Flip(usize),
    /// Another header in place of the right one.
    Header(&'static str, String),
    /// The file is at this address, as is one in large storage.
    Elsewhere(String),
    /// The status 429 and when to come back, in seconds.
    Later(u64),
}

/// A request: method, path, first byte asked for, token.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<(usize, Option<usize>)>,
    pub(crate) token: Option<String>,
}

impl Request {
    /// Whether it asks for the content of a file, rather than for its size.
    pub(crate) fn is_download(&self, file: &str) -> bool {
        self.path.ends_with(&format!("/{file}")) && !matches!(self.range, Some((0, Some(0))))
    }
}

type Faults = dyn Fn(&Request) -> Option<Fault> + Send + Sync;

pub(crate) struct Server {
    pub(crate) endpoint: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves `a/model` (revisions `main` and `v1`) with these files.
    pub(crate) fn start(
        files: BTreeMap<String, Vec<u8>>,
        faults: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (kept, files, faults) = (Arc::clone(&log), Arc::new(files), Arc::new(faults));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, files, faults) = (Arc::clone(&kept), Arc::clone(&files), Arc::clone(&faults));
                // A client that goes away in the middle is what some tests want.
                std::thread::spawn(move || serve(&stream, &files, &*faults, &kept));
            }
        });
        Self { endpoint, log }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn downloads(&self, file: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.is_download(file)).collect()
    }
}

fn serve(
    mut stream: &TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    faults: &Faults,
    log: &Mutex<Vec<Request>>,
) -> Option<()> {
    let request = read(stream)?;
    log.lock().unwrap().push(request.clone());
    let fault = faults(&request);
    if let Some(Fault::Status(code)) = fault {
        write!(stream, "HTTP/1.1 {code} No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}").ok()?;
        return Some(());
    }
    if let Some(Fault::Later(seconds)) = fault {
        let head = "HTTP/1.1 429 No\r\nContent-Length: 0\r\nConnection: close";
        write!(stream, "{head}\r\nRetry-After: {seconds}\r\n\r\n").ok()?;
        return Some(());
    }
    let path = request.path.trim_start_matches('/');
    let revision = |r: &str| ["main", "v1", COMMIT].contains(&r);
    if let Some(r) = path.strip_prefix("api/models/a/model/revision/").filter(|r| revision(r)) {
        let siblings: Vec<_> = files.keys().map(|f| json!({"rfilename": f})).collect();
        let sha = match &fault {
            Some(Fault::Header("sha", value)) => value.as_str(),
            _ => COMMIT,
        };
        let _ = r;
        let body = json!({"sha": sha, "siblings": siblings}).to_string().into_bytes();
        return send(stream, "200 OK", &[], &body, body.len(), fault.as_ref());
    }
    let file = path.strip_prefix("a/model/resolve/").and_then(|p| p.split_once('/'));
    let Some(bytes) = file.filter(|(r, _)| revision(r)).and_then(|(_, f)| files.get(f)) else {
        return send(stream, "404 Not Found", &[], b"{}", 2, None);
    };
    let mut headers = vec![("X-Repo-Commit", COMMIT.to_owned()), ("Accept-Ranges", "bytes".to_owned())];
    headers.extend(tags(path, bytes));
    if let Some(Fault::Header(name, value)) = &fault {
        headers.retain(|(n, _)| n != name);
        headers.push((name, value.clone()));
    }
    if let Some(Fault::Elsewhere(address)) = &fault {
        headers.push(("Location", address.clone()));
        return send(stream, "302 Found", &headers, b"", 0, None);
    }
    let no_range = matches!(fault, Some(Fault::NoRange));
    let Some((first, last)) = request.range.filter(|_| !no_range) else {
        return send(stream, "200 OK", &headers, bytes, bytes.len(), fault.as_ref());
    };
    let end = last.map_or(bytes.len(), |l| (l + 1).min(bytes.len()));
    if first >= bytes.len() {
        return send(stream, "416 Range Not Satisfiable", &headers, b"", 0, None);
    }
    headers.push(("Content-Range", format!("bytes {first}-{}/{}", end - 1, bytes.len())));
    send(stream, "206 Partial Content", &headers, &bytes[first..end], end - first, fault.as_ref())
}

/// What the hub says of the content: of weights their SHA-256, beside a tag of the storage that they lie in; of other
/// files the hash of git's blob.
pub(crate) fn tags(path: &str, bytes: &[u8]) -> Vec<(&'static str, String)> {
    let quoted = |algorithm, bytes: &[u8]| {
        let hash = ring::digest::digest(algorithm, bytes);
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        format!("\"{hex}\"")
    };
    if path.ends_with(".safetensors") {
        let hash = quoted(&ring::digest::SHA256, bytes);
        return vec![("ETag", "\"0123456789abcdef-1\"".to_owned()), ("X-Linked-ETag", hash)];
    }
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    vec![("ETag", quoted(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &blob))]
}

fn send(
    mut stream: &TcpStream,
    status: &str,
    headers: &[(&str, String)],
    body: &[u8],
    len: usize,
    fault: Option<&Fault>,
) -> Option<()> {
    let len = if let Some(Fault::ShortBy(n)) = fault { len - n } else { len };
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    match fault {
        Some(Fault::CutAfter(n)) => stream.write_all(&body[..(*n).min(body.len())]).ok()?,
        Some(Fault::Flip(at)) => {
            let mut body = body[..len].to_vec();
            body[*at] ^= 1;
            stream.write_all(&body).ok()?;
        }
        Some(Fault::SilentAfter(n)) => {
            stream.write_all(&body[..(*n).min(body.len())]).ok()?;
            stream.flush().ok()?;
            std::thread::sleep(Duration::from_secs(20));
        }
        Some(Fault::Slow(n, pause)) => {
            for chunk in body.chunks(*n) {
                stream.write_all(chunk).ok()?;
                stream.flush().ok()?;
                std::thread::sleep(*pause);
            }
        }
        _ => stream.write_all(&body[..len]).ok()?,
    }
    stream.flush().ok()
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, token: None };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                request.range = Some((first.parse().ok()?, last.parse().ok()));
            }
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Some(request)
}
