//! `UPM_LOG=error|warn|info|debug|trace`: the engine's own events to journald, for finding faults in the engine.
//!
//! Never audit: an event that journald does not take at once is dropped, for the engine that waited would keep no deadline.

use crate::audit::journald::Journald;
use crate::audit::sinks::JOURNALD_SOCKET;
use crate::config;
use crate::report::complain;
use crate::text::shorten;
use std::fmt::Debug;
use std::path::Path;
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

/// Attaches journald where `UPM_LOG` asks for events; without the variable nothing is set up and events cost nothing.
pub fn start() {
    let Ok(wanted) = std::env::var("UPM_LOG") else { return };
    let Ok(level) = wanted.parse::<LevelFilter>() else {
        complain(format_args!("UPM_LOG={}: expected off, error, warn, info, debug or trace", shorten(&wanted, 80)));
        return;
    };
    let check = |path: &Path| config::check_trusted(path).map(drop).map_err(|error| error.to_string());
    match Journald::connect_checked(Path::new(JOURNALD_SOCKET), check) {
        Ok(journald) => {
            let layer = Events(journald).with_filter(level);
            if let Err(error) = tracing::subscriber::set_global_default(Registry::default().with(layer)) {
                complain(format_args!("UPM_LOG: {error}"));
            }
        }
        Err(error) => complain(format_args!("UPM_LOG: journald cannot be reached: {}", error.reason)),
    }
}

struct Events(Journald);

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // LOG_ERR to LOG_DEBUG of syslog(3)
        let priority = match *event.metadata().level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        let mut fields = Fields(Vec::new());
        for (name, value) in
            [("SYSLOG_IDENTIFIER", "upm-diagnostics"), ("PRIORITY", priority), ("TARGET", event.metadata().target())]
        {
            fields.0.push((name.to_owned(), value.to_owned()));
        }
        event.record(&mut fields);
        // Not taken at once: dropped.
        drop(self.0.send(&fields.0, Instant::now()));
    }
}

/// An event's fields with the names that tracing's own layer for journald gives them.
struct Fields(Vec<(String, String)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let name = match field.name() {
            "message" => "MESSAGE".to_owned(),
            name => format!("F_{}", name.to_ascii_uppercase()),
        };
        self.0.push((name, value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
