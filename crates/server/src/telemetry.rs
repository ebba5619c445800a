//! Logs, metrics and traces.
//!
//! Logs go to standard error, as lines for people or as JSON. Metrics are kept in process and rendered for Prometheus. Traces
//! are exported over OTLP when an endpoint is configured, and join the caller's W3C trace context; otherwise no span is made
//! for calls at all.

use std::{io::IsTerminal as _, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::ParseError, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{LogFormat, Telemetry as Config};

/// Upper bounds of latency histograms, in seconds.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Upper bounds of batch sizes.
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// How often recorded samples are folded into histograms.
const UPKEEP: Duration = Duration::from_secs(5);

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log level is not understood.
    #[error(
        "telemetry.log_level: {0}; give a level such as `info`, or directives such as `info,steadfast_store=debug`"
    )]
    LogLevel(#[from] ParseError),
    /// The exporter of traces cannot be made.
    #[error("telemetry.otlp_endpoint: {0}")]
    Otlp(#[from] ExporterBuildError),
    /// The recorder of metrics cannot be made.
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
}

/// What was set up. Keep it until the end, then call [`Telemetry::flush`].
pub struct Telemetry {
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    traces: Option<SdkTracerProvider>,
}

// === impl Telemetry ===

impl Telemetry {
    /// Sets everything up for this process.
    ///
    /// # Errors
    /// If the configuration cannot be followed.
    pub fn start(config: &Config) -> Result<Self, Error> {
        let level = EnvFilter::try_new(&config.log_level)?;
        let traces = config
            .otlp_endpoint
            .as_deref()
            .map(|endpoint| exporter(endpoint, config.otlp_sample_ratio))
            .transpose()?;
        let spans = traces.as_ref().map(|provider| {
            tracing_opentelemetry::layer().with_tracer(provider.tracer("steadfast"))
        });
        let terminal = std::io::stderr().is_terminal();
        let json = match config.log_format {
            LogFormat::Auto => !terminal,
            LogFormat::Json => true,
            LogFormat::Human => false,
        };
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = if json {
            lines.json().flatten_event(true).boxed()
        } else {
            lines.with_ansi(terminal).boxed()
        };
        // Another subscriber can only be there in a test that runs two servers in one process.
        let installed = tracing_subscriber::registry()
            .with(level)
            .with(lines)
            .with(spans)
            .try_init();
        if let Err(error) = installed {
            tracing::debug!(%error, "logs go where they went before");
        }
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), SIZES)?
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::debug!("metrics are recorded where they were before");
        }
        Ok(Self {
            metrics: handle,
            traces,
        })
    }

    /// Whether traces are exported.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.traces.is_some()
    }

    /// Folds samples into histograms, for ever.
    pub async fn upkeep(handle: PrometheusHandle) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            handle.run_upkeep();
        }
    }

    /// Exports what is left.
    pub fn flush(self) {
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown()) {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

fn exporter(endpoint: &str, ratio: f64) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            ratio,
        ))))
        .with_resource(Resource::builder().with_service_name("steadfast").build())
        .build())
}

/// The caller's trace context.
pub(crate) fn context_of(headers: &http::HeaderMap) -> Context {
    struct Headers<'a>(&'a http::HeaderMap);

    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }

        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(http::HeaderName::as_str).collect()
        }
    }

    TraceContextPropagator::new().extract(&Headers(headers))
}
