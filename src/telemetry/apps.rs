//! Counters by app. App ids are chosen by clients, so only the apps named in METRIC_APPS have series of their own, and
//! all others are counted together: no client can create a series.

use super::registry::counters;
use prometheus::{IntCounter, IntCounterVec, Registry};
use std::sync::OnceLock;

/// The label of all other apps.
const OTHER: &str = "other";

/// One replica's counters by app.
#[derive(Debug)]
pub struct AppCounters {
    pushes: IntCounterVec,
    changes: IntCounterVec,
    told_apart: OnceLock<Vec<AppCounter>>,
    other: AppCounter,
}

#[derive(Debug)]
struct AppCounter {
    app: String,
    pushes: IntCounter,
    changes: IntCounter,
}

impl AppCounters {
    pub(super) fn new(registry: &Registry) -> AppCounters {
        let pushes = counters(registry, "mana_sync_app_pushes_total", "Pushes answered 200, by app.", "app", &[OTHER]);
        let changes = counters(registry, "mana_sync_app_changes_total", "Changes stored, by app.", "app", &[OTHER]);
        let other = AppCounter::new(&pushes, &changes, OTHER);
        AppCounters { pushes, changes, told_apart: OnceLock::new(), other }
    }

    /// Counts these apps separately from now on. Only the first call has an effect.
    pub fn tell_apart(&self, apps: &[String]) {
        let named = apps.iter().filter(|app| !app.is_empty() && *app != OTHER);
        self.told_apart.get_or_init(|| named.map(|app| AppCounter::new(&self.pushes, &self.changes, app)).collect());
    }

    /// Counts a push that was answered.
    pub fn count_push(&self, app: &str) {
        self.of(app).pushes.inc();
    }

    /// Counts stored changes.
    pub fn count_changes(&self, app: &str, changes: u64) {
        self.of(app).changes.inc_by(changes);
    }

    fn of(&self, app: &str) -> &AppCounter {
        let known = self.told_apart.get().and_then(|known| known.iter().find(|known| known.app == app));
        known.unwrap_or(&self.other)
    }
}

impl AppCounter {
    fn new(pushes: &IntCounterVec, changes: &IntCounterVec, app: &str) -> AppCounter {
        AppCounter {
            app: app.to_owned(),
            pushes: pushes.with_label_values(&[app]),
            changes: changes.with_label_values(&[app]),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;

    #[test]
    fn only_apps_that_are_named_have_series_of_their_own() {
        let metrics = Metrics::new();
        metrics.apps.tell_apart(&["todo".to_owned(), String::new()]);
        for app in ["todo", "todo", "made-up-1", "made-up-2", "other"] {
            metrics.apps.count_push(app);
            metrics.apps.count_changes(app, 3);
        }
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        let mut lines: Vec<&str> = text.lines().filter(|line| line.starts_with("mana_sync_app_")).collect();
        lines.sort_unstable();
        let expected = [
            "mana_sync_app_changes_total{app=\"other\"} 9",
            "mana_sync_app_changes_total{app=\"todo\"} 6",
            "mana_sync_app_pushes_total{app=\"other\"} 3",
            "mana_sync_app_pushes_total{app=\"todo\"} 2",
        ];
        assert_eq!(lines, expected);
    }
}
