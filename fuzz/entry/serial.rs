//! Serials as peers send them and files hold them.

use ctrl_exec_protocol::serial;

/// Any text is a serial or none; numbers have one form, which files keep.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = serial::canonical(text);
    for number in serial::written(text)
        .into_iter()
        .chain(serial::of_wire(text))
    {
        assert!(!number.is_empty() && number.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(serial::exact(&number), number);
        // What is written to a file is read as that number again.
        let filed = serial::for_file(&number);
        assert!(
            serial::written(&filed).contains(&number),
            "{text} {number} {filed}"
        );
    }
}
