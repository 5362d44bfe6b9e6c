//! A second file whose few keys take the place of those in `agent.conf`.
//!
//! `agent.conf` names it (`overrides = PATH`), so nothing overrides it behind its owner's back. It is
//! for settings that another place keeps: on OpenWrt the init script writes it from uci. The file
//! holds `key = value` lines with the keys of `agent_conf::OVERRIDABLE` and nothing else.

use super::agent_conf_reader::Reader;
use super::{AgentConf, ConfigError, MAX_FILE_BYTES, Warning};

impl AgentConf {
    /// Takes over what a file of overrides says. `file` is its name for messages.
    ///
    /// # Errors
    /// The first fault, with its line; any key that is not `OVERRIDABLE` is one.
    pub fn overridden(
        self,
        text: &str,
        file: &str,
    ) -> Result<(AgentConf, Vec<Warning>), ConfigError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(ConfigError::whole(file, "file is larger than 1 MiB"));
        }
        let mut reader = Reader::overriding(self);
        for (index, line) in text.lines().enumerate() {
            reader
                .line(index + 1, line)
                .map_err(|fault| ConfigError::at(file, index + 1, fault))?;
        }
        Ok(reader.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogLevel;

    fn base() -> AgentConf {
        let text = "port = 7443\nbind = ::1\nhostname = a\nmax_children = 3\noverrides = /o\n[tags]\nx = y";
        AgentConf::parse(text, "agent.conf").expect("valid").0
    }

    fn fault(text: &str) -> String {
        base()
            .overridden(text, "uci.conf")
            .expect_err("a fault")
            .to_string()
    }

    #[test]
    fn named_keys_are_replaced_and_all_others_stay() {
        let text = "# from uci\nport = 8443\nhostname = router-17\nallowed_ips = 10.0.0.0/8\nlog_level = warning\n";
        let (conf, warnings) = base().overridden(text, "uci.conf").expect("valid");
        assert_eq!(warnings, []);
        assert_eq!(conf.port, Some(8443));
        assert_eq!(conf.hostname.as_deref(), Some("router-17"));
        assert!(conf.allowed_ips.is_some());
        assert_eq!(conf.log_level, LogLevel::Warning);
        let was = base();
        assert_eq!(
            (conf.bind, conf.max_children, conf.tags),
            (was.bind, 3, was.tags)
        );
        assert_eq!(base().overridden("", "uci.conf").expect("valid").0, base());
    }

    #[test]
    fn nothing_else_can_be_overridden() {
        for key in [
            "executor_socket",
            "script_dirs",
            "allow_root",
            "auth_hook",
            "key",
            "overrides",
            "nonsense",
        ] {
            assert_eq!(
                fault(&format!("port = 1\n{key} = yes")),
                format!("uci.conf: line 2: '{key}' cannot be overridden")
            );
        }
        assert!(fault("[profile default]\nrun_as = root").contains("no sections"));
        assert!(fault("port = 0").starts_with("uci.conf: line 1: "));
        assert!(fault("port").starts_with("uci.conf: line 1: malformed"));
    }
}
