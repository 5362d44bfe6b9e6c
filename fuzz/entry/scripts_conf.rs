//! `scripts.conf`, and the decision about each of its scripts.

use ctrl_exec_protocol::config::{AgentConf, Decision, ScriptsConf, decision, decode};

/// Any bytes are a list of absolute paths; a decision is one line, whatever the list says.
pub fn run(data: &[u8]) {
    let parsed =
        decode(data, "scripts.conf").and_then(|text| ScriptsConf::parse(&text, "scripts.conf"));
    let Ok((scripts, _)) = parsed else { return };
    let text = "script_dirs = /opt:/usr/lib/x\n[profile default]\n[profile p]\nrun_as = nobody\n";
    let Ok((conf, _)) = AgentConf::parse(text, "agent.conf") else {
        return;
    };
    for (name, script) in &scripts.scripts {
        assert!(script.path.starts_with('/'));
        let decision = decision::resolve(&conf, &scripts, name, &|_| None);
        // Nothing exists, so nothing can be shown to be inside.
        assert!(matches!(decision, Decision::Deny(_)));
        let exists = |path: &std::path::Path| Some(path.to_owned());
        assert!(
            !decision::resolve(&conf, &scripts, name, &exists)
                .to_string()
                .contains('\n')
        );
    }
}
