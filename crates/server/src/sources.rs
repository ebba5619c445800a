//! From the configured sources to what the catalogue reads.

use std::path::Path;

use steadfast_catalog::{
    JsonLimits, LocalSource, NpmSource, Options, Patterns, Source, SourceKind,
};
use steadfast_types::ReplicaId;
use steadfast_upstream::{
    HttpClient, HttpOptions, IconUpstream, NpmConfig, NpmRegistry, PackageName, Places,
    TarballLimits, UrlTemplate,
};

use crate::{
    config::{self, Config},
    life::Error,
};

/// The catalogue's options. The registry of a source that names none is found in the npm configuration, which may take a run of
/// `npm config get registry`; nothing is looked for if there is no source.
pub(crate) async fn catalog_options(
    config: &Config,
    client: &HttpClient,
    replica: ReplicaId,
) -> Result<Options, Error> {
    let places = Places::from_process();
    let mut sources = Vec::new();
    for (index, source) in config.catalog.sources.iter().enumerate() {
        let wanted = match &source.kind {
            config::SourceKind::Npm(wanted) => wanted,
            config::SourceKind::Local(configured) => {
                sources.push(local_source(index, source, configured)?);
                continue;
            }
        };
        let npm = NpmConfig::load(wanted.registry.as_deref(), &places).await?;
        tracing::info!(
            source = source.name,
            packages = wanted.names.len(),
            organization = wanted.organization.as_deref().unwrap_or_default(),
            search = wanted.search.as_deref().unwrap_or_default(),
            registry_from = npm.found_in(),
            "configured"
        );
        let packages = wanted.names.iter().map(|name| {
            PackageName::parse(name).map_err(|error| Error::PackageName {
                source_name: source.name.clone(),
                name: name.clone(),
                error,
            })
        });
        let invalid = |problem: String| Error::Source {
            source_name: source.name.clone(),
            problem,
        };
        let patterns = Patterns::new(&wanted.include, &wanted.exclude)
            .map_err(|error| invalid(error.to_string()))?;
        let schema_url = wanted.schema_url.as_deref().map(UrlTemplate::parse);
        let schema_url = schema_url
            .transpose()
            .map_err(|error| invalid(error.to_string()))?;
        sources.push(Source {
            name: source.name.clone(),
            kind: SourceKind::Npm(NpmSource {
                packages: packages.collect::<Result<_, _>>()?,
                organization: wanted.organization.clone(),
                search: wanted.search.clone(),
                patterns,
                schema_url,
                registry: NpmRegistry::new(client.clone(), npm)
                    .with_packument_bytes_max(config.upstream.packument_max_bytes),
                icons: wanted.icons.clone().map(|template| {
                    IconUpstream::new(client.clone(), template, config.catalog.icon_max_bytes)
                }),
            }),
        });
    }
    let catalog = &config.catalog;
    Ok(Options {
        sources,
        refresh_on_empty: catalog.refresh_on_empty,
        refresh_concurrency: catalog.refresh_concurrency,
        schemas_of_newest: catalog.schema_newest,
        remove_absent_after: catalog.remove_absent_after,
        refresh_history: u32::try_from(catalog.refresh_history).unwrap_or(u32::MAX),
        lease_duration: config.lease.duration,
        icon_memory_bytes: catalog.icon_memory_bytes,
        min_revision_wait: config.limits.min_revision_wait,
        tarball_limits: TarballLimits {
            download_bytes_max: config.upstream.tarball_max_bytes,
            ..TarballLimits::default()
        },
        document_limits: JsonLimits {
            max_bytes: config.limits.document_max_bytes,
            max_depth: config.limits.document_max_depth,
        },
        ..Options::new(replica)
    })
}

/// A source of folders, all of which are there.
fn local_source(
    index: usize,
    source: &config::Source,
    configured: &config::LocalSource,
) -> Result<Source, Error> {
    for (at, root) in configured.roots.iter().enumerate() {
        let missing = |problem: String| Error::LocalRoot {
            key: format!("catalog.source[{index}].roots[{at}]"),
            source_name: source.name.clone(),
            root: root.clone(),
            problem,
        };
        for folder in [Path::new(root).to_owned(), Path::new(root).join("packages")] {
            match std::fs::metadata(&folder) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(missing(format!("{} is no folder", folder.display()))),
                Err(error) => return Err(missing(format!("{}: {error}", folder.display()))),
            }
        }
    }
    tracing::info!(
        source = source.name,
        roots = configured.roots.join(", "),
        "configured"
    );
    Ok(Source {
        name: source.name.clone(),
        kind: SourceKind::Local(LocalSource {
            roots: configured.roots.clone(),
            rescan_interval: configured.rescan,
        }),
    })
}

/// The client that everything is read with.
pub(crate) fn http_client(config: &Config) -> Result<HttpClient, steadfast_upstream::Error> {
    let upstream = &config.upstream;
    HttpClient::new(HttpOptions {
        host_concurrency: upstream.max_concurrency_per_host,
        attempt_timeout: upstream.timeout,
        // All attempts, and as many of the longest waits that an upstream may ask for.
        total_timeout: (upstream.timeout + upstream.retry_after_max) * upstream.attempts,
        retries_max: upstream.attempts.saturating_sub(1),
        retry_after_max: upstream.retry_after_max,
        breaker_failures: upstream.breaker_failures,
        breaker_pause: upstream.breaker_pause,
        ..HttpOptions::default()
    })
}
