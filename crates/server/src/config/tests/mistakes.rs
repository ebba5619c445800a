//! What is wrong with a configuration is said with its place, what is allowed and what to do, and never with a secret.

use super::*;

pub(super) fn errors(file: &str) -> Vec<ConfigError> {
    load(file, &[], &[]).expect_err("the file is wrong").0
}

/// The one error of a file.
pub(super) fn error(file: &str) -> ConfigError {
    let mut errors = errors(file);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
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
fn a_database_has_a_port_that_there_can_be() {
    let given = |url: &str| load("", &[], &[("database.url", url)]);
    assert!(given("postgres://u@h:65535/db").is_ok());
    for (url, found) in [
        (
            "postgres://u:hunter2@h:65536/db",
            "\"postgres://u:***@h:65536/db\"",
        ),
        (
            "postgres://h/db?port=70000",
            "\"postgres://h/db?port=70000\"",
        ),
        // It may be a password without its host.
        ("postgres://u:70000/db", "\"postgres://***\""),
    ] {
        let errors = given(url).expect_err("there is no such port").0;
        assert_eq!(errors.len(), 1, "{errors:?}");
        let ConfigError {
            path,
            origin,
            allowed,
            remedy,
            ..
        } = &errors[0];
        assert_eq!((path.as_str(), origin), ("database.url", &Origin::Flag));
        assert_eq!(errors[0].found, found);
        assert!(allowed.ends_with("a port from 1 to 65535"), "{allowed}");
        assert!(
            remedy.starts_with("correct the port, or leave it out"),
            "{remedy}"
        );
    }
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
            "name = \"a\"\ntype = \"npm\"\n",
            "catalog.source[0].names",
            "or an organization, or a search",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\norganization = \"a/b\"\n",
            "catalog.source[0].organization",
            "organisation or user",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nsearch = \" \"\n",
            "catalog.source[0].search",
            "1 to 256 bytes",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\nnames = [\"b\"]\ninclude = [\"b\"]\n",
            "catalog.source[0].include",
            "with organization or search",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\norganization = \"o\"\nexclude = [\"a\", \"[b\"]\n",
            "catalog.source[0].exclude[1]",
            "a pattern of names",
        ),
        (
            "name = \"a\"\ntype = \"npm\"\norganization = \"o\"\nschema_url = \"https://{name}/{version}\"\n",
            "catalog.source[0].schema_url",
            "no host",
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
