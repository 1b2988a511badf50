//! TXT data as zone files write it: quoted strings of at most 255 bytes (RFC 1035 §3.3.14, §5.1).

/// Longest string within TXT data.
const STRING_LEN_MAX: usize = 255;

/// ASCII text as quoted strings.
pub(super) fn quote(text: &str) -> String {
    debug_assert!(text.is_ascii(), "a Record's text is ASCII");
    let strings: Vec<String> = text
        .as_bytes()
        .chunks(STRING_LEN_MAX)
        .map(|piece| {
            let escaped: String = piece.iter().map(|byte| escape(*byte)).collect();
            format!("\"{escaped}\"")
        })
        .collect();
    strings.join(" ")
}

/// The text of TXT data: quoted strings joined without a separator, or all of it when it is not quoted, as
/// Cloudflare still shows records from before 2024. `None` when quotes or escapes are broken.
pub(super) fn unquote(content: &str) -> Option<String> {
    if !content.trim_start().starts_with('"') {
        return Some(content.to_owned());
    }
    let mut bytes = Vec::with_capacity(content.len());
    let mut rest = content.bytes();
    let mut inside = false;
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => inside = !inside,
            b'\\' if inside => bytes.push(unescape(&mut rest)?),
            _ if inside => bytes.push(byte),
            b' ' | b'\t' => {}
            _ => return None,
        }
    }
    (!inside).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

fn escape(byte: u8) -> String {
    match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03}"),
    }
}

/// What follows a backslash: three digits of a byte's value, or the character itself.
fn unescape(rest: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = rest.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, rest.next()?, rest.next()?];
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_text_is_split_at_255_bytes() {
        let quoted = quote(&"k".repeat(300));
        assert_eq!(
            quoted,
            format!("\"{}\" \"{}\"", "k".repeat(255), "k".repeat(45))
        );
    }

    #[test]
    fn text_is_read_in_every_form_that_is_in_use() {
        for (content, text) in [
            ("v=spf1 -all", Some("v=spf1 -all")),
            ("\"v=spf1 -all\"", Some("v=spf1 -all")),
            ("\"v=DKIM1; p=AB\" \"CD\"", Some("v=DKIM1; p=ABCD")),
            ("\"a\"\"b\"", Some("ab")),
            (r#""say \"hi\" \\ \097""#, Some("say \"hi\" \\ a")),
            ("\"open", None),
            ("\"a\" b", None),
            (r#""\99"#, None),
            (r#""\999""#, None),
        ] {
            assert_eq!(unquote(content).as_deref(), text, "{content}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_the_same(text in "[\\x00-\\x7f]{1,600}") {
            let quoted = quote(&text);
            prop_assert_eq!(unquote(&quoted), Some(text));
        }

        #[test]
        fn no_content_makes_it_panic(content in "\\PC{0,60}") {
            unquote(&content);
        }
    }
}
