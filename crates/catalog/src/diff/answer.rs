//! `DiffSchemas`: which two versions are meant, and what an answer says of them.

use std::sync::Arc;

use steadfast_api::schema::v1::{
    DiffSchemasRequest, DiffSchemasResponse, SchemaChange, SchemaChangeClass as Class,
};

use super::{diff, gravest};
use crate::{
    Catalog,
    entry::{PackageEntry, SchemaSlot},
    error::Error,
    range::place,
    schema::Schema,
    snapshot::Snapshot,
};

/// A version, with its schema if it carries one.
struct Found {
    version: String,
    schema: Option<Arc<Schema>>,
}

// === impl Catalog: comparing ===

impl Catalog {
    /// `DiffSchemas`, but for waiting.
    ///
    /// # Errors
    /// As [`Snapshot::schema`], except that a version without a schema counts as one that asks for nothing;
    /// [`Error::VersionNotFound`] if no earlier version is known to compare with; [`Error::SchemaUnusable`].
    pub async fn diff_schemas(
        &self,
        request: &DiffSchemasRequest,
    ) -> Result<DiffSchemasResponse, Error> {
        let (package, before, after, read_state) = {
            let snapshot = self.snapshot();
            let (entry, after) = find(&snapshot, &request.package, &request.to_version)?;
            let before = if request.from_version.is_empty() {
                earlier(&entry, &after.version)?
            } else {
                find(&snapshot, &request.package, &request.from_version)?.1
            };
            let read_state = snapshot.stamp.read_state_message(&entry.document.source);
            (entry.name().to_owned(), before, after, read_state)
        };
        let (old, new) = (before.schema.clone(), after.schema.clone());
        let changes = tokio::task::spawn_blocking(move || compared(old.as_deref(), new.as_deref()))
            .await
            .map_err(|_| Error::Internal("comparison"))?
            .map_err(|(is_old, reason)| Error::SchemaUnusable {
                package: package.clone(),
                version: if is_old { &before } else { &after }.version.clone(),
                reason,
            })?;
        let etag = |found: &Found| {
            let hash = found.schema.as_ref().map(|schema| schema.hash.clone());
            hash.unwrap_or_default()
        };
        Ok(DiffSchemasResponse {
            class: gravest(&changes).into(),
            changes,
            from_etag: etag(&before),
            to_etag: etag(&after),
            from_version: before.version,
            to_version: after.version,
            package,
            read_state: Some(read_state),
        })
    }
}

/// The version that is meant, whether or not it carries a schema.
fn find(
    snapshot: &Snapshot,
    package: &str,
    version: &str,
) -> Result<(Arc<PackageEntry>, Found), Error> {
    match snapshot.schema(package, version) {
        Ok(found) => Ok((
            found.package,
            Found {
                version: found.version,
                schema: Some(found.schema),
            },
        )),
        Err(Error::SchemaNotFound { package, version }) => {
            let entry = snapshot.content.get(&package);
            let entry = entry.ok_or(Error::Internal("a package that was found"))?;
            let found = Found {
                version,
                schema: None,
            };
            Ok((Arc::clone(entry), found))
        }
        Err(error) => Err(error),
    }
}

/// The newest version before another of which it is known what schema it carries; a stable one if there is one.
fn earlier(entry: &PackageEntry, version: &str) -> Result<Found, Error> {
    let documents = entry.document.versions.iter();
    let before: Vec<Found> = documents
        .skip_while(|document| document.version != version)
        .skip(1)
        .filter_map(|document| {
            let schema = match entry.schemas.get(&document.version)? {
                SchemaSlot::Some(schema) => Some(Arc::clone(schema)),
                SchemaSlot::None => None,
            };
            Some(Found {
                version: document.version.clone(),
                schema,
            })
        })
        .collect();
    let is_stable = |found: &&Found| place(&found.version).is_some_and(|v| !v.is_prerelease());
    let stable = before.iter().position(|found| is_stable(&found));
    let chosen = before.into_iter().nth(stable.unwrap_or(0));
    chosen.ok_or_else(|| Error::VersionNotFound {
        package: entry.name().to_owned(),
        wanted: format!("`a version before {version} whose schema is known`"),
        newest: (!entry.newest().is_empty()).then(|| entry.newest().to_owned()),
    })
}

/// Compares; else which of the two is unusable (the old one: true), and why.
fn compared(
    old: Option<&Schema>,
    new: Option<&Schema>,
) -> Result<Vec<SchemaChange>, (bool, String)> {
    let whole = |class: Class, message: &str| SchemaChange {
        message: message.to_owned(),
        class: class.into(),
        ..SchemaChange::default()
    };
    match (old, new) {
        (None, None) => Ok(Vec::new()),
        (Some(old), Some(new)) if old.hash == new.hash => Ok(Vec::new()),
        (Some(old), Some(new)) => {
            let before = old.compiled.as_ref().map_err(|why| (true, why.clone()))?;
            let after = new.compiled.as_ref().map_err(|why| (false, why.clone()))?;
            Ok(diff(before, after))
        }
        (Some(_), None) => {
            let message = "the version carries no schema, so that any document fits";
            Ok(vec![whole(Class::Compatible, message)])
        }
        (None, Some(_)) => {
            let message = "the version carries a schema, and the one before had none";
            Ok(vec![whole(Class::Breaking, message)])
        }
    }
}
