//! Reading one package from its registry, and comparing it with what is stored. It writes nothing.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, stream::FuturesUnordered};
use steadfast_store::{
    PackageRow, PackageWrite, RefreshDeltas, RefreshItemRow, Refreshed, SchemaBlob, SchemaRow,
    SchemaWrite, Store,
};
use steadfast_upstream::{PackageName, PackumentAnswer, TarballFindings};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    compiled::CompiledSchemas,
    error::Error,
    options::{NpmSource, Options, Source, SourceKind},
    package::{PackageDocument, VersionDocument, content_hash},
    packument::{self, Current},
    plan::{self, Difference, Kinds, KnownSchema, StatedLabel},
    schema::Schema,
};

/// The reason of a schema that cannot be stored as text.
const SCHEMA_NOT_TEXT: &str = "SCHEMA_NOT_TEXT";

/// What one package brought.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What is to be committed.
    pub(crate) refreshed: Refreshed,
    /// Compiled on arrival; held so that the follower need not compile them again.
    pub(crate) schemas: Vec<Arc<Schema>>,
}

/// Reads packages.
pub(crate) struct Reader<'a> {
    pub(crate) store: &'a Store,
    pub(crate) options: &'a Options,
    pub(crate) compiled: &'a CompiledSchemas,
    pub(crate) kinds: Kinds,
    /// Requests in flight.
    pub(crate) permits: &'a Semaphore,
}

/// What the tarball of a version brought.
type Read<'v> = (
    &'v VersionDocument,
    Result<TarballFindings, steadfast_upstream::Error>,
);

struct Stored {
    row: Option<PackageRow>,
    document: Option<PackageDocument>,
    known: BTreeMap<String, KnownSchema>,
}

// === impl Reader ===

