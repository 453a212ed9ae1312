//! hf-hub with a watch on silent servers, further attempts, and errors in plain words.

use super::{Download, Settings, hash, select, size, tell};
use hf_hub::api::Progress;
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};

/// Why something could not be had.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server answered with this status.
    Status(u16),
    /// There is no connection, or it broke.
    Unreachable(String),
    /// The server was silent for too long.
    Silent,
    /// Fewer or more bytes came than the file has.
    Size { got: u64, expected: u64 },
    /// As many bytes as the file has, but others. `resumed`: some of them were there from an earlier attempt.
    Hash { got: String, expected: String, resumed: bool },
    /// Anything else.
    Other(String),
}

impl Trouble {
    /// Whether another attempt may help.
    fn passes(&self) -> bool {
        match self {
            Self::Status(code) => matches!(code, 408 | 429 | 500..=599),
            Self::Unreachable(_) | Self::Size { .. } => true,
            // A part from before may have been damaged; what has just come whole would come again as it is.
            Self::Hash { resumed, .. } => *resumed,
            Self::Silent | Self::Other(_) => false,
        }
    }
}

impl From<ApiError> for Trouble {
    fn from(e: ApiError) -> Self {
        match e {
            ApiError::RequestError(inner) => match *inner {
                ureq::Error::StatusCode(code) => Self::Status(code),
                other => Self::Unreachable(other.to_string()),
            },
            // The body is read with std::io: a connection that breaks there looks like this.
            ApiError::IoError(e) if e.raw_os_error().is_none_or(|_| connection(&e)) => {
                Self::Unreachable(e.to_string())
            }
            ApiError::LockAcquisition(path) => Self::Other(format!(
                "another process is fetching it (it holds {}); wait for it, and try again",
                path.display()
            )),
            ApiError::MissingHeader(name) | ApiError::InvalidHeader(name) => Self::Other(format!(
                "the server does not answer as a hub does (header {name}); check HF_ENDPOINT"
            )),
            other => Self::Other(other.to_string()),
        }
    }
}

fn connection(e: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(
        e.kind(),
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::TimedOut | K::UnexpectedEof
    )
}

/// A sign of life of a request in its own thread, or its outcome.
enum Beat<T> {
    Start(u64),
    Bytes(u64),
    Done(Result<T, Trouble>),
}

/// Sends every read of a download to the thread that waits for it.
struct Beats<T>(Sender<Beat<T>>);

impl<T> Progress for Beats<T> {
    fn init(&mut self, size: usize, _: &str) {
        // Nobody listens any more after a silence; the download ends with the process.
        let _ = self.0.send(Beat::Start(size as u64));
    }
    fn update(&mut self, bytes: usize) {
        let _ = self.0.send(Beat::Bytes(bytes as u64));
    }
    fn finish(&mut self) {}
}

