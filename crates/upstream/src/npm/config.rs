//! Where the registry is and what opens it, found where npm finds it. No address is built in.
//!
//! [`Places`] are plain values, so that what is found depends on nothing but them; [`Places::from_process`] fills them in. The first
//! place that names a registry wins: an explicit address, `NPM_CONFIG_REGISTRY` (in capitals or not), the project's `.npmrc`, the
//! user's `.npmrc`, and last the answer of `npm config get registry`, which also knows npm's global and built-in settings. Scoped
//! registries and credentials are collected from the environment and both files, the nearer place winning, setting by setting.

mod program;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Url;
use tokio::io::AsyncReadExt;

use super::{name::PackageName, npmrc};
use crate::{Credential, Error, ShownUrl, address};

type Settings = BTreeMap<String, String>;

/// No `.npmrc` is larger.
const NPMRC_BYTES_MAX: u64 = 1024 * 1024;

/// Where to look. Empty places are skipped.
#[derive(Clone)]
pub struct Places {
    /// The environment's variables.
    pub environment: BTreeMap<String, String>,
    /// The folder whose `.npmrc` is the project's.
    pub working_folder: Option<PathBuf>,
    /// The folder whose `.npmrc` is the user's, unless `NPM_CONFIG_USERCONFIG` names another file.
    pub home_folder: Option<PathBuf>,
    /// The npm to ask last; `None` asks none.
    pub npm_program: Option<PathBuf>,
    /// How long npm may take to answer.
    pub npm_timeout: Duration,
}

/// Which host a tarball is read from: npm's setting `replace-registry-host`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TarballHost {
    /// The one the registry names. npm's own default, `npmjs`, replaces one public host, which is named nowhere here, and is taken
    /// for this.
    #[default]
    AsGiven,
    /// Always the package's registry.
    Registry,
    /// The package's registry wherever the registry names this host.
    RegistryInsteadOf(String),
}

/// The registries, by scope, and their credentials.
#[derive(Debug, Clone)]
pub struct NpmConfig {
    default: Option<Url>,
    found_in: String,
    by_scope: BTreeMap<String, Url>,
    /// Keyed as in `.npmrc`, without the slash at the end: `//host[:port][/path]`.
    credentials: BTreeMap<String, Credential>,
    tarball_host: TarballHost,
}

/// One place that was read.
struct Layer {
    place: String,
    settings: Settings,
    /// What to say of it if it names no registry.
    lacking: &'static str,
}

// === impl Places ===

impl Places {
    /// This process's environment, working folder and home, and the `npm` on its path, given ten seconds.
    #[must_use]
    pub fn from_process() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            environment,
            working_folder: std::env::current_dir().ok(),
            home_folder: std::env::home_dir(),
            npm_program: Some(PathBuf::from("npm")),
            npm_timeout: Duration::from_secs(10),
        }
    }

    /// Nothing at all; a beginning for tests and for callers who know exactly where to look.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            environment: BTreeMap::new(),
            working_folder: None,
            home_folder: None,
            npm_program: None,
            npm_timeout: Duration::from_secs(10),
        }
    }

    /// The settings that the environment holds, named as `.npmrc` names them. Of two spellings the one in small letters wins.
    fn environment_settings(&self) -> Settings {
        const PREFIX: &str = "npm_config_";
        let mut settings = Settings::new();
        // Capitals sort first, so that small letters overwrite them.
        for (name, value) in &self.environment {
            let key = match name.split_at_checked(PREFIX.len()) {
                Some((prefix, key)) if prefix.eq_ignore_ascii_case(PREFIX) => key,
                _ => continue,
            };
            if key.is_empty() || value.is_empty() {
                continue;
            }
            let key = if key.starts_with("//") {
                key.to_owned()
            } else {
                let (first, rest) = key.split_at(key.chars().next().map_or(0, char::len_utf8));
                format!("{first}{}", rest.replace('_', "-")).to_ascii_lowercase()
            };
            settings.insert(key, value.clone());
        }
        settings
    }

    async fn file_layer(&self, path: &Path) -> Result<Layer, Error> {
        let place = path.display().to_string();
        let (settings, lacking) = match read_text(path).await {
            Ok(Some(text)) => {
                let variable = |name: &str| self.environment.get(name).cloned();
                (npmrc::parse(&text, variable), "no line `registry=`")
            }
            Ok(None) => (Settings::new(), "no such file"),
            Err(error) => {
                return Err(Error::configuration(format!(
                    "{place} cannot be read: {error}"
                )));
            }
        };
        Ok(Layer {
            place,
            settings,
            lacking,
        })
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("variables", &self.environment.len())
            .field("working_folder", &self.working_folder)
            .field("home_folder", &self.home_folder)
            .field("npm_program", &self.npm_program)
            .field("npm_timeout", &self.npm_timeout)
            .finish()
    }
}

