//! What is read from the layers together, what is printed of it, and ([`mistakes`]) what is refused.

mod blocks;
mod mistakes;

use std::{path::Path, time::Duration};

use super::{
    layers::{TABLES, variable},
    print::key_of,
    *,
};

fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let own = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("test.toml");
    std::fs::write(&path, file).expect("the file is written");
    Config::load(LoadOptions {
        file: Some(path),
        env: own(env),
        flags: own(flags),
    })
}

const SOURCE: &str =
    "[[catalog.source]]\nname = \"a\"\ntype = \"npm\"\nnames = [\"@a/b\", \"c.d\"]\n";

#[test]
fn the_defaults_are_valid() {
    let config = Config::load(LoadOptions::default()).expect("the defaults are valid");
    assert!(config.database.url.is_embedded());
    assert_eq!(config.database.data_dir, Path::new("./.steadfast"));
    assert_eq!(config.server.grpc.to_string(), "127.0.0.1:7400");
    assert_eq!(config.server.http.to_string(), "127.0.0.1:7401");
    assert_eq!(config.lease.duration, Duration::from_secs(10));
    assert_eq!(config.watch.retention, Duration::from_secs(24 * 3_600));
    assert_eq!(config.limits.max_message_bytes, 4 << 20);
    assert_eq!(config.telemetry.log_format, LogFormat::Auto);
    assert_eq!(config.telemetry.otlp_endpoint, None);
    assert!(config.catalog.sources.is_empty() && config.catalog.refresh_schedule.is_none());
    assert_eq!(config.file(), None);
}

/// The defaults and the sections name the same keys, and every range that is enforced is told where the key is explained.
#[test]
fn every_key_is_read_and_documented_with_its_range() {
    let mut reader = Reader::new(Layers::defaults());
    let _ = Config::read(&mut reader);
    let read = reader.keys_read().clone();
    let mut documented: Vec<_> = TABLES.map(str::to_owned).to_vec();
    let mut section = "";
    let mut comment = String::new();
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            assert!(!comment.is_empty(), "[{section}] is not explained");
        } else if let Some(key) = key_of(line) {
            let path = format!("{section}.{key}");
            assert!(!comment.trim().is_empty(), "{path} is not explained");
            if let Some(Some(range)) = read.get(&path) {
                let range = format!("{} to {}", range.start(), range.end());
                assert!(comment.contains(&range), "{path} does not say {range}");
            }
            documented.push(path);
        }
        comment.clear();
    }
    documented.sort();
    assert_eq!(documented, read.into_keys().collect::<Vec<_>>());
}

#[test]
fn every_key_of_a_block_is_documented() {
    for key in source::KEYS.into_iter().chain(drift::KEYS) {
        assert!(DEFAULTS.contains(&format!("\n# {key} = ")), "{key}");
    }
}

#[test]
fn the_initial_file_changes_nothing_and_its_example_is_valid() {
    let initial = init_file();
    let config = load(&initial, &[], &[]).expect("the initial file is valid");
    assert_eq!(
        config.print(),
        Config::load(LoadOptions::default()).expect("valid").print()
    );

    let uncommented: String = initial
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if key_of(rest).is_some_and(|key| !key.contains(' ')) => rest,
            Some(rest) if rest.starts_with("[[") => rest,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let config = load(&uncommented, &[], &[]).expect("the example is valid");
    let [npm, local] = &config.catalog.sources[..] else {
        panic!("{:?}", config.catalog.sources);
    };
    let SourceKind::Npm(npm) = &npm.kind else {
        panic!("{npm:?}");
    };
    assert_eq!(npm.names.len(), 2);
    assert_eq!((npm.include.len(), npm.exclude.len()), (1, 2));
    assert!(npm.organization.is_some() && npm.search.is_some() && npm.schema_url.is_some());
    assert!(matches!(&local.kind, SourceKind::Local(local) if local.roots.len() == 1));
    assert_eq!(config.drift.comparators.len(), 1);
}

#[test]
fn what_is_printed_can_be_read_again() {
    let text =
        format!("[server]\ngrpc = \"[::1]:1\"\n[telemetry]\notlp_sample_ratio = 0.25\n{SOURCE}");
    let config = load(&text, &[], &[("lease.duration_ms", "5_000")]).expect("valid");
    let printed = config.print();
    let again = load(&printed, &[], &[]).unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
    assert_eq!(again.server, config.server);
    assert_eq!(again.catalog, config.catalog);
    assert_eq!(again.telemetry, config.telemetry);
    assert_eq!(again.lease, config.lease);
    assert!(
        printed.contains("grpc = \"[::1]:1\" # ") && printed.contains("test.toml, line 2"),
        "{printed}"
    );
    assert!(printed.contains("duration_ms = 5000 # flag"), "{printed}");
}

