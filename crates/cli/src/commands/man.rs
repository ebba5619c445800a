//! `steadfast man`.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use serde_json::json;

use crate::{
    args::Cli,
    failure::{Exit, Failure},
    output::Output,
};

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder to write `steadfast.1` and the pages of all commands into; made if it is missing
    folder: PathBuf,
}

pub(crate) fn run(args: &ManArgs, output: Output) -> Result<Exit, Failure> {
    std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.folder))
        .map_err(|error| Failure::file(&args.folder, &error))?;
    let folder = args.folder.display();
    output.print(
        || format!("wrote the manual pages; read them with `man {folder}/steadfast.1`"),
        || json!({ "folder": folder.to_string() }),
    )?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = ManArgs {
            folder: folder.path().join("man1"),
        };
        run(&args, Output::new(Format::Json)).expect("the pages are written");
        for page in [
            "steadfast.1",
            "steadfast-serve.1",
            "steadfast-package-resolve.1",
        ] {
            assert!(args.folder.join(page).exists(), "{page}");
        }
    }
}
