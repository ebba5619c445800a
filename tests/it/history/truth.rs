//! What was committed, as the database tells it to somebody else than the product.

use std::path::Path;

use steadfast_testkit::{
    CommandOutput,
    history::{Call, CallSummary, Committed, check_calls, key},
};
use steadfast_types::{Mark, Revision};
use tokio::process::Command;

use super::publishing::Acknowledged;

/// Prints `revision|mark|[[topic, key], …]` of each revision, in order.
pub(crate) const POSTGRES: &str = "\
    SELECT revision, mark, (SELECT coalesce(jsonb_agg(jsonb_build_array(c.change ->> 't', c.change ->> 'k') ORDER BY c.at), '[]') \
                            FROM json_array_elements(changes::json) WITH ORDINALITY AS c(change, at)) \
    FROM change_log WHERE revision > 0 ORDER BY revision";

/// The same from a SQLite file.
const SQLITE: &str = "\
import json, pathlib, sqlite3, sys
uri = pathlib.Path(sys.argv[1]).resolve().as_uri() + '?mode=ro'
rows = sqlite3.connect(uri, uri=True).execute(
    'SELECT revision, mark, changes FROM change_log WHERE revision > 0 ORDER BY revision')
for revision, mark, changes in rows:
    print(revision, mark, json.dumps([[c['t'], c['k']] for c in json.loads(changes)]), sep='|')
";

/// The log of a SQLite server that works in this directory; it may be running.
pub(crate) async fn of_sqlite(directory: &Path) -> Vec<Committed> {
    let mut command = Command::new("python3");
    command
        .args(["-c", SQLITE])
        .arg(directory.join(".steadfast/steadfast.db"));
    parse(CommandOutput::of(command).await.success())
}

/// The log as [`POSTGRES`] prints it.
pub(crate) fn parse(rows: &str) -> Vec<Committed> {
    rows.lines().map(parse_row).collect()
}

fn parse_row(row: &str) -> Committed {
    let read = || {
        let mut parts = row.splitn(3, '|');
        let revision = Revision(parts.next()?.parse().ok()?);
        let mark = Mark::from_sql(parts.next()?.parse().ok()?);
        let names: Vec<(String, String)> = serde_json::from_str(parts.next()?).ok()?;
        let keys = names
            .into_iter()
            .map(|(topic, name)| key(&format!("{topic}:{name}")));
        Some(Committed {
            revision,
            mark,
            keys: keys.collect(),
        })
    };
    read().unwrap_or_else(|| panic!("not a row of the log: {row}"))
}

/// Compares what callers were answered with what was committed: each acknowledged publish is at its revision with its mark and all
/// of its keys, what was refused is not there, and no key of any publish was committed twice.
pub(crate) fn check_answers(committed: &[Committed], calls: &[Call]) -> CallSummary {
    check_calls(committed, calls).unwrap_or_else(|defects| {
        let shown: Vec<_> = defects.iter().take(20).collect();
        panic!("{} answers are belied: {shown:#?}", defects.len());
    })
}

/// The same where all that is known are acknowledgements.
pub(crate) fn check_acknowledged<'a>(
    committed: &[Committed],
    acknowledged: impl IntoIterator<Item = &'a Acknowledged>,
) {
    let calls: Vec<Call> = acknowledged.into_iter().map(Acknowledged::call).collect();
    check_answers(committed, &calls);
}

/// The keys of a log, as one value for comparing in messages.
pub(crate) fn keys(committed: &[Committed]) -> Vec<&str> {
    committed
        .iter()
        .flat_map(|entry| entry.keys.iter().map(AsRef::as_ref))
        .collect()
}

#[test]
fn rows_are_read() {
    let rows = "1|-1|[[\"app/a\", \"x|y\"], [\"app/b\", \"z\"]]\n2|5|[]";
    let read = parse(rows);
    assert_eq!(keys(&read), ["app/a:x|y", "app/b:z"]);
    assert_eq!(read[0].mark, Mark(u64::MAX));
    assert_eq!((read[1].revision, keys(&read).len()), (Revision(2), 2));
}
