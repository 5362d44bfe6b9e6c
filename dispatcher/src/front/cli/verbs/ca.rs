//! `renew-ca` and `replace-ca`.

use crate::ca::CaOptions;
use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{DAYS, FINISH, FORCE, JSON, STATUS};
use crate::front::cli::out;
use crate::model::AppError;
use crate::tasks::handover::{self, Survey};
use crate::tasks::renew_ca::{self, Has, Holders};
use crate::tasks::replace_ca::{self, Phase, Progress, Shows, Standing};
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::time::Utc;
use std::fmt::Write;

/// Makes the CA's certificate anew and hands it to the agents.
pub fn renew_ca(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let end = if args.has(&STATUS) {
        None
    } else {
        let days = args.number(&DAYS).unwrap_or(CaOptions::default().days);
        renew_ca::reissue(&dispatcher, days, Utc::now())?
    };
    let survey = if args.has(&STATUS) {
        Survey::default()
    } else {
        handover::survey(&dispatcher)?
    };
    let holders = renew_ca::holders(&dispatcher)?;
    let complete = holders.values().all(|has| *has == Has::Yes);
    if args.has(&JSON) {
        out::line(
            Members::of([
                ("ok", Json::integer(1)),
                ("expiry", Json::text(end.unwrap_or_default())),
                ("complete", Json::integer(i64::from(complete))),
                ("agents", Json::list(objects(&holders, &survey))),
            ])
            .render(),
        );
        return Ok(u8::from(!complete));
    }
    let mut text = match end {
        Some(end) => {
            format!("The CA certificate is made anew, with the same key: it ends on {end}.\n\n")
        }
        None if args.has(&STATUS) => String::new(),
        None => "The CA certificate lasts as long already; agents that lack it are handed it.\n\n"
            .to_owned(),
    };
    text.push_str(&table(&holders, &survey));
    text.push_str(&advice(&holders));
    out::raw(&text);
    Ok(u8::from(!complete))
}

fn word(has: &Has) -> &'static str {
    match has {
        Has::Yes => "yes",
        Has::No(_) => "no",
        Has::Never => "never",
        Has::Unknown => "unknown",
    }
}