impl Reader<'_> {
    /// Reads a package.
    ///
    /// # Errors
    /// Only if the database does not answer: what goes wrong upstream is part of the findings.
    pub(crate) async fn read(
        &self,
        name: &PackageName,
        source: &Source,
    ) -> Result<Findings, Error> {
        let SourceKind::Npm(npm) = &source.kind;
        // Asked for at once, so that packages are begun in their order; kept until the last tarball is read, so that what has
        // begun is finished before more is begun.
        let (_permit, stored) = tokio::join!(self.permit(), self.stored(name));
        let stored = stored?;
        let mut findings = Findings::default();
        let current = if self.kinds.packages {
            match self.packument(name, source, npm, &stored).await {
                Ok(current) => current,
                Err(error) => {
                    findings.fail_package(name, &error);
                    return Ok(findings);
                }
            }
        } else {
            match stored.as_current() {
                Some(current) => current,
                // Nothing is known of it, so it has no schemas to read.
                None => return Ok(findings),
            }
        };
        let mut write = PackageWrite {
            name: name.to_string(),
            ..Default::default()
        };
        let mut known = stored.known;
        if self.kinds.schemas {
            let plan = plan::schema_plan(&current.document, &known, self.options.schemas_of_newest);
            findings.refreshed.deltas.schemas_unchanged += as_count(plan.settled);
            findings.refreshed.deltas.schemas_listed += as_count(plan.settled + plan.fetch.len());
            let wanted: Vec<&VersionDocument> = plan
                .fetch
                .iter()
                .filter_map(|version| current.document.version(version))
                .collect();
            for (version, outcome) in self.tarballs(name, npm, wanted).await {
                self.take_schema(name, version, outcome, &mut findings, &mut write);
            }
            for schema in &write.schemas {
                known.insert(schema.version.clone(), known_from_write(schema));
            }
            for version in &plan.gone {
                known.remove(version);
            }
            write.gone = plan.gone;
        }
        if self.kinds.icons {
            self.read_icons(name, source, &mut findings, &mut write)
                .await?;
        }
        let before = stored.document.map(|document| document.label);
        let mut document = current.document;
        document.label = plan::label(
            &document,
            &known,
            &current.label,
            &before.unwrap_or_default(),
        );
        self.take_package(
            stored.row,
            document,
            current.etag,
            &mut findings,
            &mut write,
        )?;
        let anything = write.takes_revision() || write.etag.is_some();
        findings.refreshed.write = anything.then_some(write);
        Ok(findings)
    }

    async fn stored(&self, name: &PackageName) -> Result<Stored, Error> {
        let (row, schemas) = self.store.stored_package(name.as_str()).await?;
        let document = row.as_ref().and_then(|row| {
            serde_json::from_str(&row.document)
                .inspect_err(|error| {
                    tracing::warn!(
                        package = %name,
                        error = error as &dyn std::error::Error,
                        "the stored package cannot be read; reading it in full"
                    );
                })
                .ok()
        });
        Ok(Stored {
            row,
            document,
            known: schemas.into_iter().map(known_from_row).collect(),
        })
    }

    async fn packument(
        &self,
        name: &PackageName,
        source: &Source,
        npm: &NpmSource,
        stored: &Stored,
    ) -> Result<Current, steadfast_upstream::Error> {
        let etag = stored.etag_of(source);
        let answer = npm.registry.packument(name, etag).await?;
        match (answer, stored.as_current()) {
            (PackumentAnswer::NotModified, Some(current)) => Ok(current),
            (PackumentAnswer::NotModified, None) => Err(steadfast_upstream::Error::Configuration {
                problem: format!("the registry says that {name} is not modified, unasked"),
            }),
            (
                PackumentAnswer::Found {
                    packument,
                    etag,
                    warnings,
                },
                _,
            ) => {
                if !warnings.is_empty() {
                    tracing::debug!(
                        package = %name,
                        left_out = warnings.len(),
                        first = ?warnings[0],
                        "parts of a packument were left out"
                    );
                }
                Ok(Current::new(*packument, etag, &source.name))
            }
        }
    }

    /// Reads the tarballs of one package: one under the permit that the caller holds, and as many besides as nobody waits
    /// for. None waits for a permit of its own, so that packages that hang keep none of the others from ending.
    async fn tarballs<'v>(
        &self,
        name: &PackageName,
        npm: &NpmSource,
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
                    (at, self.tarball(name, npm, version).await, extra)
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

    async fn tarball<'v>(
        &self,
        name: &PackageName,
        npm: &NpmSource,
        version: &'v VersionDocument,
    ) -> Read<'v> {
        let integrity = (!version.integrity.is_empty()).then_some(version.integrity.as_str());
        let limits = &self.options.tarball_limits;
        let read = npm
            .registry
            .read_tarball(name, &version.tarball, integrity, limits);
        (version, read.await)
    }

    /// The semaphore is never closed; if it were, going on without a permit would do no harm.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    fn take_schema(
        &self,
        name: &PackageName,
        version: &VersionDocument,
        outcome: Result<TarballFindings, steadfast_upstream::Error>,
        findings: &mut Findings,
        write: &mut PackageWrite,
    ) {
        let mut item = RefreshItemRow {
            kind: "schemas".into(),
            package: name.to_string(),
            version: version.version.clone(),
            outcome: "failed".into(),
            reason: String::new(),
            message: String::new(),
            revision: None,
        };
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
                item.outcome = "changed".into();
                let blob = text.flatten().map(|document| SchemaBlob {
                    hash: content_hash(document.as_bytes()),
                    document,
                });
                if let Some(blob) = &blob {
                    let schema = self.compiled.get_or_compile(&blob.hash, &blob.document);
                    item.message = schema.warnings.join("; ");
                    findings.schemas.push(schema);
                } else {
                    item.message = "carries no schema".into();
                }
                write.schemas.push(SchemaWrite {
                    version: version.version.clone(),
                    blob,
                    integrity: version.integrity.clone(),
                    label: label.unwrap_or_default(),
                });
            }
        }
        if item.outcome == "failed" {
            findings.refreshed.deltas.schemas_failed += 1;
        } else {
            findings.refreshed.deltas.schemas_changed += 1;
        }
        findings.refreshed.items.push(item);
    }

    fn take_package(
        &self,
        row: Option<PackageRow>,
        document: PackageDocument,
        etag: String,
        findings: &mut Findings,
        write: &mut PackageWrite,
    ) -> Result<(), Error> {
        let canonical = document
            .canonical()
            .map_err(|_| Error::Internal("a package cannot be encoded"))?;
        let difference = plan::difference(
            row.as_ref().map(|row| row.content_hash.as_str()),
            row.as_ref().map_or("", |row| row.upstream_etag.as_str()),
            &canonical.hash,
            &etag,
        );
        match difference {
            Difference::None => {}
            Difference::EtagOnly => write.etag = Some(etag),
            Difference::Content => {
                write.package = Some(PackageRow {
                    name: document.name.clone(),
                    source: document.source.clone(),
                    document: canonical.text,
                    content_hash: canonical.hash,
                    upstream_etag: etag,
                });
            }
        }
        if self.kinds.packages {
            let changed = difference == Difference::Content;
            findings.refreshed.deltas.packages_changed += i64::from(changed);
            findings.refreshed.deltas.packages_unchanged += i64::from(!changed);
            let outcome = if changed { "changed" } else { "unchanged" };
            let item = package_item(&document.name, outcome, "", String::new());
            findings.refreshed.items.insert(0, item);
        }
        Ok(())
    }
}

