//! Python's grpcio, by reflection alone.

use serde_json::Value;
use steadfast_testkit::foreign::{python, python_by_reflection};

use crate::scene::{Engine, Scene};

/// Calls the server and prints what came as one JSON object.
const CALLS: &str = r#"
told = {"services": sorted(database.get_services())}
registry, watch = "steadfast.registry.v1.RegistryService", "steadfast.watch.v1.WatchService"
told["package"] = plain(method(registry, "GetPackage")(name="@openfn/language-http"))
told["resolved"] = plain(method(registry, "ResolvePackage")(specifier="@openfn/language-http@^7"))
told["list"] = plain(method(registry, "ListPackages")(pageSize=2))
told["schema"] = plain(method("steadfast.schema.v1.SchemaService", "GetSchema")(package="@openfn/language-http"))
told["valid"] = plain(method("steadfast.schema.v1.SchemaService", "ValidateDocument")(package="@openfn/language-http", documentJson="{}"))
told["info"] = plain(method("steadfast.admin.v1.ServerService", "GetServerInfo")())
try:
    method(registry, "GetPackage")(name="@openfn/language-htp")
except grpc.RpcError as error:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    told["error"] = {"code": error.code().name, "details": details.decode("latin-1")}

head = plain(method(watch, "GetHead")())["head"]
stream = method(watch, "Watch")(start={"after": head}, filters=[{"topic": "app/*"}])
opened = plain(next(stream))
told["published"] = plain(method(watch, "Publish")(changes=[{"topic": "app/orders", "key": "4711", "op": "OP_UPSERT"}]))
told["events"] = [opened, plain(next(stream))]
stream.cancel()
print(json.dumps(told))
"#;

#[tokio::test]
async fn everything_can_be_called_by_reflection_alone() {
    for engine in Engine::BOTH {
        let scene = Scene::filled(engine).await;
        let output = python_by_reflection(CALLS, scene.server.grpc_address()).await;
        let told: Value = output.json();
        let services = told["services"].as_array().expect("a list");
        assert!(
            services
                .iter()
                .any(|name| name == "steadfast.watch.v1.WatchService")
        );
        let versions = told["package"]["package"]["versions"].as_array();
        assert_eq!(versions.map(Vec::len), Some(7), "{told}");
        assert_eq!(
            told["resolved"]["resolution"]["version"]["version"],
            "7.2.0"
        );
        assert_eq!(told["resolved"]["resolution"]["match"], "MATCH_KIND_RANGE");
        assert_eq!(told["list"]["packages"].as_array().map(Vec::len), Some(2));
        assert!(told["list"]["nextPageToken"].is_string());
        assert!(told["schema"]["schemaJson"].is_string());
        assert_eq!(
            told["valid"]["violations"].as_array().map(Vec::len),
            Some(2)
        );
        let expected = match engine {
            Engine::Sqlite => "sqlite",
            Engine::Postgres => "postgres",
        };
        assert_eq!(told["info"]["engine"], expected);
        assert_eq!(told["error"]["code"], "NOT_FOUND");
        let details = told["error"]["details"].as_str().expect("details");
        assert!(details.contains("PACKAGE_NOT_FOUND") && details.contains("nearest"));
        let (opened, batch) = (&told["events"][0]["opened"], &told["events"][1]["batch"]);
        assert!(opened["head"].is_object(), "{told}");
        assert_eq!(batch["changes"][0]["key"], "4711");
        assert_eq!(batch["cursor"], told["published"]["cursor"]);
    }
}

/// Asks both versions of the reflection service, whose messages are alike, for what they know.
const REFLECTION: &str = r#"
import sys, grpc
from grpc_reflection.v1alpha import reflection_pb2 as messages

channel = grpc.insecure_channel(sys.argv[1])
for version in ["v1", "v1alpha"]:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=messages.ServerReflectionRequest.SerializeToString,
        response_deserializer=messages.ServerReflectionResponse.FromString,
    )
    ask = [
        messages.ServerReflectionRequest(list_services=""),
        messages.ServerReflectionRequest(file_containing_symbol="steadfast.watch.v1.WatchService"),
        messages.ServerReflectionRequest(file_containing_symbol="steadfast.nope"),
    ]
    services, file, missing = list(call(iter(ask[:2]), timeout=20)) + [None]
    try:
        missing = list(call(iter(ask[2:]), timeout=20))[0].error_response.error_code
    except grpc.RpcError as error:
        missing = error.code().value[0]
    names = [service.name for service in services.list_services_response.service]
    found = len(file.file_descriptor_response.file_descriptor_proto) > 0
    print(version, len(names) >= 8, found, missing)
"#;

#[tokio::test]
async fn reflection_speaks_both_of_its_versions() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let output = python(REFLECTION, &[scene.server.grpc_address()]).await;
    assert_eq!(output.success(), "v1 True True 5\nv1alpha True True 5\n");
}
