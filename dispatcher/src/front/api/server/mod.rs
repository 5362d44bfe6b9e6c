//! The loop: sockets, hooks and what threads hand back. Nothing in it waits.

mod conns;
mod exchange;
mod streams;
mod threads;

use super::app::{App, Source};
use super::call::Call;
use super::reply::Reply;
use super::routes;
use super::step::Step;
use crate::model::AppError;
use crate::tasks::auth::{self, Question};
use conns::Conns;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::http::Request;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_reactor::{
    ChildExit, ChildId, Config, ConnId, Event, ListenerId, Reactor, ServerLimits, Signal, Then,
};
use exchange::{Exchange, Ticket, keeps_alive};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use streams::Streams;
use threads::{Note, Outbox};

/// Stands for the request of a connection that follows a run.
const STREAMING: Ticket = 0;
/// Connections that the system may hold for us before they are accepted.
const BACKLOG: i32 = 1024;
/// Connections beyond the limit in which a newcomer is looked at before somebody gives way.
const SPARE: usize = 16;
/// Bytes held in bodies and unsent answers, over all connections.
const MAX_BUFFERED: usize = 256 << 20;
/// How long requests under way may take after a stop.
const DRAIN: Duration = Duration::from_secs(60);
/// Token of the timer that ends it.
const DRAINED: u64 = 1;
/// How often streams are told that they are alive.
const BEAT_EVERY: Duration = Duration::from_secs(15);
/// Token of the timer for it.
const BEAT: u64 = 2;

/// A server that is bound.
pub struct Server {
    reactor: Reactor,
    listener: ListenerId,
    address: SocketAddr,
    source: Source,
    app: Arc<App>,
    limits: Arc<ServerLimits>,
    conns: Conns,
    exchanges: HashMap<Ticket, Exchange>,
    /// Connections that follow runs.
    streams: Streams,
    /// Hooks under way.
    hooks: HashMap<ChildId, Ticket>,
    last_ticket: Ticket,
    outbox: Outbox,
    inbox: Receiver<Note>,
    stopping: bool,
    over: bool,
}

