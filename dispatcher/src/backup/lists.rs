//! Lists that only ever grow: what was revoked or issued since a backup is kept when it is put back.

use crate::store::files::issued::IssuedCert;
use crate::store::files::revoked;
use std::collections::HashSet;

/// Lines of the present list, and those of the backup that are not among them.
pub(crate) fn merged(name: &str, present: &str, backup: &str) -> Option<String> {
    let key: fn(&str) -> String = match name {
        "revoked-serials" => |line| {
            let serial = line.split('#').next().unwrap_or_default();
            revoked::read(serial).unwrap_or_else(|| line.trim().to_owned())
        },
        "issued-certificates" => |line| {
            IssuedCert::parse(line).map_or_else(
                || line.trim().to_owned(),
                |cert| format!("{} {}", cert.serial, cert.name),
            )
        },
        _ => return None,
    };
    let mut known = HashSet::new();
    let mut out = String::new();
    for line in present.lines().chain(backup.lines()) {
        let key = key(line);
        if key.is_empty() || known.insert(key) {
            out.push_str(line);
            out.push('\n');
        }
    }
    Some(out)
}

/// How many lines of `present` the backup does not have.
pub(crate) fn newer(name: &str, present: &str, backup: &str) -> usize {
    let count = |text: &str| text.lines().filter(|line| !line.trim().is_empty()).count();
    let all = merged(name, backup, present).unwrap_or_default();
    count(&all).saturating_sub(count(backup))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_revoked_is_freed() {
        let present = "4a01 # web01 revoked\n4A02 # b\n";
        let backup = "4A:01 # older words\n4a03 # c\n# note\n";
        let all = merged("revoked-serials", present, backup).unwrap();
        assert_eq!(all, "4a01 # web01 revoked\n4A02 # b\n4a03 # c\n# note\n");
        assert_eq!(newer("revoked-serials", present, backup), 1);
        assert_eq!(merged("revoked-serials", &all, backup).unwrap(), all);
        let line = "4a01 2029-02-24T13:32:16Z web01\n";
        assert_eq!(merged("issued-certificates", line, line).unwrap(), line);
        assert_eq!(newer("issued-certificates", line, ""), 1);
        assert_eq!(merged("other", "a", "b"), None);
    }
}
