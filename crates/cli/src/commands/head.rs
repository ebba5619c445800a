//! `steadfast head`.

use serde_json::{Value, json};
use steadfast_client::api::watch::v1::{GetHeadRequest, GetHeadResponse};

use crate::{
    commands::Session,
    failure::{Exit, Failure},
    json::cursor_text,
    table,
};

pub(crate) async fn run(session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let call = async { connection.watches().get_head(GetHeadRequest {}).await };
    let answer = connection.call(call).await?;
    session.output.print(|| text(&answer), || value(&answer))?;
    Ok(Exit::Success)
}

fn revision_of(cursor: Option<&steadfast_client::api::common::v1::Cursor>) -> i64 {
    cursor.map_or(0, |cursor| cursor.revision)
}

fn text(answer: &GetHeadResponse) -> String {
    let head = revision_of(answer.head.as_ref());
    let behind = match head - answer.applied_revision {
        ..=0 => String::new(),
        behind => format!(" ({behind} behind)"),
    };
    table::of_fields([
        ("head", head.to_string()),
        ("applied", format!("{}{behind}", answer.applied_revision)),
        (
            "compacted",
            revision_of(answer.compacted.as_ref()).to_string(),
        ),
        ("cursor", cursor_text(answer.head.as_ref())),
    ])
}

fn value(answer: &GetHeadResponse) -> Value {
    json!({
        "head": revision_of(answer.head.as_ref()),
        "cursor": cursor_text(answer.head.as_ref()),
        "compacted": revision_of(answer.compacted.as_ref()),
        "compacted_cursor": cursor_text(answer.compacted.as_ref()),
        "applied_revision": answer.applied_revision,
    })
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::common::v1::Cursor;

    use super::*;

    #[test]
    fn the_cursor_is_shown_as_watch_takes_it() {
        let store_id = "00000000-0000-0000-0000-00000000000a".to_owned();
        let answer = GetHeadResponse {
            head: Some(Cursor {
                store_id,
                revision: 7,
                mark: 255,
            }),
            compacted: None,
            applied_revision: 5,
        };
        let shown = text(&answer);
        assert!(shown.contains("5 (2 behind)"), "{shown}");
        let cursor = "00000000-0000-0000-0000-00000000000a:7:00000000000000ff";
        assert!(shown.contains(cursor), "{shown}");
        assert_eq!(value(&answer)["cursor"], cursor);
    }
}