/// One repository at one revision.
pub(super) struct Client<'a> {
    settings: &'a Settings,
    api: Api,
    cache: Cache,
    name: &'a str,
    revision: &'a str,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, name: &'a str, revision: &'a str) -> Result<Self, String> {
        let cache = Cache::new(settings.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_progress(false)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { settings, api, cache, name, revision })
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.to_owned(), RepoType::Model, revision.to_owned())
    }

    /// Where the files of a commit are.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.repo(self.revision)).pointer_path(commit)
    }

    /// The snapshot that the cache has for the revision.
    pub(super) fn cached_snapshot(&self) -> Option<PathBuf> {
        // refs/ stands beside snapshots/.
        let root = self.snapshot("x").parent()?.parent()?.to_owned();
        let commit = std::fs::read_to_string(root.join("refs").join(self.revision)).ok();
        let commit = commit.map(|c| c.trim().to_owned()).unwrap_or_else(|| self.revision.to_owned());
        select::commit(&commit).ok()?;
        Some(self.snapshot(&commit)).filter(|dir| dir.is_dir())
    }

    /// Notes in the cache that the revision is this commit.
    pub(super) fn remember(&self, commit: &str) -> std::io::Result<()> {
        self.cache.repo(self.repo(self.revision)).create_ref(commit)
    }

    /// Runs a request in a thread of its own and waits for as long as it shows signs of life.
    fn watched<T: Send + 'static>(
        &self,
        file: &str,
        have: u64,
        run: impl FnOnce(Beats<T>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        let (send, receive) = mpsc::channel();
        let beats = Beats(send.clone());
        std::thread::spawn(move || {
            let _ = send.send(Beat::Done(run(beats)));
        });
        // hf-hub says how much there is from before as its first bytes.
        let mut skip = have;
        loop {
            match receive.recv_timeout(self.settings.silence) {
                Ok(Beat::Start(bytes)) if skip == have => {
                    tell(Download::Start { file, bytes, have });
                }
                Ok(Beat::Start(_)) => {}
                Ok(Beat::Bytes(n)) => {
                    let old = skip.min(n);
                    skip -= old;
                    if n > old {
                        tell(Download::Advance(n - old));
                    }
                }
                Ok(Beat::Done(outcome)) => return outcome,
                Err(RecvTimeoutError::Timeout) => return Err(Trouble::Silent),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Trouble::Other("the request ended without an outcome".into()));
                }
            }
        }
    }

    /// Tries again while that may help, with growing pauses.
    fn patiently<T>(
        &self,
        passes: impl Fn(&Trouble) -> bool,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut pause = self.settings.pause;
        for n in 1.. {
            match attempt() {
                Err(trouble) if passes(&trouble) && n < self.settings.attempts => {
                    let note = format!("{}; trying again in {pause:?}", self.explain(&trouble, None));
                    tell(Download::Note(&self.settings.redact(&note)));
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                outcome => return outcome,
            }
        }
        Err(Trouble::Other("no attempt was allowed".into()))
    }

    /// What the server says of the revision: its commit, and its files.
    pub(super) fn info(&self) -> Result<RepoInfo, Trouble> {
        // Without a connection the cache may do.
        let passes = |t: &Trouble| t.passes() && !matches!(t, Trouble::Unreachable(_));
        self.patiently(passes, || {
            let (api, repo) = (self.api.clone(), self.repo(self.revision));
            self.watched("", 0, move |_| Ok(api.repo(repo).info()?))
        })
    }

    /// Puts a file of a commit into the cache, if it is not there.
    pub(super) fn get(&self, commit: &str, file: &str) -> Result<(), Trouble> {
        let path = self.snapshot(commit).join(file);
        if path.is_file() {
            return Ok(());
        }
        self.patiently(Trouble::passes, || self.download(commit, file))
    }

    fn download(&self, commit: &str, file: &str) -> Result<(), Trouble> {
        let repo = self.repo(commit);
        let url = self.api.repo(repo.clone()).url(file);
        let api = self.api.clone();
        let meta = self.watched(file, 0, move |_: Beats<_>| Ok(api.metadata(&url)?))?;
        // Both become paths.
        select::etag(meta.etag()).map_err(Trouble::Other)?;
        if meta.commit_hash() != commit {
            let other = meta.commit_hash();
            return Err(Trouble::Other(format!(
                "the server sent it of commit {other:?} instead of {commit}"
            )));
        }
        let (blob, expected) = (self.cache.repo(repo.clone()).blob_path(meta.etag()), meta.size() as u64);
        let part = blob.with_extension("part");
        let have = size(&part);
        // hf-hub asks for what is behind the end of a part, which is an error where nothing is.
        if have >= expected && have > 0 {
            let keep = if have == expected { expected - 1 } else { 0 };
            let cut = std::fs::OpenOptions::new().write(true).open(&part).and_then(|f| f.set_len(keep));
            cut.map_err(|e| Trouble::Other(format!("{}: {e}", part.display())))?;
        }
        let (api, name, have) = (self.api.clone(), file.to_owned(), size(&part));
        let path = self
            .watched(file, have, move |beats| Ok(api.repo(repo).download_with_progress(&name, beats)?))?;
        let wrong = |trouble| {
            for file in [&path, &blob] {
                let _ = std::fs::remove_file(file);
            }
            Err(trouble)
        };
        let got = size(&path);
        if got != expected {
            // A connection may end early without an error, and a server may ignore where to resume.
            return wrong(Trouble::Size { got, expected });
        }
        match hash::mismatch(&path, select::strong(meta.etag())) {
            Ok(None) => {}
            Ok(Some(got)) => {
                let expected = meta.etag().to_owned();
                return wrong(Trouble::Hash { got, expected, resumed: have > 0 });
            }
            Err(e) => return wrong(Trouble::Other(format!("cannot read what came: {e}"))),
        }
        tell(Download::End);
        Ok(())
    }

    /// A trouble in plain words, about `file` or about the repository.
    pub(super) fn explain(&self, trouble: &Trouble, file: Option<&str>) -> String {
        let page = format!("{}/{}", self.settings.endpoint, self.name);
        let token = self.settings.token.is_some();
        match trouble {
            Trouble::Status(401) if token => format!(
                "401: the hub does not accept the token (HF_TOKEN, or its file): it is wrong, expired, or may not \
                 read {page}"
            ),
            Trouble::Status(401) => {
                "401: the repository is private or gated, or does not exist; set HF_TOKEN to a \
                                     token that may read it"
                    .into()
            }
            Trouble::Status(403) => format!(
                "403: access is gated: accept its conditions at {page} and {}",
                if token { "check that the token may read it" } else { "set HF_TOKEN to your token" }
            ),
            Trouble::Status(404) if file.is_some() => {
                "404: the repository lists this file but does not have it; try again later".into()
            }
            Trouble::Status(404) if self.revision != "main" => format!(
                "404: no such repository, or it has no revision {:?}; check the id at {page}",
                self.revision
            ),
            Trouble::Status(404) => format!("404: no such repository; check the id at {page}"),
            Trouble::Status(429) => "429: the hub asks to slow down; wait a minute and try again".into(),
            Trouble::Status(code @ 500..=599) => format!("{code}: the hub has a problem; try again later"),
            Trouble::Status(code) => format!("HTTP status {code}"),
            Trouble::Unreachable(why) => format!(
                "the connection to {} failed ({why}); check the network, HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to \
                 use the cache",
                self.settings.endpoint
            ),
            Trouble::Silent => format!(
                "{} sent nothing for {:?}; try again (what is there is kept), or set HF_HUB_DOWNLOAD_TIMEOUT to \
                 more seconds",
                self.settings.endpoint, self.settings.silence
            ),
            Trouble::Size { got, expected } => {
                format!("{got} bytes came instead of {expected}; the download was cut off, try again")
            }
            Trouble::Hash { got, expected, .. } => format!(
                "what came is not the file that the hub announced: its {} is {got} instead of {expected}; it was deleted \
                 from the cache, so try again; should it happen again, a proxy or the mirror in HF_ENDPOINT changes \
                 files",
                if expected.len() == 64 { "SHA-256" } else { "git SHA-1" }
            ),
            Trouble::Other(why) => why.clone(),
        }
    }
}
