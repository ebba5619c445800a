//! Reading one field in every shape it is known to have.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use steadfast_types::Timestamp;

use super::{PackumentWarning, Repository, Warnings};
use crate::npm::integrity::Integrity;

/// The fields of a package or of one version, and where to complain about them.
pub(super) struct Fields<'f, 'json> {
    object: &'f BTreeMap<String, &'json RawValue>,
    version: Option<&'f str>,
    warnings: &'f mut Warnings,
}

/// What is kept of `dist`.
#[derive(Default)]
pub(super) struct Dist {
    pub(super) integrity: Option<String>,
    pub(super) tarball_url: Option<String>,
    pub(super) unpacked_size: Option<u64>,
}

// === impl Fields ===

impl<'f, 'json> Fields<'f, 'json> {
    pub(super) fn of_package(
        object: &'f BTreeMap<String, &'json RawValue>,
        warnings: &'f mut Warnings,
    ) -> Self {
        Self {
            object,
            version: None,
            warnings,
        }
    }

    pub(super) fn of_version(
        object: &'f BTreeMap<String, &'json RawValue>,
        version: &'f str,
        warnings: &'f mut Warnings,
    ) -> Self {
        Self {
            object,
            version: Some(version),
            warnings,
        }
    }

    /// Text. NUL characters count as an unknown shape: not every database stores them.
    pub(super) fn text(&mut self, field: &'static str) -> Option<String> {
        self.read(field, as_text)
    }

    /// An object of texts, without the members that are none.
    pub(super) fn texts(&mut self, field: &'static str) -> BTreeMap<String, String> {
        let members: BTreeMap<String, Value> = self.object(field).unwrap_or_default();
        let count = members.len();
        let texts: BTreeMap<_, _> = members
            .into_iter()
            .filter(|(name, _)| !name.contains('\0'))
            .filter_map(|(name, value)| Some((name, as_text(&value)?)))
            .collect();
        if texts.len() < count {
            self.skip(field);
        }
        texts
    }

    /// An object whose members are read later.
    pub(super) fn object<T: Deserialize<'json>>(
        &mut self,
        field: &'static str,
    ) -> Option<BTreeMap<String, T>> {
        let raw: &'json RawValue = self.object.get(field)?;
        if raw.get() == "null" {
            return None;
        }
        let object = serde_json::from_str(raw.get()).ok();
        if object.is_none() {
            self.skip(field);
        }
        object
    }

    /// A text, `{type}`, or the list of either that was usual once, joined as SPDX would. An object at `licenses` is not read.
    pub(super) fn license(&mut self) -> Option<String> {
        self.read("license", |value| match value {
            Value::Array(items) => {
                let items: Option<Vec<_>> = items.iter().map(one_license).collect();
                items
                    .filter(|items| !items.is_empty())
                    .map(|items| items.join(" OR "))
            }
            other => one_license(other),
        })
    }

    /// A text or `{type, url, directory}`.
    pub(super) fn repository(&mut self) -> Option<Repository> {
        self.read("repository", |value| {
            let member = |name: &str| value.get(name).and_then(as_text);
            match value {
                Value::Object(_) => Some(Repository {
                    kind: member("type"),
                    url: member("url")?,
                    directory: member("directory"),
                }),
                other => Some(Repository {
                    kind: None,
                    url: as_text(other)?,
                    directory: None,
                }),
            }
        })
    }

    /// A message, or `true` without one. `false` takes a deprecation back.
    pub(super) fn deprecated(&mut self) -> Option<String> {
        self.read("deprecated", |value| match value {
            Value::Bool(deprecated) => Some(deprecated.then(String::new)),
            other => as_text(other).map(Some),
        })
        .flatten()
    }

    /// Where the tarball is and what vouches for it.
    pub(super) fn dist(&mut self) -> Dist {
        let Some(members) = self.object::<&'json RawValue>("dist") else {
            return Dist::default();
        };
        let mut fields = Fields {
            object: &members,
            version: self.version,
            warnings: self.warnings,
        };
        let integrity = fields
            .text("integrity")
            .filter(|text| !text.trim().is_empty());
        let shasum = || Integrity::text_of_shasum(&fields.text("shasum")?);
        Dist {
            integrity: integrity.or_else(shasum),
            tarball_url: fields.text("tarball"),
            unpacked_size: fields.read("unpackedSize", as_size),
        }
    }

    /// A point in time, with any offset and any number of digits after the second.
    pub(super) fn time(&mut self, field: &'static str, value: &Value) -> Option<Timestamp> {
        let time = value
            .as_str()
            .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
            .map(|time| Timestamp(time.timestamp_micros()));
        if time.is_none() {
            self.skip(field);
        }
        time
    }

    fn read<T>(
        &mut self,
        field: &'static str,
        understand: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let raw = self.object.get(field)?;
        let value = serde_json::from_str(raw.get()).ok();
        if value == Some(Value::Null) {
            return None;
        }
        let understood = value.as_ref().and_then(understand);
        if understood.is_none() {
            self.skip(field);
        }
        understood
    }

    fn skip(&mut self, field: &'static str) {
        self.warnings.push(PackumentWarning::FieldSkipped {
            version: self.version.map(str::to_owned),
            field,
        });
    }
}

fn as_text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

/// Whole and no larger than a signed 64-bit number, which is what databases have; some registries write it as `1234.0`.
fn as_size(value: &Value) -> Option<u64> {
    let size = value.as_u64().or_else(|| {
        let size = value.as_f64()?;
        let whole = size.fract() == 0.0 && (0.0..9e15).contains(&size);
        whole.then_some(size as u64)
    })?;
    i64::try_from(size).is_ok().then_some(size)
}

fn one_license(value: &Value) -> Option<String> {
    as_text(value).or_else(|| as_text(value.get("type")?))
}
