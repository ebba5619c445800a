//! Packuments and tarballs, as npm serves them.

use std::{collections::BTreeMap, io::Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256, Sha512};

use super::{
    View,
    spec::{Integrity, PackageSpec, VersionSpec},
};

/// A package ready to be sent.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) full: Document,
    pub(super) abbreviated: Document,
    /// By file name.
    pub(super) tarballs: BTreeMap<String, Bytes>,
}

/// A body with what conditional and compressed answers need.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) plain: Bytes,
    pub(super) gzip: Bytes,
    pub(super) etag: String,
}

// === impl Rendered ===

impl Rendered {
    pub(super) fn new(package: &PackageSpec, base_url: &str, view: View) -> Self {
        let mut tarballs = BTreeMap::new();
        let mut versions = Map::new();
        let mut times = Map::new();
        for (index, version) in package.versions.iter().enumerate() {
            let tarball = tarball(package, version);
            let file = file_name(&package.name, &version.version);
            let url = format!("{base_url}/{}/-/{file}", package.name);
            versions.insert(
                version.version.clone(),
                manifest(package, version, view, &url, &tarball),
            );
            let published = version
                .published
                .clone()
                .unwrap_or_else(|| default_time(index, view));
            times.insert(version.version.clone(), published.into());
            tarballs.insert(file, tarball);
        }
        Self {
            full: Document::new(&full(package, &versions, times, view)),
            abbreviated: Document::new(&abbreviated(package, &versions)),
            tarballs,
        }
    }
}

// === impl Document ===

impl Document {
    fn new(value: &Value) -> Self {
        Self::of_bytes(value.to_string().as_bytes())
    }

    /// Any file.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let plain = Bytes::copy_from_slice(bytes);
        Self {
            gzip: gzip(&plain),
            etag: format!("\"{}\"", &hex::encode(Sha256::digest(&plain))[..32]),
            plain,
        }
    }
}

fn full(
    package: &PackageSpec,
    versions: &Map<String, Value>,
    times: Map<String, Value>,
    view: View,
) -> Value {
    let mut time = Map::new();
    if view == View::Full
        && let (Some(first), Some(last)) = (
            times.values().next().cloned(),
            times.values().next_back().cloned(),
        )
    {
        time.insert("created".to_owned(), first);
        time.insert("modified".to_owned(), last);
    }
    time.extend(times);
    let mut document = json!({
        "name": package.name,
        "dist-tags": package.tags(),
        "versions": versions,
        "time": time,
    });
    if view == View::Full {
        document["_id"] = json!(package.name);
        document["_rev"] = json!(format!("{}-0", versions.len()));
        document["readme"] = json!(format!("# {}", package.name));
        document["maintainers"] = json!([{ "name": "someone", "email": "someone@example.test" }]);
    }
    for (name, value) in [
        ("description", package.description.clone().map(Value::from)),
        ("homepage", package.homepage.clone().map(Value::from)),
        ("license", package.license.clone().map(Value::from)),
        ("repository", package.repository.clone()),
    ] {
        if let Some(value) = value {
            document[name] = value;
        }
    }
    for (name, value) in &package.extra {
        document[name] = value.clone();
    }
    document
}

/// What npm sends to installers: no times, no texts.
fn abbreviated(package: &PackageSpec, versions: &Map<String, Value>) -> Value {
    const KEPT: [&str; 6] = [
        "name",
        "version",
        "deprecated",
        "dependencies",
        "peerDependencies",
        "dist",
    ];
    let versions: Map<String, Value> = versions
        .iter()
        .map(|(number, manifest)| {
            let kept: Map<String, Value> = KEPT
                .into_iter()
                .filter_map(|field| Some((field.to_owned(), manifest.get(field)?.clone())))
                .collect();
            (number.clone(), kept.into())
        })
        .collect();
    json!({ "name": package.name, "dist-tags": package.tags(), "versions": versions })
}

