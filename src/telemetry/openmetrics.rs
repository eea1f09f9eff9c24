//! OpenMetrics 1.0: Prometheus text with exemplars, and an end marker that proves it complete.
//!  <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>

use super::exemplars::TracedHistogram;
use prometheus::proto::{Histogram, LabelPair, MetricFamily, MetricType};
use std::fmt::{Display, Write as _};

/// Encodes families with their current values, and these histograms with exemplars.
pub(super) fn encode(families: &[MetricFamily], traced: &[&TracedHistogram]) -> String {
    let mut text = Text(String::new());
    for family in families {
        let traced = traced.iter().find(|traced| traced.name == family.name());
        text.family(family, traced.copied());
    }
    text.0 + "# EOF\n"
}

struct Text(String);

// Writing to a string cannot fail.
impl Text {
    fn family(&mut self, family: &MetricFamily, traced: Option<&TracedHistogram>) {
        let name = family.name();
        // A counter family is named without the suffix of its samples.
        let (kind, family_name) = match family.get_field_type() {
            MetricType::COUNTER => ("counter", name.strip_suffix("_total").unwrap_or(name)),
            MetricType::HISTOGRAM => ("histogram", name),
            // There are no other types here.
            _ => ("gauge", name),
        };
        let _ = writeln!(self.0, "# TYPE {family_name} {kind}");
        let _ = writeln!(self.0, "# HELP {family_name} {}", Escaped(family.help()));
        for metric in family.get_metric() {
            let labels = metric.get_label();
            match kind {
                "counter" => {
                    self.sample(&format!("{family_name}_total"), labels, None, metric.get_counter().get_value())
                }
                "gauge" => self.sample(name, labels, None, metric.get_gauge().get_value()),
                _ => self.histogram(name, labels, metric.get_histogram(), traced),
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: &[LabelPair], from: &Histogram, traced: Option<&TracedHistogram>) {
        let finite = from.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        let bounded = finite.map(|bucket| (format!("{:?}", bucket.upper_bound()), bucket.cumulative_count()));
        let all = bounded.chain([("+Inf".to_owned(), from.get_sample_count())]);
        let exemplars = traced.map(TracedHistogram::exemplars);
        for (place, (bound, count)) in all.enumerate() {
            self.sample(&format!("{name}_bucket"), labels, Some(&bound), count);
            if let Some(exemplar) = exemplars.and_then(|all| *all.get(place)?) {
                self.0.pop();
                let _ = writeln!(self.0, "{exemplar}");
            }
        }
        self.sample(&format!("{name}_sum"), labels, None, from.get_sample_sum());
        self.sample(&format!("{name}_count"), labels, None, from.get_sample_count());
    }

    fn sample(&mut self, name: &str, labels: &[LabelPair], bound: Option<&str>, value: impl Display) {
        let labels = labels.iter().map(|label| (label.name(), label.value())).chain(bound.map(|bound| ("le", bound)));
        let labels: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", Escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\""))
    }
}
