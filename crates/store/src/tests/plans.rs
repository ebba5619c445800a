//! Plans at a hundred thousand resources: no statement about drift reads more than it returns or changes, but for a bounded rest.
//!
//! PostgreSQL runs each with arguments as they come, once with a plan for these and once with one for any, and says how many rows it
//! visited. SQLite does not count; there no plan may go through a whole table.

mod nodes;

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};

use crate::{
    ResourceFilter, ResourceRow, drift,
    engine::{Db, Sql},
    node,
    test_stores::{both, postgres, sqlite},
};

/// Resources: two thirds of them are of the provider `cloud`, half of these of each of two types, and a tenth nobody recorded.
const RESOURCES: i64 = 100_000;

/// Resources of what is not about plans.
const SOME: i64 = 30_000;

/// Rows visited for each that is returned, at most: what belongs to it lies in several tables.
const EACH: f64 = 10.0;

/// Rows visited besides, at most.
const REST: f64 = 250.0;

/// How statements are called: their names, and arguments for PostgreSQL. Those that ask for a page ask for a hundred rows.
const CALLS: &[(&str, &str)] = &[
    // Reports and records.
    ("drift_report_inventory", "'i000900'"),
    (
        "drift_report_read",
        r#"'{0,1}', '{cloud,cloud}', '{vm,vm}', '{r000002,nobody}', '{"",""}', '{"",""}'"#,
    ),
    ("drift_report_looks", "'cloud', 1019990"),
    ("drift_report_hold", "'{1,2,500,99000}'"),
    (
        "drift_report_write",
        r#"'{1,2}', '{1,0}', '{9000000,9000000}', '{0,0}', '{0,0}', '{"",""}', '{"",""}', '{"",""}'"#,
    ),
    (
        "drift_record_keys",
        "'{0,1}', '{cloud,cloud}', '{vm,vm}', '{r000002,nobody}'",
    ),
    ("drift_record_place", "'{cloud}', '{vm}', '{new}'"),
    ("drift_record_lock", "'{1,2,500,99000}'"),
    (
        "drift_record_write",
        "'{1}', '{2}', '{true}', '{false}', '{l}', '{ann}', '{s}', '{w}', '{s}', 1",
    ),
    // Who saw what.
    ("drift_seen_add", "20001, 1, 2, 2, 0, 'w', '', '', ''"),
    ("drift_seen_pages", "20001, 'w000010', 100"),
    ("drift_seen_pages_with", "20001, 100, 2500"),
    ("drift_seen_drop", "20001, 100, false"),
    ("drift_seen_news", "20001, 'w000010', 100"),
    ("drift_seen_wrote", "20001, 4"),
    ("drift_seen_drop_call", "20001, 'w000010'"),
    ("drift_seen_block_put", "20001, 1, ''"),
    ("drift_seen_last", "'cloud', 3"),
    ("drift_seen_blocks", "20000, 2, 3"),
    ("drift_seen_drop_blocks", "20000"),
    // Inventories.
    ("drift_inventory_get", "'i000900'"),
    ("drift_inventory_list", "'i015000', '', '', 100"),
    ("drift_inventory_failed", ""),
    ("drift_inventory_abandoned", "1"),
    ("drift_inventory_halfway", "1"),
    ("drift_inventory_lock", "'i000900'"),
    ("drift_inventory_unseen", "0, 100, 'other', 'disk'"),
    ("drift_inventory_found", "'{1,2,500,99000}', 20000"),
    ("drift_inventory_remembered", "'cloud', 1020001"),
    ("drift_inventory_hold", "20001"),
    ("drift_inventory_scope", "'cloud', 'disk', 'r099900', 100"),
    (
        "drift_inventory_scope_of_type",
        "'cloud', 'disk', 'r099900', 100",
    ),
    ("drift_inventory_later", "'cloud', 1019990"),
    ("drift_inventory_standing", "'{1,2,500,99000}'"),
    (
        "drift_inventory_miss",
        "'{1,2}', 9000000, '{1,2}', '{2,2}', 20001, 9000001",
    ),
    // What is due, and what a sweep makes of it.
    ("drift_due_mark", "'{1,2}', '{NULL,1}'"),
    ("drift_due_some", "0, 100"),
    ("drift_due_drifted", "0, 100, 'cloud', 'nobody'"),
    ("drift_due_count", ""),
    ("drift_page_due", "0, 100000, 2000000, 200"),
    ("drift_page_due", "50000, 100000, 9000000000000000, 100"),
    ("drift_page_all", "5000, 100000, 2000000, 100"),
    ("drift_page_fetch", "'{1,2,500,99000}'"),
    ("drift_page_open", "'{1,2,500,99000}'"),
    ("drift_page_past", "'{1,2,500}', '{/a,/a,/a}'"),
    ("drift_page_held", ""),
    ("drift_apply_lock", "'{1,2,500,99000}'"),
    ("drift_apply_lock_live", "'{1,2,500,99000}'"),
    ("drift_apply_generations", "'{1,2,500,99000}'"),
    (
        "drift_apply_decide",
        "'{1,2}', '{0,0}', '{drifted,in_sync}'",
    ),
    ("drift_apply_lock_due", "'{1,2}'"),
    ("drift_apply_unlock_due", "'{1,2}'"),
    ("drift_apply_clear", "'{7,2007}', '{1,1}'"),
    ("drift_apply_next", "'{7,2007}', '{1,1}', '{5,5}'"),
    ("drift_sweep_take", "'s0500', 'me'"),
    ("drift_sweep_again", "'s0500'"),
    ("drift_tell", "'{1,2}', '{true,false}'"),
    // Lists.
    ("drift_resource_get", "'cloud', 'vm', 'r000002'"),
    ("drift_resource_key", "'cloud', 'vm', 'r000002'"),
    (
        "drift_resource_list",
        "'cloud', 'vm', 'r099900', NULL, '', 100, 100",
    ),
    (
        "drift_resource_list",
        r#"'', '', '', '{"team":"red"}', 'drifted', 100, 10"#,
    ),
    (
        "drift_resource_list_of_provider",
        "'cloud', 'vm', 'r099900', NULL, '', 100, 100",
    ),
    (
        "drift_resource_list_of_type",
        "'cloud', 'disk', 'r099900', NULL, '', 100, 100",
    ),
    ("drift_resource_last", "'cloud', 'vm', 'r099900', 100"),
    (
        "drift_resource_last_of_provider",
        "'cloud', 'disk', 'r099900', 100",
    ),
    (
        "drift_resource_last_of_type",
        "'cloud', 'disk', 'r099900', 100",
    ),
    ("drift_resource_provider", "'cloud'"),
    ("drift_event_list", "500, 0, 100"),
    // What is forgotten.
    ("drift_prune_drifts", "0, 100"),
    ("drift_prune_events", "0, 100"),
    ("drift_prune_inventory", "100, 10"),
    ("drift_prune_unreadable", "'{1000,2000}', 400"),
    ("drift_prune_told", "'{1,2,500,99000}'"),
    ("drift_prune_piece", "5000, 100"),
    ("drift_prune_nobodys", "5000, 5010"),
    ("drift_prune_lock", "'{1,2,500,99000}'"),
    ("drift_prune_live", "'{1,2,500,99000}'"),
    ("drift_prune_verdict", "'{1,2,500,99000}'"),
    ("drift_prune_resource", "'{1,2,500,99000}'"),
    ("drift_prune_due", "5000, 5100"),
];

