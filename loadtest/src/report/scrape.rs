//! Reads the replicas' `/metrics`. One that does not answer is a gap in the series, never an error of the run: it may
//! be away on purpose.

use std::time::Duration;

use futures_util::future::join_all;

use super::model::{Replica, ReplicaSample};

/// A replica that is slower than this counts as away: the next second needs its own sample.
const DEADLINE: Duration = Duration::from_millis(800);

/// The reasons why a replica gave no sample.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    #[error("no answer")]
    Request(#[from] reqwest::Error),
    #[error("the metric {0} is missing")]
    Missing(&'static str),
}

/// Reads the same replicas repeatedly.
#[derive(Debug)]
pub struct Scraper {
    http: reqwest::Client,
    replicas: Vec<Replica>,
}

impl Scraper {
    /// Creates a scraper of replicas at these base URLs, each with its own port: behind a balancer every read would
    /// reach another one.
    pub fn new(http: reqwest::Client, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let replicas = urls.into_iter().map(Into::into).enumerate();
        let replicas = replicas.map(|(index, url)| Replica {
            name: format!("replica {}", index + 1),
            url: url.trim_end_matches('/').to_owned(),
            version: String::new(),
        });
        Self { http, replicas: replicas.collect() }
    }

    /// Returns what is known of the replicas, in order.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Takes a sample of each, in order, all at once.
    pub async fn sample(&mut self) -> Vec<Option<ReplicaSample>> {
        let answers = join_all(self.replicas.iter().map(|replica| read(&self.http, &replica.url))).await;
        let mut samples = Vec::with_capacity(answers.len());
        for (replica, answer) in self.replicas.iter_mut().zip(answers) {
            samples.push(answer.ok().map(|(sample, version)| {
                replica.version = version;
                sample
            }));
        }
        samples
    }
}

async fn read(http: &reqwest::Client, url: &str) -> Result<(ReplicaSample, String), ScrapeError> {
    let answer = http.get(format!("{url}/metrics")).timeout(DEADLINE).send().await?.error_for_status()?;
    parse(&answer.text().await?)
}

/// Parses the sample and the version from Prometheus's text format.
fn parse(text: &str) -> Result<(ReplicaSample, String), ScrapeError> {
    let sum = |name: &'static str| sum_of(text, name).ok_or(ScrapeError::Missing(name));
    let sample = ReplicaSample {
        cpu_seconds: sum("process_cpu_seconds_total")?,
        resident_bytes: sum("process_resident_memory_bytes")? as u64,
        pushes: sum("mana_sync_pushes_total")? as u64,
        changes_stored: sum("mana_sync_changes_stored_total")? as u64,
        connections: sum("mana_sync_connections_total")? as u64,
        process_start_seconds: sum("process_start_time_seconds")?,
    };
    Ok((sample, version_of(text).unwrap_or_default().to_owned()))
}

/// Returns the label with the version, wherever it is among the labels.
fn version_of(text: &str) -> Option<&str> {
    let labels = text.lines().find_map(|line| line.strip_prefix("mana_sync_build_info{"))?;
    let label = labels.split(',').find_map(|label| label.strip_prefix("version=\""))?;
    label.split('"').next()
}

/// Returns the sum of a metric over all its labels. The label values of these metrics have no spaces.
fn sum_of(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = if rest.starts_with('{') { rest.split_once("} ")?.1 } else { rest.strip_prefix(' ')? };
        value.split(' ').next()?.parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP mana_sync_pushes_total Pushes by outcome.\n\
        # TYPE mana_sync_pushes_total counter\n\
        mana_sync_pushes_total{outcome=\"stored\"} 40\n\
        mana_sync_pushes_total{outcome=\"empty\"} 2\n\
        mana_sync_pushes_total_of_another_name 1000\n\
        mana_sync_changes_stored_total 400\n\
        mana_sync_connections_total 3\n\
        mana_sync_build_info{commit=\"unknown\",version=\"0.1.0\"} 1\n\
        process_cpu_seconds_total 1.25\n\
        process_resident_memory_bytes 19484672\n\
        process_start_time_seconds 1790000000\n";

    #[test]
    fn what_is_asked_for_is_found() {
        let (sample, version) = parse(TEXT).unwrap();
        assert_eq!((sample.pushes, sample.changes_stored, sample.connections), (42, 400, 3));
        assert_eq!((sample.cpu_seconds, sample.resident_bytes), (1.25, 19_484_672));
        assert_eq!(version, "0.1.0");
    }

    #[test]
    fn a_page_that_is_not_a_replicas_is_no_sample() {
        assert!(matches!(parse("<html>"), Err(ScrapeError::Missing("process_cpu_seconds_total"))));
    }

    #[tokio::test]
    async fn a_replica_that_is_away_is_a_gap() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let away = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let app = axum::Router::new().route("/metrics", axum::routing::get(|| async { TEXT }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let mut scraper = Scraper::new(crate::transport::http_client().unwrap(), [away, here]);
        let samples = scraper.sample().await;
        assert!(samples[0].is_none());
        assert_eq!(samples[1].as_ref().unwrap().pushes, 42);
        assert_eq!(scraper.replicas()[1].version, "0.1.0");
        server.abort();
    }
}
