//! The one table of verbs and flags. The parser, the help texts, the shell completions and the
//! man page are all made of it.

use super::flags::*;

/// What completes a verb's positional words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Words {
    /// Nothing sensible.
    None,
    /// Registered agents.
    Agents,
    /// Pending pairing requests.
    Requests,
    /// Fixed words.
    OneOf(&'static [&'static str]),
}

/// The verbs, for the one place that carries them out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "the table says what each does")]
pub enum Command {
    Approve,
    Cancel,
    Backup,
    Completions,
    Deny,
    Discover,
    Doctor,
    EditAgent,
    ExportCa,
    Help,
    JoinCa,
    ListAgents,
    ListLocks,
    ListRequests,
    ListRevoked,
    Maintain,
    Man,
    Mcp,
    PairingMode,
    Ping,
    Renew,
    Restore,
    RenewCa,
    ReplaceCa,
    Revoke,
    RotateCert,
    Run,
    Running,
    Runs,
    SerialStatus,
    SetupCa,
    SetupDispatcher,
    Show,
    Status,
    Token,
    Unpair,
    Unrevoke,
    Wait,
}

/// One verb.
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// Its positional words, as shown in usage.
    pub usage: &'static str,
    /// Fewest and most positional words (before `--`).
    pub words: (usize, usize),
    /// What completes them.
    pub complete: Words,
    /// One line of help.
    pub summary: &'static str,
    /// Paragraphs for the man page and the verb's own help.
    pub detail: &'static str,
    /// Flags besides the common ones.
    pub flags: &'static [&'static Flag],
    /// Which it is.
    pub command: Command,
}

const MANY: usize = usize::MAX;

