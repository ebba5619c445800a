//! End to end against a third party's npm server, loaded by npm itself with real packages.

use steadfast_testkit::{
    NpmServer, Server,
    foreign::{Verdaccio, python, real_packages},
};

use crate::scene::Scene;

/// Prints the file `package/configuration-schema.json` of a tarball, or nothing.
const SCHEMA_OF: &str = r#"
import sys, tarfile
with tarfile.open(sys.argv[1]) as archive:
    if "package/configuration-schema.json" in archive.getnames():
        sys.stdout.buffer.write(archive.extractfile("package/configuration-schema.json").read())
"#;

#[tokio::test]
async fn real_packages_of_a_real_registry_are_kept_with_their_schemas() {
    let verdaccio = Verdaccio::start().await;
    let packages = real_packages();
    for package in &packages {
        verdaccio.publish(package).await;
    }
    let configuration = format!(
        "[[catalog.source]]\nname = \"real\"\ntype = \"npm\"\nregistry = \"{}\"\n\
         names = [\"@openfn/language-common\", \"@openfn/language-http\", \"@openfn/language-nope\"]\n",
        verdaccio.url()
    );
    let scene = Scene {
        server: Server::builder().configuration(configuration).start().await,
        // Nobody asks it; the real one is beside.
        npm: NpmServer::start().await,
        database: None,
    };
    let refresh = scene.ended_refresh().await;
    assert_eq!(refresh["state"], "partial", "{refresh}");
    assert_eq!(refresh["counts"][0]["failed"], 1, "{refresh}");

    for package in packages {
        let file = package
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        let (short, version) = file
            .trim_start_matches("openfn-")
            .trim_end_matches(".tgz")
            .rsplit_once('-')
            .expect("a name and a version");
        let name = format!("@openfn/{short}");
        let got = scene
            .server
            .cli(&["package", "get", &name, "-o", "json"])
            .await
            .json();
        let found = &got["package"]["versions"][0];
        assert_eq!(found["version"], version, "{name}");
        assert_eq!(got["package"]["dist_tags"]["latest"], version);
        let integrity = found["integrity"].as_str().expect("an integrity");
        assert!(integrity.starts_with("sha512-"), "{integrity}");
        assert!(found["publish_time"].is_string(), "{found}");
        let path = package.to_str().expect("a path that is text");
        let carried = python(SCHEMA_OF, &[path]).await;
        let schema = scene.server.cli(&["schema", "get", &name]).await;
        match carried.success() {
            "" => assert!(schema.failure(5).contains("SCHEMA_NOT_FOUND"), "{name}"),
            carried => assert_eq!(schema.success().trim_end(), carried.trim_end(), "{name}"),
        }
    }
    let schemas = scene.server.cli(&["schema", "list"]).await;
    assert!(
        schemas.success().contains("@openfn/language-http"),
        "{schemas:?}"
    );

    // What it says twice is the same: nothing is read again.
    let head = scene.head().await;
    let again = scene.refresh(3).await;
    assert_eq!(again["refresh"]["counts"][0]["unchanged"], 2, "{again}");
    assert_eq!(scene.head().await, head);
}
