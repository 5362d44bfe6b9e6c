//! `list-agents`, `edit-agent`, `unpair`, `list-locks` (dispatcher.md §3.6–3.8, §3.12).

use crate::front::cli::args::Args;
use crate::front::cli::ask;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{AGENT_PORT, CERT_NAME, IP, JSON, LOOKUP_BY, RATE, RENAME, REVOKE};
use crate::front::cli::out;
use crate::model::{AgentRecord, AppError, Holder, Rate};
use crate::store::files::issued::IssuedCert;
use crate::store::files::locks::LockDir;
use crate::store::locks::Locks;
use crate::tasks::revoke::Barring;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::{DAY, Utc};
use ctrl_exec_protocol::wire::pairing::LookupBy;
use std::fmt::Write;
use std::io::IsTerminal;

/// Lists registered agents.
pub fn list_agents(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let filter = ask::tags(args)?;
    let listing = ctx.registry().list()?;
    let mut agents = listing.records;
    // Told of whatever the filter: they are registered, and their tags are not known.
    out::damaged(&listing.damaged);
    let exit = Exit::from(!listing.damaged.is_empty());
    if let Some(filter) = &filter {
        agents.retain(|record| filter.matches(record));
    }
    if args.has(&JSON) {
        // Made by hand: cloning 50,000 records into one value would only cost.
        let records: Vec<String> = agents.iter().map(AgentRecord::to_json).collect();
        out::line(format_args!("[{}]", records.join(",")));
        return Ok(exit);
    }
    if agents.is_empty() && listing.damaged.is_empty() {
        out::line(if filter.is_some() {
            "No agents match."
        } else {
            "No agents registered."
        });
        return Ok(0);
    }
    let mut text = row([
        "HOSTNAME",
        "IP",
        "PORT",
        "LOOKUP",
        "PAIRED",
        "CERT EXPIRY",
        "DAYS LEFT",
    ]);
    let _ = writeln!(text, "{}", "-".repeat(112));
    let now = Utc::now();
    for record in &agents {
        let days = Utc::parse_openssl(record.expiry())
            .map_or_else(|| "?".to_owned(), |end| ((end.0 - now.0) / DAY).to_string());
        text.push_str(&row([
            &out::clean(record.hostname()),
            &out::clean(record.ip()),
            &record.port().to_string(),
            record.lookup_by().word(),
            &out::clean(record.paired()),
            &out::clean(record.expiry()),
            &note(record, days),
        ]));
    }
    out::raw(&text);
    Ok(exit)
}

/// The days left, and what else there is to say of an agent's certificate.
fn note(record: &AgentRecord, days: String) -> String {
    if let Some(since) = record.revoked() {
        return format!("REVOKED {}", out::clean(since));
    }
    match record.staged_expiry() {
        "" => days,
        end => format!(
            "{days}  (renewed until {}, not adopted yet)",
            out::clean(end)
        ),
    }
}

fn row([name, ip, port, lookup, paired, expiry, days]: [&str; 7]) -> String {
    format!("{name:<30}  {ip:<16}  {port:<5}  {lookup:<8}  {paired:<22}  {expiry:<24}  {days}\n")
}

/// Changes how an agent is reached or named.
pub fn edit_agent(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let name = &args.words[0];
    let (rename, ip, port, lookup) = (
        args.value(&RENAME),
        args.value(&IP),
        args.number::<u16>(&AGENT_PORT),
        args.value(&LOOKUP_BY),
    );
    let (rate, cert_name) = (args.value(&RATE), args.value(&CERT_NAME));
    let changes = [rename, ip, lookup, rate, cert_name];
    if port.is_none() && changes.iter().all(Option::is_none) {
        return Err(AppError::usage(
            "edit-agent needs at least one of --rename, --ip, --agent-port, --lookup-by, --rate, \
             --cert-name"
                .to_owned(),
        ));
    }
    if cert_name.is_some_and(str::is_empty) {
        return Err(AppError::usage(
            "option --cert-name: a name must not be empty".to_owned(),
        ));
    }
    if ip.is_some_and(str::is_empty) {
        return Err(AppError::usage(
            "option --ip: an address must not be empty".to_owned(),
        ));
    }
    if rate.is_some_and(|rate| rate != "default" && Rate::parse(rate).is_none()) {
        return Err(AppError::usage(
            "option --rate: N/SECONDS (1 to 100000 connections in 1 to 86400 s), off or default"
                .to_owned(),
        ));
    }
    let change = |record: &mut AgentRecord| {
        match rate {
            Some("default") => record.rate = None,
            Some(rate) => record.rate = Some(rate.to_owned()),
            None => {}
        }
        if let Some(name) = cert_name {
            record.paired_cn = Some(name.to_owned());
        }
        if let Some(ip) = ip {
            record.ip = Some(ip.to_owned());
        }
        if let Some(port) = port {
            record.port = Some(port);
        }
        if let Some(lookup) = lookup {
            record.lookup_by = LookupBy::parse(lookup);
        }
    };
    let registry = ctx.registry();
    let record = match rename {
        Some(new) => {
            let record = registry.rename(name, new, change)?;
            if new != name {
                ctx.issued().rename(name, new)?;
            }
            record
        }
        None => registry.update(name, change)?,
    };
    let mut line = Line::new("edit-agent").field("AGENT", record.name());
    if rename.is_some_and(|new| new != name) {
        line = line.field("RENAMED_FROM", name);
    }
    for (key, value) in [
        ("IP", ip),
        ("LOOKUP_BY", lookup),
        ("RATE", rate),
        ("CERT_NAME", cert_name),
    ] {
        if let Some(value) = value {
            line = line.field(key, value);
        }
    }
    if let Some(port) = port {
        line = line.field("PORT", port);
    }
    ctx.log(Level::Info, &line);
    if args.has(&JSON) {
        out::line(record.to_json());
        return Ok(0);
    }
    let mut text = format!("Updated '{}'.\n", record.name());
    if rename.is_some_and(|new| new != name) {
        let _ = writeln!(text, "  Renamed from: {name}");
    }
    let _ = writeln!(text, "  ip:           {}", out::clean(record.ip()));
    let _ = writeln!(text, "  port:         {}", record.port());
    let _ = writeln!(text, "  lookup_by:    {}", record.lookup_by().word());
    if let Some(name) = cert_name {
        let _ = writeln!(text, "  cert-name:    {}", out::clean(name));
    }
    if let Some(rate) = record.rate.as_deref().filter(|rate| !rate.is_empty()) {
        let _ = writeln!(text, "  rate:         {}", out::clean(rate));
    }
    out::raw(&text);
    Ok(0)
}

