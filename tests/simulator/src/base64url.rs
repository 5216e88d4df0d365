//! Base64 in its form for URLs, without padding (RFC 4648, section 5): of this the parts of a JWT are made.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub(crate) fn encode(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8)) & 1);
    let sextet = |number: usize| (0..6).fold(0, |value, offset| value << 1 | bit(number * 6 + offset));
    (0..(bytes.len() * 8).div_ceil(6)).map(|number| char::from(ALPHABET[sextet(number)])).collect()
}

pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == character)?;
        bits = (bits << 6) | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held).to_le_bytes()[0]);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(decode("eyJhIjoiPz8_In0").as_deref(), Some(br#"{"a":"???"}"#.as_slice()));
        assert_eq!(decode(&encode(b"\xff\xfe!")).as_deref(), Some(b"\xff\xfe!".as_slice()));
        assert_eq!(encode(b"a"), "YQ");
        assert_eq!(decode("a+b="), None);
    }
}
