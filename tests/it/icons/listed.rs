//! Icons on the command line, in pages over gRPC, and in the stream.

use steadfast_client::api::registry::v1::{GetIconRequest, IconShape, ListIconsRequest};

use super::{COMMON, HTTP, PLAIN, filled, hash, png, svg};
use crate::scene::Engine;

#[tokio::test]
async fn icons_are_got_and_listed_on_the_command_line() {
    for engine in Engine::BOTH {
        let scene = filled(engine).await;
        let server = &scene.server;
        let file = server.directory().join("icon.png");
        let name = file.to_str().expect("text");
        let told = server.cli(&["icon", "get", HTTP, "-f", name]).await;
        assert!(told.success().contains("square"), "{told:?}");
        assert_eq!(std::fs::read(&file).expect("is there"), png("http"));
        let rectangle = server
            .cli(&[
                "icon",
                "get",
                HTTP,
                "--shape",
                "rectangle",
                "-o",
                "json",
                "--file",
                name,
            ])
            .await
            .json();
        assert_eq!(rectangle["icon"]["format"], "svg");
        assert_eq!(rectangle["icon"]["media_type"], "image/svg+xml");
        assert_eq!(std::fs::read(&file).expect("is there"), svg("http"));
        let none = server.cli(&["icon", "get", COMMON]).await;
        assert!(none.failure(5).contains("ICON_NOT_FOUND"), "{none:?}");
        let none = server.cli(&["icon", "get", HTTP, "--format", "svg"]).await;
        assert!(none.failure(5).contains("SVG"), "{none:?}");
        let unknown = server.cli(&["icon", "get", "@openfn/language-htp"]).await;
        assert!(unknown.failure(5).contains(HTTP), "{unknown:?}");

        let list = server.cli(&["icon", "list", "-o", "json"]).await.json();
        assert_eq!(list["total_size"], 3);
        let keys: Vec<_> = list["icons"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|icon| format!("{} {} {}", icon["package"], icon["shape"], icon["format"]))
            .map(|text| text.replace('"', ""))
            .collect();
        let expected = [
            format!("{HTTP} square png"),
            format!("{HTTP} rectangle svg"),
            format!("{PLAIN} square png"),
        ];
        assert_eq!(keys, expected);
        let some = server
            .cli(&["icon", "list", "LEFT", "-o", "json"])
            .await
            .json();
        assert_eq!(some["total_size"], 1);
        let none = server.cli(&["icon", "list", "nope"]).await;
        assert!(none.success().contains("icon list"), "{none:?}");

        let connection = scene.connect().await;
        let mut seen = Vec::new();
        let mut token = String::new();
        loop {
            let request = ListIconsRequest {
                page_size: 1,
                page_token: token,
                ..Default::default()
            };
            let page = connection
                .call(connection.icons().list_icons(request))
                .await;
            let page = page.expect("lists");
            assert_eq!(page.total_size, 3);
            seen.extend(page.icons.into_iter().map(|icon| icon.path));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
        let wrong = GetIconRequest {
            package: HTTP.to_owned(),
            shape: 9,
            ..Default::default()
        };
        let refused = connection.call(connection.icons().get_icon(wrong)).await;
        assert_eq!(refused.expect_err("no shape").reason, "INVALID_ARGUMENT");
        let request = GetIconRequest {
            package: PLAIN.to_owned(),
            shape: IconShape::Square.into(),
            if_none_match: hash(&png("left-pad")),
            ..Default::default()
        };
        let unmodified = connection.call(connection.icons().get_icon(request)).await;
        let unmodified = unmodified.expect("answers");
        assert!(unmodified.not_modified && unmodified.data.is_empty());
        assert_eq!(
            unmodified.icon.expect("has one").size,
            png("left-pad").len() as i64
        );
    }
}

#[tokio::test]
async fn a_watcher_sees_icons_come_and_go() {
    let scene = filled(Engine::Sqlite).await;
    let mut watching =
        scene
            .server
            .cli_running(&["watch", "--topic", "icon", "--earliest", "-o", "json"]);
    let line = watching.line_with(&format!("{HTTP}/square.png")).await;
    assert!(line.contains(&hash(&png("http"))), "{line}");
    scene.npm.remove_file("/-icons/left-pad/square.png");
    let _ = scene
        .server
        .cli(&["refresh", "--kind", "icons"])
        .await
        .success();
    let gone = format!("\"key\":\"{PLAIN}/square.png\",\"op\":\"delete\"");
    let _ = watching.line_with(&gone).await;
    watching.kill().await;
}
