//! How many descriptors a program may have.

/// Thousands of connections and locks need as many descriptors; soft limits are often 1,024. Root
/// may go beyond the hard limit, others up to it.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 1 << 20;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= WANTED) {
        return;
    }
    let wanted = Rlimit {
        current: Some(WANTED),
        maximum: limit.maximum.map(|max| max.max(WANTED)),
    };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        // Staying with the old limit is no reason to stop; what needs more will say so.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        );
    }
}