/// Statements that are about one row, by its key, or add one; and tables that hold few.
const ABOUT_ONE: &[&str] = &[
    "drift_accept",
    "drift_adopt",
    "drift_apply_close",
    "drift_apply_open",
    "drift_apply_progress",
    "drift_apply_update",
    "drift_carry",
    "drift_clock_apply",
    "drift_clock_look",
    "drift_clock_report",
    "drift_clock_tick",
    "drift_close_others",
    "drift_event_add",
    "drift_gate",
    "drift_generation_adopt",
    "drift_generation_count",
    "drift_generation_declare",
    "drift_generation_get",
    "drift_generation_keep",
    "drift_get",
    "drift_held",
    "drift_inventory_begin",
    "drift_inventory_end",
    "drift_inventory_ending",
    "drift_inventory_fail",
    "drift_live_lock",
    "drift_lock",
    "drift_now",
    "drift_page_name",
    "drift_policy_add",
    "drift_policy_count",
    "drift_policy_get",
    "drift_policy_list",
    "drift_policy_lock",
    "drift_policy_remove",
    "drift_policy_replace",
    "drift_prune_forget",
    "drift_prune_hand",
    "drift_prune_lock_inventory",
    "drift_prune_move",
    "drift_resource_forget",
    "drift_resource_lock",
    "drift_snooze",
    "drift_sweep_add",
    "drift_sweep_ask",
    "drift_sweep_cancel",
    "drift_sweep_end",
    "drift_sweep_get",
    "drift_sweep_list",
    "drift_sweep_prune",
    "drift_sweep_running",
];

