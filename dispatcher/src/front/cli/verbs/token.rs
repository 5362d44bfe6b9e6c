//! `token create`, `token list`, `token revoke`: who may use the HTTP API.

use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{EXPIRES, JSON, ROLE, TOKEN_HOSTS, TOKEN_SCRIPTS};
use crate::front::cli::out;
use crate::model::{AppError, Kind};
use crate::store::files::tokens::{Role, Token, TokenFile};
use ctrl_exec_host::lock::{self, Kind as LockKind};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::time::Utc;
use std::fmt::Write;

/// Carries one of them out.
pub fn token(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let file = TokenFile::at(&ctx.root);
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => list(&file, args),
        ["create", name] => create(ctx, &file, args, name),
        ["revoke", name] => revoke(ctx, &file, args, name),
        _ => Err(AppError::usage(
            "say token create NAME --role ROLE, token list, or token revoke NAME",
        )),
    }
}

fn create(ctx: &Ctx, file: &TokenFile, args: &Args, name: &str) -> Result<Exit, AppError> {
    if !names::is_agent_name(name) || name.len() > 64 {
        let message = "a token's name is of letters, digits, '.', '_' and '-', 64 at the most";
        return Err(AppError::usage(message));
    }
    let Some(role) = args.value(&ROLE).and_then(Role::parse) else {
        let words = Role::WORDS.join(", ");
        return Err(AppError::usage(format!("--role is needed: {words}")));
    };
    let list = |text: Option<&str>| {
        let words = text.unwrap_or_default().split(',').map(str::trim);
        let words = words.filter(|word| !word.is_empty());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let days: Option<i64> = args.number(&EXPIRES);
    let expires = days.map(|days| Utc(Utc::now().0 + days * 86_400));
    let _lock = locked(file)?;
    let mut tokens = read(file)?;
    if tokens.iter().any(|token| token.name == name) {
        let message = format!("there is a token '{name}'; revoke it first");
        return Err(AppError::new(Kind::Conflict, message));
    }
    let (mut token, secret) = Token::new(name, role, expires)?;
    token.scripts = list(args.value(&TOKEN_SCRIPTS));
    token.hosts = list(args.value(&TOKEN_HOSTS));
    for (flag, patterns) in [
        (&TOKEN_SCRIPTS, &token.scripts),
        (&TOKEN_HOSTS, &token.hosts),
    ] {
        if args.has(flag) && patterns.is_empty() {
            return Err(AppError::usage(format!("--{} names nothing", flag.name)));
        }
    }
    tokens.push(token.clone());
    write(file, &tokens)?;
    let line = Line::new("token-create")
        .field("NAME", name)
        .field("ROLE", role.word());
    ctx.log(Level::Warning, &line);
    if args.has(&JSON) {
        let mut object = token.object();
        object.set("ok", Json::integer(1));
        object.set("token", Json::text(secret));
        out::line(object.render());
    } else {
        out::error(format_args!("Token '{name}'; it is shown this once:"));
        out::line(secret);
    }
    Ok(0)
}

fn list(file: &TokenFile, args: &Args) -> Result<Exit, AppError> {
    let (tokens, used) = (read(file)?, file.used());
    if args.has(&JSON) {
        let objects = tokens.iter().map(|token| {
            let mut object = token.object();
            let at = used.get(&token.name).map(|at| Utc(*at).iso());
            object.set_text("used", at.as_deref());
            object
        });
        let body = Members::of([("ok", Json::integer(1)), ("tokens", Json::list(objects))]);
        out::line(body.render());
        return Ok(0);
    }
    let mut text = row(["NAME", "ROLE", "EXPIRES", "LAST USED", "SCRIPTS", "HOSTS"]);
    let now = Utc::now();
    for token in &tokens {
        let all = |patterns: &[String]| match patterns {
            [] => "all".to_owned(),
            patterns => out::clean(&patterns.join(",")),
        };
        let expires = match token.expires {
            None => "never".to_owned(),
            Some(end) if token.has_expired(now) => format!("{} (ended)", end.iso()),
            Some(end) => end.iso(),
        };
        let at = used.get(&token.name);
        let at = at.map_or_else(|| "never".to_owned(), |at| Utc(*at).iso());
        let name = out::clean(&token.name);
        let (scripts, hosts) = (all(&token.scripts), all(&token.hosts));
        text.push_str(&row([
            &name,
            token.role.word(),
            &expires,
            &at,
            &scripts,
            &hosts,
        ]));
    }
    out::raw(&text);
    Ok(0)
}

fn row([name, role, expires, used, scripts, hosts]: [&str; 6]) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        line,
        "{name:<20}  {role:<8}  {expires:<28}  {used:<20}  {scripts:<20}  {hosts}"
    );
    line
}

fn revoke(ctx: &Ctx, file: &TokenFile, args: &Args, name: &str) -> Result<Exit, AppError> {
    let _lock = locked(file)?;
    let mut tokens = read(file)?;
    let before = tokens.len();
    tokens.retain(|token| token.name != name);
    if tokens.len() == before {
        let name = out::clean(name);
        return Err(AppError::new(Kind::NotFound, format!("no token '{name}'")));
    }
    // The file stays when no token is left: without it the API could be open as before the first.
    write(file, &tokens)?;
    ctx.log(
        Level::Warning,
        &Line::new("token-revoke").field("NAME", name),
    );
    if args.has(&JSON) {
        let body = Members::of([("ok", Json::integer(1)), ("name", Json::text(name))]);
        out::line(body.render());
    } else {
        out::line(format_args!("Token '{name}' is refused from now on."));
    }
    Ok(0)
}

fn locked(file: &TokenFile) -> Result<lock::Lock, AppError> {
    let path = file.path().with_extension("lock");
    let lock = lock::open(&path, 0o600).and_then(|fd| lock::wait(fd, LockKind::Exclusive));
    lock.map_err(|error| AppError::system(format!("{}: {error}", path.display())))
}

fn read(file: &TokenFile) -> Result<Vec<Token>, AppError> {
    let path = file.path().display();
    let load = file.load();
    load.map(Option::unwrap_or_default)
        .map_err(|error| AppError::system(format!("{path}: {error}")))
}

fn write(file: &TokenFile, tokens: &[Token]) -> Result<(), AppError> {
    let path = file.path().display();
    let save = file.save(tokens);
    save.map_err(|error| AppError::system(format!("{path}: {error}")))
}
