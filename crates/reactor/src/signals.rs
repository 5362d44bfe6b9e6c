//! Signals, through a socket pair that the handler writes to.

use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts;
use signal_hook::low_level::{pipe, unregister};
use signal_hook::{SigId, flag};

use crate::event::Signal;

/// The signals that are watched. Dropping it ends that; the handlers themselves stay and do
/// nothing.
#[derive(Debug)]
pub(crate) struct Signals {
    reader: UnixStream,
    writer: StdStream,
    watches: Vec<Watch>,
}

/// What a watched signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// SIGCHLD: some child may have ended.
    Child,
    /// To be told to the application.
    User(Signal),
}

#[derive(Debug)]
struct Watch {
    what: Watched,
    raised: Arc<AtomicBool>,
    ids: Vec<SigId>,
}

impl Signals {
    pub fn new(registry: &Registry, token: Token) -> io::Result<Signals> {
        let (reader, writer) = StdStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let mut reader = UnixStream::from_std(reader);
        registry.register(&mut reader, token, Interest::READABLE)?;
        Ok(Signals {
            reader,
            writer,
            watches: Vec::new(),
        })
    }

    pub fn watch(&mut self, what: Watched) -> io::Result<()> {
        if self.watches.iter().any(|watch| watch.what == what) {
            return Ok(());
        }
        let number = match what {
            Watched::Child => consts::SIGCHLD,
            Watched::User(Signal::Hup) => consts::SIGHUP,
            Watched::User(Signal::Int) => consts::SIGINT,
            Watched::User(Signal::Term) => consts::SIGTERM,
            Watched::User(Signal::Usr1) => consts::SIGUSR1,
        };
        let raised = Arc::new(AtomicBool::new(false));
        // Both are kept even if the second fails, so that the first is taken back on drop. The
        // flag is set before the wake-up is written: handlers run in this order.
        let mut ids = vec![flag::register(number, raised.clone())?];
        let piped = self
            .writer
            .try_clone()
            .and_then(|writer| pipe::register(number, writer));
        let result = piped.map(|id| ids.push(id));
        self.watches.push(Watch { what, raised, ids });
        result
    }

    /// What was raised since the last call.
    pub fn take(&mut self) -> Vec<Watched> {
        let mut buffer = [0; 64];
        loop {
            match self.reader.read(&mut buffer) {
                Ok(read) if read > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        let raised = self
            .watches
            .iter()
            .filter(|w| w.raised.swap(false, Ordering::SeqCst));
        raised.map(|watch| watch.what).collect()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.watches.iter().flat_map(|watch| &watch.ids) {
            unregister(*id);
        }
    }
}
