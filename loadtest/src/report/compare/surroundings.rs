//! Finds other differences between two runs, which could be the reason for a change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::report::Report;

/// A setting or circumstance that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: String,
    /// Empty if it is missing in this run.
    pub first: String,
    pub second: String,
}

/// Returns all differences; people have to weigh them, and nothing is left out as unimportant. Targets are compared by
/// their number: ports change from run to run.
pub fn differences(first: &Report, second: &Report) -> Vec<Difference> {
    let (first, second) = (facts(first), facts(second));
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let value = |facts: &BTreeMap<String, String>, name: &String| facts.get(name).cloned().unwrap_or_default();
    let both = names.into_iter().map(|name| Difference {
        what: name.clone(),
        first: value(&first, name),
        second: value(&second, name),
    });
    both.filter(|difference| difference.first != difference.second).collect()
}

fn facts(report: &Report) -> BTreeMap<String, String> {
    let machine = &report.machine;
    let versions: BTreeSet<&str> = report.replicas.iter().map(|replica| replica.version.as_str()).collect();
    let mut facts: BTreeMap<String, String> = [
        ("name", report.name.clone()),
        ("machine: processor", machine.cpu_model.clone()),
        ("machine: cores", machine.cpu_cores.to_string()),
        ("machine: memory_bytes", machine.memory_bytes.to_string()),
        ("machine: kernel", machine.kernel.clone()),
        ("machine: os", machine.os.clone()),
        ("load kit: version", report.tool.version.clone()),
        ("load kit: profile", report.tool.profile.clone()),
        ("replicas: number", report.replicas.len().to_string()),
        ("replicas: version", versions.into_iter().collect::<Vec<_>>().join(", ")),
        ("targets: number", report.settings.targets.len().to_string()),
        ("generator: threads", report.generator.threads.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(database) = &report.database {
        facts.insert("PostgreSQL: version".to_owned(), database.version.clone());
        let settings = database.settings.iter();
        facts.extend(settings.map(|(name, value)| (format!("PostgreSQL: {name}"), value.clone())));
    }
    flatten("scenario", &report.settings.scenario, &mut facts);
    facts
}

/// Lists each leaf of a JSON value by its path.
fn flatten(path: &str, value: &Value, facts: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| flatten(&format!("{path}.{name}"), value, facts));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(place, value)| flatten(&format!("{path}[{place}]"), value, facts));
        }
        Value::String(text) => {
            facts.insert(path.to_owned(), text.clone());
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            facts.insert(path.to_owned(), value.to_string());
        }
    }
}
