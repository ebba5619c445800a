//! `package list`, page by page.

use steadfast_client::{
    Code, Error,
    api::registry::v1::{ListPackagesRequest, ListPackagesResponse},
};

use crate::scene::{Engine, PRESENT, Scene};

#[tokio::test]
async fn rule_12_a_list_is_for_people_and_can_be_cut_and_searched() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let list = async |arguments: &[&str]| {
        let arguments = [&["package", "list"], arguments].concat();
        scene.server.cli(&arguments).await
    };
    let all = list(&[]).await;
    let text = all.success();
    let head = text.lines().next().expect("a head");
    assert!(head.starts_with("NAME"), "{head}");
    // One of the six has deprecated versions only.
    assert!(text.contains("\n5 packages; checked "), "{text}");
    assert!(!text.contains("language-openmrs"), "{text}");
    let http = text
        .lines()
        .find(|line| line.starts_with("@openfn/language-http"));
    let http = http.expect("a line of its own");
    assert!(http.contains("7.2.0") && http.contains("yes"), "{http}");

    let hidden = list(&["--deprecated"]).await;
    let text = hidden.success();
    assert!(text.contains("6 packages"), "{text}");
    assert!(text.contains("deprecated"), "{text}");
    let few = list(&["--limit", "2"]).await;
    assert!(
        few.success()
            .contains("2 of 5 packages; --limit shows more")
    );
    let found = list(&["HTTP request"]).await;
    assert!(found.success().contains("\n1 package; "), "{found:?}");
    let none = list(&["nonesuch"]).await;
    assert!(none.success().contains("no package contains \"nonesuch\""));
}

#[tokio::test]
async fn rule_12_a_page_token_holds_for_the_same_question_only() {
    let scene = Scene::filled(Engine::Postgres).await;
    let connection = scene.connect().await;
    let page = async |page_size: i32,
                      page_token: &str,
                      query: &str|
           -> Result<ListPackagesResponse, Error> {
        let request = ListPackagesRequest {
            page_size,
            page_token: page_token.to_owned(),
            query: query.to_owned(),
            include_deprecated: true,
            include_unlisted: false,
            min_revision: None,
        };
        connection
            .call(connection.registry().list_packages(request))
            .await
    };
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let answer = page(2, &token, "").await.expect("a page");
        assert_eq!(answer.total_size, 6);
        assert!(answer.packages.len() <= 2);
        names.extend(answer.packages.into_iter().map(|package| package.name));
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, PRESENT, "each once, by name");

    let token = page(2, "", "").await.expect("a page").next_page_token;
    // Pages may change in size on the way.
    let rest = page(1_000, &token, "").await.expect("the rest");
    assert_eq!(
        (rest.packages.len(), rest.next_page_token.as_str()),
        (4, "")
    );
    let mut forged = token.clone();
    forged.insert(1, 'A');
    for (token, query) in [(token.as_str(), "http"), (&forged, ""), ("x", "")] {
        let error = page(2, token, query).await.expect_err("another question");
        assert_eq!(error.reason, "INVALID_PAGE_TOKEN", "{token} {query}");
        assert_eq!(error.field_violations[0].field, "page_token");
    }
    let error = page(-1, "", "").await.expect_err("negative");
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(error.field_violations[0].field, "page_size");
}
