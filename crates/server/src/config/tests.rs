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

fn errors(file: &str) -> Vec<ConfigError> {
    load(file, &[], &[]).expect_err("the file is wrong").0
}

/// The one error of a file.
fn error(file: &str) -> ConfigError {
    let mut errors = errors(file);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
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
    assert_eq!(config.catalog.sources.len(), 1);
    assert_eq!(config.catalog.sources[0].names.len(), 2);
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
            kind: SourceKind::Npm,
            registry: Some("http://127.0.0.1:1/".to_owned()),
            names: vec!["b".to_owned()],
        }]
    );
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_the_file() {
    let file = "[server]\ngrcp = \"127.0.0.1:1\"\nhttp = \"0.0.0.0:7401\"\n[limit]\n[watch]\npoll_interval_ms = 0\n[lease]\nduration_ms = \"ten\"\n";
    let env = [("STEADFAST_UPSTREAM__ATTEMPTS", "many")];
    let errors = load(file, &env, &[("telemetry.log_format", "xml")]).expect_err("wrong");
    let paths: Vec<_> = errors.0.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "server.grcp",
            "server.http",
            "limit",
            "watch.poll_interval_ms",
            "lease.duration_ms",
            "upstream.attempts",
            "telemetry.log_format"
        ]
    );
    let text = errors.to_string();
    assert!(
        text.starts_with("the configuration has 7 mistakes\n"),
        "{text}"
    );
    assert!(text.contains("test.toml, line 2)"), "{text}");
    assert!(
        text.contains("variable STEADFAST_UPSTREAM__ATTEMPTS)"),
        "{text}"
    );
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    for (file, path, remedy) in [
        (
            "[server]\ngrcp = 1\n",
            "server.grcp",
            "did you mean server.grpc?",
        ),
        ("[sever]\n", "sever", "did you mean [server]?"),
        ("[zzz]\n", "zzz", "remove it"),
        ("[server]\nzzz = 1\n", "server.zzz", "remove it"),
        // The right key in the wrong place.
        (
            "[server]\nring_bytes = 1\n",
            "server.ring_bytes",
            "did you mean watch.ring_bytes?",
        ),
        (
            "grpc = \"127.0.0.1:1\"\n",
            "grpc",
            "it is a key: server.grpc",
        ),
    ] {
        let error = error(file);
        assert_eq!((error.path.as_str(), error.remedy.as_str()), (path, remedy));
    }
    let errors = load(
        "",
        &[
            ("STEADFAST_SERVER__GRCP", "1"),
            ("STEADFAST_SERVER_GRPC", "1"),
        ],
        &[],
    );
    let remedies: Vec<_> = errors
        .expect_err("wrong")
        .0
        .into_iter()
        .map(|error| error.remedy)
        .collect();
    assert_eq!(
        remedies,
        [
            "rename it to STEADFAST_SERVER__GRPC",
            "did you mean server.grpc?"
        ]
    );
}

