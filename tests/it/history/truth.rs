//! What was committed, as the database tells it to somebody else than the product.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use steadfast_client::Cursor;
use steadfast_testkit::{CommandOutput, history::Committed};
use steadfast_types::{Mark, Revision};
use tokio::process::Command;

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
            .map(|(topic, key)| format!("{topic}:{key}"));
        Some(Committed {
            revision,
            mark,
            keys: keys.collect(),
        })
    };
    read().unwrap_or_else(|| panic!("not a row of the log: {row}"))
}

/// Compares what was acknowledged with what was committed: each acknowledged publish is at its revision with its mark and all
/// of its keys, and no key of any publish, acknowledged or not, was committed twice.
pub(crate) fn check_acknowledged<'a>(
    committed: &[Committed],
    acknowledged: impl IntoIterator<Item = (Cursor, &'a [String])>,
) {
    let by_revision: BTreeMap<Revision, &Committed> = committed
        .iter()
        .map(|entry| (entry.revision, entry))
        .collect();
    let mut seen: HashMap<&str, Revision> = HashMap::new();
    for entry in committed {
        for key in &entry.keys {
            if let Some(before) = seen.insert(key, entry.revision) {
                panic!("{key} was committed at {before} and at {}", entry.revision);
            }
        }
    }
    for (cursor, keys) in acknowledged {
        let entry = by_revision.get(&cursor.revision);
        let entry = entry.unwrap_or_else(|| {
            panic!("{cursor} was acknowledged with {keys:?} and is not in the log")
        });
        assert_eq!(
            (entry.mark, entry.keys.as_slice()),
            (cursor.mark, keys),
            "at {cursor}"
        );
    }
}

/// The keys of a log, as one value for comparing in messages.
pub(crate) fn keys(committed: &[Committed]) -> Vec<&str> {
    committed
        .iter()
        .flat_map(|entry| entry.keys.iter().map(String::as_str))
        .collect()
}

#[test]
fn rows_are_read() {
    let rows = "1|-1|[[\"app/a\", \"x|y\"], [\"app/b\", \"z\"]]\n2|5|[]";
    let read = parse(rows);
    assert_eq!(read[0].keys, ["app/a:x|y", "app/b:z"]);
    assert_eq!(read[0].mark, Mark(u64::MAX));
    assert_eq!((read[1].revision, keys(&read).len()), (Revision(2), 2));
}