#[test]
fn later_layers_win() {
    let file = "[server]\ngrpc = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\nshutdown_grace_ms = 3\n";
    let env = [
        ("STEADFAST_SERVER__HTTP", "127.0.0.1:20"),
        ("STEADFAST_SERVER__SHUTDOWN_GRACE_MS", "30"),
        ("STEADFAST_TELEMETRY__OTLP_SAMPLE_RATIO", "0.5"),
        ("STEADFAST_CATALOG__REFRESH_ON_EMPTY", "false"),
        ("STEADFAST_ENDPOINT", "http://127.0.0.1:1"),
        ("STEADFAST_PORT_7400_TCP_ADDR", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let config = load(file, &env, &[("server.shutdown_grace_ms", "300")]).expect("valid");
    assert_eq!(config.server.grpc.port(), 1);
    assert_eq!(config.server.http.port(), 20);
    assert_eq!(config.server.shutdown_grace, Duration::from_millis(300));
    assert_eq!(config.telemetry.otlp_sample_ratio, 0.5);
    assert!(!config.catalog.refresh_on_empty);
    assert!(config.file().is_some());
}

#[test]
fn sources_may_come_from_the_environment() {
    let value =
        "[{ name = \"a\", type = \"npm\", names = [\"b\"], registry = \"http://127.0.0.1:1/\" }]";
    let config = load("", &[("STEADFAST_CATALOG__SOURCE", value)], &[]).expect("valid");
    assert_eq!(
        config.catalog.sources,
        [Source {
            name: "a".to_owned(),
            kind: SourceKind::Npm(NpmSource {
                registry: Some("http://127.0.0.1:1/".to_owned()),
                names: vec!["b".to_owned()],
                organization: None,
                search: None,
                include: Vec::new(),
                exclude: Vec::new(),
                schema_url: None,
                icons: None,
            }),
        }]
    );
}

#[test]
fn folders_are_a_source() {
    let block = "[[catalog.source]]\nname = \"dev\"\ntype = \"local\"\n";
    let file = format!("{block}roots = [\"/srv/a/\", \"/srv//b\"]\n");
    let config = load(&file, &[], &[]).expect("valid");
    let local = |rescan: u64| LocalSource {
        roots: vec!["/srv/a".to_owned(), "/srv/b".to_owned()],
        rescan: Duration::from_millis(rescan),
    };
    assert_eq!(
        config.catalog.sources[0].kind,
        SourceKind::Local(local(30_000))
    );
    let file = format!("{file}rescan_ms = 500\n");
    let config = load(&file, &[], &[]).expect("valid");
    assert_eq!(
        config.catalog.sources[0].kind,
        SourceKind::Local(local(500))
    );
    for (rest, path, told) in [
        ("", "roots", "nothing"),
        ("roots = []", "roots", "1 to 16"),
        ("roots = \"/a\"", "roots", "list"),
        ("roots = [\"a\"]", "roots[0]", "absolute"),
        ("roots = [\"/a/../b\"]", "roots[0]", "absolute"),
        ("roots = [1]", "roots[0]", "quotes"),
        ("roots = [\"/a\", \"/a/\"]", "roots[1]", "once"),
        (
            "roots = [\"/a\"]\nrescan_ms = 1",
            "rescan_ms",
            "500 to 3600000",
        ),
        ("roots = [\"/a\"]\nnames = [\"b\"]", "names", "unknown"),
        ("rots = [\"/a\"]", "rots", "did you mean roots?"),
    ] {
        let errors = load(&format!("{block}{rest}\n"), &[], &[]).expect_err(rest);
        let path = format!("catalog.source[0].{path}");
        let error = errors.0.iter().find(|error| error.path == path);
        let error = error.unwrap_or_else(|| panic!("{rest}: {errors}"));
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[test]
fn a_schedule_is_understood_in_its_zone() {
    let file =
        "[catalog]\nrefresh_schedule = \"0 3 * * *\"\nrefresh_time_zone = \"Europe/Vienna\"\n";
    let schedule = load(file, &[], &[])
        .expect("valid")
        .catalog
        .refresh_schedule
        .expect("set");
    assert_eq!(schedule.expression, "0 3 * * *");
    assert_eq!(schedule.time_zone.name(), "Europe/Vienna");
}

#[test]
fn variables_are_named_after_their_keys() {
    assert_eq!(variable("server.grpc"), "STEADFAST_SERVER__GRPC");
}

#[test]
fn the_sample_configurations_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for (file, sources) in [("steadfast.toml", 0), ("openfn.toml", 1)] {
        let options = LoadOptions {
            file: Some(folder.join(file)),
            ..LoadOptions::default()
        };
        let config = Config::load(options).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.catalog.sources.len(), sources, "{file}");
    }
}

const COMPARATOR: &str = "[[drift.comparator]]\nprovider = \"do\"\ntype = \"droplet\"\npath = \"/tags\"\nkind = \"ordered\"\n";

#[test]
fn comparators_are_read_and_printed() {
    let text = format!(
        "[drift]\nunmanaged = [\"do/droplet\"]\nhash_key = \"DRIFT_KEY\"\n{COMPARATOR}{}",
        COMPARATOR
            .replace("/tags", "/user_data")
            .replace("ordered", "secret")
    );
    let config = load(&text, &[], &[]).expect("valid");
    assert_eq!(config.drift.comparators.len(), 2);
    assert_eq!(config.drift.comparators[0].path, "/tags");
    assert!(config.drift.unmanaged.contains("do/droplet"));
    let again = load(&config.print(), &[], &[]).expect("valid");
    assert_eq!(again.drift, config.drift);
    let key = steadfast_drift::HashKey::new("sixteen bytes or more");
    let rules = config.drift.rules(key).expect("checked already");
    assert!(rules.of("do", "droplet").is_secret("/user_data"));
}