/// Forgets an agent. Its certificates are shown and can be barred in the same step.
pub fn unpair(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let name = &args.words[0];
    let (registry, issued) = (ctx.registry(), ctx.issued());
    let record = registry.require(name)?;
    let barring = Barring {
        root: &ctx.root,
        registry: &registry,
        issued: &issued,
    };
    let certs = barring.known(name, Utc::now())?;
    let mut text = String::new();
    for cert in &certs {
        let _ = writeln!(text, "  {}  until {}", cert.serial, until(cert));
    }
    let wanted = args.has(&REVOKE) || (!certs.is_empty() && asked(name, &text));
    if wanted {
        // Barred before it is forgotten: a crash in between leaves it listed and refused.
        let barred = barring.revoke(name, Utc::now(), |_| None)?;
        ctx.log(
            Level::Info,
            &Line::new("revoke")
                .field("AGENT", name)
                .field("SERIALS", serials(&barred.certs)),
        );
    }
    registry.remove(name)?;
    ctx.log(
        Level::Info,
        &Line::new("unpair")
            .field("AGENT", name)
            .field("EXPIRY", out::clean(record.expiry()))
            .field("SERIALS", serials(&certs)),
    );
    let mut message = format!("Unregistered '{name}'.\n");
    if wanted {
        let _ = write!(message, "Its certificates are refused from now on:\n{text}");
    } else if certs.is_empty() {
        let until = match record.expiry() {
            "" => "unknown".to_owned(),
            expiry => out::clean(expiry),
        };
        let _ = writeln!(
            message,
            "WARNING: Agent certificate remains valid until: {until}\nDecommission the agent \
             promptly or add its serial to the revocation list."
        );
    } else {
        let _ = write!(
            message,
            "WARNING: its certificates remain valid:\n{text}To refuse them, also now that it is \
             forgotten: ced revoke {name}\n"
        );
    }
    out::raw(&message);
    Ok(0)
}

/// On a terminal: whether the certificates are to be barred. Elsewhere nobody is asked.
fn asked(name: &str, certs: &str) -> bool {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return false;
    }
    out::error_raw(&format!(
        "Certificates of '{name}' that have not ended:\n{certs}Refuse them from now on? [y/N] "
    ));
    let mut line = String::new();
    let _ = stdin.read_line(&mut line);
    matches!(line.trim(), "y" | "Y")
}

/// The end of a certificate for people.
pub fn until(cert: &IssuedCert) -> String {
    if cert.until.0 == i64::MAX {
        "unknown".to_owned()
    } else {
        cert.until.openssl()
    }
}

/// Serials for a log line.
pub fn serials(certs: &[IssuedCert]) -> String {
    let serials: Vec<&str> = certs.iter().map(|cert| cert.serial.as_str()).collect();
    serials.join(",")
}

/// Lists locks held by running commands.
pub fn list_locks(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let held = LockDir::new(ctx.locks_dir()).list()?;
    if args.has(&JSON) {
        let locks = held.iter().map(Holder::object);
        out::line(Members::of([("ok", Json::integer(1)), ("locks", Json::list(locks))]).render());
    } else if held.is_empty() {
        out::line("No locks currently held.");
    } else {
        let mut text = String::from("Locks held:\n");
        for holder in &held {
            let _ = writeln!(text, "  {}", out::clean(&holder.to_string()));
        }
        out::raw(&text);
    }
    Ok(0)
}
