use proptest::prelude::*;

use super::{DEPTH, ITEMS, NODES, Node, Observer, Place, Skimmer, TEXT};

fn read(text: &str) -> (Node, bool) {
    Skimmer::read(text.as_bytes(), &mut ())
}

/// What serde_json reads, for documents within the bounds.
fn reference(value: &serde_json::Value) -> Node {
    match value {
        serde_json::Value::Null => Node::Null,
        serde_json::Value::Bool(value) => Node::Bool(*value),
        serde_json::Value::Number(number) => Node::Number(number.to_string().into()),
        serde_json::Value::String(text) => Node::String(text.as_str().into()),
        serde_json::Value::Array(items) => Node::Array(items.iter().map(reference).collect()),
        serde_json::Value::Object(members) => {
            Node::Object(members.iter().map(|(name, value)| (name.as_str().into(), reference(value))).collect())
        }
    }
}

#[derive(Default)]
struct Texts(Vec<(String, String)>);
impl Observer for Texts {
    fn begin(&mut self, place: Place<'_>) {
        self.0.push((place.member.into(), String::new()));
    }
    fn piece(&mut self, _: Place<'_>, text: &[u8]) {
        if let Some((_, all)) = self.0.last_mut() {
            all.push_str(&String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn texts_are_seen_with_their_member_and_without_escapes() {
    let mut texts = Texts::default();
    Skimmer::read(r#"{"a": "x\n\"é\ud83d\ude00", "b": ["p", {"c": "q"}], "d": "\ud83dx"}"#.as_bytes(), &mut texts);
    let seen: Vec<_> = texts.0.iter().map(|(member, text)| (member.as_str(), text.as_str())).collect();
    assert_eq!(seen, [("a", "x\n\"é😀"), ("b", "p"), ("c", "q"), ("d", "\u{fffd}x")]);
}

#[test]
fn usage_survives_an_answer_of_any_size() {
    let mut text = String::from(r#"{"id": "r1", "data": ["#);
    for _ in 0..NODES {
        text.push_str(r#"{"embedding": [0.1, 0.2, 0.3]}, {"x": {"y": {"z": 1}}},"#);
    }
    text.push_str(r#"1], "usage": {"prompt_tokens": 7, "details": {"cached": 3}}}"#);
    let (node, is_whole) = read(&text);
    assert!(is_whole);
    assert_eq!(node.path(&["usage", "details", "cached"]).and_then(Node::count), Some(3));
    assert_eq!(node.get("usage").map(|usage| usage.count_of("prompt_tokens")), Some(7));
    assert!(node.get("data").is_some_and(|data| data.items().len() <= ITEMS));
}

#[test]
fn long_strings_and_deep_documents_are_cut() {
    let (node, is_whole) = read(&format!(r#"{{"a": "{}"}}"#, "é".repeat(TEXT)));
    assert!(is_whole && node.get("a").and_then(Node::text).is_some_and(|text| text.len() <= TEXT));
    let depth = 100_000;
    let (_, is_whole) = read(&format!("{}1{}", r#"{"a":["#.repeat(depth), "]}".repeat(depth)));
    assert!(is_whole, "{DEPTH} levels are kept, all are followed");
}

#[test]
fn what_is_cut_short_is_said_and_read_as_far_as_it_came() {
    let (node, is_whole) = read(r#"{"model": "m", "usage": {"input_tokens": 5, "outp"#);
    assert!(!is_whole);
    assert_eq!(node.path(&["usage", "input_tokens"]).and_then(Node::count), Some(5));
    for bad in ["", "{", "nonsense", r#"{"a": tru}"#, "]", r#"{"a"]"#] {
        assert!(!read(bad).1, "{bad}");
    }
}

#[test]
fn items_of_an_array_are_handed_on_however_many_there_are() {
    let mut skimmer = Skimmer::of_items();
    let mut seen = 0;
    skimmer.push(b"[1, ", &mut ());
    for index in 0..NODES {
        skimmer.push(format!(r#"{{"usageMetadata": {{"n": {index}}}}},"#).as_bytes(), &mut ());
        for item in skimmer.items() {
            assert_eq!(item.path(&["usageMetadata", "n"]).and_then(Node::count), Some(index as u64));
            seen += 1;
        }
    }
    skimmer.push(b"2]", &mut ());
    assert!(skimmer.finish().1);
    assert_eq!(seen, NODES);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            prop::collection::btree_map("[a-zé]{0,6}", inner, 0..8)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn agrees_with_serde_json_in_any_chunking(value in json(), size in 1_usize..20, pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("JSON");
        let mut skimmer = Skimmer::default();
        for piece in text.as_bytes().chunks(size) {
            skimmer.push(piece, &mut ());
        }
        let (node, is_whole) = skimmer.finish();
        // A string may end with a replacement character of its own, which the skimmer takes for the end of a cut one.
        prop_assume!(!text.contains('\u{fffd}'));
        prop_assert!(is_whole);
        prop_assert_eq!(node, reference(&value));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\u12dea".to_vec())], 0..200)) {
        Skimmer::read(&bytes, &mut ());
    }
}
