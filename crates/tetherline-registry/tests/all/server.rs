//! A PostgreSQL server for the time of a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running server; stopped when dropped.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    bin: PathBuf,
    /// As which user it runs, where the tests run as root, as whom it refuses to.
    user: Option<(u32, u32)>,
}

/// Where `initdb` is.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for versions in ["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt"] {
        for entry in std::fs::read_dir(versions).into_iter().flatten().flatten() {
            dirs.push(entry.path().join("bin"));
        }
    }
    dirs.into_iter().find(|d| d.join("initdb").is_file() && d.join("pg_ctl").is_file())
}

/// User and group of `postgres`.
fn postgres_user() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|l| l.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

impl Server {
    /// Makes a cluster and starts it; the reason where that is not possible here.
    pub(crate) fn start() -> Result<Self, String> {
        let bin = find().ok_or("no initdb and pg_ctl here (Debian: apt install postgresql)")?;
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        use std::os::unix::fs::MetadataExt;
        let root = std::fs::metadata(dir.path()).map_err(|e| e.to_string())?.uid() == 0;
        let user = match root {
            true => Some(postgres_user().ok_or("the tests run as root, and there is no user `postgres`")?),
            false => None,
        };
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).map_err(|e| e.to_string())?;
        }
        let server = Self { dir, bin, user };
        let data = server.path("data");
        server.tool("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"])?;
        let options = format!("-k '{}' -c listen_addresses='' -c fsync=off", server.dir.path().display());
        server.tool("pg_ctl", &["-D", &data, "-w", "-l", &server.path("log"), "-o", &options, "start"])?;
        Ok(server)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn tool(&self, name: &str, args: &[&str]) -> Result<(), String> {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.bin.join(name));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        // Not a pipe: the server, which goes on, would hold it open.
        let log = std::fs::File::create(self.path("tool.log")).map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
        let status = command.args(args).current_dir(Path::new("/")).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let said = std::fs::read_to_string(self.path("tool.log")).unwrap_or_default();
                Err(format!("{name} ended with {status}: {}", said.trim().replace('\n', "; ")))
            }
            Err(e) => Err(format!("cannot start {name}: {e}")),
        }
    }

    /// The URL of a new database.
    pub(crate) fn database(&self, name: &str) -> String {
        let host = self.dir.path().display().to_string().replace('/', "%2F");
        let url = |name: &str| format!("postgresql://postgres@{host}/{name}");
        let mut client = postgres::Client::connect(&url("postgres"), postgres::NoTls).unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        url(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.tool("pg_ctl", &["-D", &self.path("data"), "-m", "immediate", "-w", "stop"]);
    }
}
