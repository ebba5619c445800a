//! The result as people read it.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::{
    report::{Report, Target},
    statistics::Short,
};

/// Figures first, then where they were taken.
pub(crate) fn render(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "figure", "value", "unit", "floor", "ratio", "target", "", "rounds",
    ]);
    for figure in report.figures() {
        let (smallest, largest) = figure.rounds.spread();
        let (target, met) = match figure.target {
            None => (String::new(), ""),
            Some(target) => {
                let text = match target {
                    Target::AtMost(limit) => format!("at most {limit}"),
                    Target::AtLeast(limit) => format!("at least {limit}"),
                };
                let met = target.is_met(figure.value);
                (text, if met { "met" } else { "MISSED" })
            }
        };
        table.add_row([
            figure.name.clone(),
            Short(figure.value).to_string(),
            figure.unit.to_owned(),
            figure
                .floor
                .map_or(String::new(), |floor| Short(floor).to_string()),
            figure
                .ratio()
                .map_or(String::new(), |ratio| format!("{ratio:.2}")),
            target,
            met.to_owned(),
            format!("{} to {}", Short(smallest), Short(largest)),
        ]);
    }
    for column in [1, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!(
        "steadfast-bench {}\n\n{}\n",
        report.bench(),
        table.trim_fmt()
    );
    for (name, value) in report.environment() {
        text.push('\n');
        // The configuration in full is for programs: it is the documented default.
        if name == "configuration" {
            text.push_str("configuration: default; `--output json` shows all of it");
        } else {
            text.push_str(&format!("{name}: {}", flat(value)));
        }
    }
    text
}

fn flat(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", flat(value)))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Array(values) => values.iter().map(flat).collect::<Vec<_>>().join(" "),
        Value::String(text) => text.clone(),
        Value::Number(number) => number
            .as_f64()
            .filter(|_| number.is_f64())
            .map_or_else(|| number.to_string(), |number| Short(number).to_string()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::statistics::Series;

    #[test]
    fn a_missed_target_is_plain_to_see() {
        let mut environment = Map::new();
        environment.insert("cores".to_owned(), json!(2));
        environment.insert("configuration".to_owned(), json!({ "a": 1 }));
        environment.insert("load".to_owned(), json!([0.123, 1.5]));
        let mut report = Report::new("publish", environment);
        let rounds: Series = [3.0].into_iter().collect();
        report.ratio("a_ratio", &rounds, &rounds, Some(Target::AtLeast(1.5)));
        report.plain("rate", "calls/s", &rounds);
        let text = render(&report);
        assert!(text.contains("publish.a_ratio"), "{text}");
        assert!(
            text.contains("at least 1.5") && text.contains("MISSED"),
            "{text}"
        );
        assert!(
            text.contains("cores: 2\n") && text.contains("load: 0.12 1.50"),
            "{text}"
        );
        assert!(!text.contains("a 1"), "{text}");
    }
}
