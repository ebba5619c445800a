//! `steadfast saga`: what it prints, in tables and in JSON, and how it exits.

mod definitions;
mod starting;
mod steering;

use std::fs;

use serde_json::Value;

use super::stage::Stage;

const GREETING: &str = r#"
name = "greeting"
version = 1

[[steps]]
name = "greet"
action.builtin = { name = "noop", input = { text = "hello {{ inputs.name }}" } }
undo.builtin = { name = "noop" }
"#;

impl Stage {
    fn file(&self, name: &str, text: &str) {
        fs::write(self.directory().join(name), text).expect("it can be written");
    }

    /// What the command prints, having exited with this code.
    async fn saga(&self, code: i32, arguments: &[&str]) -> String {
        let arguments: Vec<_> = ["saga"].iter().chain(arguments).copied().collect();
        let output = self.server.cli(&arguments).await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        if code == 0 || code > 5 && !output.stdout.is_empty() {
            output.stdout
        } else {
            output.stderr
        }
    }

    /// The same as JSON.
    async fn saga_json(&self, code: i32, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = arguments.iter().chain(&["-o", "json"]).copied().collect();
        let text = self.saga(code, &arguments).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }
}

/// All parts, in this order.
fn assert_tells(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some(at) = rest.find(part) else {
            panic!("{part:?} is missing, or out of order:\n{text}");
        };
        rest = &rest[at + part.len()..];
    }
}
