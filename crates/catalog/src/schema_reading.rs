//! Reading the schemas of one package, from tarballs or from their addresses, and comparing them with what is stored. It writes nothing.

use futures::{StreamExt, stream::FuturesUnordered};
use steadfast_store::{PackageWrite, RefreshItemRow, SchemaBlob, SchemaRow, SchemaWrite};
use steadfast_upstream::TarballFindings;

use crate::{
    membership::Member,
    package::{VersionDocument, content_hash},
    plan::{self, KnownSchema},
    reading::{Findings, Reader},
};

/// The reason of a schema that cannot be stored as text.
const SCHEMA_NOT_TEXT: &str = "SCHEMA_NOT_TEXT";

/// What the tarball of a version, or an address, brought.
pub(crate) type Read<'v> = (
    &'v VersionDocument,
    Result<TarballFindings, steadfast_upstream::Error>,
);

// === impl Reader ===

impl Reader<'_> {
    /// Reads the schemas of one package: one under the permit that the caller holds, and as many besides as nobody waits
    /// for. None waits for a permit of its own, so that packages that hang keep none of the others from ending.
    pub(crate) async fn schemas<'v>(
        &self,
        member: &Member<'_>,
        wanted: Vec<&'v VersionDocument>,
    ) -> Vec<Read<'v>> {
        let mut done = Vec::with_capacity(wanted.len());
        let mut wanted = wanted.into_iter().enumerate();
        let mut under_way = FuturesUnordered::new();
        let mut own_is_free = true;
        loop {
            while wanted.len() > 0 {
                let extra = if own_is_free {
                    own_is_free = false;
                    None
                } else if let Ok(permit) = self.permits.try_acquire() {
                    Some(permit)
                } else {
                    break;
                };
                under_way.extend(wanted.next().map(|(at, version)| async move {
                    (at, self.schema(member, version).await, extra)
                }));
            }
            let Some((at, read, extra)) = under_way.next().await else {
                break;
            };
            own_is_free |= extra.is_none();
            done.push((at, read));
        }
        // Written in the order of the versions, whichever came first.
        done.sort_unstable_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, read)| read).collect()
    }

    async fn schema<'v>(&self, member: &Member<'_>, version: &'v VersionDocument) -> Read<'v> {
        let (name, registry) = (&member.name, &member.npm.registry);
        if let Some(template) = &member.npm.schema_url {
            let limits = &self.options.tarball_limits;
            let read = registry.read_schema(template, name, &version.version, limits);
            let found = read.await.map(|schema| TarballFindings {
                schema,
                label: None,
            });
            return (version, found);
        }
        let integrity = (!version.integrity.is_empty()).then_some(version.integrity.as_str());
        let limits = &self.options.tarball_limits;
        let read = registry.read_tarball(name, &version.tarball, integrity, limits);
        (version, read.await)
    }

    pub(crate) fn take_schema(
        &self,
        member: &Member<'_>,
        version: &VersionDocument,
        before: Option<&KnownSchema>,
        outcome: Result<TarballFindings, steadfast_upstream::Error>,
        findings: &mut Findings,
        write: &mut PackageWrite,
    ) {
        let mut item = RefreshItemRow {
            kind: "schemas".into(),
            package: member.name.to_string(),
            version: version.version.clone(),
            outcome: "failed".into(),
            ..Default::default()
        };
        let deltas = &mut findings.refreshed.deltas;
        match outcome.map(|found| (found.schema.map(as_text), found.label)) {
            Err(error) => {
                item.reason = error.reason().into();
                item.message = error.to_string();
            }
            Ok((Some(None), _)) => {
                item.reason = SCHEMA_NOT_TEXT.into();
                item.message = "its configuration-schema.json is not UTF-8 text".into();
            }
            Ok((text, label)) => {
                let blob = text.flatten().map(|document| SchemaBlob {
                    hash: content_hash(document.as_bytes()),
                    document,
                });
                let label = label.unwrap_or_default();
                let found = schema_write(member, version, before, blob, label);
                if found.silent {
                    deltas.schemas_unchanged += 1;
                    if before.is_none_or(|before| !is_recorded(before, &found)) {
                        write.schemas.push(found);
                    }
                    return;
                }
                item.outcome = "changed".into();
                if let Some(blob) = &found.blob {
                    let schema = self.compiled.get_or_compile(&blob.hash, &blob.document);
                    item.message = schema.warnings.join("; ");
                    findings.schemas.push(schema);
                } else {
                    item.message = "carries no schema".into();
                }
                write.schemas.push(found);
            }
        }
        if item.outcome == "failed" {
            deltas.schemas_failed += 1;
        } else {
            deltas.schemas_changed += 1;
        }
        findings.refreshed.items.push(item);
    }
}

/// Whether even what callers do not see of it is stored.
fn is_recorded(before: &KnownSchema, found: &SchemaWrite) -> bool {
    before.integrity == found.integrity
        && before.origin == found.origin
        && before.misses == found.misses
}

/// What is to be stored of a version's schema. It is silent if callers see no difference.
fn schema_write(
    member: &Member<'_>,
    version: &VersionDocument,
    before: Option<&KnownSchema>,
    blob: Option<SchemaBlob>,
    label: String,
) -> SchemaWrite {
    let origin = member.npm.schema_origin();
    let misses = match (&blob, origin) {
        (Some(_), _) | (_, "") => 0,
        (None, origin) => {
            let before = before.filter(|before| before.origin == origin);
            before.map_or(0, |before| before.misses).saturating_add(1)
        }
    };
    let hash = blob.as_ref().map(|blob| &blob.hash);
    SchemaWrite {
        silent: before.is_some_and(|before| before.hash.as_ref() == hash && before.label == label),
        version: version.version.clone(),
        integrity: version.integrity.clone(),
        origin: origin.to_owned(),
        misses,
        retry_in_us: (misses > 0).then(|| plan::retry_in_us(misses)),
        blob,
        label,
    }
}

/// As text that both databases store: UTF-8 without NUL, which JSON never holds.
fn as_text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

pub(crate) fn known_from_row(row: SchemaRow) -> (String, KnownSchema) {
    let known = KnownSchema {
        integrity: row.integrity,
        hash: row.hash,
        label: row.label,
        origin: row.origin,
        misses: row.misses,
        retry_us: row.retry_us,
    };
    (row.version, known)
}

pub(crate) fn known_from_write(write: &SchemaWrite) -> KnownSchema {
    KnownSchema {
        integrity: write.integrity.clone(),
        hash: write.blob.as_ref().map(|blob| blob.hash.clone()),
        label: write.label.clone(),
        origin: write.origin.clone(),
        misses: write.misses,
        retry_us: None,
    }
}
