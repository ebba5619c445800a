//! A version's tarball: what is wanted of it, and how much of it is read at most.
//!
//! Pure: bytes in, findings out. The caller has verified the bytes; that they are authentic does not make them harmless, so that
//! everything is still counted. The rules of what counts are npm's: files lie below one folder of any name (usually `package`),
//! and of two entries with one path the later wins.

use std::{
    io::{self, Read},
    path::{Component, Path},
};

use flate2::read::MultiGzDecoder;

use super::integrity::Algorithm;
use crate::error::with_causes;

const SCHEMA_FILE: &str = "configuration-schema.json";
const MANIFEST_FILE: &str = "package.json";

/// How much of a tarball is read, and what vouches for it.
#[derive(Debug, Clone)]
pub struct TarballLimits {
    /// The tarball as it is downloaded.
    pub download_bytes_max: usize,
    /// Everything in it, unpacked.
    pub unpacked_bytes_max: u64,
    /// Files and folders in it.
    pub entries_max: usize,
    /// The configuration schema.
    pub schema_bytes_max: usize,
    /// `package.json`.
    pub manifest_bytes_max: usize,
    /// A tarball whose strongest hash is weaker is not read at all.
    pub weakest_algorithm: Algorithm,
}

impl Default for TarballLimits {
    fn default() -> Self {
        Self {
            download_bytes_max: 32 * 1024 * 1024,
            unpacked_bytes_max: 128 * 1024 * 1024,
            entries_max: 20_000,
            schema_bytes_max: 1024 * 1024,
            manifest_bytes_max: 1024 * 1024,
            weakest_algorithm: Algorithm::Sha512,
        }
    }
}

/// What a tarball holds of interest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TarballFindings {
    /// The bytes of `configuration-schema.json`; `None` if the package has none, which is a fact and no failure.
    pub schema: Option<Vec<u8>>,
    /// `label` of its `package.json`.
    pub label: Option<String>,
}

/// Why a tarball is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TarballRefused {
    Invalid(String),
    SchemaTooLarge,
}

/// Reads the findings out of the bytes of a `.tgz`.
pub(super) fn read(tgz: &[u8], limits: &TarballLimits) -> Result<TarballFindings, TarballRefused> {
    let unpacked = Metered {
        inner: MultiGzDecoder::new(tgz),
        left: limits.unpacked_bytes_max,
        limit: limits.unpacked_bytes_max,
    };
    let mut archive = tar::Archive::new(unpacked);
    let mut schema = None;
    let mut manifest = None;
    for (index, entry) in archive.entries().map_err(invalid)?.enumerate() {
        if index >= limits.entries_max {
            let limit = limits.entries_max;
            return Err(TarballRefused::Invalid(format!(
                "it has more than {limit} entries"
            )));
        }
        let mut entry = entry.map_err(invalid)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let file = top_level_file(&entry.path().map_err(invalid)?).map(str::to_owned);
        match file.as_deref() {
            Some(SCHEMA_FILE) => {
                let bytes = take(&mut entry, limits.schema_bytes_max)?;
                schema = Some(bytes.ok_or(TarballRefused::SchemaTooLarge)?);
            }
            Some(MANIFEST_FILE) => {
                let bytes = take(&mut entry, limits.manifest_bytes_max)?;
                manifest = Some(bytes.ok_or_else(|| {
                    let limit = limits.manifest_bytes_max;
                    TarballRefused::Invalid(format!(
                        "its {MANIFEST_FILE} is larger than {limit} bytes"
                    ))
                })?);
            }
            _ => {}
        }
    }
    let label = match manifest {
        Some(manifest) => label(&manifest)?,
        None => None,
    };
    Ok(TarballFindings { schema, label })
}

/// The name of a file that lies directly in the folder at the top.
fn top_level_file(path: &Path) -> Option<&str> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir);
    match (parts.next()?, parts.next()?, parts.next()) {
        (Component::Normal(_), Component::Normal(file), None) => file.to_str(),
        _ => None,
    }
}

/// The whole entry, `None` if it is larger.
fn take(entry: &mut impl Read, bytes_max: usize) -> Result<Option<Vec<u8>>, TarballRefused> {
    let mut bytes = Vec::new();
    let read_max = u64::try_from(bytes_max)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    entry
        .take(read_max)
        .read_to_end(&mut bytes)
        .map_err(invalid)?;
    Ok((bytes.len() <= bytes_max).then_some(bytes))
}

