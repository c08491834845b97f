//! Short stable hashes for the names of revisions.

use serde::Serialize;

/// Letters that spell no words, and digits that are not mistaken for letters.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

fn fnv32a(data: &[u8], mut hash: u32) -> u32 {
    for byte in data {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(16_777_619);
    }
    hash
}

/// The hash of an object's JSON and of how many times a name made of it was taken.
pub fn of<T: Serialize>(object: &T, collisions: Option<i32>) -> Result<String, serde_json::Error> {
    let mut hash = fnv32a(&serde_json::to_vec(object)?, 2_166_136_261);
    if let Some(collisions) = collisions {
        hash = fnv32a(&collisions.to_le_bytes(), hash);
    }
    Ok(safe(&hash.to_string()))
}

/// The text spelled in the alphabet.
fn safe(text: &str) -> String {
    text.bytes()
        .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_content_and_collisions_only() {
        let hash = |value: &str, collisions| of(&value, collisions).expect("text is JSON");
        assert_eq!(hash("a", None), hash("a", None));
        assert_ne!(hash("a", None), hash("b", None));
        assert_ne!(hash("a", None), hash("a", Some(0)));
        assert_ne!(hash("a", Some(1)), hash("a", Some(0)));
        assert!(hash("a", None).bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
