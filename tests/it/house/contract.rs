//! What every RPC must say of itself.

use prost::Message;
use prost_reflect::{DescriptorPool, Value};

const ROLE: &str = "steadfast.common.v1.required_role";

/// RPCs of ours that do not state which role their caller needs.
fn without_role(descriptor_set: &[u8]) -> (usize, Vec<String>) {
    let pool = DescriptorPool::decode(descriptor_set).expect("the build wrote a descriptor set");
    let role = pool
        .get_extension_by_name(ROLE)
        .expect("the contract declares the option");
    let mut count = 0;
    let mut found = Vec::new();
    for service in pool
        .services()
        .filter(|service| service.full_name().starts_with("steadfast."))
    {
        for method in service.methods() {
            count += 1;
            let options = method.options();
            let stated = options.has_extension(&role)
                && matches!(options.get_extension(&role).as_ref(), Value::EnumNumber(number) if *number > 0);
            if !stated {
                found.push(method.full_name().to_owned());
            }
        }
    }
    (count, found)
}

#[test]
fn every_rpc_states_its_role() {
    let (count, found) = without_role(steadfast_api::FILE_DESCRIPTOR_SET);
    assert!(count > 10, "the contract has more than {count} RPCs");
    assert!(
        found.is_empty(),
        "these RPCs lack option ({ROLE}): {found:?}"
    );
}

#[test]
fn an_rpc_without_a_role_is_found() {
    // The plain descriptor types know no custom options, so that one trip through them drops every role.
    let set = prost_types::FileDescriptorSet::decode(steadfast_api::FILE_DESCRIPTOR_SET)
        .expect("the build wrote a descriptor set");
    let (count, found) = without_role(&set.encode_to_vec());
    assert_eq!(found.len(), count);
}

#[test]
fn names_follow_the_house() {
    let pool = DescriptorPool::decode(steadfast_api::FILE_DESCRIPTOR_SET)
        .expect("the build wrote a descriptor set");
    for service in pool
        .services()
        .filter(|service| service.full_name().starts_with("steadfast."))
    {
        assert!(
            service.name().ends_with("Service"),
            "{}",
            service.full_name()
        );
        for method in service.methods() {
            let (input, output) = (method.input(), method.output());
            assert_eq!(input.name(), format!("{}Request", method.name()));
            assert_eq!(output.name(), format!("{}Response", method.name()));
        }
    }
}

#[test]
fn read_state_is_the_last_field_of_an_answer() {
    let pool = DescriptorPool::decode(steadfast_api::FILE_DESCRIPTOR_SET)
        .expect("the build wrote a descriptor set");
    let mut seen = 0;
    for message in pool
        .all_messages()
        .filter(|message| message.full_name().starts_with("steadfast."))
    {
        let is_state = |field: &prost_reflect::FieldDescriptor| matches!(field.kind(), prost_reflect::Kind::Message(kind) if kind.full_name() == "steadfast.common.v1.ReadState");
        let Some(state) = message.fields().find(is_state) else {
            continue;
        };
        seen += 1;
        let last = message.fields().map(|field| field.number()).max();
        assert_eq!(
            Some(state.number()),
            last,
            "{}: cached answers are completed by appending it",
            message.full_name()
        );
    }
    assert!(seen > 3, "lookups carry ReadState");
}
