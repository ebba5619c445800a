//! Everything that can be asked about a catalogue.

use futures::{StreamExt as _, stream};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use serde_json::json;
use steadfast_client::api::{
    registry::v1::{
        BatchResolvePackagesRequest, GetIconRequest, GetPackageRequest, GetPackageResponse, Icon,
        ListIconsRequest, ListIconsResponse, ListPackagesRequest, ListPackagesResponse, Package,
        ResolvePackageRequest,
    },
    schema::v1::{
        DiffSchemasRequest, GetSchemaRequest, GetSchemaResponse, ListSchemasRequest,
        ListSchemasResponse, ValidateDocumentRequest,
    },
};

use super::wire::{CONCURRENCY, Question, Standing};

const GET_PACKAGE: &str = "/steadfast.registry.v1.RegistryService/GetPackage";
const LIST_PACKAGES: &str = "/steadfast.registry.v1.RegistryService/ListPackages";
const RESOLVE: &str = "/steadfast.registry.v1.RegistryService/ResolvePackage";
const BATCH: &str = "/steadfast.registry.v1.RegistryService/BatchResolvePackages";
const GET_ICON: &str = "/steadfast.registry.v1.IconService/GetIcon";
const LIST_ICONS: &str = "/steadfast.registry.v1.IconService/ListIcons";
const GET_SCHEMA: &str = "/steadfast.schema.v1.SchemaService/GetSchema";
const LIST_SCHEMAS: &str = "/steadfast.schema.v1.SchemaService/ListSchemas";
const VALIDATE: &str = "/steadfast.schema.v1.SchemaService/ValidateDocument";
const DIFF: &str = "/steadfast.schema.v1.SchemaService/DiffSchemas";

/// What was found on the way.
pub(super) struct Found {
    pub(super) packages: Vec<Package>,
    pub(super) icons: Vec<Icon>,
    pub(super) questions: Vec<Question>,
}

/// The paths of all calls of the three services that read, by the contract itself.
pub(super) fn reading_calls() -> Vec<String> {
    let set = steadfast_client::api::FILE_DESCRIPTOR_SET;
    let pool = DescriptorPool::decode(set).expect("the build wrote a descriptor set");
    let mut paths = Vec::new();
    for service in [
        "steadfast.registry.v1.RegistryService",
        "steadfast.registry.v1.IconService",
        "steadfast.schema.v1.SchemaService",
    ] {
        let service = pool.get_service_by_name(service).expect("is there");
        for method in service.methods() {
            if method.name() != "RemovePackage" {
                paths.push(format!("/{}/{}", service.full_name(), method.name()));
            }
        }
    }
    paths
}

/// All questions about what a server has. Of a list, each page is one, under the token that this server gave for it.
pub(super) async fn all(server: &Standing) -> Found {
    let mut found = seen(server).await;
    let packages = &found.packages;
    let questions = &mut found.questions;
    lists(server, questions).await;
    for package in packages {
        about_package(package, questions);
        about_schemas(server, package, questions).await;
        about_differences(package, questions);
        for shape in 0..=2 {
            for format in 0..=2 {
                questions.push(icon_question(&package.name, shape, format, ""));
            }
        }
    }
    for icon in &found.icons {
        let of_same = icon_question(&icon.package, icon.shape, icon.format, &icon.etag);
        questions.push(of_same);
    }
    let specifiers: Vec<String> = packages
        .iter()
        .flat_map(specifiers_of)
        .chain(["@openfn/".to_owned(), "nobody".to_owned()])
        .collect();
    for specifiers in specifiers.chunks(200) {
        let request = BatchResolvePackagesRequest {
            specifiers: specifiers.to_vec(),
            ..Default::default()
        };
        questions.push(Question::new(BATCH, &request));
    }
    mistakes(questions);
    found
}

/// What there is: each package, each version's schema, each icon, and the lists of them.
pub(super) async fn seen(server: &Standing) -> Found {
    let mut questions = Vec::new();
    let mut names = Vec::new();
    let request = |page_token| ListPackagesRequest {
        page_size: 1_000,
        page_token,
        include_deprecated: true,
        include_unlisted: true,
        ..Default::default()
    };
    let take = |page: ListPackagesResponse| {
        names.extend(page.packages.into_iter().map(|package| package.name));
        page.next_page_token
    };
    pages(server, LIST_PACKAGES, request, &mut questions, take).await;
    let request = |page_token| ListSchemasRequest {
        page_size: 1_000,
        page_token,
        ..Default::default()
    };
    let take = |page: ListSchemasResponse| page.next_page_token;
    pages(server, LIST_SCHEMAS, request, &mut questions, take).await;
    let mut icons = Vec::new();
    let request = |page_token| ListIconsRequest {
        page_size: 1_000,
        page_token,
        ..Default::default()
    };
    let take = |page: ListIconsResponse| {
        icons.extend(page.icons);
        page.next_page_token
    };
    pages(server, LIST_ICONS, request, &mut questions, take).await;
    let mut packages = Vec::new();
    for name in names {
        let question = package_question(&name, "");
        let (message, _) = server.ask(&question).await;
        questions.push(question);
        let found = GetPackageResponse::decode(message).expect("a package");
        let found = found.package.expect("has one");
        for version in &found.versions {
            questions.push(schema_question(&name, &version.version, ""));
        }
        packages.push(found);
    }
    for icon in &icons {
        let of_it = icon_question(&icon.package, icon.shape, icon.format, "");
        questions.push(of_it);
    }
    Found {
        packages,
        icons,
        questions,
    }
}

