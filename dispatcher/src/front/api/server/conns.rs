//! The connections there are: whose they are, and which of them do nothing.

use super::exchange::Ticket;
use ctrl_exec_reactor::ConnId;
use std::collections::HashMap;
use std::net::IpAddr;

/// The connections there are.
#[derive(Debug, Default)]
pub struct Conns {
    all: HashMap<ConnId, Conn>,
    /// By address, how many.
    of: HashMap<IpAddr, usize>,
    last: u64,
}

#[derive(Debug)]
struct Conn {
    peer: IpAddr,
    /// The request that is being worked on.
    busy: Option<Ticket>,
    /// Rises with every connection and request: the smallest is idle for the longest time.
    touched: u64,
}

impl Conns {
    /// A connection was accepted.
    pub fn insert(&mut self, conn: ConnId, peer: IpAddr) {
        self.last += 1;
        let touched = self.last;
        let new = Conn {
            peer,
            busy: None,
            touched,
        };
        self.all.insert(conn, new);
        *self.of.entry(peer).or_default() += 1;
    }

    /// A connection has ended. What it waited for.
    pub fn remove(&mut self, conn: ConnId) -> Option<Ticket> {
        let gone = self.all.remove(&conn)?;
        if let Some(count) = self.of.get_mut(&gone.peer) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&gone.peer);
            }
        }
        gone.busy
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whose a connection is.
    pub fn peer(&self, conn: ConnId) -> Option<IpAddr> {
        self.all.get(&conn).map(|conn| conn.peer)
    }

    /// Notes what a connection waits for.
    pub fn set_busy(&mut self, conn: ConnId, busy: Option<Ticket>) {
        self.last += 1;
        if let Some(conn) = self.all.get_mut(&conn) {
            conn.busy = busy;
            conn.touched = self.last;
        }
    }

    /// Connections that wait for nothing.
    pub fn idle(&self) -> Vec<ConnId> {
        let idle = self.all.iter().filter(|(_, conn)| conn.busy.is_none());
        idle.map(|(id, _)| *id).collect()
    }

    /// Of the address with most connections, the one that is idle for the longest time: whoever
    /// floods us pays for the flood.
    pub fn oldest_idle_of_most(&self) -> Option<ConnId> {
        let idle = self.all.iter().filter(|(_, conn)| conn.busy.is_none());
        let rank = |conn: &Conn| {
            let most = self.of.get(&conn.peer).copied().unwrap_or_default();
            (std::cmp::Reverse(most), conn.touched)
        };
        idle.min_by_key(|(_, conn)| rank(conn)).map(|(id, _)| *id)
    }
}
