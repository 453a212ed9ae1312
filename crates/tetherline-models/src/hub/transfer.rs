//! What the hub says of a file, and its bytes, from where an earlier attempt ended.
//!
//! A file in large storage is redirected to another host. The token goes to the hub alone: hf-hub 0.5 repeats it there
//! (`Api::metadata`), so its transfer is not used. It also hides `Retry-After`, and appends a whole file to a part when a server
//! ignores where to resume.

use super::client::Trouble;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// Bytes that are written at a time.
const CHUNK: usize = 1 << 16;

/// The longest pause that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What the hub says of a file.
pub(super) struct Metadata {
    /// The commit that it is of.
    pub(super) commit: String,
    /// The name of its content, without quotes; often its hash.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

/// Requests to one hub.
#[derive(Clone)]
pub(super) struct Transfer {
    agent: Agent,
    token: Option<String>,
}

impl Transfer {
    pub(super) fn new(token: Option<String>) -> Self {
        let config = Agent::config_builder().max_redirects(0).http_status_as_error(false);
        Self { agent: config.build().into(), token }
    }

    /// Commit, tag and size of the file at `url`.
    pub(super) fn metadata(&self, url: &str) -> Result<Metadata, Trouble> {
        let (hub, response) = self.get(url, "bytes=0-0")?;
        let text = |headers: &HeaderMap, name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let of_hub = |name: &str| text(&hub, name);
        let etag = of_hub("x-linked-etag").or_else(|| of_hub("etag")).ok_or_else(|| strange("etag"))?;
        // An answer in parts says the size behind the slash, one that ignores ranges says it outright.
        let range = text(response.headers(), "content-range");
        let size = match range.as_deref().and_then(|r| r.rsplit_once('/')) {
            Some((_, size)) => size.parse().ok(),
            None => text(response.headers(), "content-length").and_then(|n| n.parse().ok()),
        };
        Ok(Metadata {
            commit: of_hub("x-repo-commit").ok_or_else(|| strange("x-repo-commit"))?,
            etag: etag.replace('"', ""),
            size: size.ok_or_else(|| strange("content-range"))?,
        })
    }

    /// Writes the file at `url` behind the bytes that `part` has. `told` hears how many these are, then of every piece.
    pub(super) fn fetch(&self, url: &str, part: &mut File, mut told: impl FnMut(u64)) -> Result<(), Trouble> {
        let mut have = part.seek(SeekFrom::End(0))?;
        let (_, response) = self.get(url, &format!("bytes={have}-"))?;
        if response.status() != StatusCode::PARTIAL_CONTENT && have > 0 {
            // The whole file comes, whatever was asked for.
            part.set_len(0)?;
            have = part.seek(SeekFrom::Start(0))?;
        }
        told(have);
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = body.read(&mut chunk)?;
            if n == 0 {
                return Ok(());
            }
            part.write_all(&chunk[..n])?;
            told(n as u64);
        }
    }

    /// Follows redirects to an answer. The headers are those of the hub's own last answer: only the hub knows commit and tag.
    fn get(&self, url: &str, range: &str) -> Result<(HeaderMap, Response<Body>), Trouble> {
        let mut at = uri(url)?;
        let (first, mut hub) = (at.clone(), HeaderMap::new());
        for _ in 0..=REDIRECTS {
            let at_home = same_origin(&at, &first);
            let mut request = self.agent.get(&at).header(header::RANGE, range);
            if let Some(token) = self.token.as_ref().filter(|_| at_home) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| Trouble::Unreachable(e.to_string()))?;
            if at_home {
                hub = response.headers().clone();
            }
            let status = response.status();
            if status.is_success() {
                return Ok((hub, response));
            }
            let header = |name| response.headers().get(name)?.to_str().ok();
            match header(header::LOCATION).filter(|_| status.is_redirection()) {
                Some(location) => at = beside(&at, location)?,
                None => {
                    let wait = header(header::RETRY_AFTER).and_then(|s| s.trim().parse().ok());
                    let wait = wait.map(|s| Duration::from_secs(s).min(LONGEST_WAIT));
                    return Err(Trouble::Status { code: status.as_u16(), wait });
                }
            }
        }
        Err(Trouble::Other(format!("{url} was redirected more than {REDIRECTS} times")))
    }
}

fn strange(header: &str) -> Trouble {
    Trouble::Other(format!("the server does not answer as a hub does (header {header}); check HF_ENDPOINT"))
}

/// Whether two addresses are of one server, reached the same way: a token that went over TLS does not go without.
fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

fn uri(text: &str) -> Result<Uri, Trouble> {
    text.parse().map_err(|e| Trouble::Other(format!("{text:?} is no address: {e}")))
}

/// Where `location` leads from `at`: it is a whole address, or a path on the same host.
fn beside(at: &Uri, location: &str) -> Result<Uri, Trouble> {
    let to = uri(location)?;
    if to.authority().is_some() {
        return Ok(to);
    }
    let mut parts = at.clone().into_parts();
    parts.path_and_query = to.into_parts().path_and_query;
    Uri::from_parts(parts).map_err(|e| Trouble::Other(format!("redirected to {location:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_host_port_or_scheme_is_another_origin() {
        let same = |a, b| same_origin(&Uri::from_static(a), &Uri::from_static(b));
        assert!(same("https://hub.co/a/b", "https://hub.co/c?d"));
        for other in ["http://hub.co/a", "https://hub.co:8443/a", "https://cdn.hub.co/a", "/a"] {
            assert!(!same("https://hub.co/a", other), "{other}");
        }
    }
}