/// Each list with each of its arguments, in pages of several sizes.
async fn lists(server: &Standing, questions: &mut Vec<Question>) {
    let queries = [
        "",
        "adaptor-00",
        "DONNÉES",
        "数据",
        "language",
        "nothing like it",
    ];
    for (include_deprecated, include_unlisted) in
        [(true, true), (false, false), (true, false), (false, true)]
    {
        for (page_size, query) in [(0, ""), (7, "")]
            .into_iter()
            .chain(queries.map(|query| (13, query)))
        {
            let request = |page_token| ListPackagesRequest {
                page_size,
                page_token,
                query: query.to_owned(),
                include_deprecated,
                include_unlisted,
                min_revision: None,
            };
            let token = |page: ListPackagesResponse| page.next_page_token;
            pages(server, LIST_PACKAGES, request, questions, token).await;
        }
    }
    for (page_size, query) in [(0, ""), (9, ""), (5, "adaptor-01"), (5, "nothing")] {
        let request = |page_token| ListSchemasRequest {
            page_size,
            page_token,
            query: query.to_owned(),
            min_revision: None,
        };
        let token = |page: ListSchemasResponse| page.next_page_token;
        pages(server, LIST_SCHEMAS, request, questions, token).await;
        let request = |page_token| ListIconsRequest {
            page_size,
            page_token,
            query: query.to_owned(),
            min_revision: None,
        };
        let token = |page: ListIconsResponse| page.next_page_token;
        pages(server, LIST_ICONS, request, questions, token).await;
    }
}

/// Follows a list from page to page.
async fn pages<M: prost::Message + std::fmt::Debug, A: prost::Message + Default>(
    server: &Standing,
    path: &'static str,
    request: impl Fn(String) -> M,
    questions: &mut Vec<Question>,
    mut next: impl FnMut(A) -> String,
) {
    let mut token = String::new();
    loop {
        let question = Question::new(path, &request(token));
        let (message, _) = server.ask(&question).await;
        questions.push(question);
        token = next(A::decode(message).expect("a list"));
        if token.is_empty() {
            return;
        }
    }
}

fn package_question(name: &str, if_none_match: &str) -> Question {
    let request = GetPackageRequest {
        name: name.to_owned(),
        if_none_match: if_none_match.to_owned(),
        min_revision: None,
    };
    Question::new(GET_PACKAGE, &request)
}

fn schema_question(package: &str, version: &str, if_none_match: &str) -> Question {
    let request = GetSchemaRequest {
        package: package.to_owned(),
        version: version.to_owned(),
        if_none_match: if_none_match.to_owned(),
        min_revision: None,
    };
    Question::new(GET_SCHEMA, &request)
}

fn icon_question(package: &str, shape: i32, format: i32, if_none_match: &str) -> Question {
    let request = GetIconRequest {
        package: package.to_owned(),
        shape,
        format,
        if_none_match: if_none_match.to_owned(),
        min_revision: None,
    };
    Question::new(GET_ICON, &request)
}

fn about_package(package: &Package, questions: &mut Vec<Question>) {
    questions.push(package_question(&package.name, &package.etag));
    questions.push(package_question(&package.name, "another"));
    for specifier in specifiers_of(package) {
        let request = ResolvePackageRequest {
            specifier,
            min_revision: None,
        };
        questions.push(Question::new(RESOLVE, &request));
    }
}

/// Of every kind; some of them name nothing.
fn specifiers_of(package: &Package) -> Vec<String> {
    let name = &package.name;
    let newest = &package.versions[0].version;
    let major = newest.split('.').next().expect("a part");
    let tags = package.dist_tags.keys().cloned();
    let versions = package
        .versions
        .iter()
        .map(|version| version.version.clone());
    let ranges = [
        format!("^{major}"),
        format!("~{major}.1"),
        format!("{major}.x"),
        format!(">={major}.0.0 <{major}.2.0"),
        format!("<{major}.1.0 || ^{major}.0.0-beta"),
        "*".to_owned(),
        "0.0.0 - 4".to_owned(),
        "^9999.0.0".to_owned(),
        "9999.0.0".to_owned(),
        "local".to_owned(),
        "no-such-tag".to_owned(),
        "1.2.3 garbage".to_owned(),
    ];
    tags.chain(versions)
        .chain(ranges)
        .map(|part| format!("{name}@{part}"))
        .chain([name.clone()])
        .collect()
}