#[test]
fn wrong_values_say_what_was_found_and_what_is_allowed() {
    for (section, line, found, allowed) in [
        ("server", "grpc = 7400", "7400", "a text"),
        (
            "server",
            "grpc = \"localhost:7400\"",
            "\"localhost:7400\"",
            "an IP address and a port",
        ),
        ("server", "insecure = \"yes\"", "\"yes\"", "true or false"),
        ("database", "data_dir = \"\"", "\"\"", "a folder"),
        ("database", "max_connections = 1", "1", "2 to 1000"),
        ("database", "max_connections = 4.5", "4.5", "whole number"),
        ("limits", "publish_max_changes = 257", "257", "1 to 256"),
        ("limits", "document_max_depth = 0x41", "65", "1 to 64"),
        (
            "watch",
            "ring_bytes = 99999999999999999999",
            "99999999999999999999",
            "whole number",
        ),
        (
            "watch",
            "ring_bytes = 1979-05-27",
            "1979-05-27",
            "whole number",
        ),
        (
            "telemetry",
            "log_format = \"xml\"",
            "\"xml\"",
            "auto, human or json",
        ),
        (
            "telemetry",
            "log_level = \"inof\"",
            "\"inof\"",
            "error, warn, info",
        ),
        (
            "telemetry",
            "log_level = \"info,=debug\"",
            "\"info,=debug\"",
            "error, warn, info",
        ),
        (
            "telemetry",
            "otlp_endpoint = \"127.0.0.1:4317\"",
            "\"127.0.0.1:4317\"",
            "http://",
        ),
        ("telemetry", "otlp_sample_ratio = 1.5", "1.5", "0.0 to 1.0"),
        (
            "catalog",
            "refresh_schedule = \"0 3 * *\"",
            "\"0 3 * *\"",
            "five cron fields",
        ),
        (
            "catalog",
            "refresh_schedule = \"0 0 3 * * *\"",
            "\"0 0 3 * * *\"",
            "five cron fields",
        ),
        (
            "catalog",
            "refresh_schedule = \"0 3 30 2 *\"",
            "\"0 3 30 2 *\"",
            "comes due",
        ),
        (
            "catalog",
            "refresh_time_zone = \"Europe/Viena\"",
            "\"Europe/Viena\"",
            "IANA",
        ),
        (
            "catalog",
            "source = 1",
            "a whole number",
            "a list of tables",
        ),
    ] {
        let error = error(&format!("[{section}]\n{line}\n"));
        assert_eq!(error.found, found, "{line}");
        assert!(error.allowed.contains(allowed), "{line}: {}", error.allowed);
        assert!(!error.remedy.is_empty(), "{line}");
        assert!(
            matches!(error.origin, Origin::File { line: 2, .. }),
            "{line}: {:?}",
            error.origin
        );
    }
    assert_eq!(error("server = 1\n").path, "server");
}

