//! Reading a root: which packages it has, and what is wrong with those that cannot be taken.
//!
//! Nothing outside of the root is read: all paths are resolved beneath it by the system itself (`cap-std`), so that neither a
//! symbolic link nor a name with `..` leads out, not even one that is put there while it is read. A link that stays inside is
//! followed, because workspaces are made of them; one that leads out makes its package broken. Only plain files are read, and no
//! more of them than the limits.

use std::io::{self, Read as _};

use cap_std::{ambient_authority, fs::Dir};
use steadfast_store::IconBlob;
use steadfast_upstream::{IconFormat, IconShape, InvalidManifest, Manifest};

use crate::{
    compiled::CompiledSchemas,
    package::{PackageDocument, RepositoryDocument, VersionDocument, content_hash},
    range::LOCAL,
    schema::{SCHEMA_LIMITS, Schema},
    specifier::LATEST,
};

/// Where packages lie in a root.
const PACKAGES: &str = "packages";
const MANIFEST: &str = "package.json";
const SCHEMA: &str = "configuration-schema.json";
const ASSETS: &str = "assets";

/// Larger ones are refused.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const ICON_BYTES_MAX: u64 = 1 << 20;

/// Folders below `packages`, at most.
const FOLDERS_MAX: usize = 10_000;

/// What lies in a root.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// In the order of their folders.
    pub(crate) packages: Vec<Found>,
    /// Those that cannot be taken, in the same order.
    pub(crate) broken: Vec<Broken>,
    /// The folders to watch, relative to the root.
    pub(crate) watched: Vec<String>,
}

/// A package.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its folder below `packages`.
    pub(crate) folder: String,
    /// What is stored of it.
    pub(crate) document: PackageDocument,
    /// Its schema.
    pub(crate) schema: Option<std::sync::Arc<Schema>>,
    /// Its icons.
    pub(crate) icons: Vec<FoundIcon>,
}

/// An icon of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundIcon {
    pub(crate) shape: IconShape,
    pub(crate) format: IconFormat,
    pub(crate) blob: IconBlob,
}

/// A folder that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Broken {
    /// Its folder below `packages`.
    pub(crate) folder: String,
    /// Its name, if that much could be read.
    pub(crate) name: Option<String>,
    /// The file that is wrong, relative to the root.
    pub(crate) file: String,
    /// For programs.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// Why nothing of a root can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootError {
    #[error("{path} cannot be read: {problem}")]
    Unreadable { path: String, problem: String },
    #[error("{path} has more than {FOLDERS_MAX} folders")]
    TooMany { path: String },
    #[error(
        "{path} has no package any more, and had {had}: taken for a lost mount, so nothing is removed"
    )]
    Emptied { path: String, had: usize },
}

/// A file that cannot be read.
struct Unreadable {
    reason: &'static str,
    message: String,
}

/// Reads a root of this source.
///
/// # Errors
/// If it, or its folder `packages`, cannot be read as a whole.
pub(crate) fn read(
    root: &str,
    source: &str,
    compiled: &CompiledSchemas,
) -> Result<Listing, RootError> {
    let unreadable = |path: String| {
        move |error: io::Error| RootError::Unreadable {
            path,
            problem: error.to_string(),
        }
    };
    let packages = || format!("{root}/{PACKAGES}");
    let dir =
        Dir::open_ambient_dir(root, ambient_authority()).map_err(unreadable(root.to_owned()))?;
    let mut listing = Listing {
        watched: vec![String::new(), PACKAGES.to_owned()],
        ..Listing::default()
    };
    let mut folders = Vec::new();
    for entry in dir.read_dir(PACKAGES).map_err(unreadable(packages()))? {
        let name = entry.map_err(unreadable(packages()))?.file_name();
        match name.to_str() {
            Some(name) if name.starts_with('.') || name == "node_modules" => {}
            Some(name) if !name.chars().any(char::is_control) => folders.push(name.to_owned()),
            _ => {
                let shown = name.to_string_lossy().escape_debug().to_string();
                listing.broken.push(Broken {
                    file: format!("{PACKAGES}/{shown}"),
                    folder: shown,
                    name: None,
                    reason: "LOCAL_FOLDER_INVALID",
                    message: "its folder's name is no plain text".to_owned(),
                });
            }
        }
        if folders.len() > FOLDERS_MAX {
            return Err(RootError::TooMany { path: packages() });
        }
    }
    folders.sort_unstable();
    for folder in folders {
        match read_package(&dir, folder, source, compiled, &mut listing.watched) {
            Ok(found) => listing.packages.extend(found),
            Err(broken) => listing.broken.push(broken),
        }
    }
    Ok(listing)
}