/// The schemas of each version and of some that stand for one, and what they say about documents.
async fn about_schemas(server: &Standing, package: &Package, questions: &mut Vec<Question>) {
    let tags = package.dist_tags.keys().cloned();
    let exact = package.versions.iter().map(|one| one.version.clone());
    let versions = tags
        .chain(exact)
        .chain(["", "^0", ">=1 <=9"].map(str::to_owned));
    let good = json!({ "baseUrl": "https://example.com", "username": "u", "password": "secret" });
    let bad = json!({ "baseUrl": "no address", "password": "", "port": "数", "more": [1] });
    let documents = [good.to_string(), bad.to_string(), "{ no JSON".to_owned()];
    // What is no JSON is asked about once.
    let documents_of = |version: &str| &documents[..if version.is_empty() { 3 } else { 2 }];
    let asked = stream::iter(versions).map(|version| async move {
        let question = schema_question(&package.name, &version, "");
        let (message, _) = server.ask(&question).await;
        let found = GetSchemaResponse::decode(message).expect("a schema or nothing");
        let again = schema_question(&package.name, &version, &found.etag);
        (version, [question, again])
    });
    let asked: Vec<_> = asked.buffered(CONCURRENCY).collect().await;
    for (version, about) in asked {
        questions.extend(about);
        for document in documents_of(&version) {
            let request = ValidateDocumentRequest {
                package: package.name.clone(),
                version: version.clone(),
                document_json: document.clone(),
                min_revision: None,
            };
            questions.push(Question::new(VALIDATE, &request));
        }
    }
}

fn about_differences(package: &Package, questions: &mut Vec<Question>) {
    let versions = package.versions.iter().map(|version| &version.version);
    let versions: Vec<&str> = versions.map(String::as_str).take(3).collect();
    let mut pairs = vec![("", ""), ("", "^0"), ("*", "latest"), ("9999.0.0", "")];
    for from in &versions {
        pairs.extend(versions.iter().map(|to| (*from, *to)));
    }
    for (from, to) in pairs {
        let request = DiffSchemasRequest {
            package: package.name.clone(),
            from_version: from.to_owned(),
            to_version: to.to_owned(),
            min_revision: None,
        };
        questions.push(Question::new(DIFF, &request));
    }
}

/// What is refused, and in which words.
fn mistakes(questions: &mut Vec<Question>) {
    for name in [
        "@openfn/language-adaptr-000",
        "adaptor-000",
        "../x",
        "",
        "Ünknown",
    ] {
        questions.push(package_question(name, ""));
        questions.push(schema_question(name, "", ""));
        questions.push(icon_question(name, 1, 1, ""));
        let request = ResolvePackageRequest {
            specifier: name.to_owned(),
            min_revision: None,
        };
        questions.push(Question::new(RESOLVE, &request));
    }
    questions.push(icon_question("left-pad", 9, 9, ""));
    for (page_size, page_token) in [(-1, ""), (1, "no token"), (1, "AAAAAAAAAAAAAAAA")] {
        let request = ListPackagesRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        questions.push(Question::new(LIST_PACKAGES, &request));
        let request = ListIconsRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        questions.push(Question::new(LIST_ICONS, &request));
        let request = ListSchemasRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        questions.push(Question::new(LIST_SCHEMAS, &request));
    }
    questions.push(Question::new(
        BATCH,
        &BatchResolvePackagesRequest::default(),
    ));
}

/// Everything that a browser asks for: each icon at its address, at a stale one and at none; with and without a copy; and the manifest.
pub(super) fn addresses(found: &Found) -> Vec<(&'static str, String, String)> {
    let mut asked = Vec::new();
    for icon in &found.icons {
        let (stem, ext) = icon.path.rsplit_once('.').expect("a name");
        let (stem, _) = stem.rsplit_once('-').expect("a hash");
        let stale = format!("{stem}-00000000.{ext}");
        let bare = format!("{stem}.{ext}");
        let tag = format!("\"{}\"", icon.etag);
        for path in [icon.path.clone(), stale, bare] {
            asked.push(("GET", path.clone(), String::new()));
            asked.push(("HEAD", path.clone(), String::new()));
            asked.push(("GET", path, tag.clone()));
        }
    }
    for package in &found.packages {
        for file in ["square.png", "rectangle.svg"] {
            let path = format!("/icons/{}/{file}", package.name);
            asked.push(("GET", path, String::new()));
        }
    }
    for tag in ["", "\"another\"", "*"] {
        let manifest = || "/icons/manifest.json".to_owned();
        asked.push(("GET", manifest(), tag.to_owned()));
        asked.push(("HEAD", manifest(), tag.to_owned()));
    }
    let unknown = "/icons/nobody/square.png".to_owned();
    asked.push(("GET", unknown, String::new()));
    asked
}
