//! The daemon's figures over HTTP, for Prometheus and whoever else reads its text.
//!
//! ```text
//! GET /metrics   OpenMetrics text
//! GET /livez     "ok" from a worker that runs, whatever it can do
//! GET /readyz    "ok" from one that containerd and the kubelet can use; else 503, and why
//! GET /healthz   "ok" from one whose state can be used
//! ```
//!
//! Off unless an address is configured. Nothing here is secret, but images' names are told: the address is the
//! operator's choice, and nothing is asked of who comes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jaunt_layerfs::observed::Observed;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::boot::SendCounters;
use crate::fallback::FallbackCode;
use crate::readiness::Readiness;
use crate::snapshotter::Snapshotter;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves them on `address`, until the runtime ends. An address that cannot be had is said, and is no reason not to serve
/// containers.
pub async fn serve(
    address: SocketAddr,
    snapshotter: Arc<Snapshotter>,
    observed: Arc<Observed>,
    boot: (SendCounters, Counter),
    readiness: Readiness,
) {
    let registry = Arc::new(registry(snapshotter, &observed, boot));
    listen(address, router(registry, readiness)).await;
}

/// The same for a worker that can do nothing but say `why`.
pub async fn refuse(address: SocketAddr, why: String) {
    let refusal = move || std::future::ready((StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")));
    listen(address, Router::new().route("/livez", get(async || "ok\n")).fallback(refusal)).await;
}

async fn listen(address: SocketAddr, router: Router) {
    let served = match TcpListener::bind(address).await {
        Ok(listener) => {
            tracing::info!(%address, "metrics are served");
            axum::serve(listener, router).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%address, %error, "metrics cannot be served there");
    }
}

fn registry(
    snapshotter: Arc<Snapshotter>,
    observed: &Arc<Observed>,
    (sent, set_aside): (SendCounters, Counter),
) -> Registry {
    let mut registry = Registry::with_prefix("jaunt");
    observed.register(&mut registry);
    registry.register_collector(Box::new(Fallbacks(snapshotter)));
    registry.register("traces_sent", "Traces of starts that were left beside their images", sent.sent);
    registry.register("trace_failures", "Traces of starts that could not be", sent.failures);
    let help = "Boot packs that were not fetched because starts on this node hardly used them";
    registry.register("boot_packs_set_aside", help, set_aside);
    registry
}

fn router(registry: Arc<Registry>, readiness: Readiness) -> Router {
    let ready = move || {
        let readiness = readiness.clone();
        async move {
            match readiness.trouble().await {
                None => (StatusCode::OK, "ok\n".to_owned()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        }
    };
    let metrics = move || {
        let registry = registry.clone();
        async move {
            // What is present is asked of the disk.
            let told = tokio::task::spawn_blocking(move || encode(&registry)).await;
            told.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
        }
    };
    let fine = async || "ok\n";
    let router = Router::new().route("/livez", get(fine)).route("/healthz", get(fine));
    router.route("/metrics", get(metrics)).route("/readyz", get(ready))
}

fn encode(registry: &Registry) -> Response {
    let mut told = String::new();
    match text::encode(&mut told, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], told).into_response(),
        Err(std::fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// How often a layer was unpacked instead of mounted, and why.
struct Fallbacks(Arc<Snapshotter>);

impl Collector for Fallbacks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.fallbacks().counts();
        let kind = ConstCounter::new(0_u64).metric_type();
        let help = "Layers unpacked instead of mounted lazily, by reason";
        let mut family = encoder.encode_descriptor("fallbacks", help, None, kind)?;
        for code in FallbackCode::ALL {
            let count = ConstCounter::new(counts.get(&code).copied().unwrap_or(0));
            count.encode(family.encode_family(&[("reason", code.as_str())])?)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Fallbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fallbacks").finish_non_exhaustive()
    }
}
