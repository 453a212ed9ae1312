//! hf-hub with a watch on silent servers, further attempts, and errors in plain words.

use super::transfer::Transfer;
use super::{Download, Settings, hash, select, size, tell};
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// Why something could not be had.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server answered with this status, and may have said how long to wait.
    Status { code: u16, wait: Option<Duration> },
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
            Self::Status { code, .. } => matches!(code, 408 | 429 | 500..=599),
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
                ureq::Error::StatusCode(code) => Self::Status { code, wait: None },
                other => Self::Unreachable(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<io::Error> for Trouble {
    /// Of reading a body and writing it: a connection that breaks there has no number of the system, or one of those.
    fn from(e: io::Error) -> Self {
        if e.raw_os_error().is_none_or(|_| connection(&e)) {
            return Self::Unreachable(e.to_string());
        }
        Self::Other(e.to_string())
    }
}

fn connection(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::TimedOut | K::UnexpectedEof
    )
}

/// A sign of life of a request in its own thread, or its outcome.
enum Beat<T> {
    Start { bytes: u64, have: u64 },
    Bytes(u64),
    Done(Result<T, Trouble>),
}

/// One repository at one revision.
pub(super) struct Client<'a> {
    settings: &'a Settings,
    api: Api,
    transfer: Transfer,
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
        let transfer = Transfer::new(settings.token.clone());
        Ok(Self { settings, api, transfer, cache, name, revision })
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
        run: impl FnOnce(&Sender<Beat<T>>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let outcome = run(&send);
            // Nobody listens any more after a silence; the request ends with the process.
            let _ = send.send(Beat::Done(outcome));
        });
        loop {
            match receive.recv_timeout(self.settings.silence) {
                Ok(Beat::Start { bytes, have }) => tell(Download::Start { file, bytes, have }),
                Ok(Beat::Bytes(n)) => tell(Download::Advance(n)),
                Ok(Beat::Done(outcome)) => return outcome,
                Err(RecvTimeoutError::Timeout) => return Err(Trouble::Silent),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Trouble::Other("the request ended without an outcome".into()));
                }
            }
        }
    }

    /// Tries again while that may help, with growing pauses, or those that the server asks for.
    fn patiently<T>(
        &self,
        passes: impl Fn(&Trouble) -> bool,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut pause = self.settings.pause;
        for n in 1.. {
            match attempt() {
                Err(trouble) if passes(&trouble) && n < self.settings.attempts => {
                    let wait =
                        if let Trouble::Status { wait: Some(wait), .. } = trouble { wait } else { pause };
                    let note = format!("{}; trying again in {wait:?}", self.explain(&trouble, None));
                    tell(Download::Note(&self.settings.redact(&note)));
                    std::thread::sleep(wait);
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
            self.watched("", move |_| Ok(api.repo(repo).info()?))
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
        let url = self.api.repo(self.repo(commit)).url(file);
        let (transfer, address) = (self.transfer.clone(), url.clone());
        let meta = self.watched(file, move |_| transfer.metadata(&address))?;
        // Both become paths.
        select::etag(&meta.etag).map_err(Trouble::Other)?;
        if meta.commit != commit {
            let other = &meta.commit;
            return Err(Trouble::Other(format!(
                "the server sent it of commit {other:?} instead of {commit}"
            )));
        }
        let (path, expected) = (self.snapshot(commit).join(file), meta.size);
        let blob = self.cache.repo(self.repo(commit)).blob_path(&meta.etag);
        let in_cache =
            |e: io::Error| Trouble::Other(format!("cannot write to the cache, {}: {e}", blob.display()));
        for folder in [&blob, &path].into_iter().filter_map(|p| p.parent()) {
            std::fs::create_dir_all(folder).map_err(in_cache)?;
        }
        let _lock = lock(&blob)?;
        if size(&blob) == expected && blob.is_file() {
            // Another name of the same content was fetched before.
            return point(&path, &blob, file).map_err(in_cache);
        }
        let part = blob.with_extension("part");
        let mut have = size(&part);
        if have > expected {
            std::fs::remove_file(&part).map_err(in_cache)?;
            have = 0;
        }
        let mut to = OpenOptions::new().create(true).append(true).open(&part).map_err(in_cache)?;
        if have < expected {
            let transfer = self.transfer.clone();
            self.watched(file, move |beats| {
                let mut begun = false;
                transfer.fetch(&url, &mut to, |n| {
                    let beat = if begun { Beat::Bytes(n) } else { Beat::Start { bytes: expected, have: n } };
                    begun = true;
                    let _ = beats.send(beat);
                })
            })?;
        }
        let wrong = |trouble| {
            let _ = std::fs::remove_file(&part);
            Err(trouble)
        };
        let got = size(&part);
        if got < expected {
            // A connection may end early without an error; the next attempt goes on from here.
            return Err(Trouble::Size { got, expected });
        }
        if got > expected {
            return wrong(Trouble::Size { got, expected });
        }
        match hash::mismatch(&part, select::strong(&meta.etag)) {
            Ok(None) => {}
            Ok(Some(got)) => return wrong(Trouble::Hash { got, expected: meta.etag, resumed: have > 0 }),
            Err(e) => return wrong(Trouble::Other(format!("cannot read what came: {e}"))),
        }
        std::fs::rename(&part, &blob).map_err(in_cache)?;
        point(&path, &blob, file).map_err(in_cache)?;
        tell(Download::End);
        Ok(())
    }

    /// A trouble in plain words, about `file` or about the repository.
    pub(super) fn explain(&self, trouble: &Trouble, file: Option<&str>) -> String {
        let page = format!("{}/{}", self.settings.endpoint, self.name);
        let token = self.settings.token.is_some();
        match trouble {
            Trouble::Status { code: 401, .. } if token => format!(
                "401: the hub does not accept the token (HF_TOKEN, or its file): it is wrong, expired, or may not \
                 read {page}"
            ),
            Trouble::Status { code: 401, .. } => {
                "401: the repository is private or gated, or does not exist; set HF_TOKEN to a \
                                     token that may read it"
                    .into()
            }
            Trouble::Status { code: 403, .. } => format!(
                "403: access is gated: accept its conditions at {page} and {}",
                if token { "check that the token may read it" } else { "set HF_TOKEN to your token" }
            ),
            Trouble::Status { code: 404, .. } if file.is_some() => {
                "404: the repository lists this file but does not have it; try again later".into()
            }
            Trouble::Status { code: 404, .. } if self.revision != "main" => format!(
                "404: no such repository, or it has no revision {:?}; check the id at {page}",
                self.revision
            ),
            Trouble::Status { code: 404, .. } => format!("404: no such repository; check the id at {page}"),
            Trouble::Status { code: 429, .. } => {
                "429: the hub asks to slow down; wait a minute and try again".into()
            }
            Trouble::Status { code: code @ 500..=599, .. } => {
                format!("{code}: the hub has a problem; try again later")
            }
            Trouble::Status { code, .. } => format!("HTTP status {code}"),
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

/// Keeps other processes from fetching the same content at once, as hf-hub does.
fn lock(blob: &Path) -> Result<File, Trouble> {
    let path = blob.with_extension("lock");
    let file = File::create(&path).map_err(|e| Trouble::Other(format!("{}: {e}", path.display())))?;
    file.try_lock().map_err(|_| {
        Trouble::Other(format!(
            "another process is fetching it (it holds {}); wait for it, and try again",
            path.display()
        ))
    })?;
    Ok(file)
}

/// Puts the name of a file, a link to its content, into the snapshot.
fn point(path: &Path, blob: &Path, file: &str) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let _ = std::fs::remove_file(path);
    #[cfg(unix)]
    {
        // Out of the folders that the name has, the commit's and `snapshots`.
        let up = "../".repeat(file.split('/').count() + 1);
        let name = blob.file_name().unwrap_or_default();
        std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(name), path)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        std::fs::rename(blob, path)
    }
}
