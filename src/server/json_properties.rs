//! What holds for every body. In: bytes. Out: nothing, or a panic that says what does not hold. The unit tests call it with
//! what they make up, the fuzz target with what libFuzzer finds.

use std::collections::HashMap;

use super::json::{self, Edit};

/// What is accepted is one JSON object to others too, with the same members; changing nothing changes no byte, and a change
/// changes that member alone.
pub fn hold(body: &[u8]) {
    let Ok(object) = json::object(body) else { return };
    let read: HashMap<String, serde_json::Value> = parse(body);
    let members: Vec<(&str, &[u8])> = object.members().collect();
    assert_eq!(members.len(), read.len(), "a member more or less");
    for (key, value) in &members {
        let value: serde_json::Value = parse(value);
        assert_eq!(read.get(*key), Some(&value), "another value");
    }
    assert!(object.rewrite(&[]) == body, "changing nothing changed something");

    let set = Edit::Set { key: "model", value: b"\"m\"" };
    let first = members.first().map_or("model", |(key, _)| key);
    let changed = object.rewrite(&[set, Edit::Remove { key: first }]);
    let mut expected = read;
    expected.insert("model".to_owned(), "m".into());
    expected.remove(first);
    assert_eq!(parse::<HashMap<String, serde_json::Value>>(&changed), expected, "another change");
    assert!(json::object(&changed).is_ok(), "what was written is not accepted");
}

fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> T {
    match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => panic!("accepted, and no JSON to others: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::hold;

    #[test]
    fn it_holds_for_bodies_with_a_byte_changed_cut_out_or_doubled() {
        let bodies: [&[u8]; 3] = [
            br#" { "model" : "a\u00e9\ud83d\ude00" , "n":[1,-0.5e3,{"b":null}],"":{},"t":true } "#,
            br#"{"messages":[{"role":"user","content":"x \" \\ y"}],"max_tokens":5}"#,
            b"{}",
        ];
        for body in bodies {
            hold(body);
            for at in 0..body.len() {
                hold(&[&body[..at], &body[at + 1..]].concat());
                hold(&[&body[..=at], &body[at..]].concat());
                for byte in b"\"\\{}[],:0e.-u \x00\xff" {
                    let mut changed = body.to_vec();
                    changed[at] = *byte;
                    hold(&changed);
                }
            }
        }
    }
}
