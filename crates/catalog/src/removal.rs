//! Removing a package for good: what nothing lists any more, and nobody wants.

use steadfast_api::{
    common::v1::Cursor as CursorMessage,
    registry::v1::{RemovePackageRequest, RemovePackageResponse},
};
use steadfast_store::PackageRemoval;

use crate::{catalog::Catalog, error::Error, options::NpmSource, specifier::parse_name};

// === impl Catalog: removing ===

impl Catalog {
    /// `RemovePackage`.
    ///
    /// # Errors
    /// [`Error::InvalidSpecifier`], [`Error::PackageNotFound`], [`Error::PackageListed`], [`Error::RefreshRunning`], or if the
    /// database does not answer.
    pub async fn remove_package(
        &self,
        request: &RemovePackageRequest,
    ) -> Result<RemovePackageResponse, Error> {
        let name = parse_name(&request.name).map_err(|source| Error::InvalidSpecifier {
            field: "name",
            source,
        })?;
        let naming = self.options().sources.iter().find(|source| {
            let of_registry = |npm: &NpmSource| npm.packages.iter().any(|one| one.as_str() == name);
            source.npm().is_some_and(of_registry)
        });
        // What lies in a folder would be back at the next look.
        let snapshot = self.snapshot();
        let stored = snapshot.content.get(&name);
        let lying = self.options().sources.iter().find(|source| {
            source.npm().is_none()
                && stored.is_some_and(|entry| entry.document.source == source.name)
        });
        let naming = naming.or(lying);
        if let Some(source) = naming {
            return Err(Error::PackageListed {
                name,
                source_name: source.name.clone(),
            });
        }
        let sources = self.options().sources.iter();
        let asking = sources.filter(|source| source.npm().is_some_and(NpmSource::asks_for_names));
        let asking: Vec<&str> = asking.map(|source| source.name.as_str()).collect();
        match self.store().remove_package(&name, &asking).await? {
            PackageRemoval::Removed(landed) => {
                self.kick();
                tracing::info!(package = name, revision = landed.revision.0, "removed");
                let cursor = self.store().head().await?.cursor;
                Ok(RemovePackageResponse {
                    cursor: Some(CursorMessage {
                        store_id: cursor.store_id.to_string(),
                        revision: landed.revision.0,
                        mark: landed.mark.0,
                    }),
                })
            }
            PackageRemoval::Unknown => Err(self.snapshot().unknown_package(&name)),
            PackageRemoval::Listed(source_name) => Err(Error::PackageListed { name, source_name }),
            PackageRemoval::Refreshing(id) => Err(Error::RefreshRunning { name, id }),
        }
    }
}