/// A label of another type than text counts as none, as everywhere in metadata.
fn label(manifest: &[u8]) -> Result<Option<String>, TarballRefused> {
    let manifest = manifest
        .strip_prefix("\u{feff}".as_bytes())
        .unwrap_or(manifest);
    let manifest: serde_json::Value = serde_json::from_slice(manifest).map_err(|error| {
        TarballRefused::Invalid(format!("its {MANIFEST_FILE} is not JSON: {error}"))
    })?;
    Ok(manifest
        .get("label")
        .and_then(|label| label.as_str())
        .filter(|label| !label.is_empty() && !label.contains('\0'))
        .map(str::to_owned))
}

fn invalid(error: io::Error) -> TarballRefused {
    TarballRefused::Invalid(with_causes(&error))
}

/// Ends with an error where the limit is passed, instead of with an end of file, which would look like a shorter archive.
struct Metered<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!("it unpacks to more than {} bytes", self.limit))
        })?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("writes to memory");
        encoder.finish().expect("writes to memory")
    }

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, path, *bytes)
                .expect("writes to memory");
        }
        builder.into_inner().expect("writes to memory")
    }

    fn find(files: &[(&str, &[u8])]) -> Result<TarballFindings, TarballRefused> {
        read(&gzip(&tar_of(files)), &TarballLimits::default())
    }

    #[test]
    fn schema_and_label_are_found_in_the_top_folder_only() {
        let findings = find(&[
            ("package/package.json", br#"{"label":"HTTP"}"#),
            ("package/configuration-schema.json", b"{}"),
            ("package/test/configuration-schema.json", b"wrong"),
            ("configuration-schema.json", b"wrong"),
        ])
        .expect("reads");
        assert_eq!(findings.schema.as_deref(), Some(&b"{}"[..]));
        assert_eq!(findings.label.as_deref(), Some("HTTP"));
    }

    #[test]
    fn the_folder_may_have_any_name_and_the_later_entry_wins() {
        let findings = find(&[
            ("./odd-name/configuration-schema.json", b"1"),
            ("odd-name/configuration-schema.json", b"2"),
        ])
        .expect("reads");
        assert_eq!(findings.schema.as_deref(), Some(&b"2"[..]));
        assert_eq!(findings.label, None);
    }

    #[test]
    fn no_schema_is_a_fact_and_odd_labels_are_none() {
        for manifest in [
            &br#"{"label":7}"#[..],
            br#"{"label":""}"#,
            b"\xef\xbb\xbf{}",
            b"[]",
        ] {
            let findings = find(&[("package/package.json", manifest)]).expect("reads");
            assert_eq!(findings, TarballFindings::default());
        }
    }

    #[test]
    fn a_link_is_not_a_schema() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder
            .append_link(
                &mut header,
                "package/configuration-schema.json",
                "/etc/passwd",
            )
            .expect("writes to memory");
        let bytes = builder.into_inner().expect("writes to memory");
        let findings = read(&gzip(&bytes), &TarballLimits::default()).expect("reads");
        assert_eq!(findings.schema, None);
    }

    #[test]
    fn each_limit_refuses_and_names_itself() {
        let tgz = gzip(&tar_of(&[
            ("p/a", &[0; 4096]),
            ("p/configuration-schema.json", &[b' '; 100]),
            ("p/package.json", &[b' '; 100]),
        ]));
        let with = |change: fn(&mut TarballLimits)| {
            let mut limits = TarballLimits::default();
            change(&mut limits);
            read(&tgz, &limits).expect_err("refused")
        };
        let invalid = |refused| match refused {
            TarballRefused::Invalid(problem) => problem,
            TarballRefused::SchemaTooLarge => panic!("another limit"),
        };
        assert!(invalid(with(|l| l.unpacked_bytes_max = 4096)).contains("more than 4096 bytes"));
        assert!(invalid(with(|l| l.entries_max = 2)).contains("more than 2 entries"));
        assert!(invalid(with(|l| l.manifest_bytes_max = 99)).contains("larger than 99 bytes"));
        assert_eq!(
            with(|l| l.schema_bytes_max = 99),
            TarballRefused::SchemaTooLarge
        );
    }

    #[test]
    fn rubbish_and_cut_archives_are_invalid() {
        let whole = gzip(&tar_of(&[("p/package.json", b"{}")]));
        for bytes in [
            &b"rubbish"[..],
            b"",
            &whole[..whole.len() / 2],
            &gzip(&[7; 512]),
        ] {
            let refused = read(bytes, &TarballLimits::default()).expect_err("refused");
            assert!(matches!(refused, TarballRefused::Invalid(_)), "{refused:?}");
        }
        let refused = find(&[("p/package.json", b"{")]).expect_err("refused");
        assert!(matches!(refused, TarballRefused::Invalid(_)), "{refused:?}");
    }
}
