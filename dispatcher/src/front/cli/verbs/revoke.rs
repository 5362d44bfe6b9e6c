//! `revoke`: unpair an agent and shut its certificate out.

use crate::fleet::address;
use crate::front::cli::session::Session;
use crate::front::cli::table::{JSON, PORT};
use crate::front::cli::{Ctx, Exit, Fatal, out, parse::Args};
use crate::jval;
use crate::store::files::registry::Record;
use crate::store::files::revoked;
use crate::tasks;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::x509::cert;
use std::fmt::Write;

/// Removes an agent, bars its certificate here, and says what is left to do elsewhere.
pub fn revoke(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let name = &args.words[0];
    let registry = ctx.registry();
    let record = registry.require(name)?;
    let serial = match record.text("cert_serial") {
        "" => shown_serial(ctx, args, &record),
        serial => Some(serial.to_owned()),
    };
    // Barred first: a crash in between leaves an agent that is listed and refused, not one that
    // is forgotten and accepted.
    if let Some(serial) = &serial {
        revoked::add(&ctx.root, serial, name).map_err(|error| {
            Fatal(format!(
                "cannot write {}: {error}",
                revoked::path(&ctx.root).display()
            ))
        })?;
    }
    registry.remove(name)?;
    let line = Line::new("revoke")
        .field("AGENT", name)
        .field("SERIAL", serial.as_deref().unwrap_or("unknown"))
        .field("EXPIRY", record.expiry());
    ctx.log(Level::Info, &line);
    let others = registry.names()?;
    if args.has(&JSON) {
        out::line(jval::line(&jval::object([
            ("ok", jval::int(1)),
            ("agent", jval::string(name.as_str())),
            ("serial", jval::string(serial.unwrap_or_default())),
            ("expiry", jval::string(record.expiry())),
            ("agents", jval::strings(&others)),
        ])));
    } else {
        out::raw(&instructions(name, &record, serial.as_deref(), &others));
    }
    Ok(0)
}

/// The serial of the certificate the agent shows now; older records do not hold it.
fn shown_serial(ctx: &Ctx, args: &Args, record: &Record) -> Option<String> {
    let session = Session::open(ctx, ctx.config().ok()?, args, false).ok()?;
    let target = address::target(record, None, args.number(&PORT));
    let identity = session.identity(&target);
    let call = tasks::ping_call(target, identity, "");
    let answers = session.engine.all(vec![call], session.plan.clone());
    let facts = cert::facts(answers.first()?.certificate.as_deref()?).ok()?;
    // Another agent may answer at that address: its certificate must not be barred.
    (facts.subject_cn.as_deref() == Some(record.paired_cn())).then_some(facts.serial_hex)
}

fn instructions(name: &str, record: &Record, serial: Option<&str>, others: &[String]) -> String {
    let expiry = match record.expiry() {
        "" => "unknown".to_owned(),
        expiry => out::clean(expiry),
    };
    let mut text = format!("Unregistered '{name}'. Its certificate is valid until: {expiry}\n");
    match serial {
        Some(serial) => {
            let _ = writeln!(
                text,
                "Serial {serial} is refused by this dispatcher from now on."
            );
        }
        None => text.push_str(
            "WARNING: its serial is not known (the agent did not answer), so nothing is refused \
             yet.\nFind it on the agent with: openssl x509 -noout -serial -in \
             /etc/ctrl-exec-agent/agent.crt\nand add it to the revocation list of this dispatcher \
             and of the other agents.\n",
        ),
    }
    let serial = serial.unwrap_or("<serial>");
    let _ = write!(
        text,
        "\nAgents trust dispatchers by serial, so this certificate opens no other agent. To have \
         them refuse it\nbefore they read a request, run on each of the {} other agent(s):\n  \
         echo '{serial}' >> /etc/ctrl-exec-agent/revoked-serials\nand reload the agent (SIGHUP; \
         systemctl reload ctrl-exec-agent, or /etc/init.d/ctrl-exec-agent reload).\nOn '{name}' \
         itself, if you still have it: stop the agent and remove /etc/ctrl-exec-agent/agent.key.\n",
        others.len()
    );
    text
}