// === impl NpmConfig ===

impl NpmConfig {
    /// One registry for every package, without credentials.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the address is none.
    pub fn for_registry(address: &str) -> Result<Self, Error> {
        let found_in = "the explicit setting".to_owned();
        Ok(Self {
            default: Some(registry_url(address, &found_in)?),
            found_in,
            by_scope: BTreeMap::new(),
            credentials: BTreeMap::new(),
            tarball_host: TarballHost::AsGiven,
        })
    }

    /// Adds a bearer token for everything below `address`.
    #[must_use]
    pub fn with_token(mut self, address: &Url, token: &str) -> Self {
        self.credentials
            .insert(credential_key(address), Credential::bearer(token));
        self
    }

    /// Finds the configuration. `explicit` is the address from a flag or from Steadfast's own configuration file; it is the registry
    /// of every package then, whatever scope is elsewhere in npm's configuration: two sources may have one scope.
    ///
    /// # Errors
    /// [`Error::Configuration`], naming every place that was searched, if none has a registry; or naming the one that is unreadable
    /// or holds something that is no address.
    pub async fn load(explicit: Option<&str>, places: &Places) -> Result<Self, Error> {
        let layers = read_layers(places).await?;
        let mut searched =
            vec!["an explicit setting (flag or configuration file): not given".into()];
        let mut found = explicit.map(|address| (address.to_owned(), "the explicit setting".into()));
        for layer in &layers {
            if found.is_some() {
                break;
            }
            match layer.settings.get("registry").filter(|a| !a.is_empty()) {
                Some(address) => found = Some((address.clone(), layer.place.clone())),
                None => searched.push(format!("{}: {}", layer.place, layer.lacking)),
            }
        }
        if found.is_none() {
            match program::configured_registry(places).await {
                Ok(address) => found = Some((address, "`npm config get registry`".into())),
                Err(problem) => searched.push(format!("`npm config get registry`: {problem}")),
            }
        }

        // The nearest place comes first, so its settings are laid on last.
        let mut settings = Settings::new();
        for layer in layers.into_iter().rev() {
            settings.extend(layer.settings);
        }
        let by_scope = match explicit {
            Some(_) => BTreeMap::new(),
            None => scoped_registries(&settings)?,
        };
        if found.is_none() && by_scope.is_empty() {
            return Err(no_registry(&searched));
        }
        let (default, found_in) = match found {
            Some((address, place)) => (Some(registry_url(&address, &place)?), place),
            None => (None, searched.join("; ")),
        };
        Ok(Self {
            default,
            found_in,
            by_scope,
            credentials: credentials(&settings)?,
            tarball_host: tarball_host(&settings),
        })
    }

    /// The registry of packages without a scoped registry of their own, if there is one.
    #[must_use]
    pub const fn default_registry(&self) -> Option<&Url> {
        self.default.as_ref()
    }

    /// The place that named the default registry, for a log.
    #[must_use]
    pub fn found_in(&self) -> &str {
        &self.found_in
    }

    /// The registry of this package.
    ///
    /// # Errors
    /// [`Error::Configuration`] if only other scopes have one.
    pub fn registry_for(&self, name: &PackageName) -> Result<&Url, Error> {
        name.scope()
            .and_then(|scope| self.by_scope.get(scope))
            .or(self.default.as_ref())
            .ok_or_else(|| {
                Error::configuration(format!(
                    "no npm registry is configured for {name}. Searched: {}",
                    self.found_in
                ))
            })
    }

    /// The credential for a URL: that of the longest matching path, as npm chooses it.
    pub(crate) fn credential_for(&self, url: &Url) -> Option<&Credential> {
        let mut key = credential_key(url);
        loop {
            if let Some(credential) = self.credentials.get(&key) {
                return Some(credential);
            }
            let cut = key.rfind('/').filter(|cut| *cut > 1)?;
            key.truncate(cut);
        }
    }

    pub(crate) const fn tarball_host(&self) -> &TarballHost {
        &self.tarball_host
    }
}

