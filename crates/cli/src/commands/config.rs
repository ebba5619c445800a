//! `steadfast config`, and the configuration flags that other commands share.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use steadfast_server::config::{Config, ConfigErrors, LoadOptions, SourceKind};

use crate::{
    failure::{Exit, Failure},
    output::Output,
    table::count,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report everything that is wrong with the configuration
    Check(SettingsArgs),
    /// Print the settings in force, and where each came from; passwords are masked
    Print(SettingsArgs),
}

/// Where the database is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DatabaseArgs {
    /// The configuration file; without it, ./steadfast.toml if there is one
    #[arg(long, env = "STEADFAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// PostgreSQL's address, postgres://…; others on this machine can read it, so put a password into STEADFAST_DATABASE__URL
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The folder of the embedded database
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

/// All settings that have flags.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingsArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// The address of the gRPC API, for example 127.0.0.1:7400
    #[arg(long, value_name = "ADDRESS")]
    listen_grpc: Option<String>,
    /// The address of metrics and probes, for example 127.0.0.1:7401
    #[arg(long, value_name = "ADDRESS")]
    listen_http: Option<String>,
    /// Allow other addresses than loopback, although callers are not authenticated
    #[arg(long)]
    insecure: bool,
}

// === impl DatabaseArgs ===

impl DatabaseArgs {
    fn flags(self) -> (Option<PathBuf>, Vec<(String, String)>) {
        let flags = [
            ("database.url", self.database_url),
            ("database.data_dir", self.data_dir),
        ];
        (self.config, given(flags))
    }

    pub(crate) fn load(self) -> Result<Config, ConfigErrors> {
        let (file, flags) = self.flags();
        Config::load(LoadOptions::of_process(file, flags))
    }
}

// === impl SettingsArgs ===

impl SettingsArgs {
    fn flags(self) -> (Option<PathBuf>, Vec<(String, String)>) {
        let (file, mut flags) = self.database.flags();
        flags.extend(given([
            ("server.grpc", self.listen_grpc),
            ("server.http", self.listen_http),
            ("server.insecure", self.insecure.then(|| "true".to_owned())),
        ]));
        (file, flags)
    }

    pub(crate) fn load(self) -> Result<Config, ConfigErrors> {
        let (file, flags) = self.flags();
        Config::load(LoadOptions::of_process(file, flags))
    }
}

fn given<const N: usize>(flags: [(&str, Option<String>); N]) -> Vec<(String, String)> {
    flags
        .into_iter()
        .filter_map(|(path, value)| Some((path.to_owned(), value?)))
        .collect()
}

pub(crate) fn run(command: ConfigCommand, output: Output) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check(args) => check(args, output),
        ConfigCommand::Print(args) => {
            let text = args.load()?.print();
            output.print(|| text.clone(), || settings_json(&text))?;
            Ok(Exit::Success)
        }
    }
}

fn check(args: SettingsArgs, output: Output) -> Result<Exit, Failure> {
    match args.load() {
        Ok(config) => {
            output.print(
                || valid_text(&config),
                || json!({ "valid": true, "errors": [] }),
            )?;
            Ok(Exit::Success)
        }
        Err(errors) if output.is_json() => {
            output.print(String::new, || errors_json(&errors))?;
            Ok(Exit::Usage)
        }
        Err(errors) => Err(errors.into()),
    }
}

fn valid_text(config: &Config) -> String {
    let origin = config
        .file()
        .map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
    let sources = config.catalog.sources.len();
    let names: usize = config
        .catalog
        .sources
        .iter()
        .map(|source| match &source.kind {
            SourceKind::Npm(npm) => npm.names.len(),
        })
        .sum();
    let mut text = format!(
        "the configuration is valid ({origin}): {} with {}",
        count(sources, "source"),
        count(names, "package"),
    );
    if sources == 0 {
        text.push_str(
            "\nnext: name packages in a [[catalog.source]]; `steadfast init` writes an example",
        );
    }
    text
}

fn errors_json(errors: &ConfigErrors) -> Value {
    let errors: Vec<_> = errors
        .0
        .iter()
        .map(|error| {
            json!({
                "path": error.path,
                "origin": error.origin.to_string(),
                "found": error.found,
                "allowed": error.allowed,
                "remedy": error.remedy,
            })
        })
        .collect();
    json!({ "valid": false, "errors": errors })
}

/// What is printed is TOML, which fits into JSON.
fn settings_json(text: &str) -> Value {
    toml::from_str(text).expect("what the configuration prints is TOML, which its tests ensure")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_settings_only_if_given() {
        let args = SettingsArgs {
            database: DatabaseArgs {
                data_dir: Some("/d".to_owned()),
                ..DatabaseArgs::default()
            },
            insecure: true,
            ..SettingsArgs::default()
        };
        let (file, flags) = args.flags();
        assert_eq!(file, None);
        let flags: Vec<_> = flags
            .iter()
            .map(|(path, value)| (path.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            flags,
            [("database.data_dir", "/d"), ("server.insecure", "true")]
        );
    }

    #[test]
    fn settings_and_mistakes_have_a_json_form() {
        let config = Config::load(LoadOptions::default()).expect("the defaults are valid");
        let settings = settings_json(&config.print());
        assert_eq!(settings["server"]["grpc"], "127.0.0.1:7400");
        assert!(valid_text(&config).contains("steadfast init"));

        let options = LoadOptions {
            flags: vec![("server.grpc".to_owned(), "x".to_owned())],
            ..LoadOptions::default()
        };
        let errors = errors_json(&Config::load(options).expect_err("wrong"));
        assert_eq!(errors["errors"][0]["path"], "server.grpc");
        assert_eq!(errors["errors"][0]["origin"], "flag");
    }
}
