//! `agent.conf`, as both halves read it.

use ctrl_exec_protocol::config::{AgentConf, MAX_NAME, decode};

/// Any bytes are a configuration that keeps its promises, or an error with a message.
pub fn run(data: &[u8]) {
    let parsed = decode(data, "agent.conf").and_then(|text| AgentConf::parse(&text, "agent.conf"));
    let conf = match parsed {
        Ok((conf, warnings)) => {
            warnings
                .iter()
                .for_each(|warning| assert!(!warning.to_string().contains('\n')));
            conf
        }
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    assert!(conf.max_children > 0 && conf.executor_max_children > 0);
    assert!(conf.script_dirs.is_none_or(|dirs| !dirs.is_empty()));
    for (name, profile) in &conf.profiles {
        assert!(!name.is_empty() && name.len() <= MAX_NAME);
        assert!(profile.writable.iter().all(|path| path.starts_with('/')));
        if let Some(user) = &profile.run_as {
            let zeros = !user.text.is_empty() && user.text.bytes().all(|byte| byte == b'0');
            assert_eq!(user.number == Some(0), zeros);
        }
    }
}
