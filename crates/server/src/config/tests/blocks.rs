//! What is wrong with the blocks of `[drift]`.

use super::{
    mistakes::{error, errors},
    *,
};

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

const INVENTORY: &str = "[[drift.inventory]]\nname = \"cloud\"\ntype = \"http\"\nprovider = \"acme\"\ntypes = [\"server\"]\n\
    url = \"https://inventory.example/resources\"\ntoken = \"CLOUD_TOKEN\"\nschedule = \"*/30 * * * *\"\n";

#[test]
fn every_mistake_of_inventories_is_told() {
    let config = load(INVENTORY, &[], &[]).expect("valid");
    let [source] = config.drift.inventories.as_slice() else {
        panic!("{:?}", config.drift.inventories);
    };
    assert_eq!((source.name.as_str(), source.types.len()), ("cloud", 1));
    assert!(source.schedule.is_some());
    let again = load(&config.print(), &[], &[]).expect("valid");
    assert_eq!(again.drift, config.drift);
    let of = |from: &str, to: &str, key: &str, told: &str| {
        let error = error(&INVENTORY.replace(from, to));
        assert_eq!(error.path, format!("drift.inventory[0].{key}"));
        let text = format!("{} {}", error.allowed, error.remedy);
        assert!(text.contains(told), "{key}: {text}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    };
    of("name = \"cloud\"\n", "", "name", "name = ");
    of("\"cloud\"", "\"a cloud\"", "name", "letters");
    of("\"http\"", "\"ftp\"", "type", "http");
    of("\"acme\"", "\"ac/me\"", "provider", "`/`");
    of("[\"server\"]", "\"server\"", "types", "list");
    of("[\"server\"]", "[]", "types", "all types");
    of("https://", "ftp://", "url", "http or https");
    of("https://", "https://ann:s3cret@", "url", "token");
    of("CLOUD_TOKEN", "s3cret", "token", "STEADFAST_SECRET_");
    of("*/30 * * * *", "hourly", "schedule", "five cron fields");
    of("*/30 * * * *", "0 0 30 2 *", "schedule", "exists");
    of(
        "schedule = ",
        "time_zone = \"Europe/Viena\"\nschedule = ",
        "time_zone",
        "Europe/Vienna",
    );
    of("token = ", "tokens = \"X\"\ntoken = ", "tokens", "token");
    let twice = error(&format!("{INVENTORY}{INVENTORY}"));
    assert_eq!(twice.path, "drift.inventory[1].name");
}
