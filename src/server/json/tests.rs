//! Tests of the validating pass: what is refused and where, what `rewrite` leaves alone, and agreement with serde_json.

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::*;

fn refused(body: &[u8]) -> String {
    object(body).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    for (body, expected) in [
        (r#"{"a":1,"a":2}"#, "duplicate key at byte 7"),
        (r#"{"a":1,"\u0061":2}"#, "duplicate key at byte 7"),
        (r#"{"x":{"a":1,"b":{},"a":2}}"#, "duplicate key at byte 19"),
        (r#"{"x":[{"a":1},{"a":1,"a":1}]}"#, "duplicate key at byte 21"),
        (r#"{"":1,"":2}"#, "duplicate key at byte 6"),
        (r#"{"a":"\ud800"}"#, "lone surrogate in an escape at byte 6"),
        (r#"{"a":"\udc00"}"#, "lone surrogate in an escape at byte 6"),
        (r#"{"a":"\ud800\ud800"}"#, "lone surrogate in an escape at byte 6"),
        (r#"{"a":"\ud800x"}"#, "lone surrogate in an escape at byte 6"),
        (r#"{"\udfff":1}"#, "lone surrogate in an escape at byte 2"),
        (r#"{"a":1e999}"#, "number out of range at byte 5"),
        (r#"{"a":-1e999}"#, "number out of range at byte 5"),
        (r#"{"a":NaN}"#, "expected a value at byte 5"),
        (r#"{"a":Infinity}"#, "expected a value at byte 5"),
        (r#"{"a":-Infinity}"#, "invalid number at byte 5"),
        ("\u{FEFF}{}", "a byte order mark is not allowed at byte 0"),
    ] {
        assert_eq!(refused(body.as_bytes()), expected, "{body}");
    }
}

#[test]
fn the_grammar_is_strict() {
    for body in [
        "",
        " ",
        "[]",
        "1",
        "null",
        "\"a\"",
        "{",
        "}",
        "{}}",
        "{}{}",
        "{} x",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{\"a\":[1}",
        "{\"a\":{\"b\":1]}",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":0x1}",
        "{\"a\":-01}",
        "{\"a\":1_0}",
        "{\"a\":tru}",
        "{\"a\":True}",
        "{\"a\":nulll}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\u12G4\"}",
        "{\"a\":\"\\u+123\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\0\"}",
        "{\"a\":\"",
        "{\"a\":\"\\",
        "{\"a\":1}\0",
        "{\"a\":1}//",
        "/**/{}",
        "{\u{A0}}",
        "{\"a\":[}",
        "{\"a\":\"\\ud83d\\u12\"}",
    ] {
        assert!(object(body.as_bytes()).is_err(), "{body:?}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_their_place() {
    for (body, offset) in [
        (&b"{\"a\":\"\xFF\"}"[..], 6),
        (b"{\"a\":\"\xC0\xAF\"}", 6),
        (b"{\"a\":\"\xED\xA0\x80\"}", 6),
        (b"\xFE\xFF{}", 0),
    ] {
        assert_eq!(object(body).unwrap_err(), JsonError { offset, problem: "invalid UTF-8" });
    }
}

#[test]
fn strange_but_valid_bodies_are_accepted() {
    for body in [
        "{}",
        " \t\r\n{ } \n",
        r#"{"a":123456789012345678901}"#,
        r#"{"a":[-0,0.0,1E5,1e-5,-1.5e+3,1e308,1e-999]}"#,
        r#"{"a":"\u0000\ud83e\udd80\/\b\f\n\r\t\"\\"}"#,
        r#"{"a":{"a":{"a":[{"a":1},{"a":2}]}},"A":1,"a ":2}"#,
        r#"{"":{"":""}}"#,
        "{\"a\":\"\u{7F}\u{FFFF}\u{2028}\"}",
    ] {
        object(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
    }
    let digits = format!("{{\"a\":{}}}", "9".repeat(300));
    assert!(object(digits.as_bytes()).is_ok());
    assert!(object(digits.replacen('9', "999999999999", 1).as_bytes()).is_err());
}

#[test]
fn depth_is_bounded_without_recursion() {
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    assert!(object(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert!(refused(nested(MAX_DEPTH + 1).as_bytes()).starts_with("nested deeper than 128 levels"));
    assert!(refused("{\"a\":".repeat(100_000).as_bytes()).starts_with("nested deeper"));
    assert!(refused(nested(100_000).as_bytes()).starts_with("nested deeper"));
}

#[test]
fn a_refusal_never_quotes_the_body() {
    for body in [r#"{"secret":1,"secret":2}"#, r#"{"a":secret}"#, r#"{"a":"secret"#, "secret"] {
        assert!(!refused(body.as_bytes()).contains("secret"), "{body}");
    }
}

#[test]
fn members_are_raw_slices_in_order() {
    let body = br#" { "b" : 1.50 , "\u0061":[ 1, {"x":null} ],"c":null } "#;
    let object = object(body).unwrap();
    let members: Vec<(&str, &[u8])> = object.members().collect();
    assert_eq!(members, [("b", &b"1.50"[..]), ("a", br#"[ 1, {"x":null} ]"#), ("c", b"null")]);
    assert_eq!(object.get("a"), Some(&br#"[ 1, {"x":null} ]"#[..]));
    assert_eq!(object.get("d"), None);
    assert_eq!(object.non_null("c"), None);
    assert_eq!(object.parse::<f64>("b"), Some(Ok(1.5)));
    assert_eq!(object.parse::<bool>("b"), Some(Err(WrongType)));
    assert_eq!(object.parse::<bool>("d"), None);
}

#[test]
fn rewriting_changes_the_named_members_and_no_other_byte() {
    let set = |key, value: &'static str| Edit::Set { key, value: value.as_bytes() };
    let remove = |key| Edit::Remove { key };
    for (body, edits, expected) in [
        (r#"{"a":1}"#, vec![], r#"{"a":1}"#),
        (
            " { \"a\" :\t1.0 ,\n \"b\": 12345678901234567890 }\n",
            vec![set("a", "2")],
            " { \"a\" :\t2 ,\n \"b\": 12345678901234567890 }\n",
        ),
        (r#"{"z":1,"a":2}"#, vec![set("m", "3")], r#"{"z":1,"a":2,"m":3}"#),
        ("{\n  \"a\": 1\n}", vec![set("b", "2"), set("c", "3")], "{\n  \"a\": 1,\"b\":2,\"c\":3\n}"),
        ("{ }", vec![set("a", "1")], "{\"a\":1 }"),
        ("{}", vec![set("a\"\n", "1")], r#"{"a\"\n":1}"#),
        (r#"{"a":1, "b":2, "c":3}"#, vec![remove("a")], r#"{ "b":2, "c":3}"#),
        (r#"{"a":1, "b":2, "c":3}"#, vec![remove("b")], r#"{"a":1, "c":3}"#),
        (r#"{"a":1, "b":2, "c":3 }"#, vec![remove("c")], r#"{"a":1, "b":2}"#),
        (r#"{"a":1, "b":2 }"#, vec![remove("a"), remove("b")], "{}"),
        (r#"{"a":1, "b":2 }"#, vec![remove("a"), remove("b"), set("c", "3")], r#"{"c":3}"#),
        (r#"{"a":1}"#, vec![remove("x")], r#"{"a":1}"#),
        (r#"{"\u0061":1}"#, vec![set("a", "2")], r#"{"\u0061":2}"#),
        (r#"{"a":1}"#, vec![set("a", "2"), set("a", "3")], r#"{"a":3}"#),
        (r#"{"a":1}"#, vec![set("b", "2"), set("b", "3")], r#"{"a":1,"b":3}"#),
        (r#"{"a":1}"#, vec![set("b", "2"), remove("b"), remove("a"), set("a", "4")], r#"{"a":4}"#),
    ] {
        let rewritten = object(body.as_bytes()).unwrap().rewrite(&edits);
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected, "{body} {edits:?}");
    }
}

/// JSON text that is valid most of the time.
fn generate(random: &mut StdRng, depth: usize, out: &mut String) {
    const LEAVES: [&str; 22] = [
        "1",
        "-0",
        "1.5e3",
        "12345678901234567890123",
        "true",
        "false",
        "null",
        "\"\"",
        "\"é\"",
        "\"\\n\"",
        "\"\\ud83e\\udd80\"",
        "\"\\ud83e\"",
        "NaN",
        "01",
        "1.",
        "1e999",
        "'a'",
        "\"\\q\"",
        "\"\t\"",
        "-",
        "",
        "\"a",
    ];
    // The second half of the leaves is wrong: seldom taken.
    let leaves = if random.random_ratio(1, 60) { 22 } else { 11 };
    match random.random_range(0..if depth > 5 { 4 } else { 8 }) {
        0..4 => out.push_str(LEAVES[random.random_range(0..leaves)]),
        4 | 5 => {
            out.push('[');
            for position in 0..random.random_range(0..4) {
                out.push_str(if position > 0 { ", " } else { "" });
                generate(random, depth + 1, out);
            }
            out.push(']');
        }
        _ => generate_object(random, depth, out),
    }
}

fn generate_object(random: &mut StdRng, depth: usize, out: &mut String) {
    out.push_str(["{", "{ ", "\n{\t"].choose(random).unwrap());
    for position in 0..random.random_range(0..5) {
        out.push_str(if position > 0 { "," } else { "" });
        let key =
            if random.random_ratio(1, 40) { "same".to_owned() } else { format!("k{position}\\u0031é") };
        out.push_str(&["\"", &key, "\" : "].concat());
        generate(random, depth + 1, out);
    }
    out.push_str(if random.random_ratio(1, 80) { "]" } else { "}" });
}

#[test]
fn what_is_accepted_serde_json_accepts_and_reads_the_same() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..20_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut body = String::new();
        generate_object(&mut random, 0, &mut body);
        if random.random_ratio(1, 10) {
            // A cut or a changed byte.
            let mut bytes = body.into_bytes();
            let at = random.random_range(0..bytes.len());
            if random.random() {
                bytes.truncate(at);
            } else {
                bytes[at] = random.random_range(0..128);
            }
            body = String::from_utf8_lossy(&bytes).into_owned();
        }
        let Ok(object) = object(body.as_bytes()) else {
            refused += 1;
            continue;
        };
        accepted += 1;
        let whole: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{body}: {error}"));
        let members: serde_json::Map<String, Value> = object
            .members()
            .map(|(key, value)| (key.to_owned(), serde_json::from_slice(value).unwrap()))
            .collect();
        assert_eq!(whole, Value::Object(members), "{body}");
        assert_eq!(object.rewrite(&[]), body.as_bytes());

        let edits = [Edit::Set { key: "model", value: b"\"m\"" }, Edit::Remove { key: "same" }];
        let rewritten = object.rewrite(&edits);
        let mut expected = whole;
        expected["model"] = "m".into();
        expected.as_object_mut().unwrap().remove("same");
        assert_eq!(serde_json::from_slice::<Value>(&rewritten).unwrap(), expected, "{body}");
    }
    assert!(accepted > 2000 && refused > 2000, "the corpus is one-sided: {accepted} to {refused}");
}