async fn read_layers(places: &Places) -> Result<Vec<Layer>, Error> {
    let environment = places.environment_settings();
    let user_file = match environment.get("userconfig") {
        Some(path) => Some(PathBuf::from(path)),
        None => places.home_folder.as_ref().map(|home| home.join(".npmrc")),
    };
    let project_file = places
        .working_folder
        .as_ref()
        .map(|folder| folder.join(".npmrc"));
    let mut layers = vec![Layer {
        place: "the environment variable NPM_CONFIG_REGISTRY".to_owned(),
        settings: environment,
        lacking: "not set",
    }];
    // Where the project's folder is the user's home, its file is the user's.
    let project_file = project_file.filter(|file| user_file.as_ref() != Some(file));
    for file in [project_file, user_file].into_iter().flatten() {
        layers.push(places.file_layer(&file).await?);
    }
    Ok(layers)
}

/// The text of a file, `None` if there is none.
async fn read_text(path: &Path) -> io::Result<Option<String>> {
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let read = file
        .take(NPMRC_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .await?;
    if read as u64 > NPMRC_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it is larger than {NPMRC_BYTES_MAX} bytes"
        )));
    }
    Ok(Some(text))
}

fn no_registry(searched: &[String]) -> Error {
    Error::configuration(format!(
        "no npm registry is configured. Searched: {}. Remedy: name one in Steadfast's configuration, set NPM_CONFIG_REGISTRY, or \
         write `registry=https://…` into .npmrc",
        searched.join("; ")
    ))
}

fn scoped_registries(settings: &Settings) -> Result<BTreeMap<String, Url>, Error> {
    let mut by_scope = BTreeMap::new();
    for (key, address) in settings {
        let scope = key.strip_suffix(":registry").filter(|s| s.starts_with('@'));
        if let Some(scope) = scope
            && !address.is_empty()
        {
            by_scope.insert(scope.to_owned(), registry_url(address, key)?);
        }
    }
    Ok(by_scope)
}

fn credentials(settings: &Settings) -> Result<BTreeMap<String, Credential>, Error> {
    let mut credentials = BTreeMap::new();
    for (key, value) in settings {
        if !key.starts_with("//") || value.is_empty() {
            continue;
        }
        let Some((prefix, kind)) = key.rsplit_once(':') else {
            continue;
        };
        if kind.starts_with('_') && value.contains("${") {
            tracing::warn!(
                setting = key,
                "npm credential not used: it refers to an environment variable that is not set"
            );
            continue;
        }
        let sibling = |kind: &str| settings.get(&format!("{prefix}:{kind}"));
        // The order in which npm prefers them; each kind stands back for the ones before it.
        let credential = match kind {
            "_authToken" => Credential::bearer(value),
            "_auth" if sibling("_authToken").is_none() => Credential::basic(value),
            "_password" if sibling("_authToken").or_else(|| sibling("_auth")).is_none() => {
                let Some(user) = sibling("username") else {
                    continue;
                };
                let mut pair = format!("{user}:").into_bytes();
                let password = STANDARD.decode(value).map_err(|_| {
                    Error::configuration(format!("{key} is not base64; write it with `npm login`"))
                })?;
                pair.extend(password);
                Credential::basic(&STANDARD.encode(pair))
            }
            _ => continue,
        };
        credentials.insert(prefix.trim_end_matches('/').to_owned(), credential);
    }
    Ok(credentials)
}

fn tarball_host(settings: &Settings) -> TarballHost {
    match settings.get("replace-registry-host").map(String::as_str) {
        None | Some("" | "never" | "npmjs") => TarballHost::AsGiven,
        Some("always") => TarballHost::Registry,
        Some(host) => TarballHost::RegistryInsteadOf(host.to_ascii_lowercase()),
    }
}

/// `//host[:port][/path]`, without a slash at the end.
fn credential_key(url: &Url) -> String {
    let path = url.path().trim_end_matches('/');
    format!("//{}{path}", address::authority(url))
}

/// A registry's address, its path ending in a slash so that names can be joined to it. The text is never repeated in an error.
fn registry_url(text: &str, place: &str) -> Result<Url, Error> {
    let invalid = |problem: &str| {
        Error::configuration(format!(
            "the npm registry named by {place} ({}) {problem}",
            ShownUrl::of_text(text)
        ))
    };
    let mut url: Url = text
        .trim()
        .parse()
        .map_err(|_| invalid("is not a URL; write it as https://host/path/"))?;
    if !address::is_web(&url) {
        return Err(invalid("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "carries a user or a password; put them into .npmrc as `//host/:_auth=`",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("carries a query or a fragment; remove it"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

#[cfg(test)]
mod tests;
