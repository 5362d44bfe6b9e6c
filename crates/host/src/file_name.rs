//! Names of files made from text of others.

/// `text` as a part of a file name: every byte but ASCII letters, digits, `_`, `.` and `-` becomes
/// `_`, as the reference has it.
///
/// The result may still be empty, `.` or `..`, and as long as `text`: callers add a prefix or
/// suffix, and two texts may give one name.
pub fn sanitise(text: &str) -> String {
    // Byte by byte, as the reference sees its arguments.
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' => char::from(byte),
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_the_directory() {
        assert_eq!(sanitise("web-01.example_x"), "web-01.example_x");
        assert_eq!(sanitise("../a/b\0"), ".._a_b_");
        assert_eq!(sanitise("é ~"), "____");
        assert_eq!(sanitise(""), "");
    }
}
