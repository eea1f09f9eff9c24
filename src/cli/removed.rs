//! Settings of earlier versions that no longer exist.

use std::ffi::OsString;

/// Selected whether and how metrics were sent over OTLP.
const EXPORTER: &str = "OTEL_METRICS_EXPORTER";
const PREFIXES: [&str; 2] = ["OTEL_EXPORTER_OTLP_METRICS_", "OTEL_METRIC_EXPORT_"];
/// Disabled all of OTLP.
const DISABLED: &str = "OTEL_SDK_DISABLED";

/// Warns about settings that no longer have an effect, and says what replaced them.
#[expect(clippy::disallowed_methods, reason = "the environment belongs to the command line")]
pub(super) fn warn() {
    let settings = metrics_by_otlp(std::env::vars_os());
    if !settings.is_empty() {
        let settings = settings.join(", ");
        tracing::warn!(
            settings,
            "these settings have no effect: metrics are no longer sent by OTLP; have a collector scrape /metrics, as \
             deploy/otel-collector.metrics.yaml does"
        );
    }
}

/// Returns the names of the settings that would have sent metrics over OTLP, sorted; without values, as some are
/// secret. Empty if the environment also disables sending.
fn metrics_by_otlp(environment: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in environment {
        let (Some(name), value) = (name.to_str(), value.to_string_lossy()) else { continue };
        let value = value.trim();
        match name {
            EXPORTER if matches!(value, "none" | "prometheus") => return vec![],
            DISABLED if value.eq_ignore_ascii_case("true") => return vec![],
            _ if value.is_empty() => {}
            EXPORTER => found.push(name.to_owned()),
            _ if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => found.push(name.to_owned()),
            _ => {}
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(environment: &[(&str, &str)]) -> Vec<String> {
        metrics_by_otlp(environment.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn settings_that_would_have_had_metrics_sent_are_found_by_name() {
        let endpoint = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c/v1/metrics");
        for set in [
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            endpoint,
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ] {
            assert_eq!(found(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), set]), [set.0]);
        }
        assert_eq!(found(&[("OTEL_METRICS_EXPORTER", "otlp"), endpoint]), [endpoint.0, "OTEL_METRICS_EXPORTER"]);
    }

    #[test]
    fn nothing_is_said_where_nothing_would_have_been_sent() {
        let endpoint = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c/v1/metrics");
        for unset in ["", " ", "none", "prometheus"] {
            assert_eq!(found(&[("OTEL_METRICS_EXPORTER", unset)]), [""; 0], "{unset:?}");
        }
        assert_eq!(found(&[endpoint, ("OTEL_METRICS_EXPORTER", "none")]), [""; 0]);
        assert_eq!(found(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]), [""; 0]);
        assert_eq!(found(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "")]), [""; 0]);
        assert_eq!(found(&[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c")]), [""; 0]);
    }
}