/// Lists of drifts: their filters are looked for in all that are open, or in all that is kept of the closed ones.
const FILTERED: &[&str] = &[
    "drift_count_hidden",
    "drift_count_hidden_of",
    "drift_list",
    "drift_list_of",
    "drift_list_open",
];

/// What goes through everything once, when other paths are declared secret.
const THROUGH_ALL: &str = "drift_redact_";

/// On SQLite these go along an index in order, and stop where they have enough; a forced sweep counts all there are.
const IN_ORDER: &[&str] = &[
    "drift_prune_events",
    "drift_prune_inventory",
    "drift_sweep_take",
];

/// Indexes that hold little, however large their tables are.
const PARTIAL: &[&str] = &["drift_inventory_ending", "saga_key_resource"];

fn fill(resources: i64) -> Vec<String> {
    let numbers = |through: i64| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {through})"
        )
    };
    let name = "CASE WHEN i % 3 = 0 THEN 'other' ELSE 'cloud' END, CASE WHEN i % 3 = 1 THEN 'disk' ELSE 'vm' END, \
                'r' || substr('000000' || i, -6)";
    let name = name.replace(
        "substr('000000' || i, -6)",
        "substr(CAST(1000000 + i AS TEXT), 2)",
    );
    vec![
        format!(
            "INSERT INTO drift_resource (key, writes, spec_version, recorded_us, applied_us, recorded, provider, type, id, labels, \
             recorded_by, saga_id, last_write, spec) {} SELECT i, 1, 1, 1, 1, i % 10 <> 0, {name}, '{{\"team\":\"blue\"}}', 'ann', '', '', \
             '{{\"a\":1}}' FROM n",
            numbers(resources)
        ),
        format!(
            "INSERT INTO drift_live (key, version, observed_us, inventory, misses, missed_us, transition, digest, attributes) {} \
             SELECT i, 1, 1000500, CASE WHEN i % 1000 = 0 THEN 400 ELSE 20000 END, 0, 0, '', 'd', '{{\"a\":1}}' FROM n",
            numbers(resources)
        ),
        format!(
            "INSERT INTO drift_verdict (key, decided_us, verdict) {} SELECT i, 1, \
             CASE WHEN i % 1000 = 1 THEN 'not_observed' WHEN i % 1000 = 2 THEN 'drifted' ELSE 'in_sync' END FROM n",
            numbers(resources)
        ),
        // A hundred are due, and ten thousand will be.
        format!(
            "INSERT INTO drift_due (key, generation, due_us) {} SELECT i, 1, CASE WHEN i % 1000 = 7 THEN 1000000 ELSE 9000000000000000 END \
             FROM n WHERE i % 10 = 7",
            numbers(resources)
        ),
        format!(
            "INSERT INTO drift (id, key, version, spec_version, first_seen_us, changed_us, flips, severity, suppressed_until_us, resolved_us, \
             secret, state, kind, path, suppressed_by, suppressed_policy, expected, actual, actor, reason) {} SELECT 'd' || i, i, 1, 1, 1, 1, 0, 1, \
             NULL, CASE WHEN i % 1000 = 2 THEN NULL ELSE 9000000000000000 END, i < 0, CASE WHEN i % 1000 = 2 THEN 'open' ELSE 'stale' END, \
             'changed', '/a', '', '', '1', '2', '', '' FROM n",
            numbers(resources)
        ),
        format!(
            "INSERT INTO drift_event (key, time_us, kind, path, drift_id, actor, reason, detail) {} \
             SELECT i, 9000000000000000, 'appeared', '', '', '', '', '' FROM n",
            numbers(resources)
        ),
        // A long history; the last one is under way.
        format!(
            "INSERT INTO drift_inventory (key, start_us, end_us, reported, changed, missed, id, provider, types, source, state, error) {} \
             SELECT i, 1000000 + i, 1000000 + i, 0, 0, 0, 'i' || substr(CAST(1000000 + i AS TEXT), 2), \
             CASE WHEN i % 10 = 3 THEN 'other' ELSE 'cloud' END, CASE WHEN i % 10 = 4 THEN '[\"vm\"]' ELSE '[]' END, '', \
             CASE WHEN i > 20000 THEN 'running' WHEN i % 2 = 0 THEN 'complete' ELSE 'failed' END, '' FROM n",
            numbers(20_001)
        ),
        format!(
            "INSERT INTO drift_seen (inventory, first_key, last_key, reported, changed, time_us, write_id, keys) {} \
             SELECT 20001, i * 1000, i * 1000 + 999, 1000, 0, 1, 'w' || substr(CAST(1000000 + i AS TEXT), 2), '' FROM n",
            numbers(100)
        ),
        format!(
            "INSERT INTO drift_seen_block (inventory, block, bits) {} SELECT 20000, i - 1, '' FROM n",
            numbers(25)
        ),
        format!(
            "INSERT INTO saga_key (name, holder) {} SELECT 'host/' || i, 'h' || i FROM n",
            numbers(20_000)
        ),
        "INSERT INTO saga_key (name, holder) VALUES ('resource/cloud/vm/r000002', 'x')".to_owned(),
        format!(
            "INSERT INTO drift_sweep (id, forced, cancel_requested, only_key, cursor_key, through_key, round, round_us, asked_us, create_us, \
             start_us, end_us, attempts, resources, state, labels, triggered_by, owner, error, tally) {} \
             SELECT 's' || substr(CAST(1000000 + i AS TEXT), 4), i < 0, i < 0, 0, 0, 0, 0, 1, 2, 1, NULL, NULL, 0, 0, \
             CASE WHEN i = 500 THEN 'running' ELSE 'completed' END, '{{}}', '', '', '', '' FROM n",
            numbers(500)
        ),
    ]
}

