//! Where the hub is, who asks, and how patiently: the environment variables of Python's `huggingface_hub`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the hub.
#[derive(Clone)]
pub struct Settings {
    /// Without a slash at the end, e.g. `https://huggingface.co`.
    pub endpoint: String,
    /// The folder that holds `models--org--name`.
    pub cache: PathBuf,
    /// Who asks.
    pub token: Option<String>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// How often a request is made in all before it is given up.
    pub attempts: u32,
    /// The pause after the first attempt; it doubles with every further one.
    pub pause: Duration,
    /// How long a server may be silent.
    pub silence: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "(hidden)");
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &token)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// From `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` and
    /// `HF_HUB_DOWNLOAD_TIMEOUT` (seconds of silence, 30), with their older names.
    ///
    /// # Errors
    /// A variable that makes no sense, or no home directory to keep a cache in.
    pub fn from_env() -> Result<Self, String> {
        Self::from_variables(|name| std::env::var(name).ok(), std::env::home_dir())
    }

    /// As [`Settings::from_env`], of given variables.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_variables(
        get: impl Fn(&str) -> Option<String>,
        home: Option<PathBuf>,
    ) -> Result<Self, String> {
        let get = |names: &[&str]| {
            names.iter().find_map(|n| get(n).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()))
        };
        let path = |names: &[&str]| {
            let p = PathBuf::from(get(names)?);
            Some(match (p.strip_prefix("~"), &home) {
                (Ok(rest), Some(home)) => home.join(rest),
                _ => p,
            })
        };
        let in_cache = || {
            let cache = path(&["XDG_CACHE_HOME"]).or_else(|| Some(home.as_ref()?.join(".cache")));
            Some(cache?.join("huggingface"))
        };
        let hf_home = path(&["HF_HOME"]).or_else(in_cache);
        let cache = path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
            .or_else(|| Some(hf_home.as_ref()?.join("hub")))
            .ok_or("there is no home directory for the cache; set HF_HOME")?;
        let endpoint = get(&["HF_ENDPOINT"]).unwrap_or_else(|| "https://huggingface.co".into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(format!("HF_ENDPOINT is {endpoint:?}; expected an address with https:// or http://"));
        }
        let file = path(&["HF_TOKEN_PATH"]).or_else(|| Some(hf_home?.join("token")));
        let token = match get(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
            Some(token) => Some(token),
            None => file.and_then(|f| std::fs::read_to_string(f).ok()).map(|t| t.trim().to_owned()),
        };
        let token = token.filter(|t| !t.is_empty());
        if token.as_ref().is_some_and(|t| !t.bytes().all(|b| b.is_ascii_graphic())) {
            return Err("the token (HF_TOKEN, or its file) holds characters that no token has".into());
        }
        let on = |v: String| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str());
        let silence = match get(&["HF_HUB_DOWNLOAD_TIMEOUT"]) {
            None => 30,
            Some(v) => v.parse().ok().filter(|&s| s > 0).ok_or_else(|| {
                format!("HF_HUB_DOWNLOAD_TIMEOUT is {v:?}; expected a whole number of seconds, at least 1")
            })?,
        };
        Ok(Self {
            endpoint,
            cache,
            token,
            offline: get(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]).is_some_and(on),
            attempts: 5,
            pause: Duration::from_secs(1),
            silence: Duration::from_secs(silence),
        })
    }

    /// `text` without the token.
    pub(super) fn redact(&self, text: &str) -> String {
        self.token.as_ref().map_or_else(|| text.to_owned(), |t| text.replace(t.as_str(), "(hidden)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::from_variables(get, Some("/ada".into()))
    }

    #[test]
    fn variables_mean_what_they_mean_in_python() {
        let s = settings(&[]).unwrap();
        assert_eq!((s.endpoint.as_str(), s.token, s.offline), ("https://huggingface.co", None, false));
        assert_eq!(s.cache, PathBuf::from("/ada/.cache/huggingface/hub"));
        assert_eq!(settings(&[("XDG_CACHE_HOME", "/c")]).unwrap().cache, PathBuf::from("/c/huggingface/hub"));
        assert_eq!(settings(&[("HF_HOME", "~/hf")]).unwrap().cache, PathBuf::from("/ada/hf/hub"));
        let both = [("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/models")];
        assert_eq!(settings(&both).unwrap().cache, PathBuf::from("/models"));
        assert_eq!(
            settings(&[("HF_ENDPOINT", "http://mirror:8080/")]).unwrap().endpoint,
            "http://mirror:8080"
        );
        assert!(settings(&[("HF_HUB_OFFLINE", "True")]).unwrap().offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert_eq!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).unwrap().silence.as_secs(), 7);
        for bad in [("HF_ENDPOINT", "huggingface.co"), ("HF_HUB_DOWNLOAD_TIMEOUT", "soon")] {
            assert!(settings(&[bad]).unwrap_err().contains(bad.0));
        }
    }

    #[test]
    fn the_token_comes_from_the_standard_places_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (home, other) = (dir.path().to_str().unwrap(), dir.path().join("other"));
        std::fs::write(dir.path().join("token"), "hf_home\n").unwrap();
        std::fs::write(&other, "hf_other").unwrap();
        let token = |v: &[(&str, &str)]| settings(v).unwrap().token;
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_home"));
        let path = [("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())];
        assert_eq!(token(&path).as_deref(), Some("hf_other"));
        assert_eq!(token(&[path[0], path[1], ("HF_TOKEN", " hf_env ")]).as_deref(), Some("hf_env"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " ")]).as_deref(), Some("hf_home"));
        let s = settings(&[("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{s:?}").contains("secret"));
        assert_eq!(s.redact("asked with hf_secret."), "asked with (hidden).");
        let bad = settings(&[("HF_TOKEN", "hf\nsecret\u{7f}")]).unwrap_err();
        assert!(bad.contains("HF_TOKEN") && !bad.contains("secret"), "{bad}");
    }
}