#[test]
fn a_nearly_right_zone_is_suggested() {
    let error = error("[catalog]\nrefresh_time_zone = \"Europe/Viena\"\n");
    assert_eq!(error.remedy, "did you mean Europe/Vienna?");
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
fn other_addresses_than_loopback_need_a_word() {
    for address in ["0.0.0.0:7400", "[::]:7400", "10.1.2.3:7400"] {
        let file = format!("[server]\ngrpc = \"{address}\"\n");
        let error = error(&file);
        assert_eq!(error.path, "server.grpc");
        assert!(error.remedy.contains("--insecure"), "{}", error.remedy);
        assert!(load(&file, &[], &[("server.insecure", "true")]).is_ok());
    }
    assert!(load("[server]\ngrpc = \"[::1]:7400\"\n", &[], &[]).is_ok());
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    let same = "[server]\ngrpc = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:1\"\n";
    assert_eq!(error(same).path, "server.http");
    let any = "[server]\ngrpc = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n";
    assert!(load(any, &[], &[]).is_ok());
    let small = "[limits]\nmax_message_bytes = 65536\n";
    assert_eq!(error(small).path, "limits.document_max_bytes");
}

#[test]
fn only_postgresql_has_an_address() {
    let url = |url: &str| format!("[database]\nurl = \"{url}\"\n");
    assert!(load(&url("postgresql://h/db"), &[], &[]).is_ok());
    assert!(
        error(&url("sqlite://x.db"))
            .remedy
            .contains("database.data_dir")
    );
    assert!(
        error(&url("mysql://u:hunter2@h/db"))
            .remedy
            .contains("postgres://")
    );
}

#[test]
fn secrets_are_never_shown() {
    let secret = "hunter2";
    let file = format!("[database]\nurl = \"postgres://u:{secret}@h/db?password={secret}\"\n");
    let config = load(&file, &[], &[]).expect("valid");
    assert!(config.database.url.expose().contains(secret));
    assert!(!config.print().contains(secret), "{}", config.print());
    assert!(!format!("{:?}", config.database).contains(secret));

    for file in [
        format!("[database]\nurl = \"mysql://u:{secret}@h/db\"\n"),
        format!("[database]\nurl = \"{secret}\"\n"),
        format!("[database]\nurl = [\"{secret}\"]\n"),
        format!("[database]\nurl = postgres://u:{secret}@h/db\n"),
        format!("[database]\nurl = \"postgres://u:{secret}@h/db\n"),
        SOURCE.to_owned() + &format!("registry = \"https://u:{secret}@h/\"\n"),
        SOURCE.to_owned() + &format!("registry = \"{secret}\"\n"),
    ] {
        let errors = load(&file, &[], &[]).expect_err("wrong");
        assert!(!errors.to_string().contains(secret), "{errors}");
    }
}

#[test]
fn every_line_that_is_no_toml_is_named() {
    let errors = errors(
        "[server]\ngrpc = 127.0.0.1:7400\ninsecure = true\nhttp = = 1\n[lease]\nduration_ms = 1\n",
    );
    let lines: Vec<_> = errors
        .iter()
        .map(|error| match &error.origin {
            Origin::File { line, .. } => (error.path.as_str(), *line),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(
        lines,
        [("syntax", 2), ("syntax", 4), ("lease.duration_ms", 6)]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let options = LoadOptions {
        file: Some("/nowhere/steadfast.toml".into()),
        ..LoadOptions::default()
    };
    let errors = Config::load(options).expect_err("there is no such file");
    assert!(errors.to_string().contains("/nowhere/steadfast.toml"));
    assert!(errors.to_string().contains("steadfast init"));
}

#[test]
fn sources_are_checked_as_strictly() {
    for (block, path, part) in [
        ("", "catalog.source[0].name", "write for example"),
        ("name = \"a b\"\n", "catalog.source[0].name", "letters"),
        (
            "name = \"a\"\ntype = \"git\"\n",
            "catalog.source[0].type",
            "npm",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = []\n",
            "catalog.source[0].names",
            "1 to 10000",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = \"b\"\n",
            "catalog.source[0].names",
            "list",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = [\"b\", \"b\"]\n",
            "catalog.source[0].names[1]",
            "once",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = [\"B c\"]\n",
            "catalog.source[0].names[0]",
            "position",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = [1]\n",
            "catalog.source[0].names[0]",
            "package name",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = [\"b\"]\nregistry = \"h\"\n",
            "catalog.source[0].registry",
            "http",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = [\"b\"]\nnmae = 1\n",
            "catalog.source[0].nmae",
            "did you mean name?",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = [\"b\"]\norganization = \"openfn\"\n",
            "catalog.source[0].organization",
            "this version cannot do yet",
        ),
    ] {
        let errors = errors(&format!("[[catalog.source]]\n{block}"));
        let error = errors
            .iter()
            .find(|error| error.path == path)
            .unwrap_or_else(|| panic!("{block}: {errors:?}"));
        assert!(error.to_string().contains(part), "{error}");
    }
    let twice = format!("{SOURCE}{SOURCE}");
    let paths: Vec<_> = errors(&twice).into_iter().map(|error| error.path).collect();
    assert_eq!(
        paths,
        [
            "catalog.source[1].name",
            "catalog.source[1].names[0]",
            "catalog.source[1].names[1]"
        ]
    );
    let single = errors("[catalog.source]\nname = \"a\"\n");
    assert!(single[0].remedy.contains("double brackets"), "{single:?}");
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

#[test]
fn every_mistake_of_comparators_is_told() {
    let of = |from: &str, to: &str| {
        let error = error(&COMPARATOR.replace(from, to));
        (error.path.replace("drift.comparator[0].", ""), error.remedy)
    };
    let told = |(path, remedy): (String, String), expected: (&str, &str)| {
        assert_eq!(path, expected.0);
        assert!(remedy.contains(expected.1), "{path}: {remedy}");
    };
    told(of("ordered", "orderd"), ("kind", "ordered"));
    told(of("ordered", "keyed_list"), ("key", "key = "));
    told(
        of("ordered\"", "ordered\"\nkey = \"a\""),
        ("key", "remove it"),
    );
    told(of("ordered", "secret"), ("kind", "drift.hash_key"));
    told(of("/tags", "tags"), ("path", "correct"));
    told(of("\"do\"", "\"d/o\""), ("provider", "`/`"));
    told(of("\"droplet\"", "7"), ("type", "correct"));
    told(of("path = ", "paths = \"/x\"\npath = "), ("paths", "path"));
    let twice = error(&format!("{COMPARATOR}{COMPARATOR}"));
    assert_eq!(twice.path, "drift.comparator[1].path");
    assert!(
        matches!(twice.origin, Origin::File { line: 6, .. }),
        "{twice:?}"
    );
    let several = errors(&format!(
        "[drift]\nunmanaged = [\"do\"]\nhash_key = \"lower\"\n{COMPARATOR}{COMPARATOR}"
    ));
    assert_eq!(several.len(), 3, "{several:?}");
}