/// Every verb, in the order help shows them.
pub static VERBS: &[Verb] = &[
    Verb {
        name: "run",
        usage: "<host>[:<port>]... <script> [-- <arg>...]",
        words: (1, MANY),
        complete: Words::Agents,
        summary: "Run a script on agents.",
        detail: "The last word before -- is the script, the words before it are hosts: registry \
                 names, lists with commas, ranges (ap[1-12], ap[01-12], ap[1,3-5]), patterns over the \
                 names (*, ?, [a-z]), @FILE for a file of hosts and - for a list on standard input. \
                 An agent that is named twice is called once. With --all, --tags, --failed-of or \
                 --hosts-file the hosts may be left out. Arguments after -- are handed to the script as they are.\n\n\
                 With --follow each line is shown when it comes. Agents of release 0.12.3 tell of output \
                 only at the end. Where a line is missing, because an agent, a link or this terminal was \
                 too slow, that is said in its place; no script waits for its reader. With --stdin the scripts \
                 read a line of JSON, as always, and then what was read here.\n\n\
                 Each result tells outcomes apart: the agent refused the run by policy; the agent \
                 was not reached (and in which phase: name, connect, tls, http); the script ran and \
                 ended with an exit code; or the request went out and no end is known, so that the \
                 script may still be running.\n\n\
                 The first interrupt (Ctrl-C) starts no further host and says who is still running. On \
                 a terminal the second offers to end the runs on the agents, the third leaves; \
                 elsewhere the second leaves. Leaving reports everything known, and what runs goes on. \
                 The lock of a host and script whose end is not known stays until the agent says that \
                 the run is over.",
        flags: &[
            &JSON,
            &JSON_LINES,
            &PORT,
            &USERNAME,
            &TOKEN,
            &ASYNC,
            &TIMEOUT,
            &TIME_LIMIT,
            &ON_HANGUP,
            &DESPITE_UNKNOWN,
            &ACCEPT_NAME,
            &ALL,
            &TAGS,
            &FAILED_OF,
            &WITH_UNKNOWN,
            &EXCLUDE,
            &HOSTS_FILE,
            &LIST,
            &FOLD,
            &PREFIX,
            &FOLLOW,
            &STDIN,
            &OUTPUT_DIR,
            &RAW,
            &SORT,
            &BATCH,
            &MAX_FAILURES,
            &PARALLEL,
            &STRICT,
            &QUIET,
        ],
        command: Command::Run,
    },
    Verb {
        name: "status",
        usage: "<reqid>",
        words: (1, 1),
        complete: Words::None,
        summary: "Show the state of a run.",
        detail: "Asks the agents that have not finished, and shows what is known.",
        flags: &[&JSON, &PORT, &RAW],
        command: Command::Status,
    },
    Verb {
        name: "wait",
        usage: "<reqid>",
        words: (1, 1),
        complete: Words::None,
        summary: "Wait for an asynchronous run.",
        detail: "Exit status: 0 when complete and nothing failed, 1 when complete with a failure \
                 or not found, 2 when still pending at the time limit (default 300 s).",
        flags: &[&JSON, &PORT, &TIMEOUT, &RAW],
        command: Command::Wait,
    },
    Verb {
        name: "running",
        usage: "[<host>[:<port>]...]",
        words: (0, MANY),
        complete: Words::Agents,
        summary: "Show what agents run for this dispatcher now.",
        detail: "Without hosts, every registered agent is asked. Agents of release 0.12.3 cannot \
                 tell, and it is said of them. Exit status 1 when an agent did not tell.",
        flags: &[
            &JSON,
            &JSON_LINES,
            &PORT,
            &USERNAME,
            &TOKEN,
            &TIMEOUT,
            &ACCEPT_NAME,
            &ALL,
            &TAGS,
            &EXCLUDE,
            &HOSTS_FILE,
            &LIST,
            &SORT,
            &PARALLEL,
            &STRICT,
            &QUIET,
        ],
        command: Command::Running,
    },
    Verb {
        name: "cancel",
        usage: "<reqid> [<host>...] | <host>... --all",
        words: (1, MANY),
        complete: Words::Agents,
        summary: "End runs on agents.",
        detail: "With a request id, that run on every host where its end is not known, or on the \
                 hosts named. With --all, every run of this dispatcher on the hosts named. The agent \
                 sends TERM to the script and all that it started, and KILL after 5 s; whoever waits \
                 for the run gets its result as cancelled.\n\n\
                 Exit status 0 when every host has ended something or had nothing to end with --all; \
                 1 when a host had no such run (any more), cannot end runs (release 0.12.3) or was \
                 not reached.",
        flags: &[
            &JSON,
            &JSON_LINES,
            &PORT,
            &USERNAME,
            &TOKEN,
            &TIMEOUT,
            &ACCEPT_NAME,
            &ALL_RUNS,
            &EXCLUDE,
            &SORT,
            &PARALLEL,
            &STRICT,
            &QUIET,
        ],
        command: Command::Cancel,
    },
    Verb {
        name: "runs",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "List the runs of the last days.",
        detail: "Who ran what, where, when and how it ended, the newest first. maintain deletes \
                 records after run_retention days.",
        flags: &[&JSON, &SINCE, &HOST, &SCRIPT, &BY, &FAILED],
        command: Command::Runs,
    },
    Verb {
        name: "show",
        usage: "<reqid>",
        words: (1, 1),
        complete: Words::None,
        summary: "Show the record of a run, without asking agents.",
        detail: "Who ordered it, its arguments, when, and what is known of each host.",
        flags: &[&JSON, &RAW],
        command: Command::Show,
    },
    Verb {
        name: "ping",
        usage: "<host>[:<port>]...",
        words: (0, MANY),
        complete: Words::Agents,
        summary: "Test mutual TLS with agents; renew their certificates when due.",
        detail: "Exit status is 0 even when hosts failed, unless --strict is given. A certificate \
                 of which less than a third of its life is left is renewed when the CA key can be \
                 read.",
        flags: &[
            &JSON,
            &JSON_LINES,
            &PORT,
            &USERNAME,
            &TOKEN,
            &TIMEOUT,
            &ACCEPT_NAME,
            &ALL,
            &TAGS,
            &FAILED_OF,
            &WITH_UNKNOWN,
            &EXCLUDE,
            &HOSTS_FILE,
            &LIST,
            &SORT,
            &PARALLEL,
            &STRICT,
            &QUIET,
        ],
        command: Command::Ping,
    },
    Verb {
        name: "discover",
        usage: "[<host>[:<port>]...]",
        words: (0, MANY),
        complete: Words::Agents,
        summary: "Show which scripts agents offer, and cache their tags.",
        detail: "Without hosts, every registered agent is asked.",
        flags: &[
            &JSON,
            &JSON_LINES,
            &PORT,
            &USERNAME,
            &TOKEN,
            &TIMEOUT,
            &ACCEPT_NAME,
            &ALL,
            &TAGS,
            &EXCLUDE,
            &HOSTS_FILE,
            &LIST,
            &SORT,
            &PARALLEL,
            &STRICT,
            &QUIET,
        ],
        command: Command::Discover,
    },
    Verb {
        name: "pairing-mode",
        usage: "[start|stop]",
        words: (0, 1),
        complete: Words::OneOf(&["start", "stop"]),
        summary: "Accept pairing requests for a while.",
        detail: "In the foreground; on a terminal requests can be approved at the prompt. \
                 start runs it in the background, stop ends that.",
        flags: &[&TIMEOUT, &PORT],
        command: Command::PairingMode,
    },
    Verb {
        name: "list-requests",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "List pending pairing requests.",
        detail: "Compare the code with the one the agent shows before you approve. It is computed \
                 of the request that would be signed.",
        flags: &[&JSON],
        command: Command::ListRequests,
    },
    Verb {
        name: "approve",
        usage: "<id>",
        words: (1, 1),
        complete: Words::Requests,
        summary: "Approve a pairing request.",
        detail: "Signs the agent's certificate and registers it. On a terminal the code that the \
                 agent shows is asked for; elsewhere --code must give it: what another put into the queue is \
                 not approved unseen. A name that another agent has needs \
                 --replace.",
        flags: &[&CODE, &REPLACE, &LOOKUP_BY, &IP, &AGENT_PORT],
        command: Command::Approve,
    },
    Verb {
        name: "deny",
        usage: "<id>",
        words: (1, 1),
        complete: Words::Requests,
        summary: "Deny a pairing request.",
        detail: "",
        flags: &[],
        command: Command::Deny,
    },
    Verb {
        name: "setup-ca",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Create the certificate authority.",
        detail: "Refuses when there is a CA key already.",
        flags: &[],
        command: Command::SetupCa,
    },
    Verb {
        name: "setup-ctrl-exec",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Create this dispatcher's key and certificate.",
        detail: "Asks before it replaces the certificate of a dispatcher that has agents: they \
                 would have to be paired again. rotate-cert keeps them.",
        flags: &[&YES],
        command: Command::SetupDispatcher,
    },
    Verb {
        name: "list-agents",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "List registered agents.",
        detail: "",
        flags: &[&JSON, &TAGS],
        command: Command::ListAgents,
    },
    Verb {
        name: "edit-agent",
        usage: "<name>",
        words: (1, 1),
        complete: Words::Agents,
        summary: "Change how an agent is reached or named.",
        detail: "",
        flags: &[
            &JSON,
            &RENAME,
            &IP,
            &AGENT_PORT,
            &LOOKUP_BY,
            &RATE,
            &CERT_NAME,
        ],
        command: Command::EditAgent,
    },
    Verb {
        name: "unpair",
        usage: "<name>",
        words: (1, 1),
        complete: Words::Agents,
        summary: "Forget an agent.",
        detail: "Shows its certificates, which stay valid unless they are barred as well: on a \
                 terminal you are asked, elsewhere --revoke does it.",
        flags: &[&REVOKE],
        command: Command::Unpair,
    },
    Verb {
        name: "revoke",
        usage: "[<name>]",
        words: (0, 1),
        complete: Words::Agents,
        summary: "Bar every certificate of an agent that was lost, stolen or taken over.",
        detail: "Every certificate ever given to that name and not ended is refused from now on, \
                 whether the agent answers or not; the agent is not called any more, and its record \
                 stays, marked revoked. With --serial one certificate, whoever has it. Exit status 1 \
                 when nothing could be barred.\n\n\
                 Agents keep a list of their own, of dispatchers' certificates as a rule: the text \
                 shows the lines for it.",
        flags: &[&JSON, &PORT, &SERIAL],
        command: Command::Revoke,
    },
    Verb {
        name: "list-revoked",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "List the certificates that are refused.",
        detail: "",
        flags: &[&JSON],
        command: Command::ListRevoked,
    },
    Verb {
        name: "unrevoke",
        usage: "[<name>]",
        words: (0, 1),
        complete: Words::Agents,
        summary: "Take a revocation back.",
        detail: "Certificates that were barred because another agent took the name stay barred; \
                 --serial frees any one.",
        flags: &[&JSON, &SERIAL],
        command: Command::Unrevoke,
    },
    Verb {
        name: "token",
        usage: "create <name> | list | revoke <name>",
        words: (1, 2),
        complete: Words::OneOf(&["create", "list", "revoke"]),
        summary: "Say who may use the HTTP API.",
        detail: "create makes a token and shows it this once; only a hash of it is kept. view looks, \
                 run also runs scripts, approve also decides who is paired, admin does everything. \
                 --scripts and --hosts take patterns and limit it further; lists of all runs and \
                 agents are not for limited tokens. Once there was a token, nobody gets in without \
                 one or the auth hook. An API that runs sees changes at once.",
        flags: &[&JSON, &ROLE, &TOKEN_SCRIPTS, &TOKEN_HOSTS, &EXPIRES],
        command: Command::Token,
    },
    Verb {
        name: "list-locks",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "List locks held by running commands.",
        detail: "",
        flags: &[&JSON],
        command: Command::ListLocks,
    },
    Verb {
        name: "renew",
        usage: "<host>[:<port>]...",
        words: (1, MANY),
        complete: Words::Agents,
        summary: "Renew the certificates of agents now.",
        detail: "With --allow-expired also that of an agent whose certificate has run out; it is \
                 still checked to be the one this CA made.",
        flags: &[&JSON, &PORT, &EXPIRED, &ACCEPT_NAME],
        command: Command::Renew,
    },
    Verb {
        name: "renew-ca",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Make the CA's certificate anew with the same key, and hand it to the agents.",
        detail: "Nothing has to be paired again. The new certificate begins where the old one did and \
                 lasts --days (default 3650). Agents take it over their connection, check that the CA \
                 signed it and use it at once; those that were not reached get it with maintain or \
                 ping. Agents of release 0.12.3 take none: their ca.crt is to be copied.\n\n\
                 Repeat it as often as you like: it goes on where it was interrupted. --status changes \
                 nothing and shows who has the certificate. Exit status 1 while an agent lacks it.",
        flags: &[&JSON, &DAYS, &STATUS],
        command: Command::RenewCa,
    },
    Verb {
        name: "replace-ca",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Put a new CA in the place of one that leaked or is to be changed.",
        detail: "In three steps, each by calling it again until it says that all is done. First agents \
                 are handed the new CA, which the old one vouches for, and trust both. When all have it \
                 (--force: without waiting for the others), the new CA signs: the dispatcher's and the \
                 agents' certificates are exchanged. --finish drops the old CA here and on the agents; \
                 with --force although some are not ready, which must be paired again.\n\n\
                 It can be interrupted at any moment and goes on when it is called again. --status \
                 changes nothing. Agents of release 0.12.3 must be paired again. Exit status 1 while \
                 something is left to do.",
        flags: &[&JSON, &DAYS, &FORCE, &FINISH, &STATUS],
        command: Command::ReplaceCa,
    },
    Verb {
        name: "rotate-cert",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Replace this dispatcher's certificate and tell the agents.",
        detail: "The old pair is kept and used until every agent has confirmed the new one. \
                 Agents that were not reached are told later, by maintain.",
        flags: &[&JSON, &FORCE],
        command: Command::RotateCert,
    },
    Verb {
        name: "serial-status",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Show which agents trust the current certificate.",
        detail: "",
        flags: &[&JSON],
        command: Command::SerialStatus,
    },
    Verb {
        name: "maintain",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Periodic work: ping, renew, rotate, retire, purge.",
        detail: "For a root timer, every few hours.",
        flags: &[&JSON, &PORT, &QUICK],
        command: Command::Maintain,
    },
    Verb {
        name: "doctor",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Check configuration, certificates, clock, permissions and reachability.",
        detail: "Exit status 1 when something is wrong. --repair makes new records for those that \
                 cannot be read, of what is left in the file and of the certificates that were \
                 given to the agent; the old file is kept beside it.",
        flags: &[&JSON, &OFFLINE, &REPAIR],
        command: Command::Doctor,
    },
    Verb {
        name: "backup",
        usage: "[<file>]",
        words: (0, 1),
        complete: Words::None,
        summary: "Write everything that matters into one encrypted file.",
        detail: "CA, keys, configuration, registry, rotation, revocations, what was issued, and the \
                 records of runs (the newest 64 MiB), as they are at one moment. The file is encrypted \
                 with a passphrase, or to public keys, so that what makes backups cannot read them. It \
                 is replaced when the new one is whole. It has the format of age: 'age -d' opens it, \
                 and what it holds is a tar archive.\n\n\
                 Make one after each pairing and each rotation; maintain and doctor say when one is \
                 due.",
        flags: &[
            &JSON,
            &TO,
            &PASSPHRASE_FILE,
            &PASSPHRASE_FD,
            &NO_RUNS,
            &NEW_KEY,
        ],
        command: Command::Backup,
    },
    Verb {
        name: "restore",
        usage: "<file>",
        words: (1, 1),
        complete: Words::None,
        summary: "Put a backup in place, here or on another host.",
        detail: "Everything is checked first, and written aside; then it takes the place of what is \
                 there as a whole, whatever happens meanwhile. Where a dispatcher is already it needs \
                 --force, and keeps what it replaces in /var/lib/ctrl-exec/before-restore-TIME.tar. \
                 What was revoked since the backup stays revoked. At the end it says what is known to \
                 be newer than the backup, and asks the agents.",
        flags: &[
            &JSON,
            &OVERWRITE,
            &IDENTITY,
            &PASSPHRASE_FILE,
            &PASSPHRASE_FD,
            &OFFLINE,
        ],
        command: Command::Restore,
    },
    Verb {
        name: "export-ca",
        usage: "<file>",
        words: (1, 1),
        complete: Words::None,
        summary: "Write the CA into an encrypted file, for a second dispatcher.",
        detail: "The CA's key and certificate, what was revoked, and what was issued. Whoever opens \
                 the file can pose as any dispatcher and any agent.",
        flags: &[&TO, &PASSPHRASE_FILE, &PASSPHRASE_FD],
        command: Command::ExportCa,
    },
    Verb {
        name: "join-ca",
        usage: "<file>",
        words: (1, 1),
        complete: Words::None,
        summary: "Become a second dispatcher of the CA in a file of export-ca.",
        detail: "In place of setup-ca and setup-ctrl-exec: takes the CA over and makes a certificate of \
                 this dispatcher's own. Then pair each agent with it too. Again with a newer file, it \
                 learns what the other one revoked since.",
        flags: &[&JSON, &IDENTITY, &PASSPHRASE_FILE, &PASSPHRASE_FD],
        command: Command::JoinCa,
    },
    Verb {
        name: "mcp",
        usage: "[-- <option>...]",
        words: (0, 0),
        complete: Words::None,
        summary: "Start the tool bridge for assistants (ctrl-exec-mcp).",
        detail: "It speaks the Model Context Protocol on standard input and output, or with \
                 -- --http [HOST:]PORT over HTTP, and uses the HTTP API with CTRLEXEC_TOKEN.",
        flags: &[],
        command: Command::Mcp,
    },
    Verb {
        name: "completions",
        usage: "bash|zsh|fish",
        words: (1, 1),
        complete: Words::OneOf(&["bash", "zsh", "fish"]),
        summary: "Print a shell completion script.",
        detail: "",
        flags: &[],
        command: Command::Completions,
    },
    Verb {
        name: "man",
        usage: "",
        words: (0, 0),
        complete: Words::None,
        summary: "Print the manual page in roff.",
        detail: "Show it with: ctrl-exec-dispatcher man | man -l -",
        flags: &[],
        command: Command::Man,
    },
    Verb {
        name: "help",
        usage: "[<verb>]",
        words: (0, 1),
        complete: Words::None,
        summary: "Show help.",
        detail: "",
        flags: &[],
        command: Command::Help,
    },
];

/// The verb of that name.
pub fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// Every flag there is, each once.
pub fn all_flags() -> Vec<&'static Flag> {
    let mut flags: Vec<&'static Flag> = COMMON.to_vec();
    for flag in VERBS.iter().flat_map(|verb| verb.flags) {
        if !flags.iter().any(|known| known.name == flag.name) {
            flags.push(flag);
        }
    }
    flags
}

impl Verb {
    /// Its flags, the common ones last.
    pub fn all_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().chain(COMMON).copied()
    }

    /// `ctrl-exec-dispatcher <verb> …` as shown in usage.
    pub fn synopsis(&self) -> String {
        let mut line = format!("ctrl-exec-dispatcher {}", self.name);
        if !self.flags.is_empty() {
            line.push_str(" [options]");
        }
        if !self.usage.is_empty() {
            line.push(' ');
            line.push_str(self.usage);
        }
        line
    }
}
