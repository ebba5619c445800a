//! Cursors between the wire and the program.

use steadfast_api::common::v1 as api;
use steadfast_types::{Cursor, Mark, Revision};
use tonic::Code;

use crate::Error;

/// The cursor as a message.
#[must_use]
pub fn cursor_to_api(cursor: Cursor) -> api::Cursor {
    api::Cursor {
        store_id: cursor.store_id.to_string(),
        revision: cursor.revision.0,
        mark: cursor.mark.0,
    }
}

/// The cursor of an answer.
///
/// # Errors
/// With the reason `MALFORMED_ANSWER` if it is missing or its store is no UUID.
pub fn cursor_from_api(cursor: Option<api::Cursor>) -> Result<Cursor, Error> {
    cursor
        .and_then(|cursor| {
            Some(Cursor {
                store_id: cursor.store_id.parse().ok()?,
                revision: Revision(cursor.revision),
                mark: Mark(cursor.mark),
            })
        })
        .ok_or_else(|| {
            let message = "the server's answer has no valid cursor";
            Error::local(Code::Internal, "MALFORMED_ANSWER", message)
        })
}

#[cfg(test)]
mod tests {
    use steadfast_types::StoreId;

    use super::*;

    #[test]
    fn cursors_survive_the_wire_and_malformed_ones_are_refused() {
        let cursor = Cursor {
            store_id: StoreId::random(),
            revision: Revision(7),
            mark: Mark::random(),
        };
        let sent = cursor_to_api(cursor);
        assert_eq!(cursor_from_api(Some(sent)).ok(), Some(cursor));
        for cursor in [None, Some(api::Cursor::default())] {
            let error = cursor_from_api(cursor).expect_err("malformed");
            assert_eq!(error.reason, "MALFORMED_ANSWER");
        }
    }
}
