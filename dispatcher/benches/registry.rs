//! What the registry costs with 100, 1,000, 10,000 and 50,000 agents, and how that grows: the
//! exponent is 0 for what does not depend on their number, 1 for what grows with it.
//!
//! `cargo bench -p ctrl-exec-dispatcher --bench registry`
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

use ctrl_exec_dispatcher::fleet::select::{Selection, TagFilter};
use ctrl_exec_dispatcher::model::AgentRecord;
use ctrl_exec_dispatcher::store::files::registry::Registry;
use ctrl_exec_protocol::time::Utc;
use std::time::{Duration, Instant};

const SIZES: [usize; 4] = [100, 1_000, 10_000, 50_000];
/// The best of so many.
const TRIES: usize = 5;

fn main() {
    let dir = std::env::temp_dir().join(format!("ctrl-exec-registry-{}", std::process::id()));
    let mut rows: Vec<(&str, Vec<Duration>)> = Vec::new();
    let mut made = 0;
    let registry = Registry::new(dir.join("agents"));
    std::fs::create_dir_all(registry.dir()).unwrap();
    for size in SIZES {
        for n in made..size {
            let name = format!("r{n:05}");
            let tags = if n % (size / 5) == 0 { "x" } else { "y" };
            let json = format!(
                r#"{{"hostname":"{name}","ip":"10.0.0.1","port":7443,"lookup_by":"ip","paired":"2026-11-22T13:32:16Z","expiry":"Feb 24 13:32:16 2029 GMT","reqid":"d8e1eeea3bf5ffd8","tags":{{"site":"{tags}{size}"}},"dispatcher_serial":"4a0f0aa8192d6f9f68d4c35f2440a478","serial_status":"current"}}"#
            );
            std::fs::write(registry.dir().join(format!("{name}.json")), json).unwrap();
        }
        made = size;
        std::thread::sleep(Duration::from_millis(200));
        let filter = TagFilter::parse(&format!("site=x{size}")).unwrap();
        let select = || {
            let selection = Selection {
                tags: Some(filter.clone()),
                ..Selection::default()
            };
            assert!(!selection.words(&registry).unwrap().is_empty());
        };
        let name = format!("r{:05}", size / 2);
        let names = registry.names().unwrap();
        let mut change = 0;
        let mut all = |registry: &Registry| {
            change += 1;
            let confirm = |record: &mut AgentRecord| {
                record.confirm_serial(&format!("4a{change}"), Utc::now());
                true
            };
            registry.update_many(&names, confirm).unwrap();
        };
        let mut add = |what: &'static str, work: &mut dyn FnMut()| {
            let best = (0..TRIES)
                .map(|_| {
                    let began = Instant::now();
                    work();
                    began.elapsed()
                })
                .min()
                .unwrap();
            match rows.iter_mut().find(|(row, _)| *row == what) {
                Some((_, times)) => times.push(best),
                None => rows.push((what, vec![best])),
            }
        };
        add("one record", &mut || {
            registry.load(&name).unwrap();
        });
        add("select by tag", &mut || select());
        add("all records", &mut || {
            registry.list().unwrap();
        });
        add("write all", &mut || all(&registry));
    }
    println!(
        "{:<16}{:>12}{:>12}{:>12}{:>12}  exponent",
        "", 100, "1,000", "10,000", "50,000"
    );
    for (what, times) in rows {
        let cells: String = times
            .iter()
            .map(|time| format!("{:>9.2} ms", time.as_secs_f64() * 1e3))
            .collect();
        let (small, large) = (times[1].as_secs_f64(), times[3].as_secs_f64());
        let exponent = (large / small).ln() / (SIZES[3] as f64 / SIZES[1] as f64).ln();
        println!("{what:<16}{cells}  {exponent:.2}");
    }
    let _ = std::fs::remove_dir_all(dir);
}
