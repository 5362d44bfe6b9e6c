# bash completion of ctrl-exec-dispatcher; source it or put it into
# /usr/share/bash-completion/completions/ctrl-exec-dispatcher
_ctrl_exec_dispatcher() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= word ROOT=
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      run|status|wait|running|cancel|runs|show|ping|discover|pairing-mode|list-requests|approve|deny|setup-ca|setup-ctrl-exec|list-agents|edit-agent|unpair|revoke|list-revoked|unrevoke|token|list-locks|renew|renew-ca|replace-ca|rotate-cert|serial-status|maintain|doctor|backup|restore|export-ca|join-ca|mcp|completions|man|help) [ -n "$verb" ] || verb=$word;;
    esac
  done
  case $prev in
    --config) COMPREPLY=($(compgen -f -- "$cur")); return;;
    --root) COMPREPLY=($(compgen -f -- "$cur")); return;;
    --port) return;;
    --username) return;;
    --token) return;;
    --timeout) return;;
    --time-limit) return;;
    --on-hangup) COMPREPLY=($(compgen -W 'leave cancel' -- "$cur")); return;;
    --despite-unknown) return;;
    --tags) return;;
    --failed-of) return;;
    --exclude) return;;
    --hosts-file) COMPREPLY=($(compgen -f -- "$cur")); return;;
    --output-dir) COMPREPLY=($(compgen -f -- "$cur")); return;;
    --batch) return;;
    --max-failures) return;;
    --parallel) return;;
    --since) return;;
    --host) return;;
    --script) return;;
    --user) return;;
    --code) return;;
    --lookup-by) COMPREPLY=($(compgen -W 'ip hostname' -- "$cur")); return;;
    --ip) return;;
    --agent-port) return;;
    --rename) return;;
    --rate) return;;
    --cert-name) return;;
    --serial) return;;
    --role) COMPREPLY=($(compgen -W 'view run approve admin' -- "$cur")); return;;
    --scripts) return;;
    --hosts) return;;
    --expires) return;;
    --days) return;;
    --to) return;;
    --passphrase-file) COMPREPLY=($(compgen -f -- "$cur")); return;;
    --passphrase-fd) return;;
    --new-key) COMPREPLY=($(compgen -f -- "$cur")); return;;
    --identity) COMPREPLY=($(compgen -f -- "$cur")); return;;
  esac
  local words=
  case $verb in
    '') words='run status wait running cancel runs show ping discover pairing-mode list-requests approve deny setup-ca setup-ctrl-exec list-agents edit-agent unpair revoke list-revoked unrevoke token list-locks renew renew-ca replace-ca rotate-cert serial-status maintain doctor backup restore export-ca join-ca mcp completions man help';;
    run) if [[ $cur == -* ]]; then words='--json --json-lines --port --username --token --async --timeout --time-limit --on-hangup --despite-unknown --accept-name --all --tags --failed-of --with-unknown --exclude --hosts-file --list --fold --prefix --follow --stdin --output-dir --raw --sort --batch --max-failures --parallel --strict --quiet --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    status) if [[ $cur == -* ]]; then words='--json --port --raw --config --root --help --version'; else words=''; fi;;
    wait) if [[ $cur == -* ]]; then words='--json --port --timeout --raw --config --root --help --version'; else words=''; fi;;
    running) if [[ $cur == -* ]]; then words='--json --json-lines --port --username --token --timeout --accept-name --all --tags --exclude --hosts-file --list --sort --parallel --strict --quiet --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    cancel) if [[ $cur == -* ]]; then words='--json --json-lines --port --username --token --timeout --accept-name --all --exclude --sort --parallel --strict --quiet --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    runs) if [[ $cur == -* ]]; then words='--json --since --host --script --user --failed --config --root --help --version'; else words=''; fi;;
    show) if [[ $cur == -* ]]; then words='--json --raw --config --root --help --version'; else words=''; fi;;
    ping) if [[ $cur == -* ]]; then words='--json --json-lines --port --username --token --timeout --accept-name --all --tags --failed-of --with-unknown --exclude --hosts-file --list --sort --parallel --strict --quiet --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    discover) if [[ $cur == -* ]]; then words='--json --json-lines --port --username --token --timeout --accept-name --all --tags --exclude --hosts-file --list --sort --parallel --strict --quiet --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    pairing-mode) if [[ $cur == -* ]]; then words='--timeout --port --config --root --help --version'; else words='start stop'; fi;;
    list-requests) if [[ $cur == -* ]]; then words='--json --config --root --help --version'; else words=''; fi;;
    approve) if [[ $cur == -* ]]; then words='--code --replace --lookup-by --ip --agent-port --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/pairing 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    deny) if [[ $cur == -* ]]; then words='--config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/pairing 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    setup-ca) if [[ $cur == -* ]]; then words='--config --root --help --version'; else words=''; fi;;
    setup-ctrl-exec) if [[ $cur == -* ]]; then words='--yes --config --root --help --version'; else words=''; fi;;
    list-agents) if [[ $cur == -* ]]; then words='--json --tags --config --root --help --version'; else words=''; fi;;
    edit-agent) if [[ $cur == -* ]]; then words='--json --rename --ip --agent-port --lookup-by --rate --cert-name --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    unpair) if [[ $cur == -* ]]; then words='--revoke --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    revoke) if [[ $cur == -* ]]; then words='--json --port --serial --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    list-revoked) if [[ $cur == -* ]]; then words='--json --config --root --help --version'; else words=''; fi;;
    unrevoke) if [[ $cur == -* ]]; then words='--json --serial --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    token) if [[ $cur == -* ]]; then words='--json --role --scripts --hosts --expires --config --root --help --version'; else words='create list revoke'; fi;;
    list-locks) if [[ $cur == -* ]]; then words='--json --config --root --help --version'; else words=''; fi;;
    renew) if [[ $cur == -* ]]; then words='--json --port --allow-expired --accept-name --config --root --help --version'; else words="$(ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\.json$//p')"; fi;;
    renew-ca) if [[ $cur == -* ]]; then words='--json --days --status --config --root --help --version'; else words=''; fi;;
    replace-ca) if [[ $cur == -* ]]; then words='--json --days --force --finish --status --config --root --help --version'; else words=''; fi;;
    rotate-cert) if [[ $cur == -* ]]; then words='--json --force --config --root --help --version'; else words=''; fi;;
    serial-status) if [[ $cur == -* ]]; then words='--json --config --root --help --version'; else words=''; fi;;
    maintain) if [[ $cur == -* ]]; then words='--json --port --quick --config --root --help --version'; else words=''; fi;;
    doctor) if [[ $cur == -* ]]; then words='--json --offline --repair --config --root --help --version'; else words=''; fi;;
    backup) if [[ $cur == -* ]]; then words='--json --to --passphrase-file --passphrase-fd --no-runs --new-key --config --root --help --version'; else words=''; fi;;
    restore) if [[ $cur == -* ]]; then words='--json --force --identity --passphrase-file --passphrase-fd --offline --config --root --help --version'; else words=''; fi;;
    export-ca) if [[ $cur == -* ]]; then words='--to --passphrase-file --passphrase-fd --config --root --help --version'; else words=''; fi;;
    join-ca) if [[ $cur == -* ]]; then words='--json --identity --passphrase-file --passphrase-fd --config --root --help --version'; else words=''; fi;;
    mcp) if [[ $cur == -* ]]; then words='--config --root --help --version'; else words=''; fi;;
    completions) if [[ $cur == -* ]]; then words='--config --root --help --version'; else words='bash zsh fish'; fi;;
    man) if [[ $cur == -* ]]; then words='--config --root --help --version'; else words=''; fi;;
    help) if [[ $cur == -* ]]; then words='--config --root --help --version'; else words=''; fi;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _ctrl_exec_dispatcher ctrl-exec-dispatcher ced
