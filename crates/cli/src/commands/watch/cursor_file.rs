//! The file in which a watch remembers how far it is.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use steadfast_client::Cursor;

use crate::failure::{Exit, Failure};

pub(super) struct CursorFile {
    path: PathBuf,
    /// Written first and then renamed, so that the file is always a whole cursor, old or new.
    draft: PathBuf,
}

// === impl CursorFile ===

impl CursorFile {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut draft = path.clone().into_os_string();
        draft.push(".new");
        Self {
            path,
            draft: draft.into(),
        }
    }

    /// What was written last; `None` if nothing ever was.
    pub(super) fn read(&self) -> Result<Option<Cursor>, Failure> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file(&self.path, &error)),
        };
        text.parse().map(Some).map_err(|error| {
            let path = self.path.display();
            Failure::new(Exit::Error, format!("{path}: {error}"))
                .hint("name another file, or remove this one to begin anew")
        })
    }

    pub(super) fn write(&self, cursor: Cursor) -> Result<(), Failure> {
        self.write_and_rename(cursor)
            .map_err(|error| Failure::file(&self.path, &error))
    }

    fn write_and_rename(&self, cursor: Cursor) -> io::Result<()> {
        let mut draft = File::create(&self.draft)?;
        writeln!(draft, "{cursor}")?;
        // Otherwise a power cut could leave the new name with no content.
        draft.sync_data()?;
        fs::rename(&self.draft, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_kept_and_garbage_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = CursorFile::new(folder.path().join("cursor"));
        assert_eq!(file.read().expect("nothing yet"), None);
        let cursor = "00000000-0000-0000-0000-000000000000:7:00000000000000ff"
            .parse()
            .expect("a cursor");
        file.write(cursor).expect("written");
        assert_eq!(file.read().expect("read"), Some(cursor));
        assert!(!file.draft.exists());
        fs::write(&file.path, "garbage").expect("written");
        let failure = file.read().expect_err("garbage");
        assert!(
            failure.message.contains("STORE_ID:REVISION:MARK"),
            "{}",
            failure.message
        );
        assert!(!failure.hints.is_empty());
    }
}
