//! Reporting what is there, of one resource or of many.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use serde_json::{Value, json};
use steadfast_client::api::drift::v1::{
    Observation, ReportResourcesRequest, ResourceKey,
    report_resources_response::result::Result as ReportResult,
};

use super::{Key, name};
use crate::{
    args::parse_span,
    commands::{Session, document, publish::read_file},
    failure::{Exit, Failure},
    json,
    output::note,
    table,
};

/// Observations of one call at most, which the contract tells.
const BATCH: usize = 1_000;
/// What they may hold together: a call's message must stay below what the server takes.
const BATCH_BYTES: usize = 2 << 20;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["attributes", "gone", "from"])))]
pub(crate) struct ReportArgs {
    /// The resource, for example digitalocean/droplet/4711
    #[arg(
        value_name = "PROVIDER/TYPE/ID",
        required_unless_present = "from",
        conflicts_with = "from"
    )]
    key: Option<Key>,
    /// A file with what the provider says of it, in TOML or JSON; `-` for standard input
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,
    /// The provider says that there is no such resource
    #[arg(long)]
    gone: bool,
    /// A file with many: one JSON object on each line, of `provider`, `type`, `id`, `attributes`, and as needed `transition` and
    /// `gone`; `-` for standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The inventory that this belongs to
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    inventory: String,
    /// What the provider calls the change that is under way, for example resizing
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME",
        conflicts_with = "from"
    )]
    transition: String,
    /// How old this is, for example 5m; only without an inventory
    #[arg(long, value_name = "SPAN", value_parser = parse_span, conflicts_with = "inventory")]
    age: Option<Duration>,
}

pub(super) async fn run(args: ReportArgs, session: &Session) -> Result<Exit, Failure> {
    let observations = observations(&args)?;
    let connection = session.connect().await?;
    let mut client = connection.resources();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut errors = Vec::new();
    for batch in batches(&observations) {
        let request = ReportResourcesRequest {
            inventory_id: args.inventory.clone(),
            observations: batch.to_vec(),
        };
        let answer = connection.call(client.report_resources(request)).await?;
        for (observation, result) in batch.iter().zip(answer.results) {
            match result.result {
                Some(ReportResult::Outcome(outcome)) => {
                    *outcomes
                        .entry(json::drift::report_outcome(outcome))
                        .or_default() += 1;
                }
                Some(ReportResult::Error(error)) => {
                    errors.push((name(observation.key.as_ref()), error));
                }
                None => {}
            }
        }
    }
    if !session.output.is_json() {
        for (name, error) in &errors {
            note(&format!("{name}: {}", table::clean(&error.message)));
        }
    }
    session.output.print(
        || {
            let reported = table::count(observations.len(), "resource");
            let counts = outcomes
                .iter()
                .map(|(outcome, count)| format!("{count} {outcome}"));
            let refused = (!errors.is_empty()).then(|| format!("{} refused", errors.len()));
            let counts: Vec<_> = counts.chain(refused).collect();
            format!("reported {reported}: {}", counts.join(", "))
        },
        || {
            let errors: Vec<_> = errors
                .iter()
                .map(|(name, error)| json!({ "resource": name, "error": json::item_error(error) }))
                .collect();
            json!({ "outcomes": outcomes, "errors": errors })
        },
    )?;
    Ok(match (errors.is_empty(), outcomes.is_empty()) {
        (true, _) => Exit::Success,
        (false, true) => Exit::Error,
        (false, false) => Exit::Partial,
    })
}

fn observations(args: &ReportArgs) -> Result<Vec<Observation>, Failure> {
    let age = args.age.and_then(|age| age.try_into().ok());
    let Some(file) = &args.from else {
        let attributes_json = match &args.attributes {
            Some(file) => document::read_object_text(file)?,
            None => String::new(),
        };
        return Ok(vec![Observation {
            key: args.key.clone().map(|Key(key)| key),
            attributes_json,
            transition: args.transition.clone(),
            gone: args.gone,
            age,
        }]);
    };
    let bytes = read_file(file)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().enumerate();
    let written = lines.filter(|(_, line)| !line.trim().is_empty());
    let read = written.map(|(index, line)| {
        let mut observation = of_line(line).map_err(|message| {
            let place = format!("{}:{}", file.display(), index + 1);
            Failure::new(Exit::Usage, format!("{place}: {}", table::clean(&message)))
        })?;
        observation.age.clone_from(&age);
        Ok(observation)
    });
    read.collect()
}

fn of_line(line: &str) -> Result<Observation, String> {
    let mut value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let fields = value.as_object_mut().ok_or("it is no JSON object")?;
    let mut text = |name: &str, required: bool| match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Number(number)) if name == "id" => Ok(number.to_string()),
        None if !required => Ok(String::new()),
        _ => Err(format!("`{name}` has to be a text")),
    };
    let key = ResourceKey {
        provider: text("provider", true)?,
        r#type: text("type", true)?,
        id: text("id", true)?,
    };
    let transition = text("transition", false)?;
    let gone = match fields.remove("gone") {
        None => false,
        Some(Value::Bool(gone)) => gone,
        Some(_) => return Err("`gone` has to be true or false".to_owned()),
    };
    let attributes = fields.remove("attributes");
    if let Some(unknown) = fields.keys().next() {
        return Err(format!("`{unknown}` is not known here"));
    }
    Ok(Observation {
        key: Some(key),
        attributes_json: attributes.map_or_else(String::new, |attributes| attributes.to_string()),
        transition,
        gone,
        age: None,
    })
}

/// Parts that fit into a call.
fn batches(observations: &[Observation]) -> Vec<&[Observation]> {
    let mut batches = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, observation) in observations.iter().enumerate() {
        let size = observation.attributes_json.len() + 512;
        if index > begin && (index - begin == BATCH || bytes + size > BATCH_BYTES) {
            batches.push(&observations[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += size;
    }
    if begin < observations.len() {
        batches.push(&observations[begin..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_observation() {
        let read = of_line(
            r#"{"provider":"do","type":"droplet","id":7,"attributes":{"b":1,"a":2},"transition":"off"}"#,
        )
        .expect("complete");
        assert_eq!(name(read.key.as_ref()), "do/droplet/7");
        assert_eq!(read.attributes_json, r#"{"b":1,"a":2}"#);
        assert_eq!((read.transition.as_str(), read.gone), ("off", false));
        let gone = of_line(r#"{"provider":"do","type":"droplet","id":"7","gone":true}"#);
        assert!(gone.expect("complete").gone);
        for (line, told) in [
            ("[]", "object"),
            ("{", "EOF"),
            (r#"{"type":"t","id":"1"}"#, "provider"),
            (r#"{"provider":"p","type":"t","id":["1"]}"#, "`id`"),
            (r#"{"provider":"p","type":"t","id":"1","attr":{}}"#, "attr"),
            (r#"{"provider":"p","type":"t","id":"1","gone":1}"#, "gone"),
        ] {
            let error = of_line(line).expect_err(line);
            assert!(error.contains(told), "{line}: {error}");
        }
    }

    #[test]
    fn batches_are_bounded_in_number_and_bytes() {
        let of = |count: usize, bytes: usize| {
            let observation = Observation {
                attributes_json: "x".repeat(bytes),
                ..Observation::default()
            };
            let all = vec![observation; count];
            batches(&all)
                .iter()
                .map(|batch| batch.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(0, 0), Vec::<usize>::new());
        assert_eq!(of(2_500, 0), [1_000, 1_000, 500]);
        assert_eq!(of(65, 64 << 10), [31, 31, 3]);
        assert_eq!(of(1, 4 << 20), [1]);
    }
}
