//! From the configured sources to what the catalogue reads.

use steadfast_catalog::{JsonLimits, NpmSource, Options, Source, SourceKind};
use steadfast_types::ReplicaId;
use steadfast_upstream::{
    HttpClient, HttpOptions, IconUpstream, NpmConfig, NpmRegistry, PackageName, Places,
    TarballLimits,
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
    for source in &config.catalog.sources {
        let config::SourceKind::Npm(configured) = &source.kind;
        let npm = NpmConfig::load(configured.registry.as_deref(), &places).await?;
        tracing::info!(
            source = source.name,
            packages = configured.names.len(),
            registry_from = npm.found_in(),
            "configured"
        );
        let packages = configured.names.iter().map(|name| {
            PackageName::parse(name).map_err(|error| Error::PackageName {
                source_name: source.name.clone(),
                name: name.clone(),
                error,
            })
        });
        sources.push(Source {
            name: source.name.clone(),
            kind: SourceKind::Npm(NpmSource {
                packages: packages.collect::<Result<_, _>>()?,
                registry: NpmRegistry::new(client.clone(), npm)
                    .with_packument_bytes_max(config.upstream.packument_max_bytes),
                icons: configured.icons.clone().map(|template| {
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
        ..HttpOptions::default()
    })
}
