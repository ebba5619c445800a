//! The HTTP side: life, usefulness, metrics, icons.

mod icons;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use steadfast_catalog::Catalog;

use crate::health::Health;

#[derive(Clone)]
struct Shared {
    health: Health,
    metrics: PrometheusHandle,
}

/// All routes.
pub(crate) fn router(health: Health, metrics: PrometheusHandle, catalog: Catalog) -> Router {
    let icons = Router::new()
        .route("/icons/manifest.json", get(icons::manifest))
        .route("/icons/{*path}", get(icons::icon))
        .with_state(catalog);
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Shared { health, metrics })
        .merge(icons)
}

async fn index() -> &'static str {
    "Steadfast. The API is gRPC, on another port; here are /healthz, /readyz, /metrics and /icons/manifest.json.\n"
}

async fn healthz() -> &'static str {
    "alive\n"
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let readiness = shared.health.readiness();
    let status = if readiness.is_useful() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, format!("{readiness}\n")).into_response()
}

async fn render(State(shared): State<Shared>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, shared.metrics.render()).into_response()
}
