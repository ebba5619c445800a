//! The dependency arrows of the workspace.

use std::process::Command;

use serde_json::Value;

/// Each crate and the crates of the workspace that it may depend on. Short names: `steadfast-` is left out.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("types", &[]),
    ("store", &["types"]),
    ("upstream", &["types"]),
    ("client", &["api", "types"]),
    ("watch", &["store", "types", "api"]),
    ("saga", &["store", "types"]),
    ("drift", &["store", "saga", "types"]),
    ("sync", &["store", "watch", "saga", "upstream", "types"]),
    ("catalog", &["store", "watch", "upstream", "types", "api"]),
    (
        "server",
        &[
            "catalog", "watch", "saga", "drift", "sync", "store", "upstream", "client", "types",
            "api",
        ],
    ),
    ("cli", &["server", "client"]),
    // For tests and measurements only.
    ("testkit", &["client", "types"]),
    ("bench", &["api", "client", "store", "testkit", "types"]),
];

/// What tests of a crate may use besides: the test kit, and from the root's tests the client and its values.
const TEST_ARROWS: &[&str] = &["testkit", "client", "types"];

/// Dependencies that only some crates may name, by the beginning of the name.
const GUARDED: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("reqwest", &["upstream"]),
    ("tonic", &["api", "server", "client", "testkit", "bench"]),
];

/// One dependency that a package declares.
#[derive(Debug, Clone)]
struct Arrow {
    from: String,
    to: String,
    /// Declared for tests only.
    test: bool,
}

fn violations(arrows: &[Arrow]) -> Vec<String> {
    let mut found = Vec::new();
    for Arrow { from, to, test } in arrows {
        let Some(from) = from.strip_prefix("steadfast-") else {
            found.push(format!("{from} is not named steadfast-…"));
            continue;
        };
        if let Some(to) = to.strip_prefix("steadfast-") {
            let allowed = ARROWS
                .iter()
                .find(|(name, _)| *name == from)
                .map(|(_, allowed)| *allowed);
            match allowed {
                None => found.push(format!(
                    "{from} has no arrows yet: add it here and to ARCHITECTURE.md"
                )),
                Some(allowed) if allowed.contains(&to) || (*test && TEST_ARROWS.contains(&to)) => {}
                Some(_) => found.push(format!("{from} must not depend on {to}")),
            }
        }
        for (guarded, owners) in GUARDED {
            if to.starts_with(guarded) && !owners.contains(&from) {
                found.push(format!("{from} names {to}, which only {owners:?} may"));
            }
        }
    }
    found
}

fn workspace() -> Vec<Arrow> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(super::root())
        .output()
        .expect("cargo runs these tests, so it can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().expect("names are text").to_owned();
    let mut arrows = Vec::new();
    for package in metadata["packages"]
        .as_array()
        .expect("a workspace has packages")
    {
        for dependency in package["dependencies"]
            .as_array()
            .expect("a package has dependencies")
        {
            arrows.push(Arrow {
                from: text(&package["name"]),
                to: text(&dependency["name"]),
                test: dependency["kind"] == "dev",
            });
        }
    }
    arrows
}

#[test]
fn dependencies_point_where_the_design_says() {
    let arrows = workspace();
    assert!(
        arrows.len() > 50,
        "cargo metadata lists what was expected: {arrows:?}"
    );
    let found = violations(&arrows);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_wrong_arrow_is_found() {
    let arrow = |from: &str, to: &str, test| Arrow {
        from: from.to_owned(),
        to: to.to_owned(),
        test,
    };
    for wrong in [
        arrow("steadfast-store", "steadfast-watch", false),
        arrow("steadfast-types", "steadfast-testkit", false),
        arrow("steadfast-store", "steadfast-server", true),
        arrow("steadfast-catalog", "sqlx", false),
        arrow("steadfast-server", "reqwest", true),
        arrow("steadfast-watch", "tonic-types", false),
        arrow("steadfast-novelty", "steadfast-types", false),
        arrow("other", "serde", false),
    ] {
        assert_eq!(
            violations(std::slice::from_ref(&wrong)).len(),
            1,
            "{wrong:?}"
        );
    }
    assert!(violations(&[arrow("steadfast-store", "steadfast-testkit", true)]).is_empty());
}
