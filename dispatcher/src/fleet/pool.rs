//! Connections that stand idle and can serve another call.

use super::call::{Identity, Route};
use ctrl_exec_reactor::{ClientLimits, ConnId};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// An idle connection.
#[derive(Debug)]
pub(super) struct Kept {
    pub conn: ConnId,
    pub identity: Identity,
    /// The limits it was made with.
    pub limits: Arc<ClientLimits>,
}

/// Idle connections by agent, at most `most` of them.
#[derive(Debug)]
pub(super) struct Pool {
    most: usize,
    by_route: HashMap<Route, Vec<Kept>>,
    route_of: HashMap<ConnId, (u64, Route)>,
    /// In the order in which they came; those taken meanwhile are skipped.
    order: VecDeque<(u64, ConnId)>,
    kept: u64,
}

impl Pool {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            by_route: HashMap::new(),
            route_of: HashMap::new(),
            order: VecDeque::new(),
            kept: 0,
        }
    }

    /// Keeps a connection. Returns the one that is to be closed instead of the oldest kept, when
    /// there are too many.
    pub fn keep(&mut self, route: &Route, kept: Kept) -> Option<ConnId> {
        let conn = kept.conn;
        self.by_route.entry(route.clone()).or_default().push(kept);
        self.kept += 1;
        self.route_of.insert(conn, (self.kept, route.clone()));
        self.order.push_back((self.kept, conn));
        if self.order.len() > 2 * self.most + 16 {
            let route_of = &self.route_of;
            self.order
                .retain(|(kept, conn)| route_of.get(conn).is_some_and(|(last, _)| last == kept));
        }
        if self.route_of.len() > self.most {
            return self.oldest();
        }
        None
    }

    /// Takes the connection that came last of those that fit a call.
    pub fn take(
        &mut self,
        route: &Route,
        identity: &Identity,
        limits: &Arc<ClientLimits>,
    ) -> Option<ConnId> {
        let kept = self.by_route.get_mut(route)?;
        let at = kept
            .iter()
            .rposition(|kept| kept.identity.is(identity) && Arc::ptr_eq(&kept.limits, limits))?;
        let conn = kept.swap_remove(at).conn;
        if kept.is_empty() {
            self.by_route.remove(route);
        }
        self.route_of.remove(&conn);
        Some(conn)
    }

    /// Takes any connection to this agent.
    pub fn take_any(&mut self, route: &Route) -> Option<ConnId> {
        let conn = self.by_route.get(route)?.first()?.conn;
        self.remove(conn);
        Some(conn)
    }

    /// Takes the connection that has been kept longest.
    pub fn oldest(&mut self) -> Option<ConnId> {
        loop {
            let (kept, conn) = self.order.pop_front()?;
            if self
                .route_of
                .get(&conn)
                .is_some_and(|(last, _)| *last == kept)
            {
                self.remove(conn);
                return Some(conn);
            }
        }
    }

    /// Forgets a connection and says whose it was.
    pub fn remove(&mut self, conn: ConnId) -> Option<Route> {
        let (_, route) = self.route_of.remove(&conn)?;
        if let Some(kept) = self.by_route.get_mut(&route) {
            kept.retain(|kept| kept.conn != conn);
            if kept.is_empty() {
                self.by_route.remove(&route);
            }
        }
        Some(route)
    }

    pub fn len(&self) -> usize {
        self.route_of.len()
    }
}
