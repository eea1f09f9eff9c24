//! Sending all metrics to a collector, now and then.
//!
//! Nothing waits for it and nothing gathers: what does not arrive in time is dropped, and the next time has the newer
//! numbers.

use super::metrics::Metrics;
use super::otlp_metrics;
use crate::clock::Clock;
use crate::config::{Collector, Headers, MetricsConfig, OtlpProtocol};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use prost::Message;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::redirect::Policy;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// Why metrics cannot be sent as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum MetricsSenderError {
    #[error("the collector's URL is of no use for gRPC")]
    Grpc(#[from] tonic::transport::Error),
    #[error("no HTTP client can be made")]
    Http(#[from] reqwest::Error),
}

/// Why metrics did not arrive.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the collector does not answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("the collector refused, or could not be reached")]
    Grpc(#[from] tonic::Status),
    #[error("the collector refused, or could not be reached")]
    Http(#[from] reqwest::Error),
    #[error("the collector answers {0}, and redirects are not followed")]
    Elsewhere(StatusCode),
    #[error("metrics could not be compressed")]
    Compress(#[from] io::Error),
}

/// The task that sends them.
#[derive(Debug)]
pub struct MetricsSender {
    stop: CancellationToken,
    task: JoinHandle<()>,
    runtime: tokio::runtime::Handle,
}

impl MetricsSender {
    /// Starts the task on the current runtime.
    pub(super) fn start(
        config: &MetricsConfig,
        collector: &Collector,
        resource: ResourceAttributesWithSchema,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<MetricsSender, MetricsSenderError> {
        let sending = Sending {
            way: Way::to(collector, config)?,
            limit: config.timeout(),
            resource,
            metrics,
            started: clock.now(),
            clock,
            failing: false,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(sending.run(config.otel_metric_export_interval, stop.clone()));
        Ok(MetricsSender { stop, task, runtime: tokio::runtime::Handle::current() })
    }

    /// Asks for the last numbers to be sent; see [`Self::finish`].
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until they are, at most so long. Blocks.
    pub(super) fn finish(&mut self, limit: Duration) {
        // Too late is said by the task itself, or by nobody: the process ends.
        let _ = self.runtime.block_on(async { timeout(limit, &mut self.task).await });
    }
}

struct Sending {
    way: Way,
    limit: Duration,
    resource: ResourceAttributesWithSchema,
    metrics: Arc<Metrics>,
    started: SystemTime,
    clock: Clock,
    failing: bool,
}

/// How the collector is reached.
enum Way {
    Http { client: reqwest::Client, url: url::Url, headers: Headers, compressed: bool },
    Grpc { client: MetricsServiceClient<Channel>, headers: MetadataMap },
}

impl Sending {
    async fn run(mut self, period: Duration, stop: CancellationToken) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once, when there is nothing to tell yet.
        ticks.tick().await;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            stop.run_until_cancelled(self.send()).await;
        }
        self.send().await;
    }

    /// Sends what there is now; says so once if it does not arrive, and once if it does again.
    async fn send(&mut self) {
        let request = otlp_metrics::request(&self.metrics.gather(), &self.resource, self.started, self.clock.now());
        let sent = match timeout(self.limit, self.way.send(request)).await {
            Ok(sent) => sent,
            Err(late) => Err(late.into()),
        };
        let outcome = if sent.is_ok() { "exported" } else { "failed" };
        self.metrics.metric_exports.with_label_values(&[outcome]).inc();
        match (&sent, std::mem::replace(&mut self.failing, sent.is_err())) {
            (Err(error), false) => {
                tracing::warn!(error = error as &dyn std::error::Error, "metrics do not reach the collector");
            }
            (Ok(()), true) => tracing::info!("metrics reach the collector again"),
            _ => {}
        }
    }
}

impl Way {
    fn to(collector: &Collector, config: &MetricsConfig) -> Result<Way, MetricsSenderError> {
        let (headers, compressed) = (config.headers(), config.compressed());
        if collector.protocol == OtlpProtocol::HttpProtobuf {
            // Whoever the collector sends us to is not to have its keys.
            let client = reqwest::Client::builder().redirect(Policy::none()).build()?;
            return Ok(Way::Http { client, url: collector.endpoint.clone(), headers: headers.clone(), compressed });
        }
        let mut endpoint = Endpoint::from_shared(collector.endpoint.to_string())?;
        if collector.endpoint.scheme() == "https" {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_enabled_roots())?;
        }
        let headers = MetadataMap::from_headers(headers.iter().cloned().collect());
        let mut client = MetricsServiceClient::new(endpoint.connect_lazy());
        if compressed {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Way::Grpc { client, headers })
    }

    async fn send(&mut self, request: ExportMetricsServiceRequest) -> Result<(), SendError> {
        match self {
            Way::Http { client, url, headers, compressed } => {
                let post = client.post(url.clone()).header(CONTENT_TYPE, "application/x-protobuf");
                let post = post.headers(headers.iter().cloned().collect());
                let body = request.encode_to_vec();
                let post = match *compressed {
                    true => post.header(CONTENT_ENCODING, "gzip").body(gzip(&body)?),
                    false => post.body(body),
                };
                // The URL is a setting, and settings are not logged.
                let sent = post.send().await.and_then(reqwest::Response::error_for_status);
                let status = sent.map_err(reqwest::Error::without_url)?.status();
                if !status.is_success() {
                    return Err(SendError::Elsewhere(status));
                }
            }
            Way::Grpc { client, headers } => {
                let request = tonic::Request::from_parts(headers.clone(), tonic::Extensions::new(), request);
                client.export(request).await?;
            }
        }
        Ok(())
    }
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body)?;
    encoder.finish()
}
