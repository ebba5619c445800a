//! `steadfast init`.

use std::{fs::OpenOptions, io::Write, path::PathBuf};

use clap::Args;
use serde_json::json;
use steadfast_server::config::{DEFAULT_FILE, init_file};

use crate::{
    failure::{Exit, Failure},
    output::Output,
};

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where to write it
    #[arg(default_value = DEFAULT_FILE)]
    file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &InitArgs, output: Output) -> Result<Exit, Failure> {
    let mut options = OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let name = args.file.display();
    options
        .open(&args.file)
        .and_then(|mut file| file.write_all(init_file().as_bytes()))
        .map_err(|error| {
            let failure = Failure::file(&args.file, &error);
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                return failure.hint("--force replaces it");
            }
            failure
        })?;
    let serve = if args.file.as_os_str() == DEFAULT_FILE {
        "steadfast serve".to_owned()
    } else {
        format!("steadfast serve --config {name}")
    };
    output.print(
        || {
            format!(
                "wrote {name}\nnext: name packages in a [[catalog.source]] there, then run `{serve}`"
            )
        },
        || json!({ "file": name.to_string() }),
    )?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    #[test]
    fn a_file_that_is_there_is_kept_unless_told_otherwise() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut args = InitArgs {
            file: folder.path().join("s.toml"),
            force: false,
        };
        let output = Output::new(Format::Json);
        std::fs::write(&args.file, "mine").expect("written");
        let failure = run(&args, output).expect_err("it is there");
        assert_eq!(failure.hints, ["--force replaces it"]);
        assert_eq!(std::fs::read_to_string(&args.file).expect("read"), "mine");
        args.force = true;
        run(&args, output).expect("it is replaced");
        assert_eq!(
            std::fs::read_to_string(&args.file).expect("read"),
            init_file()
        );
    }
}