/// Rows visited by the scans of a plan, and the tables that it goes through from end to end.
fn visited(plan: &Value, whole: &mut BTreeSet<String>) -> f64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or(0.0);
    let kind = plan["Node Type"].as_str().unwrap_or_default();
    let of_table = kind.ends_with("Scan") && !plan["Relation Name"].is_null();
    let rows = number("Actual Rows")
        + number("Rows Removed by Filter")
        + number("Rows Removed by Index Recheck");
    let own = if of_table || kind == "Bitmap Index Scan" {
        rows * number("Actual Loops")
    } else {
        0.0
    };
    if kind == "Seq Scan" {
        whole.insert(plan["Relation Name"].to_string());
    }
    let below = plan["Plans"].as_array().into_iter().flatten();
    own + below.map(|plan| visited(plan, whole)).sum::<f64>()
}

/// How a statement ran once.
struct Run {
    visited: f64,
    returned: f64,
    whole: BTreeSet<String>,
    told: String,
}

/// Runs a statement with a plan for its arguments, and with one for any.
async fn explained(connection: &mut PgConnection, name: &str, arguments: &str) -> Vec<Run> {
    let text = statement(name).for_postgres();
    let mut runs = Vec::new();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let prepare = format!("SET plan_cache_mode = {mode}; PREPARE one AS {text}");
        connection.execute(AssertSqlSafe(prepare)).await.unwrap();
        connection.execute("BEGIN").await.unwrap();
        let call = match arguments {
            "" => String::new(),
            some => format!("({some})"),
        };
        let explain = format!("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE one{call}");
        let explained = connection.fetch_one(AssertSqlSafe(explain)).await;
        let explained = explained.unwrap_or_else(|error| panic!("{name}: {error}"));
        let plan: Value = explained.get(0);
        let ended = connection.execute("ROLLBACK; DEALLOCATE one").await;
        ended.unwrap();
        let mut whole = BTreeSet::new();
        let visited = visited(&plan[0]["Plan"], &mut whole);
        let returned = plan[0]["Plan"]["Actual Rows"].as_f64().unwrap();
        let told = format!(
            "{name}({arguments}), {mode}: {visited} visited, {returned} returned, whole {whole:?}\n"
        );
        eprint!("{told}");
        runs.push(Run {
            visited,
            returned,
            whole,
            told,
        });
    }
    runs
}