/// Who has the CA certificates, one a row.
fn table(holders: &Holders, survey: &Survey) -> String {
    let mut text = format!("{:<30}  {:<8}  NOTE\n", "HOSTNAME", "HAS IT");
    for (name, has) in holders {
        let note = match (has, survey.error_of(name)) {
            (Has::Never, _) => "release 0.12.3: takes no CA certificate from here",
            (_, Some(error)) => error,
            (Has::No(_), None) => "not handed over yet",
            (Has::Unknown, None) => "not heard of yet",
            (Has::Yes, None) => "",
        };
        let line = format!("{name:<30}  {:<8}  {}", word(has), out::clean(note));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The same for `--json`.
fn objects(holders: &Holders, survey: &Survey) -> Vec<Members> {
    holders
        .iter()
        .map(|(name, has)| {
            let mut object = Members::of([
                ("host", Json::text(name.as_str())),
                ("has", Json::text(word(has))),
            ]);
            if let Some(error) = survey.error_of(name) {
                object.set("error", Json::text(error));
            }
            object
        })
        .collect()
}

/// What is left to do for agents that lack the certificate.
fn advice(holders: &Holders) -> String {
    let mut text = String::new();
    if holders
        .values()
        .any(|has| matches!(has, Has::No(_) | Has::Unknown))
    {
        text.push_str(
            "\nAgents that were not reached get it with the next 'maintain' or 'ping'.\n",
        );
    }
    if holders.values().any(|has| *has == Has::Never) {
        text.push_str(
            "\nFor agents of release 0.12.3: copy ca.crt of this dispatcher to \
             /etc/ctrl-exec-agent/ca.crt\nbefore the old one ends, and restart the agent.\n",
        );
    }
    text
}

/// Puts a new CA in the place of the old one, a phase at a time.
pub fn replace_ca(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let (force, now) = (args.has(&FORCE), Utc::now());
    let progress = if args.has(&STATUS) {
        replace_ca::status(&dispatcher)?
    } else if args.has(&FINISH) {
        replace_ca::finish(&dispatcher, force, now)?
    } else {
        let days = args.number(&DAYS).unwrap_or(CaOptions::default().days);
        replace_ca::advance(&dispatcher, days, force, now)?
    };
    let done = match progress.phase {
        Phase::HandingOver => false,
        Phase::Exchanging => progress.agents.iter().all(Standing::is_ready),
        Phase::Finished => true,
    };
    if args.has(&JSON) {
        let agents = progress.agents.iter().map(|agent| {
            Members::of([
                ("host", Json::text(agent.name.as_str())),
                ("has", Json::text(word(&agent.has))),
                ("certificate", Json::text(shows(agent.shows))),
                ("knows_us", Json::integer(i64::from(agent.knows_us))),
                ("ready", Json::integer(i64::from(agent.is_ready()))),
                ("error", Json::text(agent.error.as_str())),
            ])
        });
        let phase = match progress.phase {
            Phase::HandingOver => "handing-over",
            Phase::Exchanging => "exchanging",
            Phase::Finished => "finished",
        };
        out::line(
            Members::of([
                ("ok", Json::integer(1)),
                ("phase", Json::text(phase)),
                ("ca", Json::text(progress.name.as_str())),
                ("complete", Json::integer(i64::from(done))),
                ("left", Json::texts(&progress.left)),
                ("agents", Json::list(agents)),
            ])
            .render(),
        );
    } else {
        out::raw(&replacement(&progress, ctx));
    }
    Ok(u8::from(!done))
}

fn shows(shows: Shows) -> &'static str {
    match shows {
        Shows::New => "new",
        Shows::Staged => "staged",
        Shows::Old => "old",
        Shows::Unknown => "unknown",
    }
}

fn replacement(progress: &Progress, ctx: &Ctx) -> String {
    let name = out::clean(&progress.name);
    let head = match progress.phase {
        Phase::HandingOver => {
            format!("Step 1 of 3: agents are handed the new CA, '{name}'; the old one signs.")
        }
        Phase::Exchanging => format!(
            "Step 2 of 3: the new CA, '{name}', signs; certificates are exchanged, both CAs are \
             trusted."
        ),
        Phase::Finished => format!("Step 3 of 3: '{name}' is the CA; the old one is dropped."),
    };
    let mut text = format!(
        "{head}\n\n{:<30}  {:<8}  {:<11}  {:<8}  NOTE\n",
        "HOSTNAME", "HAS IT", "CERTIFICATE", "KNOWS US"
    );
    for agent in &progress.agents {
        let note = match &agent.has {
            Has::Never => "release 0.12.3: to be paired again",
            _ if !agent.error.is_empty() => &agent.error,
            _ if agent.is_ready() => "",
            _ if agent.shows == Shows::Staged => "adopts its certificate when its timer runs",
            _ => "",
        };
        let knows = if agent.knows_us { "yes" } else { "no" };
        let line = format!(
            "{:<30}  {:<8}  {:<11}  {knows:<8}  {}",
            agent.name,
            word(&agent.has),
            shows(agent.shows),
            out::clean(note)
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push('\n');
    let waiting = progress
        .agents
        .iter()
        .filter(|agent| !agent.is_ready())
        .count();
    text.push_str(&match progress.phase {
        Phase::HandingOver => "Not every agent has the new CA: repeat 'replace-ca' when they can be \
             reached. 'replace-ca --force'\ngoes on without them; those not reached before the end must \
             be paired again.\n"
            .to_owned(),
        Phase::Exchanging if waiting > 0 => format!(
            "{waiting} agent(s) are not ready: repeat 'replace-ca', which goes on with them. \
             'replace-ca --finish' drops\nthe old CA when all are; with --force it leaves the others \
             behind, to be paired again.\n"
        ),
        Phase::Exchanging => "Every agent is ready. Other dispatchers of this CA must have done the \
             same; then 'replace-ca --finish'\ndrops the old CA.\n"
            .to_owned(),
        Phase::Finished => {
            let old = crate::ca::CaDir::new(
                ctx.config().map(|config| config.ca_dir()).unwrap_or_default(),
            );
            format!(
                "Make a backup now. The old CA's key is kept in {}; delete it when you need it no more.\n",
                old.old().dir().display()
            )
        }
    });
    if !progress.left.is_empty() {
        let _ = writeln!(
            text,
            "Left behind, to be paired again (request-pairing --replace-ca): {}",
            progress.left.join(", ")
        );
    }
    text
}