/// Reads one folder; `None` if it holds no package, as a plain file or what version control leaves behind does.
fn read_package(
    dir: &Dir,
    folder: String,
    source: &str,
    compiled: &CompiledSchemas,
    watched: &mut Vec<String>,
) -> Result<Option<Found>, Broken> {
    let base = format!("{PACKAGES}/{folder}");
    let broken = |file: String, name: Option<&str>, wrong: Unreadable| Broken {
        folder: folder.clone(),
        name: name.map(str::to_owned),
        file,
        reason: wrong.reason,
        message: wrong.message,
    };
    match dir.metadata(&base) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(base, None, unreadable(&error))),
    }
    watched.push(base.clone());
    let file = format!("{base}/{MANIFEST}");
    let manifest = match read_file(dir, &file, MANIFEST_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(wrong) => return Err(broken(file, None, wrong)),
    };
    let manifest = Manifest::read(&manifest).map_err(|error| {
        let reason = match error {
            InvalidManifest::Json { .. } => "LOCAL_JSON_INVALID",
            InvalidManifest::NoName | InvalidManifest::Name(_) => "LOCAL_NAME_INVALID",
        };
        let message = error.to_string();
        broken(file, None, Unreadable { reason, message })
    })?;
    let name = manifest.name.to_string();
    let file = format!("{base}/{SCHEMA}");
    let schema = read_schema(dir, &file, compiled)
        .map_err(|wrong| broken(file.clone(), Some(&name), wrong))?;
    let assets = format!("{base}/{ASSETS}");
    let mut icons = Vec::new();
    if dir.metadata(&assets).is_ok_and(|found| found.is_dir()) {
        watched.push(assets.clone());
        for shape in IconShape::ALL {
            for format in IconFormat::ALL {
                let file = format!("{assets}/{}.{}", shape.as_str(), format.ext());
                let icon = read_icon(dir, &file, shape, format)
                    .map_err(|wrong| broken(file, Some(&name), wrong))?;
                icons.extend(icon);
            }
        }
    }
    Ok(Some(Found {
        folder,
        document: document(manifest, source),
        schema,
        icons,
    }))
}

fn read_schema(
    dir: &Dir,
    file: &str,
    compiled: &CompiledSchemas,
) -> Result<Option<std::sync::Arc<Schema>>, Unreadable> {
    let bytes_max = u64::try_from(SCHEMA_LIMITS.max_bytes).unwrap_or(u64::MAX);
    let Some(bytes) = read_file(dir, file, bytes_max)? else {
        return Ok(None);
    };
    let invalid = |message: String| Unreadable {
        reason: "LOCAL_SCHEMA_INVALID",
        message,
    };
    let text = String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| invalid("it is not UTF-8 text".to_owned()))?;
    let schema = compiled.get_or_compile(&content_hash(text.as_bytes()), &text);
    match &schema.compiled {
        Ok(_) => Ok(Some(schema)),
        Err(reason) => Err(invalid(format!("it is no usable JSON Schema: {reason}"))),
    }
}

fn read_icon(
    dir: &Dir,
    file: &str,
    shape: IconShape,
    format: IconFormat,
) -> Result<Option<FoundIcon>, Unreadable> {
    let Some(bytes) = read_file(dir, file, ICON_BYTES_MAX)? else {
        return Ok(None);
    };
    if IconFormat::sniff(&bytes) != Some(format) {
        return Err(Unreadable {
            reason: "LOCAL_ICON_INVALID",
            message: format!("its bytes are no {}", format.media_type()),
        });
    }
    Ok(Some(FoundIcon {
        shape,
        format,
        blob: IconBlob {
            hash: content_hash(&bytes),
            bytes,
        },
    }))
}

/// A file beneath the root; `None` if there is none.
fn read_file(dir: &Dir, path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, Unreadable> {
    let not_plain = || Unreadable {
        reason: "LOCAL_FILE_UNREADABLE",
        message: "it is not a plain file".to_owned(),
    };
    // Before it is opened: to open a pipe is to wait for somebody at its other end.
    match dir.metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(not_plain()),
        // A link to nowhere is there, and wrong.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match dir.symlink_metadata(path) {
                Ok(_) => Err(unreadable(&error)),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(unreadable(&error)),
    }
    let file = match dir.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(not_plain());
    }
    let mut bytes = Vec::new();
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Unreadable {
            reason: "LOCAL_FILE_TOO_LARGE",
            message: format!("it is larger than {bytes_max} bytes"),
        });
    }
    Ok(Some(bytes))
}

fn unreadable(error: &io::Error) -> Unreadable {
    let reason = match error.kind() {
        // What the sandbox says of a path that leads out; without permission it cannot be read either.
        io::ErrorKind::PermissionDenied => "LOCAL_OUTSIDE_ROOT_OR_FORBIDDEN",
        _ => "LOCAL_FILE_UNREADABLE",
    };
    Unreadable {
        reason,
        message: format!("it cannot be read: {error}"),
    }
}

fn document(manifest: Manifest, source: &str) -> PackageDocument {
    PackageDocument {
        name: manifest.name.to_string(),
        source: source.to_owned(),
        label: manifest.label.unwrap_or_default(),
        description: manifest.description.unwrap_or_default(),
        homepage: manifest.homepage.unwrap_or_default(),
        license: manifest.license.unwrap_or_default(),
        repository: manifest.repository.map(|found| RepositoryDocument {
            kind: found.kind.unwrap_or_default(),
            url: found.url,
            directory: found.directory.unwrap_or_default(),
        }),
        dist_tags: [(LATEST.to_owned(), LOCAL.to_owned())].into(),
        versions: vec![VersionDocument {
            version: LOCAL.to_owned(),
            dependencies: manifest.dependencies,
            peer_dependencies: manifest.peer_dependencies,
            ..VersionDocument::default()
        }],
        unlisted: false,
    }
}

// === impl Broken ===

impl Broken {
    /// What it is called where packages are listed.
    pub(crate) fn label(&self) -> String {
        let folder = || format!("{PACKAGES}/{}", self.folder);
        self.name.clone().unwrap_or_else(folder)
    }
}

// === impl RootError ===

impl RootError {
    /// For programs.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "LOCAL_ROOT_UNREADABLE",
            Self::TooMany { .. } => "LOCAL_ROOT_TOO_LARGE",
            Self::Emptied { .. } => "LOCAL_ROOT_EMPTIED",
        }
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