impl Server {
    /// Binds the address; nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    /// The address is taken or forbidden, or the system has no descriptors left.
    pub fn bind(source: Source, app: App) -> Result<Self, AppError> {
        let mut reactor = Reactor::new(Config {
            max_conns: app.settings.most_conns + SPARE,
            max_buffered: MAX_BUFFERED,
            // No more than there is room for before the first of them is looked at.
            accept_burst: SPARE,
        })?;
        let bind = app.settings.bind;
        let listener = listen(&mut reactor, bind)?;
        let address = reactor.listener_addr(listener).unwrap_or(bind);
        let (outbox, inbox) = Outbox::new(reactor.waker()?);
        let events = outbox.clone();
        app.hub.on_events(move || events.put(Note::Events));
        Ok(Self {
            reactor,
            listener,
            address,
            source,
            app: Arc::new(app),
            limits: Arc::new(limits()),
            conns: Conns::default(),
            exchanges: HashMap::new(),
            streams: Streams::default(),
            hooks: HashMap::new(),
            last_ticket: 0,
            outbox,
            inbox,
            stopping: false,
            over: false,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.app.settings.tls.is_some()
    }

    /// Serves until it is told to stop and what was under way is over.
    ///
    /// # Errors
    /// The loop's.
    pub fn run(mut self) -> Result<(), AppError> {
        self.reactor
            .watch_signals(&[Signal::Hup, Signal::Int, Signal::Term])?;
        self.reactor.set_timer(BEAT_EVERY, BEAT);
        self.log_start();
        while !self.over {
            if let Some(event) = self.reactor.next(None)? {
                self.handle(event);
                self.measure();
            }
            if self.stopping && self.exchanges.is_empty() && self.reactor.live_conns() == 0 {
                break;
            }
        }
        self.log(Level::Info, &Line::new("api-stop"));
        Ok(())
    }

    fn measure(&self) {
        let meters = &self.app.meters;
        for (gauge, now) in [
            (&meters.in_flight, self.exchanges.len()),
            (&meters.connections, self.conns.len()),
            (&meters.streams, self.streams.len()),
        ] {
            gauge.store(now, Ordering::Relaxed);
        }
    }

    fn log_start(&self) {
        let tls = if self.has_tls() { "yes" } else { "no" };
        let line = Line::new("api-start")
            .field("BIND", self.address.ip())
            .field("PORT", self.address.port())
            .field("TLS", tls);
        self.log(Level::Info, &line);
    }

    fn log(&self, level: Level, line: &Line) {
        self.app.dispatcher.log.log(level, line);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Incoming { conn, peer, .. } => self.incoming(conn, peer),
            Event::Request { conn, request } => self.request(conn, &request),
            Event::BadRequest { conn, error } => {
                let reply = Reply::of_http(error);
                self.app.meters.answered(reply.status);
                let bytes = reply.render(false, false);
                self.reactor.send(conn, bytes, Then::Close);
            }
            Event::Closed { conn, .. } => self.closed(conn),
            Event::Sent { conn } => self.streams.sent(&mut self.reactor, conn),
            // Whoever follows a run and has no more to say will not hear us out either.
            Event::PeerClosed { conn } if self.streams.has(conn) => {
                self.reactor.close(conn);
            }
            Event::Child { child, result } => self.hook_ended(child, Some(result.exit)),
            Event::Woken => self.read_inbox(),
            Event::Signal(Signal::Hup) => self.reload(),
            Event::Signal(_) => self.stop(),
            Event::Timer { token: DRAINED, .. } => self.over = true,
            Event::Timer { token: BEAT, .. } => {
                self.streams.beat(&mut self.reactor);
                self.reactor.set_timer(BEAT_EVERY, BEAT);
            }
            _ => {}
        }
    }

    fn incoming(&mut self, conn: ConnId, peer: SocketAddr) {
        if self.stopping {
            self.reactor.close(conn);
            return;
        }
        if self.conns.len() >= self.app.settings.most_conns {
            match self.conns.oldest_idle_of_most() {
                Some(idle) => {
                    self.conns.remove(idle);
                    self.reactor.close(idle);
                }
                None => {
                    self.reactor.close(conn);
                    return;
                }
            }
        }
        self.conns.insert(conn, peer.ip().to_canonical());
        match &self.app.settings.tls {
            Some(tls) => self.reactor.serve(conn, tls, &self.limits),
            None => self.reactor.serve_plain(conn, &self.limits),
        };
    }

    fn request(&mut self, conn: ConnId, request: &Request) {
        let Some(peer) = self.conns.peer(conn) else {
            return;
        };
        let live = self.exchanges.len();
        if live >= self.app.settings.most_requests {
            let line = Line::new("api-overload")
                .field("LIVE", live)
                .field("PEER", peer);
            self.log(Level::Warning, &line);
            let reply = Reply::overloaded();
            self.app.meters.answered(reply.status);
            let bytes = reply.render(false, false);
            self.reactor.send(conn, bytes, Then::Close);
            return;
        }
        let call = Call::new(Arc::clone(&self.app), request, peer);
        let line = Line::new("api-request")
            .field("METHOD", &call.method)
            .field("PATH", call.target())
            .field("PEER", peer)
            .field("LEN", request.body.len());
        self.log(Level::Info, &line);
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let exchange = Exchange {
            conn: Some(conn),
            keep_alive: keeps_alive(request) && !self.stopping,
            headless: call.method == "HEAD",
            app: Arc::clone(&self.app),
            asked: None,
        };
        self.exchanges.insert(ticket, exchange);
        self.conns.set_busy(conn, Some(ticket));
        self.carry_on(ticket, routes::enter(call));
    }

    /// Takes steps until one has to be waited for.
    fn carry_on(&mut self, ticket: Ticket, mut step: Step) {
        loop {
            let Some(exchange) = self.exchanges.get_mut(&ticket) else {
                return;
            };
            // Whoever has gone gets no answer, and nothing is begun for them.
            let Some(conn) = exchange.conn else {
                if let Step::Stream(feed, _, true) = &step {
                    feed.leave();
                }
                self.exchanges.remove(&ticket);
                return;
            };
            match step {
                Step::Answer(reply) => return self.answer(ticket, conn, &reply),
                Step::Stream(feed, place, joined) => {
                    self.exchanges.remove(&ticket);
                    if self.stopping {
                        self.reactor.close(conn);
                        if joined {
                            feed.leave();
                        }
                        return;
                    }
                    self.app.meters.answered(200);
                    // Busy with no request: it is not to give way to newcomers.
                    self.conns.set_busy(conn, Some(STREAMING));
                    let reactor = &mut self.reactor;
                    return self.streams.begin(reactor, conn, feed, place, joined);
                }
                Step::Ask(asked, then) => {
                    let app = &exchange.app;
                    match auth::api_question(&app.dispatcher, &app.tokens, &asked) {
                        Ok(Question::None(permit)) => step = then(Ok(permit)),
                        Ok(Question::Ask(spec)) => {
                            exchange.asked = Some((asked, then));
                            match self.reactor.spawn(*spec) {
                                Ok(child) => {
                                    self.hooks.insert(child, ticket);
                                    return;
                                }
                                Err(_) => match self.concluded(ticket, None) {
                                    Some(next) => step = next,
                                    None => return,
                                },
                            }
                        }
                        Err(error) => step = then(Err(error)),
                    }
                }
                Step::Work(job) => {
                    let app = Arc::clone(&exchange.app);
                    match self.outbox.work(ticket, app, job) {
                        Ok(()) => return,
                        Err(error) => {
                            let detail = format!("cannot start a thread: {error}");
                            step = Step::Answer(Reply::error(500, "server error", detail));
                        }
                    }
                }
            }
        }
    }

    fn hook_ended(&mut self, child: ChildId, exit: Option<ChildExit>) {
        let Some(ticket) = self.hooks.remove(&child) else {
            return;
        };
        if let Some(step) = self.concluded(ticket, exit) {
            self.carry_on(ticket, step);
        }
    }

    /// What follows the end of a hook.
    fn concluded(&mut self, ticket: Ticket, exit: Option<ChildExit>) -> Option<Step> {
        let exchange = self.exchanges.get_mut(&ticket)?;
        let (asked, then) = exchange.asked.take()?;
        let verdict = auth::conclude(&exchange.app.dispatcher, &asked.request, exit);
        Some(then(verdict))
    }

    fn answer(&mut self, ticket: Ticket, conn: ConnId, reply: &Reply) {
        let Some(exchange) = self.exchanges.remove(&ticket) else {
            return;
        };
        self.app.meters.answered(reply.status);
        let keep_alive = exchange.keep_alive && !self.stopping;
        let bytes = reply.render(keep_alive, exchange.headless);
        let then = if keep_alive {
            Then::KeepAlive
        } else {
            Then::Close
        };
        self.conns.set_busy(conn, None);
        self.reactor.send(conn, bytes, then);
    }

    fn closed(&mut self, conn: ConnId) {
        self.streams.remove(conn);
        let Some(ticket) = self.conns.remove(conn) else {
            return;
        };
        if let Some(exchange) = self.exchanges.get_mut(&ticket) {
            // What has begun goes on: a run is not to depend on who still listens.
            exchange.conn = None;
        }
    }

    fn read_inbox(&mut self) {
        while let Ok(note) = self.inbox.try_recv() {
            match note {
                Note::Step(ticket, step) => self.carry_on(ticket, step),
                Note::Events => {
                    self.app.hub.seen();
                    self.streams.look(&mut self.reactor);
                }
            }
        }
    }

    /// Reads the configuration again. One that does not do changes nothing.
    fn reload(&mut self) {
        let fresh = App::load(&self.source, Some(&self.app)).and_then(|app| {
            if app.settings.bind != self.app.settings.bind {
                let listener = listen(&mut self.reactor, app.settings.bind)?;
                self.reactor.close_listener(self.listener);
                self.listener = listener;
                let address = self.reactor.listener_addr(listener);
                self.address = address.unwrap_or(app.settings.bind);
            }
            Ok(app)
        });
        match fresh {
            Ok(app) => {
                self.reactor.set_max_conns(app.settings.most_conns + SPARE);
                self.app = Arc::new(app);
                self.log(Level::Info, &Line::new("api-reload").field("RESULT", "ok"));
            }
            Err(error) => {
                log::error!("the configuration was not read again: {error}");
                let line = Line::new("api-reload").field("ERROR", error);
                self.log(Level::Err, &line);
            }
        }
    }

    /// Takes no more requests and lets those under way end. Told twice, it ends at once.
    fn stop(&mut self) {
        if self.stopping {
            self.over = true;
            return;
        }
        self.stopping = true;
        self.reactor.close_listener(self.listener);
        self.reactor.set_timer(DRAIN, DRAINED);
        // Who follows a run comes back with the last event seen.
        for conn in self.conns.idle().into_iter().chain(self.streams.conns()) {
            self.reactor.close(conn);
        }
    }
}

fn listen(reactor: &mut Reactor, bind: SocketAddr) -> Result<ListenerId, AppError> {
    let listener = reactor.listen(bind, BACKLOG);
    listener.map_err(|error| AppError::system(format!("cannot listen on {bind}: {error}")))
}

fn limits() -> ServerLimits {
    ServerLimits {
        handshake: Duration::from_secs(10),
        head: Some(Duration::from_secs(10)),
        request: Duration::from_secs(60),
        write: Duration::from_secs(30),
        idle: Duration::from_secs(60),
        ..ServerLimits::default()
    }
}
