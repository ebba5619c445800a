//! Reading one package from its registry, and comparing it with what is stored. It writes nothing.

use std::{collections::BTreeMap, sync::Arc};

use steadfast_store::{PackageRow, PackageWrite, RefreshDeltas, RefreshItemRow, Refreshed, Store};
use steadfast_types::Timestamp;
use steadfast_upstream::{PackageName, PackumentAnswer};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    compiled::CompiledSchemas,
    describe,
    error::Error,
    membership::Member,
    options::Options,
    package::{PackageDocument, VersionDocument},
    packument::{self, Current},
    plan::{self, Difference, Kinds, KnownSchema, SchemaReading, StatedLabel, Wish},
    schema::Schema,
    schema_reading::{known_from_row, known_from_write},
};

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
    pub(crate) wish: &'a Wish,
    /// When the run began, by the database's clock.
    pub(crate) began: Timestamp,
    /// Requests in flight.
    pub(crate) permits: &'a Semaphore,
}

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
    pub(crate) async fn read(&self, member: &Member<'_>) -> Result<Findings, Error> {
        let name = &member.name;
        // Asked for at once, so that packages are begun in their order; kept until the last tarball is read, so that what has
        // begun is finished before more is begun.
        let (_permit, stored) = tokio::join!(self.permit(), self.stored(name));
        let stored = stored?;
        let mut findings = Findings::default();
        if let Some(row) = &stored.row
            && self
                .options
                .is_local_before(&row.source, &member.source.name)
        {
            if self.wish.kinds.packages {
                findings.leave(name, &row.source);
            }
            return Ok(findings);
        }
        let current = if self.wish.kinds.packages {
            match self.packument(member, &stored).await {
                Ok(current) => current,
                Err(error) => {
                    self.without_packument(member, stored, &error, &mut findings)?;
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
        if member.absent_us.is_some() && self.wish.kinds.packages {
            write.absent = Some(false);
        }
        if self.wish.kinds.schemas {
            let reading = SchemaReading {
                origin: member.npm.schema_origin(),
                newest_stable: self.options.schemas_of_newest,
                now_us: self.began.0,
                force: self.wish.force,
            };
            let plan = plan::schema_plan(&current.document, &known, reading);
            findings.refreshed.deltas.schemas_unchanged += as_count(plan.settled);
            findings.refreshed.deltas.schemas_listed += as_count(plan.settled + plan.fetch.len());
            let wanted: Vec<&VersionDocument> = plan
                .fetch
                .iter()
                .filter_map(|version| current.document.version(version))
                .collect();
            for (version, outcome) in self.schemas(member, wanted).await {
                let before = known.get(&version.version);
                self.take_schema(member, version, before, outcome, &mut findings, &mut write);
            }
            for schema in &write.schemas {
                known.insert(schema.version.clone(), known_from_write(schema));
            }
            for version in &plan.gone {
                known.remove(version);
            }
            write.gone = plan.gone;
        }
        if self.wish.kinds.icons {
            self.read_icons(name, member.source, &mut findings, &mut write)
                .await?;
        }
        let before = stored.document.as_ref().map(|document| &document.label);
        let mut document = current.document;
        document.unlisted = member.unlisted;
        document.label = plan::label(
            &document,
            &known,
            &current.label,
            before.map_or("", String::as_str),
        );
        let changed = self.take_package(
            (stored.row.as_ref(), stored.document.as_ref()),
            &document,
            current.etag,
            &mut write,
        )?;
        if self.wish.kinds.packages {
            findings.refreshed.deltas.packages_changed += i64::from(changed.is_some());
            findings.refreshed.deltas.packages_unchanged += i64::from(changed.is_none());
            let outcome = if changed.is_some() {
                "changed"
            } else {
                "unchanged"
            };
            let item = package_item(name.as_str(), outcome, "", changed.unwrap_or_default());
            findings.refreshed.items.insert(0, item);
        } else if findings.refreshed.items.is_empty() {
            findings.has_nothing_new(name, self.wish.kinds);
        }
        findings.refreshed.write = write.writes().then_some(write);
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
        member: &Member<'_>,
        stored: &Stored,
    ) -> Result<Current, steadfast_upstream::Error> {
        let (name, source) = (&member.name, &member.source.name);
        let etag = stored.etag_of(source).filter(|_| !self.wish.force);
        let answer = member.npm.registry.packument(name, etag).await?;
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
                Ok(Current::new(*packument, etag, source))
            }
        }
    }

    /// What is left to do about a package that its registry does not tell: it keeps yesterday's data. One that is unlisted says so, and
    /// one that its registry has not had for long enough goes.
    fn without_packument(
        &self,
        member: &Member<'_>,
        stored: Stored,
        error: &steadfast_upstream::Error,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let name = &member.name;
        let mut write = PackageWrite {
            name: name.to_string(),
            ..Default::default()
        };
        if error.is_absence() && member.unlisted && stored.row.is_none() {
            // There is nothing to keep, and it would fail in each refresh for ever.
            write.remove = true;
            let message = "forgotten: no longer listed, and its registry has never had it to read";
            let item = package_item(name.as_str(), "unchanged", "", message.to_owned());
            findings.refreshed.items.push(item);
            findings.refreshed.deltas.packages_unchanged += 1;
            findings.refreshed.write = Some(write);
            return Ok(());
        }
        if error.is_absence() && member.unlisted {
            write.absent = Some(true);
            let patience = self.options.remove_absent_after;
            let gone_for = member
                .absent_us
                .map(|since| self.began.since(Timestamp(since)));
            if patience
                .zip(gone_for)
                .is_some_and(|(limit, gone)| gone >= limit)
            {
                write.remove = true;
                let message =
                    "removed: no longer listed, and its registry has not had it for long enough";
                let item = package_item(name.as_str(), "changed", "", message.to_owned());
                findings.refreshed.items.push(item);
                findings.refreshed.deltas.packages_changed += 1;
                findings.refreshed.write = Some(write);
                return Ok(());
            }
        }
        if let (Some(row), Some(before)) = (stored.row, stored.document)
            && before.unlisted != member.unlisted
        {
            let document = PackageDocument {
                unlisted: member.unlisted,
                ..before.clone()
            };
            let etag = row.upstream_etag.clone();
            self.take_package((Some(&row), Some(&before)), &document, etag, &mut write)?;
        }
        findings.fail_package(name, error);
        findings.refreshed.write = write.writes().then_some(write);
        Ok(())
    }

    /// The semaphore is never closed; if it were, going on without a permit would do no harm.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    /// Adds to a write what is different about a package, and says what that is.
    fn take_package(
        &self,
        (row, before): (Option<&PackageRow>, Option<&PackageDocument>),
        document: &PackageDocument,
        etag: String,
        write: &mut PackageWrite,
    ) -> Result<Option<String>, Error> {
        let canonical = document
            .canonical()
            .map_err(|_| Error::Internal("a package cannot be encoded"))?;
        let difference = plan::difference(
            row.map(|row| row.content_hash.as_str()),
            row.map_or("", |row| row.upstream_etag.as_str()),
            &canonical.hash,
            &etag,
        );
        match difference {
            Difference::None => Ok(None),
            Difference::EtagOnly => {
                write.etag = Some(etag);
                Ok(None)
            }
            Difference::Content => {
                write.package = Some(PackageRow {
                    name: document.name.clone(),
                    source: document.source.clone(),
                    document: canonical.text,
                    content_hash: canonical.hash,
                    upstream_etag: etag,
                });
                Ok(Some(describe::difference(before, document)))
            }
        }
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

    /// Says that a package was read whose metadata was not asked for and of which nothing is new, so that it is read and counted once,
    /// whoever takes the run over.
    fn has_nothing_new(&mut self, name: &PackageName, kinds: Kinds) {
        let kind = if kinds.schemas { "schemas" } else { "icons" };
        self.refreshed.items.push(RefreshItemRow {
            kind: kind.into(),
            ..package_item(name.as_str(), "unchanged", "", String::new())
        });
    }

    /// A package that a local source has, which comes before the registry's.
    fn leave(&mut self, name: &PackageName, source: &str) {
        let message = format!("it is taken from source {source}, which comes first");
        let item = package_item(name.as_str(), "unchanged", "SHADOWED", message);
        self.refreshed.items.push(item);
        self.refreshed.deltas.packages_unchanged += 1;
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
    fn etag_of(&self, source: &str) -> Option<&str> {
        let (row, _) = self.row.as_ref().zip(self.document.as_ref())?;
        let etag = packument::upstream_etag(&row.upstream_etag)?;
        (row.source == source).then_some(etag)
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
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        message,
        ..Default::default()
    }
}

fn as_count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