fn statement(name: &str) -> &'static Sql {
    let all = [drift::statements(), node::statements()].concat();
    let found = all.into_iter().find(|sql| sql.name == name);
    found.unwrap_or_else(|| panic!("there is no statement {name}"))
}

#[test]
fn no_statement_is_left_out() {
    let called = CALLS.iter().map(|(name, _)| *name);
    let named: BTreeSet<&str> = called
        .chain(ABOUT_ONE.iter().copied())
        .chain(FILTERED.iter().copied())
        .collect();
    let all = drift::statements();
    let all = all.iter().map(|sql| sql.name);
    let all: BTreeSet<&str> = all.filter(|name| !name.starts_with(THROUGH_ALL)).collect();
    assert_eq!(named, all);
}

#[tokio::test]
async fn no_statement_reads_more_than_it_returns() {
    let fixture = postgres().await;
    let Db::Postgres { connections, .. } = fixture.store.db() else {
        panic!("the fixture is PostgreSQL");
    };
    let mut connection = connections.pool().acquire().await.unwrap();
    for sql in fill(RESOURCES) {
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    for table in ["drift_resource", "drift_inventory"] {
        let next = format!("SELECT setval(pg_get_serial_sequence('{table}', 'key'), {RESOURCES})");
        connection.execute(AssertSqlSafe(next)).await.unwrap();
    }
    connection.execute("ANALYZE").await.unwrap();
    let mut problems = Vec::new();
    for (name, arguments) in CALLS {
        for run in explained(&mut connection, name, arguments).await {
            if run.visited > REST + EACH * run.returned || !run.whole.is_empty() {
                problems.push(run.told);
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.concat());
}

/// However few of them a filter keeps, a list looks at a bounded number of names, says how far it came, and misses nobody.
#[tokio::test]
async fn a_list_looks_at_so_many_names_at_a_time() {
    for fixture in both().await {
        // Resources, what is there of them, and what was said of them.
        for sql in fill(SOME).into_iter().take(3) {
            let sql = AssertSqlSafe(sql);
            match fixture.store.db() {
                Db::Postgres { connections, .. } => {
                    connections.pool().execute(sql).await.map(|_| ()).unwrap()
                }
                Db::Sqlite { writer, .. } => drop(writer.execute(sql).await.unwrap()),
            }
        }
        let listed = async |filter: ResourceFilter, limit: i64| {
            let (mut ids, mut pages, mut after) = (Vec::new(), 0, None);
            loop {
                let list = fixture
                    .store
                    .resources(&filter, after.as_ref(), limit)
                    .await;
                let list = list.unwrap();
                pages += 1;
                let is_full = list.rows.len() as i64 == limit;
                assert!(!(is_full && list.looked_at.is_some()));
                let last = list.rows.last().map(ResourceRow::name).filter(|_| is_full);
                ids.extend(list.rows.into_iter().map(|row| row.key));
                after = last.or(list.looked_at);
                if after.is_none() {
                    return (ids, pages);
                }
            }
        };
        let nobody = ResourceFilter {
            labels: [("team".to_owned(), "red".to_owned())].into(),
            ..ResourceFilter::default()
        };
        assert_eq!(listed(nobody, 1_000).await, (vec![], 2));
        let few = ResourceFilter {
            verdicts: vec!["drifted".to_owned()],
            ..ResourceFilter::default()
        };
        let (mut keys, pages) = listed(few.clone(), 1_000).await;
        keys.sort_unstable();
        let wanted: Vec<i64> = (1..=SOME).filter(|key| key % 1_000 == 2).collect();
        assert_eq!((keys, pages), (wanted, 2));
        // By names: `cloud` before `other`, and `disk` before `vm`.
        let order = |kept: fn(i64) -> bool| {
            let mut keys: Vec<i64> = (1..=SOME).filter(|key| kept(*key)).collect();
            keys.sort_by_key(|key| (key % 3 == 0, key % 3 != 1, *key));
            keys
        };
        let of = |provider: &str, kind: &str| ResourceFilter {
            provider: provider.to_owned(),
            kind: kind.to_owned(),
            ..ResourceFilter::default()
        };
        let all = listed(of("", ""), 7_000).await;
        assert_eq!(all, (order(|_| true), 5));
        let cloud = listed(of("cloud", ""), 50_000).await;
        // It ends at the last name, and cannot know that.
        assert_eq!(cloud, (order(|key| key % 3 != 0), 2));
        let disks = listed(of("cloud", "disk"), 6_000).await;
        assert_eq!(disks, (order(|key| key % 3 == 1), 2));
        // Of one type, wherever it is.
        let (machines, _) = listed(of("", "vm"), 1_000).await;
        assert_eq!(machines, order(|key| key % 3 != 1));
        assert_eq!(listed(of("", "nothing"), 10).await, (vec![], 1));
        assert_eq!(listed(of("nobody", ""), 10).await, (vec![], 1));
    }
}

#[tokio::test]
async fn no_statement_goes_through_a_table_on_sqlite() {
    let fixture = sqlite().await;
    let Db::Sqlite { writer, .. } = fixture.store.db() else {
        panic!("the fixture is SQLite");
    };
    let mut problems = Vec::new();
    for (name, _) in CALLS {
        let Some(text) = statement(name).sqlite else {
            continue;
        };
        let explain = format!("EXPLAIN QUERY PLAN {text}");
        let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(writer).await;
        let mut made = BTreeSet::new();
        for row in rows.unwrap() {
            let step: String = row.get("detail");
            eprintln!("{name}: {step}");
            let words: Vec<&str> = step.split(' ').collect();
            match words[..] {
                ["CO-ROUTINE" | "MATERIALIZE", name] => drop(made.insert(name.to_owned())),
                // Arguments, constants, and the common tables `few` and `newest`.
                ["SCAN", _, "VIRTUAL", ..] | ["SCAN", "CONSTANT" | "f" | "n", ..] => {}
                ["SCAN", table, ..] => {
                    let is_small =
                        made.contains(table) || PARTIAL.iter().any(|index| step.ends_with(index));
                    if !is_small && !IN_ORDER.contains(name) {
                        problems.push(format!("{name}: {step}\n"));
                    }
                }
                _ => {}
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.concat());
}
