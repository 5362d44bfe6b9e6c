//! Server-sent events, read from a stream of bytes.

/// Longest event; the API's own limit for an answer of one host is below it.
const MAX_EVENT: usize = 16 << 20;

/// One event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Its name; `message` where none was sent.
    pub name: String,
    /// Its data, lines joined.
    pub data: String,
}

/// Takes bytes as they come, gives events as they are whole.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    name: String,
    data: String,
    after_return: bool,
}

impl Reader {
    /// Reads `bytes`; whole events are added to `events`.
    ///
    /// # Errors
    /// When an event grows beyond what any answer may have.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), String> {
        for &byte in bytes {
            let second = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            match byte {
                b'\n' | b'\r' if !second => self.end_line(events),
                b'\n' | b'\r' => {}
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > MAX_EVENT {
                return Err("the API sent an event that is too long".to_owned());
            }
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            if !data.is_empty() {
                let name = if name.is_empty() {
                    "message".to_owned()
                } else {
                    name
                };
                events.push(Event { name, data });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut reader = Reader::default();
        let mut events = Vec::new();
        for piece in pieces {
            reader.feed(piece, &mut events).unwrap();
        }
        events.into_iter().map(|e| (e.name, e.data)).collect()
    }

    #[test]
    fn events_in_any_pieces() {
        let text = b": hello\n\nevent: start\nid: 1\ndata: {\"a\":1}\n\ndata:x\r\ndata: y\r\n\r\nevent: none\n\n";
        let whole = read(&[text]);
        assert_eq!(
            whole,
            [
                ("start".into(), "{\"a\":1}".into()),
                ("message".into(), "x\ny".into())
            ]
        );
        let pieces: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read(&pieces), whole);
    }

    #[test]
    fn an_event_has_an_end() {
        let mut reader = Reader::default();
        let piece = vec![b'x'; 1 << 20];
        let mut events = Vec::new();
        assert!((0..20).any(|_| reader.feed(&piece, &mut events).is_err()));
    }
}