fn manifest(
    package: &PackageSpec,
    version: &VersionSpec,
    view: View,
    url: &str,
    tarball: &[u8],
) -> Value {
    let mut dist = json!({ "tarball": url });
    match &version.integrity {
        Integrity::Sha512 => dist["integrity"] = json!(integrity_of(tarball)),
        Integrity::Stated(text) => dist["integrity"] = json!(text),
        Integrity::Absent => {}
    }
    if view == View::Full {
        dist["fileCount"] = json!(1 + usize::from(version.schema.is_some()) + version.files.len());
        dist["unpackedSize"] = json!(
            files(package, version)
                .iter()
                .map(|(_, content)| content.len())
                .sum::<usize>()
        );
    }
    let mut manifest = package_json(package, version);
    if view == View::Trimmed {
        manifest.remove("label");
    }
    manifest.insert("dist".to_owned(), dist);
    if let Some(message) = &version.deprecated {
        manifest.insert("deprecated".to_owned(), message.clone().into());
    }
    manifest.into()
}

fn package_json(package: &PackageSpec, version: &VersionSpec) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), package.name.clone().into());
    fields.insert("version".to_owned(), version.version.clone().into());
    for (name, text) in [
        ("label", &version.label),
        ("description", &package.description),
        ("homepage", &package.homepage),
        ("license", &package.license),
    ] {
        if let Some(text) = text {
            fields.insert(name.to_owned(), text.clone().into());
        }
    }
    if let Some(repository) = &package.repository {
        fields.insert("repository".to_owned(), repository.clone());
    }
    for (name, ranges) in [
        ("dependencies", &version.dependencies),
        ("peerDependencies", &version.peer_dependencies),
    ] {
        if !ranges.is_empty() {
            fields.insert(name.to_owned(), json!(ranges));
        }
    }
    fields
}

fn files(package: &PackageSpec, version: &VersionSpec) -> Vec<(String, Bytes)> {
    let manifest = Value::from(package_json(package, version)).to_string();
    let mut files = vec![("package.json".to_owned(), Bytes::from(manifest))];
    if let Some(schema) = &version.schema {
        files.push((
            "configuration-schema.json".to_owned(),
            Bytes::from(schema.clone()),
        ));
    }
    files.extend(version.files.iter().cloned());
    files
}

fn tarball(package: &PackageSpec, version: &VersionSpec) -> Bytes {
    let files = files(package, version);
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in &files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, format!("package/{path}"), content.as_ref())
            .expect("memory takes every file");
    }
    let encoder = archive
        .into_inner()
        .expect("memory takes the end of an archive");
    encoder
        .finish()
        .expect("memory takes the end of a stream")
        .into()
}

/// The same archive with its stored bytes, but not its decompressed ones, in doubt: a byte of the gzip header's time is
/// another, so only the hash can tell.
pub(super) fn altered(tarball: &[u8]) -> Bytes {
    const GZIP_TIME_OFFSET: usize = 4;
    let mut bytes = tarball.to_vec();
    if let Some(byte) = bytes.get_mut(GZIP_TIME_OFFSET) {
        *byte ^= 0x55;
    }
    bytes.into()
}

/// A subresource-integrity text of these bytes.
#[must_use]
pub fn integrity_of(bytes: &[u8]) -> String {
    format!("sha512-{}", STANDARD.encode(Sha512::digest(bytes)))
}

/// `language-http-1.2.3.tgz` for `@openfn/language-http`.
fn file_name(package: &str, version: &str) -> String {
    let short = package.rsplit('/').next().unwrap_or(package);
    format!("{short}-{version}.tgz")
}

pub(super) fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes every byte");
    encoder
        .finish()
        .expect("memory takes the end of a stream")
        .into()
}

fn default_time(index: usize, view: View) -> String {
    let (month, day) = (1 + index / 28 % 12, 1 + index % 28);
    let (year, zone) = (
        2024 + index / 336,
        if view == View::Full {
            ".000Z"
        } else {
            ".123456+00:00"
        },
    );
    format!("{year}-{month:02}-{day:02}T12:00:00{zone}")
}