// === impl Findings ===

impl Findings {
    fn fail_package(&mut self, name: &PackageName, error: &steadfast_upstream::Error) {
        let reason = error.reason();
        let item = package_item(name.as_str(), "failed", reason, error.to_string());
        self.refreshed.items.push(item);
        self.refreshed.deltas.packages_failed += 1;
    }

    /// A package that was asked for and is in no source's list here.
    pub(crate) fn not_configured(name: &str) -> Self {
        let message = "it is in no source's list of this replica".to_owned();
        Self {
            refreshed: Refreshed {
                items: vec![package_item(
                    name,
                    "failed",
                    "PACKAGE_NOT_CONFIGURED",
                    message,
                )],
                deltas: RefreshDeltas {
                    packages_failed: 1,
                    ..Default::default()
                },
                write: None,
            },
            ..Default::default()
        }
    }
}

// === impl Stored ===

impl Stored {
    /// The etag to ask with: only if the answer would be made into the same document.
    fn etag_of(&self, source: &Source) -> Option<&str> {
        let (row, _) = self.row.as_ref().zip(self.document.as_ref())?;
        let etag = packument::upstream_etag(&row.upstream_etag)?;
        (row.source == source.name).then_some(etag)
    }

    fn as_current(&self) -> Option<Current> {
        let (row, document) = self.row.as_ref().zip(self.document.as_ref())?;
        Some(Current {
            document: document.clone(),
            etag: row.upstream_etag.clone(),
            label: StatedLabel::AsBefore,
        })
    }
}

fn package_item(name: &str, outcome: &str, reason: &str, message: String) -> RefreshItemRow {
    RefreshItemRow {
        kind: "packages".into(),
        package: name.to_owned(),
        version: String::new(),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        message,
        revision: None,
    }
}

/// As text that both databases store: UTF-8 without NUL, which JSON never holds.
fn as_text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

fn known_from_row(row: SchemaRow) -> (String, KnownSchema) {
    let known = KnownSchema {
        integrity: row.integrity,
        hash: row.hash,
        label: row.label,
    };
    (row.version, known)
}

fn known_from_write(write: &SchemaWrite) -> KnownSchema {
    KnownSchema {
        integrity: write.integrity.clone(),
        hash: write.blob.as_ref().map(|blob| blob.hash.clone()),
        label: write.label.clone(),
    }
}

fn as_count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
