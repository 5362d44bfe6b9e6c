//! The flags of the command line, each defined once.

/// What a flag takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// Any text; the word stands for it in help.
    Text(&'static str),
    /// A file name.
    File,
    /// A whole number in a range.
    Number(&'static str, i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// Long name, without dashes.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// One line of help.
    pub help: &'static str,
    /// Whether the reference has it: abbreviations are read as the reference would read them.
    pub reference: bool,
}

macro_rules! flag {
    ($id:ident, $name:literal, $takes:expr, $reference:literal, $help:literal) => {
        #[doc = $help]
        pub static $id: Flag = Flag {
            name: $name,
            takes: $takes,
            help: $help,
            reference: $reference,
        };
    };
}

flag!(
    CONFIG,
    "config",
    Takes::File,
    true,
    "Configuration file (default /etc/ctrl-exec/ctrl-exec.conf)."
);
flag!(
    ROOT,
    "root",
    Takes::File,
    false,
    "Prefix of all default absolute paths."
);
flag!(HELP, "help", Takes::Nothing, false, "Show help and stop.");
flag!(
    VERSION,
    "version",
    Takes::Nothing,
    true,
    "Show the version and stop."
);
flag!(
    JSON,
    "json",
    Takes::Nothing,
    true,
    "Print one line of JSON in place of text."
);
flag!(
    PORT,
    "port",
    Takes::Number("PORT", 1, 65_535),
    true,
    "Port in place of the default one."
);
flag!(
    USERNAME,
    "username",
    Takes::Text("NAME"),
    true,
    "User name for hooks and scripts (default $USER)."
);
flag!(
    TOKEN,
    "token",
    Takes::Text("TOKEN"),
    true,
    "Token for hooks and scripts (default $ENVEXEC_TOKEN)."
);
flag!(
    LOOKUP_BY,
    "lookup-by",
    Takes::OneOf(&["ip", "hostname"]),
    true,
    "How the agent's address is found."
);
flag!(
    RATE,
    "rate",
    Takes::Text("N/SECONDS|off|default"),
    true,
    "Connections the agent takes; default 9/60."
);
flag!(
    AGENT_PORT,
    "agent-port",
    Takes::Number("PORT", 1, 65_535),
    true,
    "Port the agent listens on."
);
flag!(
    IP,
    "ip",
    Takes::Text("ADDRESS"),
    true,
    "Address of the agent."
);
flag!(
    RENAME,
    "rename",
    Takes::Text("NAME"),
    true,
    "New registry name."
);
flag!(
    TAGS,
    "tags",
    Takes::Text("K=V[,K=V...]"),
    true,
    "Only agents that carry all these tags."
);
flag!(
    ASYNC,
    "async",
    Takes::Nothing,
    true,
    "Submit and return; see status and wait."
);
flag!(
    TIMEOUT,
    "timeout",
    Takes::Number("SECONDS", 1, 86_400),
    true,
    "Time limit in seconds."
);
flag!(ALL, "all", Takes::Nothing, false, "Every registered agent.");
flag!(
    FAILED_OF,
    "failed-of",
    Takes::Text("REQID"),
    false,
    "Only the hosts where that run failed."
);
flag!(
    EXCLUDE,
    "exclude",
    Takes::Text("HOSTS"),
    false,
    "Not these hosts, written as hosts are; may be given again."
);
flag!(
    HOSTS_FILE,
    "hosts-file",
    Takes::File,
    false,
    "Also the hosts listed in this file, as @PATH does; - is standard input."
);
flag!(
    SINCE,
    "since",
    Takes::Text("AGE"),
    false,
    "Only runs not older than this: 30m, 12h, 7d."
);
flag!(
    HOST,
    "host",
    Takes::Text("NAME"),
    false,
    "Only runs on this agent, or those that a pattern fits."
);
flag!(
    SCRIPT,
    "script",
    Takes::Text("NAME"),
    false,
    "Only runs of this script."
);
flag!(
    BY,
    "user",
    Takes::Text("NAME"),
    false,
    "Only runs ordered by this user."
);
flag!(
    FAILED,
    "failed",
    Takes::Nothing,
    false,
    "Only runs in which something failed."
);
flag!(
    LIST,
    "list",
    Takes::Nothing,
    false,
    "Show who would be reached, and stop."
);
flag!(
    TIME_LIMIT,
    "time-limit",
    Takes::Text("TIME"),
    false,
    "The agents end the script after this time: 30s, 10m, 2h, or seconds."
);
flag!(
    ALL_RUNS,
    "all",
    Takes::Nothing,
    false,
    "Every run of this dispatcher on these hosts."
);
flag!(
    DESPITE_UNKNOWN,
    "despite-unknown",
    Takes::Text("REQID"),
    false,
    "Also where this run of the script has an end that is not known; may be given several times."
);
flag!(
    WITH_UNKNOWN,
    "with-unknown",
    Takes::Nothing,
    false,
    "With --failed-of: also the hosts where that run may still go on."
);
flag!(
    ON_HANGUP,
    "on-hangup",
    Takes::OneOf(&["leave", "cancel"]),
    false,
    "When the terminal closes: go on and record the results (leave), or end the runs on the agents."
);
flag!(
    ACCEPT_NAME,
    "accept-name",
    Takes::Nothing,
    false,
    "Also where a certificate has another name than the one paired; for this once."
);
flag!(
    CERT_NAME,
    "cert-name",
    Takes::Text("NAME"),
    false,
    "The name that the agent's certificate has."
);
flag!(
    JSON_LINES,
    "json-lines",
    Takes::Nothing,
    false,
    "Print each result as a line of JSON as it arrives."
);
flag!(
    FOLD,
    "fold",
    Takes::Nothing,
    false,
    "Show equal outputs once, under the list of hosts."
);
flag!(
    PREFIX,
    "prefix",
    Takes::Nothing,
    false,
    "The host before every line; what scripts write on standard error goes to standard error."
);
flag!(
    OUTPUT_DIR,
    "output-dir",
    Takes::File,
    false,
    "Write each host's output to HOST.stdout and HOST.stderr in this directory."
);
flag!(
    SORT,
    "sort",
    Takes::Nothing,
    false,
    "Results in order of host name, not of arrival."
);
flag!(
    BATCH,
    "batch",
    Takes::Text("N|N%"),
    false,
    "Rolling run: at most so many hosts at a time."
);
flag!(
    MAX_FAILURES,
    "max-failures",
    Takes::Text("N|N%"),
    false,
    "Start no further host after so many failures."
);
flag!(
    STRICT,
    "strict",
    Takes::Nothing,
    false,
    "Exit 6 if a host may still be running, else 5 if one was not reached, 4 if one refused, 1 if a script failed."
);
flag!(
    QUIET,
    "quiet",
    Takes::Nothing,
    false,
    "No progress and no summary on standard error."
);
flag!(
    PARALLEL,
    "parallel",
    Takes::Number("N", 1, 65_535),
    false,
    "Calls at once, in place of max_parallel."
);
flag!(
    YES,
    "yes",
    Takes::Nothing,
    false,
    "Do not ask for confirmation."
);
flag!(
    EXPIRED,
    "allow-expired",
    Takes::Nothing,
    false,
    "Also take an agent certificate that has expired but is otherwise valid."
);
flag!(
    FORCE,
    "force",
    Takes::Nothing,
    false,
    "Rotate although agents have not been told of the last rotation; they must then be paired again."
);
flag!(
    OFFLINE,
    "offline",
    Takes::Nothing,
    false,
    "Contact no agent."
);

flag!(
    RAW,
    "raw",
    Takes::Nothing,
    false,
    "Show script output as it is, also on a terminal, where control characters are shown otherwise."
);
flag!(
    SERIAL,
    "serial",
    Takes::Text("SERIAL"),
    false,
    "The serial of a certificate, as openssl prints it."
);
flag!(
    REPAIR,
    "repair",
    Takes::Nothing,
    false,
    "Make new records for those that cannot be read, of what is known."
);
flag!(
    REVOKE,
    "revoke",
    Takes::Nothing,
    false,
    "Bar the agent's certificates, too."
);
flag!(
    CODE,
    "code",
    Takes::Text("123456"),
    false,
    "Approve only if this is the code of the request; for scripts."
);
flag!(
    ROLE,
    "role",
    Takes::OneOf(&["view", "run", "approve", "admin"]),
    false,
    "What the token is good for."
);
flag!(
    TOKEN_SCRIPTS,
    "scripts",
    Takes::Text("PATTERN,..."),
    false,
    "The token is good for these scripts only."
);
flag!(
    TOKEN_HOSTS,
    "hosts",
    Takes::Text("PATTERN,..."),
    false,
    "The token is good for these agents only."
);
flag!(
    EXPIRES,
    "expires",
    Takes::Number("DAYS", 1, 3650),
    false,
    "The token ends after so many days."
);
flag!(
    REPLACE,
    "replace",
    Takes::Nothing,
    false,
    "Take the name from the agent that has it, and bar that one's certificates."
);

flag!(
    FOLLOW,
    "follow",
    Takes::Nothing,
    false,
    "Show output while it comes, with the host before every line."
);
flag!(
    STDIN,
    "stdin",
    Takes::Nothing,
    false,
    "Give the scripts what is read from standard input, at most 512 KiB."
);
flag!(
    DAYS,
    "days",
    Takes::Number("DAYS", 1, 36_500),
    false,
    "Days that the certificate is to last."
);
flag!(FINISH, "finish", Takes::Nothing, false, "Drop the old CA.");
flag!(
    STATUS,
    "status",
    Takes::Nothing,
    false,
    "Change nothing; show how far it is."
);

/// Flags every verb takes.
pub static COMMON: &[&Flag] = &[&CONFIG, &ROOT, &HELP, &VERSION];

impl Flag {
    /// `--name VALUE` as shown in help.
    pub fn shown(&self) -> String {
        match self.takes {
            Takes::Nothing => format!("--{}", self.name),
            Takes::Text(word) | Takes::Number(word, ..) => format!("--{} {word}", self.name),
            Takes::File => format!("--{} PATH", self.name),
            Takes::OneOf(words) => format!("--{} {}", self.name, words.join("|")),
        }
    }
}
flag!(
    TO,
    "to",
    Takes::Text("KEY"),
    false,
    "Encrypt to this public key (age1...) instead of a passphrase; may be given more than once."
);
flag!(
    IDENTITY,
    "identity",
    Takes::File,
    false,
    "File of the secret key that opens it, as backup --new-key or age-keygen made it."
);
flag!(
    PASSPHRASE_FILE,
    "passphrase-file",
    Takes::File,
    false,
    "Read the passphrase from the first line of this file."
);
flag!(
    PASSPHRASE_FD,
    "passphrase-fd",
    Takes::Number("FD", 0, 1_000_000),
    false,
    "Read the passphrase from this file descriptor, to the end of a line."
);
flag!(
    NO_RUNS,
    "no-runs",
    Takes::Nothing,
    false,
    "Leave the records of runs out."
);
flag!(
    NEW_KEY,
    "new-key",
    Takes::File,
    false,
    "Make a key pair: write the secret key to this file, print the public one, and stop."
);
flag!(
    OVERWRITE,
    "force",
    Takes::Nothing,
    false,
    "Replace a dispatcher that is here already; what is replaced is kept."
);
flag!(
    QUICK,
    "quick",
    Takes::Nothing,
    false,
    "Do not ask agents that were silent the last three times."
);
