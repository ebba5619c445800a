//! A folder shaped like the reference monorepo: 108 adaptor packages, most with a schema of their credentials, each with icons.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How many packages the reference monorepo has.
pub(crate) const PACKAGES: usize = 108;

/// The smallest PNG: one pixel.
const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\
\0\0\0\nIDATx\x9cc\0\x01\0\0\x05\0\x01\r\n-\xb4\0\0\0\0IEND\xaeB`\x82";

/// A monorepo; removed when dropped.
#[derive(Debug)]
pub(crate) struct Monorepo {
    folder: TempDir,
}

// === impl Monorepo ===

impl Monorepo {
    /// One without packages.
    pub(crate) fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("monorepo-").tempdir();
        let folder = folder.expect("a folder");
        fs::create_dir(folder.path().join("packages")).expect("a folder");
        Self { folder }
    }

    /// One with this many packages: `adaptor-000` and so on.
    pub(crate) fn of(packages: usize) -> Self {
        let repo = Self::empty();
        for number in 0..packages {
            repo.generate(&format!("adaptor-{number:03}"), number);
        }
        // What else lies in such a folder, and is no package.
        repo.write("README.md", "adaptors");
        repo.write("packages/README.md", "one folder each");
        repo.write(
            "packages/old/node_modules/x/package.json",
            r#"{"name":"x"}"#,
        );
        repo
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn text(&self) -> &str {
        self.path().to_str().expect("a path that is text")
    }

    /// A block of the configuration that reads these roots.
    pub(crate) fn source(name: &str, roots: &[&Self], rescan_ms: u64) -> String {
        let roots: Vec<_> = roots.iter().map(|root| root.text()).collect();
        format!(
            "[[catalog.source]]\nname = \"{name}\"\ntype = \"local\"\nroots = {}\nrescan_ms = {rescan_ms}\n",
            json!(roots)
        )
    }

    /// One package as the reference monorepo has them. The facts: a label, a licence, a repository with its folder, dependencies
    /// within the workspace; a draft-07 schema under several spellings of its address, every seventh package without one, every ninth
    /// with OAuth2; secrets that are `writeOnly`; icons of two shapes, some of them SVG.
    pub(crate) fn generate(&self, short: &str, number: usize) {
        let mut manifest = manifest(short);
        manifest["version"] = json!(format!("{}.2.0", number % 9));
        manifest["homepage"] = json!("https://docs.example.com/adaptors");
        manifest["license"] = json!("LGPL-3.0");
        manifest["repository"] = json!({
            "type": "git",
            "url": "https://git.example.com/adaptors.git",
            "directory": format!("packages/{short}"),
        });
        manifest["dependencies"] = json!({ "@openfn/language-common": "workspace:*" });
        self.manifest(short, &manifest);
        if number % 7 != 6 {
            let dialect = [
                "http://json-schema.org/draft-07/schema#",
                "https://json-schema.org/draft-07/schema",
                "http://json-schema.org/draft-07/schema",
            ][number % 3];
            let mut schema = schema(short);
            schema["$schema"] = json!(dialect);
            if number.is_multiple_of(9) {
                schema["$comment"] = json!("OAuth2");
            }
            self.schema(short, &schema);
        }
        let extension = if number.is_multiple_of(4) {
            "svg"
        } else {
            "png"
        };
        for shape in ["square", "rectangle"] {
            self.icon(short, &format!("{shape}.{extension}"));
        }
    }

    pub(crate) fn manifest(&self, short: &str, manifest: &Value) {
        self.write(&format!("packages/{short}/package.json"), &pretty(manifest));
    }

    pub(crate) fn schema(&self, short: &str, schema: &Value) {
        let path = format!("packages/{short}/configuration-schema.json");
        self.write(&path, &pretty(schema));
    }

    /// An icon that tells which package it is of.
    pub(crate) fn icon(&self, short: &str, file: &str) {
        let path = self.place(&format!("packages/{short}/assets/{file}"));
        if file.ends_with("svg") {
            let svg = format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1 1\"><title>{short}</title></svg>"
            );
            fs::write(path, svg).expect("written");
        } else {
            fs::write(path, [PNG, short.as_bytes()].concat()).expect("written");
        }
    }

    /// Writes as most editors do: beside it, then renamed over it.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.place(path);
        let beside = path.with_extension("tmp~");
        fs::write(&beside, text).expect("written");
        fs::rename(beside, path).expect("renamed");
    }

    pub(crate) fn remove(&self, short: &str) {
        let folder = self.path().join("packages").join(short);
        fs::remove_dir_all(folder).expect("removed");
    }

    fn place(&self, path: &str) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        path
    }
}

/// The package's name.
pub(crate) fn name(short: &str) -> String {
    format!("@openfn/language-{short}")
}

/// The least that is a package.
pub(crate) fn manifest(short: &str) -> Value {
    json!({
        "name": name(short),
        "label": short,
        "description": format!("{short} adaptor"),
        "version": "1.0.0",
    })
}

/// A schema that tells which package it is of.
pub(crate) fn schema(short: &str) -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": short,
        "type": "object",
        "properties": {
            "baseUrl": { "title": "Base URL", "type": "string", "format": "uri" },
            "username": { "title": "Username", "type": "string" },
            "password": { "title": "Password", "type": "string", "writeOnly": true, "minLength": 1 },
        },
        "required": ["baseUrl", "username", "password"],
        "additionalProperties": true,
    })
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("encodes") + "\n"
}
